//! The closed loop: what became of connections decides, in the same tables, where the next ones go.
//!
//! A cell is one word that all CPUs change by compare-and-swap; `decide::breaker` says what it becomes.

use agent_ebpf::abi::breaker::ticks;
use agent_ebpf::abi::limits::{MAX_CANDIDATES, MAX_CENSUS, MAX_SWAP_TRIES, WINDOW_BUCKETS};
use agent_ebpf::abi::{
    AffinityKey, Backend, BreakerMode, BreakerState, CellWord, ConnectFailure, Connection, FailedOn, Policy,
    Probe, Verdict as Order, WindowWord,
};
use agent_ebpf::decide::breaker::avoidance::{self, NOBODY};
use agent_ebpf::decide::breaker::cell::{self, Admission};
use agent_ebpf::decide::breaker::signal::{self, Signal};
use agent_ebpf::decide::breaker::window::{self, Totals, Verdict};
use agent_ebpf::decide::breaker::{Change, ejection, slow_start};
use agent_ebpf::decide::census::{self, Census};

use super::latency;
use crate::context::{self, Moment};
use crate::{emit, maps};

/// Who asks for a backend, and when. Handed on by reference: a function of its own takes five words at most.
pub(crate) struct Asking {
    /// The service's id.
    pub(crate) service: u32,
    /// The service's policy.
    pub(crate) policy: &'static Policy,
    /// Now.
    pub(crate) now: Moment,
}

/// Lets a backend in slow start decline.
pub(crate) const PICKY: u32 = 1;
/// A refusal is not counted: it was before, or does not count.
pub(crate) const QUIET: u32 = 2;

/// Whether a backend takes a connection: [`REFUSED`] or [`DECLINED`], or the probe it is admitted as. `manner` is
/// [`PICKY`], [`QUIET`], both or 0.
#[inline(always)]
pub(crate) fn admit(asking: &Asking, id: u32, backend: &'static Backend, manner: u32) -> u64 {
    match backend.verdict.mode(asking.now.ns) {
        Some(BreakerMode::ForcedOpen) => return REFUSED,
        Some(BreakerMode::ForcedClosed) => return ADMITTED,
        _ => {}
    }
    if manner & PICKY != 0 && backend.joined_ticks != 0 && !is_grown(asking, backend) {
        return DECLINED;
    }
    if asking.policy.breaker.mode == BreakerMode::Off as u8 {
        return ADMITTED;
    }
    segue_ask_cell(asking.service, id, asking.now.ns, manner)
}

/// Whether a backend that joined takes a connection that fell to it, by its growing share.
#[inline(always)]
fn is_grown(asking: &Asking, backend: &Backend) -> bool {
    let Asking { policy, now, .. } = *asking;
    let (joined, whole) = (backend.joined_ticks, policy.join_ticks);
    let weight_permille = slow_start::joining_permille(joined, whole, &policy.breaker, now.ticks());
    slow_start::accepts(weight_permille, context::draw())
}

/// The backend does not take the connection.
pub(crate) const REFUSED: u64 = u64::MAX;
/// Not this time: asked once more, it may.
pub(crate) const DECLINED: u64 = u64::MAX - 1;

/// Whether an answer of [`admit`] is that the backend takes the connection.
#[inline(always)]
pub(crate) const fn is_taken(answer: u64) -> bool {
    answer < DECLINED
}
/// It does, as no probe.
const ADMITTED: u64 = Probe::NONE.0 as u64;

/// A global function, which the verifier reads once however many places call it. Takes numbers only: what it may
/// rely on must not depend on the caller. Kernel 5.6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_ask_cell(service: u32, id: u32, now_ns: u64, manner: u32) -> u64 {
    let (Some(policy), Some(state)) = (maps::policy_of(service), maps::backend_state(id)) else {
        return REFUSED;
    };
    let now = Moment { ns: now_ns };
    let now_ticks = now.ticks();
    let mut tries = 0;
    while tries < SWAP_TRIES {
        let word = CellWord(maps::read(&state.cell.0));
        if word.0 == CellWord::CLEAN.0 && policy.breaker.mode == BreakerMode::Enforce as u8 {
            return ADMITTED;
        }
        let (new, admission, change) = cell::admit(word, &policy.breaker, now_ticks);
        if new.0 == word.0 || maps::swap(&mut state.cell.0, word.0, new.0) {
            if change.returns() {
                forget_window(id);
            }
            record(service, id, change, now);
            return judge(service, policy, new, admission, now_ticks, manner);
        }
        tries += 1;
    }
    // So many others changed the cell meanwhile that it must be the busiest in the world: let it be the next.
    DECLINED
}

/// Without compare-and-swap there is next to nothing to try again for, and kernels that old count the stack of every
/// call in steps of 32 bytes: there is none to spare for a loop.
const SWAP_TRIES: u32 = if cfg!(segue_no_compare_and_swap) { 1 } else { MAX_SWAP_TRIES };

/// What an admission means under the policy's mode.
#[inline(always)]
fn judge(
    service: u32,
    policy: &Policy,
    cell: CellWord,
    admission: Admission,
    now_ticks: u32,
    manner: u32,
) -> u64 {
    if admission.is_refusal() {
        let binds = policy.breaker.binds();
        if manner & QUIET != 0 {
            return if binds { REFUSED } else { ADMITTED };
        }
        if let Some(state) = maps::service_state(service) {
            maps::add(if binds { &mut state.avoided } else { &mut state.would_avoid }, 1);
        }
        return if binds { REFUSED } else { ADMITTED };
    }
    let probe = admission.probe();
    if probe.0 != Probe::NONE.0 {
        if let Some(state) = maps::service_state(service) {
            maps::add(&mut state.probes, 1);
        }
    } else if manner & PICKY != 0 && cell.is_recovering() && policy.breaker.binds() {
        let weight_permille = slow_start::weight_permille(cell, &policy.breaker, now_ticks);
        if !slow_start::accepts(weight_permille, context::draw()) {
            return DECLINED;
        }
    }
    u64::from(probe.0)
}

/// Whether an operator ordered that a backend gets no connections.
#[inline(always)]
pub(crate) fn is_ordered_away(asking: &Asking, backend: &Backend) -> bool {
    matches!(backend.verdict.mode(asking.now.ns), Some(BreakerMode::ForcedOpen))
}

/// Whether breakers of this service may be disbelieved at all: they decide by themselves, and there is nowhere else
/// to go.
#[inline(always)]
pub(crate) fn may_panic(policy: &Policy) -> bool {
    policy.breaker.mode == BreakerMode::Enforce as u8
        && policy.fallback == 0
        && policy.breaker.panic_percent > 0
}

/// How the backends of a ring are doing, from this one on. Empty where no breaker is open, which is the
/// usual case and costs nothing.
#[inline(always)]
pub(crate) fn census(asking: &Asking, from: u32) -> Census {
    let Asking { service, policy, now } = *asking;
    let Some(state) = maps::service_state(service) else { return Census::EMPTY };
    let ejected = maps::read(&state.ejected);
    if ejected == 0 || policy.breaker.mode != BreakerMode::Enforce as u8 {
        return Census::EMPTY;
    }
    let census = Census(segue_census(from, policy.zone, policy.ready_backends, now.ns));
    // Backends that left while they were ejected still stand in the hint. What it held before they were counted is
    // taken off and no more, so that one that is ejected meanwhile stays in.
    if census.ejected() == 0 && policy.ready_backends <= MAX_CENSUS {
        maps::add(&mut state.ejected, 0u64.wrapping_sub(ejected));
    }
    census
}

/// Walks a ring and counts. A global function: its loop is read once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_census(from: u32, preferred_zone: u32, ready_backends: u32, now_ns: u64) -> u64 {
    let mut census = Census::EMPTY;
    let mut at = from;
    let mut turn = 0;
    while turn < MAX_CENSUS && turn < ready_backends {
        let (Some(backend), Some(state)) = (maps::backend(at), maps::backend_state(at)) else { break };
        // Arithmetic that the compiler could turn into branches goes through `unproven`.
        let near = maps::unproven(census::is_near(backend.zone, preferred_zone) as usize) as u64;
        let order = Order(maps::unproven(maps::read(&backend.verdict.0) as usize) as u64);
        let cell = CellWord(maps::unproven(maps::read(&state.cell.0) as usize) as u64);
        census = census.with(near, cell, order, now_ns);
        at = backend.next;
        turn += 1;
        if at == from {
            break;
        }
    }
    census.0
}

/// The backend this client has just failed on, if it is to be kept away from it: else [`NOBODY`].
#[inline(always)]
pub(crate) fn avoided(asking: &Asking) -> u32 {
    let Asking { service, policy, now } = *asking;
    if policy.breaker.mode != BreakerMode::Enforce as u8 {
        return NOBODY;
    }
    let Some(state) = maps::service_state(service) else { return NOBODY };
    let (period_ticks, now_ticks) = (u32::from(policy.breaker.avoidance_ticks), now.ticks());
    if !avoidance::is_recent(maps::read(&state.failed_ticks) as u32, period_ticks, now_ticks) {
        return NOBODY;
    }
    let key = AffinityKey { client: context::current_cgroup(), service, _pad: 0 };
    maps::failed_on(&key).avoided(period_ticks, now_ticks)
}

/// Keeps that a client failed on a backend. A global function: its key takes no room on the stack of who calls it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_keep_failure(client: u64, service: u32, id: u32, now_ns: u64) -> u32 {
    let (Some(policy), Some(state)) = (maps::policy_of(service), maps::service_state(service)) else {
        return 0;
    };
    if policy.breaker.mode != BreakerMode::Enforce as u8 || policy.breaker.avoidance_ticks == 0 {
        return 0;
    }
    let now_ticks = ticks(now_ns);
    maps::set_failed_on(&AffinityKey { client, service, _pad: 0 }, FailedOn::new(id, now_ticks));
    state.failed_ticks = u64::from(now_ticks);
    1
}

/// What a connection has to tell its backend's breaker.
#[derive(Clone, Copy)]
pub(crate) enum Report {
    /// The handshake is done, after so long.
    Established {
        /// From `connect()` to the end of the handshake.
        connect_ns: u64,
        /// As [`is_slow`] says. Then this is all that is to be said of it, unless it fails.
        slow: bool,
    },
    /// Bytes came back, it ended in good order, or an answer was in order.
    Good,
    /// An answer was in order, but took long.
    Slow,
    /// It failed in this way.
    Failed(Signal),
    /// Nothing was learnt.
    Abandoned,
}

/// Tells a backend's breaker what became of a connection.
#[inline(always)]
pub(crate) fn report(connection: &Connection, report: Report, now: Moment) {
    let Some(policy) = maps::policy_of(connection.service) else { return };
    let Some(backend) = maps::backend(connection.backend) else { return };
    // The id may be another backend's by now, who has nothing to do with this.
    if backend.generation != connection.backend_generation {
        return;
    }
    latency::keep(connection, report, now);
    if policy.breaker.mode == BreakerMode::Off as u8 {
        return;
    }
    match report {
        Report::Established { slow: true, .. } | Report::Slow => {
            tally(connection, policy, Verdict::Slow, now);
            change(connection, Step::Slow, now);
        }
        Report::Established { slow: false, .. } => {
            if connection.probe.0 != Probe::NONE.0 {
                change(connection, Step::Established, now);
            }
        }
        Report::Good => {
            tally(connection, policy, Verdict::Good, now);
            change(connection, Step::Good, now);
        }
        Report::Failed(signal) if signal::counts(&policy.breaker, signal) => {
            segue_keep_failure(connection.cgroup, connection.service, connection.backend, now.ns);
            tally(connection, policy, Verdict::Failed, now);
            change(connection, Step::Failed, now);
        }
        Report::Failed(_) | Report::Abandoned => {
            if connection.probe.0 != Probe::NONE.0 {
                change(connection, Step::Abandoned, now);
            }
        }
    }
}

/// Whether a handshake that took so long is one that the policy's slow ratio counts.
#[inline(always)]
pub(crate) fn is_slow(connection: &Connection, connect_ns: u64) -> bool {
    maps::policy_of(connection.service)
        .is_some_and(|policy| policy.breaker.slow_percent > 0 && policy.breaker.is_slow(connect_ns / 1_000))
}

/// Whether a handshake the application gave up had waited so long without any answer that this is the backend's
/// fault: few applications wait as long as the kernel does.
#[inline(always)]
pub(crate) fn waited_in_vain(connection: &Connection, waited_ns: u64) -> bool {
    maps::policy_of(connection.service).is_some_and(|policy| policy.breaker.is_slow(waited_ns / 1_000))
}

/// Whether the cell is anything but closed and clean: then it is worth seeing a connection's first answer at once,
/// and not when the connection ends.
#[inline(always)]
pub(crate) fn is_waiting(connection: &Connection) -> bool {
    connection.probe.0 != Probe::NONE.0
        || maps::backend_state(connection.backend)
            .is_some_and(|state| CellWord(maps::read(&state.cell.0)).consecutive_failures() > 0)
}

/// What a report does to a cell, by number: see [`segue_try_change`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Step {
    Established = 0,
    Good = 1,
    Failed = 2,
    Abandoned = 3,
    Slow = 4,
}

/// Applies a [`Step`] to a backend's cell, unless another CPU changed it meanwhile: then 0, and it is to be tried
/// again. A global function, as [`segue_ask_cell`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_try_change(service: u32, id: u32, probe: u32, step: u32, now_ns: u64) -> u32 {
    let (Some(policy), Some(state)) = (maps::policy_of(service), maps::backend_state(id)) else { return 1 };
    let now = Moment { ns: now_ns };
    let (policy, probe, now_ticks) = (&policy.breaker, Probe(probe), now.ticks());
    let word = CellWord(maps::read(&state.cell.0));
    let (new, change) = if step == Step::Failed as u32 || step == Step::Slow as u32 {
        let totals = window_totals(service, id, now);
        let may_eject = segue_another_may_go(service, id) != 0;
        let verdict = if step == Step::Slow as u32 { Verdict::Slow } else { Verdict::Failed };
        let draw = context::draw();
        cell::report(word, policy, &cell::Report { verdict, totals, probe, now_ticks, draw, may_eject })
    } else if step == Step::Good as u32 {
        cell::good(word, policy, now_ticks, probe)
    } else if step == Step::Established as u32 {
        (cell::established(word, policy, now_ticks, probe), Change::NONE)
    } else {
        (cell::abandoned(word, probe), Change::NONE)
    };
    if new.0 != word.0 && !maps::swap(&mut state.cell.0, word.0, new.0) {
        return 0;
    }
    if change.returns() {
        forget_window(id);
    }
    if change.capped().is_some() {
        if let Some(state) = maps::service_state(service) {
            maps::add(&mut state.capped, 1);
        }
    }
    record(service, id, change, now);
    1
}

#[inline(always)]
fn change(connection: &Connection, step: Step, now: Moment) {
    let (service, id, probe) = (connection.service, connection.backend, connection.probe.0);
    let mut tries = 0;
    while tries < MAX_SWAP_TRIES {
        if segue_try_change(service, id, probe, step as u32, now.ns) != 0 {
            return;
        }
        tries += 1;
    }
}

/// What the window holds, as three fields of 21 bits: eight buckets of 65 535 fit. A global function: its eight
/// branches are read once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_window_totals(service: u32, id: u32, now_ns: u64) -> u64 {
    let (Some(policy), Some(state)) = (maps::policy_of(service), maps::backend_state(id)) else { return 0 };
    let totals = window::sum(&state.window, window::epoch(&policy.breaker, now_ns));
    u64::from(totals.good) | u64::from(totals.failed) << 21 | u64::from(totals.slow) << 42
}

#[inline(always)]
fn window_totals(service: u32, id: u32, now: Moment) -> Totals {
    const FIELD: u64 = (1 << 21) - 1;
    let packed = segue_window_totals(service, id, now.ns);
    Totals {
        good: (packed & FIELD) as u32,
        failed: (packed >> 21 & FIELD) as u32,
        slow: (packed >> 42 & FIELD) as u32,
    }
}

/// Whether one more backend may be ejected, counting those that are. Two CPUs that count in the same instant may
/// both find room for one: the cap may be passed by as many backends as there are CPUs, less one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_another_may_go(service: u32, id: u32) -> u32 {
    let Some(policy) = maps::policy_of(service) else { return 0 };
    // All, the last one included: the operator said so, or there is a fallback.
    if policy.breaker.ejection_cap_percent >= 100 {
        return 1;
    }
    let mut ejected = 0;
    let mut at = id;
    let mut turn = 0;
    while turn < MAX_CANDIDATES && turn < policy.ready_backends {
        let Some(state) = maps::backend_state(at) else { break };
        // Added and not counted by a branch: the verifier would follow every combination of branches.
        let state = maps::unproven(CellWord(maps::read(&state.cell.0)).state_number() as usize);
        ejected += ((state | state >> 1) & 1) as u32;
        let Some(backend) = maps::backend(at) else { break };
        at = backend.next;
        turn += 1;
        if at == id {
            break;
        }
    }
    u32::from(ejection::may_eject(turn, ejected, policy.breaker.ejection_cap_percent))
}

#[inline(always)]
fn tally(connection: &Connection, policy: &Policy, verdict: Verdict, now: Moment) {
    let epoch = window::epoch(&policy.breaker, now.ns);
    let Some(state) = maps::backend_state(connection.backend) else { return };
    let Some(bucket) = state.window.get_mut(maps::unproven(window::bucket(epoch))) else { return };
    let mut tries = 0;
    while tries < MAX_SWAP_TRIES {
        let word = WindowWord(maps::read(&bucket.0));
        if maps::swap(&mut bucket.0, word.0, window::record(word, epoch, verdict).0) {
            return;
        }
        tries += 1;
    }
}

#[inline(always)]
fn forget_window(id: u32) {
    let Some(state) = maps::backend_state(id) else { return };
    let mut bucket = 0;
    while bucket < WINDOW_BUCKETS {
        if let Some(word) = state.window.get_mut(bucket) {
            maps::clear(&mut word.0);
        }
        bucket += 1;
    }
}

/// Counts a transition and tells those who listen.
#[inline(always)]
fn record(service: u32, id: u32, change: Change, now: Moment) {
    let code = change.code();
    if code & 0xff != 1 {
        return;
    }
    let (from, to, reason) = (code >> 8 & 0xf, code >> 16 & 0xf, code >> 24);
    if let Some(state) = maps::service_state(service) {
        let counter = if to == BreakerState::Open as u32 {
            &mut state.opened
        } else if to == BreakerState::HalfOpen as u32 {
            &mut state.half_opened
        } else {
            &mut state.closed
        };
        maps::add(counter, 1);
        // Up where it was closed, down where it is.
        let change = u64::from(from == 0).wrapping_sub(u64::from(to == 0));
        maps::add(&mut state.ejected, change);
    }
    if let Some(backend) = maps::backend(id) {
        emit::transition(service, id, backend, (from << 4 | to) as u8, reason as u8, now);
    }
}

impl Moment {
    /// Ticks of the breaker's clock.
    #[inline(always)]
    pub(crate) fn ticks(self) -> u32 {
        ticks(self.ns)
    }
}

/// The signal of a handshake that failed; `None` where the application gave up.
#[inline(always)]
pub(crate) fn signal_of_failure(failure: ConnectFailure) -> Option<Signal> {
    match failure {
        ConnectFailure::Refused => Some(Signal::Refused),
        ConnectFailure::Timeout => Some(Signal::Timeout),
        ConnectFailure::Unreachable => Some(Signal::Unreachable),
        ConnectFailure::NoBackend | ConnectFailure::Local | ConnectFailure::Drained => None,
        ConnectFailure::BackendLimit | ConnectFailure::ServiceLimit | ConnectFailure::ClientLimit => None,
    }
}
