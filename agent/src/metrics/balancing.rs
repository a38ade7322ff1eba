//! Metrics of load balancing, by service.

use std::borrow::Cow;
use std::fmt;

use agent_ebpf::abi::BackendStatus;

use super::sheet::{Label, Metric, Sheet, label};
use crate::admin::view::ServiceView;
use crate::flows::split_service_name;

const SELECTIONS: Metric = Metric::counter(
    "segue_lb_selections_total",
    &["dst_namespace", "dst_service", "dst_port", "policy", "outcome"],
    "Connections to a service by what became of them: selected by the algorithm, affine (the client's last backend), panicked (an ejected backend, because too few were healthy), fallback (handed to the fallback service, which counts it, too), no_backend (refused), passed (untouched). Only services this node has used.",
);
const ZONES: Metric = Metric::counter(
    "segue_lb_zone_selections_total",
    &["dst_namespace", "dst_service", "dst_port", "zone"],
    "Connections to a service that prefers the node's zone and has backends in it and elsewhere, by where they went: local or overflow.",
);
const BACKENDS: Metric = Metric::gauge(
    "segue_lb_backends",
    &["state"],
    "Backends of all services, by whether they take connections.",
);
const SERVICES: Metric = Metric::gauge(
    "segue_lb_services",
    &["state"],
    "Services, by whether at least one backend takes connections (usable) or none does (unusable).",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&SELECTIONS, &ZONES, &BACKENDS, &SERVICES];

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, services: &[ServiceView]) -> fmt::Result {
    sheet.counter(&SELECTIONS, services.iter().flat_map(selections))?;
    sheet.counter(&ZONES, services.iter().flat_map(zones))?;
    let states = [BackendStatus::Ready, BackendStatus::Draining].map(|state| {
        let all = services.iter().flat_map(|service| &service.backends);
        (vec![label("state", state.name())], all.filter(|backend| backend.status == state).count())
    });
    sheet.gauge(&BACKENDS, states)?;
    let usable = services.iter().filter(|service| service.is_usable()).count();
    let usability = [("usable", usable), ("unusable", services.len() - usable)];
    sheet.gauge(&SERVICES, usability.map(|(state, count)| (vec![label("state", state)], count)))
}

/// A cluster knows thousands of services and a node talks to a few: the others would only be zeros.
fn selections(service: &ServiceView) -> Vec<(Vec<Label<'_>>, u64)> {
    let counters = service.counters;
    let by_outcome = [
        ("selected", counters.selected.saturating_sub(counters.panicked)),
        ("affine", counters.affine),
        ("panicked", counters.panicked),
        ("fallback", counters.fallback),
        ("no_backend", counters.no_backend),
        ("passed", counters.passed),
    ];
    if by_outcome.iter().all(|(_, count)| *count == 0) {
        return Vec::new();
    }
    let labels = |outcome| {
        let mut labels = destination(service);
        labels.extend([label("policy", service.algorithm.name()), label("outcome", outcome)]);
        labels
    };
    by_outcome.into_iter().map(|(outcome, count)| (labels(outcome), count)).collect()
}

/// Only services that prefer a zone have these.
fn zones(service: &ServiceView) -> Vec<(Vec<Label<'_>>, u64)> {
    let counters = service.counters;
    if counters.near == 0 && counters.overflowed == 0 {
        return Vec::new();
    }
    let labels = |zone| {
        let mut labels = destination(service);
        labels.push(label("zone", zone));
        labels
    };
    vec![(labels("local"), counters.near), (labels("overflow"), counters.overflowed)]
}

/// The labels that name a service.
pub(super) fn destination(service: &ServiceView) -> Vec<Label<'_>> {
    let (namespace, name) = split_service_name(&service.name);
    let port = service.frontends.first().map_or(0, std::net::SocketAddr::port);
    vec![
        label("dst_namespace", namespace),
        label("dst_service", name),
        ("dst_port", Cow::Owned(port.to_string())),
    ]
}
