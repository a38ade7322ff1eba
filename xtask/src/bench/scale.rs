//! `cargo xtask bench scale`: what grows with the number of endpoints, and what does not: loading, a change, a
//! connect(), memory. Each size has a node of its own, and the sizes take turns.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::chart::{self, Line, Panel};
use super::matrix::Matrix;
use super::probe::{Probe, Range};
use super::spread::Spread;
use super::weight::{maps_mib, resident_mib};
use super::{Output, affinity, churn, cpus, kernel_version, print_with, quantile, stage};
use crate::node::{self, Agent, Place};
use crate::{build, host, setup};

/// Backends of each service.
const BACKENDS: u32 = 10;

/// Numbers of services; ten times as many endpoints.
const SERVICES: [u32; 4] = [10, 100, 1_000, 10_000];

/// The first service's address; the others follow. All of them lie in 198.18.0.0/15, which is for benchmarks.
const FIRST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 80);

/// Addresses of backends. Nothing listens there: a UDP connect() asks nobody.
const FIRST_BACKEND: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
const BACKEND_PORT: u16 = 8081;

/// connect() calls in a sample, and samples of each kind in a round.
const BATCH: u32 = 5_000;
const SAMPLES: u32 = 5;

/// Changes a second.
const RATE: u32 = 1_000;

/// The agent gives memory back within ten seconds.
const SETTLED: Duration = Duration::from_secs(12);

const COLUMNS: [&str; 9] = [
    "load, ms",
    "max",
    "change p50, ms",
    "p99, ms",
    "not managed, µs",
    "one service, µs",
    "random, µs",
    "maps, MiB",
    "resident, MiB",
];

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each size is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long endpoints change, in each round of each size.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// One short round of the smaller sizes, to see whether all of it works.
    #[arg(long)]
    quick: bool,
    /// Draw the figures into this SVG file.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What was measured of one size.
#[derive(Clone, Debug, Default)]
struct Size {
    services: u32,
    load_ms: Vec<f64>,
    /// Of each round, of all its changes.
    change_p50_ms: Vec<f64>,
    change_p99_ms: Vec<f64>,
    unmanaged_us: Vec<f64>,
    hot_us: Vec<f64>,
    random_us: Vec<f64>,
    maps_mib: f64,
    resident_mib: f64,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host::check_ebpf()?;
    setup::for_tests(true)?;
    build::segue(true)?;
    churn::build()?;
    let _precedence = affinity::Precedence::take_or_warn();
    let (rounds, seconds, count) =
        if arguments.quick { (1, 1, 2) } else { (arguments.rounds, arguments.seconds, SERVICES.len()) };
    let mut sizes: Vec<Size> =
        SERVICES[..count].iter().map(|services| Size { services: *services, ..Size::default() }).collect();
    for round in 1..=rounds {
        let weigh = round == rounds && !arguments.quick;
        for size in &mut sizes {
            eprintln!("measuring: round {round}: {} endpoints", size.services * BACKENDS);
            size.load_and_connect(weigh)?;
            let changes = churn::samples_ms(RATE, seconds, size.services)?;
            size.change_p50_ms.push(quantile(&changes, 50));
            size.change_p99_ms.push(quantile(&changes, 99));
        }
    }
    let note = format!(
        "{rounds} rounds, the sizes in turn, a new node for each, all at nice −20; medians. load: from the start of the agent with a file and empty maps to \
         ready. change: one endpoint of a service moves, {RATE} times a second for {seconds} s, from when it was due to the kernel's maps. \
         connect(): of new UDP sockets, not managed, always to one service, to random ones of all. resident: {} s after the start.",
        SETTLED.as_secs()
    );
    if let Some(path) = &arguments.chart {
        fs::write(path, picture(&sizes)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print_with(&[], &[matrix(&sizes)], &note, arguments.output);
    if arguments.output == Output::Table {
        println!("{}", growth(&sizes));
    }
    Ok(())
}

impl Size {
    fn load_and_connect(&mut self, weigh: bool) -> anyhow::Result<()> {
        let node = stage::node()?;
        node::write_config(&node, &config(self.services))?;
        let begin = Instant::now();
        let agent = Agent::start(&node, &build::binary(true), || Ok(()))?;
        self.load_ms.push(begin.elapsed().as_secs_f64() * 1000.0);
        let mut beside = Probe::start(&node, Place::Beside)?;
        let mut managed = Probe::start(&node, Place::Managed)?;
        let last = Ipv4Addr::from_bits(FIRST.ip().to_bits() + self.services - 1);
        let unmanaged = Range::of_one(SocketAddrV4::new(FIRST_BACKEND, BACKEND_PORT));
        // The first sample of each warms caches up.
        for sample in 0..=SAMPLES {
            let figures = [
                beside.connect_us("udp", BATCH, unmanaged)?,
                managed.connect_us("udp", BATCH, Range::of_one(FIRST))?,
                managed.connect_us("udp", BATCH, Range { first: FIRST, last })?,
            ];
            if sample > 0 {
                for (kept, figure) in
                    [&mut self.unmanaged_us, &mut self.hot_us, &mut self.random_us].into_iter().zip(figures)
                {
                    kept.push(figure);
                }
            }
        }
        if weigh {
            thread::sleep(SETTLED.saturating_sub(begin.elapsed()));
        }
        self.maps_mib = maps_mib(agent.id())?;
        self.resident_mib = resident_mib(agent.id())?;
        agent.kill()
    }

    fn endpoints(&self) -> f64 {
        f64::from(self.services * BACKENDS)
    }
}

fn middle(samples: &[f64]) -> f64 {
    quantile(samples, 50)
}

fn matrix(sizes: &[Size]) -> Matrix {
    let mut matrix = Matrix::new("by number of endpoints, 10 of each service", &COLUMNS);
    for size in sizes {
        let load = Spread::of(&size.load_ms);
        let figures = vec![
            load.map(|load| load.median),
            load.map(|load| load.max),
            Some(middle(&size.change_p50_ms)),
            Some(middle(&size.change_p99_ms)),
            Some(middle(&size.unmanaged_us)),
            Some(middle(&size.hot_us)),
            Some(middle(&size.random_us)),
            Some(size.maps_mib),
            Some(size.resident_mib),
        ];
        matrix.rows.push((chart::grouped(size.endpoints()), figures));
    }
    matrix
}

/// What became of each figure from the smallest size to the largest.
fn growth(sizes: &[Size]) -> String {
    let (Some(small), Some(large)) = (sizes.first(), sizes.last()) else { return String::new() };
    let times = |figure: fn(&Size) -> f64| figure(large) / figure(small);
    format!(
        "from {} to {} endpoints: load × {:.1}, change p50 × {:.1}, connect() to one service × {:.2}, to random ones × {:.2}, \
         maps × {:.2}, resident × {:.1}",
        chart::grouped(small.endpoints()),
        chart::grouped(large.endpoints()),
        times(|size| middle(&size.load_ms)),
        times(|size| middle(&size.change_p50_ms)),
        times(|size| middle(&size.hot_us)),
        times(|size| middle(&size.random_us)),
        times(|size| size.maps_mib),
        times(|size| size.resident_mib),
    )
}

fn picture(sizes: &[Size]) -> anyhow::Result<String> {
    let line = |name: &str, figure: fn(&Size) -> f64| Line {
        name: name.to_owned(),
        points: sizes.iter().map(|size| (size.endpoints(), figure(size))).collect(),
    };
    let panels = [
        Panel::Lines("From a file to live, ms", vec![line("", |size| middle(&size.load_ms))]),
        Panel::Lines(
            "A changed endpoint to the kernel, ms",
            vec![
                line("p50", |size| middle(&size.change_p50_ms)),
                line("p99", |size| middle(&size.change_p99_ms)),
            ],
        ),
        Panel::Lines(
            "UDP connect(), µs",
            vec![line("one", |size| middle(&size.hot_us)), line("random", |size| middle(&size.random_us))],
        ),
        Panel::Lines(
            "Memory, MiB",
            vec![line("maps", |size| size.maps_mib), line("agent", |size| size.resident_mib)],
        ),
    ];
    let subtitle = format!(
        "Linux {}, {} CPUs; medians; endpoints along the axis, {BACKENDS} to each service; {RATE} changes a second",
        kernel_version(),
        cpus()
    );
    chart::draw("From 100 to 100 000 endpoints", &subtitle, &panels)
}

/// A file of so many UDP services.
fn config(services: u32) -> String {
    let mut text = String::from("services:\n");
    for number in 0..services {
        let frontend = Ipv4Addr::from_bits(FIRST.ip().to_bits() + number);
        let backends: Vec<String> = (0..BACKENDS)
            .map(|place| {
                let ip = Ipv4Addr::from_bits(FIRST_BACKEND.to_bits() + number * BACKENDS + place);
                format!("\"{ip}:{BACKEND_PORT}\"")
            })
            .collect();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - name: bench/udp-{number}\n    protocol: udp\n    frontends: [\"{frontend}:{}\"]\n    backends: [{}]\n",
            FIRST.port(),
            backends.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_all_endpoints_and_each_once() {
        let text = config(1_000);
        let mut endpoints: Vec<&str> = text.split('"').filter(|part| part.ends_with(":8081")).collect();
        assert_eq!(endpoints.len(), 10_000);
        endpoints.sort_unstable();
        endpoints.dedup();
        assert_eq!(endpoints.len(), 10_000);
    }

    #[test]
    fn the_picture_and_the_table_show_the_same_sizes() {
        let size = |services: u32| Size {
            services,
            load_ms: vec![f64::from(services)],
            change_p50_ms: vec![0.3],
            change_p99_ms: vec![1.0],
            unmanaged_us: vec![2.0],
            hot_us: vec![3.0],
            random_us: vec![4.0],
            maps_mib: 48.0,
            resident_mib: 20.0,
        };
        let sizes = [size(10), size(10_000)];
        let (picture, table) = (picture(&sizes).unwrap(), matrix(&sizes).table());
        assert!(picture.contains("100 000") && table.contains("100 000"), "{table}");
        assert!(growth(&sizes).contains("load × 1000.0"), "{}", growth(&sizes));
    }
}
