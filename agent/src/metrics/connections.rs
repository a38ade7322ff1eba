//! Metrics of connections, by edge: from one workload to one version of one service.

use std::borrow::Cow;
use std::fmt;

use agent_ebpf::abi::CloseReason;

use super::sheet::{Label, Metric, Sheet, label};
use crate::flows::tally::{Reason, Tally};
use crate::flows::{EdgeView, split_service_name};

/// The labels of an edge, and then more.
macro_rules! edge_labels {
    ($($more:literal),*) => {
        &["src_namespace", "src_workload", "dst_namespace", "dst_service", "dst_port", "dst_version", "direction" $(, $more)*]
    };
}

const OPENED: Metric =
    Metric::counter("segue_tcp_connections_opened_total", edge_labels!(), "Connections established.");
const CLOSED: Metric = Metric::counter(
    "segue_tcp_connections_closed_total",
    edge_labels!("reason"),
    "Established connections that ended, by reason.",
);
const ACTIVE: Metric = Metric::gauge("segue_tcp_connections_active", edge_labels!(), "Connections open now.");
const FAILURES: Metric = Metric::counter(
    "segue_tcp_connect_failures_total",
    edge_labels!("reason"),
    "Connections that were not established, by reason.",
);
const CONNECT: Metric = Metric::histogram(
    "segue_tcp_connect_duration_seconds",
    edge_labels!("outcome"),
    "Time from connect() to the end of the handshake (outcome ok) or to the failure (outcome failed; only on edges that had one).",
);
const RTT: Metric = Metric::histogram(
    "segue_tcp_rtt_seconds",
    edge_labels!(),
    "Smoothed round-trip time, sampled when a connection ends and while it is open.",
);
const RETRANSMITS: Metric =
    Metric::counter("segue_tcp_retransmits_total", edge_labels!(), "TCP segments sent again.");
const SENT: Metric = Metric::counter(
    "segue_tcp_sent_bytes_total",
    edge_labels!(),
    "Payload bytes the backends acknowledged; open connections are counted every few seconds.",
);
const RECEIVED: Metric = Metric::counter(
    "segue_tcp_received_bytes_total",
    edge_labels!(),
    "Payload bytes received from the backends; open connections are counted every few seconds.",
);
const RESETS: Metric = Metric::counter(
    "segue_tcp_resets_total",
    edge_labels!("origin"),
    "Established connections ended by a reset, by the side that sent it.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] =
    &[&OPENED, &CLOSED, &ACTIVE, &FAILURES, &CONNECT, &RTT, &RETRANSMITS, &SENT, &RECEIVED, &RESETS];

/// An edge with its labels.
struct Row<'a> {
    edge: &'a EdgeView,
    labels: Vec<Label<'a>>,
}

impl<'a> Row<'a> {
    fn new(edge: &'a EdgeView) -> Self {
        if edge.overflow {
            return Self { edge, labels: vec![label("otel_metric_overflow", "true")] };
        }
        let (namespace, service) = split_service_name(&edge.service);
        let labels = vec![
            label("src_namespace", &edge.client.namespace),
            label("src_workload", &edge.client.name),
            label("dst_namespace", namespace),
            label("dst_service", service),
            ("dst_port", Cow::Owned(edge.port.to_string())),
            label("dst_version", edge.version.as_deref().unwrap_or_default()),
            label("direction", "outbound"),
        ];
        Self { edge, labels }
    }

    fn with(&self, name: &'static str, value: &'static str) -> Vec<Label<'a>> {
        let mut labels = self.labels.clone();
        labels.push(label(name, value));
        labels
    }

    fn by_reason<R: Reason>(&self, tally: &'a Tally<R>) -> impl Iterator<Item = (Vec<Label<'a>>, u64)> {
        tally.iter().map(|(reason, count)| (self.with("reason", reason.name()), count))
    }
}

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, edges: &[EdgeView]) -> fmt::Result {
    let rows: Vec<Row<'_>> = edges.iter().filter(|edge| edge.has_connections()).map(Row::new).collect();
    let each =
        |value: fn(&EdgeView) -> u64| rows.iter().map(move |row| (row.labels.clone(), value(row.edge)));
    sheet.counter(&OPENED, each(|edge| edge.opened))?;
    sheet.counter(&CLOSED, rows.iter().flat_map(|row| row.by_reason(&row.edge.closed)))?;
    sheet.gauge(&ACTIVE, each(|edge| edge.active))?;
    sheet.counter(&FAILURES, rows.iter().flat_map(|row| row.by_reason(&row.edge.failed)))?;
    let ok = rows.iter().map(|row| (row.with("outcome", "ok"), &row.edge.connect));
    let failing = rows.iter().filter(|row| row.edge.connect_failed.count > 0);
    let failed = failing.map(|row| (row.with("outcome", "failed"), &row.edge.connect_failed));
    sheet.histogram(&CONNECT, ok.chain(failed))?;
    sheet.histogram(&RTT, rows.iter().map(|row| (row.labels.clone(), &row.edge.rtt)))?;
    sheet.counter(&RETRANSMITS, each(|edge| edge.retransmits))?;
    sheet.counter(&SENT, each(|edge| edge.sent_bytes))?;
    sheet.counter(&RECEIVED, each(|edge| edge.received_bytes))?;
    let resets = rows.iter().flat_map(|row| {
        [("local", CloseReason::RstLocal), ("remote", CloseReason::RstRemote)]
            .map(|(origin, reason)| (row.with("origin", origin), row.edge.closed.get(reason)))
    });
    sheet.counter(&RESETS, resets)
}
