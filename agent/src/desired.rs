//! What should be: the services of all sources, as values. No IO, no clock, no map knows of this module.
//!
//! A source sends [`Change`]s; [`Desired`] folds them into one table. Services are shared by `Arc`: a pointer
//! that did not change is a service that did not change, which is what makes one change among 10 000 cheap.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{Algorithm, BreakerPolicy, Protocol, ServiceLimits};

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
    /// The service that takes the connections when nothing of this one is usable.
    pub fallback: Option<ServiceName>,
    /// How long a handshake may take.
    pub connect_timeout: Option<Duration>,
    /// How many connections may be open, waiting and new; all zero: any number.
    pub limits: ServiceLimits,
}

/// The share of one version in a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionShare {
    /// The version.
    pub version: Arc<str>,
    /// Its share, relative to the others'.
    pub share: u32,
}

impl Default for PolicySpec {
    /// `random`, no affinity, no split, no breaker, no fallback, no limits, EHOSTUNREACH (113 on every Linux architecture Segue
    /// runs on).
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Random,
            affinity_timeout: None,
            split: Vec::new(),
            refuse_errno: 113,
            breaker: None,
            fallback: None,
            connect_timeout: None,
            limits: ServiceLimits::default(),
        }
    }
}

/// What a source says.
#[derive(Clone, Debug)]
pub enum Change {
    /// This is all there is now.
    Reset(Vec<Arc<ServiceSpec>>),
    /// This service is new or different.
    Upsert(Arc<ServiceSpec>),
    /// This service is gone.
    Remove(ServiceName),
}

/// The services of all sources.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    services: BTreeMap<ServiceName, Arc<ServiceSpec>>,
}

impl Desired {
    /// Folds a change in. An unchanged service keeps its `Arc`, also through a reset.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Reset(specs) => {
                let mut next = BTreeMap::new();
                for spec in specs {
                    let kept = match self.services.get(&spec.name) {
                        Some(old) if **old == *spec => Arc::clone(old),
                        _ => spec,
                    };
                    next.insert(Arc::clone(&kept.name), kept);
                }
                self.services = next;
            }
            Change::Upsert(spec) => {
                if self.services.get(&spec.name).is_none_or(|old| **old != *spec) {
                    self.services.insert(Arc::clone(&spec.name), spec);
                }
            }
            Change::Remove(name) => {
                self.services.remove(&name);
            }
        }
    }

    /// Every service, in the order of names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceSpec>> {
        self.services.values()
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceSpec>> {
        self.services.get(name)
    }
}
