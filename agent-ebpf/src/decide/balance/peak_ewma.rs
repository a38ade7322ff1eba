//! `peak_ewma`: of two backends drawn by weight, the one that promises the faster answer: its latency times the
//! connections it has. The latency follows a slow answer at once and forgets it slowly.
//!
//! Only the handshake is timed. What the answer takes is taken to be [`ANSWER_US`] everywhere: where handshakes take
//! microseconds, the one that a busy CPU delayed must not outweigh the connections of a backend that answers slowly.
//!
//! A backend that fails must not look fast: a failure counts as an answer of [`PENALTY_US`]. Neither must one that
//! hangs: what waits for it counts as an answer that took as long as the wait so far.

use super::{Load, Side};
use crate::abi::breaker::{CLOCK_SLACK_TICKS, TICK_SHIFT, period_ticks};
use crate::abi::load::{LatencyWord, MAX_LATENCY_US};

/// What a backend nobody knows anything about is taken to need, in microseconds, while its first connections tell.
pub const DEFAULT_LATENCY_US: u32 = 30_000;

/// What a failure is taken to have taken, in microseconds.
pub const PENALTY_US: u32 = 5_000_000;

/// What an answer is taken to need beyond its handshake, in microseconds.
pub const ANSWER_US: u32 = 1_000;

/// How long it takes to forget all but 1/e of a slow answer.
pub const DECAY_TICKS: u32 = period_ticks(10_000);

/// log2(e), in 2¹⁶ths.
const LOG2_E: u64 = 94_548;

/// The moving average after a sample that comes `elapsed_ticks` after the one before: the sample where it is the
/// larger, else a mean in which the past weighs e^(-elapsed / decay). `decay_ticks` of 0 forgets at once.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "between the two arguments, which have 32 bits")]
pub const fn ewma(previous_us: u32, sample_us: u32, elapsed_ticks: u32, decay_ticks: u32) -> u32 {
    if sample_us >= previous_us {
        return sample_us;
    }
    let above = (previous_us - sample_us) as u64;
    sample_us + ((above * weight_of_past(elapsed_ticks, decay_ticks)) >> 16) as u32
}

/// The word after a connection that took `sample_us` to be established (or to be answered).
#[inline(always)]
pub const fn observe(word: LatencyWord, sample_us: u32, now_ticks: u32) -> LatencyWord {
    LatencyWord::new(
        ewma(word.latency_us(), sample_us, elapsed_ticks(word, now_ticks), DECAY_TICKS),
        now_ticks,
    )
}

/// The word after a connection that failed.
#[inline(always)]
pub const fn penalise(word: LatencyWord, now_ticks: u32) -> LatencyWord {
    observe(word, PENALTY_US, now_ticks)
}

/// The latency a word stands for now, in microseconds; 0 where nothing is known. What nobody confirms is forgotten: a backend that was slow,
/// and gets no connections for it, is tried again some time.
#[inline(always)]
pub const fn latency_us(word: LatencyWord, now_ticks: u32) -> u32 {
    match word.latency_us() {
        0 => 0,
        latency_us => match ewma(latency_us, 0, elapsed_ticks(word, now_ticks), DECAY_TICKS) {
            0 => 1,
            decayed_us => decayed_us,
        },
    }
}

/// How long a backend has kept waiting, in microseconds: the time since it last made progress (a handshake done or
/// failed, or the first of those that wait now begun) while something is pending; 0 while nothing is.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "bounded just before")]
pub const fn waiting_us(pending: u32, progress_ticks: u32, now_ticks: u32) -> u32 {
    let waited_ticks = now_ticks.wrapping_sub(progress_ticks);
    // A clock read just before the other CPU's shows a time before the progress.
    if pending == 0 || waited_ticks > u32::MAX / 2 {
        return 0;
    }
    let waited_us = ((waited_ticks as u64) << TICK_SHIFT) / 1_000;
    if waited_us < MAX_LATENCY_US as u64 { waited_us as u32 } else { MAX_LATENCY_US }
}

/// The backend that promises the faster answer; the left one where both promise the same.
#[inline(always)]
pub const fn compare(left: Load, right: Load) -> Side {
    // As in `least_connections`, without dividing. 27 + 20 + 16 bits do not overflow.
    if cost(left) * right.weight() <= cost(right) * left.weight() { Side::Left } else { Side::Right }
}

/// (Latency + answer) × (connections + 1): 47 bits.
#[inline(always)]
const fn cost(load: Load) -> u64 {
    let latency_us = if load.latency_us > load.waiting_us { load.latency_us } else { load.waiting_us };
    let latency_us = if latency_us < MAX_LATENCY_US { latency_us } else { MAX_LATENCY_US };
    let connections = if load.active < MAX_ACTIVE { load.active } else { MAX_ACTIVE };
    if latency_us == 0 && connections == 0 {
        // Who never had a connection gets one, and is known by it. Else one that is compared with known ones only
        // would stay unknown for ever.
        return 0;
    }
    let latency_us = if latency_us == 0 { DEFAULT_LATENCY_US } else { latency_us };
    (latency_us as u64 + ANSWER_US as u64) * (connections as u64 + 1)
}

/// Connections beyond this many change nothing any more.
const MAX_ACTIVE: u32 = (1 << 20) - 1;

#[inline(always)]
const fn elapsed_ticks(word: LatencyWord, now_ticks: u32) -> u32 {
    let elapsed = now_ticks.wrapping_sub(word.at_ticks());
    // A clock read just before the one that wrote the word: no time has passed.
    if elapsed > u32::MAX - CLOCK_SLACK_TICKS { 0 } else { elapsed }
}

/// e^(-elapsed / decay) in 2¹⁶ths, to 0.4 %: a power of two whose whole part is a shift, and whose fraction f is
/// 1 - 0.6716 f + 0.1716 f², exact at 0, ½ and 1.
#[inline(always)]
const fn weight_of_past(elapsed_ticks: u32, decay_ticks: u32) -> u64 {
    let Some(halvings) = (elapsed_ticks as u64 * LOG2_E).checked_div(decay_ticks as u64) else { return 0 };
    let whole = halvings >> 16;
    let fraction = halvings & 0xffff;
    let power = (1 << 16) - ((44_014 * fraction) >> 16) + ((((11_246 * fraction) >> 16) * fraction) >> 16);
    if whole > 16 { 0 } else { power >> whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(latency_us: u32, active: u32) -> Load {
        Load { latency_us, active, weight: 1, ..Load::default() }
    }

    #[test]
    fn a_slow_answer_counts_in_full_at_once() {
        assert_eq!(ewma(1_000, 80_000, 0, DECAY_TICKS), 80_000);
        assert_eq!(ewma(1_000, 80_000, 1_000_000, DECAY_TICKS), 80_000);
    }

    #[test]
    fn a_slow_answer_is_forgotten_slowly() {
        let after = |ms| ewma(1_000_000, 0, period_ticks(ms), DECAY_TICKS);
        assert_eq!(after(0), 1_000_000);
        assert!(after(10_000).abs_diff(367_879) < 2_000, "{}", after(10_000));
        assert!(after(30_000).abs_diff(49_787) < 500, "{}", after(30_000));
        assert_eq!(after(10_000_000), 0);
    }

    #[test]
    fn an_unknown_backend_gets_one_connection_and_counts_as_30_ms_until_it_is_known() {
        assert_eq!(compare(load(20, 0), load(latency_us(LatencyWord::UNKNOWN, 77), 0)), Side::Right);
        assert_eq!(compare(load(20, 5), load(0, 1)), Side::Left);
        assert_eq!(compare(load(0, 1), load(DEFAULT_LATENCY_US, 1)), Side::Left, "as much");
        assert_eq!(compare(load(DEFAULT_LATENCY_US, 1), load(0, 1)), Side::Left, "as much");
        assert_eq!(latency_us(observe(LatencyWord::UNKNOWN, 400, 77), 77), 400);
        assert_eq!(latency_us(observe(LatencyWord::UNKNOWN, 0, 0), 0), 1);
    }

    #[test]
    fn a_failing_backend_does_not_look_fast_for_a_long_time() {
        let healthy = observe(LatencyWord::UNKNOWN, 20_000, 0);
        let failing = penalise(healthy, 0);
        let now_ticks = period_ticks(30_000);
        let slow_but_alive = load(latency_us(observe(healthy, 20_000, now_ticks), now_ticks), 5);
        assert_eq!(compare(load(latency_us(failing, now_ticks), 0), slow_but_alive), Side::Right);
        // Unconfirmed, even that is forgotten in the end.
        assert!(latency_us(failing, period_ticks(120_000)) < 100);
    }

    #[test]
    fn a_backend_that_keeps_its_callers_waiting_does_not_look_idle() {
        let hanging = Load { waiting_us: waiting_us(1, 0, period_ticks(2_000)), ..load(500, 1) };
        assert_eq!(compare(hanging, load(1_000, 100)), Side::Right);
        assert_eq!(waiting_us(0, 0, period_ticks(2_000)), 0, "nothing waits");
        assert!(waiting_us(3, 0, period_ticks(2_000)).abs_diff(2_000_000) < 2_000);
        assert_eq!(waiting_us(3, 10, 9), 0, "the other CPU's clock was read first");
        assert_eq!(waiting_us(3, 0, period_ticks(1_000_000)), MAX_LATENCY_US);
    }

    #[test]
    fn a_clock_read_before_the_last_write_finds_nothing_decayed() {
        let word = observe(LatencyWord::UNKNOWN, 9_000, 5);
        assert_eq!(latency_us(word, 4), 9_000);
        assert_eq!(observe(word, 1_000, 4).latency_us(), 9_000);
    }

    #[test]
    fn twice_as_busy_is_as_good_as_twice_as_slow() {
        // With the answer these are 10, 20 and about 20 ms.
        let (fast, slow) = (9_000, 19_000);
        assert_eq!(compare(load(fast, 2), load(slow + 1, 0)), Side::Right);
        assert_eq!(compare(load(fast, 1), load(slow + 1, 0)), Side::Left);
        assert_eq!(compare(Load { weight: 2, ..load(fast, 3) }, load(slow - 1, 0)), Side::Right);
        assert_eq!(compare(Load { weight: 2, ..load(fast, 3) }, load(slow, 0)), Side::Left);
    }

    #[test]
    fn a_handshake_that_took_some_hundred_microseconds_by_accident_outweighs_no_connection() {
        assert_eq!(compare(load(400, 0), load(20, 1)), Side::Left);
        assert_eq!(compare(load(400, 0), load(20, 0)), Side::Right);
    }

    proptest! {
        #[test]
        fn the_average_agrees_with_the_formula(previous: u32, sample: u32, elapsed: u32, decay in 1u32..=u32::MAX) {
            let weight = (-f64::from(elapsed) / f64::from(decay)).exp();
            let (past, new) = (f64::from(previous), f64::from(sample));
            let exact = if new >= past { new } else { new + (past - new) * weight };
            let average = f64::from(ewma(previous, sample, elapsed, decay));
            // The weight is right to 0.4 % of itself, and to its last bit.
            let tolerance = (past - new).abs() * (weight * 0.004 + 2.0 / 65_536.0) + 1.0;
            prop_assert!((average - exact).abs() <= tolerance, "{average}, exactly {exact}");
        }

        #[test]
        fn the_average_lies_between_past_and_sample_and_waiting_never_raises_it(
            previous: u32, sample: u32, elapsed in 0u32..1 << 20, more in 0u32..1 << 20, decay in 0u32..1 << 16
        ) {
            let average = ewma(previous, sample, elapsed, decay);
            prop_assert!(average >= sample && average <= previous.max(sample));
            let slack = (previous.saturating_sub(sample) >> 15) + 1;
            prop_assert!(ewma(previous, sample, elapsed + more, decay) <= average.saturating_add(slack));
        }

        #[test]
        fn the_side_is_that_of_the_smaller_promise(
            a in 1u32..=MAX_LATENCY_US, b in 1u32..=MAX_LATENCY_US, wait in 0u32..=MAX_LATENCY_US,
            m in 0u32..MAX_ACTIVE, n in 0u32..MAX_ACTIVE, v: u16, w: u16
        ) {
            let promise = |latency: u32, active: u32, weight: u16| {
                f64::from(latency + ANSWER_US) * (f64::from(active) + 1.0) / f64::from(weight.max(1))
            };
            let (left, right) = (promise(a.max(wait), m, v), promise(b, n, w));
            prop_assume!((left - right).abs() > left * 1e-12);
            let waits = Load { latency_us: a, waiting_us: wait, active: m, weight: v };
            let other = Load { latency_us: b, waiting_us: 0, active: n, weight: w };
            prop_assert_eq!(compare(waits, other), if left < right { Side::Left } else { Side::Right });
        }

        #[test]
        fn no_load_overflows(left in loads(), right in loads()) {
            prop_assert!(compare(left, right) == Side::Left || compare(right, left) == Side::Left);
        }
    }

    fn loads() -> impl Strategy<Value = Load> {
        let extreme = || prop_oneof![Just(u32::MAX), any::<u32>(), Just(0)];
        (extreme(), extreme(), extreme(), any::<u16>()).prop_map(
            |(active, latency_us, waiting_us, weight)| Load { active, latency_us, waiting_us, weight },
        )
    }
}
