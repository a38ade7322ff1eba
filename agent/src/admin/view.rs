//! What the admin API says, as JSON: every field of it is documented here.
//!
//! Only values. Who fills them in reads maps and clocks; who shows them is `cli` and `metrics`.

mod breaker;
mod clients;
mod explain;
mod held;
mod kubernetes;
mod limits;
mod neighbours;
mod otlp;
mod overhead;
mod rollout;
pub mod service_map;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::{Algorithm, BackendStatus, BreakerMode, Outcome, Protocol};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::flows::named;
pub use breaker::{
    CellView, DEFAULT_ORDER_MS, IN_FORCE, MAX_ORDER_MS, Order, OrderError, OrderRequest, OrderView, Ordered,
};
pub use clients::ClientsView;
pub use explain::{AskerView, Candidate, Chain, Explanation, Step};
pub use held::{AcceptError, AcceptRequest, Accepted, HeldView, HeldViews};
pub use kubernetes::{KindView, KubernetesView, NoteView};
pub use limits::LimitView;
pub use neighbours::NeighbourView;
pub use otlp::{OtlpView, TracesView};
pub use overhead::{BudgetView, ConfinementView, OverheadView, ProgramCost};
pub use rollout::{RolloutError, RolloutRequest, RolloutView, Rollouts, SampleView};
pub use service_map::ServiceMap;
pub use tls::TlsLibraryView;

/// From which share of its entries in use a map is worth a warning.
pub(crate) const MAP_ALMOST_FULL: f64 = 0.8;

/// How old a heartbeat may be before the agent must be taken for stuck, in milliseconds.
const HEARTBEAT_STALE_MS: u64 = 30_000;

/// The agent, its programs and maps, and the kernel under them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// When the agent started.
    pub started: Timestamp,
    /// Version of the map layouts.
    pub abi: u32,
    /// The cgroup whose processes are served.
    pub cgroup: String,
    /// The directory in which maps and links are pinned.
    pub bpffs: String,
    /// Whether the agent is ready, and what it waits for.
    pub readiness: Readiness,
    /// The agent's programs.
    pub programs: Vec<ProgramView>,
    /// What the kernel can do of what the agent can use.
    pub features: Vec<FeatureView>,
    /// The agent's maps.
    pub maps: Vec<MapView>,
    /// What was last read and applied.
    pub config: ConfigView,
    /// The proof that a connection is really taken: one made by the agent itself.
    pub canary: CanaryView,
    /// Programs of others on the hooks the agent uses.
    pub neighbours: Vec<NeighbourView>,
    /// Who the clients are.
    #[serde(default)]
    pub clients: ClientsView,
    /// What the kernel side knows of the agent.
    pub data_plane: DataPlaneView,
    /// What the agent may do.
    pub confinement: ConfinementView,
    /// For how long the agent had program runs timed since it started, in milliseconds.
    pub timed_ms: u64,
    /// What observing may cost; null where no budget was given.
    #[serde(default)]
    pub budget: Option<BudgetView>,
    /// The canaries of all services.
    pub rollouts: Vec<RolloutView>,
    /// Why rollouts do not outlive the agent, in words; null where they do.
    pub rollouts_error: Option<String>,
    /// How it stands with the API server of Kubernetes; null where services do not come from one.
    pub kubernetes: Option<KubernetesView>,
    /// How it stands with the receiver of OpenTelemetry; null where nothing is sent to one.
    #[serde(default)]
    pub otlp: Option<OtlpView>,
    /// How it stands with spans of requests; null where none are sent.
    #[serde(default)]
    pub traces: Option<TracesView>,
    /// The libraries inside whose calls is read; empty where that was not asked for, or cannot be done here.
    #[serde(default)]
    pub tls: Vec<TlsLibraryView>,
    /// What sources would take away, all at once, and is kept until somebody accepts.
    #[serde(default)]
    pub held: Vec<HeldView>,
}

/// Whether the agent is ready to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// It is.
    pub ready: bool,
    /// What it waits for, in words; empty when ready.
    pub waiting_for: Vec<String>,
}

/// One of the agent's programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramView {
    /// The program's name.
    pub name: String,
    /// Where it is attached, as in `cgroup/connect4`.
    pub hook: String,
    /// The kernel has a link from the hook to the program.
    pub attached: bool,
    /// The kernel's id of the program; null where it is not loaded.
    pub id: Option<u32>,
    /// How often it ran while runs were timed; null where that was never.
    pub runs: Option<u64>,
    /// The time these runs took, in nanoseconds; null as above.
    pub run_time_ns: Option<u64>,
    /// Instructions the kernel's verifier followed before it took the program; null before Linux 5.16, which does not
    /// say.
    #[serde(default)]
    pub verified_instructions: Option<u64>,
}

/// One thing a kernel may or may not be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureView {
    /// Its name.
    pub name: String,
    /// This kernel can do it.
    pub found: bool,
    /// What a kernel without it costs, in words.
    pub without: String,
}

/// One of the agent's maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapView {
    /// The map's name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold; 0 for storage that belongs to sockets, which has no limit of its own.
    pub max_entries: u64,
    /// Kernel memory it takes, in bytes.
    pub bytes: u64,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigView {
    /// The file; null where there is none.
    pub file: Option<String>,
    /// How often a change was applied since the agent started.
    pub generation: u64,
    /// When one was last applied.
    pub applied_at: Option<Timestamp>,
    /// Why the newest could not be applied; the one before is still in force. Null where all is well.
    pub error: Option<String>,
}

/// The agent's own test connection to a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// How it went.
    pub state: CanaryState,
    /// When it was last made.
    pub at: Option<Timestamp>,
    /// Why it failed, in words.
    pub reason: Option<String>,
}

/// How the canary connection went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryState {
    /// None was made yet.
    #[default]
    Pending,
    /// It reached the backend.
    Ok,
    /// It did not.
    Failed,
}

/// What the kernel side knows of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlaneView {
    /// How long ago the agent last said it is alive, in milliseconds; null where it never did.
    pub heartbeat_age_ms: Option<u64>,
    /// Opening and closing of connections is sent to the event ring, because somebody follows.
    pub following: bool,
}

impl Status {
    /// What an operator should look at, in words, the worst first; empty where all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for program in self.programs.iter().filter(|program| !program.attached) {
            problems.push(format!("program {} is not attached to {}", program.name, program.hook));
        }
        if self.canary.state == CanaryState::Failed {
            let reason = self.canary.reason.as_deref().unwrap_or("no reason known");
            problems.push(format!("the test connection did not reach its backend: {reason}"));
        }
        if let Some(error) = &self.config.error {
            problems.push(format!("the newest configuration is not in force: {error}"));
        }
        problems.extend(held::problem(&self.held));
        if !self.readiness.ready {
            problems.push(format!("not ready: waiting for {}", self.readiness.waiting_for.join(", ")));
        }
        for rollout in self.rollouts.iter().filter(|rollout| rollout.is_problem()) {
            problems.push(format!("{}: {}", rollout.service, rollout.summary));
        }
        problems.extend(self.rollouts_error.clone());
        problems.extend(self.kubernetes.iter().flat_map(KubernetesView::problems));
        problems.extend(self.budget.iter().filter_map(BudgetView::problem));
        problems.extend(self.tls.iter().filter_map(TlsLibraryView::problem));
        for map in self.maps.iter().filter(|map| map.usage() >= MAP_ALMOST_FULL) {
            problems.push(format!("map {} holds {} of {} entries", map.name, map.entries, map.max_entries));
        }
        if let Some(age_ms) = self.data_plane.heartbeat_age_ms.filter(|age_ms| *age_ms > HEARTBEAT_STALE_MS) {
            problems.push(format!("the control loop gave its last sign of life {} s ago", age_ms / 1_000));
        }
        problems
    }
}

impl MapView {
    /// The share of entries in use, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "maps hold far fewer than 2^53 entries")]
    pub fn usage(&self) -> f64 {
        if self.max_entries == 0 { 0.0 } else { self.entries as f64 / self.max_entries as f64 }
    }
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// The full name, as in `shop/payment`.
    pub name: Arc<str>,
    /// `tcp` or `udp`.
    #[serde(with = "named::protocol")]
    pub protocol: Protocol,
    /// The addresses applications ask for.
    pub frontends: Vec<SocketAddr>,
    /// How a backend is chosen.
    #[serde(with = "named::algorithm")]
    pub algorithm: Algorithm,
    /// How long a client keeps its backend after its last connection, in milliseconds; null without affinity.
    pub affinity_timeout_ms: Option<u64>,
    /// Shares by version, as they are in force; empty without a split.
    pub split: Vec<ShareView>,
    /// The canary; null where there is none.
    pub rollout: Option<RolloutView>,
    /// What the breakers of its backends may do: `off`, `observe`, `enforce`, `forced_open` or `forced_closed`.
    #[serde(with = "named::breaker_mode")]
    pub breaker_mode: BreakerMode,
    /// The service that takes the connections where nothing of this one is usable; null where they are refused.
    pub fallback: Option<Arc<str>>,
    /// The limits on connections that are set; empty: none.
    pub limits: Vec<LimitView>,
    /// What the kernel counted.
    pub counters: ServiceCounters,
    /// The servers.
    pub backends: Vec<BackendView>,
    /// Servers that left and still have open connections.
    pub left: Vec<LeftView>,
}

impl ServiceView {
    /// At least one backend takes new connections.
    pub fn is_usable(&self) -> bool {
        self.backends.iter().any(|backend| backend.status == BackendStatus::Ready && backend.weight > 0)
    }
}

/// The share of one version in a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareView {
    /// The version.
    pub version: Arc<str>,
    /// Its share, relative to the others'.
    pub share: u32,
}

/// What became of the connections to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounters {
    /// Given a backend by the algorithm.
    pub selected: u64,
    /// Given the backend the client had before.
    pub affine: u64,
    /// Refused: nothing was usable.
    pub no_backend: u64,
    /// Refused: a limit was reached, of this service or of a fallback.
    pub limited: u64,
    /// Let through untouched, because the tables surprised the program.
    pub passed: u64,
    /// Sent to the fallback: nothing of this service was usable.
    pub fallback: u64,
    /// Times a breaker refused, and another backend was asked.
    pub avoided: u64,
    /// The same where the breaker only observes: the connection went there all the same.
    pub would_avoid: u64,
    /// Admitted as probes.
    pub probes: u64,
    /// Breakers that opened.
    pub opened: u64,
    /// Breakers that began to probe.
    pub half_opened: u64,
    /// Breakers that closed.
    pub closed: u64,
    /// Times a breaker would have opened if one more backend might be ejected.
    pub capped: u64,
    /// Sent to an ejected backend because too few were healthy; also counted in `selected`.
    pub panicked: u64,
    /// Not given the backend their client had just failed on.
    pub kept_away: u64,
    /// Sent to a backend of the preferred zone.
    pub near: u64,
    /// Sent elsewhere although the preferred zone has backends.
    pub overflowed: u64,
}

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// Where it listens.
    pub address: SocketAddr,
    /// The version it runs; null where it has none.
    pub version: Option<Arc<str>>,
    /// The zone it runs in; null where it has none.
    pub zone: Option<Arc<str>>,
    /// Its share among the backends of its version; 0 takes no new connections.
    pub weight: u16,
    /// `ready` or `draining`.
    #[serde(with = "named::backend_status")]
    pub status: BackendStatus,
    /// Connections open or being opened.
    pub active: u64,
    /// Connections sent here.
    pub selections: u64,
    /// Of those, connections whose handshake failed.
    pub failures: u64,
    /// Its breaker, as of now.
    pub breaker: CellView,
    /// When its open connections are reset, because it is out, in milliseconds from now; null where they are kept.
    pub resets_in_ms: Option<u64>,
}

/// A server that left its service and still has open connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftView {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections open.
    pub active: u64,
    /// When they are reset, in milliseconds from now; null where they are kept.
    pub resets_in_ms: Option<u64>,
}

/// What is counted beside services and edges. Not in the JSON API: metrics show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// How program runs ended.
    pub outcomes: Vec<OutcomeCount>,
    /// What could not be recorded or delivered: where (`ring`, `edges`, `affinity`, `follow`), how often.
    pub losses: Vec<(&'static str, u64)>,
    /// Connections on which something was not counted as a request: why, how often.
    pub unparsed: Vec<(&'static str, u64)>,
    /// Events the kernel wrote to the ring.
    pub events_written: u64,
    /// Map updates the kernel refused: map, errno by name (`E2BIG`), how often.
    pub map_update_errors: Vec<(&'static str, &'static str, u64)>,
    /// Client cgroups that were gone before they could be named.
    pub identity_unresolved: u64,
    /// Edges that were summed in the overflow series because the limit was reached.
    pub series_overflow: u64,
    /// Changes that could not be applied: at which stage, how often.
    pub config_apply_failures: Vec<(&'static str, u64)>,
    /// Connections reset because their backend was out: service, why it was (`removed`, `draining`, `ejected`), how many.
    pub connections_reset: Vec<(Arc<str>, &'static str, u64)>,
    /// Connections that were to be reset and could not be: by which cause, how many tries.
    pub connection_resets_failed: Vec<(&'static str, u64)>,
    /// Differences between maps and intent that were found and put right: in what, how often.
    pub repairs: Vec<(&'static str, u64)>,
}

/// How often runs of one program ended in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeCount {
    /// The program's name.
    pub program: &'static str,
    /// How they ended.
    pub outcome: Outcome,
    /// How often.
    pub count: u64,
}

/// The answer of `/v1/services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// Every service, in the order of names.
    pub services: Vec<ServiceView>,
}

/// The answer of `/v1/flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// Every edge, in the order of client, service and version.
    pub edges: Vec<crate::flows::EdgeView>,
    /// When they were counted, in milliseconds of the kernel's monotonic clock: rates are made of two of these. Null
    /// where that is not known.
    #[serde(default)]
    pub counted_at_ms: Option<u64>,
}

/// The answer of `/v1/flows/recent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// What is remembered, and what cannot be.
    pub memory: crate::flows::MemoryView,
    /// The events asked for, the oldest first.
    pub records: Vec<Arc<crate::flows::Record>>,
}

/// One line of `/v1/flows/follow`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FollowLine {
    /// Records that were dropped because this reader was too slow for them.
    Lost {
        /// How many.
        lost: u64,
    },
    /// What is remembered; the first line where that was asked for.
    Memory {
        /// See there.
        memory: crate::flows::MemoryView,
    },
    /// What happened to a connection.
    Record(Arc<crate::flows::Record>),
}

/// The answer to a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong and what to check.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;

    fn status() -> Status {
        Specimen::default().status().expect("a specimen")
    }

    #[test]
    fn a_healthy_agent_has_no_problems() {
        assert_eq!(status().problems(), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_is_wrong_is_one_problem() {
        let mut status = status();
        status.programs[0].attached = false;
        status.canary.state = CanaryState::Failed;
        status.config.error = Some("services[2].port: 70000 is no port".to_owned());
        status.readiness = Readiness { ready: false, waiting_for: vec!["kubernetes".to_owned()] };
        status.held = vec![crate::admin::specimen::held()];
        status.maps[0].entries = status.maps[0].max_entries;
        status.budget = status.budget.map(|budget| BudgetView { missing: Some("it".to_owned()), ..budget });
        status.data_plane.heartbeat_age_ms = Some(31_000);
        let problems = status.problems();
        assert_eq!(problems.len(), 8, "{problems:?}");
        assert!(problems[0].contains("is not attached to cgroup/connect4"));
        assert!(problems[2].contains("70000"));
    }

    #[test]
    fn a_service_is_usable_while_one_backend_takes_connections() {
        let mut service = Specimen::default().services().expect("a specimen").remove(0);
        assert!(service.is_usable());
        for backend in &mut service.backends {
            backend.weight = 0;
        }
        assert!(!service.is_usable());
    }
}
