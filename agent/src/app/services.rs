//! One service as it stands in the kernel, and orders about its backends. Knows the kernel only through
//! [`Readings`], and the moment only as a value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::{
    AffinityKey, AffinityValue, Backend, BackendState, BackendStatus, BreakerPolicy, ClientKey, FailedOn,
    Policy, ServiceState, Usage, Verdict,
};

use super::limits::{self, Busiest};
use crate::admin::view::{
    BackendView, CellView, LeftView, OrderError, OrderRequest, Ordered, ServiceCounters, ServiceView,
    ShareView,
};
use crate::canary;
use crate::desired::Departure;
use crate::draining::Leaving;
use crate::kernel::Counters;
use crate::reconcile::ServiceEntry;

/// What is read of the kernel to show a service.
pub(super) trait Readings {
    /// The policy in force; `None` where the kernel has no such service.
    fn policy(&self, service: u32) -> Option<Policy>;
    /// What is counted for a service.
    fn service_state(&self, service: u32) -> ServiceState;
    /// A backend's record, with an operator's order.
    fn backend(&self, id: u32) -> Backend;
    /// What is counted for a backend, and its breaker.
    fn backend_state(&self, id: u32) -> BackendState;
    /// What every client uses of the limits of services; empty where it cannot be read.
    fn clients(&self) -> Vec<(ClientKey, Usage)>;
    /// The backend a client was given last; `None` where that is not remembered, or cannot be read.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    /// The backend a client failed on last.
    fn failed_on(&self, key: &AffinityKey) -> FailedOn;
}

impl Readings for Counters {
    fn policy(&self, service: u32) -> Option<Policy> {
        self.policy(service)
    }

    fn service_state(&self, service: u32) -> ServiceState {
        self.service_state(service)
    }

    fn backend(&self, id: u32) -> Backend {
        self.backend(id)
    }

    fn backend_state(&self, id: u32) -> BackendState {
        self.backend_state(id)
    }

    fn clients(&self) -> Vec<(ClientKey, Usage)> {
        Self::clients(self).unwrap_or_else(|error| {
            tracing::warn!("{error}; what clients use of their limits is shown as 0");
            Vec::new()
        })
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        Self::affinity(self, key).unwrap_or_else(|error| {
            tracing::warn!("{error}; a client is shown as if it kept no backend");
            None
        })
    }

    fn failed_on(&self, key: &AffinityKey) -> FailedOn {
        Self::failed_on(self, key).unwrap_or_else(|error| {
            tracing::warn!("{error}; a client is shown as if it had not failed");
            FailedOn::NONE
        })
    }
}

/// The backends that are out, by id.
pub(super) type Out = BTreeMap<u32, Leaving>;

/// Every service that was asked for, in the order of names; not the test connection's.
pub(super) fn views(
    entries: &[ServiceEntry],
    readings: &impl Readings,
    leaving: &Out,
    now_ns: u64,
) -> Vec<ServiceView> {
    let clients = limits::clients(entries, readings);
    // In the order of names, so that the families of a service stand together.
    entries
        .chunk_by(|one, other| one.spec.name == other.spec.name)
        .filter(|families| families[0].spec.name.as_ref() != canary::NAME)
        .filter_map(|families| view(families, readings, leaving, &clients, now_ns))
        .collect()
}

/// One service, from the entries of its address families.
fn view(
    entries: &[ServiceEntry],
    readings: &impl Readings,
    leaving: &Out,
    clients: &Busiest,
    now_ns: u64,
) -> Option<ServiceView> {
    let spec = &entries.first()?.spec;
    let policy = entries.iter().find_map(|entry| readings.policy(entry.id));
    let breaker =
        policy.map_or(BreakerPolicy { mode: 0, ..BreakerPolicy::default() }, |policy| policy.breaker);
    let ids: BTreeMap<SocketAddr, u32> = entries
        .iter()
        .flat_map(|entry| entry.backends.iter())
        .map(|backend| (backend.address(), backend.id))
        .collect();
    let backends = spec.backends.iter().map(|backend| {
        let id = ids.get(&backend.address);
        let (state, verdict) = id.map_or_else(
            || (BackendState::default(), Verdict::NONE),
            |&id| (readings.backend_state(id), readings.backend(id).verdict),
        );
        let takes_new = !backend.draining && backend.weight > 0;
        BackendView {
            address: backend.address,
            version: backend.version.clone(),
            zone: backend.zone.clone(),
            weight: backend.weight,
            status: if takes_new { BackendStatus::Ready } else { BackendStatus::Draining },
            active: limits::settled(state.active),
            selections: state.selections,
            failures: state.failures,
            breaker: CellView::new(&state, &breaker, verdict, now_ns),
            resets_in_ms: id.and_then(|id| leaving.get(id)?.resets_in_ms(now_ns)),
        }
    });
    Some(ServiceView {
        name: Arc::clone(&spec.name),
        protocol: spec.protocol,
        frontends: spec.frontends.clone(),
        algorithm: spec.policy.algorithm,
        affinity_timeout_ms: spec
            .policy
            .affinity_timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        split: spec
            .policy
            .split
            .iter()
            .map(|share| ShareView { version: Arc::clone(&share.version), share: share.share })
            .collect(),
        rollout: None,
        breaker_mode: breaker.mode(),
        fallback: spec.policy.fallback.clone(),
        limits: limits::views(entries, &spec.policy.limits, readings, clients),
        counters: counters(entries, readings),
        backends: backends.collect(),
        left: left(entries, readings, leaving, now_ns),
    })
}

/// The backends that left a service and still have connections.
fn left(entries: &[ServiceEntry], readings: &impl Readings, leaving: &Out, now_ns: u64) -> Vec<LeftView> {
    let is_ours = |service: u32| entries.iter().any(|entry| entry.id == service);
    let gone = leaving.iter().filter(|(_, backend)| backend.departure == Departure::Removed);
    gone.filter(|(_, backend)| is_ours(backend.service))
        .map(|(&id, backend)| LeftView {
            address: backend.endpoint.into(),
            active: limits::settled(readings.backend_state(id).active),
            resets_in_ms: backend.resets_in_ms(now_ns),
        })
        .filter(|backend| backend.active > 0)
        .collect()
}

/// What is counted for a service, its address families together.
fn counters(entries: &[ServiceEntry], readings: &impl Readings) -> ServiceCounters {
    let states = entries.iter().map(|entry| readings.service_state(entry.id));
    states.fold(ServiceCounters::default(), |sum, state| ServiceCounters {
        selected: sum.selected + state.selected.saturating_sub(state.affine),
        affine: sum.affine + state.affine,
        no_backend: sum.no_backend + state.no_backend,
        limited: sum.limited + state.refused_by_limit,
        passed: sum.passed + state.passed,
        fallback: sum.fallback + state.fallback,
        avoided: sum.avoided + state.avoided,
        would_avoid: sum.would_avoid + state.would_avoid,
        probes: sum.probes + state.probes,
        opened: sum.opened + state.opened,
        half_opened: sum.half_opened + state.half_opened,
        closed: sum.closed + state.closed,
        capped: sum.capped + state.capped,
        panicked: sum.panicked + state.panicked,
        kept_away: sum.kept_away + state.kept_away,
        near: sum.near + state.near,
        overflowed: sum.overflowed + state.overflowed,
    })
}

/// What an order comes to: the kernel's word, the ids it is for, and the answer to who gave it.
///
/// # Errors
/// There is no such service or backend, or the order is to hold too long.
pub(super) fn plan(
    entries: &[ServiceEntry],
    request: &OrderRequest,
    now_ns: u64,
) -> Result<(Verdict, Vec<u32>, Ordered), OrderError> {
    let ends_in_ms = request.duration_ms()?;
    let unknown = || OrderError::UnknownService { service: request.service.clone() };
    let families = || {
        let named = entries.iter().filter(|entry| *entry.spec.name == *request.service);
        named.filter(|entry| &*entry.spec.name != canary::NAME)
    };
    let name = Arc::clone(&families().next().ok_or_else(unknown)?.spec.name);
    let wanted = |address: &SocketAddr| request.backend.is_none_or(|backend| backend == *address);
    let meant =
        || families().flat_map(|entry| entry.backends.iter()).filter(|backend| wanted(&backend.address()));
    let backends: Vec<SocketAddr> = meant().map(|backend| backend.address()).collect();
    if backends.is_empty() {
        let service = request.service.clone();
        return Err(match request.backend {
            Some(backend) => OrderError::UnknownBackend { service, backend },
            None => OrderError::NoBackends { service },
        });
    }
    let until_ns = now_ns.saturating_add(ends_in_ms.unwrap_or_default() * 1_000_000);
    let ids = meant().map(|backend| backend.id).collect();
    Ok((
        request.order.verdict(until_ns),
        ids,
        Ordered { service: name, order: request.order, backends, ends_in_ms },
    ))
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::breaker::ticks;
    use agent_ebpf::abi::{BreakerMode, BreakerState, CellWord, Protocol};

    use super::*;
    use crate::compile::CompiledBackend;

    fn entry_of(id: u32, address: SocketAddr) -> CompiledBackend {
        CompiledBackend { id, record: Backend { endpoint: address.into(), ..Backend::default() } }
    }
    use crate::admin::view::Order;
    use crate::compile::Family;
    use crate::desired::{BackendSpec, PolicySpec, ServiceSpec};

    const NOW_NS: u64 = 1 << 40;

    /// Service 1 (IPv4) has backends 11 and 12, service 2 (IPv6) has 21. Backend 12's breaker is open, and 11 has
    /// an order.
    struct Kernel;

    impl Readings for Kernel {
        fn policy(&self, _service: u32) -> Option<Policy> {
            Some(Policy { breaker: BreakerPolicy::default(), ..Policy::default() })
        }

        fn clients(&self) -> Vec<(ClientKey, Usage)> {
            Vec::new()
        }

        fn affinity(&self, _key: &AffinityKey) -> Option<AffinityValue> {
            None
        }

        fn failed_on(&self, _key: &AffinityKey) -> FailedOn {
            FailedOn::NONE
        }

        fn service_state(&self, service: u32) -> ServiceState {
            let count = u64::from(service);
            ServiceState { selected: 10 * count, affine: 3, avoided: count, opened: 7, ..Default::default() }
        }

        fn backend(&self, id: u32) -> Backend {
            let verdict = if id == 11 { Order::Open.verdict(NOW_NS + 1_000_000_000) } else { Verdict::NONE };
            Backend { verdict, ..Backend::default() }
        }

        fn backend_state(&self, id: u32) -> BackendState {
            let cell = if id == 12 { CellWord::open(1, ticks(NOW_NS) + 100) } else { CellWord::CLEAN };
            BackendState { cell, selections: u64::from(id), ..BackendState::default() }
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn entries() -> Vec<ServiceEntry> {
        let addresses = ["10.1.0.5:80", "10.1.0.6:80", "[fd00::5]:80"].map(address);
        let backends = addresses.map(|address| BackendSpec {
            address,
            weight: 1,
            zone: None,
            version: None,
            draining: false,
        });
        let spec = Arc::new(ServiceSpec {
            name: "shop/cart".into(),
            protocol: Protocol::Tcp,
            frontends: vec![address("10.96.0.1:80"), address("[fd00::1]:80")],
            backends: backends.into(),
            policy: PolicySpec { fallback: Some("shop/standby".into()), ..PolicySpec::default() },
        });
        let entry = |id, family, backends: &[(u32, SocketAddr)]| ServiceEntry {
            id,
            family,
            spec: Arc::clone(&spec),
            backends: backends.iter().map(|&(id, address)| entry_of(id, address)).collect(),
        };
        vec![
            entry(1, Family::V4, &[(11, addresses[0]), (12, addresses[1])]),
            entry(2, Family::V6, &[(21, addresses[2])]),
        ]
    }

    fn request(backend: Option<&str>, order: Order) -> OrderRequest {
        OrderRequest {
            service: "shop/cart".into(),
            backend: backend.map(address),
            order,
            for_ms: Some(2_000),
        }
    }

    #[test]
    fn a_service_of_two_families_is_one_view_with_the_sum_of_its_counters() {
        let views = views(&entries(), &Kernel, &Out::new(), NOW_NS);
        assert_eq!(views.len(), 1);
        let counters = views[0].counters;
        assert_eq!((counters.selected, counters.affine), (10 - 3 + 20 - 3, 6));
        assert_eq!((counters.avoided, counters.opened), (3, 14));
        assert_eq!(views[0].fallback.as_deref(), Some("shop/standby"));
        let selections: Vec<u64> = views[0].backends.iter().map(|backend| backend.selections).collect();
        assert_eq!(selections, [11, 12, 21]);
    }

    #[test]
    fn each_backend_shows_its_own_breaker_and_order() {
        let view = views(&entries(), &Kernel, &Out::new(), NOW_NS).remove(0);
        let in_force: Vec<&str> =
            view.backends.iter().map(|backend| backend.breaker.in_force(view.breaker_mode)).collect();
        assert_eq!(in_force, ["forced_open", "open", "closed"]);
        assert_eq!(view.backends[0].breaker.state, BreakerState::Closed, "the order stands beside the cell");
    }

    #[test]
    fn an_order_for_a_service_is_for_all_its_backends_of_both_families() {
        let (verdict, ids, answer) = plan(&entries(), &request(None, Order::Open), NOW_NS).expect("an order");
        assert_eq!(ids, [11, 12, 21]);
        assert_eq!(verdict.mode(NOW_NS + 1_999_000_000), Some(BreakerMode::ForcedOpen));
        assert_eq!(verdict.mode(NOW_NS + 2_001_000_000), None);
        assert_eq!((answer.backends.len(), answer.ends_in_ms), (3, Some(2_000)));
    }

    #[test]
    fn an_order_for_a_backend_is_for_no_other() {
        let only = request(Some("10.1.0.6:80"), Order::Close);
        let (verdict, ids, _) = plan(&entries(), &only, NOW_NS).expect("an order");
        assert_eq!(ids, [12]);
        assert_eq!(verdict.mode(NOW_NS), Some(BreakerMode::ForcedClosed));
        let (verdict, _, answer) =
            plan(&entries(), &OrderRequest { order: Order::Auto, ..only }, NOW_NS).expect("an order");
        assert_eq!((verdict, answer.ends_in_ms), (Verdict::NONE, None));
    }

    #[test]
    fn an_order_about_what_is_not_there_changes_nothing_and_says_what_to_check() {
        let other = OrderRequest { service: "shop/carts".into(), ..request(None, Order::Open) };
        let error = plan(&entries(), &other, NOW_NS).expect_err("no such service");
        assert!(error.to_string().contains("no service `shop/carts`"), "{error}");
        let error = plan(&entries(), &request(Some("10.1.0.9:80"), Order::Open), NOW_NS).expect_err("nobody");
        assert!(error.to_string().contains("no backend 10.1.0.9:80"), "{error}");
        let ours = OrderRequest { service: canary::NAME.into(), ..request(None, Order::Open) };
        let spec = canary::service();
        let entry = ServiceEntry { id: 3, family: Family::V4, spec, backends: [].into() };
        assert!(matches!(plan(&[entry], &ours, NOW_NS), Err(OrderError::UnknownService { .. })));
    }
}
