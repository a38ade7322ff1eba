//! The growing share of a backend that has just come back, or is new.

use crate::abi::breaker::remaining_ticks;
use crate::abi::{BreakerPolicy, BreakerState, CellWord};

/// The cell of a backend that has just joined: closed, with a slow start; clean where the policy has none.
#[inline(always)]
pub const fn joining(policy: &BreakerPolicy, now_ticks: u32) -> CellWord {
    match policy.slow_start_ticks() {
        0 => CellWord::CLEAN,
        period => CellWord::recovering(0, now_ticks.wrapping_add(period)),
    }
}

/// The part of its due share a backend gets now, in thousandths: in a slow start from the policy's minimum to
/// the whole, in a straight line; else the whole. Probes are not thinned out.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "at most 1000")]
pub const fn weight_permille(word: CellWord, policy: &BreakerPolicy, now_ticks: u32) -> u32 {
    let period = policy.slow_start_ticks();
    if !word.is_recovering() || !matches!(word.state(), BreakerState::Closed) {
        return 1_000;
    }
    let remaining = remaining_ticks(word.deadline_ticks(), now_ticks, period);
    let least =
        if policy.slow_start_min_percent < 100 { policy.slow_start_min_percent as u64 * 10 } else { 1_000 };
    // Missing share: all that the minimum leaves at the start, nothing at the end.
    let remaining = if remaining < period { remaining } else { period } as u64;
    match ((1_000 - least) * remaining).checked_div(period as u64) {
        Some(missing) => 1_000 - missing as u32,
        None => 1_000,
    }
}

/// Whether a backend of this weight takes a connection that fell to it, for a draw of 32 random bits.
#[inline(always)]
pub const fn accepts(weight_permille: u32, draw: u32) -> bool {
    (draw as u64 * 1_000) >> 32 < weight_permille as u64
}
