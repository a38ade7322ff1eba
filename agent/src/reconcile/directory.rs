//! What ids stand for, for those who read counters and events. Written by the reconciler, one changed service at a
//! time; read from any thread. Knows nothing of maps.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::compile::{CompiledService, Family};
use crate::desired::{ServiceName, ServiceSpec};

/// A service id.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// The id.
    pub id: u32,
    /// The address family this id stands for.
    pub family: Family,
    /// The service as it was asked for: name, frontends, policy.
    pub spec: Arc<ServiceSpec>,
    /// Its backends of this family, in the order of their addresses, with their ids.
    pub backends: Arc<[(u32, SocketAddr)]>,
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

/// Both by id: ids are dense and start near 0.
#[derive(Debug, Default)]
struct Entries {
    services: Vec<Option<ServiceEntry>>,
    backends: Vec<Option<BackendEntry>>,
}

fn entry<E>(entries: &[Option<E>], id: u32) -> Option<&E> {
    entries.get(id as usize)?.as_ref()
}

fn set<E>(entries: &mut Vec<Option<E>>, id: u32, entry: E) {
    let place = id as usize;
    if entries.len() <= place {
        entries.resize_with(place + 1, || None);
    }
    entries[place] = Some(entry);
}

fn clear<E>(entries: &mut [Option<E>], id: u32) {
    if let Some(entry) = entries.get_mut(id as usize) {
        *entry = None;
    }
}

impl Directory {
    /// The service with this id.
    pub fn service(&self, id: u32) -> Option<ServiceEntry> {
        entry(&self.read().services, id).cloned()
    }

    /// The backend with this id.
    pub fn backend(&self, id: u32) -> Option<BackendEntry> {
        entry(&self.read().backends, id).cloned()
    }

    /// The name of a version of a service, by its id in edges and policies.
    pub fn version(&self, service: u32, version: u32) -> Option<Arc<str>> {
        let entries = self.read();
        let spec = &entry(&entries.services, service)?.spec;
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

    pub(super) fn set_service(&self, spec: &Arc<ServiceSpec>, compiled: &CompiledService) {
        let backends = compiled.backends.iter();
        let addresses: Arc<[(u32, SocketAddr)]> =
            backends.clone().map(|backend| (backend.id, backend.record.endpoint.into())).collect();
        let mut entries = self.write();
        for (backend, &(id, address)) in backends.zip(addresses.iter()) {
            let entry = BackendEntry {
                service: compiled.id,
                service_name: Arc::clone(&spec.name),
                generation: backend.record.generation,
                address,
                version: backend.version.clone(),
                zone: backend.zone.clone(),
            };
            set(&mut entries.backends, id, entry);
        }
        let entry = ServiceEntry {
            id: compiled.id,
            family: compiled.family,
            spec: Arc::clone(spec),
            backends: addresses,
        };
        set(&mut entries.services, compiled.id, entry);
    }

    pub(super) fn remove_service(&self, id: u32) {
        clear(&mut self.write().services, id);
    }

    pub(super) fn remove_backend(&self, id: u32) {
        clear(&mut self.write().backends, id);
    }

    // A thread that panicked while it held the lock left whole entries: every change is one store.
    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
