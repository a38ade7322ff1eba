//! The same faults of one backend of three through Segue, HAProxy and Envoy, one after the other: what clients see,
//! and when the backend that came back has its share again. Every system begins anew for every fault.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::load::{Load, Pace, Record, now_ns};
use super::matrix::Matrix;
use crate::actors::{self, Act, Actors};
use crate::node::Node;
use crate::peers::{
    Balance, Binaries, CONNECT_TIMEOUT_MS, FAILURES, INTERVAL_MS, Kind, Layer, OUT_MS, Proxy,
};

/// Clients side by side, each with a pause between two requests.
const CLIENTS: u32 = 64;
const PAUSE_MS: u64 = 20;

/// What must be answered before the fault.
const ANSWERS_BEFORE: usize = 1_000;
const ANSWERS_LIMIT: Duration = Duration::from_secs(10);

const FAULT_TIME: Duration = Duration::from_secs(3);

/// After this a backend counts as not recovered.
const RECOVERY_LIMIT: Duration = Duration::from_secs(8);

/// Recovered is a backend that gave a sixth of so many answers in a row, half of its share of a third.
const WINDOW: usize = 60;

/// Where the proxy listens: below 1024, where no client's own port is.
const PORT: u16 = 700;

const COLUMNS: [&str; 7] =
    ["requests", "errors", "leaked", "accepted", "p99, ms", "worst, ms", "recovered, s"];

/// What befalls the first backend.
const FAULTS: [(&str, Act); 3] = [
    ("refuses connections", Act::Refuse),
    ("accepts and resets", Act::Reset),
    ("is a black hole: handshakes get no answer", Act::Swallow),
];

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// A service with this algorithm.
    Segue(&'static str),
    /// A proxy.
    Proxy(Proxy),
}

const fn proxy(kind: Kind, layer: Layer, retry: bool) -> System {
    System::Proxy(Proxy { kind, layer, balance: Balance::RoundRobin, retry, detect: true })
}

const SYSTEMS: [(&str, System); 9] = [
    ("Segue, round_robin", System::Segue("round_robin")),
    ("Segue, least_connections", System::Segue("least_connections")),
    ("Segue, peak_ewma", System::Segue("peak_ewma")),
    ("HAProxy tcp", proxy(Kind::Haproxy, Layer::Tcp, false)),
    ("HAProxy tcp, redispatch", proxy(Kind::Haproxy, Layer::Tcp, true)),
    ("Envoy tcp_proxy", proxy(Kind::Envoy, Layer::Tcp, false)),
    ("Envoy tcp_proxy, 3 attempts", proxy(Kind::Envoy, Layer::Tcp, true)),
    ("Envoy http", proxy(Kind::Envoy, Layer::Http, false)),
    ("Envoy http, 2 retries", proxy(Kind::Envoy, Layer::Http, true)),
];

/// The algorithms of Segue's rows, in their order.
fn algorithms() -> impl Iterator<Item = &'static str> {
    SYSTEMS.iter().filter_map(|(_, system)| match system {
        System::Segue(algorithm) => Some(*algorithm),
        System::Proxy(_) => None,
    })
}

/// The service for a fault and an algorithm: one for each, so that none remembers another fault.
fn service_address(fault: usize, algorithm: &str) -> SocketAddr {
    let place = algorithms().position(|one| one == algorithm).unwrap_or_default();
    let ip = Ipv4Addr::new(198, 18, 20, 0).to_bits() + u32::try_from(fault * 16 + place).unwrap_or_default();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(ip)), 80)
}

/// The services, as lines of a config.
pub(super) fn services() -> String {
    let mut text = String::new();
    let backends: Vec<String> = (0..3).map(|index| format!("\"{}\"", actors::address(index))).collect();
    for fault in 0..FAULTS.len() {
        for algorithm in algorithms() {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "  - name: bench/fault-{fault}-{}\n    frontends: [\"{}\"]\n    policy:\n      algorithm: {algorithm}\n      \
                 connect_timeout: {CONNECT_TIMEOUT_MS}ms\n      breaker: {{ consecutive_failures: {FAILURES}, failure_ratio: 0%, \
                 open: {OUT_MS}ms, jitter: 0%, slow_start: 0s }}\n    backends: [{}]\n",
                algorithm.replace('_', "-"),
                service_address(fault, algorithm),
                backends.join(", ")
            );
        }
    }
    text
}

/// How everything is configured, for the reader of the figures.
pub(super) fn note(binaries: &Binaries) -> anyhow::Result<String> {
    Ok(format!(
        "{}. {CLIENTS} clients, a connection for each request, {PAUSE_MS} ms between two; 3 backends, of which one fails for \
         {} s. Limit of a handshake {CONNECT_TIMEOUT_MS} ms. Segue: {FAILURES} failures in a row, out for {OUT_MS} ms, no slow start. \
         HAProxy: check inter {INTERVAL_MS} fall 3 rise 2, observe layer4, error-limit {FAILURES}, on-error mark-down, retries 3 \
         (its default, to the same server unless `option redispatch`). Envoy: outlier detection with {FAILURES} local-origin \
         failures or 5xx in a row, out for {OUT_MS} ms, interval {INTERVAL_MS} ms, no retries unless named. \
         errors: requests without an answer; leaked: those of them that began after the first was known; accepted: connections that the failing backend took; p99, worst: how \
         long requests took that began during the fault; recovered: until the backend that came back has half its share.",
        binaries.versions()?,
        FAULT_TIME.as_secs()
    ))
}

/// All faults through all systems. The servers answer before and after.
pub(super) fn measure(node: &Node, actors: &mut Actors, binaries: &Binaries) -> anyhow::Result<Vec<Matrix>> {
    let mut matrices = Vec::new();
    for (index, (title, act)) in FAULTS.iter().enumerate() {
        let mut matrix = Matrix::new(format!("one backend of three {title}"), &COLUMNS);
        for (name, system) in SYSTEMS {
            eprintln!("measuring: one backend {title}: {name}");
            // The proxy ends with the measurement.
            let (_proxy, target) = match system {
                System::Segue(algorithm) => (None, service_address(index, algorithm)),
                System::Proxy(proxy) => {
                    let backends = [0, 1, 2].map(actors::address);
                    let (process, listen) = proxy.start(node, binaries, PORT, &backends)?;
                    (Some(process), listen)
                }
            };
            matrix.rows.push((name.to_owned(), suffer(node, actors, target, *act)?.figures()));
        }
        matrices.push(matrix);
    }
    Ok(matrices)
}

/// One fault through one system.
fn suffer(node: &Node, actors: &mut Actors, target: SocketAddr, act: Act) -> anyhow::Result<Findings> {
    let mut load = Load::start(node, target, CLIENTS, Pace::Pause { ms: PAUSE_MS })?;
    let answered = load.wait_until(ANSWERS_LIMIT, |records| records.len() >= ANSWERS_BEFORE)?;
    anyhow::ensure!(
        answered,
        "fewer than {ANSWERS_BEFORE} answers within {ANSWERS_LIMIT:?} before the fault"
    );
    let fault_ns = now_ns();
    actors.play_all(0, act)?;
    let accepted = actors.accepted(0)?;
    load.wait_until(FAULT_TIME, |_| false)?;
    let accepted = actors.accepted(0)? - accepted;
    actors.play_all(0, Act::ANSWER)?;
    let back_ns = now_ns();
    load.wait_until(RECOVERY_LIMIT, |records| recovered_ns(records, back_ns).is_some())?;
    let findings = Findings::of(&load.finish()?, fault_ns, back_ns);
    Ok(Findings { accepted: (act == Act::Reset).then_some(accepted), ..findings })
}

/// What clients saw.
#[derive(Clone, Debug, PartialEq)]
struct Findings {
    requests: usize,
    errors: usize,
    leaked: usize,
    /// Connections that the failing backend accepted, where it does.
    accepted: Option<u64>,
    p99_ms: f64,
    worst_ms: f64,
    recovered_s: Option<f64>,
}

impl Findings {
    fn of(records: &[Record], fault_ns: u64, back_ns: u64) -> Self {
        let seen: Vec<&Record> = records.iter().filter(|record| record.end_ns() >= fault_ns).collect();
        let failed: Vec<&&Record> = seen.iter().filter(|record| record.answer.is_err()).collect();
        let known_ns = failed.iter().map(|record| record.end_ns()).min().unwrap_or(u64::MAX);
        let leaked = failed.iter().filter(|record| record.begin_ns > known_ns).count();
        let times: Vec<f64> = seen
            .iter()
            .filter(|record| record.begin_ns < back_ns)
            .map(|record| milliseconds(record.took_ns))
            .collect();
        Self {
            requests: seen.len(),
            errors: failed.len(),
            leaked,
            accepted: None,
            p99_ms: super::quantile(&times, 99),
            worst_ms: super::quantile(&times, 100),
            recovered_s: recovered_ns(records, back_ns).map(|at| milliseconds(at - back_ns) / 1000.0),
        }
    }

    /// In the order of [`COLUMNS`].
    fn figures(&self) -> Vec<Option<f64>> {
        let count = |count: usize| u32::try_from(count).ok().map(f64::from);
        vec![
            count(self.requests),
            count(self.errors),
            count(self.leaked),
            self.accepted.and_then(|accepted| u32::try_from(accepted).ok()).map(f64::from),
            Some(self.p99_ms),
            Some(self.worst_ms),
            self.recovered_s,
        ]
    }
}

/// When the first backend had half its share again: the end of the first window that shows it.
fn recovered_ns(records: &[Record], back_ns: u64) -> Option<u64> {
    let mut answers: Vec<(u64, bool)> = records
        .iter()
        .filter(|record| record.begin_ns >= back_ns)
        .filter_map(|record| {
            Some((record.end_ns(), record.answer.as_ref().ok()? == super::breaker::NAMES[0]))
        })
        .collect();
    answers.sort_unstable();
    let ours = |window: &[(u64, bool)]| window.iter().filter(|(_, ours)| *ours).count();
    answers
        .windows(WINDOW)
        .find(|window| ours(window) * 6 >= WINDOW)
        .and_then(|window| Some(window.last()?.0))
}

fn milliseconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(begin_ns: u64, took_ns: u64, answer: Result<&str, &str>) -> Record {
        Record { begin_ns, took_ns, answer: answer.map(String::from).map_err(String::from) }
    }

    #[test]
    fn what_begins_after_the_first_failure_was_known_has_leaked() {
        let records = [
            record(10, 5, Err("refused before the fault")),
            record(100, 10, Err("refused")),
            record(105, 10, Err("refused, on its way already")),
            record(120, 10, Err("refused, and need not have been")),
            record(130, 1_000_000, Ok("b")),
        ];
        let findings = Findings::of(&records, 100, 1_000);
        assert_eq!((findings.requests, findings.errors, findings.leaked), (4, 3, 1));
        assert_eq!((findings.worst_ms, findings.recovered_s), (1.0, None));
    }

    #[test]
    fn a_backend_is_back_when_it_has_half_its_share() {
        let answers = |every: u64| -> Vec<Record> {
            (0..200).map(|n| record(1_000 + n, 1, Ok(if n % every == 0 { "a" } else { "b" }))).collect()
        };
        assert_eq!(recovered_ns(&answers(12), 0), None);
        assert_eq!(recovered_ns(&answers(6), 0), Some(1_060));
        assert_eq!(recovered_ns(&answers(6), 1_100), Some(1_160));
    }

    #[test]
    fn the_services_are_one_for_each_fault_and_algorithm() {
        assert_eq!(services().matches("- name:").count(), FAULTS.len() * 3);
    }
}
