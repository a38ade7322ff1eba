//! Routes of the Gateway API, where they are attached to Services: shares by weight. Connections are all that is seen here,
//! so a route that looks at requests cannot be carried out.

use std::sync::Arc;

use serde::Deserialize;

use super::super::lenient::{lenient, readable};
use super::super::objects::{Kind, Object, ObjectKey, Route, RouteBackend, RouteParent};
use super::{Meta, Wire, is_name, port};

/// Parents and backends that are read; the Gateway API allows no more.
const MAX_REFERENCES: usize = 32;
/// The largest weight that the Gateway API allows.
const MAX_WEIGHT: i64 = 1_000_000;

/// An HTTPRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct HttpRouteWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    spec: Spec,
}

/// A TCPRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct TcpRouteWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "lenient")]
    parent_refs: Vec<Reference>,
    #[serde(deserialize_with = "lenient")]
    hostnames: Vec<Option<Box<str>>>,
    #[serde(deserialize_with = "lenient")]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    #[serde(deserialize_with = "lenient")]
    matches: Vec<Match>,
    #[serde(deserialize_with = "lenient")]
    filters: Vec<Anything>,
    #[serde(deserialize_with = "lenient")]
    backend_refs: Vec<Reference>,
}

/// A match of an HTTPRoute. One for every path is what the API server adds where there is none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Match {
    #[serde(deserialize_with = "lenient")]
    path: PathMatch,
    #[serde(deserialize_with = "lenient")]
    headers: Vec<Anything>,
    #[serde(deserialize_with = "lenient")]
    query_params: Vec<Anything>,
    #[serde(deserialize_with = "lenient")]
    method: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PathMatch {
    #[serde(rename = "type", deserialize_with = "lenient")]
    match_type: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    value: Option<Box<str>>,
}

/// Something whose presence is all that counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Anything {}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference {
    #[serde(deserialize_with = "lenient")]
    group: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    kind: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    namespace: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    section_name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    port: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    weight: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    filters: Vec<Anything>,
}
readable!(HttpRouteWire, TcpRouteWire, Spec, Rule, Match, PathMatch, Anything, Reference);

impl Wire for HttpRouteWire {
    const KIND: Kind = Kind::HttpRoute;
    const GROUP: &'static str = "gateway.networking.k8s.io";
    const VERSION: &'static str = "v1";
    const NAME: &'static str = "HTTPRoute";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, _: &str) -> Option<Object> {
        self.spec.route(key, &self.metadata, true)
    }
}

impl Wire for TcpRouteWire {
    const KIND: Kind = Kind::TcpRoute;
    const GROUP: &'static str = "gateway.networking.k8s.io";
    const VERSION: &'static str = "v1alpha2";
    const NAME: &'static str = "TCPRoute";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, _: &str) -> Option<Object> {
        self.spec.route(key, &self.metadata, false)
    }
}

impl Spec {
    /// `None` where no parent is a Service: it is some gateway's.
    fn route(&self, key: ObjectKey, meta: &Meta, is_http: bool) -> Option<Object> {
        let parents: Vec<RouteParent> = self
            .parent_refs
            .iter()
            .take(MAX_REFERENCES)
            .filter(|it| it.kind.as_deref() == Some("Service"))
            .filter(|it| matches!(it.group.as_deref(), Some("" | "core")))
            .filter_map(|it| {
                Some(RouteParent {
                    service: it.service(&key)?,
                    section: it.section_name.as_deref().map(Into::into),
                    port: port(it.port),
                })
            })
            .collect();
        if parents.is_empty() {
            return None;
        }
        let references = self.rules.first().map(|rule| &rule.backend_refs[..]).unwrap_or_default();
        let backends = references.iter().take(MAX_REFERENCES).filter_map(|it| {
            Some(RouteBackend {
                service: it.service(&key)?,
                port: port(it.port),
                weight: u32::try_from(it.weight.unwrap_or(1).clamp(0, MAX_WEIGHT)).unwrap_or_default(),
            })
        });
        Some(Object::Route(Route {
            backends: backends.collect(),
            obstacle: self.obstacle().map(Into::into),
            created: meta.creation_timestamp.as_deref().unwrap_or_default().into(),
            key,
            is_http,
            parents,
        }))
    }

    fn obstacle(&self) -> Option<&'static str> {
        let [rule] = &self.rules[..] else {
            return Some("has not exactly one rule; connections are shared out by one");
        };
        let has_filters =
            || rule.filters.iter().chain(rule.backend_refs.iter().flat_map(|it| &it.filters)).count() > 0;
        if !self.hostnames.is_empty() {
            Some("looks at host names, and Segue sees connections, no requests; remove `hostnames`")
        } else if !rule.matches.iter().all(Match::is_everything) {
            Some("matches some requests, and Segue sees connections, no requests; remove `matches`")
        } else if has_filters() {
            Some("has filters, and Segue sees connections, no requests; remove `filters`")
        } else if rule.backend_refs.is_empty() {
            Some("names no backend; add `backendRefs`")
        } else if rule.backend_refs.iter().any(|it| it.service_name().is_none()) {
            Some("names a backend that is no Service; name Services")
        } else {
            None
        }
    }
}

impl Match {
    fn is_everything(&self) -> bool {
        let path = &self.path;
        let is_prefix = matches!(path.match_type.as_deref(), None | Some("PathPrefix"));
        let is_root = matches!(path.value.as_deref(), None | Some("/"));
        is_prefix
            && is_root
            && self.headers.is_empty()
            && self.query_params.is_empty()
            && self.method.is_none()
    }
}

impl Reference {
    fn service_name(&self) -> Option<&str> {
        let is_service = matches!(self.group.as_deref(), None | Some("" | "core"))
            && matches!(self.kind.as_deref(), None | Some("Service"));
        self.name.as_deref().filter(|name| is_service && is_name(name))
    }

    fn service(&self, from: &ObjectKey) -> Option<ObjectKey> {
        let namespace = match self.namespace.as_deref() {
            None => Arc::clone(&from.namespace),
            Some(namespace) if is_name(namespace) => namespace.into(),
            Some(_) => return None,
        };
        Some(ObjectKey { namespace, name: self.service_name()?.into() })
    }
}
