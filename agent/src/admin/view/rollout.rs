//! Rollouts as the admin API shows them, and the orders it takes. Only values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::flows::histogram::quantile_ns;
use crate::rollout::{Cause, Counts, Order, Phase, Rollout, Tallies, Verdict};

/// The canary of one service, as of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The service's full name.
    pub service: Arc<str>,
    /// The version that is tried out.
    pub version: Arc<str>,
    /// The version it is compared with.
    pub baseline: Arc<str>,
    /// `progressing`, `paused`, `promoted` or `rolled_back`.
    pub phase: Phase,
    /// The canary's part of the connections, in thousandths.
    pub weight_permille: u32,
    /// The parts of all steps, in percent; empty where its share is what the split says.
    pub steps: Vec<u8>,
    /// The step it is at, counted from 1; null without steps.
    pub step: Option<u64>,
    /// When the next step is due if all goes well, in milliseconds; 0: it waits for connections. Null where there is
    /// none.
    pub next_step_in_ms: Option<u64>,
    /// What the counts say: `fine`, `too_few`, or `decided` where nothing is compared any more.
    pub verdict: Verdict,
    /// Why it was rolled back; null where it was not.
    pub cause: Option<Cause>,
    /// The same with figures, in words; null where it was not.
    pub reason: Option<String>,
    /// When the phase or the step last changed.
    pub changed_at: Timestamp,
    /// All of this in one sentence.
    pub summary: String,
    /// Connections of each of the two without which nothing is decided.
    pub minimum_samples: u32,
    /// How far back the counts reach, in milliseconds.
    pub window_ms: u64,
    /// What was counted of the canary within the window.
    pub of_canary: SampleView,
    /// What was counted of the baseline within the window.
    pub of_baseline: SampleView,
    /// Steps up since the agent started.
    pub stepped_up: u64,
    /// Promotions since the agent started.
    pub promoted: u64,
    /// Rollbacks since the agent started, by cause.
    pub rolled_back: BTreeMap<Cause, u64>,
}

/// What was counted of one version within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleView {
    /// Connections that were established or failed.
    pub tried: u64,
    /// Of those, the ones that failed.
    pub failed: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Of those, the ones that were reset.
    pub reset: u64,
    /// Requests that were answered, where the protocol is understood.
    pub answered: u64,
    /// Of those, the ones that were answered with an error of the server.
    pub errors: u64,
    /// The 99th percentile of the handshakes, in nanoseconds; null where there was none.
    pub connect_p99_ns: Option<u64>,
}

impl From<&Counts> for SampleView {
    fn from(counts: &Counts) -> Self {
        Self {
            tried: counts.tried(),
            failed: counts.failed,
            ended: counts.ended,
            reset: counts.reset,
            answered: counts.answered,
            errors: counts.errors,
            connect_p99_ns: quantile_ns(&counts.connect, 0.99),
        }
    }
}

/// The answer of `/v1/rollouts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollouts {
    /// Every canary, in the order of services.
    pub rollouts: Vec<RolloutView>,
}

/// The body of `POST /v1/rollout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// The service's full name.
    pub service: String,
    /// `pause`, `resume`, `promote` or `rollback`.
    pub order: Order,
}

/// Why an order about a canary was not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// No such service, or it has no canary.
    #[error(
        "the agent knows no canary of a service `{service}`; `segue rollout` lists all, `policy.canary` makes one"
    )]
    Unknown {
        /// What was asked for.
        service: String,
    },
    /// The order makes no sense now.
    #[error("the canary of {service} is {} and cannot be {}; {}", phase.name(), done(*order), advice(*phase))]
    WrongPhase {
        /// The service.
        service: String,
        /// How far the canary has come.
        phase: Phase,
        /// What was ordered.
        order: Order,
    },
}

fn done(order: Order) -> &'static str {
    match order {
        Order::Pause => "paused",
        Order::Resume => "resumed",
        Order::Promote => "promoted",
        Order::Rollback => "rolled back",
    }
}

fn advice(phase: Phase) -> &'static str {
    match phase {
        Phase::Promoted => "`rollback` takes its share away, `resume` after that begins anew",
        Phase::RolledBack => "`resume` begins anew, `promote` gives it every connection",
        Phase::Progressing | Phase::Paused => "`segue rollout` shows it",
    }
}

impl RolloutView {
    /// The canary of a service at a moment of the monotonic clock.
    pub fn new(service: &Arc<str>, rollout: &Rollout, tallies: &Tallies, now: Duration) -> Self {
        let (_, canary) = rollout.plan();
        let state = rollout.state();
        let (of_canary, of_baseline) = rollout.counts();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            service: Arc::clone(service),
            version: Arc::clone(&canary.version),
            baseline: Arc::clone(&canary.baseline),
            phase: state.phase,
            weight_permille: rollout.weight_permille(),
            steps: canary.steps.clone(),
            step: (!canary.steps.is_empty()).then_some(state.step as u64 + 1),
            next_step_in_ms: rollout.next_step_in(now).map(ms),
            verdict: rollout.verdict(),
            cause: state.cause,
            reason: (!state.reason.is_empty()).then(|| state.reason.clone()),
            changed_at: state.changed_at,
            summary: rollout.to_string(),
            minimum_samples: canary.guard.minimum_samples,
            window_ms: ms(canary.guard.window),
            of_canary: (&of_canary).into(),
            of_baseline: (&of_baseline).into(),
            stepped_up: tallies.stepped_up,
            promoted: tallies.promoted,
            rolled_back: Cause::ALL.iter().copied().zip(tallies.rolled_back).collect(),
        }
    }

    /// It was rolled back, and not by an operator: somebody should look.
    pub fn is_problem(&self) -> bool {
        self.phase == Phase::RolledBack && self.cause != Some(Cause::Operator)
    }
}
