//! Measures how long a changed endpoint takes from `desired` into the kernel's maps while many change, among as many
//! services as it is told. Prints the milliseconds of each change as a JSON array; `cargo xtask bench churn`
//! runs it and shows what they mean. Does no networking.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_ebpf::abi::Protocol;
use anyhow::{Context, ensure};
use segue_agent::desired::{BackendSpec, Change, Desired, PolicySpec, ServiceSpec, SourceKind};
use segue_agent::kernel::{DataPlane, KernelTables};
use segue_agent::reconcile::Reconciler;
use segue_tests::world::World;

const BACKENDS: u32 = 10;

/// As in the agent: what was replaced is given back every second, all maps are compared every ten.
const TICK: Duration = Duration::from_secs(1);
const CHECK: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let (Some(Ok(rate)), Some(Ok(seconds)), Some(Ok(services))) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        anyhow::bail!("usage: churn CHANGES_PER_SECOND SECONDS SERVICES");
    };
    let world = World::new();
    let (cgroup, bpffs) = (world.managed_cgroup().to_owned(), world.bpffs());
    let samples = world.namespace().run(|| measure(&cgroup, &bpffs, rate, seconds, services))?;
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

/// Milliseconds from the moment at which each change was due until the maps held it.
fn measure(cgroup: &Path, bpffs: &Path, rate: u32, seconds: u32, services: u32) -> anyhow::Result<Vec<f64>> {
    let data_plane = DataPlane::load(Some(cgroup), bpffs, true, &[])?;
    let mut reconciler = Reconciler::new(data_plane.tables()?);
    let mut desired = Desired::default();
    desired.apply(SourceKind::File, Change::Reset((0..services).map(|number| service(number, 0)).collect()));
    apply(&mut reconciler, &desired)?;
    let start = Instant::now();
    let (mut tick, mut check) = (start + TICK, start + CHECK);
    let count = rate * seconds;
    let due = |change: u32| start + Duration::from_secs(1) * change / rate;
    let mut samples = Vec::with_capacity(count as usize);
    let mut next = 0;
    while next < count {
        let first = next;
        let now = Instant::now();
        while next < count && due(next) <= now {
            desired.apply(SourceKind::File, Change::Upsert(changed_service(next, services)));
            next += 1;
        }
        if next > first {
            apply(&mut reconciler, &desired)?;
            let done = Instant::now();
            samples.extend((first..next).map(|change| (done - due(change)).as_secs_f64() * 1000.0));
        }
        if now >= tick {
            let report = reconciler.idle();
            ensure!(report.failed.is_empty(), "{}", report.failed[0]);
            tick += TICK;
        } else if now >= check {
            compare(&mut reconciler)?;
            check += CHECK;
        } else {
            std::thread::sleep(due(next).saturating_duration_since(Instant::now()));
        }
    }
    compare(&mut reconciler)?;
    Ok(samples)
}

fn apply(reconciler: &mut Reconciler<KernelTables>, desired: &Desired) -> anyhow::Result<()> {
    let report = reconciler.apply(desired).context("the change does not fit")?;
    ensure!(report.failed.is_empty(), "{}", report.failed[0]);
    ensure!(report.refused.is_empty(), "{}", report.refused[0].reason);
    ensure!(report.written.services > 0, "nothing was written");
    Ok(())
}

fn compare(reconciler: &mut Reconciler<KernelTables>) -> anyhow::Result<()> {
    let report = reconciler.repair();
    ensure!(report.failed.is_empty(), "{}", report.failed[0]);
    ensure!(report.repaired.total() == 0, "the maps are not what was written");
    Ok(())
}

/// The service that change number `change` is about; one of its backends has moved.
fn changed_service(change: u32, services: u32) -> Arc<ServiceSpec> {
    // A prime that does not divide the number of services leads to each of them in turn, far from the one before.
    let number = (u64::from(change) * 7_919 % u64::from(services)).try_into().unwrap_or(0);
    service(number, change / services + 1)
}

/// A service; the first of its backends has moved so many times.
fn service(number: u32, moves: u32) -> Arc<ServiceSpec> {
    let address = |network: Ipv4Addr, host: u32, port: u16| {
        SocketAddr::from((Ipv4Addr::from_bits(network.to_bits() + host), port))
    };
    let backend = |place: u32| {
        let moved = u16::try_from(if place == 0 { moves % 1_000 } else { 0 }).unwrap_or(0);
        BackendSpec {
            address: address(Ipv4Addr::new(127, 1, 0, 0), number * BACKENDS + place, 8_080 + moved),
            weight: 1,
            zone: None,
            version: None,
            draining: false,
        }
    };
    Arc::new(ServiceSpec {
        name: format!("bench/service-{number}").into(),
        protocol: Protocol::Tcp,
        frontends: vec![address(Ipv4Addr::new(198, 18, 0, 0), number, 80)],
        backends: (0..BACKENDS).map(backend).collect(),
        policy: PolicySpec::default(),
    })
}
