//! Which backend a connection or datagram goes to: follows the tables and asks `decide` at each fork.

use agent_ebpf::abi::limits::{MAX_CANDIDATES, MAX_CGROUP_LEVELS, MAX_FALLBACKS};
use agent_ebpf::abi::{
    AffinityKey, AffinityValue, Algorithm, Backend, BackendStatus, BreakerMode, Probe, Subset,
};
use agent_ebpf::decide::balance::{self, Side, peak_ewma};
use agent_ebpf::decide::{affinity, split};

use super::breaker::{self, Asking};
use super::limits::{self, Place};
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
    /// The backend's id; where nothing was found, the limit that is in the way, as [`Place::limit`] gives it.
    pub(crate) id: u32,
    /// The backend's record; `None` unless one was found.
    pub(crate) backend: Option<&'static Backend>,
    /// Chosen by the client's affinity.
    pub(crate) affine: bool,
    /// What the backend's breaker admitted the connection as.
    pub(crate) probe: Probe,
    /// What was taken of the limits.
    pub(crate) place: Place,
    /// The client, where the service limits its clients.
    pub(crate) client: u64,
}

/// What a [`Selection`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A backend.
    Backend,
    /// The service is known and has nothing usable, or nothing that is not at a limit.
    Nothing,
    /// The tables named something that is not there.
    Inconsistent,
}

impl Selection {
    #[inline(always)]
    const fn none(found: Found) -> Self {
        Self {
            found,
            service: 0,
            id: 0,
            backend: None,
            affine: false,
            probe: Probe::NONE,
            place: Place::NONE,
            client: 0,
        }
    }

    #[inline(always)]
    const fn of(service: u32, id: u32, backend: &'static Backend, probe: Probe) -> Self {
        Self { service, id, backend: Some(backend), probe, ..Self::none(Found::Backend) }
    }
}

/// What asks for a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A `connect()` that a handshake follows.
    Handshake,
    /// A `connect()` without one.
    Connected,
    /// A datagram of a socket that is not connected.
    Datagram,
}

/// Selects a backend of a service, or of its fallbacks where nothing of it is usable.
#[inline(always)]
pub(crate) fn select(requested: u32, caller: Caller, now: Moment) -> Selection {
    let mut service = requested;
    let mut limit = limits::FREE;
    let mut hop = 0;
    while hop < MAX_FALLBACKS {
        let Some(policy) = maps::policy_of(service) else { return Selection::none(Found::Inconsistent) };
        let is_datagram = matches!(caller, Caller::Datagram);
        let has_handshake = matches!(caller, Caller::Handshake);
        let selection = select_within(&Asking { service, policy, now, is_datagram, has_handshake });
        if !matches!(selection.found, Found::Nothing) {
            return selection;
        }
        // The first limit that was in the way is the reason; what a fallback lacked is not what was asked for.
        if limit == limits::FREE {
            limit = selection.id;
        }
        // A client that has its share gets no more of it from the fallback, which others need.
        if limits::is_clients(selection.id) {
            break;
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
    Selection { id: limit, ..Selection::none(Found::Nothing) }
}

/// Makes the system call that is about to be refused fail with the errno that the service asked for names.
#[inline(always)]
pub(crate) fn refuse_as_asked(service: u32) {
    if let Some(policy) = maps::policy_of(service) {
        context::refuse_with(policy.refuse_errno);
    }
}

/// Selects among the service's own backends, within the limits of the service and of its client.
#[inline(always)]
fn select_within(asking: &Asking) -> Selection {
    let (place, client) = limits::enter(asking);
    if place.limit() != limits::FREE {
        return Selection { id: place.limit(), ..Selection::none(Found::Nothing) };
    }
    let selection = select_own(asking);
    if matches!(selection.found, Found::Backend) {
        return Selection { place: place.and(selection.place), client, ..selection };
    }
    limits::leave(asking, place, client);
    selection
}

/// Selects among the service's own backends.
#[inline(always)]
fn select_own(asking: &Asking) -> Selection {
    let Asking { service, policy, now, .. } = *asking;
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
    let selection = one_that_takes(asking, first);
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
    let one = at_position(algorithm, subset, &inputs)?;
    if !balance::compares(algorithm) {
        return Some(one);
    }
    let other = at_position(algorithm, subset, &balance::Inputs { draw: context::draw(), ..inputs })?;
    let (left, right) = (load(one, now)?, load(other, now)?);
    match balance::compare(algorithm, left, right) {
        Side::Left => Some(one),
        Side::Right => Some(other),
    }
}

#[inline(always)]
fn at_position(algorithm: Algorithm, subset: &Subset, inputs: &balance::Inputs) -> Option<u32> {
    let position = balance::position(algorithm, subset.slot_count, inputs)?;
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

/// As [`first_that_takes`], by way of a global function: what becomes of up to 32 backends is then for the verifier to
/// follow once, and not once for each program and fallback.
#[inline(always)]
fn one_that_takes(asking: &Asking, first: u32) -> Selection {
    let Asking { service, now, is_datagram, has_handshake, .. } = *asking;
    let flags = u32::from(is_datagram) | u32::from(has_handshake) << 1;
    let answer = segue_first_that_takes(service, first, now.ns, flags);
    if answer & TAKEN != 0 {
        let id = (answer >> 32) as u32 & MAX_ID;
        let place = Place::at_backend(answer & COUNTED != 0);
        return match maps::backend(id) {
            Some(backend) => Selection { place, ..Selection::of(service, id, backend, Probe(answer as u32)) },
            None => Selection::none(Found::Inconsistent),
        };
    }
    if answer & INCONSISTENT != 0 {
        return Selection::none(Found::Inconsistent);
    }
    Selection { id: answer as u32, ..Selection::none(Found::Nothing) }
}

/// In the answer of [`segue_first_that_takes`]: a backend was found, its id in the upper half, the probe in the lower.
const TAKEN: u64 = 1 << 63;
/// In that answer: the tables named something that is not there. With neither, the limit that is in the way.
const INCONSISTENT: u64 = 1 << 62;
/// In that answer, where one was found: the connection is counted there already.
const COUNTED: u64 = 1 << 61;
/// The bits of an id beside these.
const MAX_ID: u32 = (1 << 29) - 1;

/// See [`one_that_takes`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_first_that_takes(service: u32, first: u32, now_ns: u64, flags: u32) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let now = Moment { ns: now_ns };
    let (is_datagram, has_handshake) = (flags & 1 != 0, flags & 2 != 0);
    first_that_takes(&Asking { service, policy, now, is_datagram, has_handshake }, first)
}

#[inline(always)]
fn taken(asking: &Asking, id: u32, probe: u64) -> u64 {
    let counted = if limits::counts_at_backend(asking) { COUNTED } else { 0 };
    TAKEN | counted | u64::from(id) << 32 | probe
}

/// The first backend that takes the connection, from the algorithm's choice on and then round the others. Where
/// none does and too few are healthy to believe it, the algorithm's choice. An answer as of [`segue_first_that_takes`].
#[inline(always)]
fn first_that_takes(asking: &Asking, first: u32) -> u64 {
    let Asking { service, policy, .. } = *asking;
    let mut id = first;
    let mut turn = 0;
    let mut limit = limits::FREE;
    while turn < MAX_CANDIDATES {
        let Some(backend) = maps::backend(id) else { return INCONSISTENT };
        if backend.service != service || backend.status == BackendStatus::Vacant as u32 {
            return INCONSISTENT;
        }
        // A backend in slow start passes on some of what falls to it, but not what nobody else takes.
        let picky = turn == 0 && policy.ready_backends > 1;
        let answer = limits::admit(asking, id, backend, picky);
        if answer <= limits::ADMITTED_MAX {
            return taken(asking, id, answer);
        }
        limit = limits::limit_in(answer, limit);
        id = backend.next;
        turn += 1;
        if id == first || turn >= policy.ready_backends {
            break;
        }
    }
    // Once more without the slow start's modesty: the first choice may have passed for that alone.
    let Some(backend) = maps::backend(first) else { return INCONSISTENT };
    if policy.breaker.mode != BreakerMode::Off as u8 {
        let answer = limits::admit(asking, first, backend, false);
        if answer <= limits::ADMITTED_MAX {
            return taken(asking, first, answer);
        }
        limit = limits::limit_in(answer, limit);
    }
    // A backend that is full is a healthy one: then there is no panic.
    if limit != limits::FREE {
        return u64::from(limit);
    }
    // Panic distrusts breakers, not an operator.
    if !breaker::is_ordered_away(asking, backend) && breaker::panics(asking) {
        let limit = limits::enter_without_breaker(asking, first);
        if limit != limits::FREE {
            return u64::from(limit);
        }
        return taken(asking, first, u64::from(Probe::NONE.0));
    }
    u64::from(limits::FREE)
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
    let answer = limits::admit(asking, value.backend, backend, false);
    if answer > limits::ADMITTED_MAX {
        return none;
    }
    let probe = Probe(answer as u32);
    let place = Place::at_backend(limits::counts_at_backend(asking));
    Selection { affine: true, place, ..Selection::of(asking.service, value.backend, backend, probe) }
}

/// Not a part of its caller, whose stack is short.
#[inline(never)]
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
pub(super) extern "C" fn segue_client() -> u64 {
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
