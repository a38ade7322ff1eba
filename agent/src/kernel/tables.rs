//! The agent-owned maps of the kernel.

use std::io;
use std::sync::Arc;

use agent_ebpf::abi::{Backend, BackendState, FrontendKey, Policy, ServiceWord, Slot, Verdict};
use aya::maps::{HashMap, Map, MapData, MapError as AyaMapError};

use super::data_plane::{Arrays, DataPlane};
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
    frontend_capacity: u32,
    pub(super) arrays: Arc<Arrays>,
}

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
        Ok(Self {
            frontends: HashMap::try_from(Map::HashMap(map)).map_err(fail)?,
            frontend_capacity,
            arrays: data_plane.arrays(),
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
        Capacity {
            frontends: self.frontend_capacity,
            services: self.arrays.services.entries().min(self.arrays.service_state.entries()),
            policies: self.arrays.policies.entries(),
            slots: self.arrays.slots.entries(),
            backends: self.arrays.backends.entries().min(self.arrays.backend_state.entries()),
        }
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        self.frontends
            .iter()
            .map(|entry| entry.map(|(key, service)| (key.0, service)).map_err(frontends_error("list")))
            .collect()
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
        ServiceWord(self.arrays.services.read(service))
    }

    fn set_service(&mut self, service: u32, word: ServiceWord) -> Result<(), MapError> {
        self.arrays.services.publish(service, word.0);
        Ok(())
    }

    fn policy(&self, index: u32) -> Policy {
        self.arrays.policies.read(index)
    }

    fn set_policy(&mut self, index: u32, policy: &Policy) -> Result<(), MapError> {
        self.arrays.policies.write(index, policy);
        Ok(())
    }

    fn slots(&self, first: u32, count: u32) -> Vec<Slot> {
        (first..first + count).map(|index| self.arrays.slots.read(index)).collect()
    }

    fn set_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError> {
        for (index, slot) in (first..).zip(slots) {
            self.arrays.slots.write(index, slot);
        }
        Ok(())
    }

    fn backend(&self, id: u32) -> Backend {
        // The operator's order is a word of its own, which is none of the reconciler's business.
        Backend { verdict: Verdict::NONE, ..self.arrays.backends.read(id) }
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<(), MapError> {
        let before = self.arrays.backends.read(id);
        if before.generation != backend.generation {
            // A new owner of the id starts with clean counts. No connection counts for it yet.
            self.arrays.backend_state.write(id, &BackendState::default());
            self.arrays.backends.write(id, backend);
        } else {
            // All but the order: another thread may be giving one right now.
            self.arrays.backends.write_until(id, backend, std::mem::offset_of!(Backend, verdict));
        }
        Ok(())
    }

    fn backend_state(&self, id: u32) -> BackendState {
        self.arrays.backend_state.read(id)
    }

    fn wait_for_readers(&mut self) {
        // The programs run in an RCU read-side section; this command returns after every one that was running
        // has ended (membarrier(2), MEMBARRIER_CMD_GLOBAL, kernel 4.3).
        const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
        // SAFETY: a system call that takes two numbers.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
        if !done {
            // Not available beside CPUs without a scheduler tick. A run takes microseconds; a second is ample.
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}
