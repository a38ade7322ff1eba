//! Canaries on their way: the share a version gets, step by step, and whether it must go back. Knows no map, file or
//! clock: counts and the time come in as values, shares and transitions go out.
//!
//! A rollout belongs to a split and a canary as they are written. While both stay as they are, so does what became of it.

pub mod evidence;
pub mod guard;
mod register;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use evidence::{Counts, Reading};
pub use guard::{Criterion, Finding};
pub use register::{Change, Register, Saved, Tallies};

use crate::compile::name_id;
use crate::desired::{CanarySpec, VersionShare};
use evidence::Evidence;
use guard::Judgement;

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Any monotonic time: what is measured.
    pub monotonic: Duration,
    /// The wall clock: what is shown.
    pub wall: Timestamp,
}

/// How far a canary has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is compared with its baseline, and its share grows where there are steps.
    Progressing,
    /// The same, but its share stays: an operator's order.
    Paused,
    /// It gets every connection; nothing is compared any more.
    Promoted,
    /// It gets none.
    RolledBack,
}

impl Phase {
    /// Every phase.
    pub const ALL: &'static [Self] = &[Self::Progressing, Self::Paused, Self::Promoted, Self::RolledBack];

    /// The name in labels, tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Paused => "paused",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// Why a canary was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// More of its connections failed.
    ConnectFailureRatio,
    /// More of its connections were reset.
    ResetRatio,
    /// Its handshakes took longer.
    ConnectP99,
    /// More of its answers were errors.
    RequestErrorRatio,
    /// An operator's order.
    Operator,
}

impl Cause {
    /// Every cause.
    pub const ALL: &'static [Self] = &[
        Self::ConnectFailureRatio,
        Self::ResetRatio,
        Self::ConnectP99,
        Self::RequestErrorRatio,
        Self::Operator,
    ];

    /// The name in labels, tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectFailureRatio => Criterion::ConnectFailureRatio.name(),
            Self::ResetRatio => Criterion::ResetRatio.name(),
            Self::ConnectP99 => Criterion::ConnectP99.name(),
            Self::RequestErrorRatio => Criterion::RequestErrorRatio.name(),
            Self::Operator => "operator",
        }
    }
}

impl From<Criterion> for Cause {
    fn from(criterion: Criterion) -> Self {
        match criterion {
            Criterion::ConnectFailureRatio => Self::ConnectFailureRatio,
            Criterion::ResetRatio => Self::ResetRatio,
            Criterion::ConnectP99 => Self::ConnectP99,
            Criterion::RequestErrorRatio => Self::RequestErrorRatio,
        }
    }
}

/// What an operator can order about a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Its share stays as it is; it is still compared.
    Pause,
    /// Its share grows again; one that was rolled back begins anew.
    Resume,
    /// It gets every connection.
    Promote,
    /// It gets none.
    Rollback,
}

impl Order {
    /// The name in the API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
        }
    }
}

/// An order that makes no sense in this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongPhase(pub Phase);

/// What became of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It gets the share of the next step.
    SteppedUp,
    /// It gets every connection.
    Promoted,
    /// It gets none.
    RolledBack(Cause),
    /// Its share stays.
    Paused,
    /// Its share grows again.
    Resumed,
}

/// Why a canary's share is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Too few connections of the canary, or of the baseline, within the window.
    TooFew,
    /// The canary does no worse.
    Fine,
    /// Nothing is compared: it was promoted or rolled back.
    Decided,
}

impl Verdict {
    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooFew => "too_few",
            Self::Fine => "fine",
            Self::Decided => "decided",
        }
    }
}

/// What of a rollout outlives the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How far it has come.
    pub phase: Phase,
    /// The step it is at, counted from 0.
    pub step: usize,
    /// When the phase or the step last changed.
    pub changed_at: Timestamp,
    /// Why it was rolled back.
    pub cause: Option<Cause>,
    /// The same with figures, in words; empty where it was not.
    pub reason: String,
}

/// One canary.
#[derive(Clone, Debug)]
pub struct Rollout {
    split: Vec<VersionShare>,
    canary: Arc<CanarySpec>,
    state: State,
    /// Since when this agent knows of the step.
    step_since: Duration,
    evidence: Evidence,
    judgement: Judgement,
}

impl Rollout {
    /// A canary at its first step.
    pub fn new(split: &[VersionShare], canary: &Arc<CanarySpec>, now: Moment) -> Self {
        let state = State {
            phase: Phase::Progressing,
            step: 0,
            changed_at: now.wall,
            cause: None,
            reason: String::new(),
        };
        Self::resumed(split, canary, state, now)
    }

    /// A canary that another agent left. Its step begins anew: nobody looked after it in between.
    pub fn resumed(split: &[VersionShare], canary: &Arc<CanarySpec>, state: State, now: Moment) -> Self {
        Self {
            split: split.to_vec(),
            evidence: evidence_of(canary),
            canary: Arc::clone(canary),
            state,
            step_since: now.monotonic,
            judgement: Judgement::TooFew,
        }
    }

    /// What was written: the split, and the canary in it.
    pub fn plan(&self) -> (&[VersionShare], &CanarySpec) {
        (&self.split, &self.canary)
    }

    /// What of it outlives the agent.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the canary is compared with its baseline now.
    pub fn is_watched(&self) -> bool {
        matches!(self.state.phase, Phase::Progressing | Phase::Paused)
    }

    /// What the window holds of the canary and of the baseline.
    pub fn counts(&self) -> (Counts, Counts) {
        self.evidence.counts()
    }

    /// What the counts say.
    pub fn verdict(&self) -> Verdict {
        match self.judgement {
            _ if !self.is_watched() => Verdict::Decided,
            Judgement::Fine => Verdict::Fine,
            Judgement::TooFew | Judgement::Worse(_) => Verdict::TooFew,
        }
    }

    /// When the next step is due if all goes well; `None` where there is none, zero where it waits for connections.
    pub fn next_step_in(&self, now: Duration) -> Option<Duration> {
        (self.state.phase == Phase::Progressing && self.state.step + 1 < self.canary.steps.len())
            .then(|| self.canary.every.saturating_sub(now.saturating_sub(self.step_since)))
    }

    /// The shares in force. The canary's is a part of the whole; the others share the rest as they were written.
    pub fn shares(&self) -> Vec<VersionShare> {
        let percent = match self.state.phase {
            Phase::RolledBack => 0,
            Phase::Promoted => 100,
            Phase::Progressing | Phase::Paused => match self.canary.steps.get(self.state.step) {
                Some(&percent) => percent,
                None => return self.split.clone(),
            },
        };
        shares(&self.split, &self.canary.version, percent)
    }

    /// The canary's part of the connections, in thousandths.
    pub fn weight_permille(&self) -> u32 {
        let shares = self.shares();
        let total: u64 = shares.iter().map(|share| u64::from(share.share)).sum();
        let own = shares.iter().find(|share| share.version == self.canary.version);
        let own = own.map_or(0, |share| u64::from(share.share));
        u32::try_from(own * 1_000 / total.max(1)).unwrap_or(1_000)
    }

    /// Takes in what the kernel counts for the service now, and decides.
    pub fn observe(&mut self, now: Moment, readings: &[Reading]) -> Option<Transition> {
        if !self.is_watched() {
            return None;
        }
        self.evidence.add(now.monotonic, readings);
        let (canary, baseline) = self.evidence.counts();
        self.judgement = guard::judge(&self.canary.guard, &canary, &baseline);
        match self.judgement {
            Judgement::Worse(finding) => {
                let reason = format!("{}: {finding}", finding.criterion.name());
                Some(self.roll_back(finding.criterion.into(), reason, now))
            }
            Judgement::Fine if self.next_step_in(now.monotonic) == Some(Duration::ZERO) => {
                Some(self.step_up(now))
            }
            Judgement::Fine | Judgement::TooFew => None,
        }
    }

    /// Carries out an order; `None` where it is so already.
    ///
    /// # Errors
    /// The order makes no sense in this phase.
    pub fn order(&mut self, order: Order, now: Moment) -> Result<Option<Transition>, WrongPhase> {
        let phase = self.state.phase;
        let transition = match (order, phase) {
            (Order::Pause, Phase::Paused)
            | (Order::Resume, Phase::Progressing)
            | (Order::Promote, Phase::Promoted)
            | (Order::Rollback, Phase::RolledBack) => return Ok(None),
            (Order::Pause, Phase::Progressing) => {
                self.enter(Phase::Paused, self.state.step, now);
                Transition::Paused
            }
            (Order::Resume, Phase::Paused) => {
                self.enter(Phase::Progressing, self.state.step, now);
                Transition::Resumed
            }
            (Order::Resume, Phase::RolledBack) => {
                self.evidence = evidence_of(&self.canary);
                self.judgement = Judgement::TooFew;
                self.enter(Phase::Progressing, 0, now);
                Transition::Resumed
            }
            (Order::Promote, _) => {
                self.enter(Phase::Promoted, self.state.step, now);
                Transition::Promoted
            }
            (Order::Rollback, _) => self.roll_back(Cause::Operator, "an operator's order".to_owned(), now),
            (Order::Pause | Order::Resume, _) => return Err(WrongPhase(phase)),
        };
        Ok(Some(transition))
    }

    fn step_up(&mut self, now: Moment) -> Transition {
        let step = self.state.step + 1;
        if self.canary.steps.get(step).is_some_and(|&percent| percent >= 100) {
            self.enter(Phase::Promoted, step, now);
            return Transition::Promoted;
        }
        self.enter(Phase::Progressing, step, now);
        Transition::SteppedUp
    }

    fn roll_back(&mut self, cause: Cause, reason: String, now: Moment) -> Transition {
        self.enter(Phase::RolledBack, self.state.step, now);
        (self.state.cause, self.state.reason) = (Some(cause), reason);
        Transition::RolledBack(cause)
    }

    fn enter(&mut self, phase: Phase, step: usize, now: Moment) {
        self.state = State { phase, step, changed_at: now.wall, cause: None, reason: String::new() };
        self.step_since = now.monotonic;
    }
}

impl fmt::Display for Rollout {
    /// One sentence for a person: `v2 gets 5.0 % (step 1 of 4), is fine`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, permille) = (&self.canary.version, self.weight_permille());
        match self.state.phase {
            Phase::RolledBack => {
                return write!(formatter, "{version} was rolled back: {}", self.state.reason);
            }
            Phase::Promoted => return write!(formatter, "{version} was promoted and gets every connection"),
            Phase::Progressing | Phase::Paused => {
                write!(formatter, "{version} gets {}.{} %", permille / 10, permille % 10)?;
            }
        }
        if !self.canary.steps.is_empty() {
            write!(formatter, " (step {} of {})", self.state.step + 1, self.canary.steps.len())?;
        }
        if self.state.phase == Phase::Paused {
            write!(formatter, ", is paused")?;
        }
        match self.verdict() {
            Verdict::Fine => write!(formatter, ", does no worse than {}", self.canary.baseline),
            _ => {
                let (canary, baseline) = self.counts();
                write!(
                    formatter,
                    ", too few connections to judge: {} of it and {} of {}, {} wanted of each",
                    canary.samples(),
                    baseline.samples(),
                    self.canary.baseline,
                    self.canary.guard.minimum_samples
                )
            }
        }
    }
}

fn evidence_of(canary: &CanarySpec) -> Evidence {
    Evidence::new(name_id(&canary.version), name_id(&canary.baseline), canary.guard.window)
}

/// A split in which one version has so many percent and the others share the rest in the proportion they had.
fn shares(split: &[VersionShare], version: &Arc<str>, percent: u8) -> Vec<VersionShare> {
    let percent = u32::from(percent.min(100));
    let others = || split.iter().filter(|share| share.version != *version).map(|share| share.share);
    let unit = others().fold(0, greatest_common_divisor).max(1);
    // Shares are at most a million, of at most a handful of versions.
    let rest: u32 = others().map(|share| share / unit).fold(0, u32::saturating_add);
    let share = |own: &VersionShare| match own.version == *version {
        true => rest.max(1).saturating_mul(percent),
        false => (own.share / unit).saturating_mul(100 - percent),
    };
    split.iter().map(|own| VersionShare { version: Arc::clone(&own.version), share: share(own) }).collect()
}

fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}
