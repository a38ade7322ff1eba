//! `cargo xtask bench balance`: one slow backend of ten, through Segue's algorithms and the proxies' own, at a rate
//! that does not wait for answers. All systems run all the time and are asked in turn.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::load::{Load, Pace, Record};
use super::matrix::Matrix;
use super::{Output, print_with, quantile, stage};
use crate::actors::{self, Act, Actors};
use crate::build;
use crate::node::{self, Agent, Node, Process};
use crate::peers::{Balance, Binaries, Kind, Layer, Proxy};

/// Backends; the last one is slow.
const BACKENDS: usize = 10;

/// What a backend needs for an answer, and the slow one of the first part.
const HEALTHY_MS: u64 = 20;
const SLOW_MS: u64 = 200;

/// The slow one of the second part takes one connection in so many milliseconds: half of its share.
const ACCEPT_EVERY_MS: u64 = 20;

/// Clients that send what is due.
const CLIENTS: u32 = 256;

/// How long a system is asked at a time. What is due in the first part does not count; in the last part, what is
/// due before may still be answered.
const TURN: Duration = Duration::from_millis(2_700);
const WARM_UP: Duration = Duration::from_millis(500);
const WIND_UP: Duration = Duration::from_millis(600);

/// Where the first proxy listens: below 1024, where no client's own port is.
const FIRST_PORT: u16 = 700;

const COLUMNS: [&str; 6] = ["p50, ms", "p99, ms", "p99.9, ms", "mean, ms", "slow one, %", "failed"];

/// What is compared.
const SYSTEMS: [(&str, System); 7] = [
    ("Segue, peak_ewma", System::Segue("peak_ewma")),
    ("Segue, least_connections", System::Segue("least_connections")),
    ("Segue, random", System::Segue("random")),
    ("HAProxy tcp, leastconn", proxy(Kind::Haproxy, Layer::Tcp)),
    ("HAProxy http, leastconn", proxy(Kind::Haproxy, Layer::Http)),
    ("Envoy tcp_proxy, LEAST_REQUEST", proxy(Kind::Envoy, Layer::Tcp)),
    ("Envoy http, LEAST_REQUEST", proxy(Kind::Envoy, Layer::Http)),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// A service with this algorithm.
    Segue(&'static str),
    /// A proxy.
    Proxy(Proxy),
}

const fn proxy(kind: Kind, layer: Layer) -> System {
    System::Proxy(Proxy { kind, layer, balance: Balance::Least, retry: false, detect: false })
}

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each system is asked.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Leave the proxies out.
    #[arg(long)]
    segue_only: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (binaries, node) = stage::comparison(!arguments.segue_only)?;
    let names: Vec<String> = (0..BACKENDS).map(|index| index.to_string()).collect();
    let mut actors = Actors::start(&node, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    for index in 0..BACKENDS {
        actors.play(index, Act::Answer { after_ms: HEALTHY_MS })?;
    }
    node::write_config(&node, &config())?;
    let _agent = Agent::start(&node, &build::binary(true), || Ok(()))?;
    let (contestants, _proxies) = contestants(&node, binaries.as_ref())?;
    let mut matrices = Vec::new();
    for (title, act) in [
        (
            format!("one of {BACKENDS} answers in {SLOW_MS} ms, the others in {HEALTHY_MS}"),
            Act::Answer { after_ms: SLOW_MS },
        ),
        (
            format!(
                "one of {BACKENDS} accepts a connection in {ACCEPT_EVERY_MS} ms, all answer in {HEALTHY_MS}"
            ),
            Act::Accept { every_ms: ACCEPT_EVERY_MS },
        ),
    ] {
        actors.play(BACKENDS - 1, act)?;
        matrices.push(compare(&node, &title, &contestants, arguments)?);
    }
    let versions = binaries.map(|binaries| binaries.versions()).transpose()?.unwrap_or_default();
    let note = format!(
        "{versions}. {} requests a second, a connection for each, {} rounds in turn; medians of the rounds. \
         A request that was due before a client was free counts from when it was due. slow one: its part of the answers.",
        arguments.rate, arguments.rounds
    );
    print_with(&[], &matrices, &note, arguments.output);
    Ok(())
}

/// A system that runs, by name, and where it is asked.
type Contestant = (&'static str, SocketAddr);

/// Starts the proxies; Segue's services are there.
fn contestants(node: &Node, binaries: Option<&Binaries>) -> anyhow::Result<(Vec<Contestant>, Vec<Process>)> {
    let (mut contestants, mut processes) = (Vec::new(), Vec::new());
    let backends: Vec<SocketAddr> = (0..BACKENDS).map(actors::address).collect();
    for (place, (name, system)) in (0_u16..).zip(SYSTEMS) {
        match (system, binaries) {
            (System::Segue(_), _) => contestants.push((name, service_address(place))),
            (System::Proxy(proxy), Some(binaries)) => {
                let (process, listen) = proxy.start(node, binaries, FIRST_PORT + place, &backends)?;
                processes.push(process);
                contestants.push((name, listen));
            }
            (System::Proxy(_), None) => {}
        }
    }
    Ok((contestants, processes))
}

fn service_address(place: u16) -> SocketAddr {
    let ip = Ipv4Addr::new(198, 18, 0, 1).to_bits() + u32::from(place);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(ip)), 80)
}

fn config() -> String {
    let mut text = String::from("services:\n");
    let backends: Vec<String> =
        (0..BACKENDS).map(|index| format!("\"{}\"", actors::address(index))).collect();
    for (place, (_, system)) in (0_u16..).zip(SYSTEMS) {
        if let System::Segue(algorithm) = system {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "  - name: bench/{}\n    frontends: [\"{}\"]\n    policy: {{ algorithm: {algorithm} }}\n    backends: [{}]\n",
                algorithm.replace('_', "-"),
                service_address(place),
                backends.join(", ")
            );
        }
    }
    text
}

/// Asks the systems in turn.
fn compare(
    node: &Node,
    title: &str,
    contestants: &[Contestant],
    arguments: &Arguments,
) -> anyhow::Result<Matrix> {
    let mut rounds: Vec<Vec<Vec<f64>>> = vec![Vec::new(); contestants.len()];
    for round in 1..=arguments.rounds {
        eprintln!("measuring: {title}: round {round}");
        for ((_, target), kept) in contestants.iter().zip(&mut rounds) {
            let pace = Pace::Rate { per_second: arguments.rate };
            let mut load = Load::start(node, *target, CLIENTS, pace)?;
            load.wait_until(TURN, |_| false)?;
            kept.push(figures(&load.finish()?, arguments.rate));
        }
    }
    let mut matrix = Matrix::new(title, &COLUMNS);
    for ((name, _), kept) in contestants.iter().zip(&rounds) {
        let median = |column: usize| {
            let samples: Vec<f64> = kept.iter().map(|figures| figures[column]).collect();
            Some(quantile(&samples, 50))
        };
        matrix.rows.push(((*name).to_owned(), (0..COLUMNS.len()).map(median).collect()));
    }
    Ok(matrix)
}

/// The figures of one turn, in the order of [`COLUMNS`]. What was due and never answered counts as failed, and as
/// having taken the whole turn.
fn figures(records: &[Record], rate: u32) -> Vec<f64> {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or_default();
    let begin_ns = records.iter().map(|record| record.begin_ns).min().unwrap_or_default();
    let counts = begin_ns + ns(WARM_UP)..begin_ns + ns(TURN - WIND_UP);
    let counted: Vec<&Record> = records.iter().filter(|record| counts.contains(&record.begin_ns)).collect();
    let due = (TURN - WIND_UP - WARM_UP).as_secs_f64() * f64::from(rate);
    let mut times: Vec<f64> = counted.iter().map(|record| milliseconds(record.took_ns)).collect();
    while f64_of(times.len()) + 1.0 <= due {
        times.push(milliseconds(ns(TURN)));
    }
    times.sort_by(f64::total_cmp);
    let slow = (BACKENDS - 1).to_string();
    let answered = counted.iter().filter(|record| record.answer.is_ok()).count();
    let by_slow = counted.iter().filter(|record| record.answer.as_ref() == Ok(&slow)).count();
    vec![
        quantile(&times, 50),
        quantile(&times, 99),
        permille(&times, 999),
        times.iter().sum::<f64>() / f64_of(times.len()),
        100.0 * f64_of(by_slow) / f64_of(answered.max(1)),
        f64_of(times.len() - answered),
    ]
}

fn f64_of(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// As [`quantile`], of sorted samples, in thousandths.
fn permille(sorted: &[f64], permille: usize) -> f64 {
    let rank = (sorted.len() * permille).div_ceil(1_000).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

fn milliseconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_and_never_answered_counts_and_the_warm_up_does_not() {
        let record = |begin_ms: u64, took_ms: u64, answer: Result<&str, &str>| Record {
            begin_ns: begin_ms * 1_000_000,
            took_ns: took_ms * 1_000_000,
            answer: answer.map(String::from).map_err(String::from),
        };
        let mut records = vec![record(0, 900, Ok("0")), record(2_200, 900, Ok("0"))];
        records.extend((0..157).map(|n| record(600 + n, 20, Ok("0"))));
        records.push(record(700, 200, Ok("9")));
        records.push(record(700, 300, Err("connect")));
        // 160 are due at 100 a second: one has no record.
        let found = figures(&records, 100);
        assert_eq!(found[..3], [20.0, 300.0, 2_700.0]);
        assert!((found[3] - (157.0 * 20.0 + 3_200.0) / 160.0).abs() < 1e-9, "{found:?}");
        assert!((found[4] - 100.0 / 158.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found[5], 2.0);
    }

    #[test]
    fn the_config_has_a_service_for_each_algorithm() {
        assert_eq!(config().matches("- name:").count(), 3);
    }
}
