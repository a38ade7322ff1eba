//! How long a breaker stays open.

use super::policy::period;
use crate::abi::BreakerPolicy;

/// The open time in ticks of a breaker that opened `opened` times in a row before: base × 2^`opened`, at most the
/// cap, then off by up to the jitter either way, as the draw of 32 random bits says. At least one tick.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "at most twice a period, which has 30 bits")]
pub const fn open_ticks(policy: &BreakerPolicy, opened: u32, draw: u32) -> u32 {
    let doublings = if opened < 31 { opened } else { 31 };
    let wanted = (period(policy.open_base_ticks) as u64) << doublings;
    let cap = period(policy.open_cap_ticks) as u64;
    let middle = if wanted < cap { wanted } else { cap };
    let reach = middle * jitter_percent(policy) / 100;
    let ticks = middle - reach + ((draw as u64 * (2 * reach + 1)) >> 32);
    if ticks == 0 { 1 } else { ticks as u32 }
}

/// The longest open time in ticks that [`open_ticks`] gives.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "at most twice a period, which has 30 bits")]
pub const fn longest_open_ticks(policy: &BreakerPolicy) -> u32 {
    let cap = period(policy.open_cap_ticks) as u64;
    (cap + cap * jitter_percent(policy) / 100) as u32
}

#[inline(always)]
const fn jitter_percent(policy: &BreakerPolicy) -> u64 {
    if policy.jitter_percent < 100 { policy.jitter_percent as u64 } else { 100 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::breaker::MAX_PERIOD_TICKS;
    use proptest::prelude::*;

    #[test]
    fn each_opening_in_a_row_doubles_the_time_up_to_the_cap() {
        let policy = BreakerPolicy {
            open_base_ticks: 5,
            open_cap_ticks: 300,
            jitter_percent: 0,
            ..BreakerPolicy::default()
        };
        let times = [0, 1, 2, 5, 6, 31, u32::MAX].map(|opened| open_ticks(&policy, opened, 0));
        assert_eq!(times, [5, 10, 20, 160, 300, 300, 300]);
    }

    #[test]
    fn the_jitter_reaches_both_ends() {
        let policy = BreakerPolicy {
            open_base_ticks: 1_000,
            open_cap_ticks: 1_000,
            jitter_percent: 20,
            ..BreakerPolicy::default()
        };
        assert_eq!(open_ticks(&policy, 0, 0), 800);
        assert_eq!(open_ticks(&policy, 0, 1 << 31), 1_000);
        assert_eq!(open_ticks(&policy, 0, u32::MAX), 1_200);
    }

    proptest! {
        #[test]
        fn no_opening_is_longer_than_the_cap_and_its_jitter_or_shorter_than_a_tick(
            base: u32, cap: u32, jitter: u8, opened: u32, draw: u32
        ) {
            let policy = BreakerPolicy {
                open_base_ticks: base, open_cap_ticks: cap, jitter_percent: jitter, ..BreakerPolicy::default()
            };
            let ticks = open_ticks(&policy, opened, draw);
            prop_assert!(ticks >= 1 && ticks <= longest_open_ticks(&policy).max(1));
            prop_assert!(longest_open_ticks(&policy) <= 2 * MAX_PERIOD_TICKS, "half of the tick circle");
        }
    }
}
