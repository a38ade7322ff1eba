//! What the next connections to a service would do and why, as the admin API says it. Only values.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::{Algorithm, BreakerMode};
use serde::{Deserialize, Serialize};

use super::LimitView;
use crate::flows::{Workload, named};

/// The answer of `/v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked about: a service's name, or an address and port.
    pub target: String,
    /// The client it is explained to; null where it is for any.
    pub asker: Option<AskerView>,
    /// One chain per protocol and address family; empty where the target is no service of the agent's.
    pub chains: Vec<Chain>,
}

/// A client that connections are explained to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskerView {
    /// Its cgroup, from the root of the hierarchy.
    pub cgroup: String,
    /// Its workload.
    pub workload: Arc<Workload>,
    /// It is in the cgroup whose processes are managed.
    pub managed: bool,
    /// Its workload is to be left alone.
    pub left_alone: bool,
}

/// What a connection meets: the service it asks for, and then fallbacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// `tcp ipv4` and the like.
    pub family: String,
    /// The services in the order in which they are asked; the last one decides.
    pub services: Vec<Step>,
    /// What the application gets where nothing is usable: an errno by number; null where something is.
    pub errno: Option<u8>,
}

/// One service of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub service: Arc<str>,
    /// How it chooses.
    #[serde(with = "named::algorithm")]
    pub algorithm: Algorithm,
    /// What its breakers may do.
    #[serde(with = "named::breaker_mode")]
    pub breaker_mode: BreakerMode,
    /// Its limits on connections.
    pub limits: Vec<LimitView>,
    /// What the preferred zone gets, in words; null where zones do not matter.
    pub locality: Option<String>,
    /// What becomes of its canary, in words; null where there is none.
    pub rollout: Option<String>,
    /// Its backends.
    pub candidates: Vec<Candidate>,
    /// What follows, in words.
    pub result: String,
}

/// One backend a connection may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it listens.
    pub address: SocketAddr,
    /// The version it runs; null where it has none.
    pub version: Option<Arc<str>>,
    /// The zone it runs in; null where it has none.
    pub zone: Option<Arc<str>>,
    /// Its share among the backends of its version.
    pub weight: u16,
    /// It takes the next connection that asks it.
    pub takes: bool,
    /// By which rule, in words.
    pub why: String,
}
