//! Metrics of requests: by edge where this node's workload asks, by workload and port where it answers.

use std::borrow::Cow;
use std::fmt;

use agent_ebpf::abi::{AppProtocol, Direction};

use super::sheet::{Label, Metric, Sheet, label};
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
const UNPARSED: Metric = Metric::counter(
    "segue_l7_unparsed_total",
    &["reason"],
    "Connections on which something was not counted as a request, by reason: other_protocol, joined (followed from the next request on), pipelined, malformed, upgraded, table_full, no_memory.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&CLIENT, &SERVER, &UNPARSED];
/// Those of them that say how long requests took.
const DURATIONS: &[&Metric] = &[&CLIENT, &SERVER];

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
    operation: &'static str,
    status: &'static str,
    /// What is the same for all of them.
    constant: &'static [(&'static str, &'static str)],
}

/// One for each protocol that is understood. Several may write the same metrics; then something constant tells them apart.
const FAMILIES: &[Family] = &[Family {
    protocol: AppProtocol::Http1,
    client: &CLIENT,
    server: &SERVER,
    operation: "http_request_method",
    status: "http_response_status_code",
    constant: &[("network_protocol_name", "http"), ("network_protocol_version", "1")],
}];

impl Family {
    /// Whether these are told here. The sum beyond the limit, which is of no protocol, is told with the first.
    fn tells(&self, view: &RequestView) -> bool {
        self.protocol == view.requests.protocol || view.overflow && self.protocol == AppProtocol::Http1
    }

    fn rows<'a>(&'a self, view: &'a RequestView) -> impl Iterator<Item = (Vec<Label<'a>>, Distribution)> {
        view.requests.rows.iter().map(move |row| {
            let mut labels = labels(view);
            if !view.overflow {
                labels.push(label(self.operation, row.operation_name(self.protocol)));
                labels.push((self.status, Cow::Owned(row.status_name(self.protocol))));
                labels.extend(self.constant.iter().map(|(name, value)| label(name, value)));
            }
            (labels, Distribution::from(row.duration))
        })
    }
}

/// Writes the durations.
pub(super) fn write(sheet: &mut Sheet<'_>, views: &[RequestView]) -> fmt::Result {
    for metric in DURATIONS {
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
