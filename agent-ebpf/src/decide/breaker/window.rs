//! What happened lately: exact counts in buckets of time. Knows nothing of what the counts lead to.

use crate::abi::limits::WINDOW_BUCKETS;
use crate::abi::{BreakerPolicy, WindowWord, breaker::TICK_SHIFT};

/// How a connection did. Each connection is recorded once, as one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It proved good.
    Good,
    /// A signal that the policy counts.
    Failed,
    /// It proved good, but its handshake was slow.
    Slow,
}

/// Counts over a whole window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that proved good and were not slow.
    pub good: u32,
    /// Connections that failed.
    pub failed: u32,
    /// Connections that proved good, but slow.
    pub slow: u32,
}

impl Totals {
    /// All connections.
    #[inline(always)]
    pub const fn samples(self) -> u32 {
        self.good.saturating_add(self.failed).saturating_add(self.slow)
    }
}

/// The number of the stretch of time that `now_ns` is in.
#[inline(always)]
pub const fn epoch(policy: &BreakerPolicy, now_ns: u64) -> u64 {
    let bucket_ticks = if policy.bucket_ticks == 0 { 1 } else { policy.bucket_ticks as u64 };
    (now_ns >> TICK_SHIFT) / bucket_ticks
}

/// The bucket that counts an epoch, less than [`WINDOW_BUCKETS`].
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "less than the number of buckets")]
pub const fn bucket(epoch: u64) -> usize {
    (epoch % WINDOW_BUCKETS as u64) as usize
}

/// The bucket of `epoch` with one more connection. What it held of another epoch goes.
#[inline(always)]
pub const fn record(word: WindowWord, epoch: u64, verdict: Verdict) -> WindowWord {
    let low = epoch_low(epoch);
    let kept = if word.epoch_low() == low { word } else { WindowWord::new(low, 0, 0, 0) };
    let (good, failed, slow) = (kept.good(), kept.failed(), kept.slow());
    match verdict {
        Verdict::Good => WindowWord::new(low, good.saturating_add(1), failed, slow),
        Verdict::Failed => WindowWord::new(low, good, failed.saturating_add(1), slow),
        Verdict::Slow => WindowWord::new(low, good, failed, slow.saturating_add(1)),
    }
}

/// The counts of `epoch` and those just before it, as many as there are buckets. A bucket that holds any other
/// epoch counts nothing; one left alone for exactly five times 65 536 epochs (or a multiple) cannot be told apart.
#[inline(always)]
pub fn sum(words: &[WindowWord; WINDOW_BUCKETS], epoch: u64) -> Totals {
    let newest = bucket(epoch);
    let mut totals = Totals::default();
    for (place, word) in words.iter().enumerate() {
        let age = if place <= newest { newest - place } else { newest + WINDOW_BUCKETS - place };
        if word.epoch_low() == epoch_low(epoch.wrapping_sub(age as u64)) {
            totals.good += word.good() as u32;
            totals.failed += word.failed() as u32;
            totals.slow += word.slow() as u32;
        }
    }
    totals
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the low bits are what a bucket keeps")]
const fn epoch_low(epoch: u64) -> u16 {
    epoch as u16
}
