//! How is the way between: from one workload to the services it uses.

use super::{Choice, Dashboard, Panel, Row, Unit, View, column, query};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "edge",
    title: "Segue / Edge",
    says: "From a client to a service: handshakes, round trips, losses and resets. For who asks whether it is the network.",
    choices: &[Choice::Namespace, Choice::Services, Choice::Workload],
    rows: &[
        Row {
            title: "Edges",
            panels: &[Panel {
                title: "Edges",
                says: "One line for each client and service.",
                view: View::Table,
                unit: Unit::Count,
                width: 24,
                queries: &[
                    column(
                        "sum by (src_workload, dst_namespace, dst_service) (rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval]))",
                        "Connections",
                        Unit::PerSecond,
                    ),
                    column(
                        "sum by (src_workload, dst_namespace, dst_service) (rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval]))",
                        "Failures",
                        Unit::PerSecond,
                    ),
                    column(
                        "histogram_quantile(0.99, sum by (le, src_workload, dst_namespace, dst_service) \
                         (rate(segue_tcp_rtt_seconds_bucket{@edge}[$__rate_interval])))",
                        "Round trip, p99",
                        Unit::Seconds,
                    ),
                    column(
                        "sum by (src_workload, dst_namespace, dst_service) (rate(segue_tcp_retransmits_total{@edge}[$__rate_interval]))",
                        "Retransmits",
                        Unit::PerSecond,
                    ),
                    column(
                        "sum by (src_workload, dst_namespace, dst_service) (rate(segue_tcp_received_bytes_total{@edge}[$__rate_interval]))",
                        "Received",
                        Unit::BytesPerSecond,
                    ),
                ],
                marks: &[],
            }],
        },
        Row {
            title: "Handshakes",
            panels: &[
                Panel {
                    title: "Connect time",
                    says: "How many handshakes took how long.",
                    view: View::Heat,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query(
                        "sum by (le) (increase(segue_tcp_connect_duration_seconds_bucket{@edge, outcome=\"ok\"}[$__rate_interval]))",
                        "{{le}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Time to a failure, 99th percentile",
                    says: "From connect() to the failure: how long a client waits to learn that there is no connection.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 12,
                    queries: &[query(
                        "histogram_quantile(0.99, sum by (le, dst_service) \
                         (rate(segue_tcp_connect_duration_seconds_bucket{@edge, outcome=\"failed\"}[$__rate_interval])))",
                        "{{dst_service}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Opened and failed",
                    says: "Attempts a second by what became of them.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[
                        query(
                            "sum(rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval]))",
                            "opened",
                        ),
                        query(
                            "sum by (reason) (rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval]))",
                            "{{reason}}",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Open connections",
                    says: "Connections open now, by client and service.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query(
                        "sum by (src_workload, dst_service) (segue_tcp_connections_active{@edge})",
                        "{{src_workload}} to {{dst_service}}",
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Names",
            panels: &[
                Panel {
                    title: "DNS lookups",
                    says: "Lookups a second by how they ended. dns:53 stands for servers of names that are no service.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (dst_service, rcode) (rate(dns_lookup_duration_seconds_count{@edge}[$__rate_interval]))",
                        "{{dst_service}} {{rcode}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "DNS lookup time, 99th percentile",
                    says: "From the question to its answer, or until it was repeated or given up, by type.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 8,
                    queries: &[query(
                        "histogram_quantile(0.99, sum by (le, qtype) (rate(dns_lookup_duration_seconds_bucket{@edge}[$__rate_interval])))",
                        "{{qtype}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "DNS answers of servers here",
                    says: "Lookups a second that workloads of these nodes answered, by how they ended.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (dst_workload, rcode) (rate(segue_dns_server_lookup_duration_seconds_count{@node}[$__rate_interval]))",
                        "{{dst_workload}} {{rcode}}",
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "On the wire",
            panels: &[
                Panel {
                    title: "Round-trip time",
                    says: "The smoothed round-trip time of TCP, sampled when a connection ends and while it is open.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 12,
                    queries: &[
                        query(
                            "histogram_quantile(0.5, sum by (le) (rate(segue_tcp_rtt_seconds_bucket{@edge}[$__rate_interval])))",
                            "half",
                        ),
                        query(
                            "histogram_quantile(0.99, sum by (le) (rate(segue_tcp_rtt_seconds_bucket{@edge}[$__rate_interval])))",
                            "99 %",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Retransmits",
                    says: "TCP segments sent again a second.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (src_workload, dst_service) (rate(segue_tcp_retransmits_total{@edge}[$__rate_interval]))",
                        "{{src_workload}} to {{dst_service}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Resets",
                    says: "Established connections ended by a reset, by the side that sent it: local is the client.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (origin) (rate(segue_tcp_resets_total{@edge}[$__rate_interval]))",
                        "{{origin}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Bytes",
                    says: "Payload sent and received by the clients.",
                    view: View::Lines,
                    unit: Unit::BytesPerSecond,
                    width: 12,
                    queries: &[
                        query("sum(rate(segue_tcp_sent_bytes_total{@edge}[$__rate_interval]))", "sent"),
                        query(
                            "sum(rate(segue_tcp_received_bytes_total{@edge}[$__rate_interval]))",
                            "received",
                        ),
                    ],
                    marks: &[],
                },
            ],
        },
    ],
};
