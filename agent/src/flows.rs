//! Edges and connections as people read them: kernel counters folded by workload, service and version.
//!
//! Knows no map, no socket and no clock: counters, bytes and the time come in as values, names through
//! [`Names`]. Only [`cgroups`] reads the file system, to learn which cgroup is whose.

pub mod accumulator;
pub mod cgroups;
pub mod edge;
mod fields;
pub mod histogram;
pub mod identity;
pub mod memory;
pub mod named;
pub mod open;
pub mod pods;
pub mod record;
pub mod requests;
pub mod selector;
pub mod tally;
pub mod told;

use std::sync::Arc;

pub use accumulator::{Accumulator, DEFAULT_SERIES_LIMIT};
pub use cgroups::Cgroups;
pub use edge::EdgeView;
pub use histogram::Distribution;
pub use identity::{Workload, WorkloadKind};
pub use memory::{Memory, MemoryView, Window};
pub use open::OpenConnections;
pub use pods::{Pod, PodChange};
pub use record::{DecodeError, Record};
pub use requests::{RequestAccumulator, RequestView, Requests};
pub use selector::{KnownNames, Selector};
pub use tally::Tally;
pub use told::{Answered, Told};

/// Who and what the ids in a kernel key stand for.
pub trait Names {
    /// The workload of a client cgroup. [`Client::unknown`] where nothing is known of it.
    fn client(&mut self, cgroup: u64) -> Client;
    /// Whether some cgroup of this workload exists now.
    fn is_live(&self, workload: &Workload) -> bool;
    /// The service with this id; `None` where it was removed and is forgotten.
    fn service(&self, id: u32) -> Option<ServiceLabel>;
    /// Whether the service with this id is called so. What is asked of thousands in a row should copy no name.
    fn is_called(&self, id: u32, name: &str) -> bool {
        self.service(id).is_some_and(|label| *label.name == *name)
    }
    /// The version of a service with this id; `None` for id 0, and where it is forgotten.
    fn version(&self, service: u32, version: u32) -> Option<Arc<str>>;
}

/// The client of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Whose cgroup it is.
    pub workload: Arc<Workload>,
    /// The cgroup exists. What is not live is remembered for a minute, so that late counters keep their name.
    pub live: bool,
    /// A better name may come in a moment.
    pub is_provisional: bool,
}

impl Client {
    /// A client whose cgroup was never seen.
    pub fn unknown() -> Self {
        Self { workload: Arc::new(Workload::unknown()), live: false, is_provisional: true }
    }
}

/// A service as labels name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLabel {
    /// The full name, as in `shop/payment`.
    pub name: Arc<str>,
    /// The port of its first frontend.
    pub port: u16,
}

/// The namespace and the rest of a service's name: `shop/payment` is (`shop`, `payment`). A name without a
/// slash has an empty namespace.
pub fn split_service_name(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::split_service_name;

    #[test]
    fn the_namespace_of_a_service_ends_at_the_first_slash() {
        assert_eq!(split_service_name("shop/payment"), ("shop", "payment"));
        assert_eq!(split_service_name("payment"), ("", "payment"));
        assert_eq!(split_service_name("shop/payment/http"), ("shop", "payment/http"));
    }
}
