//! The growing share of a backend that has just come back, or is new.

use super::policy::period;
use crate::abi::breaker::remaining_ticks;
use crate::abi::{BreakerPolicy, BreakerState, CellWord};

/// The part of its due share a backend gets now, in thousandths: in a slow start from the policy's minimum to
/// the whole, in a straight line; else the whole. Probes are not thinned out.
#[inline(always)]
pub const fn weight_permille(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> u32 {
    let whole = period(policy.slow_start_ticks);
    if !word.is_recovering() || !matches!(word.state(), BreakerState::Closed) {
        return 1_000;
    }
    growing_permille(remaining_ticks(word.deadline_ticks(), now_ticks, whole), whole, policy)
}

/// The same for a backend that joined a running service at this tick, whose share grows over so many ticks. 0: it
/// did not join.
#[inline(always)]
pub const fn joining_permille(
    joined_ticks: u32,
    join_ticks: u32,
    policy: &BreakerPolicy,
    now_ticks: u32,
) -> u32 {
    let whole = period(join_ticks);
    if joined_ticks == 0 {
        return 1_000;
    }
    let remaining = remaining_ticks(joined_ticks.wrapping_add(whole), now_ticks, whole);
    growing_permille(remaining, whole, policy)
}

/// From the policy's minimum to the whole, as the remaining ticks become none of `whole`.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "at most 1000")]
const fn growing_permille(remaining_ticks: u32, whole: u32, policy: &BreakerPolicy) -> u32 {
    let least =
        if policy.slow_start_min_percent < 100 { policy.slow_start_min_percent as u64 * 10 } else { 1_000 };
    // Missing share: all that the minimum leaves at the start, nothing at the end.
    let remaining = if remaining_ticks < whole { remaining_ticks } else { whole } as u64;
    match ((1_000 - least) * remaining).checked_div(whole as u64) {
        Some(missing) => 1_000 - missing as u32,
        None => 1_000,
    }
}

/// Whether a backend of this weight takes a connection that fell to it, for a draw of 32 random bits.
#[inline(always)]
pub const fn accepts(weight_permille: u32, draw: u32) -> bool {
    (draw as u64 * 1_000) >> 32 < weight_permille as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY_TICKS: u32 = 1_000;

    fn policy() -> BreakerPolicy {
        BreakerPolicy {
            slow_start_ticks: POLICY_TICKS,
            slow_start_min_percent: 10,
            ..BreakerPolicy::default()
        }
    }

    const fn returned(start: u32) -> CellWord {
        CellWord::recovering(0, start.wrapping_add(POLICY_TICKS))
    }

    #[test]
    fn a_backend_that_joins_or_returns_gets_from_a_tenth_to_all_of_its_share_in_a_straight_line() {
        for start in [1, u32::MAX - 300] {
            let returned = |ticks| weight_permille(returned(start), &policy(), start.wrapping_add(ticks));
            let joined = |ticks| joining_permille(start, POLICY_TICKS, &policy(), start.wrapping_add(ticks));
            let moments = [0, 500, 1_000, 1_001, 1 << 31];
            assert_eq!(moments.map(returned), [100, 550, 1_000, 1_000, 1_000]);
            assert_eq!(moments.map(joined), [100, 550, 1_000, 1_000, 1_000]);
        }
    }

    #[test]
    fn without_a_slow_start_the_share_is_whole_at_once() {
        let none = BreakerPolicy { slow_start_ticks: 0, ..policy() };
        assert_eq!(weight_permille(CellWord::CLEAN, &policy(), 50), 1_000);
        assert_eq!(weight_permille(returned(50), &none, 50), 1_000, "switched off meanwhile");
        assert_eq!(joining_permille(50, 0, &policy(), 50), 1_000);
        assert_eq!(joining_permille(0, POLICY_TICKS, &policy(), 50), 1_000, "it did not join");
    }

    #[test]
    fn probes_are_not_thinned_out() {
        assert_eq!(weight_permille(CellWord::half_open(1, 60), &policy(), 50), 1_000);
        assert_eq!(weight_permille(CellWord::open(1, 40), &policy(), 50), 1_000);
    }

    #[test]
    fn a_clock_read_before_the_backend_closed_finds_the_start_of_its_slow_start() {
        assert_eq!(weight_permille(returned(50), &policy(), 49), 100);
    }

    proptest! {
        #[test]
        fn a_weight_is_a_part_of_all_draws(weight in 0u32..=1_000, draw: u32) {
            prop_assert_eq!(accepts(weight, draw), f64::from(draw) / 4_294_967.296 < f64::from(weight));
        }

        #[test]
        fn weights_stay_between_the_minimum_and_the_whole(word: u64, now: u32, period: u32, least in 0u8..=100) {
            let policy = BreakerPolicy { slow_start_ticks: period, slow_start_min_percent: least, ..policy() };
            let weight = weight_permille(CellWord(word), &policy, now);
            prop_assert!(weight <= 1_000 && weight >= u32::from(least) * 10);
        }
    }
}
