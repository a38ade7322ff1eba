//! Metrics of requests: by edge where this node's workload asks, by workload and port where it answers.

use std::borrow::Cow;
use std::fmt;

use agent_ebpf::abi::{AppProtocol, Direction, LookupStatus};

use super::sheet::{Kind, Label, Metric, Sheet, label};
use crate::flows::requests::RequestRow;
use crate::flows::{Distribution, RequestView, split_service_name};

const CLIENT: Metric = Metric::histogram(
    "http_client_request_duration_seconds",
    &[
        "src_namespace",
        "src_workload",
        "dst_namespace",
        "dst_service",
        "dst_port",
        "dst_version",
        "http_request_method",
        "http_response_status_code",
        "network_protocol_name",
        "network_protocol_version",
    ],
    "Requests that workloads of this node made to services: time from the first byte of a request to the first byte of its answer.",
);
const SERVER: Metric = Metric::histogram(
    "http_server_request_duration_seconds",
    &[
        "dst_namespace",
        "dst_workload",
        "dst_port",
        "http_request_method",
        "http_response_status_code",
        "network_protocol_name",
        "network_protocol_version",
    ],
    "Requests that workloads of this node answered: time from the first byte of a request to the first byte of its answer.",
);
const LOOKUPS: Metric = Metric::histogram(
    "dns_lookup_duration_seconds",
    &[
        "src_namespace",
        "src_workload",
        "dst_namespace",
        "dst_service",
        "dst_port",
        "dst_version",
        "qtype",
        "rcode",
        "error_type",
    ],
    "DNS lookups of workloads of this node, by type and outcome: time from the question to its answer, or until it was repeated or given up (rcode no_answer). Where the server is no service, dst_service is dns:53.",
);
const LOOKUPS_SERVED: Metric = Metric::histogram(
    "segue_dns_server_lookup_duration_seconds",
    &["dst_namespace", "dst_workload", "dst_port", "qtype", "rcode", "error_type"],
    "DNS lookups that workloads of this node answered on port 53, by type and outcome: time from the question to its answer.",
);
const CALLS: Metric = Metric::histogram(
    "rpc_client_call_duration_seconds",
    &[
        "src_namespace",
        "src_workload",
        "dst_namespace",
        "dst_service",
        "dst_port",
        "dst_version",
        "rpc_response_status_code",
        "rpc_system_name",
    ],
    "Calls of gRPC that workloads of this node made to services: time from the first byte of a call to the first byte of its trailers.",
);
const CALLS_ANSWERED: Metric = Metric::histogram(
    "rpc_server_call_duration_seconds",
    &["dst_namespace", "dst_workload", "dst_port", "rpc_response_status_code", "rpc_system_name"],
    "Calls of gRPC that workloads of this node answered: time from the first byte of a call to the first byte of its trailers.",
);
const DB_CLIENT: Metric = Metric::histogram(
    "db_client_operation_duration_seconds",
    &[
        "src_namespace",
        "src_workload",
        "dst_namespace",
        "dst_service",
        "dst_port",
        "dst_version",
        "db_operation_name",
        "db_response_status_code",
        "db_system_name",
    ],
    "Operations of databases and caches that workloads of this node asked services for: time from the first byte of a request to the first byte of its answer.",
);
const DB_SERVER: Metric = Metric::histogram(
    "segue_db_server_operation_duration_seconds",
    &[
        "dst_namespace",
        "dst_workload",
        "dst_port",
        "db_operation_name",
        "db_response_status_code",
        "db_system_name",
    ],
    "Operations that databases and caches of this node answered: time from the first byte of a request to the first byte of its answer.",
);
const MESSAGING_CLIENT: Metric = Metric::histogram(
    "messaging_client_operation_duration_seconds",
    &[
        "src_namespace",
        "src_workload",
        "dst_namespace",
        "dst_service",
        "dst_port",
        "dst_version",
        "messaging_operation_name",
        "messaging_system",
    ],
    "Requests to brokers of messages that workloads of this node made to services: time from the first byte of a request to the first byte of its answer. Some wait by design, as Fetch of Kafka does.",
);
const MESSAGING_SERVER: Metric = Metric::histogram(
    "segue_messaging_server_operation_duration_seconds",
    &["dst_namespace", "dst_workload", "dst_port", "messaging_operation_name", "messaging_system"],
    "Requests that brokers of this node answered: time from the first byte of a request to the first byte of its answer.",
);
const UNPARSED: Metric = Metric::counter(
    "segue_l7_unparsed_total",
    &["reason"],
    "Connections on which something was not counted as a request, by reason: other_protocol, joined (followed from the next request on), pipelined, malformed, upgraded, opaque (TLS or compression), gap (of HTTP/2 each time something was not seen), table_full, no_memory, too_many_streams (each one). Where TLS is read, http2_in_tls and no_socket (OpenSSL without a socket). Of DNS by UDP, datagrams; and crowded, unasked.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[
    &CLIENT,
    &SERVER,
    &CALLS,
    &CALLS_ANSWERED,
    &DB_CLIENT,
    &DB_SERVER,
    &MESSAGING_CLIENT,
    &MESSAGING_SERVER,
    &LOOKUPS,
    &LOOKUPS_SERVED,
    &UNPARSED,
];

/// Whose requests they are, as labels.
fn labels(view: &RequestView) -> Vec<Label<'_>> {
    if view.overflow {
        return vec![label("otel_metric_overflow", "true")];
    }
    let port = ("dst_port", Cow::Owned(view.port.to_string()));
    if view.direction == Direction::Inbound {
        return vec![
            label("dst_namespace", &view.workload.namespace),
            label("dst_workload", &view.workload.name),
            port,
        ];
    }
    let (namespace, service) = split_service_name(&view.service);
    vec![
        label("src_namespace", &view.workload.namespace),
        label("src_workload", &view.workload.name),
        label("dst_namespace", namespace),
        label("dst_service", service),
        port,
        label("dst_version", view.version.as_deref().unwrap_or_default()),
    ]
}

/// How the requests of a protocol are told.
struct Family {
    protocol: AppProtocol,
    client: &'static Metric,
    server: &'static Metric,
    /// The label that says what was asked for, where the metric has one.
    operation: Option<&'static str>,
    /// The same of what was answered; `None` where the protocol has no status that is read.
    status: Option<&'static str>,
    /// What is the same for all of them.
    constant: &'static [(&'static str, &'static str)],
}

/// One for each protocol that is understood. Several may write the same metrics; then something constant tells them apart.
const FAMILIES: &[Family] = &[
    Family {
        protocol: AppProtocol::Http1,
        client: &CLIENT,
        server: &SERVER,
        operation: Some("http_request_method"),
        status: Some("http_response_status_code"),
        constant: &[("network_protocol_name", "http"), ("network_protocol_version", "1")],
    },
    Family {
        protocol: AppProtocol::Http2,
        client: &CLIENT,
        server: &SERVER,
        operation: Some("http_request_method"),
        status: Some("http_response_status_code"),
        constant: &[("network_protocol_name", "http"), ("network_protocol_version", "2")],
    },
    Family {
        protocol: AppProtocol::Grpc,
        client: &CALLS,
        server: &CALLS_ANSWERED,
        // Each call is a POST.
        operation: None,
        status: Some("rpc_response_status_code"),
        constant: &[("rpc_system_name", "grpc")],
    },
    Family {
        protocol: AppProtocol::Dns,
        client: &LOOKUPS,
        server: &LOOKUPS_SERVED,
        operation: Some("qtype"),
        status: Some("rcode"),
        constant: &[],
    },
    database(AppProtocol::Redis, &[("db_system_name", "redis")]),
    database(AppProtocol::Postgresql, &[("db_system_name", "postgresql")]),
    database(AppProtocol::Mysql, &[("db_system_name", "mysql")]),
    Family {
        protocol: AppProtocol::Kafka,
        client: &MESSAGING_CLIENT,
        server: &MESSAGING_SERVER,
        operation: Some("messaging_operation_name"),
        status: None,
        constant: &[("messaging_system", "kafka")],
    },
];

/// What OpenTelemetry calls the error of a request, in the protocols whose metrics have it; empty where there was none.
fn error_type(protocol: AppProtocol, row: &RequestRow) -> Option<Cow<'static, str>> {
    let is_fine = row.status == LookupStatus::NoError as u16;
    (protocol == AppProtocol::Dns).then(|| match is_fine {
        true => Cow::Borrowed(""),
        false => Cow::Owned(row.status_name(protocol)),
    })
}

const fn database(protocol: AppProtocol, system: &'static [(&'static str, &'static str)]) -> Family {
    let (operation, status) = (Some("db_operation_name"), Some("db_response_status_code"));
    Family { protocol, client: &DB_CLIENT, server: &DB_SERVER, operation, status, constant: system }
}

impl Family {
    /// Whether these are told here. The sum beyond the limit, which is of no protocol, is told with the first.
    fn tells(&self, view: &RequestView) -> bool {
        self.protocol == view.requests.protocol || view.overflow && self.protocol == AppProtocol::Http1
    }

    fn rows<'a>(&'a self, view: &'a RequestView) -> impl Iterator<Item = (Vec<Label<'a>>, Distribution)> {
        view.requests.rows.iter().map(move |row| {
            let mut labels = labels(view);
            if !view.overflow {
                let operation = row.operation_name(self.protocol);
                labels.extend(self.operation.map(|name| label(name, operation)));
                labels.extend(self.status.map(|name| (name, Cow::Owned(row.status_name(self.protocol)))));
                labels.extend(error_type(self.protocol, row).map(|error| ("error_type", error)));
                labels.extend(self.constant.iter().map(|(name, value)| label(name, value)));
            }
            (labels, Distribution::from(row.duration))
        })
    }
}

/// Writes the durations.
pub(super) fn write(sheet: &mut Sheet<'_>, views: &[RequestView]) -> fmt::Result {
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let mut rows = Vec::new();
        for (family, view) in FAMILIES.iter().flat_map(|family| views.iter().map(move |view| (family, view)))
        {
            let of_side = if view.direction == Direction::Outbound { family.client } else { family.server };
            if of_side.name == metric.name && family.tells(view) {
                rows.extend(family.rows(view));
            }
        }
        sheet.histogram(metric, rows.iter().map(|(labels, duration)| (labels.clone(), duration)))?;
    }
    Ok(())
}

/// Writes what was not counted.
pub(super) fn write_unparsed(sheet: &mut Sheet<'_>, unparsed: &[(&'static str, u64)]) -> fmt::Result {
    sheet.counter(&UNPARSED, unparsed.iter().map(|&(reason, count)| (vec![label("reason", reason)], count)))
}
