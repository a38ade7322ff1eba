//! The service map: who talks to which service, and which backends stand behind it, as one graph of totals. Put together
//! from what other views hold. Knows no map, clock, page or drawing; what rates are, is for the reader of two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::{
    AppProtocol, BackendStatus, BreakerMode, CloseReason, ConnectFailure, Direction, HISTOGRAM_BUCKETS,
    Protocol,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackendView, Counters, ServiceCounters, ServiceView, ShareView};
use crate::flows::requests::NAME_SERVERS;
use crate::flows::{
    Distribution, EdgeView, Record, RequestView, Requests, Tally, Workload, WorkloadKind, histogram, named,
};

/// Changes of breakers and canaries that are kept for the map, the newest.
pub const KEPT_CHANGES: usize = 256;

/// The answer of `/v1/map`, and of `/map.json` on the address of the metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceMap {
    /// The node the agent is on.
    pub node: Arc<str>,
    /// The agent's version.
    pub version: String,
    /// When it was drawn up, by the wall clock.
    pub at: Timestamp,
    /// The same by a clock that never jumps, in milliseconds; only differences mean something.
    pub monotonic_ms: u64,
    /// What the agent waits for before it is ready, in words.
    pub waiting_for: Vec<String>,
    /// The upper bounds of the buckets of durations, in nanoseconds; the bucket after the last has none.
    pub bounds_ns: Vec<u64>,
    /// Who connects, or answers on this node, in the order of ids.
    pub workloads: Vec<WorkloadNode>,
    /// What they connect to, in the order of names.
    pub services: Vec<ServiceNode>,
    /// Who connects to what, in the order of client, service and version.
    pub edges: Vec<MapEdge>,
    /// What became of breakers and canaries lately, the newest last; at most [`KEPT_CHANGES`].
    pub changes: Vec<Arc<Record>>,
    /// What this map does not show.
    pub unseen: Unseen,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadNode {
    /// Its name within this map: kind, namespace and name.
    pub id: Arc<str>,
    /// The Kubernetes namespace, or `host`.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: WorkloadKind,
    /// The requests it answered, by the port it listens on.
    pub answers: Vec<Answered>,
}

/// Requests that a workload of this node answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The port it listens on.
    pub port: u16,
    /// The requests.
    pub requests: RequestTotals,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceNode {
    /// The full name, as in `shop/payment`.
    pub name: Arc<str>,
    /// It is gone, and its last connections are still shown.
    pub gone: bool,
    /// `tcp` or `udp`.
    #[serde(with = "named::protocol")]
    pub protocol: Protocol,
    /// The addresses applications ask for.
    pub frontends: Vec<SocketAddr>,
    /// What the breakers of its backends may do.
    #[serde(with = "named::breaker_mode")]
    pub breaker_mode: BreakerMode,
    /// Shares by version; empty without a split.
    pub split: Vec<ShareView>,
    /// How its canary does, in words; null where there is none.
    pub rollout: Option<String>,
    /// The service that takes over where nothing of this one is usable.
    pub fallback: Option<Arc<str>>,
    /// What the kernel counted.
    pub counters: ServiceCounters,
    /// The servers.
    pub backends: Vec<BackendNode>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendNode {
    /// Where it listens.
    pub address: SocketAddr,
    /// The version it runs.
    pub version: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// Its share among the backends of its version.
    pub weight: u16,
    /// `ready` or `draining`.
    #[serde(with = "named::backend_status")]
    pub status: BackendStatus,
    /// Connections open or being opened.
    pub active: u64,
    /// Connections sent here.
    pub connections: u64,
    /// Of those, connections whose handshake failed.
    pub failures: u64,
    /// What its breaker holds for the next connection: `closed`, `open`, `half_open`, `forced_open` or `forced_closed`.
    pub breaker: String,
    /// It gets no connections, or only probes.
    pub held_back: bool,
    /// When it may be probed, in milliseconds from now; null unless open.
    pub next_probe_in_ms: Option<u64>,
    /// Connections in the breaker's window that did well, failed, and did well but slowly.
    pub window: [u32; 3],
    /// The workload of this node that answers there; null where that is not certain.
    pub workload: Option<Arc<str>>,
}

/// The connections of one workload to one version of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapEdge {
    /// The id of the workload.
    pub from: Arc<str>,
    /// The name of the service.
    pub to: Arc<str>,
    /// The version of the backends; null where they have none.
    pub version: Option<Arc<str>>,
    /// Connections established.
    pub opened: u64,
    /// Connections open now.
    pub active: u64,
    /// Connections not established, by reason.
    pub failed: Tally<ConnectFailure>,
    /// Connections the backend reset.
    pub resets: u64,
    /// Payload bytes the backends acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes received from the backends.
    pub received_bytes: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Time from `connect()` to the end of a handshake that succeeded.
    pub connect: Durations,
    /// What was asked for on these connections, by protocol; empty where nothing was understood.
    pub requests: Vec<RequestTotals>,
}

/// Requests of one protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestTotals {
    /// What was spoken.
    #[serde(with = "named::app_protocol")]
    pub protocol: AppProtocol,
    /// Requests that were answered.
    pub count: u64,
    /// Of these, those whose answer was the server's fault.
    pub errors: u64,
    /// The answers by status.
    pub by_status: BTreeMap<String, u64>,
    /// Time to the first byte of the answer.
    pub duration: Durations,
}

/// A distribution of durations, with its buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// How many fell into each bucket; empty buckets at the end are left out.
    pub buckets: Vec<u64>,
}

/// What a map does not show, counted since the agent started, or since the data plane was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// Connections on which something was not counted as a request, by reason.
    pub unparsed: BTreeMap<String, u64>,
    /// What could not be recorded or delivered, by place.
    pub lost: BTreeMap<String, u64>,
    /// Client cgroups that were gone before they could be named.
    pub unnamed_clients: u64,
    /// Connections established on edges beyond the limit on series.
    pub beyond_limit: u64,
}

/// What a map is made of.
#[derive(Debug, Default)]
pub struct Parts {
    /// Every edge, with its requests.
    pub edges: Vec<EdgeView>,
    /// Every service.
    pub services: Vec<ServiceView>,
    /// Everybody's requests.
    pub requests: Vec<RequestView>,
    /// Changes of breakers and canaries.
    pub changes: Vec<Arc<Record>>,
    /// What is counted beside.
    pub counters: Counters,
    /// Services that are not shown: the agent's own.
    pub hidden: &'static [&'static str],
}

/// Where and when a map is drawn up.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// The node.
    pub node: Arc<str>,
    /// By the wall clock.
    pub at: Timestamp,
    /// By a clock that never jumps, in milliseconds.
    pub monotonic_ms: u64,
    /// What the agent waits for.
    pub waiting_for: Vec<String>,
}

impl ServiceMap {
    /// The graph that these make.
    pub fn new(occasion: Occasion, mut parts: Parts) -> Self {
        let beyond_limit = parts.edges.iter().filter(|edge| edge.overflow).map(|edge| edge.opened).sum();
        parts.edges.retain(|edge| !edge.overflow && !parts.hidden.contains(&&*edge.service));
        let servers = Servers::new(&parts.requests);
        let workloads = workloads(&parts);
        let mut services: BTreeMap<_, _> =
            parts.services.iter().map(|view| (Arc::clone(&view.name), service(view, &servers))).collect();
        for edge in &parts.edges {
            services.entry(Arc::clone(&edge.service)).or_insert_with(|| unlisted(&edge.service));
        }
        let text = |counts: &[(&'static str, u64)]| {
            let raised = counts.iter().filter(|(_, count)| *count > 0);
            raised.map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        Self {
            node: occasion.node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: occasion.at,
            monotonic_ms: occasion.monotonic_ms,
            waiting_for: occasion.waiting_for,
            bounds_ns: (0..HISTOGRAM_BUCKETS).filter_map(histogram::bound_ns).collect(),
            workloads,
            services: services.into_values().collect(),
            edges: parts.edges.iter().map(edge).collect(),
            changes: parts.changes,
            unseen: Unseen {
                unparsed: text(&parts.counters.unparsed),
                lost: text(&parts.counters.losses),
                unnamed_clients: parts.counters.identity_unresolved,
                beyond_limit,
            },
        }
    }
}

/// The name of a workload within one map.
fn id(workload: &Workload) -> Arc<str> {
    let kind = workload.kind.name();
    format!("{kind}:{}/{}", workload.namespace, workload.name).into()
}

/// Everybody who is a client of a shown edge, or answered requests.
fn workloads(parts: &Parts) -> Vec<WorkloadNode> {
    let inbound: Vec<&RequestView> =
        parts.requests.iter().filter(|view| view.direction == Direction::Inbound && !view.overflow).collect();
    let all: BTreeSet<&Arc<Workload>> = parts
        .edges
        .iter()
        .map(|edge| &edge.client)
        .chain(inbound.iter().map(|view| &view.workload))
        .collect();
    let node = |workload: &Arc<Workload>| WorkloadNode {
        id: id(workload),
        namespace: Arc::clone(&workload.namespace),
        name: Arc::clone(&workload.name),
        kind: workload.kind,
        answers: inbound
            .iter()
            .filter(|view| view.workload == *workload)
            .map(|view| Answered { port: view.port, requests: totals(&view.requests) })
            .collect(),
    };
    let mut nodes: Vec<WorkloadNode> = all.into_iter().map(node).collect();
    nodes.sort_by(|one, other| one.id.cmp(&other.id));
    nodes
}

/// Who answers on which port of this node; nobody where several do, in network namespaces of their own.
struct Servers(BTreeMap<u16, Option<Arc<str>>>);

impl Servers {
    fn new(requests: &[RequestView]) -> Self {
        let mut ports: BTreeMap<u16, Option<Arc<str>>> = BTreeMap::new();
        for view in requests.iter().filter(|view| view.direction == Direction::Inbound && !view.overflow) {
            let server = id(&view.workload);
            let known = ports.entry(view.port).or_insert_with(|| Some(Arc::clone(&server)));
            if known.as_ref().is_some_and(|known| *known != server) {
                *known = None;
            }
        }
        Self(ports)
    }

    /// Only a loopback address is certainly of this node.
    fn at(&self, address: SocketAddr) -> Option<Arc<str>> {
        address.ip().to_canonical().is_loopback().then(|| self.0.get(&address.port())?.clone()).flatten()
    }
}

fn service(view: &ServiceView, servers: &Servers) -> ServiceNode {
    ServiceNode {
        name: Arc::clone(&view.name),
        gone: false,
        protocol: view.protocol,
        frontends: view.frontends.clone(),
        breaker_mode: view.breaker_mode,
        split: view.split.clone(),
        rollout: view.rollout.as_ref().map(|rollout| rollout.summary.clone()),
        fallback: view.fallback.clone(),
        counters: view.counters,
        backends: view.backends.iter().map(|backend| node(backend, view.breaker_mode, servers)).collect(),
    }
}

/// A service of which only its last connections are known, or the servers of names that belong to none.
fn unlisted(name: &Arc<str>) -> ServiceNode {
    let are_of_none = **name == *NAME_SERVERS;
    ServiceNode {
        name: Arc::clone(name),
        gone: !are_of_none,
        protocol: if are_of_none { Protocol::Udp } else { Protocol::Tcp },
        frontends: Vec::new(),
        breaker_mode: BreakerMode::Off,
        split: Vec::new(),
        rollout: None,
        fallback: None,
        counters: ServiceCounters::default(),
        backends: Vec::new(),
    }
}

fn node(backend: &BackendView, mode: BreakerMode, servers: &Servers) -> BackendNode {
    let cell = &backend.breaker;
    BackendNode {
        address: backend.address,
        version: backend.version.clone(),
        zone: backend.zone.clone(),
        weight: backend.weight,
        status: backend.status,
        active: backend.active,
        connections: backend.selections,
        failures: backend.failures,
        breaker: cell.in_force(mode).to_owned(),
        held_back: cell.is_held_back(mode),
        next_probe_in_ms: cell.next_probe_in_ms,
        window: [cell.good, cell.failed, cell.slow],
        workload: servers.at(backend.address),
    }
}

fn edge(view: &EdgeView) -> MapEdge {
    MapEdge {
        from: id(&view.client),
        to: Arc::clone(&view.service),
        version: view.version.clone(),
        opened: view.opened,
        active: view.active,
        failed: view.failed,
        resets: view.closed.get(CloseReason::RstRemote),
        sent_bytes: view.sent_bytes,
        received_bytes: view.received_bytes,
        retransmits: view.retransmits,
        connect: Durations::from(&view.connect),
        requests: view.requests.iter().map(totals).collect(),
    }
}

fn totals(requests: &Requests) -> RequestTotals {
    RequestTotals {
        protocol: requests.protocol,
        count: requests.count,
        errors: requests.errors,
        by_status: requests.by_status.clone(),
        duration: Durations::from(&requests.duration),
    }
}

impl From<&Distribution> for Durations {
    fn from(distribution: &Distribution) -> Self {
        Self { sum_ns: distribution.sum_ns, buckets: histogram::used(&distribution.histogram).to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;

    fn drawn() -> ServiceMap {
        Specimen::default().map().expect("a specimen")
    }

    #[test]
    fn every_edge_leads_from_a_workload_to_a_service_that_are_there() {
        let map = drawn();
        let workloads: BTreeSet<_> = map.workloads.iter().map(|node| &node.id).collect();
        let services: BTreeSet<_> = map.services.iter().map(|node| &node.name).collect();
        assert_eq!(map.edges.len(), 2);
        for edge in &map.edges {
            assert!(workloads.contains(&edge.from) && services.contains(&edge.to), "{edge:?}");
        }
        assert_eq!(map.unseen.beyond_limit, 1_234);
        assert_eq!(map.unseen.unparsed["pipelined"], 3);
        assert!(!map.unseen.lost.contains_key("ring"), "what is 0 is left out");
    }

    #[test]
    fn a_service_that_is_gone_keeps_its_edges_and_the_agents_own_is_not_shown() {
        let mut edges = Specimen::default().edges().expect("a specimen");
        edges[0].service = "shop/removed".into();
        edges[1].service = "segue/canary".into();
        let parts = Parts { edges, hidden: &["segue/canary"], ..Parts::default() };
        let map = ServiceMap::new(Specimen::occasion(), parts);
        let services: Vec<_> = map.services.iter().map(|node| (&*node.name, node.gone)).collect();
        assert_eq!(services, [("shop/removed", true)]);
        assert_eq!(map.workloads.len(), 1);
    }

    #[test]
    fn a_backend_on_a_loopback_port_that_one_workload_answers_on_is_that_workload() {
        let requests = Specimen::default().requests().expect("a specimen");
        let is_server = |view: &&RequestView| view.direction == Direction::Inbound && view.port == 8080;
        let answering = requests.iter().find(is_server).expect("a server").clone();
        let server = id(&answering.workload);
        let servers = Servers::new(&requests);
        let at = |address: &str| servers.at(address.parse().expect("an address"));
        assert_eq!(at("127.0.0.1:8080"), Some(server));
        assert_eq!((at("127.0.0.1:8081"), at("10.1.0.5:8080")), (None, None));
        let mut twice = requests;
        let mut other = answering;
        other.workload = Arc::new(Workload::unknown());
        twice.push(other);
        assert_eq!(Servers::new(&twice).at("127.0.0.1:8080".parse().expect("an address")), None);
    }

    #[test]
    fn a_map_comes_back_from_its_json() {
        let map = drawn();
        let text = serde_json::to_string(&map).expect("plain values");
        let back: ServiceMap = serde_json::from_str(&text).expect("its own output");
        assert_eq!(back, map);
    }

    #[test]
    fn buckets_add_up_to_what_was_counted() {
        for edge in drawn().edges {
            for requests in edge.requests {
                assert_eq!(requests.duration.buckets.iter().sum::<u64>(), requests.count);
            }
        }
    }
}
