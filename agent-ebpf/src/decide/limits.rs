//! Limits on connections: how many at a time, how many waiting for their handshake, how many per second.
//!
//! Each function takes a word and gives the word that should replace it in one atomic step, or says no; so no
//! limit is ever passed, however many CPUs ask at once. A caller that is refused by one limit gives back what it
//! took from those before.

use crate::abi::admission::{Limits, RateWord};

/// Sixteenths of a nanosecond in a second. Finer than nanoseconds, so that a rate in the millions is still exact
/// to a few hundredths of a percent, and coarse enough for 36 years of uptime in one word.
const SECOND: u64 = 16_000_000_000;

/// The largest burst that counts. So many of the longest intervals, a second each, fit in a word; a kernel program
/// has no multiplication that tells of an overflow.
pub const MAX_BURST: u32 = 1 << 29;

/// How many a count says are in use. One that drifted below zero, until it is corrected, says none, and not the most there can
/// be: a backend with it would get nothing.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "no backend has 2³² connections")]
pub const fn in_use(count: u64) -> u32 {
    if count > u64::MAX >> 1 { 0 } else { count as u32 }
}

/// One more of at most `most` (0: no limit); `None` where that would be one too many. A count that drifted below zero
/// (a giving back that was counted twice, before that was found and corrected) admits: it must not refuse everything.
#[inline(always)]
pub const fn take(count: u64, most: u32) -> Option<u64> {
    let is_drifted = count > u64::MAX >> 1;
    if most != 0 && count >= most as u64 && !is_drifted { None } else { Some(count.wrapping_add(1)) }
}

/// Takes one token of the bucket; `None` where there is none. The rate is never exceeded: the time between two
/// tokens is rounded up.
#[inline(always)]
pub const fn take_token(word: RateWord, limits: &Limits, now_ns: u64) -> Option<RateWord> {
    let rate = limits.rate_per_second as u64;
    let Some(interval) = (SECOND + rate.saturating_sub(1)).checked_div(rate) else { return Some(word) };
    let burst = burst(limits);
    let now = now_ns << 4;
    let full_at = if word.0 > now { word.0 } else { now };
    // A bucket is empty when it takes a whole burst of intervals to fill it.
    let full_at = full_at.saturating_add(interval);
    if full_at - now > burst * interval { None } else { Some(RateWord(full_at)) }
}

/// Tokens of a full bucket.
#[inline(always)]
const fn burst(limits: &Limits) -> u64 {
    if limits.rate_burst == 0 {
        1
    } else if limits.rate_burst < MAX_BURST {
        limits.rate_burst as u64
    } else {
        MAX_BURST as u64
    }
}

/// Puts back a token that was taken for a connection that then did not go.
#[inline(always)]
pub const fn put_token_back(word: RateWord, limits: &Limits) -> RateWord {
    let rate = limits.rate_per_second as u64;
    match (SECOND + rate.saturating_sub(1)).checked_div(rate) {
        Some(interval) => RateWord(word.0.saturating_sub(interval)),
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(rate_per_second: u32, rate_burst: u32) -> Limits {
        Limits { rate_per_second, rate_burst, ..Limits::default() }
    }

    #[test]
    fn a_count_below_zero_says_that_none_are_in_use() {
        assert_eq!([0, 7, u64::MAX, u64::MAX - 6].map(in_use), [0, 7, 0, 0]);
    }

    #[test]
    fn no_limit_is_the_default() {
        assert_eq!(take(1_000_000, 0), Some(1_000_001));
        assert_eq!(take_token(RateWord(5), &Limits::default(), 0), Some(RateWord(5)));
        assert_eq!(put_token_back(RateWord(5), &Limits::default()), RateWord(5));
    }

    #[test]
    fn exactly_as_many_as_allowed_are_taken() {
        let mut count = 0;
        while let Some(taken) = take(count, 7) {
            count = taken;
        }
        assert_eq!(count, 7);
        assert_eq!(take(count - 1, 7), Some(7));
    }

    #[test]
    fn a_count_that_drifted_below_zero_refuses_nobody() {
        assert_eq!(take(u64::MAX, 7), Some(0));
        assert_eq!(take(u64::MAX - 4, 7), Some(u64::MAX - 3));
    }

    #[test]
    fn a_rested_bucket_gives_its_burst_and_then_one_per_interval() {
        let limits = rate(10, 3);
        let mut word = RateWord::default();
        let start_ns = 5_000_000_000;
        for _ in 0..3 {
            word = take_token(word, &limits, start_ns).unwrap();
        }
        assert_eq!(take_token(word, &limits, start_ns), None);
        assert_eq!(take_token(word, &limits, start_ns + 99_999_999), None);
        word = take_token(word, &limits, start_ns + 100_000_000).unwrap();
        assert_eq!(take_token(word, &limits, start_ns + 100_000_000), None);
    }

    #[test]
    fn the_largest_burst_at_the_lowest_rate_does_not_overflow() {
        let limits = rate(1, u32::MAX);
        let full_ns = u64::from(MAX_BURST) * 1_000_000_000;
        let all_but_one = RateWord((full_ns - 1_000_000_000) * 16);
        let empty = take_token(all_but_one, &limits, 0).unwrap();
        assert_eq!(empty, RateWord(full_ns * 16));
        assert_eq!(take_token(empty, &limits, 0), None);
        assert_eq!(take_token(RateWord(u64::MAX), &limits, 0), None);
    }

    #[test]
    fn a_token_put_back_can_be_taken_again() {
        let limits = rate(1, 1);
        let word = take_token(RateWord::default(), &limits, 1_000).unwrap();
        assert_eq!(take_token(word, &limits, 1_000), None);
        assert!(take_token(put_token_back(word, &limits), &limits, 1_000).is_some());
    }

    /// A token bucket kept in tokens, as a fraction over `interval`.
    struct Bucket {
        interval: u128,
        /// Tokens × `interval`.
        filled: u128,
        at: u128,
    }

    impl Bucket {
        fn take(&mut self, now_ns: u64, burst: u32) -> bool {
            let now = u128::from(now_ns) * 16;
            let full = u128::from(burst.max(1)) * self.interval;
            self.filled = full.min(self.filled + (now - self.at));
            self.at = now;
            let has = self.filled >= self.interval;
            self.filled -= if has { self.interval } else { 0 };
            has
        }
    }

    proptest! {
        #[test]
        fn the_bucket_agrees_with_one_that_counts_tokens(
            per_second in prop_oneof![1u32..100, 1u32..2_000_000, any::<u32>().prop_map(|any| any.max(1))],
            burst in 0u32..20,
            start_ns in 0u64..1 << 59,
            gaps in prop::collection::vec((0u64..4, 0u64..1_000), 1..200),
        ) {
            let limits = rate(per_second, burst);
            let interval = (16_000_000_000u128).div_ceil(u128::from(per_second));
            let mut bucket =
                Bucket { interval, filled: u128::from(burst.max(1)) * interval, at: u128::from(start_ns) * 16 };
            let (mut word, mut now_ns) = (RateWord::default(), start_ns);
            for (whole, thousandth) in gaps {
                let gap = interval / 16 * u128::from(whole) / 2 + interval / 16 * u128::from(thousandth) / 1_000;
                now_ns += u64::try_from(gap).unwrap();
                let taken = take_token(word, &limits, now_ns);
                prop_assert_eq!(taken.is_some(), bucket.take(now_ns, burst));
                word = taken.unwrap_or(word);
            }
        }

        #[test]
        fn no_second_sees_more_than_the_burst_and_the_rate(
            per_second in 1u32..5_000, burst in 1u32..50, asks in prop::collection::vec(0u64..400_000, 1..600)
        ) {
            let limits = rate(per_second, burst);
            let (mut word, mut now_ns) = (RateWord::default(), 0);
            let mut taken_ns: Vec<u64> = Vec::new();
            for gap_ns in asks {
                now_ns += gap_ns;
                if let Some(taken) = take_token(word, &limits, now_ns) {
                    word = taken;
                    taken_ns.push(now_ns);
                }
            }
            for (place, &from_ns) in taken_ns.iter().enumerate() {
                let within = taken_ns[place..].iter().filter(|&&at| at < from_ns + 1_000_000_000).count();
                prop_assert!(within as u64 <= u64::from(per_second) + u64::from(burst));
            }
        }
    }
}
