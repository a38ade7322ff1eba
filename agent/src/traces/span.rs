//! One side of one request, as OpenTelemetry describes it: its semantic conventions for HTTP spans, database clients, RPC and
//! messaging, version 1.37.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::operation::OTHER;
use agent_ebpf::abi::{AppProtocol, Direction};
use agent_ebpf::decide::trace;
use jiff::Timestamp;

use super::context::Beginning;
use crate::flows::{Answered, Names, Workload};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// One side of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Whose it is: who asked (outbound), or who answered.
    pub workload: Arc<Workload>,
    /// The cgroup it was named by.
    pub cgroup: u64,
    /// Which side it is.
    pub direction: Direction,
    /// The trace; not zero.
    pub trace_id: u128,
    /// The span; not zero.
    pub id: u64,
    /// The span in which it was made: of the application that asked, or of the client on the other side.
    pub parent_id: Option<u64>,
    /// What was done, without anything that differs from request to request.
    pub name: String,
    /// When the first byte of the request was sent or received.
    pub start: Timestamp,
    /// When the first byte of the answer was.
    pub end: Timestamp,
    /// It failed, by what the conventions call so on this side.
    pub is_error: bool,
    /// What else is known, by the names of the conventions.
    pub attributes: Vec<(&'static str, Value)>,
}

/// Whether programs tell how requests of a protocol begin.
pub(super) const fn has_head(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http1)
}

impl Span {
    /// The span of a request that was answered.
    pub(super) fn of(
        answered: &Answered,
        beginning: &Beginning,
        workload: Arc<Workload>,
        monotonic_zero: Timestamp,
        names: &mut dyn Names,
    ) -> Self {
        let event = &answered.event;
        let client_id = trace::client_span_id(&event.place);
        let told = beginning.context;
        let (id, parent_id) = match answered.direction {
            Direction::Outbound => (client_id, told.map(|context| context.parent_id)),
            Direction::Inbound => (trace::server_span_id(&event.place), Some(client_id)),
        };
        let at = |ns| monotonic_zero.checked_add(Duration::from_nanos(ns)).unwrap_or(monotonic_zero);
        let mut attributes = Vec::new();
        spoken(answered, beginning, &mut attributes);
        ends(answered, names, &mut attributes);
        Self {
            workload,
            cgroup: event.cgroup,
            direction: answered.direction,
            trace_id: told.map_or_else(|| trace::trace_id(&event.place), |context| context.trace_id),
            id,
            parent_id,
            name: name(answered),
            start: at(event.asked_at_ns),
            end: at(event.asked_at_ns.saturating_add(event.duration_ns)),
            is_error: is_error(answered),
            attributes,
        }
    }
}

/// The span's name: the operation, as no route is known.
fn name(answered: &Answered) -> String {
    match answered.operation() {
        // "HTTP" is what the conventions want for methods that have no name.
        OTHER if is_http(answered.protocol) => "HTTP".to_owned(),
        OTHER => answered.protocol.name().to_owned(),
        operation => operation.to_owned(),
    }
}

/// What the conventions call an error: of HTTP, an answer of 500 or more, and on the client's side of 400 or more.
fn is_error(answered: &Answered) -> bool {
    let of_client = is_http(answered.protocol)
        && answered.direction == Direction::Outbound
        && (400..600).contains(&answered.event.status);
    of_client || answered.is_server_error()
}

/// Attributes of the protocol: what was asked and answered.
fn spoken(answered: &Answered, beginning: &Beginning, attributes: &mut Vec<(&'static str, Value)>) {
    let mut add = |name, value: Value| attributes.push((name, value));
    let (operation, status) = (answered.operation(), answered.status());
    if is_error(answered) {
        add("error.type", status.clone().into());
    }
    if is_http(answered.protocol) {
        add("http.request.method", operation.into());
        add("http.response.status_code", answered.event.status.into());
        add("network.protocol.name", "http".into());
        if answered.protocol == AppProtocol::Http2 {
            add("network.protocol.version", "2".into());
        } else if let Some(minor) = beginning.minor_version {
            add("network.protocol.version", format!("1.{minor}").into());
        }
        if answered.direction == Direction::Inbound {
            add("url.scheme", "http".into());
        }
        if let Some(path) = &beginning.path {
            add("url.path", path.as_str().into());
        }
        return;
    }
    add("network.protocol.name", answered.protocol.name().into());
    let operation = Some(operation).filter(|operation| *operation != OTHER);
    match answered.protocol {
        AppProtocol::Grpc => {
            add("rpc.system", "grpc".into());
            add("rpc.grpc.status_code", answered.event.status.into());
        }
        AppProtocol::Redis | AppProtocol::Postgresql | AppProtocol::Mysql => {
            add("db.system.name", answered.protocol.name().into());
            operation.into_iter().for_each(|operation| add("db.operation.name", operation.into()));
            if answered.is_server_error() {
                add("db.response.status_code", status.into());
            }
        }
        AppProtocol::Kafka => {
            add("messaging.system", "kafka".into());
            operation.into_iter().for_each(|operation| add("messaging.operation.name", operation.into()));
        }
        AppProtocol::Unknown | AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Dns => {}
    }
}

/// Attributes of the two ends: the address that was asked for, and the one at the other end of the connection.
fn ends(answered: &Answered, names: &mut dyn Names, attributes: &mut Vec<(&'static str, Value)>) {
    let event = &answered.event;
    let (client, server): (SocketAddr, SocketAddr) = (event.place.client.into(), event.place.server.into());
    let asked = match answered.direction {
        Direction::Outbound if event.requested.port_be != 0 => event.requested.into(),
        _ => server,
    };
    let peer = if answered.direction == Direction::Outbound { server } else { client };
    let mut add = |name, value: Value| attributes.push((name, value));
    add("server.address", asked.ip().to_string().into());
    add("server.port", asked.port().into());
    add("network.peer.address", peer.ip().to_string().into());
    add("network.peer.port", peer.port().into());
    add("network.transport", "tcp".into());
    add("network.type", if peer.is_ipv4() { "ipv4".into() } else { "ipv6".into() });
    match answered.direction {
        Direction::Inbound => add("client.address", client.ip().to_string().into()),
        Direction::Outbound => {
            if let Some(service) = names.service(event.service) {
                add("peer.service", (*service.name).into());
            }
            if let Some(version) = names.version(event.service, event.version) {
                add("segue.version", (*version).into());
            }
        }
    }
}

/// Whether its numbers are methods and statuses of HTTP.
fn is_http(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http1 | AppProtocol::Http2)
}
