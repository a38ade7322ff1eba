//! Measures the whole agent against an API server with as many Services and endpoints as Segue is built for: how long it
//! takes to balance after it was started, how long a changed EndpointSlice takes into the kernel's maps while many change,
//! and how much memory it takes. Prints JSON; `cargo xtask bench kubernetes` runs it and shows what it means.

use std::collections::HashMap;
use std::mem::offset_of;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_ebpf::abi::{Backend, BackendStatus, Endpoint};
use anyhow::{Context, ensure};
use segue_tests::kube_api::KubeApi;
use segue_tests::kube_api::objects::{Endpoint as At, node, service, slice};
use segue_tests::pinned::PinnedMap;
use segue_tests::world::World;
use serde_json::json;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const READY_LIMIT: Duration = Duration::from_secs(120);
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let (Some(Ok(rate)), Some(Ok(seconds))) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: kubernetes CHANGES_PER_SECOND SECONDS");
    };
    let world = World::new();
    let api = KubeApi::start(world.namespace(), "127.0.0.1:6443");
    api.put(&node("node-1", "here", "10.77.0.1"));
    for number in 0..SERVICES {
        api.put(&service("bench", &name(number), &address(Ipv4Addr::new(198, 18, 0, 0), number)));
        api.put(&endpoints(number, 0));
    }
    let started = Instant::now();
    // Examples lie one directory below binaries.
    let example = std::env::current_exe()?;
    let binary = example.ancestors().nth(2).context("target/PROFILE/examples")?.join("segue");
    let mut command = Command::new(binary);
    command.args(["run", "--kubernetes", "--node", "node-1", "--kubeconfig"]);
    command.arg(api.kubeconfig(world.directory())).arg("--cgroup").arg(world.managed_cgroup());
    command.arg("--bpffs").arg(world.bpffs()).arg("--socket").arg(world.directory().join("segue.sock"));
    command.arg("--state").arg(world.directory().join("state"));
    let mut agent = world.start_outside(command);
    let mut ready_s = None;
    while started.elapsed() < READY_LIMIT && ready_s.is_none() {
        ensure!(agent.ended().is_none(), "the agent ended:\n{}", agent.output());
        std::thread::sleep(Duration::from_millis(5));
        ready_s = agent.output().contains("configuration applied").then(|| started.elapsed().as_secs_f64());
    }
    let ready_s = ready_s.with_context(|| format!("not ready:\n{}", agent.output()))?;
    let pinned = PinnedMap::open(&world, "BACKENDS");
    std::thread::sleep(Duration::from_secs(12));
    let before_bytes = resident_bytes(agent.pid())?;
    let samples = changes(&api, &pinned, rate, seconds).with_context(|| agent.output())?;
    std::thread::sleep(Duration::from_secs(12));
    println!(
        "{}",
        json!({
            "ready_s": ready_s, "change_ms": samples,
            "resident_bytes": before_bytes, "resident_after_bytes": resident_bytes(agent.pid())?,
        })
    );
    Ok(())
}

/// Milliseconds from the moment at which the API server had each change until the kernel's map held it.
fn changes(api: &KubeApi, pinned: &PinnedMap, rate: u32, seconds: u32) -> anyhow::Result<Vec<f64>> {
    let start = Instant::now();
    let count = rate * seconds;
    let (mut made, mut samples) = (0, Vec::new());
    let mut waited: HashMap<[u8; size_of::<Endpoint>()], Instant> = HashMap::new();
    while made < count || !waited.is_empty() {
        while made < count && start + Duration::from_secs(1) * made / rate <= Instant::now() {
            let number = u32::try_from(u64::from(made) * 7_919 % u64::from(SERVICES))?;
            let moves = made / SERVICES + 1;
            api.put(&endpoints(number, moves));
            let moved: std::net::SocketAddr = format!("{}:8080", first(number, moves)).parse()?;
            waited.insert(bytes_of(moved.into()), Instant::now());
            made += 1;
        }
        // Reading the whole map takes a moment, which counts: what is found was there before.
        let copy = pinned.copied();
        let now = Instant::now();
        for entry in copy.chunks_exact(size_of::<Backend>().next_multiple_of(8)) {
            if let Some(put) = endpoint_of(entry).and_then(|endpoint| waited.remove(&endpoint)) {
                samples.push((now - put).as_secs_f64() * 1_000.0);
            }
        }
        let oldest = waited.values().min().map(Instant::elapsed).unwrap_or_default();
        ensure!(oldest < CHANGE_LIMIT, "{} changes did not reach the kernel", waited.len());
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(samples)
}

/// The address and port of a map entry that takes connections.
fn endpoint_of(entry: &[u8]) -> Option<[u8; size_of::<Endpoint>()]> {
    let status_at = offset_of!(Backend, status);
    let status = u16::from_ne_bytes(entry[status_at..status_at + 2].try_into().ok()?);
    let at = offset_of!(Backend, endpoint);
    (status == BackendStatus::Ready as u16).then(|| entry[at..at + size_of::<Endpoint>()].try_into().ok())?
}

/// An endpoint as it lies in a map.
fn bytes_of(endpoint: Endpoint) -> [u8; size_of::<Endpoint>()] {
    let mut bytes = [0; size_of::<Endpoint>()];
    let words: [u32; 4] = endpoint.address.words_be;
    for (word, place) in words.iter().zip(bytes.chunks_exact_mut(4)) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes[16..18].copy_from_slice(&endpoint.port_be.to_ne_bytes());
    bytes
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

fn address(network: Ipv4Addr, host: u32) -> String {
    Ipv4Addr::from_bits(network.to_bits() + host).to_string()
}

/// The endpoint of a Service that moves, after so many moves.
fn first(number: u32, moves: u32) -> String {
    address(Ipv4Addr::new(127, 64, 0, 0), number + moves * SERVICES)
}

fn endpoints(number: u32, moves: u32) -> serde_json::Value {
    let mut endpoints = vec![At::at(&first(number, moves))];
    let others = (1..ENDPOINTS).map(|place| address(Ipv4Addr::new(127, 1, 0, 0), number * ENDPOINTS + place));
    endpoints.extend(others.map(|address| At::at(&address)));
    slice("bench", &name(number), "abcde", 8_080, &endpoints)
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("statm has a second field")?.parse()?;
    Ok(pages * 4_096)
}
