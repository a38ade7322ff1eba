//! Objects as an API server sends them, and how they become Segue's own. Whatever an object holds, it is read; what cannot
//! be used of it is left out.

mod endpoints;
mod pod;
mod policy;
mod route;
mod service;

pub(super) use endpoints::EndpointSliceWire;
pub(super) use pod::{JobWire, NamespaceWire, PodWire};
pub(super) use policy::TrafficPolicyWire;
pub(super) use route::{HttpRouteWire, TcpRouteWire};
pub(super) use service::{NodeWire, ServiceWire};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::lenient::{Lenient, lenient, readable};
use super::objects::{Kind, Object, ObjectKey, Owner, Transport};

/// `"false"` keeps Segue away.
const MANAGE: &str = "segue.dev/manage";

/// Ports of one object that are read; the API server allows about as many.
const MAX_PORTS: usize = 250;

/// An object of some kind as it is on the wire.
pub(super) trait Wire: Lenient + Clone + Debug + Send + Sync + 'static {
    /// What it is.
    const KIND: Kind;
    /// Its API group; empty for the oldest.
    const GROUP: &'static str;
    /// The version of the group.
    const VERSION: &'static str;
    /// `kind`.
    const NAME: &'static str;

    /// Its metadata.
    fn meta(&self) -> &Meta;

    /// What becomes of it on this node; `None` where it is of no use.
    fn object(&self, key: ObjectKey, node: &str) -> Option<Object>;
}

/// The metadata of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    namespace: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    uid: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "lenient")]
    resource_version: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    creation_timestamp: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    generation: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(deserialize_with = "lenient")]
    annotations: BTreeMap<Box<str>, Box<str>>,
}

/// A reference to what owns an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference {
    #[serde(deserialize_with = "lenient")]
    kind: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    controller: Option<bool>,
}
readable!(Meta, OwnerReference);

impl Meta {
    /// What names the object; `None` where it has no usable name.
    fn key(&self) -> Option<ObjectKey> {
        let name = self.name.as_deref().filter(|name| is_name(name))?;
        let namespace = self.namespace.as_deref().unwrap_or_default();
        (namespace.is_empty() || is_name(namespace))
            .then(|| ObjectKey { namespace: namespace.into(), name: name.into() })
    }

    /// What controls the object.
    fn owner(&self) -> Option<Owner> {
        let owner = self.owner_references.iter().find(|owner| owner.controller == Some(true))?;
        let name = owner.name.as_deref().filter(|name| is_name(name))?;
        let kind = owner.kind.as_deref().filter(|kind| !kind.is_empty() && kind.len() <= 253)?;
        Some(Owner { kind: kind.into(), name: name.into() })
    }

    /// Whether it says `segue.dev/manage: "false"`.
    fn is_left_alone(&self) -> bool {
        [&self.annotations, &self.labels]
            .iter()
            .any(|said| said.get(MANAGE).is_some_and(|value| &**value == "false"))
    }
}

/// An object as `kube` hands it over.
#[derive(Clone, Debug)]
pub(super) struct Seen<W> {
    standard: ObjectMeta,
    wire: W,
}

impl<W: Wire> Seen<W> {
    /// What names it; `None` where it has no usable name.
    pub(super) fn key(&self) -> Option<ObjectKey> {
        self.wire.meta().key()
    }

    /// Segue's own form of it; `None` where it is of no use.
    pub(super) fn object(&self, node: &str) -> Option<Object> {
        self.wire.object(self.key()?, node)
    }
}

impl<'de, W: Wire> Deserialize<'de> for Seen<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire: W = lenient(deserializer)?;
        let meta = wire.meta();
        let standard = ObjectMeta {
            name: meta.name.as_deref().map(Into::into),
            namespace: meta.namespace.as_deref().map(Into::into),
            resource_version: meta.resource_version.as_deref().map(Into::into),
            ..ObjectMeta::default()
        };
        Ok(Self { standard, wire })
    }
}

impl<W: Wire> Resource for Seen<W> {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        W::NAME.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        W::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        W::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        W::KIND.name().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.standard
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.standard
    }
}

/// A name as any object may have: what is none cannot have come from an API server.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(inner)
}

/// A transport; without a name it is TCP.
fn transport(name: Option<&str>) -> Option<Transport> {
    match name {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

/// A port, where it can be one.
fn port(number: Option<i64>) -> Option<u16> {
    number.and_then(|number| u16::try_from(number).ok()).filter(|&port| port != 0)
}

#[cfg(test)]
mod tests;
