//! Which id every service and backend has. Knows nothing of what the ids stand for in the maps, and never gives an id
//! back by itself: the caller knows when nobody uses it any more.
//!
//! Whatever was handed out since a [`Ids::mark`] can be taken back, so that a change that turns out not to fit leaves
//! no trace.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use agent_ebpf::abi::{Endpoint, FrontendKey};

use crate::desired::ServiceName;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, also when written as an IPv4-mapped IPv6 address.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an endpoint.
    pub fn of(endpoint: &Endpoint) -> Self {
        if endpoint.address.is_v4() { Self::V4 } else { Self::V6 }
    }

    /// The name people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// What a restarted agent finds in the maps, the only memory of the ids its predecessor gave.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Every frontend and the id of its service.
    pub frontends: Vec<(FrontendKey, u32)>,
    /// Every service id that anything in the maps names.
    pub services: BTreeSet<u32>,
    /// Every backend in use: id, generation, service id, endpoint.
    pub backends: Vec<(u32, u32, u32, Endpoint)>,
    /// Every backend id that was in use once and is vacant, with its last generation.
    pub vacant: Vec<(u32, u32)>,
    /// Slots of the `maglev` tables, by service id and version id.
    pub table_slots: Vec<(u32, u32, u32)>,
}

/// The ids in use.
#[derive(Debug)]
pub struct Ids {
    services: HashMap<(ServiceName, Family), u32>,
    backends: HashMap<(u32, Endpoint), (u32, u32)>,
    table_slots: BTreeMap<(u32, u32), u32>,
    service_pool: Pool,
    backend_pool: Pool,
    /// Services found in the maps, by frontend, until a name has claimed them or they are disowned.
    adopted: BTreeMap<FrontendKey, u32>,
    /// Service ids found in the maps that no name has claimed.
    unclaimed: BTreeSet<u32>,
    journal: Vec<Step>,
    /// The id of the node's own zone, 0 where it is not known.
    here: u32,
}

/// One thing that [`Ids::rollback`] can undo.
#[derive(Debug)]
enum Step {
    Claimed(ServiceName, Family, u32),
    NewService(ServiceName, Family, Taken),
    NewBackend(u32, Endpoint, Taken),
    TableSlots(u32, u32, Option<u32>),
}

/// How far the journal had come. Only the latest marks are good for a rollback.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Ids {
    /// No id is in use. The numbers are those of the maps' entries; ids run from 1 to one less, and beyond only when
    /// all those are taken.
    pub fn new(service_capacity: u32, backend_capacity: u32) -> Self {
        Self::restore(service_capacity, backend_capacity, &Restored::default())
    }

    /// Goes on from what the maps hold. Services have no names there: the first service that asks for an id and has
    /// one of the frontends claims the id.
    pub fn restore(service_capacity: u32, backend_capacity: u32, found: &Restored) -> Self {
        let backends = found.backends.iter();
        let backends: HashMap<_, _> = backends
            .map(|&(id, generation, service, endpoint)| ((service, endpoint), (id, generation)))
            .collect();
        let in_use: BTreeSet<u32> = found.backends.iter().map(|backend| backend.0).collect();
        Self {
            services: HashMap::new(),
            backends,
            table_slots: found
                .table_slots
                .iter()
                .map(|&(service, version, slots)| ((service, version), slots))
                .collect(),
            service_pool: Pool::new(service_capacity, &found.services, &BTreeMap::new()),
            backend_pool: Pool::new(backend_capacity, &in_use, &found.vacant.iter().copied().collect()),
            adopted: found.frontends.iter().copied().collect(),
            unclaimed: found.services.clone(),
            journal: Vec::new(),
            here: 0,
        }
    }

    /// The id of the node's own zone, 0 where it is not known.
    pub fn here(&self) -> u32 {
        self.here
    }

    /// Sets the id of the node's own zone, 0 where it is not known.
    pub fn set_here(&mut self, zone: u32) {
        self.here = zone;
    }

    /// The id of a service in a family.
    pub fn service(&mut self, name: &ServiceName, family: Family, frontends: &[FrontendKey]) -> u32 {
        let key = (Arc::clone(name), family);
        if let Some(&id) = self.services.get(&key) {
            return id;
        }
        let unclaimed = self.adopted_by(frontends).find(|id| self.unclaimed.contains(id));
        if let Some(id) = unclaimed {
            self.unclaimed.remove(&id);
            self.services.insert(key, id);
            self.journal.push(Step::Claimed(Arc::clone(name), family, id));
            return id;
        }
        let taken = self.service_pool.take();
        self.services.insert(key, taken.id);
        self.journal.push(Step::NewService(Arc::clone(name), family, taken));
        taken.id
    }

    /// Makes room for so many more backends at once.
    pub fn reserve_backends(&mut self, count: usize) {
        self.backends.reserve(count);
        self.journal.reserve(count);
    }

    /// The id this service has in a family, if it has one.
    pub fn service_of(&self, name: &ServiceName, family: Family) -> Option<u32> {
        self.services.get(&(Arc::clone(name), family)).copied()
    }

    /// The id of a backend of a service, and its generation.
    pub fn backend(&mut self, service: u32, endpoint: Endpoint) -> (u32, u32) {
        if let Some(&held) = self.backends.get(&(service, endpoint)) {
            return held;
        }
        let taken = self.backend_pool.take();
        self.backends.insert((service, endpoint), (taken.id, taken.generation));
        self.journal.push(Step::NewBackend(service, endpoint, taken));
        (taken.id, taken.generation)
    }

    /// Whether this backend of a service has an id.
    pub fn has_backend(&self, service: u32, endpoint: Endpoint) -> bool {
        self.backends.contains_key(&(service, endpoint))
    }

    /// How many backends can still get an id within the capacity.
    pub fn backends_left(&self) -> usize {
        let never_used = self.backend_pool.capacity.saturating_sub(self.backend_pool.next);
        never_used as usize + self.backend_pool.given_back.len()
    }

    /// How many backends have an id.
    pub fn backends_taken(&self) -> usize {
        self.backends.len()
    }

    /// How many slots the `maglev` table of a version of a service has, 0 where it has none.
    pub fn table_slots(&self, service: u32, version: u32) -> u32 {
        self.table_slots.get(&(service, version)).copied().unwrap_or(0)
    }

    /// Remembers the size of a `maglev` table.
    pub fn set_table_slots(&mut self, service: u32, version: u32, slots: u32) {
        let before = self.table_slots.insert((service, version), slots);
        if before != Some(slots) {
            self.journal.push(Step::TableSlots(service, version, before));
        }
    }

    /// The services found in the maps that own these frontends, claimed or not.
    pub fn adopted_by(&self, frontends: &[FrontendKey]) -> impl Iterator<Item = u32> {
        frontends.iter().filter_map(|key| self.adopted.get(key).copied())
    }

    /// Service ids found in the maps that no name has claimed.
    pub fn unclaimed(&self) -> &BTreeSet<u32> {
        &self.unclaimed
    }

    /// Stops waiting for a name for this service; its id stays taken until it is released.
    pub fn disown(&mut self, service: u32) {
        self.unclaimed.remove(&service);
        if self.unclaimed.is_empty() {
            self.adopted.clear();
        }
    }

    /// Gives back the id of a service. Nothing may name it any more.
    pub fn release_service(&mut self, id: u32, name: Option<(&ServiceName, Family)>) {
        if let Some((name, family)) = name {
            let key = (Arc::clone(name), family);
            if self.services.get(&key) == Some(&id) {
                self.services.remove(&key);
            }
        }
        let tables = self.table_slots.range((id, 0)..=(id, u32::MAX)).map(|(&key, _)| key);
        for key in tables.collect::<Vec<_>>() {
            self.table_slots.remove(&key);
        }
        self.service_pool.give_back(id, 0);
    }

    /// Gives back the id of a backend. Nothing may name it any more.
    pub fn release_backend(&mut self, service: u32, endpoint: Endpoint) {
        if let Some((id, generation)) = self.backends.remove(&(service, endpoint)) {
            self.backend_pool.give_back(id, generation);
        }
    }

    /// A point to roll back to.
    pub fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Takes back everything handed out since the mark.
    pub fn rollback(&mut self, mark: Mark) {
        while self.journal.len() > mark.0 {
            match self.journal.pop() {
                Some(Step::Claimed(name, family, id)) => {
                    self.services.remove(&(name, family));
                    self.unclaimed.insert(id);
                }
                Some(Step::NewService(name, family, taken)) => {
                    self.services.remove(&(name, family));
                    self.service_pool.undo(taken);
                }
                Some(Step::NewBackend(service, endpoint, taken)) => {
                    self.backends.remove(&(service, endpoint));
                    self.backend_pool.undo(taken);
                }
                Some(Step::TableSlots(service, version, Some(slots))) => {
                    self.table_slots.insert((service, version), slots);
                }
                Some(Step::TableSlots(service, version, None)) => {
                    self.table_slots.remove(&(service, version));
                }
                None => break,
            }
        }
    }

    /// Forgets how to roll back: everything handed out so far stays.
    pub fn settle(&mut self) {
        self.journal = Vec::new();
    }
}

/// An id that was just taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    id: u32,
    generation: u32,
    reused: bool,
}

/// Ids of one kind. Never-used ids come first, then the one given back longest ago: what still names an old use by
/// mistake (a counter not yet read, a line in a log) meets its id again as late as possible.
#[derive(Debug)]
struct Pool {
    capacity: u32,
    next: u32,
    given_back: VecDeque<(u32, u32)>,
}

impl Pool {
    fn new(capacity: u32, in_use: &BTreeSet<u32>, last_generations: &BTreeMap<u32, u32>) -> Self {
        let highest = in_use.last().copied().unwrap_or(0);
        let next = highest.max(last_generations.keys().last().copied().unwrap_or(0)) + 1;
        let free = (1..next).filter(|id| !in_use.contains(id));
        let given_back = free.map(|id| (id, last_generations.get(&id).copied().unwrap_or(0))).collect();
        Self { capacity, next, given_back }
    }

    fn take(&mut self) -> Taken {
        if self.next >= self.capacity
            && let Some((id, last)) = self.given_back.pop_front()
        {
            return Taken { id, generation: last.wrapping_add(1).max(1), reused: true };
        }
        self.next += 1;
        Taken { id: self.next - 1, generation: 1, reused: false }
    }

    fn undo(&mut self, taken: Taken) {
        if taken.reused {
            self.given_back.push_front((taken.id, taken.generation.wrapping_sub(1)));
        } else {
            self.next = taken.id;
        }
    }

    fn give_back(&mut self, id: u32, generation: u32) {
        self.given_back.push_back((id, generation));
    }
}
