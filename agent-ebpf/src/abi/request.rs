//! What the kernel keeps of requests: the state of one socket's exchange, and counts by who asked whom for what.
//!
//! Knows the layouts, and nothing of how a protocol reads; that is `decide::l7`.

use super::edge::Histogram;
use super::named_enum;

named_enum! {
    /// What is spoken on a connection.
    pub enum AppProtocol {
        /// Not known yet, or none that is understood.
        Unknown = 0 => "unknown",
        /// HTTP/1.0 and HTTP/1.1.
        Http1 = 1 => "http1",
        /// HTTP/2 (RFC 9113).
        Http2 = 2 => "http2",
        /// gRPC, which HTTP/2 carries.
        Grpc = 3 => "grpc",
        /// RESP, what Redis and its kin speak.
        Redis = 4 => "redis",
        /// PostgreSQL's protocol, version 3.
        Postgresql = 5 => "postgresql",
        /// MySQL's and MariaDB's.
        Mysql = 6 => "mysql",
        /// Kafka's.
        Kafka = 7 => "kafka",
        /// Names of the Domain Name System (RFC 1035).
        Dns = 8 => "dns",
    }
}

named_enum! {
    /// Which side of a connection this node's socket is.
    pub enum Direction {
        /// It asks: a client of a service.
        Outbound = 0 => "outbound",
        /// It answers: a server in the managed cgroup.
        Inbound = 1 => "inbound",
    }
}

named_enum! {
    /// How far an exchange is.
    pub enum Stage {
        /// No request is under way, and none was before.
        Idle = 0 => "idle",
        /// A request began and waits for its answer.
        Asked = 1 => "asked",
        /// As before, after an interim answer (1xx).
        Interim = 2 => "interim",
        /// The answer began. What follows is the rest of it, or the next request.
        Answered = 3 => "answered",
        /// Nothing more is learnt from this connection.
        Ended = 4 => "ended",
    }
}

named_enum! {
    /// Why something on a connection was not counted as a request. Each is counted once per connection.
    pub enum Unparsed {
        /// What is spoken is none of the protocols that are understood.
        OtherProtocol = 0 => "other_protocol",
        /// The connection was open before it was looked at; it is followed from its next request on.
        Joined = 1 => "joined",
        /// The client asked again before it was answered: which answer is whose is not followed.
        Pipelined = 2 => "pipelined",
        /// After requests that were understood came something that is none.
        Malformed = 3 => "malformed",
        /// The connection became something else, as asked for (`Upgrade`, `CONNECT`).
        Upgraded = 4 => "upgraded",
        /// The table of counts was full.
        TableFull = 5 => "table_full",
        /// The socket could not remember its exchange.
        NoMemory = 6 => "no_memory",
        /// More lookups waited on one socket than are remembered: one was forgotten.
        Crowded = 7 => "crowded",
        /// The answer to a lookup that nobody waited for any more.
        Unasked = 8 => "unasked",
        /// Segments came out of order, and a part of what was said was not seen, or there was no time to look at it. HTTP/2 is
        /// followed from its next frame on, and this counted each time.
        Gap = 9 => "gap",
        /// More streams of one connection were under way than are followed. Counted for each such stream.
        TooManyStreams = 10 => "too_many_streams",
        /// The client asked for TLS or compression by the protocol's own means, and what follows is not read.
        Opaque = 11 => "opaque",
        /// TLS that was to be read does not reach its socket while OpenSSL is called, or none that was seen: whose requests these are
        /// is not known.
        NoSocket = 12 => "no_socket",
        /// HTTP/2 inside TLS, which is not followed.
        Http2InTls = 13 => "http2_in_tls",
    }
}

/// Where one direction of a connection's bytes has been read to. Segments come again, overlap, and on the receiving
/// side come out of order: what counts is the sequence number (RFC 9293, section 3.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The sequence number of the next byte.
    pub next: u32,
    /// Bytes from here to `ahead_end` came before their turn. Equal: none did.
    pub ahead_start: u32,
    /// See `ahead_start`.
    pub ahead_end: u32,
}

const _: () = assert!(size_of::<Position>() == 12);

/// Bytes of the beginning of a message that are kept until it can be told. Twice as many fit, so that what is added
/// needs no look at how much is there.
pub const HEAD_BYTES: usize = 16;

/// Value of `EXCHANGES`: what a socket remembers of its requests. What each packet needs comes first: with the kernel's own
/// word before it, that is one cache line, and the two programs of a socket mostly run on different CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When the request began, on the monotonic clock.
    pub asked_at_ns: u64,
    /// The cgroup (leaf) of the client (outbound) or the server (inbound).
    pub cgroup: u64,
    /// The service's id; 0 inbound.
    pub service: u32,
    /// The backend's version id.
    pub version: u32,
    /// What this side sent.
    pub sent: Position,
    /// What it received.
    pub received: Position,
    /// Length of a request that was found to be one and alone; the next of the same length is not looked through. 0 for
    /// one that is longer than this tells.
    pub single_bytes: u16,
    /// An [`AppProtocol`] by number.
    pub protocol: u8,
    /// A [`Direction`] by number.
    pub direction: u8,
    /// A [`Stage`] by number.
    pub stage: u8,
    /// What is asked for, by number, as [`operation_name`](super::operation_name) reads it.
    pub operation: u8,
    /// [`READ_SENT`], [`READ_RECEIVED`], [`JOINED_LATE`], [`UNDERSTOOD`], [`SEALED`], [`ANSWERED_SEALED`], [`IN_TLS`].
    pub marks: u8,
    /// Bytes in `head`.
    pub head_length: u8,
    /// Beginning of a message that is not complete enough to be told, of whichever side is to speak; the rest zero.
    pub head: [u64; HEAD_BYTES / 4],
    /// Times a client that was joined late said something that is no request.
    pub doubts: u32,
    /// The server's port, in network byte order; 0 outbound, where the service names it.
    pub port_be: u16,
    /// Zero.
    pub _pad: u16,
    /// The sequence number of the first byte of the request.
    pub asked_sequence: u32,
    /// Zero.
    pub _pad_end: u32,
}

const _: () = assert!(core::mem::offset_of!(Exchange, head) <= 56);
const _: () = assert!(size_of::<Exchange>() == 104);

/// Something was read of what this side sent: `sent` holds.
pub const READ_SENT: u8 = 1;
/// Something was read of what it received: `received` holds.
pub const READ_RECEIVED: u8 = 2;
/// The connection was open before it was looked at.
pub const JOINED_LATE: u8 = 4;
/// A request was answered on it as its protocol has it.
pub const UNDERSTOOD: u8 = 8;
/// The client began TLS, while what is said inside it may be read: the exchange has ended for those who read packets.
pub const SEALED: u8 = 16;
/// As before, and the server answered.
pub const ANSWERED_SEALED: u8 = 32;
/// What is said is read inside TLS. `head` then says where, as [`TlsKey`](super::TlsKey) does: the `SSL`, the process, and
/// the socket's cookie.
pub const IN_TLS: u8 = 64;

/// Pieces of what a client says on a connection that was joined late which may be the rest of a request: 64 are 4 MiB where
/// the kernel hands them on by 64 KiB. After so many it is another protocol.
pub const MAX_DOUBTS: u32 = 64;

/// Programs that read packets on a CPU at the same time: one that sends for a process, interrupted by one that receives or
/// answers in a soft interrupt; one more where the kernel lets the first be preempted.
pub const SCRATCHES: u32 = 3;

/// Value of `SCRATCH`, [`SCRATCHES`] per CPU: what a program reads of a packet, as its stack has no room and its functions
/// pass numbers only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// The first bytes of what was said, the rest zero.
    pub head: [u8; 2 * HEAD_BYTES],
    /// More of it.
    pub bytes: [u8; SCAN_BYTES],
    /// How many programs hold it, or are about to find that another does.
    pub taken: u64,
}

const _: () = assert!(size_of::<Scratch>() == 2 * HEAD_BYTES + SCAN_BYTES + 8);

/// How far into a request is looked whether another follows. Most are shorter; of one that is longer the first is counted.
pub const SCAN_BYTES: usize = 1_024;

/// Key of `REQUESTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    /// The cgroup (leaf) of the client (outbound) or the server (inbound).
    pub cgroup: u64,
    /// The service's id; 0 inbound.
    pub service: u32,
    /// The backend's version id.
    pub version: u32,
    /// The server's port, in network byte order; 0 outbound.
    pub port_be: u16,
    /// The status of the answer, as [`StatusName`](super::StatusName) reads it.
    pub status: u16,
    /// An [`AppProtocol`] by number.
    pub protocol: u8,
    /// A [`Direction`] by number.
    pub direction: u8,
    /// What was asked for, by number, as [`operation_name`](super::operation_name) reads it.
    pub operation: u8,
    /// Zero.
    pub _pad: u8,
}

const _: () = assert!(size_of::<RequestKey>() == 24);

/// Value of `REQUESTS`, one per CPU: how long it took from the first byte of each request to the first byte of its
/// answer. The number of requests is that of the durations.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests(pub Histogram);
