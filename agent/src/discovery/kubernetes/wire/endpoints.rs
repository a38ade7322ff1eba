//! EndpointSlices.

use std::sync::Arc;

use serde::Deserialize;

use super::super::lenient::{lenient, readable};
use super::super::objects::{Endpoint, Kind, Object, ObjectKey, Slice, SlicePort};
use super::service::address;
use super::{MAX_PORTS, Meta, Wire, is_name, port, transport};

/// Endpoints of one slice that are read; the API server allows no more.
const MAX_ENDPOINTS: usize = 1_000;
/// Zones a hint may name; the API server allows no more.
const MAX_HINTS: usize = 8;
/// The Service a slice is for.
const SERVICE: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct EndpointSliceWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    endpoints: Vec<EndpointWire>,
    #[serde(deserialize_with = "lenient")]
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EndpointWire {
    #[serde(deserialize_with = "lenient")]
    addresses: Vec<Option<Box<str>>>,
    #[serde(deserialize_with = "lenient")]
    conditions: Conditions,
    #[serde(deserialize_with = "lenient")]
    node_name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    zone: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    hints: Hints,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    #[serde(deserialize_with = "lenient")]
    ready: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    serving: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hints {
    #[serde(deserialize_with = "lenient")]
    for_zones: Vec<Named>,
    #[serde(deserialize_with = "lenient")]
    for_nodes: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    protocol: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    port: Option<i64>,
}
readable!(EndpointSliceWire, EndpointWire, Conditions, Hints, Named, Port);

impl Wire for EndpointSliceWire {
    const KIND: Kind = Kind::EndpointSlice;
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const NAME: &'static str = "EndpointSlice";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, node: &str) -> Option<Object> {
        let service = self.metadata.labels.get(SERVICE).filter(|name| is_name(name))?;
        let ports = self.ports.iter().take(MAX_PORTS).filter_map(|wire| {
            Some(SlicePort {
                name: wire.name.as_deref().unwrap_or_default().into(),
                protocol: transport(wire.protocol.as_deref()),
                port: port(wire.port)?,
            })
        });
        Some(Object::Slice(Arc::new(Slice {
            key,
            service: (**service).into(),
            ports: ports.collect(),
            endpoints: self.endpoints.iter().take(MAX_ENDPOINTS).filter_map(|it| it.read(node)).collect(),
        })))
    }
}

impl EndpointWire {
    fn read(&self, node: &str) -> Option<Endpoint> {
        let label = |text: &str| -> Option<Arc<str>> { (!text.is_empty()).then(|| text.into()) };
        let names = |named: &[Named]| -> Vec<Arc<str>> {
            named.iter().take(MAX_HINTS).filter_map(|it| label(it.name.as_deref()?)).collect()
        };
        let for_zones = names(&self.hints.for_zones);
        // A condition that is not said holds, but for the last one.
        let ready = self.conditions.ready.unwrap_or(true);
        Some(Endpoint {
            // The addresses of an endpoint are one pod's, and everybody takes the first.
            address: address(self.addresses.iter().flatten().next()?)?,
            ready,
            serving: self.conditions.serving.unwrap_or(ready),
            terminating: self.conditions.terminating.unwrap_or(false),
            is_here: self.node_name.as_deref() == Some(node),
            for_here: names(&self.hints.for_nodes).iter().any(|name| **name == *node),
            zone: self.zone.as_deref().and_then(label),
            for_zones: (!for_zones.is_empty()).then(|| for_zones.into()),
        })
    }
}
