//! Which backend a connection or datagram goes to: follows the tables and asks `decide` at each fork.

use agent_ebpf::abi::limits::{MAX_BACKENDS, MAX_CANDIDATES, MAX_CGROUP_LEVELS, MAX_FALLBACKS};
use agent_ebpf::abi::{AffinityKey, AffinityValue, Algorithm, Backend, BackendStatus, Probe, Subset};
use agent_ebpf::decide::balance::{self, Side, peak_ewma, random};
use agent_ebpf::decide::breaker::avoidance::NOBODY;
use agent_ebpf::decide::breaker::ejection;
use agent_ebpf::decide::locality::{self, Window};
use agent_ebpf::decide::{affinity, census, split};

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
        let mut answer = segue_choose(service, now.ns);
        if answer < INCONSISTENT {
            if (answer >> 32) as u32 & AFFINE == 0 {
                answer = segue_taker(service, answer as u32, (answer >> 32) as u32, now.ns);
            }
            if policy.affinity_timeout_ms != 0 && answer < INCONSISTENT {
                segue_remember(service, (answer >> 32) as u32 & !AFFINE, now.ns);
            }
        }
        if answer == INCONSISTENT {
            return Selection::none(Found::Inconsistent);
        }
        if answer != NOTHING {
            let id = (answer >> 32) as u32 & !AFFINE;
            let Some(backend) = maps::backend(id) else { return Selection::none(Found::Inconsistent) };
            let affine = (answer >> 32) as u32 & AFFINE != 0;
            return Selection { affine, ..Selection::of(service, id, backend, Probe(answer as u32)) };
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

/// Set beside the id of a backend that was chosen by the client's affinity.
const AFFINE: u32 = 1 << 30;
const _: () = assert!(MAX_BACKENDS <= AFFINE);

/// Selects among the service's own backends. By the client's affinity: the id with [`AFFINE`] above and what it admits
/// the connection as below. Else what the algorithm wants, below, and how backends are to be asked, above. Or
/// [`NOTHING`] or [`INCONSISTENT`].
///
/// A global function, so that the verifier reads it once and not once per fallback; and apart from [`segue_taker`], so
/// that their frames do not stand on the kernel's 512 bytes of stack together.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_choose(service: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let now = Moment { ns: now_ns };
    let asking = &Asking { service, policy, now };
    let Some(algorithm) = policy.algorithm() else { return INCONSISTENT };
    let has_affinity = policy.affinity_timeout_ms != 0;
    let client = if has_affinity || balance::needs_client(algorithm) { segue_client() } else { 0 };
    let key = AffinityKey { client, service, _pad: 0 };
    if has_affinity {
        let answer = affine(asking, &key);
        if answer != NOTHING {
            return answer | u64::from(AFFINE) << 32;
        }
    }
    let subset_draw = if policy.subset_count > 1 { context::draw() } else { 0 };
    let Some(subset) = split::subset(policy, subset_draw) else { return INCONSISTENT };
    if subset.slot_count == 0 {
        return NOTHING;
    }
    let Some((window, how)) = window(asking, subset) else { return INCONSISTENT };
    let Some(first) = first_choice(service, algorithm, window, client, now) else { return INCONSISTENT };
    u64::from(how) << 32 | u64::from(first)
}

/// The slots the connection may take, by zone and health, and how backends are to be asked.
#[inline(always)]
fn window(asking: &Asking, subset: &Subset) -> Option<(Window, u32)> {
    let policy = asking.policy;
    let is_divided = locality::is_divided(subset);
    let (mut how, mut share_permille) = (ANY, 1_000);
    if is_divided || breaker::may_panic(policy) {
        // From a random one on: of a very large service, a sample is counted.
        let place = random::position(subset.slot_count, context::draw()).slot;
        let from = maps::slot(subset.first_slot.wrapping_add(place))?.backend;
        let census = breaker::census(asking, from);
        let in_question = census.in_question();
        if breaker::may_panic(policy)
            && ejection::panic(in_question.total, in_question.healthy, policy.breaker.panic_percent)
        {
            how = PANIC;
        } else if census.ejected() > 0 {
            share_permille = locality::local_share_permille(census.near(), census.elsewhere());
        }
    }
    if !is_divided {
        return Some((locality::window(subset, true), how));
    }
    let stays = locality::stays(share_permille, context::draw());
    Some((locality::window(subset, stays), how | if stays { NEAR } else { ELSEWHERE }))
}

/// The backend the algorithm wants.
#[inline(always)]
fn first_choice(service: u32, algorithm: Algorithm, window: Window, client: u64, now: Moment) -> Option<u32> {
    let cursor = if balance::needs_cursor(algorithm) { next_cursor(service) } else { 0 };
    let inputs = balance::Inputs { draw: context::draw(), client, cursor };
    let first = balance::position(algorithm, window.slot_count, &inputs)?;
    let one = at_position(window, first)?;
    if !balance::compares(algorithm) {
        return Some(one);
    }
    let second = balance::second_position(algorithm, window.slot_count, first, context::draw());
    let other = at_position(window, second)?;
    let (left, right) = (load(one, now)?, load(other, now)?);
    match balance::compare(algorithm, left, right) {
        Side::Left => Some(one),
        Side::Right => Some(other),
    }
}

#[inline(always)]
fn at_position(window: Window, position: balance::Position) -> Option<u32> {
    let slot = maps::slot(window.first_slot.wrapping_add(position.slot))?;
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

/// How backends are asked: which side of the zone's border may answer.
const ANY: u32 = 0;
/// Only those in the preferred zone.
const NEAR: u32 = 1;
/// Only the others.
const ELSEWHERE: u32 = 2;
/// Breakers are not believed.
const PANIC: u32 = 4;
/// The last time: nobody is avoided or declines, and where no breaker of those asked lets it pass, that is panic too.
const LAST: u32 = 8;

/// No backend took the connection.
const NOTHING: u64 = u64::MAX;
/// The tables named something that is not there.
const INCONSISTENT: u64 = u64::MAX - 1;

/// The first backend that takes the connection, from the algorithm's choice on and then round the others: first on
/// the side of the border where it is to go, then on both, at last the one avoided too.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_taker(service: u32, first: u32, how: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let avoided = breaker::avoided(&Asking { service, policy, now: Moment { ns: now_ns } });
    let mut answer = segue_go_round(service, first, avoided, how, now_ns);
    if answer == NOTHING && how & (NEAR | ELSEWHERE) != 0 {
        answer = segue_go_round(service, first, avoided, how & PANIC | QUIET_LAP, now_ns);
    }
    if answer == NOTHING {
        answer = segue_go_round(service, first, NOBODY, how & PANIC | LAST | QUIET_LAP, now_ns);
    }
    if answer >= INCONSISTENT {
        return answer;
    }
    let id = (answer >> 32) as u32;
    let Some(backend) = maps::backend(id) else { return INCONSISTENT };
    if let Some(state) = maps::service_state(service) {
        if first == avoided && id != avoided {
            maps::add(&mut state.kept_away, 1);
        }
        if how & (NEAR | ELSEWHERE) != 0 {
            let near = census::is_near(backend.zone, policy.zone) != 0;
            maps::add(if near { &mut state.near } else { &mut state.overflowed }, 1);
        }
    }
    answer
}

/// Refusals were counted in a lap before.
const QUIET_LAP: u32 = 16;

/// Asks one backend of the ring after the other, once round. The taker's id and what it admits the connection as, in
/// one word; [`NOTHING`] or [`INCONSISTENT`] else. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_go_round(service: u32, first: u32, avoided: u32, how: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let asking = Asking { service, policy, now: Moment { ns: now_ns } };
    let quiet = if how & (PANIC | QUIET_LAP) != 0 { breaker::QUIET } else { 0 };
    let mut id = first;
    let mut turn = 0;
    while turn < MAX_CANDIDATES {
        let Some(backend) = maps::backend(id) else { return INCONSISTENT };
        if backend.service != service || backend.status == BackendStatus::Vacant as u32 {
            return INCONSISTENT;
        }
        let side = if census::is_near(backend.zone, policy.zone) != 0 { ELSEWHERE } else { NEAR };
        if id != avoided && how & side == 0 {
            // A backend in slow start passes on some of what falls to it, but not what nobody else takes.
            let is_picky = turn == 0 && policy.ready_backends > 1 && how & (LAST | PANIC) == 0;
            let answer =
                breaker::admit(&asking, id, backend, quiet | if is_picky { breaker::PICKY } else { 0 });
            if answer != breaker::REFUSED {
                return u64::from(id) << 32 | answer;
            }
            // Panic distrusts breakers, not an operator.
            if how & PANIC != 0 && !breaker::is_ordered_away(&asking, backend) {
                panicked(service);
                return u64::from(id) << 32;
            }
        }
        id = backend.next;
        turn += 1;
        if id == first || turn >= policy.ready_backends {
            break;
        }
    }
    let Some(backend) = maps::backend(first) else { return INCONSISTENT };
    if how & LAST != 0 && breaker::may_panic(policy) && !breaker::is_ordered_away(&asking, backend) {
        panicked(service);
        return u64::from(first) << 32;
    }
    NOTHING
}

#[inline(always)]
fn panicked(service: u32) {
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.panicked, 1);
    }
}

/// The backend the client was given last, where that still holds and the backend takes it; else [`NOTHING`].
#[inline(always)]
fn affine(asking: &Asking, key: &AffinityKey) -> u64 {
    let Some(value) = maps::affinity(key) else { return NOTHING };
    let Some(backend) = maps::backend(value.backend) else { return NOTHING };
    if !affinity::holds(asking.policy, &value, backend, asking.now.ns) {
        return NOTHING;
    }
    if value.backend == breaker::avoided(asking) {
        return NOTHING;
    }
    match breaker::admit(asking, value.backend, backend, 0) {
        breaker::REFUSED => NOTHING,
        answer => u64::from(value.backend) << 32 | answer,
    }
}

/// Remembers which backend the client was given. A global function, as [`segue_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_remember(service: u32, id: u32, now_ns: u64) -> u32 {
    let Some(backend) = maps::backend(id) else { return 0 };
    let key = AffinityKey { client: segue_client(), service, _pad: 0 };
    let value = AffinityValue { used_at_ns: now_ns, backend: id, generation: backend.generation };
    maps::set_affinity(&key, &value);
    0
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
