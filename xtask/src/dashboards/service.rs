//! How is one service: who uses it, what they meet, and what Segue does about it.

use super::{Choice, Dashboard, Mark, Panel, Row, Unit, View, query};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "service",
    title: "Segue / Service",
    says: "One service: its clients, its failures, its latency, its backends and limits.",
    choices: &[Choice::Namespace, Choice::OneService],
    rows: &[
        Row {
            title: "Traffic",
            panels: &[
                Panel {
                    title: "Connections by client",
                    says: "Connections established a second, by workload.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (src_workload) (rate(segue_tcp_connections_opened_total{@service}[$__rate_interval]))",
                        "{{src_workload}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Failed",
                    says: "The part of the attempts that did not become a connection.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 12,
                    queries: &[query(
                        "sum(rate(segue_tcp_connect_failures_total{@service}[$__rate_interval])) / \
                         (sum(rate(segue_tcp_connect_failures_total{@service}[$__rate_interval])) + \
                         sum(rate(segue_tcp_connections_opened_total{@service}[$__rate_interval])))",
                        "failed",
                    )],
                    marks: &[(0.01, Mark::Warning), (0.05, Mark::Bad)],
                },
                Panel {
                    title: "Failures by reason",
                    says: "Attempts that did not become a connection, by reason.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (reason) (rate(segue_tcp_connect_failures_total{@service}[$__rate_interval]))",
                        "{{reason}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "How connections end",
                    says: "Established connections that ended, by reason. `rst_remote`: the backend reset them. `drained`: Segue did, \
                           since their backend was out for as long as the policy allows.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (reason) (rate(segue_tcp_connections_closed_total{@service}[$__rate_interval]))",
                        "{{reason}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Connect time",
                    says: "From connect() to the end of the handshake.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 12,
                    queries: &[
                        query(
                            "histogram_quantile(0.5, sum by (le) \
                             (rate(segue_tcp_connect_duration_seconds_bucket{@service, outcome=\"ok\"}[$__rate_interval])))",
                            "half",
                        ),
                        query(
                            "histogram_quantile(0.95, sum by (le) \
                             (rate(segue_tcp_connect_duration_seconds_bucket{@service, outcome=\"ok\"}[$__rate_interval])))",
                            "95 %",
                        ),
                        query(
                            "histogram_quantile(0.99, sum by (le) \
                             (rate(segue_tcp_connect_duration_seconds_bucket{@service, outcome=\"ok\"}[$__rate_interval])))",
                            "99 %",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Bytes",
                    says: "Payload to and from the backends.",
                    view: View::Lines,
                    unit: Unit::BytesPerSecond,
                    width: 12,
                    queries: &[
                        query(
                            "sum(rate(segue_tcp_sent_bytes_total{@service}[$__rate_interval]))",
                            "to the backends",
                        ),
                        query(
                            "sum(rate(segue_tcp_received_bytes_total{@service}[$__rate_interval]))",
                            "from the backends",
                        ),
                    ],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Requests",
            panels: &[
                Panel {
                    title: "Requests by status",
                    says: "HTTP requests a second, by status, as the clients saw them.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (http_response_status_code) (rate(http_client_request_duration_seconds_count{@service}[$__rate_interval]))",
                        "{{http_response_status_code}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Requests failed",
                    says: "The part of the requests that was answered with 500 or more, by client.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 12,
                    queries: &[query(
                        "sum by (src_workload) \
                         (rate(http_client_request_duration_seconds_count{@service, http_response_status_code=~\"5..\"}[$__rate_interval])) / \
                         sum by (src_workload) (rate(http_client_request_duration_seconds_count{@service}[$__rate_interval]))",
                        "{{src_workload}}",
                    )],
                    marks: &[(0.01, Mark::Warning), (0.05, Mark::Bad)],
                },
                Panel {
                    title: "Request time",
                    says: "From the first byte of a request to the first byte of its answer.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 12,
                    queries: &[
                        query(
                            "histogram_quantile(0.5, sum by (le) \
                             (rate(http_client_request_duration_seconds_bucket{@service}[$__rate_interval])))",
                            "half",
                        ),
                        query(
                            "histogram_quantile(0.95, sum by (le) \
                             (rate(http_client_request_duration_seconds_bucket{@service}[$__rate_interval])))",
                            "95 %",
                        ),
                        query(
                            "histogram_quantile(0.99, sum by (le) \
                             (rate(http_client_request_duration_seconds_bucket{@service}[$__rate_interval])))",
                            "99 %",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Requests by method",
                    says: "HTTP requests a second, by method.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (http_request_method) (rate(http_client_request_duration_seconds_count{@service}[$__rate_interval]))",
                        "{{http_request_method}}",
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Calls of gRPC",
            panels: &[
                Panel {
                    title: "Calls by status",
                    says: "Calls of gRPC a second, by status, as the clients saw them.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (rpc_response_status_code) (rate(rpc_client_call_duration_seconds_count{@service}[$__rate_interval]))",
                        "{{rpc_response_status_code}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Call time",
                    says: "From the first byte of a call to its trailers.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 12,
                    queries: &[
                        query(
                            "histogram_quantile(0.5, sum by (le) \
                             (rate(rpc_client_call_duration_seconds_bucket{@service}[$__rate_interval])))",
                            "half",
                        ),
                        query(
                            "histogram_quantile(0.99, sum by (le) \
                             (rate(rpc_client_call_duration_seconds_bucket{@service}[$__rate_interval])))",
                            "99 %",
                        ),
                    ],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Balancing",
            panels: &[
                Panel {
                    title: "What became of connects",
                    says: "selected by the algorithm, affine, panicked (an ejected backend, because too few were healthy), fallback, \
                           no_backend (refused), limited (refused), passed (untouched).",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (outcome) (rate(segue_lb_selections_total{@service}[$__rate_interval]))",
                        "{{outcome}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Connections by version",
                    says: "Connections established a second, by the version of the backend.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (dst_version) (rate(segue_tcp_connections_opened_total{@service}[$__rate_interval]))",
                        "{{dst_version}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Out of the zone",
                    says: "For a service that prefers the node's zone: the part of its connections that went to another.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 12,
                    queries: &[query(
                        "sum(rate(segue_lb_zone_selections_total{@service, zone=\"overflow\"}[$__rate_interval])) / \
                         sum(rate(segue_lb_zone_selections_total{@service}[$__rate_interval]))",
                        "overflow",
                    )],
                    marks: &[(0.5, Mark::Warning)],
                },
                Panel {
                    title: "Backends by what their breaker says",
                    says: "Added over the nodes: each has its own breakers.",
                    view: View::Stack,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query("sum by (state) (segue_breaker_backends{@service})", "{{state}}")],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Limits and open connections",
            panels: &[
                Panel {
                    title: "Open connections",
                    says: "Connections open now, by node.",
                    view: View::Stack,
                    unit: Unit::Count,
                    width: 8,
                    queries: &[query(
                        "sum by (instance) (segue_tcp_connections_active{@service})",
                        "{{instance}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Used of each limit",
                    says: "The node that is nearest to it. Only limits that are set.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 8,
                    queries: &[query(
                        "max by (limit) (segue_limit_used{@service} / (segue_limit_allowed{@service} > 0))",
                        "{{limit}}",
                    )],
                    marks: &[(0.8, Mark::Warning), (1.0, Mark::Bad)],
                },
                Panel {
                    title: "Limits reached",
                    says: "Times a limit was reached: of a backend's, times the next was asked; of the others, connections refused.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (limit) (rate(segue_limit_reached_total{@service}[$__rate_interval]))",
                        "{{limit}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Reset because the backend was out",
                    says: "Open connections that Segue reset, by why their backend was out.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (reason) (rate(segue_connections_reset_total{@service}[$__rate_interval]))",
                        "{{reason}}",
                    )],
                    marks: &[],
                },
            ],
        },
    ],
};
