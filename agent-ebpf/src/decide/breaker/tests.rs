//! The packed words against the model, in any order of events.

#![expect(clippy::cast_possible_truncation, reason = "ticks wrap; a test that computes them must, too")]

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::model::{Answer, Model, Period, State};
use super::*;
use crate::abi::breaker::TICK_SHIFT;
use crate::abi::limits::WINDOW_BUCKETS;
use crate::abi::{BreakerMode, BreakerPolicy, CellWord, Probe, WindowWord};

mod rules;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A connection asks. Where it is refused it goes nowhere, or, in panic, goes all the same.
    Ask { goes_anyway: bool },
    /// One of the connections has its handshake done.
    Establish(prop::sample::Index),
    /// One of the connections proves good, slow or failed.
    Report(prop::sample::Index, Verdict),
    /// One of the connections is given up.
    Abandon(prop::sample::Index),
    /// The operator speaks.
    Order(BreakerMode),
}

#[derive(Clone, Copy, Debug)]
struct Event {
    act: Act,
    /// Ticks since the event before.
    after: u64,
    /// How old the clock reading is that this event acts on: its CPU lost some swaps first.
    held_up: u64,
    draw: u32,
    may_eject: bool,
}

fn acts() -> impl Strategy<Value = Act> {
    let verdict = prop_oneof![3 => Just(Verdict::Failed), 2 => Just(Verdict::Good), 1 => Just(Verdict::Slow)];
    let order = prop_oneof![
        4 => Just(BreakerMode::Enforce),
        1 => Just(BreakerMode::Observe),
        1 => Just(BreakerMode::ForcedOpen),
        1 => Just(BreakerMode::ForcedClosed),
        1 => Just(BreakerMode::Off),
    ];
    prop_oneof![
        40 => any::<bool>().prop_map(|goes_anyway| Act::Ask { goes_anyway }),
        12 => any::<prop::sample::Index>().prop_map(Act::Establish),
        40 => (any::<prop::sample::Index>(), verdict).prop_map(|(which, verdict)| Act::Report(which, verdict)),
        8 => any::<prop::sample::Index>().prop_map(Act::Abandon),
        2 => order.prop_map(Act::Order),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let after = prop_oneof![8 => 0u64..3, 4 => 0u64..60, 1 => 0u64..2_000, 1 => 0u64..1 << 24];
    let held_up = prop_oneof![4 => Just(0u64), 1 => 0u64..4];
    let event = (acts(), after, held_up, any::<u32>(), prop::bool::weighted(0.9))
        .prop_map(|(act, after, held_up, draw, may_eject)| Event { act, after, held_up, draw, may_eject });
    prop::collection::vec(event, 1..200)
}

prop_compose! {
    fn policies()(
        consecutive_failures in 0u8..5,
        failure_percent in prop_oneof![Just(0u8), Just(50), 1u8..=100],
        slow_percent in prop_oneof![2 => Just(0u8), 1 => 1u8..=100],
        minimum_samples in 0u32..12,
        bucket_ticks in 1u32..20,
        open_base_ticks in prop_oneof![1u32..50, Just(5_000)],
        open_cap_ticks in 1u32..20_000,
        half_open_ticks in 0u32..60,
        slow_start_ticks in 0u32..40,
        decay_ticks in 0u32..100,
        jitter_percent in 0u8..=110,
        probes in prop_oneof![0u8..6, Just(u8::MAX)],
        successes_to_close in 0u8..5,
    ) -> BreakerPolicy {
        BreakerPolicy {
            consecutive_failures, failure_percent, slow_percent, minimum_samples, bucket_ticks,
            open_base_ticks, open_cap_ticks, half_open_ticks, slow_start_ticks, decay_ticks,
            jitter_percent, probes, successes_to_close, ..BreakerPolicy::default()
        }
        .bounded()
    }
}

/// Both breakers, and the connections they let go.
struct Pair {
    word: CellWord,
    window: [WindowWord; WINDOW_BUCKETS],
    model: Model,
    connections: Vec<(Probe, Option<Period>)>,
    clock: u64,
}

impl Pair {
    fn policy(&self) -> &BreakerPolicy {
        &self.model.policy
    }

    /// The time a deadline means, seen from now.
    fn time_of(&self, deadline_ticks: u32) -> u64 {
        let ahead = deadline_ticks.wrapping_sub(self.clock as u32).cast_signed();
        self.clock.checked_add_signed(i64::from(ahead)).expect("no deadline before the clock began")
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        self.clock += event.after;
        let now = self.clock - event.held_up;
        if event.after >= u64::from(self.policy().bucket_ticks) * 1_000 {
            // After many more stretches than these, old buckets may look new; `window::sum` says when.
            self.empty_windows();
        }
        match event.act {
            Act::Ask { goes_anyway } => self.ask(now, goes_anyway)?,
            Act::Order(mode) => self.model.policy.mode = mode as u8,
            Act::Establish(which) if !self.connections.is_empty() => {
                let (probe, period) = self.connections[which.index(self.connections.len())];
                self.word = cell::established(self.word, self.policy(), now as u32, probe);
                self.model.established(now, period);
            }
            Act::Report(which, verdict) if !self.connections.is_empty() => {
                let connection = self.connections.swap_remove(which.index(self.connections.len()));
                self.report(now, event, connection, verdict)?;
            }
            Act::Abandon(which) if !self.connections.is_empty() => {
                let (probe, period) = self.connections.swap_remove(which.index(self.connections.len()));
                self.word = cell::abandoned(self.word, probe);
                self.model.abandoned(period);
            }
            Act::Establish(_) | Act::Report(..) | Act::Abandon(_) => {}
        }
        self.compare(now)
    }

    fn ask(&mut self, now: u64, goes_anyway: bool) -> Result<(), TestCaseError> {
        let ticks = now as u32;
        let settled = cell::settled(self.word, self.policy(), ticks);
        let foreseen = cell::is_admissible(self.word, self.policy(), ticks);
        let (word, admission, change) = cell::admit(self.word, self.policy(), ticks);
        let answer = self.model.admit(now, self.time_of(settled.deadline_ticks()));
        prop_assert_eq!(foreseen, !admission.is_refusal());
        let deadline_ticks = admission.deadline_ticks;
        match (admission.decision, answer) {
            (Decision::Admit, Answer::Go) => self.connections.push((Probe::NONE, None)),
            (Decision::AdmitProbe, Answer::Probe(period)) => {
                let probe = admission.probe();
                prop_assert_ne!(probe, Probe::NONE);
                self.connections.push((probe, Some(period)));
            }
            (Decision::RefuseForced, Answer::Forced) => {}
            (Decision::Refuse, Answer::Refused { until }) => {
                prop_assert_eq!(deadline_ticks, until as u32);
                if goes_anyway {
                    self.connections.push((Probe::NONE, None));
                }
            }
            differs => prop_assert!(false, "{:?}", differs),
        }
        prop_assert_eq!(change, self.model.change(None));
        self.word = word;
        self.act_on(change);
        Ok(())
    }

    fn report(
        &mut self,
        now: u64,
        event: &Event,
        (probe, period): (Probe, Option<Period>),
        verdict: Verdict,
    ) -> Result<(), TestCaseError> {
        let epoch = window::epoch(self.policy(), self.clock << TICK_SHIFT);
        let bucket = &mut self.window[window::bucket(epoch)];
        *bucket = window::record(*bucket, epoch, verdict);
        self.model.remember(self.clock, verdict);
        let totals = window::sum(&self.window, epoch);
        prop_assert_eq!(totals, self.model.totals(self.clock));

        let may_eject = event.may_eject;
        let report = Report { verdict, totals, probe, now_ticks: now as u32, draw: event.draw, may_eject };
        let (word, change) = cell::report(self.word, self.policy(), &report);
        let until = self.time_of(word.deadline_ticks());
        prop_assert_eq!(change, self.model.report(now, until, period, verdict, totals, may_eject));
        self.word = word;
        self.act_on(change);
        Ok(())
    }

    fn act_on(&mut self, change: Change) {
        if change.returns() {
            self.empty_windows();
        }
    }

    fn empty_windows(&mut self) {
        self.window = [WindowWord::default(); WINDOW_BUCKETS];
        self.model.forget();
    }

    /// Both say the same of the state now.
    fn compare(&self, now: u64) -> Result<(), TestCaseError> {
        let mut model = self.model.clone();
        let word = cell::settled(self.word, self.policy(), now as u32);
        model.advance(now, self.time_of(word.deadline_ticks()));
        prop_assert_eq!(word.state(), model.name());
        prop_assert_eq!(word.opened(), model.openings);
        prop_assert_eq!(self.word.0 >> 63, 0, "the highest bit belongs to no field");
        match model.state {
            State::Closed { recovery_end, .. } => {
                prop_assert_eq!(u32::from(word.consecutive_failures()), model.failures_in_row.min(255));
                prop_assert_eq!(word.is_recovering(), recovery_end.is_some());
                prop_assert_eq!(word.0 == 0, recovery_end.is_none() && model.failures_in_row == 0);
                // The share is nobody's swap: it is read with a clock that is right.
                let weight = slow_start::weight_permille(word, self.policy(), self.clock as u32);
                let due =
                    due_permille(self.policy(), recovery_end.map_or(0, |end| end.saturating_sub(self.clock)));
                prop_assert!((f64::from(weight) - due).abs() <= 1.0, "{} is not {}", weight, due);
            }
            State::Open { until } => prop_assert_eq!(word.deadline_ticks(), until as u32),
            State::HalfOpen { period, until, established, succeeded } => {
                prop_assert_eq!(word.deadline_ticks(), until as u32);
                prop_assert_eq!(u32::from(word.probes_admitted()), model.admitted[period]);
                prop_assert_eq!(u32::from(word.probes_established()), established);
                prop_assert_eq!(u32::from(word.probes_succeeded()), succeeded);
            }
        }
        Ok(())
    }
}

/// The thousandths of its share that a backend is due, so many ticks before its slow start ends.
fn due_permille(policy: &BreakerPolicy, remaining: u64) -> f64 {
    if policy.slow_start_ticks == 0 {
        return 1_000.0;
    }
    let least = f64::from(policy.slow_start_min_percent) * 10.0;
    let left = (remaining as f64 / f64::from(policy.slow_start_ticks)).min(1.0);
    1_000.0 - (1_000.0 - least) * left
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_moves_the_word_as_it_moves_the_model(
        policy in policies(),
        // Also just before the ticks wrap.
        start in prop_oneof![Just(1u64 << 26), (1u64 << 32) - 400..1 << 32, 1u64 << 26..1 << 40],
        events in events(),
    ) {
        let mut pair = Pair {
            word: CellWord::CLEAN,
            window: [WindowWord::default(); WINDOW_BUCKETS],
            model: Model::new(policy),
            connections: Vec::new(),
            clock: start,
        };
        for event in &events {
            pair.happen(event)?;
        }
        let most = u32::from(policy.probes);
        prop_assert!(pair.model.admitted.iter().all(|&admitted| admitted <= most));
    }
}

/// Records as careless as they can be.
fn any_policies() -> impl Strategy<Value = BreakerPolicy> {
    let byte = || prop_oneof![any::<u8>(), Just(0), Just(u8::MAX)];
    let word = || prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)];
    (prop::array::uniform10(byte()), prop::array::uniform10(word())).prop_map(|(bytes, words)| {
        BreakerPolicy {
            mode: bytes[0] % 8,
            consecutive_failures: bytes[1],
            failure_percent: bytes[2],
            slow_percent: bytes[3],
            jitter_percent: bytes[4],
            probes: bytes[5],
            successes_to_close: bytes[6],
            slow_start_min_percent: bytes[7],
            ejection_cap_percent: bytes[8],
            panic_percent: bytes[9],
            minimum_samples: words[0],
            slow_connect_us: words[1],
            bucket_ticks: words[2],
            open_base_ticks: words[3],
            open_cap_ticks: words[4],
            half_open_ticks: words[5],
            slow_start_ticks: words[6],
            decay_ticks: words[7],
            slow_answer_us: words[8],
            answer_timeout_us: words[9],
            ..BreakerPolicy::default()
        }
    })
}

proptest! {
    #[test]
    fn no_word_no_clock_and_no_record_lead_to_an_overflow(
        word: u64, policy in any_policies(), now: u32, draw: u32, own_probe: bool, may_eject: bool,
        counts in (0u32..=655_350, 0u32..=655_350, 0u32..=655_350),
    ) {
        let word = CellWord(word);
        let probe = if own_probe { Probe(word.deadline_ticks()) } else { Probe(draw) };
        let totals = Totals { good: counts.0, failed: counts.1, slow: counts.2 };
        let (admitted, admission, _) = cell::admit(word, &policy, now);
        prop_assert_eq!(cell::is_admissible(word, &policy, now), !admission.is_refusal());
        let [failed, slow, good] = [Verdict::Failed, Verdict::Slow, Verdict::Good].map(|verdict| {
            cell::report(word, &policy, &Report { verdict, totals, probe, now_ticks: now, draw, may_eject }).0
        });
        let established = cell::established(word, &policy, now, probe);
        for after in [admitted, failed, slow, good, established, cell::abandoned(word, probe)] {
            // None of them puts a bit where no field is.
            prop_assert!(after.0 >> 63 <= word.0 >> 63);
            prop_assert!(slow_start::weight_permille(after, &policy, now) <= 1_000);
        }
    }
}

/// Replaces the word by compare-and-swap until no other thread was first, as the programs do.
fn swap<T>(word: &AtomicU64, change: impl Fn(CellWord) -> (CellWord, T)) -> T {
    loop {
        let found = word.load(Ordering::Relaxed);
        let (new, answer) = change(CellWord(found));
        if word.compare_exchange(found, new.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return answer;
        }
    }
}

#[test]
fn threads_that_ask_at_once_get_exactly_the_probes_of_the_period_between_them() {
    for round in 0..200u32 {
        let word = AtomicU64::new(CellWord::open(1, 100).0);
        let now = 100 + round;
        let ask = || {
            let taken: Vec<Probe> = (0..5)
                .map(|_| {
                    swap(&word, |word| {
                        let (word, admission, _) = cell::admit(word, &BreakerPolicy::default(), now);
                        (word, admission.probe())
                    })
                })
                .filter(|&probe| probe != Probe::NONE)
                .collect();
            // Every other one is given up, and asks again.
            let given_up = taken.iter().step_by(2);
            for &probe in given_up.clone() {
                swap(&word, |word| (cell::abandoned(word, probe), ()));
            }
            taken.len() - given_up.count()
        };
        let kept: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let admitted = CellWord(word.into_inner()).probes_admitted();
        assert_eq!(kept, usize::from(admitted));
        assert!(admitted <= 3);
    }
}
