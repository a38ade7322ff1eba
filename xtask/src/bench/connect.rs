//! `cargo xtask bench connect`: what a connection costs without Segue, past it and through it; throughput;
//! how long a change takes; what the tables weigh. Everything runs on a node of its own.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::probe::{Probe, Range};
use super::weight::{maps_mib, resident_mib};
use super::{Output, Row, print, stage};
use crate::node::{self, Agent, Node, Place};
use crate::{backends, build, host, setup};

/// Services of the large config, half of them UDP, and backends of each.
const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;

/// The first service's address; the others follow. All of them lie in 198.18.0.0/15, which is for benchmarks.
const FIRST_TCP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 80);
const FIRST_UDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 80);

/// Services whose connects do all that a policy may ask for of each.
const GUARDED_TCP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 255, 1), 80);
const GUARDED_UDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 255, 1), 80);
const GUARDED: &str = "{ algorithm: peak_ewma, breaker: {}, limits: { backend: { connections: 100000 }, service: { connections: 1000000 } } }";

/// Connects in one sample.
const UDP_BATCH: u32 = 5_000;
const TCP_BATCH: u32 = 500;

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Samples of each kind of connect(); half as many edits, a tenth as many runs of wrk.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host::check_ebpf()?;
    setup::for_tests(true)?;
    build::segue(true)?;
    let node = stage::node()?;
    // Two servers that tell who they are, on every address of the namespace.
    let _servers = backends::start(&node, &["a", "b"])?;
    let mut bench = Bench {
        beside: Probe::start(&node, Place::Beside)?,
        managed: Probe::start(&node, Place::Managed)?,
        node: &node,
        segue: build::binary(true),
        samples: arguments.samples,
        rows: Vec::new(),
    };
    bench.small()?;
    bench.large()?;
    print(&bench.rows, arguments.output);
    Ok(())
}

struct Bench<'n> {
    node: &'n Node,
    segue: PathBuf,
    beside: Probe,
    managed: Probe,
    samples: u32,
    rows: Vec<Row>,
}

/// One of the kinds of connect() that are measured in turn.
struct Variant {
    name: &'static str,
    place: Place,
    range: Range,
}

impl Bench<'_> {
    /// One TCP and one UDP service.
    fn small(&mut self) -> anyhow::Result<()> {
        progress("one service of each protocol");
        node::write_config(self.node, &(config(2, 0) + &guarded()))?;
        let agent = Agent::start(self.node, &self.segue, || Ok(()))?;
        self.connects(
            "UDP connect(), 1 service",
            "udp",
            UDP_BATCH,
            &variants(
                FIRST_UDP,
                &[
                    ("service", Range::of_one(FIRST_UDP)),
                    ("service with breaker, limits and peak_ewma", Range::of_one(GUARDED_UDP)),
                ],
            ),
        )?;
        // Of a socket that has its memory already: what is left is looking up, choosing and counting.
        self.connects(
            "UDP connect() of the same socket again, 1 service",
            "again",
            UDP_BATCH,
            &variants(
                FIRST_UDP,
                &[
                    ("service", Range::of_one(FIRST_UDP)),
                    ("service with breaker, limits and peak_ewma", Range::of_one(GUARDED_UDP)),
                ],
            ),
        )?;
        self.connects(
            "TCP connect(), 1 service",
            "tcp",
            TCP_BATCH,
            &variants(
                FIRST_TCP,
                &[
                    ("service", Range::of_one(FIRST_TCP)),
                    ("service with breaker, limits and peak_ewma", Range::of_one(GUARDED_TCP)),
                ],
            ),
        )?;
        self.throughput()?;
        self.edits("from edit to new connections, 1 service", 2)?;
        agent.kill()
    }

    /// As many services as a large cluster has.
    fn large(&mut self) -> anyhow::Result<()> {
        progress("10 000 services of 10 backends");
        let (tcp, udp) = (range_of(FIRST_TCP), range_of(FIRST_UDP));
        node::write_config(self.node, &config(SERVICES, 0))?;
        let mut load = Vec::new();
        let mut restart = Vec::new();
        // The first start finds the small config's maps and fills them; the second adopts what is there.
        let begin = Instant::now();
        let agent = Agent::start(self.node, &self.segue, || Ok(()))?;
        load.push(milliseconds(begin.elapsed()));
        agent.kill()?;
        let begin = Instant::now();
        let agent = Agent::start(self.node, &self.segue, || Ok(()))?;
        restart.push(milliseconds(begin.elapsed()));
        let group = "10 000 services of 10 backends";
        self.rows.push(Row::new(group, "start of the agent, file to live", "ms", &load));
        self.rows.push(Row::new(group, "start of the agent, adopting", "ms", &restart));
        self.connects(
            "UDP connect(), 10 000 services",
            "udp",
            UDP_BATCH,
            &variants(FIRST_UDP, &[("one service", Range::of_one(FIRST_UDP)), ("random services", udp)]),
        )?;
        self.connects(
            "TCP connect(), 10 000 services",
            "tcp",
            TCP_BATCH,
            &variants(FIRST_TCP, &[("one service", Range::of_one(FIRST_TCP)), ("random services", tcp)]),
        )?;
        self.edits("from edit to new connections, 10 000 services", SERVICES)?;
        let group = "memory, 10 000 services of 10 backends";
        self.rows.push(Row::new(group, "agent, resident", "MiB", &[resident_mib(agent.id())?]));
        self.rows.push(Row::new(group, "maps", "MiB", &[maps_mib(agent.id())?]));
        agent.kill()
    }

    /// Samples the variants in turn, so that what else the machine does falls on all of them alike. The first is
    /// the control.
    fn connects(
        &mut self,
        group: &'static str,
        protocol: &str,
        batch: u32,
        variants: &[Variant],
    ) -> anyhow::Result<()> {
        progress(group);
        let (mut connects, mut closes) = (vec![Vec::new(); variants.len()], vec![Vec::new(); variants.len()]);
        for round in 0..=self.samples {
            for (place, variant) in variants.iter().enumerate() {
                let probe =
                    if variant.place == Place::Managed { &mut self.managed } else { &mut self.beside };
                let (connect, close) = probe.connect_and_close_us(protocol, batch, variant.range)?;
                // The first round warms caches up.
                if round > 0 {
                    connects[place].push(connect);
                    closes[place].push(close);
                }
            }
        }
        let calls = [("", &connects), (", its close()", &closes)];
        // A socket that is kept is not closed.
        let calls = calls.into_iter().filter(|(_, samples)| samples.iter().flatten().any(|&time| time > 0.0));
        for (call, samples) in calls {
            let control = Row::new(group, "", "µs", &samples[0]).median;
            for (variant, samples) in variants.iter().zip(samples) {
                let name = format!("{}{call}", variant.name);
                self.rows.push(Row::new(group, name, "µs", samples).against(control));
            }
        }
        Ok(())
    }

    /// Requests per second with wrk, in turn.
    fn throughput(&mut self) -> anyhow::Result<()> {
        let direct = SocketAddrV4::new(Ipv4Addr::LOCALHOST, backends::address(0).port());
        for (group, header) in [
            ("HTTP requests on new connections", Some("Connection: close")),
            ("HTTP requests on open connections", None),
        ] {
            progress(group);
            let variants = [
                ("direct, not managed", Place::Beside, direct),
                ("direct, managed", Place::Managed, direct),
                ("service", Place::Managed, FIRST_TCP),
            ];
            let mut samples = vec![Vec::new(); variants.len()];
            for _ in 0..self.samples.div_ceil(10) {
                for ((_, place, address), samples) in variants.iter().zip(&mut samples) {
                    samples.push(self.wrk(*place, *address, header)?);
                }
            }
            let control = Row::new(group, "", "1/s", &samples[0]).median;
            for ((name, _, _), samples) in variants.iter().zip(&samples) {
                self.rows.push(Row::new(group, *name, "1/s", samples).against(control));
            }
        }
        Ok(())
    }

    fn wrk(&self, place: Place, address: SocketAddrV4, header: Option<&str>) -> anyhow::Result<f64> {
        let program = host::program("wrk").context("wrk is not installed; run `cargo xtask setup`")?;
        let mut command = self.node.command(&program, place)?;
        command.args(["-t1", "-c32", "-d1s"]).stdin(Stdio::null());
        if let Some(header) = header {
            command.args(["-H", header]);
        }
        let output = command.arg(format!("http://{address}/")).output().context("cannot run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(errors) = text.lines().find(|line| line.contains("Socket errors")) {
            bail!("wrk against {address}: {}", errors.trim());
        }
        let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        rate.and_then(|rate| rate.trim().parse().ok())
            .with_context(|| format!("wrk against {address} did not tell a rate: {text}"))
    }

    /// Moves the first service from one server to the other and back, and times each edit until a new
    /// connection meets the other one.
    fn edits(&mut self, group: &'static str, services: u32) -> anyhow::Result<()> {
        progress(group);
        let mut samples = Vec::new();
        for edit in 1..=self.samples.div_ceil(2) {
            let text = config(services, edit % 2);
            let begin = Instant::now();
            node::write_config(self.node, &text)?;
            self.managed.until(if edit % 2 == 1 { "b" } else { "a" }, FIRST_TCP)?;
            samples.push(milliseconds(begin.elapsed()));
        }
        self.rows.push(Row::new(group, "edit", "ms", &samples).with_p99(&samples));
        Ok(())
    }
}

/// What is compared: no Segue, Segue and an address it does not know, and services.
fn variants(first: SocketAddrV4, hits: &[(&'static str, Range)]) -> Vec<Variant> {
    let direct = Range::of_one(SocketAddrV4::new(Ipv4Addr::LOCALHOST, backends::address(0).port()));
    debug_assert_ne!(direct.first, first);
    let mut variants = vec![
        Variant { name: "not managed", place: Place::Beside, range: direct },
        Variant { name: "managed, no service", place: Place::Managed, range: direct },
    ];
    for (name, range) in hits {
        variants.push(Variant { name, place: Place::Managed, range: *range });
    }
    variants
}

/// The addresses of the large config's services of one protocol.
fn range_of(first: SocketAddrV4) -> Range {
    Range { first, last: service_address(first, SERVICES / 2 - 1) }
}

fn service_address(first: SocketAddrV4, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.ip().to_bits() + index)
}

/// The services with everything on, on the backends of the first ones.
fn guarded() -> String {
    let mut text = String::new();
    for (protocol, frontend) in [("tcp", GUARDED_TCP), ("udp", GUARDED_UDP)] {
        let port = backends::address(0).port();
        let backends: Vec<String> =
            (0..BACKENDS).map(|backend| format!("{{ address: \"127.1.0.{backend}:{port}\" }}")).collect();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - name: bench/{protocol}-guarded\n    protocol: {protocol}\n    frontends: [\"{frontend}\"]\n    policy: {GUARDED}\n    backends: [{}]\n",
            backends.join(", ")
        );
    }
    text
}

/// A config of `services`, half of them UDP. `shift` moves the first one to another server.
fn config(services: u32, shift: u32) -> String {
    let mut text = String::from("services:\n");
    for (protocol, first) in [("tcp", FIRST_TCP), ("udp", FIRST_UDP)] {
        for index in 0..services / 2 {
            let address = service_address(first, index);
            let port = backends::address(0).port();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "  - name: bench/{protocol}-{index}\n    protocol: {protocol}\n    frontends: [\"{address}:{}\"]\n    backends:\n",
                first.port()
            );
            for backend in 0..BACKENDS {
                // Every address of 127.0.0.0/8 is this node's: as many backends as wanted, of one server.
                let ip =
                    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + index * BACKENDS + backend);
                let port = if index == 0 && shift == 1 { port + 1 } else { port };
                let _ = writeln!(text, "      - {{ address: \"{ip}:{port}\" }}");
            }
        }
    }
    text
}

fn progress(what: &str) {
    eprintln!("measuring: {what}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_config_has_every_service_within_the_range_that_is_measured() {
        let text = config(SERVICES, 0);
        assert_eq!(text.matches("  - name:").count(), 10_000);
        assert_eq!(text.matches("- { address:").count(), 100_000);
        assert!(text.contains(&format!("\"{}:80\"", range_of(FIRST_TCP).last)));
        assert!(text.contains(&format!("\"{}:80\"", range_of(FIRST_UDP).last)));
    }

    #[test]
    fn an_edit_moves_the_first_service_only() {
        let (before, after) = (config(4, 0), config(4, 1));
        let differing = before.lines().zip(after.lines()).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 2 * BACKENDS as usize);
    }
}
