//! Which backend a connection or datagram goes to: follows the tables and asks `decide` at each fork.

use agent_ebpf::abi::limits::{MAX_CANDIDATES, MAX_CGROUP_LEVELS, MAX_FALLBACKS};
use agent_ebpf::abi::{AffinityKey, AffinityValue, Algorithm, Backend, BackendStatus, Probe, Subset};
use agent_ebpf::decide::balance::{self, Side, peak_ewma};
use agent_ebpf::decide::{affinity, split};

use super::breaker::{self, Asking};
use crate::context::{self, Moment};
use crate::maps;

/// What the tables and the policy say. A flat record and not an enum with payloads: in those the compiler keeps a
/// pointer and a number in the same place, and works on whichever it is before it looks, which the verifier forbids.
#[derive(Clone, Copy)]
pub(crate) struct Selection {
    /// What was found.
    pub(crate) found: Found,
    /// The service the backend belongs to: the one asked for, or a fallback of it.
    pub(crate) service: u32,
    /// The backend's id.
    pub(crate) id: u32,
    /// The backend's record; `None` unless one was found.
    pub(crate) backend: Option<&'static Backend>,
    /// Chosen by the client's affinity.
    pub(crate) affine: bool,
    /// What the backend's breaker admitted the connection as.
    pub(crate) probe: Probe,
    /// The errno the policy names, where nothing is usable.
    pub(crate) errno: u8,
}

/// What a [`Selection`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A backend.
    Backend,
    /// The service is known and has nothing usable.
    Nothing,
    /// The tables named something that is not there.
    Inconsistent,
}

impl Selection {
    #[inline(always)]
    const fn none(found: Found) -> Self {
        Self { found, service: 0, id: 0, backend: None, affine: false, probe: Probe::NONE, errno: 0 }
    }

    #[inline(always)]
    const fn of(service: u32, id: u32, backend: &'static Backend, probe: Probe) -> Self {
        let found = Found::Backend;
        Self { found, service, id, backend: Some(backend), affine: false, probe, errno: 0 }
    }
}

/// Selects a backend of a service, or of its fallbacks where nothing of it is usable.
#[inline(always)]
pub(crate) fn select(requested: u32, now: Moment) -> Selection {
    let mut service = requested;
    let mut errno = 0;
    let mut hop = 0;
    while hop < MAX_FALLBACKS {
        let Some(policy) = maps::policy_of(service) else { return Selection::none(Found::Inconsistent) };
        if hop == 0 {
            errno = policy.refuse_errno;
        }
        let selection = select_own(&Asking { service, policy, now });
        if !matches!(selection.found, Found::Nothing) {
            return selection;
        }
        if policy.fallback == 0 {
            break;
        }
        if let Some(state) = maps::service_state(service) {
            maps::add(&mut state.fallback, 1);
        }
        service = policy.fallback;
        hop += 1;
    }
    Selection { errno, ..Selection::none(Found::Nothing) }
}

/// Selects among the service's own backends.
#[inline(always)]
fn select_own(asking: &Asking) -> Selection {
    let Asking { service, policy, now } = *asking;
    let Some(algorithm) = policy.algorithm() else { return Selection::none(Found::Inconsistent) };
    let has_affinity = policy.affinity_timeout_ms != 0;
    let client = if has_affinity || balance::needs_client(algorithm) { segue_client() } else { 0 };
    let key = AffinityKey { client, service, _pad: 0 };
    if has_affinity {
        let selection = affine(asking, &key);
        if let Some(backend) = selection.backend {
            remember(&key, selection.id, backend, now);
            return selection;
        }
    }
    let subset_draw = if policy.subset_count > 1 { context::draw() } else { 0 };
    let Some(subset) = split::subset(policy, subset_draw) else {
        return Selection::none(Found::Inconsistent);
    };
    if subset.slot_count == 0 {
        return Selection::none(Found::Nothing);
    }
    let Some(first) = first_choice(service, algorithm, subset, client, now) else {
        return Selection::none(Found::Inconsistent);
    };
    let selection = first_that_takes(asking, first);
    if has_affinity {
        if let Some(backend) = selection.backend {
            remember(&key, selection.id, backend, now);
        }
    }
    selection
}

/// The backend the algorithm wants.
#[inline(always)]
fn first_choice(
    service: u32,
    algorithm: Algorithm,
    subset: &Subset,
    client: u64,
    now: Moment,
) -> Option<u32> {
    let cursor = if balance::needs_cursor(algorithm) { next_cursor(service) } else { 0 };
    let inputs = balance::Inputs { draw: context::draw(), client, cursor };
    let first = balance::position(algorithm, subset.slot_count, &inputs)?;
    let one = at_position(subset, first)?;
    if !balance::compares(algorithm) {
        return Some(one);
    }
    let second = balance::second_position(algorithm, subset.slot_count, first, context::draw());
    let other = at_position(subset, second)?;
    let (left, right) = (load(one, now)?, load(other, now)?);
    match balance::compare(algorithm, left, right) {
        Side::Left => Some(one),
        Side::Right => Some(other),
    }
}

#[inline(always)]
fn at_position(subset: &Subset, position: balance::Position) -> Option<u32> {
    let slot = maps::slot(subset.first_slot.wrapping_add(position.slot))?;
    Some(balance::resolve(slot, position.coin))
}

/// How loaded a backend is right now.
#[inline(always)]
fn load(id: u32, now: Moment) -> Option<balance::Load> {
    let (backend, state) = (maps::backend(id)?, maps::backend_state(id)?);
    Some(balance::Load {
        active: state.active as u32,
        latency_us: peak_ewma::latency_us(state.latency, now.ticks()),
        waiting_us: peak_ewma::waiting_us(state.pending as u32, state.progress_ticks as u32, now.ticks()),
        weight: backend.weight as u16,
    })
}

/// The first backend that takes the connection, from the algorithm's choice on and then round the others. Where
/// none does and too few are healthy to believe it, the algorithm's choice.
#[inline(always)]
fn first_that_takes(asking: &Asking, first: u32) -> Selection {
    let Asking { service, policy, .. } = *asking;
    let mut id = first;
    let mut turn = 0;
    while turn < MAX_CANDIDATES {
        let Some(backend) = maps::backend(id) else { return Selection::none(Found::Inconsistent) };
        if backend.service != service || backend.status == BackendStatus::Vacant as u32 {
            return Selection::none(Found::Inconsistent);
        }
        // A backend in slow start passes on some of what falls to it, but not what nobody else takes.
        let picky = turn == 0 && policy.ready_backends > 1;
        let answer = breaker::admit(asking, id, backend, picky);
        if answer != breaker::REFUSED {
            return Selection::of(service, id, backend, Probe(answer as u32));
        }
        id = backend.next;
        turn += 1;
        if id == first || turn >= policy.ready_backends {
            break;
        }
    }
    // Once more without the slow start's modesty: the first choice may have passed for that alone.
    let Some(backend) = maps::backend(first) else { return Selection::none(Found::Inconsistent) };
    let answer = breaker::admit(asking, first, backend, false);
    if answer != breaker::REFUSED {
        return Selection::of(service, first, backend, Probe(answer as u32));
    }
    // Panic distrusts breakers, not an operator.
    if !breaker::is_ordered_away(asking, backend) && breaker::panics(asking) {
        return Selection::of(service, first, backend, Probe::NONE);
    }
    Selection::none(Found::Nothing)
}

/// The backend the client was given last, where that still holds and the backend takes it.
#[inline(always)]
fn affine(asking: &Asking, key: &AffinityKey) -> Selection {
    let none = Selection::none(Found::Nothing);
    let Some(value) = maps::affinity(key) else { return none };
    let Some(backend) = maps::backend(value.backend) else { return none };
    if !affinity::holds(asking.policy, &value, backend, asking.now.ns) {
        return none;
    }
    let answer = breaker::admit(asking, value.backend, backend, false);
    if answer == breaker::REFUSED {
        return none;
    }
    let probe = Probe(answer as u32);
    Selection { affine: true, ..Selection::of(asking.service, value.backend, backend, probe) }
}

#[inline(always)]
fn remember(key: &AffinityKey, id: u32, backend: &Backend, now: Moment) {
    maps::set_affinity(
        key,
        &AffinityValue { used_at_ns: now.ns, backend: id, generation: backend.generation },
    );
}

/// Takes the next position of a service's round. Two CPUs that ask in the same instant may get the same one:
/// an add that also reads needs kernel 5.12.
#[inline(always)]
fn next_cursor(service: u32) -> u64 {
    match maps::service_state(service) {
        Some(state) => {
            let cursor = state.cursor;
            maps::add(&mut state.cursor, 1);
            cursor
        }
        None => 0,
    }
}

/// Who is calling: the workload (pod or unit) above the process, so that a cgroup made inside a pod is no new
/// client; outside any known workload, the process' own cgroup. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_client() -> u64 {
    let mut level = 1;
    while level <= MAX_CGROUP_LEVELS {
        let cgroup = context::current_ancestor_cgroup(level);
        if cgroup == 0 {
            break;
        }
        if maps::is_workload(cgroup) {
            return cgroup;
        }
        level += 1;
    }
    context::current_cgroup()
}
