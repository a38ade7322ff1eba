//! What happened lately: exact counts in buckets of time. Knows nothing of what the counts lead to.

use core::hint::black_box;

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

/// The bucket that counts an epoch, less than [`WINDOW_BUCKETS`]: its remainder.
#[allow(clippy::cast_possible_truncation, reason = "less than the buckets there are")]
#[inline(always)]
pub const fn bucket(epoch: u64) -> usize {
    // A power of two, so that this is a mask, of which the kernel's verifier knows the bounds; of a remainder it does not.
    const { assert!(WINDOW_BUCKETS.is_power_of_two()) };
    (epoch & (WINDOW_BUCKETS as u64 - 1)) as usize
}

/// The bucket of `epoch` with one more connection. What it held of another epoch goes.
#[inline(always)]
pub const fn record(word: WindowWord, epoch: u64, verdict: Verdict) -> WindowWord {
    let round = round(epoch);
    let kept = if word.round() == round { word } else { WindowWord::new(round, 0, 0, 0) };
    let (good, failed, slow) = (kept.good(), kept.failed(), kept.slow());
    match verdict {
        Verdict::Good => WindowWord::new(round, good.saturating_add(1), failed, slow),
        Verdict::Failed => WindowWord::new(round, good, failed.saturating_add(1), slow),
        Verdict::Slow => WindowWord::new(round, good, failed, slow.saturating_add(1)),
    }
}

/// The counts of `epoch` and those just before it, as many as there are buckets. A bucket that holds any other
/// epoch counts nothing; one left alone for exactly 65 536 rounds (or a multiple) cannot be told apart: with the default
/// policy seven days and a half.
#[inline(always)]
pub fn sum(words: &[WindowWord; WINDOW_BUCKETS], epoch: u64) -> Totals {
    let newest = bucket(epoch) as u64;
    let mut totals = Totals::default();
    for (place, word) in words.iter().enumerate() {
        // By arithmetic and not by branches: the verifier would follow every combination of buckets. The compiler
        // would make branches of it, were it not kept from seeing that these are 0 or 1.
        let ahead = newest.wrapping_sub(place as u64);
        let age = ahead.wrapping_add(black_box(ahead >> 63) * WINDOW_BUCKETS as u64);
        let difference = (word.round() ^ round(epoch.wrapping_sub(age))) as u32;
        let counts = black_box((0x1_0000 - difference) >> 16);
        totals.good += word.good() as u32 * counts;
        totals.failed += word.failed() as u32 * counts;
        totals.slow += word.slow() as u32 * counts;
    }
    totals
}

/// How often all buckets were gone round before an epoch. With the bucket it names the epoch.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the low bits are what a bucket keeps")]
pub const fn round(epoch: u64) -> u16 {
    (epoch / WINDOW_BUCKETS as u64) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record_at(words: &mut [WindowWord; WINDOW_BUCKETS], epoch: u64, verdict: Verdict) {
        let word = &mut words[bucket(epoch)];
        *word = record(*word, epoch, verdict);
    }

    #[test]
    fn the_window_is_this_stretch_of_time_and_seven_before() {
        let mut words = [WindowWord::default(); WINDOW_BUCKETS];
        for epoch in 100..108 {
            record_at(&mut words, epoch, Verdict::Good);
        }
        let samples = |epoch| sum(&words, epoch).samples();
        assert_eq!([107, 108, 114, 115].map(samples), [8, 7, 1, 0]);
    }

    #[test]
    fn each_epoch_has_the_bucket_of_its_remainder() {
        for epoch in (0..1_000).chain(u64::MAX - 100..=u64::MAX) {
            assert_eq!(bucket(epoch) as u64, epoch % WINDOW_BUCKETS as u64, "{epoch}");
        }
    }

    #[test]
    fn a_bucket_left_alone_for_a_long_time_counts_nothing() {
        let mut words = [WindowWord::default(); WINDOW_BUCKETS];
        record_at(&mut words, 100, Verdict::Failed);
        // The same bucket, and the low bits of the epoch are the same; the round is not.
        for later in [8, 65_536, 7 * 65_536] {
            assert_eq!(sum(&words, 100 + later), Totals::default(), "{later}");
        }
    }

    #[test]
    fn counts_stop_at_the_top_of_their_field_and_leave_the_others_alone() {
        for (verdict, full) in [
            (Verdict::Good, WindowWord::new(9, u16::MAX, 3, 4)),
            (Verdict::Failed, WindowWord::new(9, 3, u16::MAX, 4)),
            (Verdict::Slow, WindowWord::new(9, 3, 4, u16::MAX)),
        ] {
            assert_eq!(record(full, 9 * WINDOW_BUCKETS as u64, verdict), full);
        }
    }

    #[test]
    fn a_bucket_is_as_long_as_the_policy_says() {
        let policy = BreakerPolicy { bucket_ticks: 10, ..BreakerPolicy::default() };
        let epoch_at = |ticks: u64| epoch(&policy, ticks << TICK_SHIFT);
        assert_eq!([0, 9, 10, 25].map(epoch_at), [0, 0, 1, 2]);
        let careless = BreakerPolicy { bucket_ticks: 0, ..policy };
        assert_eq!(epoch(&careless, 7 << TICK_SHIFT), 7);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_list_of_all_records(
            start in prop_oneof![Just(0u64), 65_500u64..65_600, 0u64..1 << 44],
            records in prop::collection::vec(
                (prop_oneof![6 => 0u64..3, 1 => 0u64..30, 1 => 0u64..1_000], 0u8..3), 1..300),
        ) {
            let mut words = [WindowWord::default(); WINDOW_BUCKETS];
            let (mut past, mut now) = (Vec::new(), start);
            let mut previous = Totals::default();
            for (step, kind) in records {
                now += step;
                let verdict = [Verdict::Good, Verdict::Failed, Verdict::Slow][usize::from(kind)];
                record_at(&mut words, now, verdict);
                past.push((now, verdict));
                let count = |wanted| {
                    let matches = |&&(at, verdict): &&(u64, Verdict)| verdict == wanted && now - at < WINDOW_BUCKETS as u64;
                    u32::try_from(past.iter().filter(matches).count()).unwrap()
                };
                let totals = sum(&words, now);
                prop_assert_eq!(
                    totals,
                    Totals { good: count(Verdict::Good), failed: count(Verdict::Failed), slow: count(Verdict::Slow) }
                );
                if step == 0 {
                    prop_assert_eq!(totals.samples(), previous.samples() + 1, "within a stretch sums only grow");
                }
                previous = totals;
            }
        }
    }
}
