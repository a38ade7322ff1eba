//! Metrics of circuit breakers, by service. Never by backend: a cell is to be looked at with `segue breaker`.

use std::fmt;

use agent_ebpf::abi::{BreakerMode, BreakerState};

use super::balancing::destination;
use super::sheet::{Label, Metric, Sheet, label};
use crate::admin::view::{IN_FORCE, ServiceCounters, ServiceView};

const TRANSITIONS: Metric = Metric::counter(
    "segue_breaker_transitions_total",
    &["dst_namespace", "dst_service", "dst_port", "to"],
    "Changes of state of the breakers of a service's backends, by the state they went to: closed, open, half_open.",
);
const BACKENDS: Metric = Metric::gauge(
    "segue_breaker_backends",
    &["dst_namespace", "dst_service", "dst_port", "state"],
    "Backends of a service by what holds for the next connection: closed, open, half_open, or by order or mode forced_open, forced_closed.",
);
const AVOIDED: Metric = Metric::counter(
    "segue_breaker_avoided_total",
    &["dst_namespace", "dst_service", "dst_port"],
    "Times a backend's breaker refused a connection and another backend was asked.",
);
const WOULD_AVOID: Metric = Metric::counter(
    "segue_breaker_would_avoid_total",
    &["dst_namespace", "dst_service", "dst_port"],
    "The same in mode observe: the connection went to the backend all the same.",
);
const PROBES: Metric = Metric::counter(
    "segue_breaker_probe_total",
    &["dst_namespace", "dst_service", "dst_port"],
    "Connections admitted as probes of a backend that is held back.",
);
const KEPT_AWAY: Metric = Metric::counter(
    "segue_breaker_kept_away_total",
    &["dst_namespace", "dst_service", "dst_port"],
    "Connections that were not given the backend their client had just failed on.",
);
const CAPPED: Metric = Metric::counter(
    "segue_breaker_capped_total",
    &["dst_namespace", "dst_service", "dst_port"],
    "Times a breaker would have opened if one more backend of its service might be ejected.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] =
    &[&TRANSITIONS, &BACKENDS, &AVOIDED, &WOULD_AVOID, &PROBES, &KEPT_AWAY, &CAPPED];

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, services: &[ServiceView]) -> fmt::Result {
    let shown: Vec<&ServiceView> = services.iter().filter(|service| is_worth_showing(service)).collect();
    let each = |count: fn(&ServiceCounters) -> u64| {
        shown.iter().map(move |service| (destination(service), count(&service.counters)))
    };
    sheet.counter(&TRANSITIONS, shown.iter().flat_map(|service| transitions(service)))?;
    sheet.gauge(&BACKENDS, shown.iter().flat_map(|service| backends(service)))?;
    sheet.counter(&AVOIDED, each(|counters| counters.avoided))?;
    sheet.counter(&WOULD_AVOID, each(|counters| counters.would_avoid))?;
    sheet.counter(&PROBES, each(|counters| counters.probes))?;
    sheet.counter(&KEPT_AWAY, each(|counters| counters.kept_away))?;
    sheet.counter(&CAPPED, each(|counters| counters.capped))
}

/// A service that this node uses and that has a breaker, or about which there is an order. A cluster knows
/// thousands of services and a node talks to a few: the others would only be zeros.
fn is_worth_showing(service: &ServiceView) -> bool {
    let has_breaker = service.breaker_mode != BreakerMode::Off;
    let is_used = service.counters != ServiceCounters::default();
    has_breaker && is_used || service.backends.iter().any(|backend| backend.breaker.order.is_some())
}

fn transitions(service: &ServiceView) -> Vec<(Vec<Label<'_>>, u64)> {
    let counters = service.counters;
    let to = |state: BreakerState| match state {
        BreakerState::Closed => counters.closed,
        BreakerState::Open => counters.opened,
        BreakerState::HalfOpen => counters.half_opened,
    };
    BreakerState::ALL.iter().map(|&state| (with(service, "to", state.name()), to(state))).collect()
}

fn backends(service: &ServiceView) -> Vec<(Vec<Label<'_>>, usize)> {
    let count = |name: &str| {
        let in_force = service.backends.iter().map(|one| one.breaker.in_force(service.breaker_mode));
        in_force.filter(|state| *state == name).count()
    };
    IN_FORCE.iter().map(|name| (with(service, "state", name), count(name))).collect()
}

fn with<'a>(service: &'a ServiceView, name: &'static str, value: &'static str) -> Vec<Label<'a>> {
    let mut labels = destination(service);
    labels.push(label(name, value));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::admin::view::{Order, OrderView};

    fn service() -> ServiceView {
        Specimen::default().services().expect("a specimen").remove(0)
    }

    #[test]
    fn every_backend_is_counted_in_exactly_one_state() {
        let mut service = service();
        service.backends[0].breaker.order = Some(OrderView { order: Order::Close, ends_in_ms: 1 });
        let counts: Vec<usize> = backends(&service).into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 1, 0, 0, 1]);
    }

    #[test]
    fn a_service_nobody_here_uses_has_no_series_until_there_is_an_order_about_it() {
        let mut service = service();
        assert!(is_worth_showing(&service));
        service.counters = ServiceCounters::default();
        assert!(!is_worth_showing(&service));
        service.backends[0].breaker.order = Some(OrderView { order: Order::Open, ends_in_ms: 1 });
        assert!(is_worth_showing(&service));
    }
}
