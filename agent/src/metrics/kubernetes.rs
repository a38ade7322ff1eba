//! Metrics of Kubernetes discovery: what is known, and how it stands with the API server.

use std::fmt;

use super::sheet::{Label, Metric, Sheet, label};
use crate::admin::view::{KindView, KubernetesView};
use crate::discovery::kubernetes::Connection;

const OBJECTS: Metric = Metric::gauge(
    "segue_kubernetes_objects",
    &["kind"],
    "Objects of the cluster that are known, by kind: services, endpointslices, endpoints, trafficpolicies, routes, pods (those of this node). Only with --kubernetes, as all of this subject.",
);
const NOTED: Metric = Metric::gauge(
    "segue_kubernetes_services_noted",
    &[],
    "Services that are left out, whole or in part, or of which something is to be said: `segue status` shows what.",
);
const CONNECTION: Metric = Metric::gauge(
    "segue_kubernetes_connection",
    &["state"],
    "1 for how it stands with the API server: starting, remembered (served from the snapshot), in_sync, interrupted; 0 for the others.",
);
const EVENTS: Metric = Metric::counter(
    "segue_kubernetes_events_total",
    &["kind"],
    "Objects that were new, different or gone, by kind.",
);
const LISTS: Metric = Metric::counter(
    "segue_kubernetes_lists_total",
    &["kind"],
    "Lists of all objects that were read to their end, by kind. More than one means that a watch could not be taken up again.",
);
const ERRORS: Metric = Metric::counter(
    "segue_kubernetes_errors_total",
    &["kind", "reason"],
    "Requests to the API server that failed, by kind and reason: unreachable, unauthorized, forbidden, not_found, gone, throttled, server_error, unreadable.",
);
const SNAPSHOT: Metric = Metric::gauge(
    "segue_kubernetes_snapshot_timestamp_seconds",
    &[],
    "When the snapshot of the cluster was written last.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&OBJECTS, &NOTED, &CONNECTION, &EVENTS, &LISTS, &ERRORS, &SNAPSHOT];

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, view: Option<&KubernetesView>) -> fmt::Result {
    let views = || view.into_iter();
    let kinds = || views().flat_map(|view| &view.kinds);
    let objects = views().flat_map(|view| {
        [
            ("services", view.services),
            ("endpointslices", view.slices),
            ("endpoints", view.endpoints),
            ("trafficpolicies", view.policies),
            ("routes", view.routes),
            ("pods", view.pods),
        ]
        .map(|(kind, count)| (vec![label("kind", kind)], gauge(count)))
    });
    sheet.gauge(&OBJECTS, objects)?;
    sheet.gauge(&NOTED, views().map(|view| (Vec::new(), gauge(view.noted))))?;
    let connection = views().flat_map(|view| {
        let is = |connection: Connection| i64::from(connection.name() == view.connection);
        Connection::ALL.iter().map(move |&it| (vec![label("state", it.name())], is(it)))
    });
    sheet.gauge(&CONNECTION, connection)?;
    sheet.counter(&EVENTS, kinds().map(|kind| (of_kind(kind), kind.events)))?;
    sheet.counter(&LISTS, kinds().map(|kind| (of_kind(kind), kind.lists)))?;
    let errors = kinds().flat_map(|kind| {
        kind.errors.iter().map(move |(reason, count)| {
            let mut labels = of_kind(kind);
            labels.push(label("reason", reason));
            (labels, *count)
        })
    });
    sheet.counter(&ERRORS, errors)?;
    let written = views().filter_map(|view| view.snapshot_at);
    sheet.gauge(&SNAPSHOT, written.map(|at| (Vec::new(), at.as_second())))
}

fn of_kind(kind: &KindView) -> Vec<Label<'_>> {
    vec![label("kind", &kind.name)]
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
