//! `cargo xtask bench breaker`: what a breaker costs where all is well, how soon it acts, what a refusal and a
//! redirected connection cost, and then the same faults through Segue and two proxies ([`super::faults`]).

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::bail;

use super::faults;
use super::probe::{Probe, Range};
use super::{Output, Row, print_with, stage};
use crate::actors::{self, Act, Actors};
use crate::build;
use crate::node::{self, Agent, Node, Place};

/// The backends; the first is the one that fails.
pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// Connects in one sample.
const BATCH: u32 = 500;

/// Services whose only backend refuses: each can trip once.
const TRIPS: u32 = 200;

const PLAIN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 80);
const GUARDED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 80);
const REDIRECTED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 3), 80);
const REFUSED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 4), 80);
const FIRST_TRIP: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);

/// No service's, and without a route: the kernel refuses by itself.
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 9, 9), 80);

/// Opens at the fifth failure in a row, for longer than the benchmark runs, the last backend too.
const STAYS_OPEN: &str = "consecutive_failures: 5, failure_ratio: 0%, open: 1h, open_max: 1h, max_ejection: 100%, panic: 0%, \
                          negative_affinity: 0s";

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Samples of each kind of connect().
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// Leave the proxies and the faults out.
    #[arg(long)]
    cost_only: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (binaries, node) = stage::comparison(!arguments.cost_only)?;
    let mut actors = Actors::start(&node, &NAMES)?;
    node::write_config(&node, &config())?;
    let _agent = Agent::start(&node, &build::binary(true), || Ok(()))?;
    let mut rows = Vec::new();
    actors.play(2, Act::Refuse)?;
    trips(&node, &mut rows)?;
    costs(&node, arguments.samples, &mut rows)?;
    actors.play(2, Act::ANSWER)?;
    let (mut matrices, mut note) = (Vec::new(), String::new());
    if let Some(binaries) = binaries {
        matrices = faults::measure(&node, &mut actors, &binaries)?;
        note = faults::note(&binaries)?;
    }
    print_with(&rows, &matrices, &note, arguments.output);
    Ok(())
}

/// Runs into a backend that refuses until its breaker is open, once for each service.
fn trips(node: &Node, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    eprintln!("measuring: from the failure that trips to the first refusal");
    let mut probe = Probe::start(node, Place::Managed)?;
    let (mut refusals, mut times) = (Vec::new(), Vec::new());
    for index in 0..TRIPS {
        let (count, time_us) = probe.trip_us(SocketAddrV4::new(trip_address(index), 80))?;
        refusals.push(count);
        times.push(time_us);
    }
    let group = "a backend that refuses, one client, five failures in a row trip";
    rows.push(Row::new(group, "failures until it trips", "", &refusals).with_p99(&refusals));
    rows.push(
        Row::new(group, "from the last failure to the end of the first refusal", "µs", &times)
            .with_p99(&times),
    );
    Ok(())
}

/// Samples each kind of connect() in turn. The first is the control.
fn costs(node: &Node, samples: u32, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    eprintln!("measuring: what a connect() costs");
    let mut beside = Probe::start(node, Place::Beside)?;
    let mut managed = Probe::start(node, Place::Managed)?;
    // The backends that are to be out must be out.
    managed.trip_us(REFUSED)?;
    until_redirected(&mut managed)?;
    let names = [
        "not managed",
        "managed, no service",
        "service without a breaker",
        "service with a breaker, all well",
        "redirected: the drawn backend is out",
        "refused by Segue",
        "refused by the kernel: no route, not managed",
    ];
    let direct = SocketAddrV4::new(Ipv4Addr::LOCALHOST, actors::address(0).port());
    let mut kept = vec![Vec::new(); names.len()];
    for round in 0..=samples {
        let sample = [
            beside.connect_us("tcp", BATCH, Range::of_one(direct))?,
            managed.connect_us("tcp", BATCH, Range::of_one(direct))?,
            managed.connect_us("tcp", BATCH, Range::of_one(PLAIN))?,
            managed.connect_us("tcp", BATCH, Range::of_one(GUARDED))?,
            managed.connect_us("tcp", BATCH, Range::of_one(REDIRECTED))?,
            expect(managed.failure_us(BATCH, REFUSED)?, libc::EHOSTUNREACH)?,
            expect(beside.failure_us(BATCH, NOWHERE)?, libc::ENETUNREACH)?,
        ];
        // The first round warms caches up.
        if round > 0 {
            kept.iter_mut().zip(sample).for_each(|(kept, sample)| kept.push(sample));
        }
    }
    let group = "TCP connect()";
    let control = Row::new(group, "", "µs", &kept[0]).median;
    for (name, samples) in names.iter().zip(&kept) {
        rows.push(Row::new(group, *name, "µs", samples).against(control));
    }
    Ok(())
}

/// Connects until the backend that refuses is out: one of a thousand connections would go to the other.
fn until_redirected(managed: &mut Probe) -> anyhow::Result<()> {
    for _ in 0..100 {
        if managed.connect_us("tcp", 1, Range::of_one(REDIRECTED)).is_ok() {
            return Ok(());
        }
    }
    bail!("the breaker of a backend that refuses did not open")
}

fn expect((time_us, errno): (f64, i32), wanted: i32) -> anyhow::Result<f64> {
    if errno != wanted {
        bail!("connect() failed with errno {errno} instead of {wanted}");
    }
    Ok(time_us)
}

fn trip_address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_TRIP.to_bits() + index)
}

/// The services of all that is measured. The third backend refuses while costs are.
fn config() -> String {
    let mut text = String::from("services:\n");
    let [a, _, c] = [0, 1, 2].map(actors::address);
    let mut service = |name: &str, at: SocketAddrV4, breaker: &str, backends: &str| {
        let breaker =
            if breaker.is_empty() { String::new() } else { format!("{{ breaker: {{ {breaker} }} }}") };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - name: bench/{name}\n    frontends: [\"{at}\"]\n    policy: {breaker}\n    backends: [{backends}]\n"
        );
    };
    let weighted = |address, weight: u32| format!("{{ address: \"{address}\", weight: {weight} }}");
    service("plain", PLAIN, "", &weighted(a, 1));
    service("guarded", GUARDED, "mode: enforce", &weighted(a, 1));
    service("redirected", REDIRECTED, STAYS_OPEN, &format!("{}, {}", weighted(a, 1), weighted(c, 1000)));
    service("refused", REFUSED, STAYS_OPEN, &weighted(c, 1));
    for index in 0..TRIPS {
        let at = SocketAddrV4::new(trip_address(index), 80);
        service(&format!("trip-{index}"), at, STAYS_OPEN, &weighted(c, 1));
    }
    text + &faults::services()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_of_the_config_has_an_address_of_its_own() {
        let text = config();
        let mut frontends: Vec<&str> = text.lines().filter(|line| line.contains("frontends")).collect();
        let all = frontends.len();
        frontends.sort_unstable();
        frontends.dedup();
        assert_eq!(frontends.len(), all);
        assert!(all > TRIPS as usize);
    }

    #[test]
    fn a_failure_of_another_kind_is_no_sample() {
        assert_eq!(expect((1.0, 113), 113).unwrap(), 1.0);
        assert!(expect((1.0, 111), 113).is_err());
    }
}
