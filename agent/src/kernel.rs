//! The kernel as the rest of the agent sees it. The only module that names `aya`.
//!
//! [`Tables`] is the seam: `reconcile` writes agent-owned maps through it and nothing else does. The real one
//! maps the arrays into memory; the one in [`fake`] is for tests and fails on request.

pub mod fake;

use agent_ebpf::abi::{Backend, BackendState, FrontendKey, Policy, ServiceWord, Slot};

/// How many entries each agent-owned map can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of `FRONTENDS`.
    pub frontends: u32,
    /// Entries of `SERVICES` and `SERVICE_STATE`.
    pub services: u32,
    /// Entries of `POLICIES`.
    pub policies: u32,
    /// Entries of `SLOTS`.
    pub slots: u32,
    /// Entries of `BACKENDS` and `BACKEND_STATE`.
    pub backends: u32,
}

/// A map operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in map {map} failed: {source}")]
pub struct MapError {
    /// The map's name.
    pub map: &'static str,
    /// What was tried: `insert`, `remove`, `write`, `list`.
    pub operation: &'static str,
    /// What the kernel said.
    pub source: std::io::Error,
}

/// The maps the agent owns, and the state of backends, which the kernel owns and the agent reads.
///
/// An index out of range is a bug of the caller and panics; callers keep to [`Tables::capacity`].
pub trait Tables {
    /// How much fits.
    fn capacity(&self) -> Capacity;

    /// Everything in `FRONTENDS`: key and service id.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError>;
    /// Adds or replaces a frontend.
    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), MapError>;
    /// Removes a frontend; one that is not there is no error.
    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError>;

    /// The word of a service.
    fn service(&self, service: u32) -> ServiceWord;
    /// Replaces the word of a service in one store, after everything it names was written.
    fn set_service(&mut self, service: u32, word: ServiceWord) -> Result<(), MapError>;

    /// A policy record.
    fn policy(&self, index: u32) -> Policy;
    /// Writes a policy record that no service word names.
    fn set_policy(&mut self, index: u32, policy: &Policy) -> Result<(), MapError>;

    /// `count` slots from `first`.
    fn slots(&self, first: u32, count: u32) -> Vec<Slot>;
    /// Writes slots that no service word leads to.
    fn set_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError>;

    /// A backend.
    fn backend(&self, id: u32) -> Backend;
    /// Writes a backend. Of one in use, only `version`, `status` and `zone` may differ.
    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<(), MapError>;

    /// What the kernel counts for a backend.
    fn backend_state(&self, id: u32) -> BackendState;

    /// Returns when every program run that began before the call has ended: what was unlinked before may be
    /// reused after. Takes tens of milliseconds.
    fn wait_for_readers(&mut self);
}
