//! What Segue holds back and what it tries out: breakers, fallbacks, canaries.

use super::{Choice, Dashboard, Mark, Panel, Row, Unit, View, query};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "breaker",
    title: "Segue / Breakers and canaries",
    says: "Which backends are held back and what that spares, and how versions that are tried out do.",
    choices: &[Choice::Namespace, Choice::Services],
    rows: &[
        Row {
            title: "Circuit breakers",
            panels: &[
                Panel {
                    title: "Held back",
                    says: "Backends whose breaker is open, half open, or that are ordered out, by service. Each node has its own breakers.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query(
                        "sum by (dst_namespace, dst_service, state) \
                         (segue_breaker_backends{@service, state=~\"open|half_open|forced_open\"})",
                        "{{dst_namespace}}/{{dst_service}} {{state}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Changes of state",
                    says: "How often breakers changed to each state in the last minutes. Open and closed in turn: a backend that flaps.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query(
                        "sum by (to) (increase(segue_breaker_transitions_total{@service}[$__rate_interval]))",
                        "{{to}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Spared",
                    says: "Times a breaker refused a connection and another backend was asked, and times a client was kept away from the \
                           backend it had just failed on: failures that did not happen.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[
                        query(
                            "sum(rate(segue_breaker_avoided_total{@service}[$__rate_interval]))",
                            "avoided",
                        ),
                        query(
                            "sum(rate(segue_breaker_kept_away_total{@service}[$__rate_interval]))",
                            "kept away",
                        ),
                        query(
                            "sum(rate(segue_breaker_would_avoid_total{@service}[$__rate_interval]))",
                            "would be avoided (mode observe)",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Probes, and breakers that could not open",
                    says: "Connections admitted as probes. `capped`: a breaker would have opened if one more backend of its service might \
                           be ejected: most of the service fails.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[
                        query("sum(rate(segue_breaker_probe_total{@service}[$__rate_interval]))", "probes"),
                        query("sum(rate(segue_breaker_capped_total{@service}[$__rate_interval]))", "capped"),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "When too little is left",
                    says: "Connections that were given an ejected backend (panicked), went to the fallback service, or were refused.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 24,
                    queries: &[query(
                        "sum by (dst_namespace, dst_service, outcome) \
                         (rate(segue_lb_selections_total{@service, outcome=~\"panicked|fallback|no_backend|limited\"}[$__rate_interval]))",
                        "{{dst_namespace}}/{{dst_service}} {{outcome}}",
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Canaries",
            panels: &[
                Panel {
                    title: "The canary's part",
                    says: "Its part of the connections to its service. Each node decides by what it sees.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 12,
                    queries: &[query(
                        "avg by (dst_namespace, dst_service, version) (segue_rollout_weight_ratio{@service})",
                        "{{dst_namespace}}/{{dst_service}} {{version}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Phase",
                    says: "The part of the nodes on which the canary is in each phase.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 12,
                    queries: &[query(
                        "avg by (dst_namespace, dst_service, phase) (segue_rollout_phase{@service})",
                        "{{dst_namespace}}/{{dst_service}} {{phase}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Failed, by version",
                    says: "The part of the attempts that did not become a connection, by the version they were sent to.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 12,
                    queries: &[query(
                        "sum by (dst_namespace, dst_service, dst_version) \
                         (rate(segue_tcp_connect_failures_total{@service, dst_version!=\"\"}[$__rate_interval])) / \
                         (sum by (dst_namespace, dst_service, dst_version) \
                         (rate(segue_tcp_connect_failures_total{@service, dst_version!=\"\"}[$__rate_interval])) + \
                         sum by (dst_namespace, dst_service, dst_version) \
                         (rate(segue_tcp_connections_opened_total{@service, dst_version!=\"\"}[$__rate_interval])))",
                        "{{dst_namespace}}/{{dst_service}} {{dst_version}}",
                    )],
                    marks: &[(0.01, Mark::Warning), (0.05, Mark::Bad)],
                },
                Panel {
                    title: "Connect time by version, 99th percentile",
                    says: "From connect() to the end of the handshake.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 12,
                    queries: &[query(
                        "histogram_quantile(0.99, sum by (le, dst_namespace, dst_service, dst_version) \
                         (rate(segue_tcp_connect_duration_seconds_bucket{@service, outcome=\"ok\", dst_version!=\"\"}[$__rate_interval])))",
                        "{{dst_namespace}}/{{dst_service}} {{dst_version}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Rolled back, and why",
                    says: "Nodes on which the canary gets no connections now, by reason.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query(
                        "sum by (dst_namespace, dst_service, reason) (segue_rollout_rolled_back{@service})",
                        "{{dst_namespace}}/{{dst_service}} {{reason}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Steps and rollbacks",
                    says: "How often a canary went a step up, got every connection, or was rolled back.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[
                        query(
                            "sum by (to) (increase(segue_rollout_steps_total{@service}[$__rate_interval]))",
                            "{{to}}",
                        ),
                        query(
                            "sum by (reason) (increase(segue_rollout_rollbacks_total{@service}[$__rate_interval]))",
                            "rolled back: {{reason}}",
                        ),
                    ],
                    marks: &[],
                },
            ],
        },
    ],
};
