//! From desired services to map contents. Pure: no maps, no IO, no clock.
//!
//! A service becomes one entry per address family in which it has frontends: each family has its own id and is
//! balanced among its own backends. Where things lie in the maps (policy records, windows of slots) is not decided
//! here; which ids they have is, by [`Ids`], which the caller keeps.

mod ids;
#[cfg(test)]
mod tests;

pub use ids::{Family, Ids, Restored};

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::breaker::period_ticks;
use agent_ebpf::abi::limits::MAX_SUBSETS;
use agent_ebpf::abi::service::REQUESTS_UNREAD;
use agent_ebpf::abi::{
    Algorithm, Backend, BackendStatus, BreakerMode, BreakerPolicy, Drain, Endpoint, FrontendKey, Policy,
    Slot, Subset, Verdict,
};
use agent_ebpf::decide::balance::{self, Entry, maglev};
use agent_ebpf::decide::split;

use crate::desired::{BackendSpec, PolicySpec, ServiceName, ServiceSpec};

/// One service of one address family, as it goes into the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledService {
    /// The service's id.
    pub id: u32,
    /// The family of its frontends and backends.
    pub family: Family,
    /// Its frontends, in order, without repetition.
    pub frontends: Vec<FrontendKey>,
    /// The policy record; `first_slot` of every subset is still 0.
    pub policy: Policy,
    /// The slots of all subsets of the policy, one window after the other.
    pub slots: Arc<[Slot]>,
    /// Its backends, in the order of their endpoints, also those that take no new connections.
    pub backends: Arc<[CompiledBackend]>,
}

impl CompiledService {
    /// How many slots it has.
    pub fn slot_count(&self) -> u32 {
        self.policy.subsets.iter().map(|subset| subset.slot_count).sum()
    }
}

/// One backend as it goes into the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledBackend {
    /// The backend's id.
    pub id: u32,
    /// The map entry.
    pub record: Backend,
}

impl CompiledBackend {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.record.endpoint.into()
    }
}

/// Why a service cannot be compiled. The sources refuse most of this before; what is here protects the maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// An endpoint is listed twice.
    #[error("service {service}: backend {address} is listed twice; list each address and port once")]
    DuplicateBackend {
        /// The service.
        service: ServiceName,
        /// The endpoint.
        address: SocketAddr,
    },
    /// Two versions or two zones of a service have the same 32-bit hash, and could not be told apart.
    #[error("service {service}: the names {first:?} and {second:?} have the same hash; rename one of them")]
    NameCollision {
        /// The service.
        service: ServiceName,
        /// One name.
        first: Arc<str>,
        /// The other name.
        second: Arc<str>,
    },
    /// The split names more versions than a policy record has room for.
    #[error("service {service}: the split names {count} versions; at most {MAX_SUBSETS} are possible")]
    TooManyVersions {
        /// The service.
        service: ServiceName,
        /// Versions named.
        count: usize,
    },
    /// More backends than the largest table of `maglev` has slots.
    #[error(
        "service {service}: {count} backends; maglev spreads over at most {}; choose another algorithm",
        maglev::MAX_BACKENDS
    )]
    TooManyBackends {
        /// The service.
        service: ServiceName,
        /// Backends of one family.
        count: usize,
    },
}

/// Compiles a service. Gives the same ids to the same (service, family) and (service, endpoint) every time, and does
/// not look at capacity: ids beyond it are for the caller to find. On an error `ids` may hold new entries; roll back
/// to a mark taken before.
///
/// # Errors
/// See [`CompileError`].
pub fn compile(spec: &ServiceSpec, ids: &mut Ids) -> Result<Vec<CompiledService>, CompileError> {
    if spec.policy.split.len() > MAX_SUBSETS {
        let service = Arc::clone(&spec.name);
        return Err(CompileError::TooManyVersions { service, count: spec.policy.split.len() });
    }
    refuse_collisions(spec, |backend| backend.version.as_ref())?;
    refuse_collisions(spec, |backend| backend.zone.as_ref())?;
    let mut compiled = Vec::new();
    for family in Family::ALL {
        let frontends = frontends(spec, family);
        if !frontends.is_empty() {
            compiled.push(compile_family(spec, family, frontends, ids)?);
        }
    }
    Ok(compiled)
}

/// The frontends of one family of a service, in order, without repetition.
pub fn frontends(spec: &ServiceSpec, family: Family) -> Vec<FrontendKey> {
    let keys = spec.frontends.iter().map(|&address| FrontendKey::new(address.into(), spec.protocol as u8));
    let mut keys: Vec<FrontendKey> = keys.filter(|key| Family::of(&key.endpoint()) == family).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.shrink_to_fit();
    keys
}

/// The 32-bit id of a version or zone: FNV-1a of the name, except that it is never 0, which means "none".
pub fn name_id(name: &str) -> u32 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

fn optional_id(name: Option<&Arc<str>>) -> u32 {
    name.map_or(0, |name| name_id(name))
}

fn refuse_collisions(
    spec: &ServiceSpec,
    name_of: impl Fn(&BackendSpec) -> Option<&Arc<str>>,
) -> Result<(), CompileError> {
    let mut seen: Vec<(u32, &Arc<str>)> = Vec::new();
    for name in spec.backends.iter().filter_map(name_of) {
        // Names are few and mostly shared: a backend list of one version compares one pointer per backend.
        if seen.iter().any(|(_, known)| Arc::ptr_eq(known, name) || *known == name) {
            continue;
        }
        let id = name_id(name);
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == id) {
            return Err(CompileError::NameCollision {
                service: Arc::clone(&spec.name),
                first: Arc::clone(first),
                second: Arc::clone(name),
            });
        }
        seen.push((id, name));
    }
    Ok(())
}

/// A backend on its way into the tables.
struct Candidate<'spec> {
    endpoint: Endpoint,
    spec: &'spec BackendSpec,
    id: u32,
}

impl Candidate<'_> {
    fn takes_connections(&self) -> bool {
        !self.spec.draining && self.spec.weight > 0
    }

    /// The id of its zone, 0 without one.
    fn zone(&self) -> u32 {
        optional_id(self.spec.zone.as_ref())
    }
}

/// The policy of a service that asks for no breaker.
const BREAKER_OFF: BreakerPolicy = BreakerPolicy { mode: BreakerMode::Off as u8, ..BreakerPolicy::DEFAULT };

fn compile_family(
    spec: &ServiceSpec,
    family: Family,
    frontends: Vec<FrontendKey>,
    ids: &mut Ids,
) -> Result<CompiledService, CompileError> {
    let service = ids.service(&spec.name, family, &frontends);
    let mut candidates: Vec<Candidate<'_>> = spec
        .backends
        .iter()
        .map(|backend| Candidate { endpoint: backend.address.into(), spec: backend, id: 0 })
        .filter(|candidate| Family::of(&candidate.endpoint) == family)
        .collect();
    // The order of a list in a file or an API must not change anything in the kernel.
    candidates.sort_unstable_by_key(|candidate| candidate.endpoint);
    if let Some(pair) = candidates.windows(2).find(|pair| pair[0].endpoint == pair[1].endpoint) {
        let service = Arc::clone(&spec.name);
        return Err(CompileError::DuplicateBackend { service, address: pair[0].spec.address });
    }
    if spec.policy.algorithm == Algorithm::Maglev && candidates.len() > maglev::MAX_BACKENDS as usize {
        let service = Arc::clone(&spec.name);
        return Err(CompileError::TooManyBackends { service, count: candidates.len() });
    }
    let mut backends = Vec::with_capacity(candidates.len());
    for candidate in &mut candidates {
        let (id, generation) = ids.backend(service, candidate.endpoint);
        candidate.id = id;
        let status =
            if candidate.takes_connections() { BackendStatus::Ready } else { BackendStatus::Draining };
        let record = Backend {
            endpoint: candidate.endpoint,
            service,
            generation,
            version: optional_id(candidate.spec.version.as_ref()),
            status: status as u16,
            weight: candidate.spec.weight,
            zone: candidate.zone(),
            next: 0,
            joined_ticks: 0,
            verdict: Verdict::NONE,
            drain: Drain::NONE,
        };
        backends.push(CompiledBackend { id, record });
    }
    link(&candidates, &mut backends);
    let (mut policy, slots) = policy(spec, service, &candidates, ids);
    // Not yet known where the fallback comes later: the reconciler compiles once more then.
    policy.fallback = fallback(spec, family, ids);
    Ok(CompiledService {
        id: service,
        family,
        frontends,
        policy,
        slots: slots.into(),
        backends: backends.into(),
    })
}

/// The id of the service's fallback; 0 where it has none, or where that has no backends of this family.
pub fn fallback(spec: &ServiceSpec, family: Family, ids: &Ids) -> u32 {
    spec.policy.fallback.as_ref().and_then(|name| ids.service_of(name, family)).unwrap_or(0)
}

/// Links the backends that take new connections into a ring, those of one version after each other. One that takes
/// none leads into the ring as well, for the client that asks from there.
fn link(candidates: &[Candidate<'_>], backends: &mut [CompiledBackend]) {
    let mut ring: Vec<(u32, usize)> = (0..backends.len())
        .filter(|&place| candidates[place].takes_connections())
        .map(|place| (backends[place].record.version, place))
        .collect();
    ring.sort_unstable();
    let Some(&(_, first)) = ring.first() else { return };
    let first = backends[first].id;
    for backend in backends.iter_mut() {
        backend.record.next = first;
    }
    for pair in ring.windows(2) {
        backends[pair[0].1].record.next = backends[pair[1].1].id;
    }
}

/// The policy record and the slots of its subsets. Versions of the split without a usable backend leave their
/// share to the others; with nothing usable there is one subset without slots.
fn policy(
    spec: &ServiceSpec,
    service: u32,
    candidates: &[Candidate<'_>],
    ids: &mut Ids,
) -> (Policy, Vec<Slot>) {
    let usable: Vec<&Candidate<'_>> =
        candidates.iter().filter(|candidate| candidate.takes_connections()).collect();
    let ready_backends = u32::try_from(usable.len()).unwrap_or(u32::MAX);
    let usable_zones: HashSet<u32> = usable.iter().map(|candidate| candidate.zone()).collect();
    let of_version = |version: &Arc<str>| -> Vec<&Candidate<'_>> {
        usable.iter().copied().filter(|candidate| candidate.spec.version.as_ref() == Some(version)).collect()
    };
    let groups: Vec<(u32, u32, Vec<&Candidate<'_>>)> = if spec.policy.split.is_empty() {
        vec![(1, 0, usable)]
    } else {
        let shares = spec.policy.split.iter();
        shares.map(|share| (share.share, name_id(&share.version), of_version(&share.version))).collect()
    };
    let shares: Vec<u32> =
        groups.iter().map(|(share, _, members)| if members.is_empty() { 0 } else { *share }).collect();

    let timeout_ms = spec.policy.affinity_timeout.map_or(0, |timeout| timeout.as_millis());
    // Without a backend in it, the node's zone does not matter.
    let has_near = usable_zones.contains(&ids.here());
    let zone = if spec.policy.prefers_zone && has_near { ids.here() } else { 0 };
    let mut policy = Policy {
        service,
        affinity_timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
        algorithm: spec.policy.algorithm as u8,
        refuse_errno: spec.policy.refuse_errno,
        connect_timeout_ms: spec
            .policy
            .connect_timeout
            .map_or(0, |timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)),
        ready_backends,
        zone,
        join_ticks: join_ticks(&spec.policy),
        breaker: spec.policy.breaker.unwrap_or(BREAKER_OFF),
        marks: spec.policy.limits.scopes() | if spec.policy.reads_requests { 0 } else { REQUESTS_UNREAD },
        limits: spec.policy.limits,
        ..Policy::default()
    };
    let mut slots = Vec::new();
    for ((_, version, members), end) in groups.iter().zip(split::share_ends(&shares)) {
        let Some(share_end) = end else { continue };
        let (near, elsewhere): (Vec<&Candidate<'_>>, Vec<&Candidate<'_>>) =
            members.iter().partition(|member| zone != 0 && member.zone() == zone);
        let near = window(spec.policy.algorithm, service, near_version(*version), &near, ids);
        let mut window = window(spec.policy.algorithm, service, *version, &elsewhere, ids);
        let near_slots = u32::try_from(near.len()).unwrap_or(u32::MAX);
        window.splice(0..0, near);
        let slot_count = u32::try_from(window.len()).unwrap_or(u32::MAX);
        let subset = Subset { share_end, version: *version, first_slot: 0, slot_count, near_slots };
        policy.subsets[usize::from(policy.subset_count)] = subset;
        policy.subset_count += 1;
        slots.extend(window);
    }
    if policy.subset_count == 0 {
        policy.subsets[0] = Subset { share_end: u32::MAX, ..Subset::default() };
        policy.subset_count = 1;
    }
    (policy, slots)
}

/// Under which version the `maglev` table of a version's backends in the preferred zone is remembered.
pub fn near_version(version: u32) -> u32 {
    version ^ 1 << 31
}

/// How long the share of a backend that joins grows: what the policy says, else what holds for one that returns.
fn join_ticks(policy: &PolicySpec) -> u32 {
    match policy.slow_start {
        Some(time) => period_ticks(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        None => policy.breaker.map_or(0, |breaker| breaker.slow_start_ticks),
    }
}

fn window(
    algorithm: Algorithm,
    service: u32,
    version: u32,
    members: &[&Candidate<'_>],
    ids: &mut Ids,
) -> Vec<Slot> {
    let entries: Vec<Entry> = members
        .iter()
        .map(|member| Entry {
            backend: member.id,
            weight: member.spec.weight,
            identity: identity(&member.endpoint),
        })
        .collect();
    let slots = balance::fill(algorithm, &entries, ids.table_slots(service, version));
    if algorithm == Algorithm::Maglev {
        ids.set_table_slots(service, version, u32::try_from(slots.len()).unwrap_or(u32::MAX));
    }
    slots
}

/// What `maglev` knows a backend by: a hash of its endpoint, the same on every node and after every restart.
fn identity(endpoint: &Endpoint) -> u64 {
    let words = endpoint.address.words_be.iter().map(|&word| u32::from_be(word));
    let port = u32::from(u16::from_be(endpoint.port_be));
    words.chain([port]).fold(0, |hash, word| balance::mix(hash ^ u64::from(word)).wrapping_add(1))
}
