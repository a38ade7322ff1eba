//! What the kernel counts, read from any thread.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use agent_ebpf::abi::{
    Backend, BackendState, Drain, Edge, EdgeKey, Histogram, Hook, Loss, OpenSocket, Outcome, Policy, Sample,
    ServiceState, ServiceWord, Settings, Verdict,
};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};

use super::bpf;
use super::data_plane::DataPlane;
use super::hooks::{DRAIN_PROGRAM, SAMPLE_PROGRAM};
use super::mapped::MappedArray;
use super::tables::{Plain, errno_of};
use super::{KernelError, MapError};

/// Readers of the kernel-owned maps, and the two small maps that tell the programs what to send and who is who.
pub struct Counters {
    services: MappedArray<u64>,
    policies: MappedArray<Policy>,
    backends: MappedArray<Backend>,
    backend_state: MappedArray<BackendState>,
    service_state: MappedArray<ServiceState>,
    settings: MappedArray<Settings>,
    edges: PerCpuHashMap<MapData, Plain<EdgeKey>, Plain<Edge>>,
    edge_capacity: u32,
    outcomes: PerCpuArray<MapData, u64>,
    losses: PerCpuArray<MapData, u64>,
    workloads: HashMap<MapData, u64, u32>,
    connections: OwnedFd,
    sample_walk: Option<OwnedFd>,
    drain_walk: Option<OwnedFd>,
}

impl Counters {
    pub(super) fn new(data_plane: &DataPlane) -> Result<Self, KernelError> {
        let open = |name: &'static str| {
            let path = data_plane.map_path(name);
            MapData::from_pin(&path).map_err(|error| KernelError::Map {
                map: name,
                path,
                source: io::Error::other(error),
            })
        };
        let typed = |name: &'static str| {
            move |error| KernelError::Map { map: name, path: name.into(), source: io::Error::other(error) }
        };
        let edges = open("EDGES")?;
        let edge_capacity = edges.info().map_err(typed("EDGES"))?.max_entries();
        let connections = data_plane.map_path("CONNECTIONS");
        Ok(Self {
            services: data_plane.array("SERVICES")?,
            policies: data_plane.array("POLICIES")?,
            backends: data_plane.array("BACKENDS")?,
            backend_state: data_plane.array("BACKEND_STATE")?,
            service_state: data_plane.array("SERVICE_STATE")?,
            settings: data_plane.array("SETTINGS")?,
            edges: PerCpuHashMap::try_from(Map::PerCpuHashMap(edges)).map_err(typed("EDGES"))?,
            edge_capacity,
            outcomes: PerCpuArray::try_from(Map::PerCpuArray(open("OUTCOMES")?))
                .map_err(typed("OUTCOMES"))?,
            losses: PerCpuArray::try_from(Map::PerCpuArray(open("LOSSES")?)).map_err(typed("LOSSES"))?,
            workloads: HashMap::try_from(Map::HashMap(open("WORKLOADS")?)).map_err(typed("WORKLOADS"))?,
            connections: bpf::open_pin(&connections).map_err(|source| KernelError::Map {
                map: "CONNECTIONS",
                path: connections,
                source,
            })?,
            sample_walk: data_plane.walk_program(SAMPLE_PROGRAM),
            drain_walk: data_plane.walk_program(DRAIN_PROGRAM),
        })
    }

    /// Every edge, summed over CPUs, in the order of keys.
    pub fn edges(&self) -> Result<Vec<(EdgeKey, Edge)>, MapError> {
        let fail = |error| MapError { map: "EDGES", operation: "list", source: errno_of(error) };
        let mut edges = Vec::new();
        for entry in self.edges.iter() {
            let (key, per_cpu) = entry.map_err(fail)?;
            let mut sum = Edge::default();
            for part in per_cpu.iter() {
                add_edge(&mut sum, &part.0);
            }
            edges.push((key.0, sum));
        }
        edges.sort_unstable_by_key(|(key, _)| *key);
        Ok(edges)
    }

    /// How many edges the kernel can count at a time.
    pub fn edge_capacity(&self) -> u32 {
        self.edge_capacity
    }

    /// Removes an edge, after its counts were taken over elsewhere.
    pub fn remove_edge(&mut self, key: &EdgeKey) -> Result<(), MapError> {
        let fail = |error| MapError { map: "EDGES", operation: "remove", source: errno_of(error) };
        match self.edges.remove(&Plain(*key)).map_err(fail) {
            Err(error) if error.source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Counts of runs by program and outcome, summed over CPUs; those that never happened are left out.
    pub fn outcomes(&self) -> Result<Vec<(Hook, Outcome, u64)>, MapError> {
        let mut counts = Vec::new();
        for (place, &hook) in Hook::ALL.iter().enumerate() {
            for (at, &outcome) in Outcome::ALL.iter().enumerate() {
                let count = sum(&self.outcomes, "OUTCOMES", place * Outcome::ALL.len() + at)?;
                if count != 0 {
                    counts.push((hook, outcome, count));
                }
            }
        }
        Ok(counts)
    }

    /// What could not be recorded, summed over CPUs.
    pub fn losses(&self) -> Result<Vec<(Loss, u64)>, MapError> {
        Loss::ALL.iter().enumerate().map(|(at, &loss)| Ok((loss, sum(&self.losses, "LOSSES", at)?))).collect()
    }

    /// What the kernel counts for a backend.
    pub fn backend_state(&self, id: u32) -> BackendState {
        self.backend_state.read(id)
    }

    /// Gives back the memory that reading what the kernel counts took.
    pub fn rest(&mut self) {
        self.policies.rest();
        self.backends.rest();
        self.backend_state.rest();
        self.service_state.rest();
    }

    /// What the kernel counts for a service.
    pub fn service_state(&self, id: u32) -> ServiceState {
        self.service_state.read(id)
    }

    /// A backend's record, with an operator's order about it.
    pub fn backend(&self, id: u32) -> Backend {
        self.backends.read(id)
    }

    /// The policy in force for a service; `None` where the kernel has no such service.
    pub fn policy(&self, service: u32) -> Option<Policy> {
        let policy = ServiceWord(self.services.read(service)).policy()?;
        (policy < self.policies.entries()).then(|| self.policies.read(policy))
    }

    /// Gives the kernel an operator's order about a backend, in one store. It stays in the pinned map, whatever
    /// becomes of the agent, and ends by itself.
    pub fn order(&self, backend: u32, verdict: Verdict) {
        const VERDICT: usize = std::mem::offset_of!(Backend, verdict) / 8;
        const { assert!(std::mem::offset_of!(Backend, verdict).is_multiple_of(8)) };
        self.backends.word(backend, VERDICT).store(verdict.0, Ordering::Relaxed);
    }

    /// Writes down since when a backend is out and when its connections are reset, in one store. It stays in the pinned
    /// map, for an agent that comes after this one.
    pub fn set_drain(&self, backend: u32, drain: Drain) {
        const DRAIN: usize = std::mem::offset_of!(Backend, drain) / 8;
        const { assert!(std::mem::offset_of!(Backend, drain).is_multiple_of(8)) };
        self.backends.word(backend, DRAIN).store(drain.0, Ordering::Relaxed);
    }

    /// Walks over every socket whose connection is due to be reset. `None` where this kernel cannot.
    pub fn due_sockets(&self) -> Option<io::Result<Vec<OpenSocket>>> {
        let walk = self.drain_walk.as_ref()?;
        Some(self.walk(walk, decode::<OpenSocket>))
    }

    fn walk<T>(&self, program: &OwnedFd, decode: fn(&[u8]) -> T) -> io::Result<Vec<T>> {
        let mut output = bpf::iterate_map(program.as_fd(), self.connections.as_fd())?;
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes)?;
        Ok(bytes.chunks_exact(size_of::<T>()).map(decode).collect())
    }

    /// Corrects the number of open connections of a backend by what the walk found. The one write of the agent
    /// to a map of the kernel's: an atomic add to a counter that the programs change by atomic adds.
    pub fn correct_active(&self, backend: u32, difference: i64) {
        const ACTIVE: usize = std::mem::offset_of!(BackendState, active) / 8;
        self.backend_state.word(backend, ACTIVE).fetch_add(difference.cast_unsigned(), Ordering::Relaxed);
    }

    /// Asks for every connection's opening and closing until this moment of the monotonic clock.
    pub fn follow_until(&self, until_ns: u64) {
        self.settings.word(0, 0).store(until_ns, Ordering::Relaxed);
    }

    /// Says that the agent is alive.
    pub fn heartbeat(&self, now_ns: u64) {
        self.settings.word(0, 1).store(now_ns, Ordering::Relaxed);
    }

    /// Walks over every socket that talks to a service. `None` where this kernel cannot.
    pub fn samples(&self) -> Option<io::Result<Vec<Sample>>> {
        let walk = self.sample_walk.as_ref()?;
        Some(self.walk(walk, decode::<Sample>))
    }

    /// Makes this the set of workload cgroups.
    pub fn set_workloads(&mut self, cgroups: &std::collections::BTreeSet<u64>) -> Result<(), MapError> {
        let fail = |operation| move |error| MapError { map: "WORKLOADS", operation, source: errno_of(error) };
        let known: std::collections::BTreeSet<u64> =
            self.workloads.keys().collect::<Result<_, _>>().map_err(fail("list"))?;
        for gone in known.difference(cgroups) {
            self.workloads.remove(gone).map_err(fail("remove"))?;
        }
        for new in cgroups.difference(&known) {
            self.workloads.insert(new, 1, 0).map_err(fail("insert"))?;
        }
        Ok(())
    }
}

fn sum(map: &PerCpuArray<MapData, u64>, name: &'static str, index: usize) -> Result<u64, MapError> {
    let fail = |error| MapError { map: name, operation: "read", source: errno_of(error) };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    Ok(map.get(&index, 0).map_err(fail)?.iter().copied().fold(0, u64::wrapping_add))
}

fn add_edge(sum: &mut Edge, part: &Edge) {
    sum.opened += part.opened;
    add_each(&mut sum.closed, &part.closed);
    add_each(&mut sum.failed, &part.failed);
    sum.sent_bytes += part.sent_bytes;
    sum.received_bytes += part.received_bytes;
    sum.retransmits += part.retransmits;
    for (sum, part) in [
        (&mut sum.connect, &part.connect),
        (&mut sum.connect_failed, &part.connect_failed),
        (&mut sum.rtt, &part.rtt),
    ] {
        add_histogram(sum, part);
    }
}

fn add_histogram(sum: &mut Histogram, part: &Histogram) {
    sum.sum_ns += part.sum_ns;
    add_each(&mut sum.buckets, &part.buckets);
}

fn add_each<const N: usize>(sums: &mut [u64; N], parts: &[u64; N]) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum += part;
    }
}

/// What a walk writes: integers, of which any bytes are a valid one.
trait Record: Copy + Default {}
impl Record for Sample {}
impl Record for OpenSocket {}

/// Reads a record that a walk wrote. The chunk has the record's size.
fn decode<T: Record>(bytes: &[u8]) -> T {
    let mut record = T::default();
    let length = bytes.len().min(size_of::<T>());
    // SAFETY: a record is made of integers, any bytes are a valid one, and no more than its size is copied.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut record).cast(), length) };
    record
}
