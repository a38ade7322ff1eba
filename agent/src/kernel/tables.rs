//! The agent-owned maps of the kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use agent_ebpf::abi::{
    Backend, BackendState, Drain, FrontendKey, Policy, ServiceState, ServiceWord, Slot, Verdict,
};
use aya::maps::{HashMap, Map, MapData, MapError as AyaMapError};

use super::bpf;
use super::data_plane::DataPlane;
use super::mapped::MappedArray;
use super::readers::{self, Readers};
use super::{Capacity, KernelError, MapError, Tables};

/// Gives `aya` leave to copy a key or value of ours in and out of the kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: only used for types of `agent_ebpf::abi`, which are integers without implicit padding.
unsafe impl<T: Copy + 'static> aya::Pod for Plain<T> {}

/// [`Tables`] over the pinned maps.
pub struct KernelTables {
    frontends: HashMap<MapData, Plain<FrontendKey>, u32>,
    frontends_fd: OwnedFd,
    capacity: Capacity,
    services: MappedArray<ServiceWordEntry>,
    policies: MappedArray<Policy>,
    slots: MappedArray<Slot>,
    backends: MappedArray<Backend>,
    backend_state: MappedArray<BackendState>,
}

/// A [`ServiceWord`] as an entry of an array.
type ServiceWordEntry = u64;

const _: () = assert!(size_of::<ServiceWord>() == size_of::<ServiceWordEntry>());

impl KernelTables {
    pub(super) fn new(data_plane: &DataPlane) -> Result<Self, KernelError> {
        let path = data_plane.map_path("FRONTENDS");
        let fail = |error: AyaMapError| KernelError::Map {
            map: "FRONTENDS",
            path: path.clone(),
            source: io::Error::other(error),
        };
        let map = MapData::from_pin(&path).map_err(fail)?;
        let frontend_capacity = map.info().map_err(fail)?.max_entries();
        let frontends_fd = bpf::open_pin(&path).map_err(|source| KernelError::Map {
            map: "FRONTENDS",
            path: path.clone(),
            source,
        })?;
        let services = data_plane.array("SERVICES")?;
        let service_state = data_plane.array::<ServiceState>("SERVICE_STATE")?;
        let (policies, slots) = (data_plane.array("POLICIES")?, data_plane.array("SLOTS")?);
        let (backends, backend_state) = (data_plane.array("BACKENDS")?, data_plane.array("BACKEND_STATE")?);
        Ok(Self {
            frontends: HashMap::try_from(Map::HashMap(map)).map_err(fail)?,
            frontends_fd,
            capacity: Capacity {
                frontends: frontend_capacity,
                services: MappedArray::entries(&services).min(service_state.entries()),
                policies: MappedArray::entries(&policies),
                slots: MappedArray::entries(&slots),
                backends: MappedArray::entries(&backends).min(MappedArray::entries(&backend_state)),
            },
            services,
            policies,
            slots,
            backends,
            backend_state,
        })
    }
}

/// The errno inside an error of aya's, where there is one.
pub(super) fn errno_of(error: AyaMapError) -> io::Error {
    match error {
        AyaMapError::SyscallError(inner) => inner.io_error,
        AyaMapError::KeyNotFound | AyaMapError::ElementNotFound => io::Error::from_raw_os_error(libc::ENOENT),
        other => io::Error::other(other),
    }
}

fn frontends_error(operation: &'static str) -> impl Fn(AyaMapError) -> MapError {
    move |error| MapError { map: "FRONTENDS", operation, source: errno_of(error) }
}

impl Tables for KernelTables {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        let mut frontends = Vec::new();
        let take =
            |key: &FrontendKey, service: &[u32]| frontends.extend(service.iter().map(|id| (*key, *id)));
        // SAFETY: the types of this map, made of integers; it has one value for each key.
        unsafe { bpf::hash_entries(self.frontends_fd.as_fd(), 1, take) }.map_err(|source| MapError {
            map: "FRONTENDS",
            operation: "list",
            source,
        })?;
        Ok(frontends)
    }

    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), MapError> {
        self.frontends.insert(Plain(*key), service, 0).map_err(frontends_error("insert"))
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError> {
        match self.frontends.remove(&Plain(*key)).map_err(frontends_error("remove")) {
            Err(error) if error.source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn service(&self, service: u32) -> ServiceWord {
        ServiceWord(self.services.read(service))
    }

    fn set_service(&mut self, service: u32, word: ServiceWord) -> Result<(), MapError> {
        self.services.publish(service, word.0);
        Ok(())
    }

    fn policy(&self, index: u32) -> Policy {
        self.policies.read(index)
    }

    fn set_policy(&mut self, index: u32, policy: &Policy) -> Result<(), MapError> {
        self.policies.write(index, policy);
        Ok(())
    }

    fn slots(&self, first: u32, count: u32) -> Vec<Slot> {
        (first..first + count).map(|index| self.slots.read(index)).collect()
    }

    fn set_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError> {
        for (index, slot) in (first..).zip(slots) {
            self.slots.write(index, slot);
        }
        Ok(())
    }

    fn backend(&self, id: u32) -> Backend {
        // The operator's order and the deadline are words of their own, which are none of the reconciler's business.
        Backend { verdict: Verdict::NONE, drain: Drain::NONE, ..self.backends.read(id) }
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<(), MapError> {
        let before = self.backends.read(id);
        if before.generation != backend.generation {
            // A new owner of the id starts with clean counts. No connection counts for it yet.
            self.backend_state.write(id, &BackendState::default());
            self.backends.write(id, backend);
        } else {
            // All but those two: another thread may be writing one right now.
            self.backends.write_until(id, backend, std::mem::offset_of!(Backend, verdict));
        }
        Ok(())
    }

    fn backend_state(&self, id: u32) -> BackendState {
        self.backend_state.read(id)
    }

    fn rest(&mut self) {
        self.policies.rest();
        self.slots.rest();
        self.backends.rest();
        self.backend_state.rest();
    }

    fn readers(&mut self) -> Readers {
        Readers::now()
    }

    fn wait_for_readers(&mut self) {
        readers::wait();
    }
}
