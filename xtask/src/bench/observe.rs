//! `cargo xtask bench observe`: what observing costs. The same server through the same data plane, with more and more of it
//! switched on, in turn; beside it, asked past everything. A mode is a line of [`MODES`], and its switch what an operator
//! would type.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail};

use super::client::{self, Answers, Mode as Manner};
use super::h2load;
use super::matrix::Matrix;
use super::probe::Range;
use super::receiver::{self, Receiver};
use super::spread::Spread;
use super::{Output, affinity, print_with, stage};
use crate::backends::{self, Server, Speech};
use crate::node::{self, Agent, Node, Place};
use crate::{build, setup};

/// Something that can be observed, and how it is switched on.
struct Mode {
    /// What tables call it.
    name: &'static str,
    /// The agent's arguments, beside the usual ones; `None`: nothing is between client and server.
    arguments: Option<&'static [&'static str]>,
    /// The policy of the service that is asked.
    policy: &'static str,
    /// The part of direct's requests that is aimed at, for each of [`SPEECHES`].
    aims: [Option<f64>; SPEECHES.len()],
}

/// From nothing to everything. The first is what the others are compared with.
const MODES: [Mode; 7] = [
    Mode { name: "direct", arguments: None, policy: "", aims: [None; 3] },
    Mode {
        name: "L4 (--requests off)",
        arguments: Some(&["--requests", "off"]),
        policy: "",
        aims: [Some(0.99); 3],
    },
    Mode {
        name: "L4 (policy requests: off)",
        arguments: Some(&[]),
        policy: "requests: off",
        aims: [Some(0.99); 3],
    },
    Mode { name: "requests", arguments: Some(&[]), policy: "", aims: [Some(0.97), Some(0.95), None] },
    Mode {
        name: "requests, flows (--record-flows)",
        arguments: Some(&["--record-flows"]),
        policy: "",
        aims: [None; 3],
    },
    Mode {
        name: SPANS,
        arguments: Some(&["--otlp", receiver::URL, "--otlp-traces", "1%"]),
        policy: "",
        aims: [None; 3],
    },
    Mode {
        name: "requests, also inside TLS (--observe-tls)",
        arguments: Some(&["--observe-tls", LIBSSL]),
        policy: "",
        aims: [None; 3],
    },
];

const SPANS: &str = "requests, spans (--otlp-traces 1%)";

/// In arguments: the library of OpenSSL that the server uses.
const LIBSSL: &str = "LIBSSL";

/// What is spoken: a server of each, in this order.
const SPEECHES: [Speech; 3] = [Speech::Http1, Speech::Http2, Speech::Https];

/// What is asked in each mode.
#[derive(Clone, Copy)]
enum Task {
    /// HTTP/1, by our client; a rate counts for [`Manner::Rate`] alone.
    Http1(Manner, u64),
    /// So many requests of HTTP/2, by h2load, at a rate or as fast as it goes.
    Http2 { requests: u64, rate: Option<u64> },
    /// So many of HTTP/1 inside TLS, by h2load.
    Https { requests: u64 },
}

impl Task {
    fn title(self) -> String {
        match self {
            Self::Http1(Manner::Keepalive, _) => "HTTP/1: requests on open connections".into(),
            Self::Http1(Manner::Connect, _) => "HTTP/1: new connections, a request on each".into(),
            Self::Http1(Manner::Rate, rate) => format!("HTTP/1: {rate} requests/s on open connections"),
            Self::Http2 { rate: None, .. } => "HTTP/2: requests on open connections".into(),
            Self::Http2 { rate: Some(rate), .. } => format!("HTTP/2: {rate} requests/s on open connections"),
            Self::Https { .. } => "HTTP/1 inside TLS: requests on open connections".into(),
        }
    }

    fn speech(self) -> Speech {
        match self {
            Self::Http1(..) => Speech::Http1,
            Self::Http2 { .. } => Speech::Http2,
            Self::Https { .. } => Speech::Https,
        }
    }
}

/// Connections side by side.
const CONNECTIONS: usize = 32;
/// With HTTP/2 as many requests are under way, on fewer connections.
const HTTP2_CONNECTIONS: usize = 4;
const HTTP2_STREAMS: usize = CONNECTIONS / HTTP2_CONNECTIONS;
/// Requests by which it is found how many of h2load's fill a turn.
const TRIAL: u64 = 20_000;
/// The part of direct's maximum at which times are measured.
const LOAD: f64 = 0.7;
/// Before a turn is measured, caches warm up.
const WARM_UP: Duration = Duration::from_millis(200);
/// What the server answers, but for the line's end.
const NAME: &str = "payment-0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijklmnopqrstuvwxyz";

const COLUMNS: [&str; 10] =
    ["1/s", "min", "max", "× direct", "× min", "× max", "aim", "CPU, µs each", "p50, µs", "p99, µs"];

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each mode has its turn; the order is another one each time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Only modes whose names contain this, and direct; may be given again.
    #[arg(long)]
    only: Vec<String>,
    /// Two short rounds, to see whether all of it works.
    #[arg(long)]
    quick: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    setup::programs(&[("nginx", "nginx-light"), h2load::PROGRAM])?;
    let (_, node) = stage::comparison(false)?;
    client::build()?;
    // Only now: what was built needs no precedence.
    let _precedence = affinity::Precedence::take_or_warn();
    let servers = SPEECHES.map(|speech| Server { name: NAME, speech });
    let _servers = backends::start_each(&node, &servers)?;
    for id in node.processes(Place::Beside) {
        // Where that is not allowed, the scheduler decides, for all modes alike.
        let _ = affinity::pin(id, 0);
    }
    let receiver = Receiver::start(&node)?;
    node::write_config(&node, &config())?;
    let bench = Bench { node: &node, arguments, bodies: vec![format!("{NAME}\n")] };
    let tasks = bench.tasks()?;
    let series = bench.rounds(&tasks)?;
    let has_spans = bench.modes().into_iter().any(|number| MODES[number].name == SPANS);
    if has_spans && receiver.requests_with_spans() == 0 {
        bail!("no spans were sent: what is shown of them would be wrong");
    }
    let matrices: Vec<Matrix> =
        tasks.iter().zip(&series).map(|(task, series)| series.matrix(*task)).collect();
    print_with(&[], &matrices, &bench.note(), arguments.output);
    Ok(())
}

struct Bench<'n> {
    node: &'n Node,
    arguments: &'n Arguments,
    bodies: Vec<String>,
}

/// The file of a library that the servers use.
fn library_of(node: &Node, name: &str) -> anyhow::Result<String> {
    for id in node.processes(Place::Beside) {
        // One that is gone maps nothing.
        let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap_or_default();
        let mut paths = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
        if let Some(path) = paths.find(|path| path.contains(name)) {
            return Ok(path.to_owned());
        }
    }
    bail!("nginx has no {name} of its own: reading inside TLS has nothing to probe")
}

impl Bench<'_> {
    /// What is asked. How much direct takes is tried before.
    fn tasks(&self) -> anyhow::Result<[Task; 6]> {
        let reached = |task| -> anyhow::Result<f64> { Ok(per_second(&self.turn(0, task)?)) };
        let http1 = round_down(LOAD * reached(Task::Http1(Manner::Keepalive, 0))?);
        let http2 = reached(Task::Http2 { requests: TRIAL, rate: None })?;
        let requests = round_down(http2 * self.measure().as_secs_f64());
        // What h2load is told is a rate of each connection.
        let rate = round_down(LOAD * http2);
        let at_rate = round_down(LOAD * http2 * self.measure().as_secs_f64());
        let https = reached(Task::Https { requests: TRIAL })?;
        Ok([
            Task::Http1(Manner::Keepalive, 0),
            Task::Http1(Manner::Connect, 0),
            Task::Http2 { requests, rate: None },
            Task::Http1(Manner::Rate, http1),
            Task::Http2 { requests: at_rate, rate: Some(rate) },
            Task::Https { requests: round_down(https * self.measure().as_secs_f64()) },
        ])
    }

    /// The modes that are wanted, by their number in [`MODES`].
    fn modes(&self) -> Vec<usize> {
        let only = &self.arguments.only;
        let wanted =
            |mode: &Mode| only.is_empty() || only.iter().any(|part| mode.name.contains(part.as_str()));
        (0..MODES.len()).filter(|&number| number == 0 || wanted(&MODES[number])).collect()
    }

    fn measure(&self) -> Duration {
        if self.arguments.quick {
            Duration::from_millis(400)
        } else {
            Duration::from_secs(self.arguments.seconds)
        }
    }

    fn count(&self) -> usize {
        if self.arguments.quick { 2 } else { self.arguments.rounds as usize }
    }

    /// The tasks of each mode, round by round, in another order each time.
    fn rounds(&self, tasks: &[Task]) -> anyhow::Result<Vec<Series>> {
        let modes = self.modes();
        let mut series: Vec<Series> = tasks.iter().map(|_| Series::default()).collect();
        for round in 0..self.count() {
            for place in 0..modes.len() {
                let number = modes[(place + round) % modes.len()];
                let mode = &MODES[number];
                // Programs outlive their agent: one that ends leaves what the next replaces.
                let agent = mode.arguments.map(|more| self.agent(more)).transpose()?;
                let mut told = Vec::new();
                for (task, series) in tasks.iter().zip(&mut series) {
                    let answers = self
                        .turn(number, *task)
                        .with_context(|| format!("{}: {}", mode.name, task.title()))?;
                    told.push(format!("{:.0}/s", per_second(&answers)));
                    series.0[number].push(answers);
                }
                agent.map(Agent::kill).transpose()?;
                eprintln!("measuring: round {}: {}: {}", round + 1, mode.name, told.join(", "));
            }
        }
        Ok(series)
    }

    fn agent(&self, more: &[&str]) -> anyhow::Result<Agent<'_>> {
        let named =
            |&word: &&str| if word == LIBSSL { library_of(self.node, "libssl.so") } else { Ok(word.into()) };
        let more: Vec<String> = more.iter().map(named).collect::<anyhow::Result<_>>()?;
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Agent::start_with(self.node, &build::binary(true), &more, || Ok(()))
    }

    fn turn(&self, number: usize, task: Task) -> anyhow::Result<Answers> {
        let is_direct = MODES[number].arguments.is_none();
        let place = if is_direct { Place::Beside } else { Place::Managed };
        let speech = task.speech();
        let target = if is_direct { backend(number, speech) } else { frontend(number, speech) };
        let by_h2load = |requests, rate, connections, streams| h2load::Turn {
            place,
            target,
            speech,
            connections,
            streams,
            requests,
            rate,
            body_bytes: self.bodies[0].len(),
        };
        let answers = match task {
            Task::Http1(mode, rate) => client::Turn {
                mode,
                place,
                target: Range::of_one(target),
                connections: CONNECTIONS,
                rate,
                warm_up: WARM_UP,
                measure: self.measure(),
                bodies: &self.bodies,
            }
            .run(self.node)?,
            Task::Http2 { requests, rate } => {
                by_h2load(requests, rate, HTTP2_CONNECTIONS, HTTP2_STREAMS).run(self.node)?
            }
            Task::Https { requests } => by_h2load(requests, None, CONNECTIONS, 1).run(self.node)?,
        };
        if answers.count == 0 {
            bail!("no answers at all");
        }
        Ok(answers)
    }

    fn note(&self) -> String {
        format!(
            "{} rounds of {} s each, in turn and in another order each round; {CONNECTIONS} connections, with HTTP/2 \
             {HTTP2_CONNECTIONS} of {HTTP2_STREAMS} streams each, one client thread on the last CPU (HTTP/2 and TLS: h2load), nginx with one \
             worker on the first, everything in one network namespace and at nice −20. The client is managed and the server is \
             not: where both are, reading costs twice. Ratios are of the same round; × min and × max are the worst and the best \
             round. CPU: cpu.stat of the cgroup that has client, server and agent, with what the kernel does in their names. \
             Times at a rate count from when a request was due, those of HTTP/2 from when it was sent. Who takes the spans is not \
             counted, and runs on the same CPUs.",
            self.count(),
            self.measure().as_secs_f64(),
        )
    }
}

/// The rounds of each mode at one task, by its number in [`MODES`].
#[derive(Default)]
struct Series([Vec<Answers>; MODES.len()]);

impl Series {
    fn spread(&self, number: usize, figure: impl Fn(&Answers) -> f64) -> Option<Spread> {
        Spread::of(&self.0[number].iter().map(figure).collect::<Vec<_>>())
    }

    /// Answers a second, divided by direct's of the same round.
    fn ratio(&self, number: usize) -> Option<Spread> {
        let pairs = self.0[number].iter().zip(&self.0[0]);
        Spread::of(&pairs.map(|(this, direct)| per_second(this) / per_second(direct)).collect::<Vec<_>>())
    }

    fn matrix(&self, task: Task) -> Matrix {
        let mut matrix = Matrix::new(task.title(), &COLUMNS);
        // h2load tells single times only where it keeps to a rate.
        let has_times = !matches!(task, Task::Http2 { rate: None, .. } | Task::Https { .. });
        for (number, mode) in MODES.iter().enumerate().filter(|(number, _)| !self.0[*number].is_empty()) {
            let (reached, ratio) = (self.spread(number, per_second), self.ratio(number));
            let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
            let figures = vec![
                reached.map(|spread| spread.median.round()),
                reached.map(|spread| spread.min.round()),
                reached.map(|spread| spread.max.round()),
                median(ratio),
                ratio.map(|ratio| ratio.min),
                ratio.map(|ratio| ratio.max),
                mode.aims[place_of(task.speech())],
                median(self.spread(number, cpu_us)),
                median(self.spread(number, |answers| time_us(answers, 0.5))).filter(|_| has_times),
                median(self.spread(number, |answers| time_us(answers, 0.99))).filter(|_| has_times),
            ];
            matrix.rows.push((mode.name.to_owned(), figures));
        }
        matrix
    }
}

#[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 answers")]
fn per_second(answers: &Answers) -> f64 {
    answers.count as f64 / answers.seconds
}

#[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 answers")]
fn cpu_us(answers: &Answers) -> f64 {
    answers.cpu_us / answers.count as f64
}

#[expect(clippy::cast_precision_loss, reason = "no turn lasts 2^52 ns")]
fn time_us(answers: &Answers, quantile: f64) -> f64 {
    answers.times.value_at_quantile(quantile) as f64 / 1000.0
}

/// A rate that people can read.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and small")]
fn round_down(rate: f64) -> u64 {
    (rate as u64 / 100 * 100).max(100)
}

/// The address of a mode's service. Each mode has its own, and a backend of its own: where a connection of one has just
/// ended, the server takes no other client's from the same port for a minute.
fn frontend(number: usize, speech: Speech) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1 + octet(number)), 80 + u16::from(octet(place_of(speech))))
}

fn backend(number: usize, speech: Speech) -> SocketAddrV4 {
    let port = backends::address(octet(place_of(speech)).into()).port();
    SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, 1 + octet(number)), port)
}

/// Its place in [`SPEECHES`].
fn place_of(speech: Speech) -> usize {
    SPEECHES.iter().position(|&other| other == speech).unwrap_or_default()
}

fn octet(number: usize) -> u8 {
    const { assert!(MODES.len() < 200) };
    u8::try_from(number).unwrap_or_default()
}

/// Segue's file: a service for each mode and protocol.
fn config() -> String {
    let mut text = String::from("services:\n");
    for (number, mode) in MODES.iter().enumerate().filter(|(_, mode)| mode.arguments.is_some()) {
        for (place, speech) in SPEECHES.into_iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "  - name: bench/mode-{number}-{place}\n    frontends: [\"{}\"]\n    backends: [\"{}\"]\n    policy: {{ {} }}\n",
                frontend(number, speech),
                backend(number, speech),
                mode.policy,
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_a_name_and_a_service_of_its_own_and_the_first_has_nothing_in_between() {
        let text = config();
        assert!(MODES[0].arguments.is_none());
        for (number, mode) in MODES.iter().enumerate().skip(1) {
            assert!(mode.arguments.is_some(), "{}", mode.name);
            for speech in SPEECHES {
                assert!(text.contains(&format!("frontends: [\"{}\"]", frontend(number, speech))));
            }
            assert_eq!(MODES.iter().filter(|other| other.name == mode.name).count(), 1);
        }
        assert!(text.contains("policy: { requests: off }"));
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let turn = |count| Answers {
            count,
            failed: 0,
            seconds: 1.0,
            cpu_us: 1.0,
            times: hdrhistogram::Histogram::new(3).expect("three digits"),
        };
        let mut series = Series::default();
        series.0[0] = vec![turn(100), turn(200)];
        series.0[1] = vec![turn(50), turn(200)];
        let ratio = series.ratio(1).expect("two rounds");
        assert_eq!((ratio.min, ratio.max), (0.5, 1.0));
        let task = Task::Http2 { requests: 1, rate: None };
        assert_eq!(series.matrix(task).rows.len(), 2, "modes without a turn have no row");
    }
}
