//! Which backend a connection or datagram goes to: follows the tables and asks `decide` at each fork.

use agent_ebpf::abi::admission::LIMITS;
use agent_ebpf::abi::limits::{MAX_BACKENDS, MAX_CANDIDATES, MAX_FALLBACKS};
use agent_ebpf::abi::{AffinityKey, AffinityValue, BackendStatus, CellWord, Policy, Probe, Subset};
use agent_ebpf::decide::balance::{self, random};
use agent_ebpf::decide::breaker::avoidance::NOBODY;
use agent_ebpf::decide::breaker::ejection;
use agent_ebpf::decide::locality::{self, Window};
use agent_ebpf::decide::{affinity, census, ordinary, split};

use super::breaker::{self, Asking};
use super::choice::{first_choice, segue_client};
use super::limits::{self, Place};
use crate::context::{self, Moment};
use crate::maps;

/// What the tables and the policy say. A flat record and not an enum with payloads: in those the compiler keeps a
/// pointer and a number in the same place, and works on whichever it is before it looks, which the verifier forbids.
#[derive(Clone, Copy)]
pub(crate) struct Selection {
    /// What was found.
    pub(crate) found: Found,
    /// The service that was asked for.
    pub(crate) asked: u32,
    /// The service the backend belongs to: the one asked for, or a fallback of it.
    pub(crate) service: u32,
    /// The backend's id; where nothing was found, the limit that is in the way, as in [`Place::limit`].
    pub(crate) id: u32,
    /// Chosen by the client's affinity.
    pub(crate) affine: bool,
    /// What the backend's breaker admitted the connection as.
    pub(crate) probe: Probe,
    /// What was taken of the limits.
    pub(crate) place: Place,
    /// The client, where the service limits its clients; else 0.
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
            asked: 0,
            service: 0,
            id: 0,
            affine: false,
            probe: Probe::NONE,
            place: Place::NONE,
            client: 0,
        }
    }
}

/// Selects a backend of a service, or of its fallbacks where nothing of it is usable. `caller` is how it is asked for,
/// as in [`limits::HANDSHAKE`].
#[inline(always)]
pub(crate) fn select(requested: u32, caller: u32, now: Moment) -> Selection {
    let mut service = requested;
    let mut limit = limits::FREE;
    let mut hop = 0;
    while hop < MAX_FALLBACKS {
        let Some(policy) = maps::policy_of(service) else { return Selection::none(Found::Inconsistent) };
        let client = limits::client_of(policy, caller);
        let place = limits::enter(service, policy, client, caller, now);
        let mut in_the_way = place.limit();
        if in_the_way == limits::FREE {
            let answer = answer(service, policy, caller, now);
            if answer < NOTHING {
                return found(requested, service, answer, place, client);
            }
            limits::leave(service, place, client, caller);
            if answer == INCONSISTENT {
                return Selection::none(Found::Inconsistent);
            }
            in_the_way = limit_in(answer);
        }
        // The first limit that was in the way is the reason; what a fallback lacked is not what was asked for.
        if limit == limits::FREE {
            limit = in_the_way;
        }
        // A client that has its share gets no more of it from the fallback, which others need.
        if policy.fallback == 0 || limits::is_clients(in_the_way) {
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

/// The ordinary way where that is enough, else the general one.
#[inline(always)]
fn answer(service: u32, policy: &Policy, caller: u32, now: Moment) -> u64 {
    let mut first = NOBODY;
    if ordinary::is_ordinary(policy) {
        let answer = segue_ordinary(service, caller, now.ns);
        if answer & UNDECIDED != UNDECIDED || answer >= NOTHING {
            return answer;
        }
        first = answer as u32;
    }
    segue_select(service, caller, now.ns, first)
}

/// What an answer of [`segue_select`] names.
#[inline(always)]
fn found(asked: u32, service: u32, answer: u64, place: Place, client: u64) -> Selection {
    let above = (answer >> 32) as u32;
    Selection {
        found: Found::Backend,
        asked,
        service,
        id: above & MAX_ID,
        affine: above & AFFINE != 0,
        probe: Probe(answer as u32),
        place: place.and(Place::at_backend(above & COUNTED != 0)),
        client,
    }
}

/// Makes the system call that is about to be refused fail with the errno that the service asked for names.
#[inline(always)]
pub(crate) fn refuse_as_asked(service: u32) {
    if let Some(policy) = maps::policy_of(service) {
        context::refuse_with(policy.refuse_errno);
    }
}

/// Set beside the id of a backend that was chosen by the client's affinity.
const AFFINE: u32 = 1 << 30;
/// Set beside the id of a backend at which the connection is counted already.
const COUNTED: u32 = 1 << 29;
/// The bits of an id beside these.
const MAX_ID: u32 = COUNTED - 1;
const _: () = assert!(MAX_BACKENDS <= COUNTED);

/// Set where the ordinary way ends without an answer. Below it stands the backend the algorithm wants, or [`NOBODY`].
const UNDECIDED: u64 = 1 << 63;
const _: () = assert!(NOTHING & UNDECIDED != 0 && (AFFINE | COUNTED | MAX_ID) as u64 >> 31 == 0);

/// Selects among the backends of an ordinary service where nothing goes wrong: one look at each table, and no call
/// where the backend has no limit. As [`segue_select`], or [`UNDECIDED`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_ordinary(service: u32, caller: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let now = Moment { ns: now_ns };
    let asking = &Asking { service, policy, now };
    let Some(state) = maps::service_state(service) else { return INCONSISTENT };
    let (ejected, failed_ticks) = (maps::read(&state.ejected), maps::read(&state.failed_ticks));
    if !ordinary::is_quiet(policy, ejected, failed_ticks, now.ticks()) {
        return UNDECIDED | u64::from(NOBODY);
    }
    let Some(algorithm) = policy.algorithm() else { return INCONSISTENT };
    let subset = &policy.subsets[0];
    if subset.slot_count == 0 {
        return NOTHING;
    }
    let window = locality::window(subset, true);
    let Some(id) = first_choice(service, algorithm, window, 0, now) else { return INCONSISTENT };
    let (Some(backend), Some(state)) = (maps::backend(id), maps::backend_state(id)) else {
        return INCONSISTENT;
    };
    if backend.service != service {
        return INCONSISTENT;
    }
    // That a limit is in the way is counted on the general way.
    if !ordinary::takes(policy, backend, CellWord(maps::read(&state.cell.0)), now_ns)
        || limits::enter_backend(asking, id, caller | limits::QUIET) != limits::FREE
    {
        return UNDECIDED | u64::from(id);
    }
    taken(asking, id, caller, 0)
}

/// Selects among the service's own backends: a taker as [`taken`] says, or [`NOTHING`], a limit ([`limited`]) or
/// [`INCONSISTENT`]. `first` is the backend the algorithm wants, or [`NOBODY`] where it was not asked yet. A global
/// function, so that what stands on its callers' stack is as little as can be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_select(service: u32, caller: u32, now_ns: u64, first: u32) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let mut answer = if first == NOBODY { segue_choose(service, caller, now_ns) } else { u64::from(first) };
    if answer >= NOTHING {
        return answer;
    }
    if (answer >> 32) as u32 & AFFINE == 0 {
        answer = segue_taker(service, answer as u32, (answer >> 32) as u32 | caller << CALLER, now_ns);
    }
    if policy.affinity_timeout_ms != 0 && answer < NOTHING {
        segue_remember(service, (answer >> 32) as u32 & MAX_ID, now_ns);
    }
    answer
}

/// Selects among the service's own backends. By the client's affinity: the id with [`AFFINE`] above and what it admits
/// the connection as below. Else what the algorithm wants, below, and how backends are to be asked, above. Or
/// [`NOTHING`] or [`INCONSISTENT`].
///
/// A global function, so that the verifier reads it once and not once per fallback; and apart from [`segue_taker`], so
/// that their frames do not stand on the kernel's 512 bytes of stack together.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_choose(service: u32, caller: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let now = Moment { ns: now_ns };
    let asking = &Asking { service, policy, now };
    let Some(algorithm) = policy.algorithm() else { return INCONSISTENT };
    let has_affinity = policy.affinity_timeout_ms != 0;
    let client = if has_affinity || balance::needs_client(algorithm) { segue_client() } else { 0 };
    let key = AffinityKey { client, service, _pad: 0 };
    if has_affinity {
        let answer = affine(asking, &key, caller);
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

/// Refusals were counted in a lap before.
const QUIET_LAP: u32 = 16;
/// How a backend is asked for stands from this bit on, as in [`limits::HANDSHAKE`].
const CALLER: u32 = 8;

/// No backend took the connection. Between this and [`INCONSISTENT`], for a limit: see [`limited`].
const NOTHING: u64 = u64::MAX - 16;
/// The tables named something that is not there.
const INCONSISTENT: u64 = u64::MAX;
/// No backend took the connection, but one only because it is in slow start: asked once more, it would.
const DECLINED: u64 = INCONSISTENT - 1;
const _: () = assert!((LIMITS as u64) < DECLINED - NOTHING);

/// No backend took the connection, and this limit, if it is not [`limits::FREE`], was in the way.
#[inline(always)]
const fn limited(limit: u32) -> u64 {
    NOTHING + limit as u64
}

/// The limit in such an answer.
#[inline(always)]
const fn limit_in(answer: u64) -> u32 {
    (answer - NOTHING) as u32
}

/// A backend took the connection: its id, whether it is counted there, and what it was admitted as.
#[inline(always)]
fn taken(asking: &Asking, id: u32, caller: u32, probe: u64) -> u64 {
    let counted = if limits::counts_at_backend(asking.policy, caller) { COUNTED } else { 0 };
    u64::from(id | counted) << 32 | probe
}

/// The first backend that takes the connection, from the algorithm's choice on and then round the others: first on
/// the side of the border where it is to go, then on both, at last the one avoided too.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_taker(service: u32, first: u32, how: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let avoided = breaker::avoided(&Asking { service, policy, now: Moment { ns: now_ns } });
    let mut answer = segue_go_round(service, first, avoided, how, now_ns);
    let again = how & !(NEAR | ELSEWHERE) | QUIET_LAP;
    if is_nothing(answer) && how & (NEAR | ELSEWHERE) != 0 {
        answer = segue_go_round(service, first, avoided, again, now_ns);
    }
    // A last lap only where it could end otherwise: where everybody refused, everybody would again.
    if is_nothing(answer) && (answer == DECLINED || avoided != NOBODY || breaker::may_panic(policy)) {
        answer = segue_go_round(service, first, NOBODY, again | LAST, now_ns);
    }
    if answer >= NOTHING {
        return answer;
    }
    let id = (answer >> 32) as u32 & MAX_ID;
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

#[inline(always)]
const fn is_nothing(answer: u64) -> bool {
    answer >= NOTHING && answer != INCONSISTENT
}

/// Asks one backend of the ring after the other, once round: a taker as [`taken`] says, or [`NOTHING`], a limit
/// ([`limited`]) or [`INCONSISTENT`]. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_go_round(service: u32, first: u32, avoided: u32, how: u32, now_ns: u64) -> u64 {
    let Some(policy) = maps::policy_of(service) else { return INCONSISTENT };
    let asking = Asking { service, policy, now: Moment { ns: now_ns } };
    let quiet = if how & (PANIC | QUIET_LAP) != 0 { breaker::QUIET } else { 0 };
    let caller = how >> CALLER | if how & QUIET_LAP != 0 { limits::QUIET } else { 0 };
    let mut limit = limits::FREE;
    let mut has_declined = false;
    let mut id = first;
    let mut turn = 0;
    while turn < MAX_CANDIDATES {
        let Some(backend) = maps::backend(id) else { return INCONSISTENT };
        if backend.service != service || backend.status == BackendStatus::Vacant as u16 {
            return INCONSISTENT;
        }
        let side = if census::is_near(backend.zone, policy.zone) != 0 { ELSEWHERE } else { NEAR };
        if id != avoided && how & side == 0 {
            let in_the_way = limits::enter_backend(&asking, id, caller);
            if in_the_way == limits::FREE {
                // A backend in slow start passes on some of what falls to it, but not what nobody else takes.
                let is_picky = turn == 0 && policy.ready_backends > 1 && how & (LAST | PANIC) == 0;
                let manner = quiet | if is_picky { breaker::PICKY } else { 0 };
                let answer = breaker::admit(&asking, id, backend, manner);
                if breaker::is_taken(answer) {
                    return taken(&asking, id, caller, answer);
                }
                has_declined |= answer == breaker::DECLINED;
                // Panic distrusts breakers, not an operator.
                if how & PANIC != 0 && !breaker::is_ordered_away(&asking, backend) {
                    panicked(service);
                    return taken(&asking, id, caller, 0);
                }
                limits::leave_backend(&asking, id, caller);
            } else {
                limit = in_the_way;
            }
        }
        id = backend.next;
        turn += 1;
        if id == first || turn >= policy.ready_backends {
            break;
        }
    }
    // A backend that is full is a healthy one: then there is no panic.
    if limit == limits::FREE && how & LAST != 0 && breaker::may_panic(policy) {
        return panic(&asking, first, caller);
    }
    if has_declined && how & LAST == 0 { DECLINED } else { limited(limit) }
}

/// Gives the connection to the algorithm's choice, whatever its breaker says.
#[inline(always)]
fn panic(asking: &Asking, first: u32, caller: u32) -> u64 {
    let Some(backend) = maps::backend(first) else { return INCONSISTENT };
    if breaker::is_ordered_away(asking, backend) {
        return NOTHING;
    }
    let limit = limits::enter_backend(asking, first, caller);
    if limit != limits::FREE {
        return limited(limit);
    }
    panicked(asking.service);
    taken(asking, first, caller, 0)
}

#[inline(always)]
fn panicked(service: u32) {
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.panicked, 1);
    }
}

/// The backend the client was given last, where that still holds and the backend takes it; else [`NOTHING`].
#[inline(always)]
fn affine(asking: &Asking, key: &AffinityKey, caller: u32) -> u64 {
    let Some(value) = maps::affinity(key) else { return NOTHING };
    let Some(backend) = maps::backend(value.backend) else { return NOTHING };
    if !affinity::holds(asking.policy, &value, backend, asking.now.ns) {
        return NOTHING;
    }
    if value.backend == breaker::avoided(asking) {
        return NOTHING;
    }
    if limits::enter_backend(asking, value.backend, caller) != limits::FREE {
        return NOTHING;
    }
    let answer = breaker::admit(asking, value.backend, backend, 0);
    if !breaker::is_taken(answer) {
        limits::leave_backend(asking, value.backend, caller);
        return NOTHING;
    }
    taken(asking, value.backend, caller, answer)
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
