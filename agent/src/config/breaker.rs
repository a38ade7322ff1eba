//! Reads a service's breaker into the record the kernel follows. Knows one service, and nothing of how the breaker
//! decides.

use std::ops::RangeInclusive;
use std::time::Duration;

use agent_ebpf::abi::breaker::{TICK_SHIFT, period_ticks};
use agent_ebpf::abi::limits::{MAX_PROBES, WINDOW_BUCKETS};
use agent_ebpf::abi::{BreakerMode, BreakerPolicy};
use agent_ebpf::decide::breaker::{Signal, SignalSet};

use super::problem::Position;
use super::reader::{Fields as _, Node, Reader, Stop, fields};
use super::schema;
use super::service::one;
use super::value::{self, SLOW_START, show_duration};

fields! {
    /// When a backend is taken out, and how it comes back.
    enum BreakerField {
        Mode = "mode": "What the breaker may do.",
        ConsecutiveFailures = "consecutive_failures": "So many failures in a row take a backend out; 0: not by this.",
        FailureRatio = "failure_ratio": "So large a part of the window's connections that failed takes it out; 0%: not by this.",
        MinimumSamples = "minimum_samples": "Connections the window must hold before `failure_ratio` and `slow_ratio` count.",
        Window = "window": "How far back the two ratios look, in eight steps.",
        SlowRatio = "slow_ratio": "So large a part of the window's connections that was slow takes it out; 0%: not by this.",
        SlowConnect = "slow_connect": "A handshake that takes longer than this is slow. One that an application gives up after longer than this, without any answer, counts as `timeout`.",
        SlowAnswer = "slow_answer": "An answer that begins later than this after its request is slow, too; 0s: answers are not timed. For HTTP, as `docs/requests.md` says.",
        AnswerTimeout = "answer_timeout": "With the signal `no_answer`: a request without an answer for so long is a failure. It is counted when the application gives up, or when the answer comes after all.",
        Open = "open": "How long a backend is out the first time; each time in a row doubles it.",
        OpenMax = "open_max": "The longest it is out, before the jitter.",
        Jitter = "jitter": "How far the time out is off, either way, by chance, so that backends do not come back all at once.",
        Probes = "probes": "Connections admitted to try the backend out afterwards.",
        SuccessesToClose = "successes_to_close": "So many of the probes must do well to bring it back; at most `probes`.",
        HalfOpen = "half_open": "How long it waits for what becomes of the probes.",
        SlowStart = "slow_start": "How long the share of a backend that came back grows to the whole; 0s: the whole at once.",
        SlowStartMinimum = "slow_start_minimum": "The part of its share it begins with.",
        Decay = "decay": "After so long without trouble one time out is forgiven; 0s: all at once.",
        MaxEjection = "max_ejection": "The largest part of the backends that may be out at a time. Below 100% one of two or more may always go, and the last never; with 100% the last one goes too.",
        Panic = "panic": "With a smaller part of the backends than this in, and no fallback, breakers are not believed: connections go to all, except those an operator ordered away. 0%: never; where all are out, connections are refused.",
        NegativeAffinity = "negative_affinity": "How long a client (a cgroup) that failed on a backend is given another, if one takes it, in mode `enforce` and whether or not the breaker is open; 0s: not at all.",
        Signals = "signals": "What counts as a failure.",
    }
}

/// Signals that are no failures: `slow_ratio` counts them.
const SLOW: &[Signal] = &[Signal::SlowConnect, Signal::SlowAnswer];

const CONSECUTIVE: RangeInclusive<u8> = 0..=u8::MAX;
const SAMPLES: RangeInclusive<u32> = 1..=100_000;
const PROBES: RangeInclusive<u8> = 1..=MAX_PROBES;
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const SLOW_CONNECT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
const SLOW_ANSWER: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3_600);
const ANSWER_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3_600);
const WAIT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);
const OPEN_MAX: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3_600);
/// Its ticks fit 16 bits.
const NEGATIVE_AFFINITY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const DECAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3_600);
/// The cap where there is a fallback to take what the last backend cannot.
const EJECTION_WITH_FALLBACK_PERCENT: u8 = 100;

/// A breaker as read.
pub(super) struct Breaker {
    policy: BreakerPolicy,
    /// Where the cap on ejections stands, if the file says one.
    max_ejection: Option<Position>,
}

impl Breaker {
    /// The record, for a service with or without a fallback.
    pub(super) fn policy(&self, has_fallback: bool) -> BreakerPolicy {
        let mut policy = self.policy;
        if has_fallback && self.max_ejection.is_none() {
            policy.ejection_cap_percent = EJECTION_WITH_FALLBACK_PERCENT;
        }
        policy.bounded()
    }

    /// Where a cap stands that keeps the last backend in, if the file says one.
    pub(super) fn keeps_the_last(&self) -> Option<Position> {
        self.max_ejection.filter(|_| self.policy.ejection_cap_percent < 100)
    }

    /// Whether it decides by itself and nothing can ever make it take a backend out.
    pub(super) fn is_idle(&self) -> bool {
        let policy = &self.policy;
        let counts_failures = policy.consecutive_failures > 0 || policy.failure_percent > 0;
        self.decides() && policy.slow_percent == 0 && !(counts_failures && policy.signals != 0)
    }

    /// Whether it decides from what becomes of connections, and not by the operator's order.
    pub(super) fn decides(&self) -> bool {
        matches!(self.policy.mode(), BreakerMode::Observe | BreakerMode::Enforce)
    }
}

/// What bounds something else, as far as it is written: the value and its place.
#[derive(Default)]
struct Pairs {
    open: Option<Duration>,
    open_max: Option<(Duration, Position)>,
    probes: Option<u8>,
    successes: Option<(u8, Position)>,
}

/// Reads a breaker; `None`, with a problem recorded, where there is no mapping.
pub(super) fn read<'a>(reader: &mut Reader<'a>, node: &Node<'a>) -> Result<Option<Breaker>, Stop> {
    let mut breaker = Breaker { policy: BreakerPolicy::DEFAULT, max_ejection: None };
    let mut pairs = Pairs::default();
    let wanted = "a mapping, as in { consecutive_failures: 5 }, or {} for the defaults";
    let is_mapping = reader.mapping(node, wanted, |reader, field, value| {
        let at = value.at;
        if field == BreakerField::MaxEjection {
            breaker.max_ejection = Some(at);
        }
        read_field(reader, field, value, &mut breaker.policy, &mut pairs)
    })?;
    settle(reader, &mut breaker.policy, &pairs);
    Ok(is_mapping.then_some(breaker))
}

fn read_field<'a>(
    reader: &mut Reader<'a>,
    field: BreakerField,
    node: Node<'a>,
    policy: &mut BreakerPolicy,
    pairs: &mut Pairs,
) -> Result<(), Stop> {
    let at = node.at;
    match field {
        BreakerField::Mode => {
            let mode = one(reader, node, "the name of a mode", value::breaker_mode)?;
            policy.mode = mode.map_or(policy.mode, |mode| mode as u8);
        }
        BreakerField::ConsecutiveFailures => {
            count(reader, node, &CONSECUTIVE, &mut policy.consecutive_failures)?;
        }
        BreakerField::FailureRatio => percent(reader, node, &mut policy.failure_percent)?,
        BreakerField::MinimumSamples => count(reader, node, &SAMPLES, &mut policy.minimum_samples)?,
        BreakerField::Window => {
            let ticks = |window| period_ticks(millis(window) / WINDOW_BUCKETS as u64);
            in_units(reader, node, &WINDOW, ticks, &mut policy.bucket_ticks)?;
        }
        BreakerField::SlowRatio => percent(reader, node, &mut policy.slow_percent)?,
        BreakerField::SlowConnect => {
            micros(reader, node, &SLOW_CONNECT, &mut policy.slow_connect_us)?;
        }
        BreakerField::SlowAnswer => micros(reader, node, &SLOW_ANSWER, &mut policy.slow_answer_us)?,
        BreakerField::AnswerTimeout => micros(reader, node, &ANSWER_TIMEOUT, &mut policy.answer_timeout_us)?,
        BreakerField::Open => pairs.open = time(reader, node, &WAIT)?,
        BreakerField::OpenMax => pairs.open_max = time(reader, node, &OPEN_MAX)?.map(|value| (value, at)),
        BreakerField::Jitter => percent(reader, node, &mut policy.jitter_percent)?,
        BreakerField::Probes => pairs.probes = number(reader, node, &PROBES)?,
        BreakerField::SuccessesToClose => {
            pairs.successes = number(reader, node, &PROBES)?.map(|value| (value, at));
        }
        BreakerField::HalfOpen => period(reader, node, &WAIT, &mut policy.half_open_ticks)?,
        BreakerField::SlowStart => period(reader, node, &SLOW_START, &mut policy.slow_start_ticks)?,
        BreakerField::SlowStartMinimum => percent(reader, node, &mut policy.slow_start_min_percent)?,
        BreakerField::Decay => period(reader, node, &DECAY, &mut policy.decay_ticks)?,
        BreakerField::MaxEjection => percent(reader, node, &mut policy.ejection_cap_percent)?,
        BreakerField::Panic => percent(reader, node, &mut policy.panic_percent)?,
        BreakerField::NegativeAffinity => {
            let ticks = |time| u16::try_from(period_ticks(millis(time))).unwrap_or(u16::MAX);
            in_units(reader, node, &NEGATIVE_AFFINITY, ticks, &mut policy.avoidance_ticks)?;
        }
        BreakerField::Signals => signals(reader, &node, policy)?,
    }
    Ok(())
}

/// Settles the values that bound each other. One that is not written follows the one that is.
fn settle(reader: &mut Reader<'_>, policy: &mut BreakerPolicy, pairs: &Pairs) {
    if let (Some(open), Some((open_max, at))) = (pairs.open, pairs.open_max)
        && open > open_max
    {
        let message = format_args!(
            "is {}, less than `open`, {}; raise it, or lower `open`",
            show_duration(open_max),
            show_duration(open)
        );
        reader.problem_in(at, BreakerField::OpenMax.name(), message);
    }
    if let (Some(probes), Some((successes, at))) = (pairs.probes, pairs.successes)
        && successes > probes
    {
        let message =
            format_args!("is {successes}, more than `probes`, {probes}; lower it, or raise `probes`");
        reader.problem_in(at, BreakerField::SuccessesToClose.name(), message);
    }
    let ticks = |value: Duration| period_ticks(millis(value));
    let open = pairs.open.map(ticks);
    let open_max = pairs.open_max.map(|(value, _)| ticks(value));
    policy.open_base_ticks = open.unwrap_or_else(|| policy.open_base_ticks.min(open_max.unwrap_or(u32::MAX)));
    policy.open_cap_ticks = open_max.unwrap_or_else(|| policy.open_cap_ticks.max(policy.open_base_ticks));
    let successes = pairs.successes.map(|(value, _)| value);
    policy.probes = pairs.probes.unwrap_or_else(|| policy.probes.max(successes.unwrap_or_default()));
    policy.successes_to_close = successes.unwrap_or_else(|| policy.successes_to_close.min(policy.probes));
}

fn percent<'a>(reader: &mut Reader<'a>, node: Node<'a>, into: &mut u8) -> Result<(), Stop> {
    if let Some(value) = one(reader, node, "a part in percent, as in 50%", value::percent)? {
        *into = value;
    }
    Ok(())
}

fn number<'a, T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    range: &RangeInclusive<T>,
) -> Result<Option<T>, Stop> {
    one(reader, node, "a whole number", |text| value::number(text, range))
}

fn count<'a, T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    range: &RangeInclusive<T>,
    into: &mut T,
) -> Result<(), Stop> {
    if let Some(value) = number(reader, node, range)? {
        *into = value;
    }
    Ok(())
}

fn time<'a>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    range: &RangeInclusive<Duration>,
) -> Result<Option<Duration>, Stop> {
    one(reader, node, "a duration", |text| value::duration_within(text, range, "5s"))
}

/// Reads a duration into a field that holds it in another unit.
fn in_units<'a, T>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    range: &RangeInclusive<Duration>,
    convert: impl FnOnce(Duration) -> T,
    into: &mut T,
) -> Result<(), Stop> {
    if let Some(value) = time(reader, node, range)? {
        *into = convert(value);
    }
    Ok(())
}

fn micros<'a>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    range: &RangeInclusive<Duration>,
    into: &mut u32,
) -> Result<(), Stop> {
    in_units(reader, node, range, |value| u32::try_from(value.as_micros()).unwrap_or(u32::MAX), into)
}

fn period<'a>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    range: &RangeInclusive<Duration>,
    into: &mut u32,
) -> Result<(), Stop> {
    in_units(reader, node, range, |value| period_ticks(millis(value)), into)
}

fn signals<'a>(reader: &mut Reader<'a>, node: &Node<'a>, policy: &mut BreakerPolicy) -> Result<(), Stop> {
    let mut set = SignalSet::NONE;
    let is_list = reader.list(node, "a list of signals, as in [refused, timeout]", |reader, _, node| {
        let at = node.at;
        let Some(signal) = one(reader, node, "the name of a signal", signal)? else { return Ok(()) };
        if set.contains(signal) {
            reader.problem(at, "is written twice; keep one of the two");
        }
        set = set.with(signal);
        Ok(())
    })?;
    if is_list {
        policy.signals = set.0;
    }
    Ok(())
}

/// The signals a file may name: those that programs report as failures.
pub(super) fn known_signals() -> impl Iterator<Item = Signal> {
    Signal::ALL.iter().copied().filter(|signal| !SLOW.contains(signal))
}

fn signal(text: &str) -> Result<Signal, String> {
    let known: Vec<Signal> = known_signals().collect();
    match Signal::from_name(text) {
        Some(signal) if SLOW.contains(&signal) => {
            Err(format!("\"{text}\" is not a failure; give `slow_ratio` a value, what is slow counts there"))
        }
        Some(signal) => Ok(signal),
        None => Err(value::unknown(text, &known, Signal::name)),
    }
}

fn millis(value: Duration) -> u64 {
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}

/// A period as people write it, to the millisecond. [`period_ticks`] gives the same ticks for it.
pub(super) fn duration_of(period_ticks: u32) -> Duration {
    let ns = u64::from(period_ticks) << TICK_SHIFT;
    Duration::from_millis((ns + 500_000) / 1_000_000)
}

/// The length of a window of buckets of this many ticks.
pub(super) fn window_of(bucket_ticks: u32) -> Duration {
    let buckets = u32::try_from(WINDOW_BUCKETS).expect("a window has a handful of buckets");
    duration_of(bucket_ticks) * buckets
}

/// A breaker as a schema of Kubernetes.
pub(super) fn schema() -> serde_json::Value {
    let counts = |range: &RangeInclusive<u8>| schema::integer(range);
    schema::object(
        |field: BreakerField| match field {
            BreakerField::Mode => schema::one_of(BreakerMode::ALL.iter().map(|mode| mode.name())),
            BreakerField::ConsecutiveFailures => counts(&CONSECUTIVE),
            BreakerField::Probes | BreakerField::SuccessesToClose => counts(&PROBES),
            BreakerField::MinimumSamples => schema::integer(&SAMPLES),
            BreakerField::FailureRatio
            | BreakerField::SlowRatio
            | BreakerField::Jitter
            | BreakerField::SlowStartMinimum
            | BreakerField::MaxEjection
            | BreakerField::Panic => schema::percent(),
            BreakerField::Window => schema::duration(&WINDOW),
            BreakerField::SlowConnect => schema::duration(&SLOW_CONNECT),
            BreakerField::SlowAnswer => schema::duration(&SLOW_ANSWER),
            BreakerField::AnswerTimeout => schema::duration(&ANSWER_TIMEOUT),
            BreakerField::Open | BreakerField::HalfOpen => schema::duration(&WAIT),
            BreakerField::OpenMax => schema::duration(&OPEN_MAX),
            BreakerField::SlowStart => schema::duration(&SLOW_START),
            BreakerField::Decay => schema::duration(&DECAY),
            BreakerField::NegativeAffinity => schema::duration(&NEGATIVE_AFFINITY),
            BreakerField::Signals => serde_json::json!({
                "type": "array", "x-kubernetes-list-type": "set", "maxItems": Signal::ALL.len(),
                "items": schema::one_of(known_signals().map(Signal::name)),
            }),
        },
        &[],
        &[
            (
                "!has(self.open) || !has(self.open_max) || duration(self.open) <= duration(self.open_max)",
                "open is more than open_max",
            ),
            (
                "!has(self.probes) || !has(self.successes_to_close) || self.successes_to_close <= self.probes",
                "successes_to_close is more than probes",
            ),
        ],
    )
}

/// What each field may say and says by default, for the reference.
pub(super) fn values() -> Vec<[String; 2]> {
    let default = BreakerPolicy::DEFAULT;
    let percent = |value: u8| format!("0% to 100%, default {value}%");
    let times = |range: &RangeInclusive<Duration>, value: Duration| {
        let [from, to, value] = [*range.start(), *range.end(), value].map(show_duration);
        format!("{from} to {to}, default {value}")
    };
    let periods = |range: &RangeInclusive<Duration>, ticks: u32| times(range, duration_of(ticks));
    let probes = |value: u8, follows: &str| {
        format!("{} to {}, default {value}, or {follows}", PROBES.start(), PROBES.end())
    };
    let signals = known_signals().filter(|signal| SignalSet::DEFAULT.contains(*signal)).collect::<Vec<_>>();
    let micros = |range: &RangeInclusive<Duration>, us: u32| times(range, Duration::from_micros(us.into()));
    let value = |field: BreakerField| match field {
        BreakerField::Mode => format!("default {}", default.mode().name()),
        BreakerField::ConsecutiveFailures => {
            format!(
                "{} to {}, default {}",
                CONSECUTIVE.start(),
                CONSECUTIVE.end(),
                default.consecutive_failures
            )
        }
        BreakerField::FailureRatio => percent(default.failure_percent),
        BreakerField::MinimumSamples => {
            format!("{} to {}, default {}", SAMPLES.start(), SAMPLES.end(), default.minimum_samples)
        }
        BreakerField::Window => times(&WINDOW, window_of(default.bucket_ticks)),
        BreakerField::SlowRatio => percent(default.slow_percent),
        BreakerField::SlowConnect => micros(&SLOW_CONNECT, default.slow_connect_us),
        BreakerField::SlowAnswer => micros(&SLOW_ANSWER, default.slow_answer_us),
        BreakerField::AnswerTimeout => micros(&ANSWER_TIMEOUT, default.answer_timeout_us),
        BreakerField::Open => periods(&WAIT, default.open_base_ticks) + ", or `open_max` where that is less",
        BreakerField::OpenMax => {
            periods(&OPEN_MAX, default.open_cap_ticks) + ", or `open` where that is more"
        }
        BreakerField::Jitter => percent(default.jitter_percent),
        BreakerField::Probes => probes(default.probes, "`successes_to_close` where that is more"),
        BreakerField::SuccessesToClose => probes(default.successes_to_close, "`probes` where that is less"),
        BreakerField::HalfOpen => periods(&WAIT, default.half_open_ticks),
        BreakerField::SlowStart => periods(&SLOW_START, default.slow_start_ticks),
        BreakerField::SlowStartMinimum => percent(default.slow_start_min_percent),
        BreakerField::Decay => periods(&DECAY, default.decay_ticks),
        BreakerField::MaxEjection => {
            let cap = percent(default.ejection_cap_percent);
            format!("{cap}, with a fallback {EJECTION_WITH_FALLBACK_PERCENT}%")
        }
        BreakerField::Panic => percent(default.panic_percent),
        BreakerField::NegativeAffinity => periods(&NEGATIVE_AFFINITY, u32::from(default.avoidance_ticks)),
        BreakerField::Signals => format!("default {}", value::names(&signals, Signal::name)),
    };
    BreakerField::ALL.iter().map(|field| [format!("`{}`", field.name()), value(*field)]).collect()
}
