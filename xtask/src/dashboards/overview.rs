//! How is everything: the first page to open.

use super::{Choice, Dashboard, Mark, Panel, Row, Unit, View, column, query};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "overview",
    title: "Segue / Overview",
    says: "Who talks to which service through Segue, how much of it fails, and what is held back. Start here.",
    choices: &[Choice::Namespace, Choice::Services, Choice::Workload],
    rows: &[
        Row {
            title: "Now",
            panels: &[
                Panel {
                    title: "Connections",
                    says: "Connections established a second, all services chosen above.",
                    view: View::Stat,
                    unit: Unit::PerSecond,
                    width: 4,
                    queries: &[query(
                        "sum(rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval]))",
                        "",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Failed",
                    says: "The part of all attempts that did not become a connection.",
                    view: View::Stat,
                    unit: Unit::Ratio,
                    width: 4,
                    queries: &[query(
                        "sum(rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval])) / \
                         (sum(rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval])) + \
                         sum(rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval])))",
                        "",
                    )],
                    marks: &[(0.01, Mark::Warning), (0.05, Mark::Bad)],
                },
                Panel {
                    title: "Connect time, 99th percentile",
                    says: "From connect() to the end of the handshake.",
                    view: View::Stat,
                    unit: Unit::Seconds,
                    width: 4,
                    queries: &[query(
                        "histogram_quantile(0.99, sum by (le) \
                         (rate(segue_tcp_connect_duration_seconds_bucket{@edge, outcome=\"ok\"}[$__rate_interval])))",
                        "",
                    )],
                    marks: &[(0.1, Mark::Warning), (1.0, Mark::Bad)],
                },
                Panel {
                    title: "Open connections",
                    says: "Connections open now.",
                    view: View::Stat,
                    unit: Unit::Count,
                    width: 4,
                    queries: &[query("sum(segue_tcp_connections_active{@edge})", "")],
                    marks: &[],
                },
                Panel {
                    title: "Backends held back",
                    says: "Backends whose breaker is open or half open, or that are ordered out. Counted on each node.",
                    view: View::Stat,
                    unit: Unit::Count,
                    width: 4,
                    queries: &[query(
                        "sum(segue_breaker_backends{@service, state=~\"open|half_open|forced_open\"})",
                        "",
                    )],
                    marks: &[(1.0, Mark::Warning)],
                },
                Panel {
                    title: "Nodes at work",
                    says: "Nodes on which Segue's own test connection reaches its backend, of all nodes.",
                    view: View::Stat,
                    unit: Unit::Ratio,
                    width: 4,
                    queries: &[query(
                        "sum(segue_canary_reached{@node}) / count(segue_build_info{@node})",
                        "",
                    )],
                    marks: &[(1.0, Mark::Good)],
                },
            ],
        },
        Row {
            title: "Services",
            panels: &[Panel {
                title: "Services",
                says: "One line a service. Its name leads to its own page.",
                view: View::Table,
                unit: Unit::Count,
                width: 24,
                queries: &[
                    column(
                        "sum by (dst_namespace, dst_service) (rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval]))",
                        "Connections",
                        Unit::PerSecond,
                    ),
                    column(
                        "sum by (dst_namespace, dst_service) (rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval])) / \
                         (sum by (dst_namespace, dst_service) (rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval])) + \
                         sum by (dst_namespace, dst_service) (rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval])))",
                        "Failed",
                        Unit::Ratio,
                    ),
                    column(
                        "histogram_quantile(0.99, sum by (le, dst_namespace, dst_service) \
                         (rate(segue_tcp_connect_duration_seconds_bucket{@edge, outcome=\"ok\"}[$__rate_interval])))",
                        "Connect time, p99",
                        Unit::Seconds,
                    ),
                    column(
                        "sum by (dst_namespace, dst_service) (segue_tcp_connections_active{@edge})",
                        "Open",
                        Unit::Count,
                    ),
                    column(
                        "sum by (dst_namespace, dst_service) (rate(segue_tcp_resets_total{@edge, origin=\"remote\"}[$__rate_interval]))",
                        "Reset by the backend",
                        Unit::PerSecond,
                    ),
                    column(
                        "sum by (dst_namespace, dst_service) (rate(http_client_request_duration_seconds_count{@edge}[$__rate_interval]))",
                        "Requests",
                        Unit::PerSecond,
                    ),
                    column(
                        "sum by (dst_namespace, dst_service) \
                         (rate(http_client_request_duration_seconds_count{@edge, http_response_status_code=~\"5..\"}[$__rate_interval])) / \
                         sum by (dst_namespace, dst_service) (rate(http_client_request_duration_seconds_count{@edge}[$__rate_interval]))",
                        "Requests failed (5xx)",
                        Unit::Ratio,
                    ),
                    column(
                        "histogram_quantile(0.99, sum by (le, dst_namespace, dst_service) \
                         (rate(http_client_request_duration_seconds_bucket{@edge}[$__rate_interval])))",
                        "Request time, p99",
                        Unit::Seconds,
                    ),
                    column(
                        "sum by (dst_namespace, dst_service) (segue_breaker_backends{@service, state=~\"open|half_open|forced_open\"})",
                        "Held back",
                        Unit::Count,
                    ),
                ],
                marks: &[],
            }],
        },
        Row {
            title: "Map",
            panels: &[Panel {
                title: "Who talks to whom",
                says: "Workloads and the services they connect to; the numbers are connections a second.",
                view: View::Graph,
                unit: Unit::PerSecond,
                width: 24,
                queries: &[
                    query(
                        "label_replace(label_replace(label_join(sum by (src_namespace, src_workload) \
                         (rate(segue_tcp_connections_opened_total{@edge, src_workload!=\"\"}[$__rate_interval])), \
                         \"id\", \"/\", \"src_namespace\", \"src_workload\"), \
                         \"id\", \"workload $1\", \"id\", \"(.*)\"), \"title\", \"$1\", \"src_workload\", \"(.*)\") or \
                         label_replace(label_replace(label_join(sum by (dst_namespace, dst_service) \
                         (rate(segue_tcp_connections_opened_total{@edge, dst_service!=\"\"}[$__rate_interval])), \
                         \"id\", \"/\", \"dst_namespace\", \"dst_service\"), \
                         \"id\", \"service $1\", \"id\", \"(.*)\"), \"title\", \"$1\", \"dst_service\", \"(.*)\")",
                        "nodes",
                    ),
                    query(
                        "label_join(label_replace(label_join(label_replace(label_join(\
                         sum by (src_namespace, src_workload, dst_namespace, dst_service) \
                         (rate(segue_tcp_connections_opened_total{@edge, dst_service!=\"\"}[$__rate_interval])), \
                         \"source\", \"/\", \"src_namespace\", \"src_workload\"), \
                         \"source\", \"workload $1\", \"source\", \"(.*)\"), \
                         \"target\", \"/\", \"dst_namespace\", \"dst_service\"), \
                         \"target\", \"service $1\", \"target\", \"(.*)\"), \
                         \"id\", \" \", \"source\", \"target\")",
                        "edges",
                    ),
                ],
                marks: &[],
            }],
        },
        Row {
            title: "Requests",
            panels: &[
                Panel {
                    title: "Requests by status",
                    says: "HTTP requests to services a second, by status, as their clients on these nodes saw them.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (http_response_status_code) (rate(http_client_request_duration_seconds_count{@edge}[$__rate_interval]))",
                        "{{http_response_status_code}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Request time by service, 99th percentile",
                    says: "From the first byte of a request to the first byte of its answer.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 8,
                    queries: &[query(
                        "histogram_quantile(0.99, sum by (le, dst_namespace, dst_service) \
                         (rate(http_client_request_duration_seconds_bucket{@edge}[$__rate_interval])))",
                        "{{dst_namespace}}/{{dst_service}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Answered on these nodes",
                    says: "HTTP requests that workloads of these nodes answered, from anywhere, by workload and status.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (dst_workload, http_response_status_code) \
                         (rate(http_server_request_duration_seconds_count{@node}[$__rate_interval]))",
                        "{{dst_workload}} {{http_response_status_code}}",
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
                    says: "Calls of gRPC to services a second, by status, as their clients on these nodes saw them.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (rpc_response_status_code) (rate(rpc_client_call_duration_seconds_count{@edge}[$__rate_interval]))",
                        "{{rpc_response_status_code}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Calls answered on these nodes",
                    says: "Calls of gRPC that workloads of these nodes answered, from anywhere, by workload and status.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (dst_workload, rpc_response_status_code) \
                         (rate(rpc_server_call_duration_seconds_count{@node}[$__rate_interval]))",
                        "{{dst_workload}} {{rpc_response_status_code}}",
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Databases, caches and brokers",
            panels: &[
                Panel {
                    title: "Operations by kind",
                    says: "What clients on these nodes asked databases, caches and brokers for, a second.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 6,
                    queries: &[
                        query(
                            "sum by (db_system_name, db_operation_name) (rate(db_client_operation_duration_seconds_count{@edge}[$__rate_interval]))",
                            "{{db_system_name}} {{db_operation_name}}",
                        ),
                        query(
                            "sum by (messaging_system, messaging_operation_name) \
                             (rate(messaging_client_operation_duration_seconds_count{@edge}[$__rate_interval]))",
                            "{{messaging_system}} {{messaging_operation_name}}",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Errors by service",
                    says: "Answers of databases and caches that were errors, a second, by service and by the protocol's own code.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 6,
                    queries: &[query(
                        "sum by (dst_namespace, dst_service, db_response_status_code) \
                         (rate(db_client_operation_duration_seconds_count{@edge, db_response_status_code!~\"OK|MOVED|ASK|0+\"}[$__rate_interval]))",
                        "{{dst_namespace}}/{{dst_service}} {{db_response_status_code}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Operation time by service, 99th percentile",
                    says: "From the first byte of a request to the first byte of its answer. Brokers are left out: their clients wait for messages by design.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 6,
                    queries: &[query(
                        "histogram_quantile(0.99, sum by (le, dst_namespace, dst_service) \
                         (rate(db_client_operation_duration_seconds_bucket{@edge}[$__rate_interval])))",
                        "{{dst_namespace}}/{{dst_service}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Operations answered on these nodes",
                    says: "What databases, caches and brokers of these nodes answered, from anywhere, by workload.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 6,
                    queries: &[
                        query(
                            "sum by (dst_workload, db_system_name) (rate(segue_db_server_operation_duration_seconds_count{@node}[$__rate_interval]))",
                            "{{dst_workload}} {{db_system_name}}",
                        ),
                        query(
                            "sum by (dst_workload, messaging_system) \
                             (rate(segue_messaging_server_operation_duration_seconds_count{@node}[$__rate_interval]))",
                            "{{dst_workload}} {{messaging_system}}",
                        ),
                    ],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Over time",
            panels: &[
                Panel {
                    title: "Connections by service",
                    says: "Connections established a second.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (dst_namespace, dst_service) (rate(segue_tcp_connections_opened_total{@edge}[$__rate_interval]))",
                        "{{dst_namespace}}/{{dst_service}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Failures by reason",
                    says: "Attempts that did not become a connection. `no_backend` and the limits are refused on this node, before \
                           a packet leaves.",
                    view: View::Stack,
                    unit: Unit::PerSecond,
                    width: 12,
                    queries: &[query(
                        "sum by (reason) (rate(segue_tcp_connect_failures_total{@edge}[$__rate_interval]))",
                        "{{reason}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "What became of connects",
                    says: "Connections to services by what Segue did with them: see the help of segue_lb_selections_total.",
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
                    title: "Backends by state",
                    says: "Backends by whether they take connections, on the node that knows most.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 12,
                    queries: &[query("max by (state) (segue_lb_backends{@node})", "{{state}}")],
                    marks: &[],
                },
            ],
        },
    ],
};
