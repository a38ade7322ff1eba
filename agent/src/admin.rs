//! The admin API (HTTP and JSON on a unix socket) and the read-only TCP listener for metrics, probes and the service map.
//!
//! Knows the agent only through [`Observe`] and [`Control`]: no map, no program, no table.

pub mod api;
pub mod page;
pub mod probes;
pub mod view;

#[cfg(test)]
pub(crate) mod specimen;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

pub use api::{AdminError, serve_admin};
pub use probes::{listen, serve_metrics};

use crate::flows::{EdgeView, KnownNames, MemoryView, Record, RequestView, Selector, Window};
use view::{
    AcceptError, AcceptRequest, Accepted, Counters, Explanation, HeldView, OrderError, OrderRequest, Ordered,
    OverheadView, Readiness, RolloutError, RolloutRequest, RolloutView, ServiceMap, ServiceView, Status,
};

/// What can be seen of a running agent.
///
/// Calls may read kernel maps and block for milliseconds; callers on the async runtime use its blocking pool.
pub trait Observe: Send + Sync + 'static {
    /// The agent, its programs and maps, and the kernel under them.
    ///
    /// # Errors
    /// What the kernel refuses to show.
    fn status(&self) -> Result<Status, ObserveError>;
    /// Every service, in the order of names.
    ///
    /// # Errors
    /// What the kernel refuses to show.
    fn services(&self) -> Result<Vec<ServiceView>, ObserveError>;
    /// What the next connections to a service, by name or address and port, would do and why; those of the client in a
    /// cgroup, where its path is given.
    ///
    /// # Errors
    /// What the kernel refuses to show; a path that is no cgroup's.
    fn explain(&self, target: &str, asker: Option<&str>) -> Result<Explanation, ExplainError>;
    /// The canary of every service that has one, in the order of names. Does not block.
    fn rollouts(&self) -> Vec<RolloutView>;
    /// What sources would take away and is kept, by source, in the order of names. Does not block.
    fn held(&self) -> Vec<HeldView>;
    /// Every edge, in the order of client, service and version; the overflow last.
    ///
    /// # Errors
    /// What the kernel refuses to show.
    fn edges(&self) -> Result<Vec<EdgeView>, ObserveError>;
    /// [`Observe::edges`], and when they were counted, by the monotonic clock; `None` where that is not known.
    ///
    /// # Errors
    /// What the kernel refuses to show.
    fn counted_edges(&self) -> Result<(Vec<EdgeView>, Option<Duration>), ObserveError> {
        Ok((self.edges()?, None))
    }
    /// Every workload's requests: those it made to services, and those it answered.
    fn requests(&self) -> Result<Vec<RequestView>, ObserveError>;
    /// Workloads, services, and who connects to what, as one graph.
    ///
    /// # Errors
    /// What the kernel refuses to show.
    fn map(&self) -> Result<ServiceMap, ObserveError>;
    /// What is counted beside services and edges.
    ///
    /// # Errors
    /// What the kernel refuses to show.
    fn counters(&self) -> Result<Counters, ObserveError>;
    /// What the programs cost, of a window that begins now. Blocks for about a second.
    fn overhead(&self) -> OverheadView;
    /// The events remembered that are wanted, the oldest first, and what the memory holds. Does not block.
    fn remembered(&self, selector: &Selector, window: Window) -> (Vec<Arc<Record>>, MemoryView);
    /// The events remembered that are wanted, and every one from now on, none of them twice.
    fn follow(&self, selector: &Selector, window: Window) -> Followed;
    /// The names that flows can have now.
    fn known_names(&self) -> KnownNames;
    /// Whether the agent is ready. Does not block.
    fn readiness(&self) -> Readiness;
}

/// Events, from some moment of the past on.
#[derive(Debug)]
pub struct Followed {
    /// What the memory holds.
    pub memory: MemoryView,
    /// What is remembered and wanted, the oldest first.
    pub remembered: Vec<Arc<Record>>,
    /// All that happens after these, until the receiver is dropped.
    pub to_come: broadcast::Receiver<Arc<Record>>,
}

/// What can be ordered of a running agent. Only the admin API offers it.
pub trait Control: Observe {
    /// Opens or closes breakers for a while, or leaves them to themselves again.
    ///
    /// # Errors
    /// The order makes no sense; then nothing was changed.
    fn order(&self, request: &OrderRequest) -> Result<Ordered, OrderError>;
    /// Pauses, resumes, promotes or rolls back a canary. It is in force a moment later.
    ///
    /// # Errors
    /// The order makes no sense; then nothing was changed.
    fn steer(&self, request: &RolloutRequest) -> Result<RolloutView, RolloutError>;
    /// Lets go what is held of the services named, or everything. It is gone a moment later.
    ///
    /// # Errors
    /// Nothing is held of one of them; then nothing was changed.
    fn accept(&self, request: &AcceptRequest) -> Result<Accepted, AcceptError>;
}

/// Why connections cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Something could not be read.
    #[error(transparent)]
    Unreadable(#[from] ObserveError),
    /// There is no such client.
    #[error("no cgroup {cgroup:?} under {}: {source}; `segue explain` wants a path as in /proc/PID/cgroup, below the root of the hierarchy", mount.display())]
    NoCgroup {
        /// The path as it was given.
        cgroup: String,
        /// Where the hierarchy is mounted.
        mount: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Something that could not be read from the kernel.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} from the kernel: {source}; did the agent lose CAP_BPF, or was a map replaced?")]
pub struct ObserveError {
    /// What was to be read, as in `edges`.
    pub what: &'static str,
    /// Why it could not be.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
