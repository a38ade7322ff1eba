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
