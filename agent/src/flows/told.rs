//! What a program tells of a single request, decoded from the ring of requests.
//!
//! Decoding reads bytes by their place in [`RequestEvent`] and never panics, whatever they hold. Knows no name.

use agent_ebpf::abi::{
    AppProtocol, Direction, RequestEvent, RequestHead, RequestPlace, RequestRecord as Kind, StatusName,
    operation_name,
};
use agent_ebpf::decide::l7::is_server_error;

use super::fields::Fields;
use super::record::DecodeError;

/// A record of the ring of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// A request began, in a connection that will be told of again when it is answered.
    Head {
        /// The socket's cookie.
        cookie: u64,
        /// The TCP sequence number of the request's first byte.
        sequence: u32,
        /// Its first bytes.
        bytes: &'a [u8],
    },
    /// A request was answered.
    Answered(Answered),
}

/// A request that was answered. Its numbers are ones this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// All of it as the program wrote it.
    pub event: RequestEvent,
    /// What was spoken.
    pub protocol: AppProtocol,
    /// Which side this node's socket is.
    pub direction: Direction,
}

impl Answered {
    /// What was asked for, by the protocol's words.
    pub fn operation(&self) -> &'static str {
        operation_name(self.protocol, self.event.operation)
    }

    /// What the answer was, by the protocol's words.
    pub fn status(&self) -> String {
        StatusName { protocol: self.protocol, status: self.event.status }.to_string()
    }

    /// The answer was the server's fault.
    pub const fn is_server_error(&self) -> bool {
        is_server_error(self.protocol, self.event.status)
    }
}

impl<'a> Told<'a> {
    /// The record in `bytes`, which are one entry of the ring.
    ///
    /// # Errors
    /// Bytes of another length, or with numbers this build does not know.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(bytes);
        let kind = fields.u32();
        match u8::try_from(kind).ok().and_then(Kind::from_raw) {
            Some(Kind::Head) => {
                let expected = size_of::<RequestHead>();
                if bytes.len() != expected {
                    return Err(DecodeError::Length { expected, found: bytes.len() });
                }
                let (sequence, cookie, length) = (fields.u32(), fields.u64(), fields.u32());
                let _zero = fields.u32();
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(fields.0.len());
                Ok(Self::Head { cookie, sequence, bytes: &fields.0[..length] })
            }
            Some(Kind::Answered) => answered(kind, bytes, &mut fields).map(Self::Answered),
            None => Err(DecodeError::Unknown {
                field: "kind",
                number: bytes.first().copied().unwrap_or_default(),
            }),
        }
    }
}

fn answered(kind: u32, bytes: &[u8], fields: &mut Fields<'_>) -> Result<Answered, DecodeError> {
    if bytes.len() != size_of::<RequestEvent>() {
        return Err(DecodeError::Length { expected: size_of::<RequestEvent>(), found: bytes.len() });
    }
    // Fields of a struct expression are evaluated in the order written: that of the layout.
    let event = RequestEvent {
        kind,
        lot: fields.u32(),
        asked_at_ns: fields.u64(),
        duration_ns: fields.u64(),
        cgroup: fields.u64(),
        cookie: fields.u64(),
        place: RequestPlace { client: fields.endpoint(), server: fields.endpoint(), sequence: fields.u32() },
        requested: fields.endpoint(),
        service: fields.u32(),
        version: fields.u32(),
        status: fields.u16(),
        protocol: fields.u8(),
        operation: fields.u8(),
        direction: fields.u8(),
        _pad: fields.bytes(),
    };
    let unknown = |field, number| DecodeError::Unknown { field, number };
    Ok(Answered {
        protocol: AppProtocol::from_raw(event.protocol).ok_or(unknown("protocol", event.protocol))?,
        direction: Direction::from_raw(event.direction).ok_or(unknown("direction", event.direction))?,
        event,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;

    use agent_ebpf::abi::Endpoint;
    use proptest::prelude::*;

    use super::*;

    fn end(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().expect("an address").into()
    }

    /// A request over HTTP/1 to a service, of which this node has the client.
    pub(crate) fn event() -> RequestEvent {
        RequestEvent {
            kind: Kind::Answered as u32,
            lot: 0x8000_0000,
            asked_at_ns: 1_500_000_000,
            duration_ns: 2_000_000,
            cgroup: 42,
            cookie: 77,
            place: RequestPlace {
                client: end("10.0.0.1:40000"),
                server: end("10.1.0.7:8443"),
                sequence: 0xdead_beef,
            },
            requested: end("10.96.0.10:443"),
            service: 7,
            version: 2,
            status: 503,
            protocol: AppProtocol::Http1 as u8,
            operation: 1,
            direction: Direction::Outbound as u8,
            _pad: [0; 3],
        }
    }

    /// The bytes a program would write.
    pub(crate) fn written(event: &RequestEvent) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(event.kind.to_ne_bytes());
        bytes.extend(event.lot.to_ne_bytes());
        for number in [event.asked_at_ns, event.duration_ns, event.cgroup, event.cookie] {
            bytes.extend(number.to_ne_bytes());
        }
        let put_end = |bytes: &mut Vec<u8>, end: &Endpoint| {
            end.address.words_be.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
            bytes.extend(end.port_be.to_ne_bytes());
            bytes.extend([0; 2]);
        };
        put_end(&mut bytes, &event.place.client);
        put_end(&mut bytes, &event.place.server);
        bytes.extend(event.place.sequence.to_ne_bytes());
        put_end(&mut bytes, &event.requested);
        bytes.extend(event.service.to_ne_bytes());
        bytes.extend(event.version.to_ne_bytes());
        bytes.extend(event.status.to_ne_bytes());
        bytes.extend([event.protocol, event.operation, event.direction, 0, 0, 0]);
        bytes
    }

    #[test]
    fn every_field_of_a_request_arrives_in_its_place() {
        let bytes = written(&event());
        assert_eq!(bytes.len(), size_of::<RequestEvent>());
        // The layout as the compiler sees it.
        for (offset, number) in [
            (std::mem::offset_of!(RequestEvent, cookie), 77_u64),
            (std::mem::offset_of!(RequestEvent, duration_ns), 2_000_000),
        ] {
            assert_eq!(bytes[offset..offset + 8], number.to_ne_bytes());
        }
        assert_eq!(bytes[std::mem::offset_of!(RequestEvent, operation)], 1);
        let expected =
            Answered { event: event(), protocol: AppProtocol::Http1, direction: Direction::Outbound };
        assert_eq!(Told::decode(&bytes), Ok(Told::Answered(expected)));
    }

    /// How a request begins, as a program would write it; behind it something else stands.
    pub(crate) fn written_head(cookie: u64, sequence: u32, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((Kind::Head as u32).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(cookie.to_ne_bytes());
        bytes.extend(u32::try_from(text.len()).expect("short").to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(text.bytes());
        bytes.resize(size_of::<RequestHead>(), b'?');
        bytes
    }

    #[test]
    fn a_head_is_as_long_as_it_says() {
        let mut bytes = written_head(77, 9, "GET /");
        assert_eq!(Told::decode(&bytes), Ok(Told::Head { cookie: 77, sequence: 9, bytes: b"GET /" }));
        let length = std::mem::offset_of!(RequestHead, length);
        bytes[length..length + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        let Ok(Told::Head { bytes: all, .. }) = Told::decode(&bytes) else { panic!("a head") };
        assert_eq!(all.len(), agent_ebpf::abi::request_event::TOLD_BYTES, "and no longer than its record");
        bytes.pop();
        assert!(matches!(Told::decode(&bytes), Err(DecodeError::Length { .. })));
    }

    #[test]
    fn numbers_of_another_build_are_refused_by_name() {
        let refused = |event: RequestEvent| Told::decode(&written(&event)).map(drop);
        let unknown = |field, number| Err(DecodeError::Unknown { field, number });
        assert_eq!(refused(RequestEvent { protocol: 200, ..event() }), unknown("protocol", 200));
        assert_eq!(refused(RequestEvent { direction: 9, ..event() }), unknown("direction", 9));
        assert_eq!(refused(RequestEvent { kind: 5, ..event() }), unknown("kind", 5));
        assert!(Told::decode(&written(&event())[1..]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..3) {
            let _ = Told::decode(&bytes);
            let mut bytes = bytes;
            if let Some(first) = bytes.get_mut(..4) {
                first.copy_from_slice(&u32::from(kind).to_ne_bytes());
            }
            let _ = Told::decode(&bytes);
        }
    }
}
