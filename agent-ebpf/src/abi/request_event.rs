//! Records of the ring of requests: what is told of a single one, while somebody wants it.
//!
//! Two kinds, told apart by their first word. What the application said comes when the request begins, the rest when its
//! answer does; the socket's cookie and the sequence number say which belong together.

use super::address::Endpoint;
use super::named_enum;

named_enum! {
    /// The first word of a record.
    pub enum RequestRecord {
        /// The beginning of a request as it was sent: a [`RequestHead`].
        Head = 0 => "head",
        /// A request that was answered: a [`RequestEvent`].
        Answered = 1 => "answered",
    }
}

/// What both sides of a connection know of a request, whatever network lies between them that translates no addresses: who
/// talks to whom, and where in the client's bytes it begins (RFC 9293, section 3.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestPlace {
    /// The client's end, as in packets at this socket.
    pub client: Endpoint,
    /// The server's end.
    pub server: Endpoint,
    /// The TCP sequence number of its first byte.
    pub sequence: u32,
}

const _: () = assert!(size_of::<RequestPlace>() == 44);

/// A request that was answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestEvent {
    /// [`RequestRecord::Answered`].
    pub kind: u32,
    /// The lot it drew: see `decide::trace::lot`.
    pub lot: u32,
    /// When its first byte was sent or received, on the monotonic clock.
    pub asked_at_ns: u64,
    /// From then to the first byte of its answer.
    pub duration_ns: u64,
    /// The cgroup (leaf) of the client (outbound) or the server (inbound).
    pub cgroup: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// Where it is.
    pub place: RequestPlace,
    /// The address the application asked for; zero inbound.
    pub requested: Endpoint,
    /// The service's id; 0 inbound.
    pub service: u32,
    /// The backend's version id.
    pub version: u32,
    /// The status of the answer, by the protocol's numbers.
    pub status: u16,
    /// An `AppProtocol` by number.
    pub protocol: u8,
    /// What was asked for, by the protocol's numbers.
    pub operation: u8,
    /// A `Direction` by number.
    pub direction: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<RequestEvent>() == 120);

/// Bytes of a request that are told of it: what stands in the first ones is what an application adds to trace it.
pub const TOLD_BYTES: usize = 2_048;

/// The beginning of a request as it was sent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RequestHead {
    /// [`RequestRecord::Head`].
    pub kind: u32,
    /// As in [`RequestPlace`].
    pub sequence: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// How many of the bytes are its own. What follows them is of records before.
    pub length: u32,
    /// Zero.
    pub _pad: u32,
    /// The bytes, in the order in which they were sent.
    pub bytes: [u8; TOLD_BYTES],
}

const _: () = assert!(size_of::<RequestHead>() == 24 + TOLD_BYTES);
