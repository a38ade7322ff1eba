//! The agent-owned maps in memory, for unit and scenario tests. Fails on request, and keeps a log of every write, so
//! that a test can look at the maps as a kernel program would between any two of them.

use std::collections::BTreeMap;
use std::io;

use agent_ebpf::abi::{Backend, BackendState, FrontendKey, Policy, ServiceWord, Slot};

use super::{Capacity, MapError, Readers, Tables};

/// Which writes fail. Reads of arrays never do: they are memory.
#[derive(Clone, Copy, Debug, Default)]
pub enum Faults {
    /// None.
    #[default]
    Never,
    /// The write after so many more, once.
    Once {
        /// Writes that still succeed.
        after: u64,
    },
    /// Every write after so many more, as if the agent had died there.
    Dead {
        /// Writes that still succeed.
        after: u64,
    },
    /// So many in a hundred, in an order that depends on nothing but the seed.
    Percent {
        /// Of a hundred writes, how many fail.
        percent: u64,
        /// State of the generator.
        seed: u64,
    },
}

/// One write that took effect, or a wait for readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Of `FRONTENDS`.
    InsertFrontend(FrontendKey, u32),
    /// Of `FRONTENDS`.
    RemoveFrontend(FrontendKey),
    /// Of `SERVICES`.
    SetService(u32, ServiceWord),
    /// Of `POLICIES`.
    SetPolicy(u32, Box<Policy>),
    /// Of `SLOTS`.
    SetSlots(u32, Vec<Slot>),
    /// Of `BACKENDS`.
    SetBackend(u32, Backend),
    /// Readers were waited for.
    Wait,
}

/// The contents of the agent-owned maps, as a reader sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, u32>,
    /// `SERVICES`.
    pub services: Vec<ServiceWord>,
    /// `POLICIES`.
    pub policies: Vec<Policy>,
    /// `SLOTS`.
    pub slots: Vec<Slot>,
    /// `BACKENDS`.
    pub backends: Vec<Backend>,
}

impl Image {
    /// Empty maps.
    pub fn new(capacity: &Capacity) -> Self {
        Self {
            frontends: BTreeMap::new(),
            services: vec![ServiceWord::NONE; capacity.services as usize],
            policies: vec![Policy::default(); capacity.policies as usize],
            slots: vec![Slot::default(); capacity.slots as usize],
            backends: vec![Backend::default(); capacity.backends as usize],
        }
    }

    /// Does to the maps what the write did.
    pub fn replay(&mut self, write: &Write) {
        match write {
            Write::InsertFrontend(key, service) => {
                self.frontends.insert(*key, *service);
            }
            Write::RemoveFrontend(key) => {
                self.frontends.remove(key);
            }
            Write::SetService(service, word) => self.services[*service as usize] = *word,
            Write::SetPolicy(index, policy) => self.policies[*index as usize] = **policy,
            Write::SetSlots(first, slots) => {
                self.slots[*first as usize..][..slots.len()].copy_from_slice(slots);
            }
            Write::SetBackend(id, backend) => self.backends[*id as usize] = *backend,
            Write::Wait => {}
        }
    }
}

/// [`Tables`] in memory.
#[derive(Clone, Debug)]
pub struct FakeTables {
    capacity: Capacity,
    image: Image,
    states: BTreeMap<u32, BackendState>,
    faults: Faults,
    log: Option<Vec<Write>>,
    readers: Option<Readers>,
}

impl FakeTables {
    /// Empty maps of this capacity.
    pub fn new(capacity: Capacity) -> Self {
        let image = Image::new(&capacity);
        Self { capacity, image, states: BTreeMap::new(), faults: Faults::Never, log: None, readers: None }
    }

    /// Sets which writes fail from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The contents.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The contents, for a test that changes them behind the agent's back.
    pub fn image_mut(&mut self) -> &mut Image {
        &mut self.image
    }

    /// Starts to log writes.
    pub fn start_log(&mut self) {
        self.log = Some(Vec::new());
    }

    /// The writes since the log was started or taken last.
    pub fn take_log(&mut self) -> Vec<Write> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sets how many connections a backend has, as the kernel counts them.
    pub fn set_active(&mut self, backend: u32, active: u64) {
        self.states.entry(backend).or_default().active = active;
    }

    /// Sets who reads from now on, for those who ask without waiting; `None`: nobody.
    pub fn set_readers(&mut self, readers: Option<Readers>) {
        self.readers = readers;
    }

    fn fails(&mut self) -> bool {
        match &mut self.faults {
            Faults::Never => false,
            Faults::Once { after } => {
                if *after == 0 {
                    self.faults = Faults::Never;
                    return true;
                }
                *after -= 1;
                false
            }
            Faults::Dead { after } => {
                let dead = *after == 0;
                *after = after.saturating_sub(1);
                dead
            }
            Faults::Percent { percent, seed } => {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*seed >> 33) % 100 < *percent
            }
        }
    }

    fn write(&mut self, map: &'static str, operation: &'static str, write: Write) -> Result<(), MapError> {
        if self.fails() {
            return Err(MapError { map, operation, source: io::Error::other("injected fault") });
        }
        self.image.replay(&write);
        if let Some(log) = &mut self.log {
            log.push(write);
        }
        Ok(())
    }
}

impl Tables for FakeTables {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        Ok(self.image.frontends.iter().map(|(&key, &service)| (key, service)).collect())
    }

    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), MapError> {
        let full = self.image.frontends.len() >= self.capacity.frontends as usize;
        if full && !self.image.frontends.contains_key(key) {
            let source = io::Error::from_raw_os_error(libc::E2BIG);
            return Err(MapError { map: "FRONTENDS", operation: "insert", source });
        }
        self.write("FRONTENDS", "insert", Write::InsertFrontend(*key, service))
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError> {
        self.write("FRONTENDS", "remove", Write::RemoveFrontend(*key))
    }

    fn service(&self, service: u32) -> ServiceWord {
        self.image.services[service as usize]
    }

    fn set_service(&mut self, service: u32, word: ServiceWord) -> Result<(), MapError> {
        self.write("SERVICES", "write", Write::SetService(service, word))
    }

    fn policy(&self, index: u32) -> Policy {
        self.image.policies[index as usize]
    }

    fn set_policy(&mut self, index: u32, policy: &Policy) -> Result<(), MapError> {
        self.write("POLICIES", "write", Write::SetPolicy(index, Box::new(*policy)))
    }

    fn slots(&self, first: u32, count: u32) -> Vec<Slot> {
        self.image.slots[first as usize..][..count as usize].to_vec()
    }

    fn set_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError> {
        self.write("SLOTS", "write", Write::SetSlots(first, slots.to_vec()))
    }

    fn backend(&self, id: u32) -> Backend {
        self.image.backends[id as usize]
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<(), MapError> {
        self.write("BACKENDS", "write", Write::SetBackend(id, *backend))
    }

    fn backend_state(&self, id: u32) -> BackendState {
        self.states.get(&id).copied().unwrap_or_default()
    }

    fn rest(&mut self) {}

    /// The log says when a wait ends, and so begins where nobody stays.
    fn readers(&mut self) -> Readers {
        if let Some(readers) = &self.readers {
            return readers.clone();
        }
        self.wait_for_readers();
        let readers = Readers::staying();
        readers.leave();
        readers
    }

    fn wait_for_readers(&mut self) {
        if let Some(log) = &mut self.log {
            log.push(Write::Wait);
        }
    }
}
