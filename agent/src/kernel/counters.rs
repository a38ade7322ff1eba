//! What the kernel counts, read from any thread.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use agent_ebpf::abi::settings::{WORKLOAD_KNOWN, WORKLOAD_LEFT_ALONE};
use agent_ebpf::abi::{
    AffinityKey, AffinityValue, Backend, BackendState, ClientKey, Drain, Edge, EdgeKey, FailedOn, Histogram,
    Hook, Loss, OpenSocket, Outcome, Policy, RequestKey, Requests, Sample, ServiceState, ServiceWord,
    Settings, Unparsed, Usage, Verdict,
};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use aya::util::nr_cpus;

use super::bpf;
use super::data_plane::DataPlane;
use super::hooks::{DRAIN_PROGRAM, SAMPLE_PROGRAM};
use super::mapped::MappedArray;
use super::tables::{Plain, errno_of};
use super::{KernelError, MapError};

/// Which open connections a count is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Open {
    /// All of them.
    All,
    /// Those whose handshake is under way.
    Pending,
}

/// How connections of a workload are to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As everybody's.
    Managed,
    /// They go on untouched.
    LeftAlone,
    /// Nobody has said it yet.
    Undecided,
}

/// Readers of the kernel-owned maps, and the two small maps that tell the programs what to send and who is who.
pub struct Counters {
    services: MappedArray<u64>,
    policies: MappedArray<Policy>,
    backends: MappedArray<Backend>,
    backend_state: MappedArray<BackendState>,
    service_state: MappedArray<ServiceState>,
    settings: MappedArray<Settings>,
    edges: PerCpuHashMap<MapData, Plain<EdgeKey>, Plain<Edge>>,
    edges_fd: OwnedFd,
    edge_capacity: u32,
    requests: PerCpuHashMap<MapData, Plain<RequestKey>, Plain<Requests>>,
    requests_fd: OwnedFd,
    /// Possible CPUs: of so many there is a value for each key of a per-CPU map.
    cpus: usize,
    unparsed: PerCpuArray<MapData, u64>,
    clients: HashMap<MapData, Plain<ClientKey>, Plain<Usage>>,
    outcomes: PerCpuArray<MapData, u64>,
    losses: PerCpuArray<MapData, u64>,
    affinity: HashMap<MapData, Plain<AffinityKey>, Plain<AffinityValue>>,
    avoidances: HashMap<MapData, Plain<AffinityKey>, u64>,
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
        let pin = |name: &'static str| {
            let path = data_plane.map_path(name);
            bpf::open_pin(&path).map_err(|source| KernelError::Map { map: name, path, source })
        };
        let edges = open("EDGES")?;
        let edge_capacity = edges.info().map_err(typed("EDGES"))?.max_entries();
        Ok(Self {
            services: data_plane.array("SERVICES")?,
            policies: data_plane.array("POLICIES")?,
            backends: data_plane.array("BACKENDS")?,
            backend_state: data_plane.array("BACKEND_STATE")?,
            service_state: data_plane.array("SERVICE_STATE")?,
            settings: data_plane.array("SETTINGS")?,
            edges: PerCpuHashMap::try_from(Map::PerCpuHashMap(edges)).map_err(typed("EDGES"))?,
            edges_fd: pin("EDGES")?,
            edge_capacity,
            requests: PerCpuHashMap::try_from(Map::PerCpuHashMap(open("REQUESTS")?))
                .map_err(typed("REQUESTS"))?,
            requests_fd: pin("REQUESTS")?,
            cpus: nr_cpus().map_err(|(what, source)| KernelError::Map {
                map: "EDGES",
                path: what.into(),
                source,
            })?,
            unparsed: PerCpuArray::try_from(Map::PerCpuArray(open("UNPARSED")?))
                .map_err(typed("UNPARSED"))?,
            clients: HashMap::try_from(Map::HashMap(open("CLIENTS")?)).map_err(typed("CLIENTS"))?,
            outcomes: PerCpuArray::try_from(Map::PerCpuArray(open("OUTCOMES")?))
                .map_err(typed("OUTCOMES"))?,
            losses: PerCpuArray::try_from(Map::PerCpuArray(open("LOSSES")?)).map_err(typed("LOSSES"))?,
            affinity: HashMap::try_from(Map::LruHashMap(open("AFFINITY")?)).map_err(typed("AFFINITY"))?,
            avoidances: HashMap::try_from(Map::LruHashMap(open("AVOIDANCES")?))
                .map_err(typed("AVOIDANCES"))?,
            workloads: HashMap::try_from(Map::HashMap(open("WORKLOADS")?)).map_err(typed("WORKLOADS"))?,
            connections: pin("CONNECTIONS")?,
            sample_walk: data_plane.walk_program(SAMPLE_PROGRAM),
            drain_walk: data_plane.walk_program(DRAIN_PROGRAM),
        })
    }

    /// Every edge, summed over CPUs, in the order of keys.
    pub fn edges(&self) -> Result<Vec<(EdgeKey, Edge)>, MapError> {
        // SAFETY: the types of this map.
        unsafe { self.summed("EDGES", &self.edges_fd, add_edge) }
    }

    /// Every entry of a per-CPU map, summed over CPUs, in the order of keys.
    ///
    /// # Safety
    /// `K` and `V` are the types of the map's keys and values, made of integers, the latter of whole words.
    unsafe fn summed<K: Copy + Ord, V: Record>(
        &self,
        map: &'static str,
        descriptor: &OwnedFd,
        add: fn(&mut V, &V),
    ) -> Result<Vec<(K, V)>, MapError> {
        let mut sums = Vec::new();
        let take = |key: &K, parts: &[V]| {
            let mut sum = V::default();
            parts.iter().for_each(|part| add(&mut sum, part));
            sums.push((*key, sum));
        };
        // SAFETY: as the caller says; there is a value of every possible CPU.
        unsafe { bpf::hash_entries(descriptor.as_fd(), self.cpus, take) }.map_err(|source| MapError {
            map,
            operation: "list",
            source,
        })?;
        sums.sort_unstable_by_key(|(key, _)| *key);
        Ok(sums)
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

    /// Counts of requests, summed over CPUs, in the order of keys.
    pub fn requests(&self) -> Result<Vec<(RequestKey, Requests)>, MapError> {
        let add = |sum: &mut Requests, part: &Requests| add_histogram(&mut sum.0, &part.0);
        // SAFETY: the types of this map.
        unsafe { self.summed("REQUESTS", &self.requests_fd, add) }
    }

    /// Removes a row of requests, after its counts were taken over elsewhere.
    pub fn remove_requests(&mut self, key: &RequestKey) -> Result<(), MapError> {
        let fail = |error| MapError { map: "REQUESTS", operation: "remove", source: errno_of(error) };
        match self.requests.remove(&Plain(*key)).map_err(fail) {
            Err(error) if error.source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// What was not counted as a request, by reason, summed over CPUs.
    pub fn unparsed(&self) -> Result<Vec<(Unparsed, u64)>, MapError> {
        Unparsed::ALL
            .iter()
            .enumerate()
            .map(|(at, &reason)| Ok((reason, sum(&self.unparsed, "UNPARSED", at)?)))
            .collect()
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

    /// Corrects a backend's number of connections, or of those in their handshake, by what the walk found: an atomic
    /// add to a counter that the programs change by atomic steps.
    pub fn correct_backend(&self, backend: u32, kind: Open, difference: i64) {
        const ACTIVE: usize = std::mem::offset_of!(BackendState, active) / 8;
        const PENDING: usize = std::mem::offset_of!(BackendState, pending) / 8;
        let word = if kind == Open::All { ACTIVE } else { PENDING };
        self.backend_state.word(backend, word).fetch_add(difference.cast_unsigned(), Ordering::Relaxed);
    }

    /// The same for what a service uses of its limits.
    pub fn correct_service(&self, service: u32, kind: Open, difference: i64) {
        const USAGE: usize = std::mem::offset_of!(ServiceState, usage) / 8;
        let word = USAGE + if kind == Open::All { 0 } else { std::mem::offset_of!(Usage, pending) / 8 };
        self.service_state.word(service, word).fetch_add(difference.cast_unsigned(), Ordering::Relaxed);
    }

    /// What every client uses of its limits, in the order of keys.
    pub fn clients(&self) -> Result<Vec<(ClientKey, Usage)>, MapError> {
        let fail = |error| MapError { map: "CLIENTS", operation: "list", source: errno_of(error) };
        let mut clients = Vec::new();
        for entry in self.clients.iter() {
            let (key, usage) = entry.map_err(fail)?;
            clients.push((key.0, usage.0));
        }
        clients.sort_unstable_by_key(|(key, _)| *key);
        Ok(clients)
    }

    /// The backend a client was given last; `None` where that is not remembered.
    pub fn affinity(&self, key: &AffinityKey) -> Result<Option<AffinityValue>, MapError> {
        remembered(self.affinity.get(&Plain(*key), 0), "AFFINITY").map(|value| value.map(|value| value.0))
    }

    /// The backend a client failed on last.
    pub fn failed_on(&self, key: &AffinityKey) -> Result<FailedOn, MapError> {
        remembered(self.avoidances.get(&Plain(*key), 0), "AVOIDANCES")
            .map(|word| word.map_or(FailedOn::NONE, FailedOn))
    }

    /// What is written down of a workload's cgroup; 0 where it is none.
    pub fn said_of_workload(&self, cgroup: u64) -> Result<u32, MapError> {
        remembered(self.workloads.get(&cgroup, 0), "WORKLOADS").map(Option::unwrap_or_default)
    }

    /// Replaces what a client uses of its limits. Not one step: what a program counts in the same instant is lost, and
    /// is corrected later.
    pub fn correct_client(&mut self, key: &ClientKey, usage: &Usage) -> Result<(), MapError> {
        /// Only an entry that is there (`BPF_EXIST`).
        const EXIST: u64 = 2;
        let fail = |error| MapError { map: "CLIENTS", operation: "write", source: errno_of(error) };
        self.clients.insert(Plain(*key), Plain(*usage), EXIST).map_err(fail)
    }

    /// Forgets a client that is gone.
    pub fn remove_client(&mut self, key: &ClientKey) -> Result<(), MapError> {
        let fail = |error| MapError { map: "CLIENTS", operation: "remove", source: errno_of(error) };
        match self.clients.remove(&Plain(*key)).map_err(fail) {
            Err(error) if error.source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Asks for every connection's opening and closing until this moment of the monotonic clock, 0 for none.
    pub fn follow_until(&self, until_ns: u64) {
        self.settings.word(0, 0).store(until_ns, Ordering::Relaxed);
    }

    /// Asks for single requests until this moment of the monotonic clock, 0 for none: for those whose lot is less than
    /// `below`, and also for how they begin for those whose lot is less than `heads_below`.
    pub fn tell(&self, until_ns: u64, below: u64, heads_below: u64) {
        const UNTIL: usize = std::mem::offset_of!(Settings, tell_until_ns) / 8;
        for (word, value) in [(UNTIL + 1, below), (UNTIL + 2, heads_below), (UNTIL, until_ns)] {
            self.settings.word(0, word).store(value, Ordering::Relaxed);
        }
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

    /// Makes these the workload cgroups, and gives how many of them are left alone. Those of which nobody knows whether
    /// they are to be are left as they were found.
    pub fn set_workloads(&mut self, cgroups: &BTreeMap<u64, Manner>) -> Result<u64, MapError> {
        const LEFT_ALONE: usize = std::mem::offset_of!(Settings, left_alone) / 8;
        let fail = |operation| move |error| MapError { map: "WORKLOADS", operation, source: errno_of(error) };
        let known: BTreeMap<u64, u32> =
            self.workloads.iter().collect::<Result<_, _>>().map_err(fail("list"))?;
        for gone in known.keys().filter(|id| !cgroups.contains_key(id)) {
            self.workloads.remove(gone).map_err(fail("remove"))?;
        }
        let wanted = cgroups.iter().map(|(id, manner)| {
            let left_alone = match manner {
                Manner::Managed => 0,
                Manner::LeftAlone => WORKLOAD_LEFT_ALONE,
                Manner::Undecided => known.get(id).map_or(0, |said| said & WORKLOAD_LEFT_ALONE),
            };
            (*id, WORKLOAD_KNOWN | left_alone)
        });
        // What matters more comes first, should there not be room for all.
        let (left_alone, others): (Vec<_>, Vec<_>) =
            wanted.partition(|(_, said)| said & WORKLOAD_LEFT_ALONE != 0);
        let count = left_alone.len() as u64;
        let mut write = |entries: Vec<(u64, u32)>| {
            let mut changed = entries.into_iter().filter(|(id, said)| known.get(id) != Some(said));
            changed.try_for_each(|(id, said)| self.workloads.insert(id, said, 0).map_err(fail("insert")))
        };
        let written = write(left_alone);
        self.settings.word(0, LEFT_ALONE).store(count, Ordering::Relaxed);
        written.and_then(|()| write(others)).map(|()| count)
    }
}

/// A value that was looked up; `None` where there is none.
fn remembered<T>(found: Result<T, aya::maps::MapError>, map: &'static str) -> Result<Option<T>, MapError> {
    match found.map_err(errno_of) {
        Ok(value) => Ok(Some(value)),
        Err(source) if source.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(source) => Err(MapError { map, operation: "read", source }),
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

/// What the kernel gives, in a walk or of a map: integers, of which any bytes are a valid one.
trait Record: Copy + Default {}
impl Record for Sample {}
impl Record for OpenSocket {}
impl Record for Edge {}
impl Record for Requests {}

/// Reads a record that a walk wrote. The chunk has the record's size.
fn decode<T: Record>(bytes: &[u8]) -> T {
    let mut record = T::default();
    let length = bytes.len().min(size_of::<T>());
    // SAFETY: a record is made of integers, any bytes are a valid one, and no more than its size is copied.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut record).cast(), length) };
    record
}
