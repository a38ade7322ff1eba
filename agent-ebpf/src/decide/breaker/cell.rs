//! One breaker: closed, open, half-open. Knows neither what a failure looks like nor who else is ejected.
//!
//! A deadline takes effect by itself, at its own time and not when somebody looks: every function first settles
//! the word, which gives the state the cell has *now*. A cell that nobody touches therefore never gets stuck.
//!
//! A connection reports what becomes of it with the [`Probe`] it was admitted with. Only answers of this
//! half-open period's probes count while half-open, and none while open.

use super::back_off::{longest_open_ticks, open_ticks};
use super::window::Totals;
use crate::abi::breaker::remaining_ticks;
use crate::abi::{BreakerMode, BreakerPolicy, BreakerState, CellWord, Probe, TransitionReason};
use crate::decide::balance::mix;

/// Whether a connection may go to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admit,
    /// It may, as one of the probes; it reports with this.
    AdmitProbe(Probe),
    /// It may not, until then at least.
    Refuse {
        /// When the answer may be another one, in ticks.
        until_ticks: u32,
    },
    /// It may not: the operator forced the breaker open.
    RefuseForced,
}

impl Admission {
    /// Whether the connection may not go.
    #[inline(always)]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Refuse { .. } | Self::RefuseForced)
    }

    /// What the connection reports with.
    #[inline(always)]
    pub const fn probe(self) -> Probe {
        match self {
            Self::AdmitProbe(probe) => probe,
            _ => Probe::NONE,
        }
    }
}

/// A change of state, from the stored one to the new one.
///
/// Where a deadline had passed unseen, the steps are told as one, with the last one's reason: half-open to
/// half-open is a period without an answer, the open time after it, and a new period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: BreakerState,
    /// The state after.
    pub to: BreakerState,
    /// Why.
    pub reason: TransitionReason,
}

impl Transition {
    /// The backend was not ejected (open or half-open) and is now.
    #[inline(always)]
    pub const fn ejects(self) -> bool {
        matches!(self.from, BreakerState::Closed) && !matches!(self.to, BreakerState::Closed)
    }

    /// The backend was ejected and is not any more. The window is to be emptied: it tells of the time before.
    #[inline(always)]
    pub const fn returns(self) -> bool {
        !matches!(self.from, BreakerState::Closed) && matches!(self.to, BreakerState::Closed)
    }
}

/// What a report changed beside the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The state.
    Moved(Transition),
    /// Nothing, but it would have opened for this reason if one more backend might be ejected.
    Capped(TransitionReason),
}

/// A word and why it became this, where its state is not the stored one.
type Step = (CellWord, Option<TransitionReason>);

/// Whether a connection may go to the backend, and the word that says so. In mode `observe` a refusal is a note,
/// see [`BreakerPolicy::binds`].
#[inline(always)]
pub fn admit(
    word: CellWord,
    policy: &BreakerPolicy,
    now_ticks: u32,
) -> (CellWord, Admission, Option<Transition>) {
    if let Some((forced, reason)) = forced(word, policy, now_ticks) {
        let refused = matches!(policy.mode(), BreakerMode::ForcedOpen);
        let admission = if refused { Admission::RefuseForced } else { Admission::Admit };
        return (forced, admission, moved(word, forced, reason));
    }
    if word.0 == CellWord::CLEAN.0 {
        return (word, Admission::Admit, None);
    }
    let (settled, reason) = settle(word, policy, now_ticks);
    let deadline_ticks = settled.deadline_ticks();
    match settled.state() {
        BreakerState::Closed => (settled, Admission::Admit, moved(word, settled, reason)),
        BreakerState::Open => {
            if remaining_ticks(deadline_ticks, now_ticks, longest_open_ticks(policy)) > 0 {
                let refusal = Admission::Refuse { until_ticks: deadline_ticks };
                return (settled, refusal, moved(word, settled, reason));
            }
            let period = half_open_from(settled.opened(), policy, now_ticks).with_probes_admitted(1);
            let transition =
                Transition { from: word.state(), to: period.state(), reason: TransitionReason::OpenExpired };
            (period, Admission::AdmitProbe(probe_of(period)), Some(transition))
        }
        BreakerState::HalfOpen => {
            let admitted = settled.probes_admitted();
            if admitted < policy.probes() {
                let taken = settled.with_probes_admitted(admitted + 1);
                (taken, Admission::AdmitProbe(probe_of(taken)), None)
            } else {
                (settled, Admission::Refuse { until_ticks: deadline_ticks }, None)
            }
        }
    }
}

/// Whether [`admit`] would let a connection go, for looking over candidates.
#[inline(always)]
pub fn is_admissible(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> bool {
    !admit(word, policy, now_ticks).1.is_refusal()
}

/// A connection's handshake is done.
#[inline(always)]
pub fn established(word: CellWord, policy: &BreakerPolicy, now_ticks: u32, probe: Probe) -> CellWord {
    if is_waiting_for(word, probe) && !is_over(word, policy, now_ticks) {
        word.with_probes_established(word.probes_established().saturating_add(1))
    } else {
        word
    }
}

/// A connection proved good: bytes came back, or it ended cleanly.
#[inline(always)]
pub fn good(word: CellWord, policy: &BreakerPolicy, now_ticks: u32, probe: Probe) -> (CellWord, Change) {
    if let Some((forced, reason)) = forced(word, policy, now_ticks) {
        return (forced, changed(word, forced, reason));
    }
    let (settled, reason) = settle(word, policy, now_ticks);
    let (new, reason) = after_good(settled, policy, now_ticks, probe, reason);
    (new, changed(word, new, reason))
}

/// A connection ended with a signal that counts. `totals` includes it; `draw` is 32 random bits. `may_eject`
/// says whether one more backend may be ejected (see `ejection`); without it a closed cell stays closed.
#[inline(always)]
pub fn failed(
    word: CellWord,
    policy: &BreakerPolicy,
    totals: Totals,
    now_ticks: u32,
    draw: u32,
    probe: Probe,
    may_eject: bool,
) -> (CellWord, Change) {
    if let Some((forced, reason)) = forced(word, policy, now_ticks) {
        return (forced, changed(word, forced, reason));
    }
    let (settled, reason) = settle(word, policy, now_ticks);
    match settled.state() {
        BreakerState::Closed => {
            let failures = settled.consecutive_failures().saturating_add(1);
            let counted = settled.with_consecutive_failures(failures);
            let trip = trip_reason(policy, failures, totals);
            opened_or_capped(word, (counted, reason), policy, now_ticks, draw, trip, may_eject)
        }
        _ => {
            let (new, reason) = after_failed_probe(settled, policy, now_ticks, draw, probe, reason);
            (new, changed(word, new, reason))
        }
    }
}

/// A connection proved good, but its handshake was slow. Where the policy has no slow ratio this is [`good`];
/// where it has one, a slow probe is a failed one. Arguments as for [`failed`].
#[inline(always)]
pub fn slow(
    word: CellWord,
    policy: &BreakerPolicy,
    totals: Totals,
    now_ticks: u32,
    draw: u32,
    probe: Probe,
    may_eject: bool,
) -> (CellWord, Change) {
    if policy.slow_percent == 0 {
        return good(word, policy, now_ticks, probe);
    }
    if let Some((forced, reason)) = forced(word, policy, now_ticks) {
        return (forced, changed(word, forced, reason));
    }
    let (settled, reason) = settle(word, policy, now_ticks);
    match settled.state() {
        BreakerState::Closed => {
            let counted = settled.with_consecutive_failures(0);
            let trip =
                if policy.slow_ratio_reached(totals) { Some(TransitionReason::SlowRatio) } else { None };
            opened_or_capped(word, (counted, reason), policy, now_ticks, draw, trip, may_eject)
        }
        _ => {
            let (new, reason) = after_failed_probe(settled, policy, now_ticks, draw, probe, reason);
            (new, changed(word, new, reason))
        }
    }
}

/// A connection ended with nothing learnt: the application gave up, or the signal does not count. A probe gives
/// its admission back.
#[inline(always)]
pub fn abandoned(word: CellWord, probe: Probe) -> CellWord {
    if is_waiting_for(word, probe) {
        word.with_probes_admitted(word.probes_admitted().saturating_sub(1))
    } else {
        word
    }
}

/// The word as it is now: a half-open period that is over has closed or opened the cell, and time spent closed
/// has forgiven openings. An open cell stays open until somebody comes who may probe.
#[inline(always)]
pub fn settled(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> CellWord {
    settle(word, policy, now_ticks).0
}

#[inline(always)]
fn settle(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> Step {
    match word.state() {
        BreakerState::Closed => (forgive(word, policy, now_ticks), None),
        BreakerState::Open => (word, None),
        BreakerState::HalfOpen => {
            if !is_over(word, policy, now_ticks) {
                return (word, None);
            }
            let ended_ticks = word.deadline_ticks();
            let settled = if word.probes_established() > 0 || word.probes_succeeded() > 0 {
                forgive(closed_from(word.opened(), policy, ended_ticks), policy, now_ticks)
            } else {
                // No draw here: everybody who looks at this word must find the same open time in it.
                let draw = (mix((word.opened() as u64) << 32 | ended_ticks as u64) >> 32) as u32;
                open_from(word.opened(), policy, ended_ticks, draw)
            };
            (settled, Some(TransitionReason::HalfOpenExpired))
        }
    }
}

/// A closed word less the openings that the time since its slow start forgives.
#[inline(always)]
fn forgive(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> CellWord {
    let deadline_ticks = word.deadline_ticks();
    if !word.is_recovering() || remaining_ticks(deadline_ticks, now_ticks, policy.slow_start_ticks()) > 0 {
        return word;
    }
    let periods = match now_ticks.wrapping_sub(deadline_ticks).checked_div(policy.decay_ticks) {
        Some(periods) if periods < word.opened() => periods,
        _ => return CellWord::CLEAN.with_consecutive_failures(word.consecutive_failures()),
    };
    let since_ticks = deadline_ticks.wrapping_add(periods.wrapping_mul(policy.decay_ticks));
    CellWord::recovering(word.opened() - periods, since_ticks)
        .with_consecutive_failures(word.consecutive_failures())
}

/// The word an operator's order makes of this one, or `None` where the breaker decides by itself.
#[inline(always)]
fn forced(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> Option<Step> {
    let forced = match policy.mode() {
        BreakerMode::Observe | BreakerMode::Enforce => return None,
        BreakerMode::Off => word,
        BreakerMode::ForcedClosed => CellWord::CLEAN,
        BreakerMode::ForcedOpen => match word.state() {
            BreakerState::Open => word,
            // When the order is lifted, the backend is probed.
            _ => CellWord::open(word.opened(), now_ticks),
        },
    };
    Some((forced, Some(TransitionReason::Forced)))
}

#[inline(always)]
fn after_good(
    word: CellWord,
    policy: &BreakerPolicy,
    now_ticks: u32,
    probe: Probe,
    reason: Option<TransitionReason>,
) -> Step {
    if matches!(word.state(), BreakerState::Closed) {
        return (word.with_consecutive_failures(0), reason);
    }
    if !is_waiting_for(word, probe) {
        return (word, reason);
    }
    let succeeded = word.probes_succeeded().saturating_add(1);
    if succeeded >= policy.successes_to_close() {
        (closed_from(word.opened(), policy, now_ticks), Some(TransitionReason::ProbesSucceeded))
    } else {
        (word.with_probes_succeeded(succeeded), reason)
    }
}

#[inline(always)]
fn after_failed_probe(
    word: CellWord,
    policy: &BreakerPolicy,
    now_ticks: u32,
    draw: u32,
    probe: Probe,
    reason: Option<TransitionReason>,
) -> Step {
    if is_waiting_for(word, probe) {
        (open_from(word.opened(), policy, now_ticks, draw), Some(TransitionReason::ProbeFailed))
    } else {
        (word, reason)
    }
}

/// What opens a closed cell; failures in a row are named first.
#[inline(always)]
fn trip_reason(policy: &BreakerPolicy, failures: u8, totals: Totals) -> Option<TransitionReason> {
    if policy.consecutive_failures > 0 && failures >= policy.consecutive_failures {
        Some(TransitionReason::ConsecutiveFailures)
    } else if policy.failure_ratio_reached(totals) {
        Some(TransitionReason::FailureRatio)
    } else if policy.slow_ratio_reached(totals) {
        Some(TransitionReason::SlowRatio)
    } else {
        None
    }
}

#[inline(always)]
fn opened_or_capped(
    stored: CellWord,
    (counted, reason): Step,
    policy: &BreakerPolicy,
    now_ticks: u32,
    draw: u32,
    trip: Option<TransitionReason>,
    may_eject: bool,
) -> (CellWord, Change) {
    match trip {
        Some(_) if may_eject => {
            let open = open_from(counted.opened(), policy, now_ticks, draw);
            (open, changed(stored, open, trip))
        }
        Some(trip) => match changed(stored, counted, reason) {
            Change::None => (counted, Change::Capped(trip)),
            change => (counted, change),
        },
        None => (counted, changed(stored, counted, reason)),
    }
}

/// Open from then on, once more in a row.
#[inline(always)]
fn open_from(opened: u32, policy: &BreakerPolicy, from_ticks: u32, draw: u32) -> CellWord {
    CellWord::open(opened + 1, from_ticks.wrapping_add(open_ticks(policy, opened, draw)))
}

#[inline(always)]
fn half_open_from(opened: u32, policy: &BreakerPolicy, from_ticks: u32) -> CellWord {
    // Never 0, which stands for no probe.
    CellWord::half_open(opened, from_ticks.wrapping_add(policy.half_open_ticks()).max(1))
}

/// Closed from then on, with a slow start.
#[inline(always)]
fn closed_from(opened: u32, policy: &BreakerPolicy, from_ticks: u32) -> CellWord {
    CellWord::recovering(opened, from_ticks.wrapping_add(policy.slow_start_ticks()))
}

/// What the probes of a half-open word report with.
#[inline(always)]
fn probe_of(word: CellWord) -> Probe {
    Probe(word.deadline_ticks())
}

/// Whether the word is half-open and this is one of its probes.
#[inline(always)]
fn is_waiting_for(word: CellWord, probe: Probe) -> bool {
    matches!(word.state(), BreakerState::HalfOpen) && probe.0 != Probe::NONE.0 && probe_of(word).0 == probe.0
}

/// Whether a half-open word's period is over.
#[inline(always)]
fn is_over(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> bool {
    remaining_ticks(word.deadline_ticks(), now_ticks, policy.half_open_ticks()) == 0
}

#[inline(always)]
fn moved(stored: CellWord, new: CellWord, reason: Option<TransitionReason>) -> Option<Transition> {
    match reason {
        Some(reason) if stored.state() as u8 != new.state() as u8 => {
            Some(Transition { from: stored.state(), to: new.state(), reason })
        }
        _ => None,
    }
}

#[inline(always)]
fn changed(stored: CellWord, new: CellWord, reason: Option<TransitionReason>) -> Change {
    match moved(stored, new, reason) {
        Some(transition) => Change::Moved(transition),
        None => Change::None,
    }
}
