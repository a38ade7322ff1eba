//! What is in use of the limits of services, from the kernel's counts. Changes nothing.

use std::collections::BTreeMap;

use agent_ebpf::abi::admission::PER_CLIENT;
use agent_ebpf::abi::{ClientKey, Limit, Limits, ServiceLimits, Usage};

use super::services::Readings;
use crate::admin::view::LimitView;
use crate::reconcile::ServiceEntry;

/// Per service id, the most any client uses.
pub(super) type Busiest = BTreeMap<u32, Usage>;

/// What the clients use of these services; read only where one of them limits its clients.
pub(super) fn clients(entries: &[ServiceEntry], readings: &impl Readings) -> Busiest {
    clients_only(entries, readings, |_| true)
}

/// The same of those that are meant.
pub(super) fn clients_only(
    entries: &[ServiceEntry],
    readings: &impl Readings,
    is_meant: impl Fn(&ClientKey) -> bool,
) -> Busiest {
    let mut busiest = Busiest::new();
    if entries.iter().all(|entry| entry.spec.policy.limits.scopes() & PER_CLIENT == 0) {
        return busiest;
    }
    for (key, usage) in readings.clients().into_iter().filter(|(key, _)| is_meant(key)) {
        let most = busiest.entry(key.service).or_default();
        most.active = most.active.max(settled(usage.active));
        most.pending = most.pending.max(settled(usage.pending));
    }
    busiest
}

/// A count that drifted below zero, for as long as it takes to be corrected, is shown as 0.
pub(super) const fn settled(count: u64) -> u64 {
    if count > u64::MAX >> 1 { 0 } else { count }
}

/// The limits of one service, over the entries of its address families, each of which has them for itself: what is
/// used is the larger, what was reached the sum.
pub(super) fn views(
    entries: &[ServiceEntry],
    limits: &ServiceLimits,
    readings: &impl Readings,
    clients: &Busiest,
) -> Vec<LimitView> {
    let mut views = Vec::new();
    for &limit in Limit::ALL {
        let most = most(limit, limits);
        if most == 0 {
            continue;
        }
        let (mut used, mut reached) = (None, 0);
        for entry in entries {
            let state = readings.service_state(entry.id);
            reached += state.limited[limit as usize];
            let here = match limit {
                Limit::BackendConnections => worst(entry, |id| readings.backend_state(id).active),
                Limit::BackendPending => worst(entry, |id| readings.backend_state(id).pending),
                Limit::ServiceConnections => Some(settled(state.usage.active)),
                Limit::ServicePending => Some(settled(state.usage.pending)),
                Limit::ClientConnections => Some(clients.get(&entry.id).map_or(0, |usage| usage.active)),
                Limit::ClientPending => Some(clients.get(&entry.id).map_or(0, |usage| usage.pending)),
                Limit::BackendRate | Limit::ServiceRate | Limit::ClientRate => None,
            };
            used = used.max(here);
        }
        views.push(LimitView { limit, most, used, reached });
    }
    views
}

fn worst(entry: &ServiceEntry, count: impl Fn(u32) -> u64) -> Option<u64> {
    Some(entry.backends.iter().map(|backend| settled(count(backend.id))).max().unwrap_or_default())
}

/// How much a limit allows; 0: it is not set.
fn most(limit: Limit, limits: &ServiceLimits) -> u32 {
    let [connections, pending, rate] = [
        |limits: Limits| limits.max_connections,
        |limits: Limits| limits.max_pending,
        |limits: Limits| limits.rate_per_second,
    ];
    match limit {
        Limit::BackendConnections => connections(limits.backend),
        Limit::BackendPending => pending(limits.backend),
        Limit::BackendRate => rate(limits.backend),
        Limit::ServiceConnections => connections(limits.service),
        Limit::ServicePending => pending(limits.service),
        Limit::ServiceRate => rate(limits.service),
        Limit::ClientConnections => connections(limits.client),
        Limit::ClientPending => pending(limits.client),
        Limit::ClientRate => rate(limits.client),
    }
}
