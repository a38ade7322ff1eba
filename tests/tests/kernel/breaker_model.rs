//! The programs in the kernel against the reference model of `decide::breaker`: the same random events happen to
//! both, on real sockets, and after each one the cell in the map is what the model says.
//!
//! The model is told the times at which things happened here, outside the kernel. Where a deadline lay between the
//! begin and the end of one event, nobody can say on which side of it the kernel was: such a case is begun anew.

use std::time::Duration;

use agent_ebpf::abi::breaker::{TICK_SHIFT, period_ticks};
use agent_ebpf::abi::{BreakerMode, BreakerPolicy, CellWord};
use agent_ebpf::decide::breaker::cell;
use agent_ebpf::decide::breaker::model::{Answer, Model, Period, State};
use agent_ebpf::decide::breaker::window::Verdict;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use segue_tests::agent::SOON;
use segue_tests::client::{Client, Errno, Socket};
use segue_tests::counters::{cell_and_active, first_backend};
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::Service;
use segue_tests::wait::{eventually, let_pass};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";

/// So far from a deadline an event may safely happen.
const MARGIN_TICKS: u64 = 40;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    /// A connection is made and held, if it gets through. The backend says nothing yet.
    Connect,
    /// One of the held connections asks and is answered, and ends.
    Answer(prop::sample::Index),
    /// One of the held connections is given up before an answer.
    GiveUp(prop::sample::Index),
    /// The backend resets all that are held.
    ResetAll,
    /// So many connect in the same instant, are held, and are given up in the same instant.
    Crowd(u32),
    /// The backend is there, or its port is closed.
    Serve(bool),
    /// Time passes until the next deadline is over.
    WaitForDeadline,
}

/// Single events in any order, and now and then those that bring many to a breaker that may just probe: by chance
/// alone they seldom meet.
fn acts() -> impl Strategy<Value = Vec<Act>> {
    let index = any::<prop::sample::Index>;
    let single = prop_oneof![
        12 => Just(Act::Connect),
        6 => index().prop_map(Act::Answer),
        2 => index().prop_map(Act::GiveUp),
        2 => Just(Act::ResetAll),
        2 => (2u32..16).prop_map(Act::Crowd),
        4 => any::<bool>().prop_map(Act::Serve),
        2 => Just(Act::WaitForDeadline),
    ];
    let outage = vec![Act::Serve(false), Act::Connect, Act::Connect, Act::Connect];
    let crowd = (2u32..16)
        .prop_map(|count| vec![Act::Serve(true), Act::WaitForDeadline, Act::Crowd(count), Act::Connect]);
    let some = prop_oneof![
        4 => prop::collection::vec(single, 1..6),
        2 => Just(outage.clone()),
        2 => crowd.prop_map(move |crowd| [outage.clone(), crowd].concat()),
    ];
    prop::collection::vec(some, 8..12).prop_map(|parts| parts.concat())
}

/// A policy as the file has it, and as the kernel gets it.
#[derive(Clone, Debug)]
struct Rules {
    text: String,
    policy: BreakerPolicy,
}

prop_compose! {
    fn rules()(
        consecutive_failures in prop_oneof![1 => Just(0u8), 3 => 1u8..4],
        failure_percent in 30u8..=80,
        minimum_samples in 2u32..8,
        open_ms in 100u64..250,
        half_open_ms in prop_oneof![2 => Just(60_000u64), 1 => Just(400)],
        probes in 1u8..5,
        successes_seed in any::<u8>(),
    ) -> Rules {
        let successes_to_close = 1 + successes_seed % probes;
        let open_max_ms = open_ms * 3;
        let policy = BreakerPolicy {
            mode: BreakerMode::Enforce as u8,
            consecutive_failures, failure_percent, minimum_samples, probes, successes_to_close,
            // Ten minutes, so that no bucket is forgotten in the middle of a case.
            bucket_ticks: period_ticks(60_000),
            open_base_ticks: period_ticks(open_ms),
            open_cap_ticks: period_ticks(open_max_ms),
            half_open_ticks: period_ticks(half_open_ms),
            slow_start_ticks: 0,
            decay_ticks: period_ticks(600_000),
            jitter_percent: 0,
            slow_percent: 0,
            ejection_cap_percent: 100,
            panic_percent: 0,
            ..BreakerPolicy::DEFAULT
        }
        .bounded();
        let text = format!(
            "breaker: {{ consecutive_failures: {consecutive_failures}, failure_ratio: {failure_percent}%, \
             minimum_samples: {minimum_samples}, window: 600s, open: {open_ms}ms, open_max: {open_max_ms}ms, \
             half_open: {half_open_ms}ms, probes: {probes}, successes_to_close: {successes_to_close}, \
             slow_start: 0s, decay: 600s, jitter: 0%, max_ejection: 100%, panic: 0%, negative_affinity: 0s }}"
        );
        Rules { text, policy }
    }
}

/// What a case came to.
#[derive(Debug, PartialEq, Eq)]
enum Case {
    /// Both agreed to the end.
    Agreed,
    /// A deadline passed in the middle of an event.
    Undecided,
}

/// The kernel and the model, side by side.
struct Pair<'world> {
    world: &'world World,
    /// The backend's key.
    backend: Vec<u8>,
    client: Client,
    server: Option<Server>,
    model: Model,
    held: Vec<(Socket, Option<Period>)>,
    /// Moves of the model, to see that the case was about something.
    moves: u32,
}

/// Ticks of the clock the kernel's programs read, not wrapped.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) }, 0);
    let ns = u64::try_from(time.tv_sec).expect("a time") * 1_000_000_000
        + u64::try_from(time.tv_nsec).expect("a time");
    ns >> TICK_SHIFT
}

impl Pair<'_> {
    /// The next tick at which the model changes by itself.
    fn deadline(&self) -> Option<u64> {
        match self.model.state {
            State::Open { until } | State::HalfOpen { until, .. } => Some(until),
            State::Closed { .. } => None,
        }
    }

    /// Waits where a deadline is too near to be sure on which side of it the next event is.
    fn keep_clear(&self) {
        if let Some(deadline) = self.deadline()
            && deadline.abs_diff(now()) < MARGIN_TICKS
        {
            let_pass(Duration::from_millis(2 * MARGIN_TICKS));
        }
    }

    /// When an opening at this time ends.
    fn open_until(&self, at: u64) -> u64 {
        let doubled = u64::from(self.model.policy.open_base_ticks) << self.model.openings.min(16);
        at + doubled.min(u64::from(self.model.policy.open_cap_ticks))
    }

    fn admit(&mut self, at: u64) -> Answer {
        // An opening on the way is the one at the end of a half-open period.
        let from = self.deadline().unwrap_or(at);
        let until = self.open_until(from);
        let answer = self.model.admit(at, until);
        if self.model.change(None).returns() {
            self.model.forget();
        }
        answer
    }

    fn report(&mut self, at: u64, period: Option<Period>, verdict: Verdict) {
        self.model.remember(at, verdict);
        let totals = self.model.totals(at);
        let over = self.deadline().filter(|&deadline| deadline <= at && self.is_half_open());
        let until = self.open_until(over.unwrap_or(at));
        if self.model.report(at, until, period, verdict, totals, true).returns() {
            self.model.forget();
        }
    }

    fn is_half_open(&self) -> bool {
        matches!(self.model.state, State::HalfOpen { .. })
    }

    /// Lets one event happen to both. `None` where a deadline passed meanwhile.
    fn happen(&mut self, act: &Act) -> Option<()> {
        self.keep_clear();
        let begin = now();
        let before = std::mem::discriminant(&self.model.state);
        let deadline = self.deadline();
        match act {
            Act::Connect => self.connect(begin),
            Act::Answer(which) if !self.held.is_empty() => self.answer(which, begin),
            Act::GiveUp(which) if !self.held.is_empty() => {
                let (socket, period) = self.held.swap_remove(which.index(self.held.len()));
                self.client.close(socket);
                self.model.abandoned(period);
            }
            Act::ResetAll => self.reset_all(begin),
            Act::Crowd(count) if self.server.is_some() => self.crowd(*count, begin),
            Act::Serve(true) if self.server.is_none() => self.server = Some(self.world.http("n1", N1)),
            Act::Serve(false) => self.stop_serving(),
            Act::WaitForDeadline => self.wait_for_deadline(),
            Act::Answer(_) | Act::GiveUp(_) | Act::Crowd(_) | Act::Serve(true) => {}
        }
        self.moves += u32::from(std::mem::discriminant(&self.model.state) != before);
        let held = u64::try_from(self.held.len()).expect("a few");
        let word =
            eventually("the kernel to have seen the end of each connection", SOON, || match cell_and_active(
                self.world,
                &self.backend,
            ) {
                (word, active) if active == held => Ok(word),
                (_, active) => Err(format!("{active} counted, {held} held")),
            });
        let (end, waited) = (now(), matches!(act, Act::WaitForDeadline));
        if deadline.is_some_and(|deadline| !waited && begin < deadline && deadline <= end + 1) {
            return None;
        }
        self.keep_clear();
        self.compare(word, act);
        Some(())
    }

    fn connect(&mut self, at: u64) {
        let answer = self.admit(at);
        let connected = self.client.connect_tcp(PAYMENT);
        match (answer, connected, self.server.is_some()) {
            (Answer::Go, Ok(socket), true) => self.held.push((socket, None)),
            (Answer::Probe(period), Ok(socket), true) => {
                self.model.established(at, Some(period));
                self.held.push((socket, Some(period)));
            }
            (Answer::Go, Err(Errno(libc::ECONNREFUSED)), false) => self.report(at, None, Verdict::Failed),
            (Answer::Probe(period), Err(Errno(libc::ECONNREFUSED)), false) => {
                self.report(at, Some(period), Verdict::Failed);
            }
            (Answer::Refused { .. }, Err(errno), _) if errno == refused_with(libc::EHOSTUNREACH) => {}
            differs => panic!("{differs:?} in {:?}", self.model.state),
        }
    }

    fn answer(&mut self, which: &prop::sample::Index, at: u64) {
        let (socket, period) = self.held.swap_remove(which.index(self.held.len()));
        self.client.send(&socket, "GET / HTTP/1.1\r\nHost: n1\r\n\r\n").expect("room for a request");
        let answer = self.client.receive(&socket).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        self.client.close(socket);
        self.report(at, period, Verdict::Good);
    }

    /// All reports are failures, so their order says nothing.
    fn reset_all(&mut self, at: u64) {
        self.await_accepted();
        let Some(server) = &self.server else { return };
        let held = std::mem::take(&mut self.held);
        server.reset_connections();
        for (socket, period) in held {
            assert_eq!(self.client.receive(&socket), Err(Errno(libc::ECONNRESET)));
            self.client.close(socket);
            self.report(at, period, Verdict::Failed);
        }
    }

    /// A server resets what it never accepted when it leaves, and cannot reset it while it stays.
    fn await_accepted(&self) {
        let Some(server) = &self.server else { return };
        eventually("the server to have accepted what is held", SOON, || match server.open() {
            open if open == self.held.len() => Ok(()),
            open => Err(format!("{open} of {}", self.held.len())),
        });
    }

    fn crowd(&mut self, count: u32, at: u64) {
        let answers: Vec<Answer> = (0..count).map(|_| self.admit(at)).collect();
        let went: Vec<&Answer> =
            answers.iter().filter(|answer| matches!(answer, Answer::Go | Answer::Probe(_))).collect();
        let attempts = self.client.connect_together(PAYMENT, count);
        let through = attempts.iter().filter(|attempt| attempt.is_ok()).count();
        assert_eq!(through, went.len(), "of {count} in {:?}", self.model.state);
        let periods: Vec<Period> = went
            .iter()
            .filter_map(|answer| if let Answer::Probe(period) = answer { Some(*period) } else { None })
            .collect();
        periods.iter().for_each(|&period| self.model.established(at, Some(period)));
        self.client.release_together();
        periods.iter().for_each(|&period| self.model.abandoned(Some(period)));
    }

    /// Gives up what is held first: a server that leaves ends its connections in good order, which proves nothing.
    fn stop_serving(&mut self) {
        self.await_accepted();
        for (socket, period) in std::mem::take(&mut self.held) {
            self.client.close(socket);
            self.model.abandoned(period);
        }
        self.server = None;
    }

    /// Long deadlines are for other cases.
    fn wait_for_deadline(&self) {
        let ahead = self.deadline().map_or(0, |deadline| deadline.saturating_sub(now()));
        if ahead > 0 && ahead < 1_000 {
            let_pass(Duration::from_millis((ahead + MARGIN_TICKS) * 1_049 / 1_000));
        }
    }

    /// The cell in the map is what the model says, seen from now.
    fn compare(&self, word: CellWord, act: &Act) {
        let now = now();
        #[expect(clippy::cast_possible_truncation, reason = "ticks wrap")]
        let word = cell::settled(word, &self.model.policy, now as u32);
        let mut model = self.model.clone();
        let until = self.open_until(self.deadline().unwrap_or(now));
        model.advance(now, until);
        let context = || format!("after {act:?}: {word:?} is not {:?}", model.state);
        assert_eq!(word.state(), model.name(), "{}", context());
        assert_eq!(word.opened(), model.openings, "{}", context());
        // The kernel's clock was read somewhere within the event; so much it may be off.
        let near = |until: u64| {
            (i64::from(word.deadline_ticks()) - i64::try_from(until & 0xffff_ffff).expect("32 bits")).abs()
                <= 2 * 40
        };
        match model.state {
            State::Closed { .. } => {
                assert_eq!(u32::from(word.consecutive_failures()), model.failures_in_row, "{}", context());
            }
            State::Open { until } => assert!(near(until), "{}", context()),
            State::HalfOpen { period, until, established, succeeded } => {
                assert!(near(until), "{}", context());
                assert_eq!(u32::from(word.probes_admitted()), model.admitted[period], "{}", context());
                assert_eq!(u32::from(word.probes_established()), established, "{}", context());
                assert_eq!(u32::from(word.probes_succeeded()), succeeded, "{}", context());
            }
        }
    }
}

fn run(rules: &Rules, acts: &[Act]) -> (Case, u32) {
    let world = World::new();
    let service = Service::tcp("shop/payment").at(PAYMENT).policy(&rules.text).to_address(N1);
    let mut agent = world.agent(&[service]);
    // The loop is the kernel's own.
    agent.kill();
    let server = Some(world.http("n1", N1));
    let model = Model::new(rules.policy);
    let (backend, client) = (first_backend(&world, PAYMENT), world.client());
    let mut pair = Pair { world: &world, backend, client, server, model, held: Vec::new(), moves: 0 };
    for act in acts {
        if pair.happen(act).is_none() {
            return (Case::Undecided, pair.moves);
        }
    }
    (Case::Agreed, pair.moves)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn any_order_of_events_moves_the_cell_in_the_kernel_as_it_moves_the_model() {
    const CASES: u32 = 5;
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let (mut agreed, mut undecided, mut moves) = (0, 0, 0);
    while agreed < CASES {
        let tree = (rules(), acts()).new_tree(&mut runner).expect("a case");
        let (rules, acts) = tree.current();
        println!("{}\n{acts:?}", rules.text);
        match run(&rules, &acts) {
            (Case::Agreed, moved) => (agreed, moves) = (agreed + 1, moves + moved),
            (Case::Undecided, _) => undecided += 1,
        }
        assert!(
            undecided < 4 * CASES,
            "deadlines pass in the middle of most cases: is the machine this slow?"
        );
    }
    assert!(moves >= CASES, "{moves} moves in {agreed} cases: they are about nothing");
}
