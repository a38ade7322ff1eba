//! What should be: the services of all sources, as values. No IO, no clock, no map knows of this module.
//!
//! A source sends [`Change`]s; [`Desired`] folds them into one table, source by source ([`table`]). Services are shared by
//! `Arc`: a pointer that did not change is a service that did not change, which is what makes one change among 10 000
//! cheap.

pub mod guard;
mod table;

pub use table::Desired;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{Algorithm, BreakerPolicy, Protocol, ServiceLimits};
use serde::{Deserialize, Serialize};

use guard::Holds;

/// A service's name, as in `shop/payment`.
pub type ServiceName = Arc<str>;

/// One service: who may be asked for, who answers, and by which rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The name. Unique over all sources.
    pub name: ServiceName,
    /// The transport of all its frontends and backends.
    pub protocol: Protocol,
    /// The addresses applications ask for.
    pub frontends: Vec<SocketAddr>,
    /// The servers.
    pub backends: Vec<BackendSpec>,
    /// The rules.
    pub policy: PolicySpec,
}

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share among the backends of its version; 0 takes no new connections.
    pub weight: u16,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// The version it runs.
    pub version: Option<Arc<str>>,
    /// It keeps its connections and takes no new ones.
    pub draining: bool,
}

/// The rules of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// How long a client keeps its backend after its last connection.
    pub affinity_timeout: Option<Duration>,
    /// Shares by version, in any unit; empty: no split. At most `abi::limits::MAX_SUBSETS`.
    pub split: Vec<VersionShare>,
    /// What an application gets when nothing is usable.
    pub refuse_errno: u8,
    /// When a backend is ejected and how it comes back; `None`: never.
    pub breaker: Option<BreakerPolicy>,
    /// Whether backends in the node's own zone are preferred, as far as they can carry it.
    pub prefers_zone: bool,
    /// How long the share of a backend that joins grows; `None`: as the breaker says of one that comes back.
    pub slow_start: Option<Duration>,
    /// The service that takes the connections when nothing of this one is usable.
    pub fallback: Option<ServiceName>,
    /// How long a handshake may take.
    pub connect_timeout: Option<Duration>,
    /// How many connections may be open, waiting and new; all zero: any number.
    pub limits: ServiceLimits,
    /// What becomes of the open connections of a backend that is out; `None`: they are kept.
    pub draining: Option<DrainingSpec>,
    /// Whether requests on connections to it are read, where the agent reads any.
    pub reads_requests: bool,
    /// The version of the split that is tried out, and when it must go; `None`: the split stays as it is.
    pub canary: Option<Arc<CanarySpec>>,
}

/// When the open connections of a backend that is out are reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainingSpec {
    /// The backends this is about, in the order of [`Departure::ALL`], without repetition.
    pub on: Vec<Departure>,
    /// How long after the backend went out.
    pub reset_after: Duration,
}

/// Why a backend is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departure {
    /// Its service does not name it any more, or is gone.
    Removed,
    /// It is marked so, or its weight is 0.
    Draining,
    /// Its breaker opened, or an operator ordered it out.
    Ejected,
}

impl Departure {
    /// Each of them.
    pub const ALL: &'static [Self] = &[Self::Removed, Self::Draining, Self::Ejected];

    /// The name used in configuration, metric labels, tables and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
        }
    }

    /// The departure with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|departure| departure.name() == name)
    }
}

/// A version of a split that is tried out beside another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanarySpec {
    /// The version that is tried out.
    pub version: Arc<str>,
    /// The version it is compared with.
    pub baseline: Arc<str>,
    /// When it must go.
    pub guard: GuardSpec,
    /// Its part of all connections, step by step, in percent, rising; empty: what the split says.
    pub steps: Vec<u8>,
    /// How long a step lasts at least.
    pub every: Duration,
}

/// When a canary must go: how much worse than the baseline it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardSpec {
    /// How much larger its part of connections that fail may be, in percent of all.
    pub connect_failure_percent: u8,
    /// How much larger its part of connections that are reset may be, in percent of all.
    pub reset_percent: u8,
    /// How much larger its part of requests answered with an error of the server may be, in percent of all.
    pub request_error_percent: u8,
    /// How long its handshakes may take, in percent of the baseline's 99th percentile; `None`: however long.
    pub connect_p99_percent: Option<u32>,
    /// Connections (or requests) of each of the two without which nothing is decided.
    pub minimum_samples: u32,
    /// How far back it looks.
    pub window: Duration,
}

impl Default for GuardSpec {
    fn default() -> Self {
        Self {
            connect_failure_percent: 2,
            reset_percent: 2,
            request_error_percent: 2,
            connect_p99_percent: None,
            minimum_samples: 50,
            window: Duration::from_secs(30),
        }
    }
}

/// The share of one version in a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionShare {
    /// The version.
    pub version: Arc<str>,
    /// Its share, relative to the others'.
    pub share: u32,
}

impl Default for PolicySpec {
    /// `random`, no affinity, no split, no canary, no zone, no breaker, no fallback, no limits, requests read, EHOSTUNREACH (113 on every Linux architecture Segue
    /// runs on).
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Random,
            affinity_timeout: None,
            split: Vec::new(),
            refuse_errno: 113,
            breaker: None,
            prefers_zone: false,
            slow_start: None,
            fallback: None,
            connect_timeout: None,
            limits: ServiceLimits::default(),
            draining: None,
            reads_requests: true,
            canary: None,
        }
    }
}

/// The sources there are. Where two want a service of the same name, the one that comes first here has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// The agent itself: its test connection.
    Agent,
    /// A configuration file on this host.
    File,
    /// An API server of Kubernetes.
    Kubernetes,
}

impl SourceKind {
    /// Every source.
    pub const ALL: &'static [Self] = &[Self::Agent, Self::File, Self::Kubernetes];

    /// What it may not take away unasked.
    pub const fn holds(self) -> Holds {
        match self {
            Self::Agent => Holds::NOTHING,
            Self::File => Holds::WRITTEN,
            Self::Kubernetes => Holds::TOLD,
        }
    }

    /// The name used in metric labels, tables and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::File => "file",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// What a source says about its own services.
#[derive(Clone, Debug)]
pub enum Change {
    /// These are all it has now. Those of other sources stay.
    Reset(Vec<Arc<ServiceSpec>>),
    /// This service is new or different.
    Upsert(Arc<ServiceSpec>),
    /// This service is gone.
    Remove(ServiceName),
}
