//! Services, and the node they are asked for on.

use std::net::IpAddr;

use serde::Deserialize;

use super::super::lenient::{lenient, readable};
use super::super::objects::{Kind, Nearness, Node, Object, ObjectKey, Service, ServicePort, ServiceType};
use super::{MAX_PORTS, Meta, Wire, port, transport};

/// The timeout of a Service's affinity where it says none.
const DEFAULT_AFFINITY_S: u32 = 10_800;
/// Names another proxy than the usual one as the one that looks after a Service.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct ServiceWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type", deserialize_with = "lenient")]
    service_type: Option<Box<str>>,
    #[serde(rename = "clusterIP", deserialize_with = "lenient")]
    cluster_ip: Option<Box<str>>,
    #[serde(rename = "clusterIPs", deserialize_with = "lenient")]
    cluster_ips: Vec<Option<Box<str>>>,
    #[serde(rename = "externalIPs", deserialize_with = "lenient")]
    external_ips: Vec<Option<Box<str>>>,
    #[serde(deserialize_with = "lenient")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "lenient")]
    session_affinity: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    session_affinity_config: AffinityConfig,
    #[serde(deserialize_with = "lenient")]
    internal_traffic_policy: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    traffic_distribution: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    protocol: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    port: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    node_port: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "lenient")]
    client_ip: ClientIp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIp {
    #[serde(deserialize_with = "lenient")]
    timeout_seconds: Option<i64>,
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct NodeWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(deserialize_with = "lenient")]
    addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    #[serde(rename = "type", deserialize_with = "lenient")]
    address_type: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    address: Option<Box<str>>,
}
readable!(ServiceWire, Spec, Port, AffinityConfig, ClientIp, NodeWire, NodeStatus, NodeAddress);

impl Wire for ServiceWire {
    const KIND: Kind = Kind::Service;
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const NAME: &'static str = "Service";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, _: &str) -> Option<Object> {
        let spec = &self.spec;
        // `clusterIP` is the first of `clusterIPs`; objects older than the list have only the one.
        let one = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        for ip in spec.cluster_ips.iter().flatten().chain(one).filter_map(|text| address(text)) {
            if !cluster_ips.contains(&ip) {
                cluster_ips.push(ip);
            }
        }
        let timeout_s = || {
            let said = spec.session_affinity_config.client_ip.timeout_seconds;
            said.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(DEFAULT_AFFINITY_S)
        };
        let by_client = spec.session_affinity.as_deref() == Some("ClientIP");
        Some(Object::Service(Service {
            key,
            service_type: match spec.service_type.as_deref() {
                Some("NodePort") => ServiceType::NodePort,
                Some("LoadBalancer") => ServiceType::LoadBalancer,
                Some("ExternalName") => ServiceType::ExternalName,
                _ => ServiceType::ClusterIp,
            },
            cluster_ips,
            headless: spec.cluster_ip.as_deref() == Some("None"),
            external_ips: spec.external_ips.iter().flatten().filter_map(|text| address(text)).collect(),
            ports: spec.ports.iter().take(MAX_PORTS).filter_map(Port::read).collect(),
            affinity_timeout_s: by_client.then(timeout_s),
            is_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            nearness: match spec.traffic_distribution.as_deref() {
                Some("PreferClose" | "PreferSameZone") => Nearness::Zone,
                Some("PreferSameNode") => Nearness::Node,
                _ => Nearness::Any,
            },
            other_proxy: self.metadata.labels.get(OTHER_PROXY).map(|name| (**name).into()),
            left_alone: self.metadata.is_left_alone(),
        }))
    }
}

impl Port {
    fn read(&self) -> Option<ServicePort> {
        Some(ServicePort {
            name: self.name.as_deref().unwrap_or_default().into(),
            protocol: transport(self.protocol.as_deref()),
            port: port(self.port)?,
            node_port: port(self.node_port).unwrap_or_default(),
        })
    }
}

/// An address that one host or service can have.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    let usable = match ip {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    };
    (usable && !ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

impl Wire for NodeWire {
    const KIND: Kind = Kind::Node;
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const NAME: &'static str = "Node";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, node: &str) -> Option<Object> {
        if *key.name != *node {
            return None;
        }
        let zone = self.metadata.labels.get(ZONE).filter(|zone| !zone.is_empty());
        let of_node = |kind: Option<&str>| matches!(kind, Some("InternalIP" | "ExternalIP"));
        let addresses = self.status.addresses.iter();
        let addresses = addresses
            .filter(|address| of_node(address.address_type.as_deref()))
            .filter_map(|it| address(it.address.as_deref()?))
            .filter(|ip| !ip.is_loopback());
        Some(Object::Node(Node {
            key,
            zone: zone.map(|zone| (**zone).into()),
            addresses: addresses.collect(),
        }))
    }
}
