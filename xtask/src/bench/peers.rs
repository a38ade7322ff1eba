//! `cargo xtask bench peers`: the same servers asked directly, through Segue, through the packet filter and through
//! proxies, in one network namespace, in turn. How each is set up is `contestant`'s business, what the figures mean
//! `report`'s.

mod aims;
mod contestant;
mod picture;
mod report;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::client::{self, Answers, Mode, Turn};
use super::weight::{cpu_ns, maps_mib, resident_mib};
use super::{Output, affinity, stage};
use crate::node::{self, Agent, Node, Place};
use crate::peers::dnat;
use crate::{backends, build, setup};
use contestant::System;
use report::{Comparison, Part, Series, Weights};

/// Services of the large part.
const MANY: u32 = 10_000;

/// Connections side by side.
const CONNECTIONS: usize = 32;

/// The part of a maximum at which times are measured.
const LOAD: f64 = 0.7;

/// Before a turn is measured, caches warm up.
const WARM_UP: Duration = Duration::from_millis(200);

/// What the server answers, but for the line's end.
const NAME: &str = "payment-0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijklmnopqrstuvwxyz";

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each system is asked; the order is another one each time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Only systems whose names contain this, and direct; may be given again.
    #[arg(long)]
    only: Vec<String>,
    /// Two short rounds, to see whether all of it works.
    #[arg(long)]
    quick: bool,
    /// Draw the figures into this SVG file.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let systems = arguments.systems();
    setup::programs(&[("nginx", "nginx-light")])?;
    dnat::install()?;
    let with_proxies = systems.iter().any(|system| matches!(system, System::Proxy(_)));
    let (binaries, node) = stage::comparison(with_proxies)?;
    client::build()?;
    // Only now: what was built needs no precedence.
    let _precedence = affinity::Precedence::take_or_warn();
    dnat::route(&node, contestant::NETWORK)?;
    let servers = backends::start(&node, &[NAME])?;
    for id in node.processes(Place::Beside) {
        // Where that is not allowed, the scheduler decides, for all systems alike.
        let _ = affinity::pin(id, 0);
    }
    let port = backends::address(0).port();
    let proxies = match &binaries {
        Some(binaries) => contestant::start_proxies(&node, binaries, &systems, port)?,
        None => Vec::new(),
    };
    let bench = Bench { node: &node, arguments, port, bodies: vec![format!("{NAME}\n")] };
    let mut comparison = Comparison::default();

    node::write_config(&node, &contestant::config(&System::Segue.services(1, port)))?;
    let agent = Agent::start(&node, &build::binary(true), || Ok(()))?;
    comparison.one = bench.one_service(&systems)?;
    for (system, process) in &proxies {
        comparison.weights.resident_mib.push((system.name(), resident_mib(process.id())?));
    }
    comparison.weights.resident_mib.push(("Segue's agent, 1 service", resident_mib(agent.id())?));
    comparison.weights.maps_mib.push(("1 service", maps_mib(agent.id())?));
    agent.kill()?;
    // What idles beside the second part would only cost it time.
    drop(proxies);

    bench.many_services(&systems, &mut comparison)?;
    drop(servers);
    let proxies = binaries.map(|binaries| binaries.versions()).transpose()?;
    let versions: Vec<String> = std::iter::once(dnat::versions()?).chain(proxies).collect();
    comparison.note = bench.note(&versions.join(", "));
    if let Some(path) = &arguments.chart {
        let text = picture::draw(&comparison)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    comparison.print(arguments.output);
    Ok(())
}

impl Arguments {
    fn systems(&self) -> Vec<System> {
        let wanted = |system: &System| {
            *system == System::Direct
                || self.only.is_empty()
                || self.only.iter().any(|part| system.name().to_lowercase().contains(&part.to_lowercase()))
        };
        System::ALL.into_iter().filter(wanted).collect()
    }

    fn rounds(&self) -> usize {
        if self.quick { 2 } else { self.rounds as usize }
    }

    fn measure(&self) -> Duration {
        if self.quick { Duration::from_millis(400) } else { Duration::from_secs(self.seconds) }
    }

    fn many(&self) -> u32 {
        if self.quick { MANY / 10 } else { MANY }
    }
}

struct Bench<'n> {
    node: &'n Node,
    arguments: &'n Arguments,
    port: u16,
    bodies: Vec<String>,
}

/// What a system is asked in its turn.
#[derive(Clone, Copy, Debug)]
struct Task {
    mode: Mode,
    /// Requests a second, of [`Mode::Rate`].
    rate: u64,
}

const MAXIMA: [Task; 2] = [Task { mode: Mode::Keepalive, rate: 0 }, Task { mode: Mode::Connect, rate: 0 }];

impl Bench<'_> {
    /// All systems, as fast as they can; then at rates that come of it.
    fn one_service(&self, systems: &[System]) -> anyhow::Result<Part> {
        let mut weights = Weights::default();
        let [keepalive, connect] = self.rounds("1 service", systems, 1, MAXIMA, &mut weights)?;
        let mut part = Part { services: 1, keepalive, connect, rates: Vec::new() };
        let maximum =
            |system: &System| part.keepalive.per_second(*system).map_or(0.0, |spread| spread.median);
        let direct = maximum(&System::Direct);
        let slowest = systems.iter().map(maximum).fold(direct, f64::min);
        let mut rates = vec![LOAD * direct];
        // Those who cannot keep up with the first rate get one that everybody can keep up with.
        if slowest < LOAD * direct {
            rates.push(LOAD * slowest);
        }
        let mut measured = Vec::new();
        for rate in rates {
            let able: Vec<System> = systems.iter().copied().filter(|system| maximum(system) > rate).collect();
            let rate = round_down(rate);
            let task = [Task { mode: Mode::Rate, rate }];
            let title = format!("1 service, {rate} requests/s");
            let [series] = self.rounds(&title, &able, 1, task, &mut weights)?;
            measured.push((rate, series));
        }
        part.rates = measured;
        Ok(part)
    }

    /// What is in the kernel, among as many services as a large cluster has. A proxy looks its service up by the
    /// socket that listens, or in a table of its own: how many there are does not matter to one connection.
    fn many_services(&self, systems: &[System], comparison: &mut Comparison) -> anyhow::Result<()> {
        let kernel: Vec<System> =
            systems.iter().copied().filter(|system| !matches!(system, System::Proxy(_))).collect();
        let services = System::Segue.services(self.arguments.many(), self.port);
        node::write_config(self.node, &contestant::config(&services))?;
        let begin = Instant::now();
        let agent = Agent::start(self.node, &build::binary(true), || Ok(()))?;
        let weights = &mut comparison.weights;
        weights.load_ms.push((System::Segue, vec![begin.elapsed().as_secs_f64() * 1000.0]));
        weights.idle_percent.push(("before any connection", self.idle_percent(&agent)?));
        weights.resident_mib.push(("Segue's agent, many services", resident_mib(agent.id())?));
        let [keepalive, connect] =
            self.rounds("many services", &kernel, self.arguments.many(), MAXIMA, weights)?;
        comparison.many = Part { services: self.arguments.many(), keepalive, connect, rates: Vec::new() };
        let weights = &mut comparison.weights;
        weights.maps_mib.push(("many services, after connections to all", maps_mib(agent.id())?));
        weights.idle_percent.push(("after connections to all", self.idle_percent(&agent)?));
        let resident = resident_mib(agent.id())?;
        weights.resident_mib.push(("Segue's agent, many services, after connections to all", resident));
        agent.kill()
    }

    /// What an agent with nothing to do uses of one CPU, once it has given back what loading took.
    fn idle_percent(&self, agent: &Agent<'_>) -> anyhow::Result<f64> {
        // A minute has each of what the agent does by the clock in it; edges at rest are folded so rarely after 75 s.
        let (settled, idle) = if self.arguments.quick { (0, 2) } else { (80, 60) };
        eprintln!("measuring: the idle agent, for {} s", settled + idle);
        thread::sleep(Duration::from_secs(settled));
        let (before_ns, begin) = (cpu_ns(agent.id())?, Instant::now());
        thread::sleep(Duration::from_secs(idle));
        let used_ns = cpu_ns(agent.id())? - before_ns;
        Ok(100.0 * used_ns / 1e9 / begin.elapsed().as_secs_f64())
    }

    /// The tasks of each system, round by round, in another order each time.
    fn rounds<const TASKS: usize>(
        &self,
        title: &str,
        systems: &[System],
        services: u32,
        tasks: [Task; TASKS],
        weights: &mut Weights,
    ) -> anyhow::Result<[Series; TASKS]> {
        let mut series: [Series; TASKS] = std::array::from_fn(|_| Series::new(systems));
        for round in 0..self.arguments.rounds() {
            for place in 0..systems.len() {
                let place = (place + round) % systems.len();
                let system = systems[place];
                if let Some(took) = system.enter(self.node, &system.services(services, self.port))?
                    && services > 1
                {
                    weights.loaded(system, took);
                }
                let mut told = Vec::new();
                for (task, series) in tasks.iter().zip(&mut series) {
                    let answers = self
                        .turn(system, services, *task)
                        .with_context(|| format!("{} with {title}", system.name()))?;
                    told.push(format!("{:.0}/s", report::rate(&answers)));
                    series.add(place, answers);
                }
                system.leave(self.node)?;
                eprintln!("measuring: {title}: round {}: {}: {}", round + 1, system.name(), told.join(", "));
            }
        }
        Ok(series)
    }

    fn turn(&self, system: System, services: u32, task: Task) -> anyhow::Result<Answers> {
        let turn = Turn {
            mode: task.mode,
            place: system.place(),
            target: system.target(services, self.port),
            connections: CONNECTIONS,
            rate: task.rate,
            warm_up: WARM_UP,
            measure: self.arguments.measure(),
            bodies: &self.bodies,
        };
        let answers = turn.run(self.node)?;
        if answers.count == 0 {
            bail!("no answers at all");
        }
        Ok(answers)
    }

    fn note(&self, versions: &str) -> String {
        format!(
            "{versions}. {} rounds of {} s each, in turn and in another order each round; {CONNECTIONS} connections, one client thread \
             on the last CPU, nginx with one worker on the first, everything in one network namespace and at nice −20. Ratios are of the same round; \
             × min and × max are the worst and the best round. Every answer's bytes were compared. CPU: cpu.stat of the cgroup that has \
             client, server, proxy or agent, with what the kernel does in their names. Times at a rate count from when a request was due. \
             Proxies are asked at their own address, without the redirection that a sidecar needs. –: cannot answer that many.",
            self.arguments.rounds(),
            self.arguments.measure().as_secs_f64(),
        )
    }
}

/// A rate that people can read.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and small")]
fn round_down(rate: f64) -> u64 {
    (rate as u64 / 100 * 100).max(100)
}
