//! Whether a canary does worse than its baseline, from what was counted of both. Knows no service, no share and no
//! time.
//!
//! A canary is worse where its part of bad connections is larger than the baseline's by more than is allowed, and by
//! more than chance explains: the lower bound of the difference of the two parts (Newcombe's, from Wilson's bounds of
//! each) has to be above what is allowed.

use std::fmt;

use agent_ebpf::abi::{HISTOGRAM_BUCKETS, Histogram};
use serde::{Deserialize, Serialize};

use super::evidence::Counts;
use crate::desired::GuardSpec;
use crate::flows::histogram::{bound_ns, quantile_ns};

/// How many standard errors chance gets: of 300 000 looks one is further off than this.
const CHANCE: f64 = 4.5;

/// Handshakes up to this long are never slow, in nanoseconds: differences below it are of the machines' making.
pub const NEVER_SLOW_NS: u64 = 1_000_000;

/// The part of slow handshakes that "slower than 99 % of the baseline's" allows anyway.
const SLOW_PERCENT: u8 = 1;

/// By what a canary is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// Connections that were not established.
    ConnectFailureRatio,
    /// Connections that the backend reset, or that timed out.
    ResetRatio,
    /// Handshakes that took long.
    ConnectP99,
    /// Requests that were answered with an error of the server.
    RequestErrorRatio,
}

impl Criterion {
    /// Every criterion, in the order in which they are asked.
    pub const ALL: &'static [Self] =
        &[Self::ConnectFailureRatio, Self::ResetRatio, Self::RequestErrorRatio, Self::ConnectP99];

    /// The name in configuration, labels and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectFailureRatio => "connect_failure_ratio",
            Self::ResetRatio => "reset_ratio",
            Self::ConnectP99 => "connect_p99",
            Self::RequestErrorRatio => "request_error_ratio",
        }
    }

    const fn bad(self) -> &'static str {
        match self {
            Self::ConnectFailureRatio => "failed to connect",
            Self::ResetRatio => "were reset",
            Self::ConnectP99 => "connected slowly",
            Self::RequestErrorRatio => "were answered with an error",
        }
    }
}

/// So many of so many were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The bad ones.
    pub bad: u64,
    /// All of them.
    pub of: u64,
}

/// Why a canary is worse than its baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// By which criterion.
    pub criterion: Criterion,
    /// What the canary did.
    pub canary: Part,
    /// What the baseline did.
    pub baseline: Part,
    /// How much larger the canary's part may be, in percent of all.
    pub allowed_percent: u8,
    /// From which length a handshake is slow, in nanoseconds; 0 where handshakes are not compared.
    pub slow_ns: u64,
}

impl fmt::Display for Finding {
    /// `41 of 52 failed to connect (78.8 %), 3 of 1004 of the baseline (0.2 %)`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { criterion, canary, baseline, allowed_percent, slow_ns } = *self;
        let (tenths, other) = (canary.permille(), baseline.permille());
        write!(
            formatter,
            "{} of {} {} ({}.{} %), {} of {} of the baseline ({}.{} %); {allowed_percent} % more are allowed",
            canary.bad,
            canary.of,
            criterion.bad(),
            tenths / 10,
            tenths % 10,
            baseline.bad,
            baseline.of,
            other / 10,
            other % 10
        )?;
        if slow_ns > 0 {
            write!(formatter, ", slow is from {}.{} ms", slow_ns / 1_000_000, slow_ns / 100_000 % 10)?;
        }
        Ok(())
    }
}

/// What the counts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Too few connections and requests to say anything.
    TooFew,
    /// Enough of them, and the canary is not worse.
    Fine,
    /// The canary is worse.
    Worse(Finding),
}

/// Judges a canary by what was counted of it and of its baseline in the same time.
pub fn judge(guard: &GuardSpec, canary: &Counts, baseline: &Counts) -> Judgement {
    let minimum = u64::from(guard.minimum_samples);
    let enough = |finding: &Finding| finding.canary.of >= minimum && finding.baseline.of >= minimum;
    let mut findings =
        Criterion::ALL.iter().filter_map(|&criterion| compare(criterion, guard, canary, baseline));
    if let Some(worse) = findings.find(|finding| enough(finding) && is_worse(finding)) {
        return Judgement::Worse(worse);
    }
    let samples = canary.samples().min(baseline.samples());
    if samples >= minimum { Judgement::Fine } else { Judgement::TooFew }
}

/// Puts the two side by side by one criterion; `None` where the guard does not use it.
fn compare(criterion: Criterion, guard: &GuardSpec, canary: &Counts, baseline: &Counts) -> Option<Finding> {
    let finding = |allowed_percent, slow_ns, part: &dyn Fn(&Counts) -> Part| Finding {
        criterion,
        canary: part(canary),
        baseline: part(baseline),
        allowed_percent,
        slow_ns,
    };
    Some(match criterion {
        Criterion::ConnectFailureRatio => finding(guard.connect_failure_percent, 0, &|counts| Part {
            bad: counts.failed,
            of: counts.tried(),
        }),
        Criterion::ResetRatio => {
            finding(guard.reset_percent, 0, &|counts| Part { bad: counts.reset, of: counts.ended })
        }
        Criterion::RequestErrorRatio => finding(guard.request_error_percent, 0, &|counts| Part {
            bad: counts.errors,
            of: counts.answered,
        }),
        Criterion::ConnectP99 => {
            let usual_ns = quantile_ns(&baseline.connect, 0.99)?;
            let slow_ns = usual_ns.saturating_mul(guard.connect_p99_percent?.into()) / 100;
            let slow_ns = slow_ns.max(NEVER_SLOW_NS);
            finding(SLOW_PERCENT, slow_ns, &|counts| slower(&counts.connect, slow_ns))
        }
    })
}

/// The handshakes that certainly took longer than this: those in buckets that begin there or later.
fn slower(connect: &Histogram, than_ns: u64) -> Part {
    let begins_ns = |bucket: usize| bucket.checked_sub(1).and_then(bound_ns).unwrap_or(0);
    let mut part = Part::default();
    for (bucket, &count) in connect.buckets.iter().enumerate().take(HISTOGRAM_BUCKETS + 1) {
        part.of += count;
        part.bad += if begins_ns(bucket) >= than_ns { count } else { 0 };
    }
    part
}

fn is_worse(finding: &Finding) -> bool {
    let (canary, baseline) = (finding.canary.bounds(), finding.baseline.bounds());
    let below = (canary.value - canary.low).hypot(baseline.high - baseline.value);
    canary.value - baseline.value - below > f64::from(finding.allowed_percent) / 100.0
}

/// A part as measured, and between what chance lets it lie.
struct Bounds {
    value: f64,
    low: f64,
    high: f64,
}

impl Part {
    fn permille(self) -> u64 {
        self.bad.saturating_mul(1_000) / self.of.max(1)
    }

    /// Wilson's bounds. Of nothing, anything is possible.
    #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 connections one more or less means nothing")]
    fn bounds(self) -> Bounds {
        if self.of == 0 {
            return Bounds { value: 0.0, low: 0.0, high: 1.0 };
        }
        let (of, value) = (self.of as f64, self.bad.min(self.of) as f64 / self.of as f64);
        let square = CHANCE * CHANCE;
        let centre = value + square / (2.0 * of);
        let spread = CHANCE * (value * (1.0 - value) / of + square / (4.0 * of * of)).sqrt();
        let scale = 1.0 + square / of;
        Bounds { value, low: (centre - spread) / scale, high: (centre + spread) / scale }
    }
}

#[cfg(test)]
mod tests;
