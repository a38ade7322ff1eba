//! What a reconciliation did, could not do, and would need.

use std::fmt;
use std::net::SocketAddr;

use agent_ebpf::abi::{FrontendKey, Protocol};

use crate::compile::CompiledService;
use crate::desired::ServiceName;
use crate::kernel::{Capacity, MapError};

/// Entries by map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of `FRONTENDS`.
    pub frontends: u64,
    /// Of `SERVICES`.
    pub services: u64,
    /// Of `POLICIES`.
    pub policies: u64,
    /// Of `SLOTS`.
    pub slots: u64,
    /// Of `BACKENDS`.
    pub backends: u64,
}

impl Counts {
    /// Each map's name and count.
    pub fn by_map(&self) -> [(&'static str, u64); 5] {
        [
            ("FRONTENDS", self.frontends),
            ("SERVICES", self.services),
            ("POLICIES", self.policies),
            ("SLOTS", self.slots),
            ("BACKENDS", self.backends),
        ]
    }

    fn add(&mut self, other: &Self) {
        self.frontends += other.frontends;
        self.services += other.services;
        self.policies += other.policies;
        self.slots += other.slots;
        self.backends += other.backends;
    }

    /// All maps together.
    pub fn total(&self) -> u64 {
        self.by_map().iter().map(|(_, count)| count).sum()
    }
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Entries written because they are wanted.
    pub written: Counts,
    /// Entries removed or vacated because they are not wanted any more.
    pub removed: Counts,
    /// Entries that were not what this agent had written, and are again; foreign ones that were removed.
    pub repaired: Counts,
    /// What failed; it is tried again.
    pub failed: Vec<Failure>,
    /// What cannot be applied as it is; the rest of its service, or its last good state, stays.
    pub refused: Vec<Refusal>,
    /// Services whose map contents are not yet what they should be; later ticks go on.
    pub pending: usize,
}

impl Report {
    /// Takes over what happened right after, in the same request.
    pub(super) fn absorb(&mut self, next: Self) {
        self.written.add(&next.written);
        self.removed.add(&next.removed);
        self.repaired.add(&next.repaired);
        self.failed = next.failed;
        self.refused = next.refused;
        self.pending = next.pending;
    }
}

/// A service that could not be brought to its intent.
#[derive(Debug)]
pub struct Failure {
    /// The service, where it has a name.
    pub service: Option<ServiceName>,
    /// Why.
    pub error: SyncError,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(formatter, "service {service}: {}", self.error),
            None => self.error.fmt(formatter),
        }
    }
}

/// Why a service could not be brought to its intent.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A map operation failed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Readers or old entries take the place a replacement needs beside them.
    #[error("no free run of {needed} entries in map {map}; it is tried again once old ones are given back")]
    NoRoom {
        /// The map's name.
        map: &'static str,
        /// Entries needed in a row.
        needed: u32,
    },
}

/// A service, or a part of one, that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The service.
    pub service: ServiceName,
    /// Why, for people.
    pub reason: String,
}

impl Refusal {
    pub(super) fn new(service: &ServiceName, reason: String) -> Self {
        Self { service: ServiceName::clone(service), reason }
    }

    pub(super) fn taken(service: &ServiceName, key: &FrontendKey, owner: Option<&ServiceName>) -> Self {
        let address: SocketAddr = key.endpoint().into();
        let protocol = Protocol::from_raw(key.protocol).map_or("unknown", Protocol::name);
        let owner = owner.map_or("another service", |owner| owner);
        let reason = format!(
            "service {service}: frontend {address}/{protocol} belongs to {owner}; give each service its own address"
        );
        Self::new(service, reason)
    }
}

/// A map that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The map's name.
    pub map: &'static str,
    /// Entries needed.
    pub needed: u64,
    /// Entries there are.
    pub available: u64,
}

/// Why a desired state was not applied at all.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// It does not fit; nothing was written.
    #[error("the services do not fit, nothing was changed: {}; remove services or backends", list(.0))]
    Capacity(Vec<Shortage>),
}

fn list(shortages: &[Shortage]) -> String {
    let entries = shortages.iter();
    let entries: Vec<String> = entries
        .map(|short| format!("{} needs {} of {} entries", short.map, short.needed, short.available))
        .collect();
    entries.join(", ")
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// The map's name.
    pub map: &'static str,
    /// Entries in use, those in limbo included.
    pub used: u32,
    /// Entries there are.
    pub capacity: u32,
}

/// Entries that a set of services takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    frontends: u64,
    services: u64,
    slots: u64,
    backends: u64,
    /// The most slots of one added service: its replacement needs as many beside it.
    largest: u64,
}

impl Need {
    /// The same without what a replacement would need beside it.
    pub(super) fn steady(self) -> Self {
        Self { largest: 0, ..self }
    }

    pub(super) fn add(&mut self, service: &CompiledService) {
        self.frontends += service.frontends.len() as u64;
        self.services += 1;
        self.slots += u64::from(service.slot_count());
        self.backends += service.backends.len() as u64;
        self.largest = self.largest.max(u64::from(service.slot_count()));
    }

    pub(super) fn subtract(&mut self, service: &CompiledService) {
        self.frontends -= service.frontends.len() as u64;
        self.services -= 1;
        self.slots -= u64::from(service.slot_count());
        self.backends -= service.backends.len() as u64;
    }

    pub(super) fn check(&self, capacity: &Capacity) -> Result<(), ReconcileError> {
        // Ids start at 1, and a replacement needs a policy record and slots beside those in use.
        let maps = [
            ("FRONTENDS", self.frontends, u64::from(capacity.frontends)),
            ("SERVICES", self.services, u64::from(capacity.services).saturating_sub(1)),
            ("POLICIES", self.services + 1, u64::from(capacity.policies)),
            ("SLOTS", self.slots + self.largest, u64::from(capacity.slots)),
            ("BACKENDS", self.backends, u64::from(capacity.backends).saturating_sub(1)),
        ];
        let short: Vec<Shortage> = maps
            .into_iter()
            .filter(|(_, needed, available)| needed > available)
            .map(|(map, needed, available)| Shortage { map, needed, available })
            .collect();
        if short.is_empty() { Ok(()) } else { Err(ReconcileError::Capacity(short)) }
    }
}
