//! The objects of a cluster as far as Segue looks at them: small, compared by value, and written down as they are. Knows
//! nothing of the wire ([`super::wire`]) and of what becomes of them ([`super::translate`]).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use agent_ebpf::abi::Protocol;
use serde::{Deserialize, Serialize};

/// The kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// This node.
    Node,
    /// Services.
    Service,
    /// Where the endpoints of Services are.
    EndpointSlice,
    /// Segue's own policies.
    TrafficPolicy,
    /// Routes of the Gateway API that share out HTTP.
    HttpRoute,
    /// Routes of the Gateway API that share out TCP.
    TcpRoute,
    /// The pods of this node.
    Pod,
    /// Namespaces, as far as something is said of all their pods.
    Namespace,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::TrafficPolicy,
        Self::HttpRoute,
        Self::TcpRoute,
        Self::Pod,
        Self::Namespace,
    ];

    /// The name of the resource, as in `kubectl get`; used in metric labels, tables and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::TrafficPolicy => "trafficpolicies",
            Self::HttpRoute => "httproutes",
            Self::TcpRoute => "tcproutes",
            Self::Pod => "pods",
            Self::Namespace => "namespaces",
        }
    }

    /// Whether there are no services without it. Of the others the definition may be missing, or the permission.
    pub const fn is_essential(self) -> bool {
        matches!(self, Self::Node | Self::Service | Self::EndpointSlice)
    }

    /// Whether services are made of it. The others say who the clients are.
    pub const fn is_of_services(self) -> bool {
        !matches!(self, Self::Pod | Self::Namespace)
    }

    /// Whether no more of it is asked for than its metadata.
    pub const fn is_metadata_only(self) -> bool {
        matches!(self, Self::Pod | Self::Namespace)
    }
}

/// What names an object of a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its namespace; empty for a Node and a Namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The name of another object beside it.
    pub(super) fn beside(&self, name: &str) -> Self {
        Self { namespace: Arc::clone(&self.namespace), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A Node.
    Node(Node),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    Slice(Arc<Slice>),
    /// A TrafficPolicy.
    Policy(TrafficPolicy),
    /// An HTTPRoute or a TCPRoute.
    Route(Route),
    /// A pod of this node.
    Pod(Pod),
    /// A namespace whose pods are to be left alone.
    Namespace(ObjectKey),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::Slice(_) => Kind::EndpointSlice,
            Self::Policy(_) => Kind::TrafficPolicy,
            Self::Route(route) => route.kind(),
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
        }
    }

    /// What names it.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Node(node) => &node.key,
            Self::Service(service) => &service.key,
            Self::Slice(slice) => &slice.key,
            Self::Policy(policy) => &policy.key,
            Self::Route(route) => &route.key,
            Self::Pod(pod) => &pod.key,
            Self::Namespace(key) => key,
        }
    }
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub key: ObjectKey,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Its internal and external addresses.
    pub addresses: Vec<IpAddr>,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// By an address of its own.
    ClusterIp,
    /// Also by a port of every node.
    NodePort,
    /// Also by a load balancer.
    LoadBalancer,
    /// It is another name for a host elsewhere.
    ExternalName,
}

/// How near the endpoints should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nearness {
    /// Anywhere.
    #[default]
    Any,
    /// In the zone, if there are any.
    Zone,
    /// On the node, if there are any, else in the zone.
    Node,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// How it is reached.
    pub service_type: ServiceType,
    /// Its own addresses; empty for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Further addresses that are led to some node.
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`, with its timeout.
    pub affinity_timeout_s: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub is_local: bool,
    /// `trafficDistribution`.
    pub nearness: Nearness,
    /// The proxy that is to look after it instead of the usual one.
    pub other_proxy: Option<Arc<str>>,
    /// `segue.dev/manage: "false"`.
    pub left_alone: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where the only port has none.
    pub name: Arc<str>,
    /// Its transport; `None` for one that Segue does not know.
    pub protocol: Option<Transport>,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port at the nodes' addresses, 0 for none.
    pub node_port: u16,
}

/// A transport that Segue balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// The Service it is for.
    pub service: Arc<str>,
    /// The ports of every endpoint in it: the name of the Service's port, and where it is.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
}

/// A port of the endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Arc<str>,
    /// Its transport.
    pub protocol: Option<Transport>,
    /// Where the endpoints listen.
    pub port: u16,
}

/// An endpoint: mostly, an address of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it answers, also while it terminates.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Whether it is on this node.
    pub is_here: bool,
    /// Whether a hint says that it is for this node.
    pub for_here: bool,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// The zones it is for, by its hints.
    pub for_zones: Option<Arc<[Arc<str>]>>,
}

/// A TrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// When it was made, as the API server wrote it; it sorts as text.
    pub created: Arc<str>,
    /// The version of its `spec`.
    pub generation: i64,
    /// The Service it is for, in its own namespace; `None` where it names none.
    pub target: Option<Arc<str>>,
    /// The port of the Service it is for; `None`: all.
    pub section: Option<Arc<str>>,
    /// `spec.policy` as JSON.
    pub policy: Arc<str>,
    /// What its status says.
    pub told: Option<Told>,
    /// The version of all of it, as the API server counts.
    pub version: Arc<str>,
}

/// The condition `Accepted` in the status of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `True` or `False`.
    pub accepted: bool,
    /// Why, in a word.
    pub reason: Arc<str>,
    /// Why, in a sentence.
    pub message: Arc<str>,
    /// The generation this is about.
    pub generation: i64,
}

/// A route of the Gateway API that is attached to Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Whether it is an HTTPRoute.
    pub is_http: bool,
    /// When it was made, as the API server wrote it; it sorts as text.
    pub created: Arc<str>,
    /// The Services it is attached to.
    pub parents: Vec<RouteParent>,
    /// Who gets the connections.
    pub backends: Vec<RouteBackend>,
    /// Why it cannot be carried out by whoever sees connections and no requests.
    pub obstacle: Option<Arc<str>>,
}

impl Route {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        if self.is_http { Kind::HttpRoute } else { Kind::TcpRoute }
    }
}

/// A pod of this node, by its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its UID; of a static pod, the hash its cgroup is named by.
    pub uid: Arc<str>,
    /// What controls it.
    pub owner: Option<Owner>,
    /// What a Deployment, or something like one, calls the pods of one template.
    pub template: Option<Template>,
    /// `segue.dev/manage: "false"`.
    pub left_alone: bool,
}

/// What controls an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Its kind, as in `ReplicaSet`.
    pub kind: Arc<str>,
    /// Its name, in the namespace of the object.
    pub name: Arc<str>,
}

/// The hash of a pod template, at which the name of a ReplicaSet ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// The hash.
    pub hash: Arc<str>,
    /// It is a Deployment's; else that of something that replaces Deployments.
    pub is_deployments: bool,
}

/// A Service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteParent {
    /// The Service.
    pub service: ObjectKey,
    /// The name of the port, where it is about one.
    pub section: Option<Arc<str>>,
    /// The port, where it is about one.
    pub port: Option<u16>,
}

/// A Service that gets a share of a route's connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteBackend {
    /// The Service.
    pub service: ObjectKey,
    /// Its port.
    pub port: Option<u16>,
    /// Its share, relative to the others'.
    pub weight: u32,
}
