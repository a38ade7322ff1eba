//! A breaker as one would write it with room to spare: plain structures, times that never wrap, every past
//! connection remembered. The tests hold the packed words, and the programs in a kernel, against it; it shares no
//! arithmetic with them and is not part of any program.

#![expect(clippy::cast_possible_truncation, reason = "small counts")]

use super::{Change, Totals, Verdict};
use crate::abi::breaker::BreakerState::{self, Closed, HalfOpen, Open};
use crate::abi::breaker::TransitionReason::{self, *};
use crate::abi::limits::WINDOW_BUCKETS;
use crate::abi::{BreakerMode, BreakerPolicy};

/// A half-open period, by its place among all of them. No connection of another one may touch it.
pub type Period = usize;

/// Where a breaker is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Takes connections.
    Closed {
        /// When the slow start ends; `None` when nothing of the past is left.
        recovery_end: Option<u64>,
        /// Openings in a row when it closed.
        openings_then: u32,
        /// How many of those time has forgiven.
        forgiven: u32,
    },
    /// Takes none before this tick.
    Open {
        /// The first tick that may probe.
        until: u64,
    },
    /// Takes probes.
    HalfOpen {
        /// Which half-open period it is.
        period: Period,
        /// When it ends.
        until: u64,
        /// Probes whose handshake is done, at most 31.
        established: u32,
        /// Probes that proved good.
        succeeded: u32,
    },
}

/// One breaker and its past.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it goes by.
    pub policy: BreakerPolicy,
    /// Where it is.
    pub state: State,
    /// Openings in a row when it was opened last.
    pub openings: u32,
    /// Failures since the last success, while closed.
    pub failures_in_row: u32,
    /// Probes admitted and not given back, per period.
    pub admitted: Vec<u32>,
    past: Vec<(u64, Verdict)>,
    steps: Vec<(BreakerState, BreakerState, TransitionReason)>,
}

/// What the model says to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go.
    Go,
    /// Go, as a probe of this period.
    Probe(Period),
    /// Do not go; ask again at this tick.
    Refused {
        /// The tick.
        until: u64,
    },
    /// Do not go: by order.
    Forced,
}

impl Model {
    /// A closed breaker without a past.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::Closed { recovery_end: None, openings_then: 0, forgiven: 0 },
            openings: 0,
            failures_in_row: 0,
            admitted: Vec::new(),
            past: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// The state by name.
    pub fn name(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => Closed,
            State::Open { .. } => Open,
            State::HalfOpen { .. } => HalfOpen,
        }
    }

    /// The least and the most ticks it may stay open after so many openings in a row.
    pub fn open_bounds(&self, openings: u32) -> (f64, f64) {
        let doubled = f64::from(self.policy.open_base_ticks) * 2f64.powi(openings.min(31) as i32);
        let middle = doubled.min(f64::from(self.policy.open_cap_ticks));
        let reach = middle * f64::from(self.policy.jitter_percent) / 100.0;
        ((middle - reach).floor().max(1.0), (middle + reach).ceil().max(1.0))
    }

    /// Lets time pass. `open_until` is when an opening that happens on the way ends: the one thing the model
    /// cannot know, because of the jitter; it is held against the bounds.
    ///
    /// # Panics
    /// When that is out of bounds.
    pub fn advance(&mut self, now: u64, open_until: u64) {
        if let State::HalfOpen { until, established, succeeded, .. } = self.state
            && until <= now
        {
            if established + succeeded > 0 {
                self.close(until, HalfOpenExpired);
            } else {
                self.open(until, open_until, HalfOpenExpired);
            }
        }
        let decay = u64::from(self.policy.decay_ticks);
        if let State::Closed { recovery_end: Some(end), openings_then, forgiven } = &mut self.state
            && *end <= now
        {
            let due = (now - *end).checked_div(decay).unwrap_or(u64::MAX);
            *forgiven = (*forgiven).max(due.min(u64::from(*openings_then)) as u32);
            self.openings = *openings_then - *forgiven;
            if self.openings == 0 {
                self.state = State::Closed { recovery_end: None, openings_then: 0, forgiven: 0 };
            }
        }
    }

    /// A connection asks.
    ///
    /// # Panics
    /// As [`Self::advance`].
    pub fn admit(&mut self, now: u64, open_until: u64) -> Answer {
        if let Some(answer) = self.obey(now) {
            return answer;
        }
        self.advance(now, open_until);
        match &mut self.state {
            State::Closed { .. } => Answer::Go,
            State::Open { until } if now < *until => Answer::Refused { until: *until },
            State::Open { .. } => {
                let period = self.admitted.len();
                let until = now + u64::from(self.policy.half_open_ticks);
                // The one tick of the circle that stands for no probe gives way to the next.
                let until = if until.is_multiple_of(1 << 32) { until + 1 } else { until };
                self.admitted.push(1);
                self.step(State::HalfOpen { period, until, established: 0, succeeded: 0 }, OpenExpired);
                Answer::Probe(period)
            }
            State::HalfOpen { period, until, .. } => {
                if self.admitted[*period] < u32::from(self.policy.probes) {
                    self.admitted[*period] += 1;
                    Answer::Probe(*period)
                } else {
                    Answer::Refused { until: *until }
                }
            }
        }
    }

    /// A probe has its handshake done.
    pub fn established(&mut self, now: u64, probe: Option<Period>) {
        if let State::HalfOpen { period, until, established, .. } = &mut self.state
            && Some(*period) == probe
            && now < *until
        {
            *established = (*established + 1).min(31);
        }
    }

    /// A connection is given up; a probe of this period gives its admission back.
    pub fn abandoned(&mut self, probe: Option<Period>) {
        if let State::HalfOpen { period, .. } = self.state
            && Some(period) == probe
        {
            self.admitted[period] -= 1;
        }
    }

    /// A connection's end. The caller has already put it into the past with [`Self::remember`].
    ///
    /// # Panics
    /// When it opens for longer or shorter than the policy allows.
    pub fn report(
        &mut self,
        now: u64,
        open_until: u64,
        probe: Option<Period>,
        verdict: Verdict,
        totals: Totals,
        may_eject: bool,
    ) -> Change {
        if self.obey(now).is_some() {
            return self.change(None);
        }
        self.advance(now, open_until);
        let verdict =
            if verdict == Verdict::Slow && self.policy.slow_percent == 0 { Verdict::Good } else { verdict };
        let mut capped = None;
        match &mut self.state {
            State::Open { .. } => {}
            State::HalfOpen { period, .. } if Some(*period) != probe => {}
            State::HalfOpen { succeeded, .. } if verdict == Verdict::Good => {
                *succeeded += 1;
                if *succeeded >= u32::from(self.policy.successes_to_close) {
                    self.close(now, ProbesSucceeded);
                }
            }
            State::HalfOpen { .. } => self.open(now, open_until, ProbeFailed),
            State::Closed { .. } => {
                self.failures_in_row = if verdict == Verdict::Failed { self.failures_in_row + 1 } else { 0 };
                match self.trip(verdict, totals) {
                    Some(reason) if may_eject => self.open(now, open_until, reason),
                    trip => capped = trip,
                }
            }
        }
        self.change(capped)
    }

    fn trip(&self, verdict: Verdict, totals: Totals) -> Option<TransitionReason> {
        let policy = &self.policy;
        let samples = f64::from(totals.good) + f64::from(totals.failed) + f64::from(totals.slow);
        let enough = samples > 0.0 && samples >= f64::from(policy.minimum_samples);
        let reaches = |part: u32, percent: u8| {
            percent > 0 && enough && f64::from(part) / samples >= f64::from(percent) / 100.0 - 1e-12
        };
        if verdict == Verdict::Good {
            return None;
        }
        if verdict == Verdict::Failed {
            let limit = u32::from(policy.consecutive_failures);
            if limit > 0 && self.failures_in_row.min(255) >= limit {
                return Some(ConsecutiveFailures);
            }
            if reaches(totals.failed, policy.failure_percent) {
                return Some(FailureRatio);
            }
        }
        reaches(totals.slow, policy.slow_percent).then_some(SlowRatio)
    }

    /// Remembers how a connection did.
    pub fn remember(&mut self, now: u64, verdict: Verdict) {
        self.past.push((now, verdict));
    }

    /// Forgets how connections did.
    pub fn forget(&mut self) {
        self.past.clear();
    }

    /// Counts the remembered ends of this stretch of time and those before it, as many as the window has.
    pub fn totals(&self, now: u64) -> Totals {
        let stretch = |at: u64| at / u64::from(self.policy.bucket_ticks);
        let count = |wanted: Verdict| {
            let recent = |at: u64| stretch(now) - stretch(at) < WINDOW_BUCKETS as u64;
            self.past.iter().filter(|&&(at, verdict)| verdict == wanted && recent(at)).count() as u32
        };
        Totals { good: count(Verdict::Good), failed: count(Verdict::Failed), slow: count(Verdict::Slow) }
    }

    /// The change that all steps since the last call amount to.
    ///
    /// # Panics
    /// When there were more than two.
    pub fn change(&mut self, capped: Option<TransitionReason>) -> Change {
        let steps = std::mem::take(&mut self.steps);
        assert!(steps.len() <= 2, "{steps:?}");
        match (steps.first(), steps.last(), capped) {
            (Some(first), Some(last), _) => Change::moved(first.0, last.1, last.2),
            (_, _, Some(reason)) => Change::capped_by(reason),
            _ => Change::NONE,
        }
    }

    fn obey(&mut self, now: u64) -> Option<Answer> {
        match self.policy.mode() {
            BreakerMode::Observe | BreakerMode::Enforce => None,
            BreakerMode::Off => Some(Answer::Go),
            BreakerMode::ForcedClosed => {
                self.openings = 0;
                self.failures_in_row = 0;
                self.step(State::Closed { recovery_end: None, openings_then: 0, forgiven: 0 }, Forced);
                Some(Answer::Go)
            }
            BreakerMode::ForcedOpen => {
                if self.name() != Open {
                    self.failures_in_row = 0;
                    self.step(State::Open { until: now }, Forced);
                }
                Some(Answer::Forced)
            }
        }
    }

    fn open(&mut self, from: u64, until: u64, reason: TransitionReason) {
        let (least, most) = self.open_bounds(self.openings);
        let took = until.checked_sub(from).expect("a breaker opens forwards") as f64;
        assert!(least <= took && took <= most, "open for {took}, not {least} to {most}");
        self.openings = (self.openings + 1).min(31);
        self.failures_in_row = 0;
        self.step(State::Open { until }, reason);
    }

    fn close(&mut self, from: u64, reason: TransitionReason) {
        let end = from + u64::from(self.policy.slow_start_ticks);
        self.step(
            State::Closed { recovery_end: Some(end), openings_then: self.openings, forgiven: 0 },
            reason,
        );
    }

    fn step(&mut self, state: State, reason: TransitionReason) {
        let from = self.name();
        self.state = state;
        let to = self.name();
        if from != to {
            self.steps.push((from, to, reason));
        }
    }
}
