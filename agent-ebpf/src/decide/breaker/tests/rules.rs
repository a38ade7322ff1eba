//! Each rule of the breaker in its own words, with round numbers.

use crate::abi::breaker::{MAX_PERIOD_TICKS, period_ticks};
use crate::abi::{BreakerMode, BreakerPolicy, BreakerState, CellWord, Probe, TransitionReason};
use crate::decide::breaker::{Admission, Change, Decision, Report, Totals, Verdict, cell};

const NOW: u32 = u32::MAX - 2_000;
const DRAW: u32 = 1 << 31;
const ADMIT: Admission = Admission { decision: Decision::Admit, deadline_ticks: 0 };

/// Without jitter, in round ticks: open 100, 200, 400, 800; half-open 50; slow start 30; forgives every 1 000.
fn policy() -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: 3,
        open_base_ticks: 100,
        open_cap_ticks: 800,
        jitter_percent: 0,
        half_open_ticks: 50,
        slow_start_ticks: 30,
        decay_ticks: 1_000,
        ..BreakerPolicy::default()
    }
}

fn fail(word: CellWord, now: u32, probe: Probe) -> (CellWord, Change) {
    cell::failed(word, &policy(), Totals::default(), now, DRAW, probe, true)
}

fn slow(
    word: CellWord,
    policy: &BreakerPolicy,
    totals: Totals,
    now_ticks: u32,
    probe: Probe,
) -> (CellWord, Change) {
    let verdict = Verdict::Slow;
    cell::report(word, policy, &Report { verdict, totals, probe, now_ticks, draw: DRAW, may_eject: true })
}

/// A cell that opened for the `nth` time in a row, and when that opening ends.
fn opened(nth: u32) -> (CellWord, u32) {
    let until = NOW.wrapping_add(100 << (nth - 1));
    (CellWord::open(nth, until), until)
}

/// A cell in its half-open period, and its first probe.
fn probing() -> (CellWord, u32, Probe) {
    let (word, until) = opened(1);
    let (word, admission, _) = cell::admit(word, &policy(), until);
    (word, until, admission.probe())
}

fn moved(from: BreakerState, to: BreakerState, reason: TransitionReason) -> Change {
    Change::moved(from, to, reason)
}

fn refusal(deadline_ticks: u32) -> Admission {
    Admission { decision: Decision::Refuse, deadline_ticks }
}

use BreakerState::{Closed, HalfOpen, Open};

#[test]
fn a_cell_of_zero_admits_and_stays_zero() {
    assert_eq!(cell::admit(CellWord(0), &policy(), NOW), (CellWord(0), ADMIT, Change::NONE));
    assert_eq!(cell::good(CellWord(0), &policy(), NOW, Probe::NONE), (CellWord(0), Change::NONE));
}

#[test]
fn so_many_failures_in_a_row_open_the_cell() {
    let (word, first) = fail(CellWord::CLEAN, NOW, Probe::NONE);
    let (word, second) = fail(word, NOW, Probe::NONE);
    assert_eq!((first, second), (Change::NONE, Change::NONE));
    let (word, third) = fail(word, NOW, Probe::NONE);
    assert_eq!(third, moved(Closed, Open, TransitionReason::ConsecutiveFailures));
    assert_eq!(word, opened(1).0);
}

#[test]
fn one_good_connection_starts_the_row_again() {
    let (word, _) = fail(CellWord::CLEAN, NOW, Probe::NONE);
    let (word, _) = fail(word, NOW, Probe::NONE);
    let (word, _) = cell::good(word, &policy(), NOW, Probe::NONE);
    assert_eq!(word, CellWord::CLEAN);
}

#[test]
fn the_failed_part_of_the_window_opens_the_cell_once_there_are_enough_samples() {
    let change = |good, failed| {
        let totals = Totals { good, failed, slow: 0 };
        cell::failed(CellWord::CLEAN, &policy(), totals, NOW, DRAW, Probe::NONE, true).1
    };
    assert_eq!(change(0, 19), Change::NONE);
    assert_eq!(change(11, 9), Change::NONE);
    assert_eq!(change(10, 10), moved(Closed, Open, TransitionReason::FailureRatio));
}

#[test]
fn the_slow_part_of_the_window_opens_the_cell_where_the_policy_says_so() {
    let change = |policy: &BreakerPolicy, part| {
        let totals = Totals { good: 20 - part, failed: 0, slow: part };
        slow(CellWord::CLEAN, policy, totals, NOW, Probe::NONE).1
    };
    let wanted = BreakerPolicy { slow_percent: 80, ..policy() };
    assert_eq!(change(&wanted, 15), Change::NONE);
    assert_eq!(change(&wanted, 16), moved(Closed, Open, TransitionReason::SlowRatio));
    assert_eq!(change(&policy(), 20), Change::NONE, "by default slowness opens nothing");
}

#[test]
fn a_slow_probe_fails_only_where_slowness_counts() {
    let (word, now, probe) = probing();
    let slow = |policy: &BreakerPolicy| slow(word, policy, Totals::default(), now, probe);
    assert_eq!(slow(&policy()).0.probes_succeeded(), 1);
    let change = slow(&BreakerPolicy { slow_percent: 80, ..policy() }).1;
    assert_eq!(change, moved(HalfOpen, Open, TransitionReason::ProbeFailed));
}

#[test]
fn a_cell_that_may_not_be_ejected_stays_closed_and_says_so_each_time() {
    let mut word = CellWord::CLEAN.with_consecutive_failures(2);
    for _ in 0..300 {
        let (kept, change) = cell::failed(word, &policy(), Totals::default(), NOW, DRAW, Probe::NONE, false);
        assert_eq!(change, Change::capped_by(TransitionReason::ConsecutiveFailures));
        assert_eq!(kept.state(), Closed);
        word = kept;
    }
    assert_eq!(word.consecutive_failures(), u8::MAX);
    assert_eq!(fail(word, NOW, Probe::NONE).1, moved(Closed, Open, TransitionReason::ConsecutiveFailures));
}

#[test]
fn an_open_cell_refuses_until_its_deadline() {
    let (word, until) = opened(1);
    for now in [NOW, until.wrapping_sub(1)] {
        let refused = (word, refusal(until), Change::NONE);
        assert_eq!(cell::admit(word, &policy(), now), refused);
        assert!(!cell::is_admissible(word, &policy(), now));
    }
    assert!(cell::is_admissible(word, &policy(), until));
}

#[test]
fn late_answers_of_connections_begun_before_change_nothing_while_open() {
    let (word, until) = opened(1);
    for now in [NOW, until] {
        assert_eq!(fail(word, now, Probe::NONE), (word, Change::NONE));
        assert_eq!(cell::good(word, &policy(), now, Probe::NONE), (word, Change::NONE));
    }
}

#[test]
fn late_answers_of_connections_begun_before_change_nothing_while_half_open() {
    let (word, now, _) = probing();
    assert_eq!(fail(word, now, Probe::NONE), (word, Change::NONE));
    assert_eq!(cell::good(word, &policy(), now, Probe::NONE), (word, Change::NONE));
}

#[test]
fn the_first_who_comes_after_the_deadline_is_the_first_probe() {
    let (word, until) = opened(1);
    let (word, admission, change) = cell::admit(word, &policy(), until);
    assert_eq!(
        admission,
        Admission { decision: Decision::AdmitProbe, deadline_ticks: until.wrapping_add(50) }
    );
    assert_eq!(change, moved(Open, HalfOpen, TransitionReason::OpenExpired));
    assert_eq!((word.state(), word.probes_admitted(), word.opened()), (HalfOpen, 1, 1));
}

#[test]
fn a_half_open_cell_admits_its_probes_and_no_more() {
    let (word, now, _) = probing();
    let (word, second, _) = cell::admit(word, &policy(), now);
    let (word, third, _) = cell::admit(word, &policy(), now);
    assert!(second.probe() != Probe::NONE && third.probe() != Probe::NONE);
    let (same, fourth, _) = cell::admit(word, &policy(), now);
    assert_eq!((same, fourth), (word, refusal(now.wrapping_add(50))));
    // An answer frees no place: the period has three probes, not three at a time.
    let (word, _) = cell::good(word, &policy(), now, second.probe());
    assert!(!cell::is_admissible(word, &policy(), now));
}

#[test]
fn a_probe_is_told_from_none_also_where_its_period_ends_as_the_ticks_wrap() {
    let now = 0u32.wrapping_sub(50);
    let (word, admission, _) = cell::admit(CellWord::open(1, now), &policy(), now);
    assert_ne!(admission.probe(), Probe::NONE);
    assert_eq!(cell::good(word, &policy(), now, admission.probe()).0.probes_succeeded(), 1);
}

#[test]
fn a_probe_that_is_given_up_makes_room_for_another() {
    let (word, now, probe) = probing();
    let word = word.with_probes_admitted(3);
    let word = cell::abandoned(word, probe);
    assert!(cell::is_admissible(word, &policy(), now));
    assert_eq!(cell::abandoned(word, Probe::NONE), word);
}

#[test]
fn enough_good_probes_close_the_cell_with_a_slow_start() {
    let (word, now, probe) = probing();
    let (word, change) = cell::good(word, &policy(), now, probe);
    assert_eq!((word.probes_succeeded(), change), (1, Change::NONE));
    let (word, change) = cell::good(word, &policy(), now, probe);
    assert_eq!(change, moved(HalfOpen, Closed, TransitionReason::ProbesSucceeded));
    assert_eq!(word, CellWord::recovering(1, now.wrapping_add(30)));
}

#[test]
fn a_failed_probe_opens_the_cell_for_twice_as_long() {
    let (word, now, probe) = probing();
    let (word, change) = fail(word, now, probe);
    assert_eq!(change, moved(HalfOpen, Open, TransitionReason::ProbeFailed));
    assert_eq!(word, CellWord::open(2, now.wrapping_add(200)));
}

#[test]
fn a_probe_of_an_earlier_period_changes_nothing_in_a_later_one() {
    let (word, now, early) = probing();
    let (word, _) = fail(word, now, early);
    let again = now.wrapping_add(200);
    let (word, admission, _) = cell::admit(word, &policy(), again);
    assert_ne!(admission.probe(), early);
    assert_eq!(cell::abandoned(word, early), word);
    assert_eq!(cell::established(word, &policy(), again, early), word);
    assert_eq!(fail(word, again, early), (word, Change::NONE));
    assert_eq!(cell::good(word, &policy(), again, early), (word, Change::NONE));
}

#[test]
fn a_period_without_answers_closes_the_cell_if_a_handshake_was_done() {
    let (word, now, probe) = probing();
    let word = cell::established(word, &policy(), now, probe);
    let over = now.wrapping_add(50);
    let (word, admission, change) = cell::admit(word, &policy(), over);
    assert_eq!(admission, ADMIT);
    assert_eq!(change, moved(HalfOpen, Closed, TransitionReason::HalfOpenExpired));
    assert_eq!(word, CellWord::recovering(1, over.wrapping_add(30)));
}

#[test]
fn a_period_without_even_a_handshake_opens_the_cell_again_from_its_own_end_on() {
    let (word, now, probe) = probing();
    let ended = now.wrapping_add(50);
    // Noticed late, and by a handshake that comes too late.
    let noticed = ended.wrapping_add(150);
    assert_eq!(cell::established(word, &policy(), noticed, probe), word);
    let (open, admission, change) = cell::admit(word, &policy(), noticed);
    assert_eq!(admission, refusal(ended.wrapping_add(200)));
    assert_eq!(change, moved(HalfOpen, Open, TransitionReason::HalfOpenExpired));
    assert_eq!(open.opened(), 2);
}

#[test]
fn a_cell_nobody_touched_for_long_after_its_period_takes_probes_again() {
    let (word, now, _) = probing();
    let long_after = now.wrapping_add(50 + 200);
    assert!(cell::is_admissible(word, &policy(), long_after));
    let (word, admission, change) = cell::admit(word, &policy(), long_after);
    assert_ne!(admission.probe(), Probe::NONE);
    assert_eq!((word.state(), word.opened()), (HalfOpen, 2));
    assert_eq!(change, moved(HalfOpen, HalfOpen, TransitionReason::OpenExpired));
}

#[test]
fn time_spent_closed_forgives_openings_one_by_one() {
    let word = CellWord::recovering(2, NOW);
    let openings = |ticks: u32| cell::settled(word, &policy(), NOW.wrapping_add(ticks)).opened();
    assert_eq!([0, 999, 1_000, 1_999, 2_000].map(openings), [2, 2, 1, 1, 0]);
    assert_eq!(cell::settled(word, &policy(), NOW.wrapping_add(2_000)), CellWord::CLEAN);
    // What is left of a period counts for the next.
    let halfway = cell::settled(word, &policy(), NOW.wrapping_add(1_500));
    assert_eq!(cell::settled(halfway, &policy(), NOW.wrapping_add(2_000)), CellWord::CLEAN);
}

#[test]
fn a_cell_that_opens_soon_after_it_closed_stays_open_for_longer() {
    let word = CellWord::recovering(1, NOW).with_consecutive_failures(2);
    assert_eq!(fail(word, NOW.wrapping_add(999), Probe::NONE).0.opened(), 2);
    assert_eq!(fail(word, NOW.wrapping_add(1_000), Probe::NONE).0.opened(), 1);
}

#[test]
fn openings_in_a_row_are_counted_up_to_31() {
    let word = CellWord::half_open(31, NOW.wrapping_add(50)).with_probes_admitted(1);
    let (word, _) = fail(word, NOW, Probe(word.deadline_ticks()));
    assert_eq!(word, CellWord::open(31, NOW.wrapping_add(800)));
}

#[test]
fn a_clock_that_is_a_little_behind_changes_no_deadline() {
    let longest = BreakerPolicy { open_cap_ticks: 100, ..policy() };
    let (word, _) = opened(1);
    let (_, now, _) = probing();
    assert!(!cell::is_admissible(word, &longest, NOW.wrapping_sub(3)));
    let (full, _, _) = probing();
    let full = full.with_probes_admitted(3);
    assert!(!cell::is_admissible(full, &policy(), now.wrapping_sub(3)));
}

#[test]
fn a_month_alone_leaves_no_cell_waiting() {
    // Half of the tick circle later, the deadline seems to lie ahead.
    let month = 1u32 << 31;
    assert!(cell::is_admissible(opened(1).0, &policy(), NOW.wrapping_add(month + 200)));
    assert!(cell::is_admissible(probing().0, &policy(), NOW.wrapping_add(month + 500)));
    let recovering = CellWord::recovering(5, NOW);
    assert_eq!(cell::settled(recovering, &policy(), NOW.wrapping_add(month + 500)), CellWord::CLEAN);
}

#[test]
fn an_observing_breaker_decides_like_an_enforcing_one_and_binds_nobody() {
    let observing = BreakerPolicy { mode: BreakerMode::Observe as u8, ..policy() };
    let (word, _) = opened(1);
    assert_eq!(cell::admit(word, &observing, NOW), cell::admit(word, &policy(), NOW));
    assert!(policy().binds() && !observing.binds());
}

#[test]
fn a_breaker_that_is_off_changes_nothing_and_refuses_nobody() {
    let off = BreakerPolicy { mode: BreakerMode::Off as u8, ..policy() };
    let (word, _) = opened(1);
    assert_eq!(cell::admit(word, &off, NOW), (word, ADMIT, Change::NONE));
    let failed = cell::failed(
        CellWord::CLEAN.with_consecutive_failures(2),
        &off,
        Totals::default(),
        NOW,
        DRAW,
        Probe::NONE,
        true,
    );
    assert_eq!(failed.1, Change::NONE);
    let unknown = BreakerPolicy { mode: 200, ..policy() };
    assert_eq!(unknown.mode(), BreakerMode::Off, "a mode this build does not know");
}

#[test]
fn a_breaker_forced_open_refuses_everybody_and_probes_when_the_order_is_lifted() {
    let forced = BreakerPolicy { mode: BreakerMode::ForcedOpen as u8, ..policy() };
    let (word, admission, change) = cell::admit(CellWord::CLEAN, &forced, NOW);
    assert_eq!(admission.decision, Decision::RefuseForced);
    assert_eq!(change, moved(Closed, Open, TransitionReason::Forced));
    assert_eq!(cell::admit(word, &forced, NOW).2, Change::NONE, "told once");
    let (word, admission, _) = cell::admit(word, &policy(), NOW);
    assert_ne!(admission.probe(), Probe::NONE);
    assert_eq!(word.state(), HalfOpen);
}

#[test]
fn a_breaker_forced_closed_admits_everybody_and_forgets() {
    let forced = BreakerPolicy { mode: BreakerMode::ForcedClosed as u8, ..policy() };
    let (word, admission, change) = cell::admit(opened(4).0, &forced, NOW);
    assert_eq!((word, admission), (CellWord::CLEAN, ADMIT));
    assert_eq!(change, moved(Open, Closed, TransitionReason::Forced));
}

#[test]
fn careless_policies_become_the_nearest_sensible_ones() {
    let careless =
        BreakerPolicy { probes: 0, successes_to_close: 9, half_open_ticks: 0, ..policy() }.bounded();
    assert_eq!((careless.probes, careless.successes_to_close, careless.half_open_ticks), (1, 1, 1));
    let greedy =
        BreakerPolicy { probes: 200, successes_to_close: 200, half_open_ticks: u32::MAX, ..policy() };
    let greedy = greedy.bounded();
    assert_eq!((greedy.probes, greedy.successes_to_close), (31, 31));
    assert_eq!(greedy.half_open_ticks, MAX_PERIOD_TICKS);
    assert_eq!(BreakerPolicy::default().bounded(), BreakerPolicy::default());
}

#[test]
fn periods_are_the_nearest_number_of_ticks() {
    assert_eq!([0, 1, 1_000, 300_000].map(period_ticks), [0, 1, 954, 286_102]);
    assert_eq!(period_ticks(u64::MAX), MAX_PERIOD_TICKS);
}
