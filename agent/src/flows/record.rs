//! One connection that opened, failed or closed: decoded from the event ring, with names filled in.
//!
//! Decoding reads bytes by their place in [`agent_ebpf::abi::Event`] and never panics, whatever they hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{
    AppProtocol, BreakerState, CloseReason, ConnectFailure, Direction, Event, EventKind, Protocol,
    TransitionReason,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Names;
use super::fields::Fields;
use super::identity::{UNKNOWN, Workload};
use super::named;
use super::told::Answered;
use crate::rollout::Cause;

/// Bytes that are no event of this build's programs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the size of an event.
    #[error(
        "an event of {found} bytes where {expected} were expected; do agent and kernel programs belong together?"
    )]
    Length {
        /// Size of an event, in bytes.
        expected: usize,
        /// Size of what came, in bytes.
        found: usize,
    },
    /// A number without a meaning.
    #[error("an event with {field} {number}, which this agent does not know; are the kernel programs newer?")]
    Unknown {
        /// `kind`, `reason` or `protocol`.
        field: &'static str,
        /// The number.
        number: u8,
    },
}

/// What happened to a connection, a backend or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "reason", rename_all = "snake_case")]
pub enum Happening {
    /// It was established.
    Opened,
    /// It was not established.
    #[serde(with = "named::connect_failure")]
    Failed(ConnectFailure),
    /// It ended.
    #[serde(with = "named::close_reason")]
    Closed(CloseReason),
    /// A request that a workload of this node made on it was answered.
    Request,
    /// A request that a workload of this node got on it was answered. The client is whoever is at the other end.
    Served,
    /// The backend's breaker opened: it gets no more connections. About the backend, not about one connection.
    #[serde(with = "named::transition_reason")]
    BreakerOpened(TransitionReason),
    /// The backend's breaker lets a few connections through, as probes.
    #[serde(with = "named::transition_reason")]
    BreakerHalfOpen(TransitionReason),
    /// The backend's breaker closed: it gets connections again.
    #[serde(with = "named::transition_reason")]
    BreakerClosed(TransitionReason),
    /// The service's canary gets the share of its next step. This and what follows is about the service.
    RolloutSteppedUp,
    /// The service's canary gets every connection.
    RolloutPromoted,
    /// The service's canary gets no more connections.
    RolloutRolledBack(Cause),
    /// The share of the service's canary stays as it is.
    RolloutPaused,
    /// The share of the service's canary grows again.
    RolloutResumed,
}

impl Happening {
    /// The name of the event.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => EventKind::Opened.name(),
            Self::Failed(_) => EventKind::Failed.name(),
            Self::Closed(_) => EventKind::Closed.name(),
            Self::Request => "request",
            Self::Served => "served",
            Self::BreakerOpened(_) => "breaker_opened",
            Self::BreakerHalfOpen(_) => "breaker_half_open",
            Self::BreakerClosed(_) => "breaker_closed",
            Self::RolloutSteppedUp => "rollout_stepped_up",
            Self::RolloutPromoted => "rollout_promoted",
            Self::RolloutRolledBack(_) => "rollout_rolled_back",
            Self::RolloutPaused => "rollout_paused",
            Self::RolloutResumed => "rollout_resumed",
        }
    }

    /// A breaker changed its state.
    pub const fn is_of_breaker(self) -> bool {
        matches!(self, Self::BreakerOpened(_) | Self::BreakerHalfOpen(_) | Self::BreakerClosed(_))
    }

    /// It is about one request.
    pub const fn is_of_request(self) -> bool {
        matches!(self, Self::Request | Self::Served)
    }

    /// It is about a service and nobody's connection.
    pub const fn is_of_service(self) -> bool {
        match self {
            Self::RolloutSteppedUp
            | Self::RolloutPromoted
            | Self::RolloutRolledBack(_)
            | Self::RolloutPaused
            | Self::RolloutResumed => true,
            Self::Opened
            | Self::Failed(_)
            | Self::Closed(_)
            | Self::Request
            | Self::Served
            | Self::BreakerOpened(_)
            | Self::BreakerHalfOpen(_)
            | Self::BreakerClosed(_) => false,
        }
    }

    /// The reason's name; empty for what needs none.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Opened
            | Self::Request
            | Self::Served
            | Self::RolloutSteppedUp
            | Self::RolloutPromoted
            | Self::RolloutPaused
            | Self::RolloutResumed => "",
            Self::RolloutRolledBack(cause) => cause.name(),
            Self::Failed(reason) => reason.name(),
            Self::Closed(reason) => reason.name(),
            Self::BreakerOpened(reason) | Self::BreakerHalfOpen(reason) | Self::BreakerClosed(reason) => {
                reason.name()
            }
        }
    }
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestPart {
    /// What was spoken.
    #[serde(with = "named::app_protocol")]
    pub protocol: AppProtocol,
    /// What was asked for, by the protocol's words.
    pub operation: Arc<str>,
    /// What the answer was, by the protocol's words.
    pub status: Arc<str>,
    /// The same by its number.
    pub code: u16,
    /// The answer was the server's fault.
    pub is_error: bool,
    /// Where the client's end of the connection is.
    pub peer: SocketAddr,
}

/// One event of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it happened, by the wall clock.
    pub time: Timestamp,
    /// What happened, and why: `event` is `opened`, `failed` or `closed`, `reason` goes with the last two.
    #[serde(flatten)]
    pub happening: Happening,
    /// Who connects.
    pub client: Arc<Workload>,
    /// The service's full name.
    pub service: Arc<str>,
    /// The version of the backend; null where it has none.
    pub version: Option<Arc<str>>,
    /// `tcp` or `udp`.
    #[serde(with = "named::protocol")]
    pub protocol: Protocol,
    /// The address the application asked for.
    pub requested: SocketAddr,
    /// The backend's address; null where none was chosen.
    pub backend: Option<SocketAddr>,
    /// How long the handshake took (opened, failed) or the connection lasted (closed), in nanoseconds.
    pub duration_ns: u64,
    /// Payload bytes the backend acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes received from the backend.
    pub received_bytes: u64,
    /// TCP segments sent again.
    pub retransmits: u32,
    /// The smoothed round-trip time, in microseconds; null where none is known.
    pub rtt_us: Option<u32>,
    /// The request; absent in events that are about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<RequestPart>>,
}

impl Record {
    /// The record in `bytes`, which are one entry of the event ring. `monotonic_zero` is the wall-clock time at
    /// which the monotonic clock of the kernel programs read zero.
    ///
    /// # Errors
    /// Bytes of another length, or with numbers this build does not know.
    pub fn decode(
        bytes: &[u8],
        monotonic_zero: Timestamp,
        names: &mut dyn Names,
    ) -> Result<Self, DecodeError> {
        let event = event_of(bytes)?;
        let happening = happening_of(&event)?;
        let protocol = Protocol::from_raw(event.protocol)
            .ok_or(DecodeError::Unknown { field: "protocol", number: event.protocol })?;
        let version = match event.version {
            0 => None,
            id => Some(names.version(event.service, id).unwrap_or_else(|| UNKNOWN.into())),
        };
        let backend = SocketAddr::from(event.chosen);
        Ok(Self {
            time: monotonic_zero.checked_add(Duration::from_nanos(event.at_ns)).unwrap_or(monotonic_zero),
            happening,
            client: names.client(event.cgroup).workload,
            service: names.service(event.service).map_or_else(|| UNKNOWN.into(), |label| label.name),
            version,
            protocol,
            requested: event.requested.into(),
            backend: (backend.port() != 0).then_some(backend),
            duration_ns: event.duration_ns,
            sent_bytes: event.sent_bytes,
            received_bytes: event.received_bytes,
            retransmits: event.retransmits,
            rtt_us: (event.rtt_us != 0).then_some(event.rtt_us),
            request: None,
        })
    }

    /// The record of a request that was answered; its time is that of the answer.
    pub fn of_request(answered: &Answered, monotonic_zero: Timestamp, names: &mut dyn Names) -> Self {
        let event = &answered.event;
        let at = Duration::from_nanos(event.asked_at_ns.saturating_add(event.duration_ns));
        let (client, server): (SocketAddr, SocketAddr) =
            (event.place.client.into(), event.place.server.into());
        let workload = names.client(event.cgroup).workload;
        let request = RequestPart {
            protocol: answered.protocol,
            operation: answered.operation().into(),
            status: answered.status().into(),
            code: event.status,
            is_error: answered.is_server_error(),
            peer: client,
        };
        let (happening, client, service) = match answered.direction {
            Direction::Outbound => {
                let service = names.service(event.service).map_or_else(|| UNKNOWN.into(), |label| label.name);
                (Happening::Request, workload, service)
            }
            // Who asks is on some other node, or outside: known by its address only.
            Direction::Inbound => {
                let service = format!("{}/{}", workload.namespace, workload.name);
                (Happening::Served, Arc::new(Workload::unknown()), service.into())
            }
        };
        let version = match event.version {
            0 => None,
            id => Some(names.version(event.service, id).unwrap_or_else(|| UNKNOWN.into())),
        };
        Self {
            time: monotonic_zero.checked_add(at).unwrap_or(monotonic_zero),
            happening,
            client,
            service,
            version,
            protocol: Protocol::Tcp,
            requested: if event.requested.port_be == 0 { server } else { event.requested.into() },
            backend: Some(server),
            duration_ns: event.duration_ns,
            sent_bytes: 0,
            received_bytes: 0,
            retransmits: 0,
            rtt_us: None,
            request: Some(Box::new(request)),
        }
    }
}

fn happening_of(event: &Event) -> Result<Happening, DecodeError> {
    let unknown = |field, number| DecodeError::Unknown { field, number };
    let reason = unknown("reason", event.reason);
    match EventKind::from_raw(event.kind) {
        Some(EventKind::Opened) => Ok(Happening::Opened),
        Some(EventKind::Failed) => {
            ConnectFailure::from_raw(event.reason).map(Happening::Failed).ok_or(reason)
        }
        Some(EventKind::Closed) => CloseReason::from_raw(event.reason).map(Happening::Closed).ok_or(reason),
        Some(EventKind::Breaker) => {
            let reason = TransitionReason::from_raw(event.reason).ok_or(reason)?;
            match BreakerState::from_raw(event.states & 0xf) {
                Some(BreakerState::Open) => Ok(Happening::BreakerOpened(reason)),
                Some(BreakerState::HalfOpen) => Ok(Happening::BreakerHalfOpen(reason)),
                Some(BreakerState::Closed) => Ok(Happening::BreakerClosed(reason)),
                None => Err(unknown("states", event.states)),
            }
        }
        None => Err(unknown("kind", event.kind)),
    }
}

fn event_of(bytes: &[u8]) -> Result<Event, DecodeError> {
    if bytes.len() != size_of::<Event>() {
        return Err(DecodeError::Length { expected: size_of::<Event>(), found: bytes.len() });
    }
    let mut fields = Fields(bytes);
    // Fields of a struct expression are evaluated in the order written: that of the layout.
    Ok(Event {
        at_ns: fields.u64(),
        duration_ns: fields.u64(),
        cgroup: fields.u64(),
        sent_bytes: fields.u64(),
        received_bytes: fields.u64(),
        requested: fields.endpoint(),
        chosen: fields.endpoint(),
        service: fields.u32(),
        backend: fields.u32(),
        version: fields.u32(),
        rtt_us: fields.u32(),
        retransmits: fields.u32(),
        kind: fields.u8(),
        reason: fields.u8(),
        protocol: fields.u8(),
        states: fields.u8(),
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use agent_ebpf::abi::Endpoint;
    use proptest::prelude::*;

    use super::*;
    use crate::flows::{Client, ServiceLabel, identity};

    struct Shop;

    impl Names for Shop {
        fn client(&mut self, cgroup: u64) -> Client {
            let path = if cgroup == 42 { "/system.slice/nginx.service" } else { "/elsewhere" };
            Client { workload: Arc::new(identity::workload_of(path)), live: true, is_provisional: false }
        }
        fn is_live(&self, _: &Workload) -> bool {
            true
        }
        fn service(&self, id: u32) -> Option<ServiceLabel> {
            (id == 7).then(|| ServiceLabel { name: "shop/payment".into(), port: 443 })
        }
        fn version(&self, _service: u32, id: u32) -> Option<Arc<str>> {
            (id == 2).then(|| "v2".into())
        }
    }

    /// An event as the kernel writes it, each field put at the offset the compiler gives it.
    fn written(kind: u8, reason: u8) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Event>()];
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(offset_of!(Event, at_ns), &1_500_000_000_u64.to_ne_bytes());
        put(offset_of!(Event, duration_ns), &2_000_u64.to_ne_bytes());
        put(offset_of!(Event, cgroup), &42_u64.to_ne_bytes());
        put(offset_of!(Event, sent_bytes), &11_u64.to_ne_bytes());
        put(offset_of!(Event, received_bytes), &12_u64.to_ne_bytes());
        for (offset, socket) in
            [(offset_of!(Event, requested), "10.96.0.10:443"), (offset_of!(Event, chosen), "[fd00::5]:8443")]
        {
            let endpoint = Endpoint::from(socket.parse::<SocketAddr>().expect("a socket address"));
            for (index, word) in (0..).zip(endpoint.address.words_be) {
                put(offset + 4 * index, &word.to_ne_bytes());
            }
            put(offset + offset_of!(Endpoint, port_be), &endpoint.port_be.to_ne_bytes());
        }
        put(offset_of!(Event, service), &7_u32.to_ne_bytes());
        put(offset_of!(Event, backend), &9_u32.to_ne_bytes());
        put(offset_of!(Event, version), &2_u32.to_ne_bytes());
        put(offset_of!(Event, rtt_us), &350_u32.to_ne_bytes());
        put(offset_of!(Event, retransmits), &3_u32.to_ne_bytes());
        put(offset_of!(Event, kind), &[kind]);
        put(offset_of!(Event, reason), &[reason]);
        put(offset_of!(Event, protocol), &[Protocol::Tcp as u8]);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        Record::decode(bytes, Timestamp::UNIX_EPOCH, &mut Shop)
    }

    #[test]
    fn every_field_of_an_event_arrives_under_its_name() {
        let record = decode(&written(2, 2)).expect("a whole event");
        let expected = Record {
            time: "1970-01-01T00:00:01.5Z".parse().expect("a time"),
            happening: Happening::Closed(CloseReason::RstRemote),
            client: Arc::new(identity::workload_of("/system.slice/nginx.service")),
            service: "shop/payment".into(),
            version: Some("v2".into()),
            protocol: Protocol::Tcp,
            requested: "10.96.0.10:443".parse().expect("an address"),
            backend: Some("[fd00::5]:8443".parse().expect("an address")),
            duration_ns: 2_000,
            sent_bytes: 11,
            received_bytes: 12,
            retransmits: 3,
            rtt_us: Some(350),
            request: None,
        };
        assert_eq!(record, expected);
    }

    #[test]
    fn a_record_comes_back_equal_from_json() {
        for (kind, reason) in [(0, 0), (1, 1), (2, 3)] {
            let record = decode(&written(kind, reason)).expect("a whole event");
            let json = serde_json::to_string(&record).expect("plain values");
            assert_eq!(serde_json::from_str::<Record>(&json).expect("its own output"), record, "{json}");
        }
        let json =
            serde_json::to_value(decode(&written(1, 0)).expect("a whole event")).expect("plain values");
        assert_eq!((&json["event"], &json["reason"]), (&"failed".into(), &"refused".into()));
    }

    #[test]
    fn a_request_is_of_its_client_to_a_service_or_of_its_server_from_somewhere() {
        use crate::flows::told::tests::{event, written};
        use crate::flows::{Answered, Told};
        let of = |event: agent_ebpf::abi::RequestEvent| match Told::decode(&written(&event)) {
            Ok(Told::Answered(answered)) => answered,
            other => panic!("{other:?}"),
        };
        let record = |answered: &Answered| Record::of_request(answered, Timestamp::UNIX_EPOCH, &mut Shop);
        let asked = record(&of(event()));
        assert_eq!(
            (asked.happening, &*asked.service, &*asked.client.name),
            (Happening::Request, "shop/payment", "nginx")
        );
        assert_eq!(asked.requested, "10.96.0.10:443".parse().expect("an address"));
        assert_eq!(asked.time, "1970-01-01T00:00:01.502Z".parse().expect("a time"), "when it was answered");
        let request = asked.request.clone().expect("a request");
        assert_eq!((&*request.operation, &*request.status, request.is_error), ("GET", "503", true));
        let json = serde_json::to_string(&asked).expect("plain values");
        assert_eq!(serde_json::from_str::<Record>(&json).expect("its own output"), asked, "{json}");

        let inbound = agent_ebpf::abi::RequestEvent {
            direction: Direction::Inbound as u8,
            service: 0,
            version: 0,
            requested: Endpoint::default(),
            ..event()
        };
        let served = record(&of(inbound));
        assert_eq!((served.happening, &*served.service), (Happening::Served, "host/nginx"));
        assert_eq!(
            (&*served.client.name, served.requested),
            (UNKNOWN, "10.1.0.7:8443".parse().expect("an address"))
        );
        assert_eq!(served.request.expect("a request").peer, "10.0.0.1:40000".parse().expect("an address"));
    }

    #[test]
    fn numbers_and_lengths_of_another_build_are_refused_by_name() {
        assert_eq!(decode(&written(9, 0)), Err(DecodeError::Unknown { field: "kind", number: 9 }));
        assert_eq!(decode(&written(1, 200)), Err(DecodeError::Unknown { field: "reason", number: 200 }));
        assert_eq!(decode(&[0; 103]), Err(DecodeError::Length { expected: 104, found: 103 }));
    }

    #[test]
    fn a_failure_without_a_backend_has_none() {
        let mut bytes = written(1, 3);
        bytes[offset_of!(Event, chosen)..][..size_of::<Endpoint>()].fill(0);
        assert_eq!(decode(&bytes).expect("a whole event").backend, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let right_size = bytes.len() == size_of::<Event>();
            prop_assert!(right_size || decode(&bytes).is_err());
        }

        #[test]
        fn any_event_with_known_numbers_decodes(
            mut bytes in prop::collection::vec(any::<u8>(), 104), kind in 0_u8..3, reason in 0_u8..5, udp in any::<bool>()
        ) {
            bytes[offset_of!(Event, kind)] = kind;
            bytes[offset_of!(Event, reason)] = reason;
            bytes[offset_of!(Event, protocol)] = if udp { 17 } else { 6 };
            prop_assert!(decode(&bytes).is_ok());
        }
    }
}
