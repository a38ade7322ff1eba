//! One breaker: closed, open, half-open. Knows neither what a failure looks like nor who else is ejected.
//!
//! A deadline takes effect by itself, at its own time and not when somebody looks: every function first settles
//! the word, which gives the state the cell has *now*. A cell that nobody touches therefore never gets stuck.
//!
//! A connection reports what becomes of it with the [`Probe`] it was admitted with. Only answers of this
//! half-open period's probes count while half-open, and none while open.

use super::back_off::{longest_open_ticks, open_ticks};
use super::change::Change;
use super::policy::period;
use super::window::{Totals, Verdict};
use crate::abi::breaker::remaining_ticks;
use crate::abi::limits::MAX_PROBES;
use crate::abi::{BreakerMode, BreakerPolicy, BreakerState, CellWord, Probe, TransitionReason};
use crate::decide::balance::mix;

/// Whether a connection may go to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Admit,
    /// It may, as one of the probes.
    AdmitProbe,
    /// It may not.
    Refuse,
    /// It may not: the operator forced the breaker open.
    RefuseForced,
}

/// A decision, and the deadline it rests on. (Not an enum with payloads: the compiler may read a payload before it
/// knows whether there is one, which the kernel's verifier refuses.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The decision.
    pub decision: Decision,
    /// When a refusal may become another answer, or when a probe's period ends, in ticks; else 0.
    pub deadline_ticks: u32,
}

impl Admission {
    const ADMIT: Self = Self { decision: Decision::Admit, deadline_ticks: 0 };
    const REFUSE_FORCED: Self = Self { decision: Decision::RefuseForced, deadline_ticks: 0 };

    /// Whether the connection may not go.
    #[inline(always)]
    pub const fn is_refusal(self) -> bool {
        matches!(self.decision, Decision::Refuse | Decision::RefuseForced)
    }

    /// What the connection reports with.
    #[inline(always)]
    pub const fn probe(self) -> Probe {
        match self.decision {
            Decision::AdmitProbe => Probe(self.deadline_ticks),
            _ => Probe::NONE,
        }
    }
}

/// A word and why it became this, where its state is not the stored one.
type Step = (CellWord, Option<TransitionReason>);

/// Whether a connection may go to the backend, and the word that says so. In mode `observe` a refusal is a note,
/// see [`BreakerPolicy::binds`].
#[inline(always)]
pub fn admit(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> (CellWord, Admission, Change) {
    let mode = policy.mode();
    if is_order(mode) {
        let obeyed = obey(word, mode, now_ticks);
        let refused = matches!(mode, BreakerMode::ForcedOpen);
        let admission = if refused { Admission::REFUSE_FORCED } else { Admission::ADMIT };
        return (obeyed, admission, Change::between(word, obeyed, Some(TransitionReason::Forced)));
    }
    if word.0 == CellWord::CLEAN.0 {
        return (word, Admission::ADMIT, Change::NONE);
    }
    let (settled, reason) = settle(word, policy, now_ticks);
    let deadline_ticks = settled.deadline_ticks();
    let refusal = Admission { decision: Decision::Refuse, deadline_ticks };
    match settled.state() {
        BreakerState::Closed => (settled, Admission::ADMIT, Change::between(word, settled, reason)),
        BreakerState::Open => {
            if remaining_ticks(deadline_ticks, now_ticks, longest_open_ticks(policy)) > 0 {
                return (settled, refusal, Change::between(word, settled, reason));
            }
            let period = half_open_from(settled.opened(), policy, now_ticks).with_probes_admitted(1);
            let change =
                Change::numbered(word.state_number(), period.state_number(), TransitionReason::OpenExpired);
            (period, probe_admission(period), change)
        }
        BreakerState::HalfOpen => {
            let admitted = settled.probes_admitted();
            if admitted >= policy.probes || admitted >= MAX_PROBES {
                return (settled, refusal, Change::NONE);
            }
            let taken = settled.with_probes_admitted(admitted + 1);
            (taken, probe_admission(taken), Change::NONE)
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
        word.with_probes_established(counted(word.probes_established()))
    } else {
        word
    }
}

/// How a connection did, and what the answer to that depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it did. Good: bytes came back, or it ended cleanly. Slow is good where the policy has no slow ratio;
    /// where it has one, a slow probe is a failed one.
    pub verdict: Verdict,
    /// The window, this connection included. A good one does not need it.
    pub totals: Totals,
    /// What the connection was admitted with.
    pub probe: Probe,
    /// Now, in ticks.
    pub now_ticks: u32,
    /// 32 random bits, for the jitter. A good connection does not need them.
    pub draw: u32,
    /// Whether one more backend may be ejected, see `ejection`. Without it a closed cell stays closed.
    pub may_eject: bool,
}

/// A connection showed how the backend does: once each, with its first bytes or with its end.
#[inline(always)]
pub fn report(word: CellWord, policy: &BreakerPolicy, report: &Report) -> (CellWord, Change) {
    let mode = policy.mode();
    if is_order(mode) {
        let obeyed = obey(word, mode, report.now_ticks);
        return (obeyed, Change::between(word, obeyed, Some(TransitionReason::Forced)));
    }
    let settled = settle(word, policy, report.now_ticks);
    if matches!(settled.0.state(), BreakerState::Closed) {
        while_closed(word, settled, policy, report)
    } else {
        let (new, reason) = while_ejected(settled, policy, report);
        (new, Change::between(word, new, reason))
    }
}

/// A connection proved good: [`report`] for a caller who knows.
#[inline(always)]
pub fn good(word: CellWord, policy: &BreakerPolicy, now_ticks: u32, probe: Probe) -> (CellWord, Change) {
    let totals = Totals::default();
    report(
        word,
        policy,
        &Report { verdict: Verdict::Good, totals, probe, now_ticks, draw: 0, may_eject: false },
    )
}

/// A connection ended with a signal that counts: [`report`] for a caller who knows.
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
    report(word, policy, &Report { verdict: Verdict::Failed, totals, probe, now_ticks, draw, may_eject })
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
    if !word.is_recovering()
        || remaining_ticks(deadline_ticks, now_ticks, period(policy.slow_start_ticks)) > 0
    {
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

/// Whether an operator's order (or none to do anything) stands over what the breaker would decide.
#[inline(always)]
fn is_order(mode: BreakerMode) -> bool {
    !matches!(mode, BreakerMode::Observe | BreakerMode::Enforce)
}

/// The word an order makes of this one.
#[inline(always)]
fn obey(word: CellWord, mode: BreakerMode, now_ticks: u32) -> CellWord {
    match (mode, word.state()) {
        (BreakerMode::ForcedClosed, _) => CellWord::CLEAN,
        // When the order is lifted, the backend is probed.
        (BreakerMode::ForcedOpen, BreakerState::Closed | BreakerState::HalfOpen) => {
            CellWord::open(word.opened(), now_ticks)
        }
        _ => word,
    }
}

/// A report to a cell that is closed. `stored` became the settled word by itself.
#[inline(always)]
fn while_closed(
    stored: CellWord,
    (settled, reason): Step,
    policy: &BreakerPolicy,
    report: &Report,
) -> (CellWord, Change) {
    let failures = match report.verdict {
        Verdict::Failed => settled.consecutive_failures().saturating_add(1),
        Verdict::Good | Verdict::Slow => 0,
    };
    let counted = settled.with_consecutive_failures(failures);
    match trip_reason(policy, report, failures) {
        Some(trip) if report.may_eject => {
            let open = open_from(counted.opened(), policy, report.now_ticks, report.draw);
            (open, Change::between(stored, open, Some(trip)))
        }
        // A settled period is the greater news.
        Some(trip) if reason.is_none() => (counted, Change::capped_by(trip)),
        _ => (counted, Change::between(stored, counted, reason)),
    }
}

/// A report to a cell that is open or half-open: only the period's probes have a say.
#[inline(always)]
fn while_ejected((settled, reason): Step, policy: &BreakerPolicy, report: &Report) -> Step {
    if !is_waiting_for(settled, report.probe) {
        return (settled, reason);
    }
    let opened = settled.opened();
    let is_good = match report.verdict {
        Verdict::Good => true,
        Verdict::Slow => policy.slow_percent == 0,
        Verdict::Failed => false,
    };
    let succeeded = counted(settled.probes_succeeded());
    if !is_good {
        (open_from(opened, policy, report.now_ticks, report.draw), Some(TransitionReason::ProbeFailed))
    } else if succeeded >= policy.successes_to_close {
        (closed_from(opened, policy, report.now_ticks), Some(TransitionReason::ProbesSucceeded))
    } else {
        (settled.with_probes_succeeded(succeeded), reason)
    }
}

/// What opens a closed cell; failures in a row are named first. Nothing does when a connection proved good.
#[inline(always)]
fn trip_reason(policy: &BreakerPolicy, report: &Report, failures: u8) -> Option<TransitionReason> {
    if matches!(report.verdict, Verdict::Good) {
        None
    } else if policy.consecutive_failures > 0 && failures >= policy.consecutive_failures {
        Some(TransitionReason::ConsecutiveFailures)
    } else if matches!(report.verdict, Verdict::Failed) && policy.failure_ratio_reached(report.totals) {
        Some(TransitionReason::FailureRatio)
    } else if policy.slow_ratio_reached(report.totals) {
        Some(TransitionReason::SlowRatio)
    } else {
        None
    }
}

/// Open from then on, once more in a row.
#[inline(always)]
fn open_from(opened: u32, policy: &BreakerPolicy, from_ticks: u32, draw: u32) -> CellWord {
    let again = if opened < CellWord::MAX_OPENED { opened + 1 } else { opened };
    CellWord::open(again, from_ticks.wrapping_add(open_ticks(policy, opened, draw)))
}

#[inline(always)]
fn half_open_from(opened: u32, policy: &BreakerPolicy, from_ticks: u32) -> CellWord {
    // Never 0, which stands for no probe.
    CellWord::half_open(opened, from_ticks.wrapping_add(period(policy.half_open_ticks)).max(1))
}

/// Closed from then on, with a slow start.
#[inline(always)]
fn closed_from(opened: u32, policy: &BreakerPolicy, from_ticks: u32) -> CellWord {
    CellWord::recovering(opened, from_ticks.wrapping_add(period(policy.slow_start_ticks)))
}

/// One more, up to what a field of the word counts.
#[inline(always)]
const fn counted(probes: u8) -> u8 {
    if probes < MAX_PROBES { probes + 1 } else { probes }
}

#[inline(always)]
fn probe_admission(word: CellWord) -> Admission {
    Admission { decision: Decision::AdmitProbe, deadline_ticks: probe_of(word).0 }
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
    remaining_ticks(word.deadline_ticks(), now_ticks, period(policy.half_open_ticks)) == 0
}
