//! Metrics of requests: by edge where this node's workload asks, by workload and port where it answers.

use std::borrow::Cow;
use std::fmt;

use agent_ebpf::abi::Direction;

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

/// Writes the durations.
pub(super) fn write(sheet: &mut Sheet<'_>, views: &[RequestView]) -> fmt::Result {
    let rows = |direction| {
        views
            .iter()
            .filter(move |view| view.direction == direction)
            .flat_map(|view| {
                view.requests.rows.iter().map(move |row| {
                    let mut labels = labels(view);
                    if !view.overflow {
                        labels.push(label("http_request_method", row.method.name()));
                        labels.push(("http_response_status_code", Cow::Owned(row.status.to_string())));
                        labels.push(label("network_protocol_name", "http"));
                    }
                    (labels, Distribution::from(row.duration))
                })
            })
            .collect::<Vec<_>>()
    };
    for (metric, direction) in [(&CLIENT, Direction::Outbound), (&SERVER, Direction::Inbound)] {
        let rows = rows(direction);
        sheet.histogram(metric, rows.iter().map(|(labels, duration)| (labels.clone(), duration)))?;
    }
    Ok(())
}

/// Writes what was not counted.
pub(super) fn write_unparsed(sheet: &mut Sheet<'_>, unparsed: &[(&'static str, u64)]) -> fmt::Result {
    sheet.counter(&UNPARSED, unparsed.iter().map(|&(reason, count)| (vec![label("reason", reason)], count)))
}
