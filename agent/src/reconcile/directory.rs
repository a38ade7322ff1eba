//! What ids stand for, for those who read counters and events. Written by the reconciler, one changed service at a
//! time; read from any thread. Knows nothing of maps.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use agent_ebpf::abi::Endpoint;

use crate::compile::{CompiledBackend, CompiledService, Family};
use crate::desired::{BackendSpec, ServiceName, ServiceSpec};

/// A service id.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// The id.
    pub id: u32,
    /// The address family this id stands for.
    pub family: Family,
    /// The service as it was asked for: name, frontends, policy.
    pub spec: Arc<ServiceSpec>,
    /// Its backends of this family, in the order of their addresses.
    pub backends: Arc<[CompiledBackend]>,
}

/// A backend id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its service's id.
    pub service: u32,
    /// Its service's name.
    pub service_name: ServiceName,
    /// Which use of the id this is. Events and connections of another generation are about another backend.
    pub generation: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// The version it runs.
    pub version: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
}

/// What ids stand for. Ids of services and backends that left are still known until they are given back.
#[derive(Debug, Default)]
pub struct Directory {
    entries: RwLock<Entries>,
}

/// By id: ids are dense and start near 0.
#[derive(Debug, Default)]
struct Entries {
    services: Vec<Option<ServiceEntry>>,
    /// Where each backend id is described.
    places: Vec<Place>,
    /// Backends that left their service, and are not given back yet.
    left: BTreeMap<u32, BackendEntry>,
}

/// A place in [`ServiceEntry::backends`].
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The service's id, 0 for none.
    service: u32,
    index: u32,
}

impl Entries {
    fn service(&self, id: u32) -> Option<&ServiceEntry> {
        self.services.get(id as usize)?.as_ref()
    }

    /// The service of a backend id and the backend, unless it left.
    fn backend(&self, id: u32) -> Option<(&ServiceEntry, &CompiledBackend)> {
        let place = self.places.get(id as usize)?;
        let service = self.service(place.service)?;
        service.backends.get(place.index as usize).filter(|backend| backend.id == id).map(|it| (service, it))
    }

    fn place(&mut self, id: u32, place: Place) {
        let at = id as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, Place::default());
        }
        self.places[at] = place;
    }

    /// Keeps the description of those backends of a replaced entry that are still known and in the new one no more.
    fn keep_left(&mut self, old: &ServiceEntry) {
        let is_left = |backend: &&CompiledBackend| {
            let known = self.places.get(backend.id as usize).is_some_and(|place| place.service == old.id);
            known && self.backend(backend.id).is_none()
        };
        let left: Vec<CompiledBackend> = old.backends.iter().filter(is_left).copied().collect();
        if left.is_empty() {
            return;
        }
        let specs = old.spec.backends.iter().map(|spec| (Endpoint::from(spec.address), spec));
        let specs: HashMap<Endpoint, &BackendSpec> = specs.collect();
        for backend in left {
            let spec = specs.get(&backend.record.endpoint).copied();
            self.left.insert(backend.id, BackendEntry::new(old, &backend, spec));
            self.place(backend.id, Place::default());
        }
    }
}

impl BackendEntry {
    fn new(service: &ServiceEntry, backend: &CompiledBackend, spec: Option<&BackendSpec>) -> Self {
        Self {
            service: service.id,
            service_name: Arc::clone(&service.spec.name),
            generation: backend.record.generation,
            address: backend.record.endpoint.into(),
            version: spec.and_then(|spec| spec.version.clone()),
            zone: spec.and_then(|spec| spec.zone.clone()),
        }
    }
}

impl Directory {
    /// The service with this id.
    pub fn service(&self, id: u32) -> Option<ServiceEntry> {
        self.read().service(id).cloned()
    }

    /// A part of what describes the service with this id, where nothing else of it is wanted.
    pub fn spec_of<T>(&self, id: u32, pick: impl FnOnce(&ServiceSpec) -> T) -> Option<T> {
        self.read().service(id).map(|service| pick(&service.spec))
    }

    /// The backend with this id.
    pub fn backend(&self, id: u32) -> Option<BackendEntry> {
        let entries = self.read();
        let Some((service, backend)) = entries.backend(id) else { return entries.left.get(&id).cloned() };
        let address = SocketAddr::from(backend.record.endpoint);
        let spec = service.spec.backends.iter().find(|spec| spec.address == address);
        Some(BackendEntry::new(service, backend, spec))
    }

    /// The name of a version of a service, by its id in edges and policies.
    pub fn version(&self, service: u32, version: u32) -> Option<Arc<str>> {
        let entries = self.read();
        let spec = &entries.service(service)?.spec;
        let of_backends = spec.backends.iter().filter_map(|backend| backend.version.as_ref());
        let mut names = of_backends.chain(spec.policy.split.iter().map(|share| &share.version));
        names.find(|name| crate::compile::name_id(name) == version).cloned()
    }

    /// Every service, in the order of names and families.
    pub fn services(&self) -> Vec<ServiceEntry> {
        let mut services: Vec<ServiceEntry> = self.read().services.iter().flatten().cloned().collect();
        services.sort_by(|a, b| (&a.spec.name, a.family).cmp(&(&b.spec.name, b.family)));
        services
    }

    /// Calls `look` with every service. Nobody can change the directory meanwhile.
    pub fn each_service(&self, look: impl FnMut(&ServiceEntry)) {
        self.read().services.iter().flatten().for_each(look);
    }

    /// The ids of a service, at most one per family.
    pub fn ids_of(&self, name: &str) -> Vec<u32> {
        let entries = self.read();
        let named = entries.services.iter().flatten().filter(|entry| &*entry.spec.name == name);
        named.map(|entry| entry.id).collect()
    }

    /// Calls `look` with every backend id, also of those that left. Nobody can change the directory meanwhile.
    pub fn each_backend(&self, mut look: impl FnMut(u32)) {
        let entries = self.read();
        let placed = (0..).zip(&entries.places).filter(|(_, place)| place.service != 0);
        placed.for_each(|(id, _)| look(id));
        entries.left.keys().for_each(|&id| look(id));
    }

    pub(super) fn set_service(&self, spec: &Arc<ServiceSpec>, compiled: &CompiledService) {
        let entry = ServiceEntry {
            id: compiled.id,
            family: compiled.family,
            spec: Arc::clone(spec),
            backends: Arc::clone(&compiled.backends),
        };
        let mut entries = self.write();
        let at = compiled.id as usize;
        if entries.services.len() <= at {
            entries.services.resize_with(at + 1, || None);
        }
        let old = entries.services[at].replace(entry);
        for (index, backend) in (0..).zip(compiled.backends.iter()) {
            entries.place(backend.id, Place { service: compiled.id, index });
            entries.left.remove(&backend.id);
        }
        if let Some(old) = old {
            entries.keep_left(&old);
        }
    }

    pub(super) fn remove_service(&self, id: u32) {
        if let Some(entry) = self.write().services.get_mut(id as usize) {
            *entry = None;
        }
    }

    pub(super) fn remove_backend(&self, id: u32) {
        let mut entries = self.write();
        if let Some(place) = entries.places.get_mut(id as usize) {
            *place = Place::default();
        }
        entries.left.remove(&id);
    }

    // A thread that panicked while it held the lock left whole entries, if old ones.
    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
