//! What the kernel keeps of DNS lookups: those that wait for their answer, and how far a message is read.
//!
//! Knows the layouts, and nothing of how a message reads; that is `decide::l7::dns`.

use super::named_enum;
use super::request::{Position, SCRATCHES};

/// The port of DNS (RFC 1035, section 4.2), over UDP and TCP.
pub const DNS_PORT: u16 = 53;

named_enum! {
    /// What a lookup asks for. The numbers of those that have a name here are IANA's.
    pub enum RecordType {
        /// Any other.
        Other = 0 => "_OTHER",
        /// An IPv4 address (RFC 1035).
        A = 1 => "A",
        /// A name server (RFC 1035).
        Ns = 2 => "NS",
        /// The canonical name (RFC 1035).
        Cname = 5 => "CNAME",
        /// The start of a zone (RFC 1035).
        Soa = 6 => "SOA",
        /// A name for an address (RFC 1035).
        Ptr = 12 => "PTR",
        /// A mail exchange (RFC 1035).
        Mx = 15 => "MX",
        /// Text (RFC 1035).
        Txt = 16 => "TXT",
        /// An IPv6 address (RFC 3596).
        Aaaa = 28 => "AAAA",
        /// Where a service is (RFC 2782).
        Srv = 33 => "SRV",
        /// How names are rewritten (RFC 3403).
        Naptr = 35 => "NAPTR",
        /// How a service is reached (RFC 9460).
        Svcb = 64 => "SVCB",
        /// How a web server is reached (RFC 9460).
        Https = 65 => "HTTPS",
        /// Everything there is (RFC 1035, RFC 8482).
        Any = 255 => "ANY",
    }
}

named_enum! {
    /// How a lookup ended. The numbers are those of the answer's header (RFC 1035, section 4.1.1; RFC 2136, section 2.2);
    /// what EDNS adds to them (RFC 6891) is not read.
    pub enum LookupStatus {
        /// Answered, perhaps with nothing.
        NoError = 0 => "NOERROR",
        /// The server could not read the question.
        FormErr = 1 => "FORMERR",
        /// The server failed.
        ServFail = 2 => "SERVFAIL",
        /// There is no such name.
        NxDomain = 3 => "NXDOMAIN",
        /// The server does not know how.
        NotImp = 4 => "NOTIMP",
        /// The server does not want to.
        Refused = 5 => "REFUSED",
        /// A name is there that should not be.
        YxDomain = 6 => "YXDOMAIN",
        /// Records are there that should not be.
        YxRrSet = 7 => "YXRRSET",
        /// Records are not there that should be.
        NxRrSet = 8 => "NXRRSET",
        /// The server is not the one for the zone.
        NotAuth = 9 => "NOTAUTH",
        /// The name is not of the zone.
        NotZone = 10 => "NOTZONE",
        /// Any other number.
        Other = 15 => "_OTHER",
        /// No answer came: the lookup was repeated or given up, or has waited for [`PATIENCE_NS`].
        NoAnswer = 255 => "no_answer",
    }
}

/// Lookups that wait on one socket, to one server or of one set of clients. glibc asks two at a time from a socket; what
/// forwards for others asks more, and then some are not followed.
pub const PLACES: usize = 8;

/// Sets of [`PLACES`] on a server's socket: its clients are many.
pub const SETS: usize = 8;

/// After so long a lookup has no answer: twice the time after which a resolver asks again by default (`RES_TIMEOUT`).
pub const PATIENCE_NS: u64 = 10_000_000_000;

/// What a lookup is told by while it waits for its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// When it was asked, on the monotonic clock; 0: nobody is here.
    pub asked_at_ns: u64,
    /// Its number and the other side, as `decide::l7::dns::pending::key` packs them.
    pub key: u64,
}

const _: () = assert!(size_of::<Waiting>() == 16);

/// One lookup that waits for its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// What it is told by.
    pub waiting: Waiting,
    /// The cgroup (leaf) of the client (outbound) or the server (inbound).
    pub cgroup: u64,
    /// The service's id; 0 inbound, and where the server belongs to none.
    pub service: u32,
    /// The backend's version id.
    pub version: u32,
    /// A [`RecordType`] by number.
    pub record_type: u8,
    /// A `Direction` by number.
    pub direction: u8,
    /// Zero.
    pub _pad: [u8; 6],
}

const _: () = assert!(size_of::<Lookup>() == 40);

/// Value of `LOOKUPS`: what waits on a client's socket, or on a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookups {
    /// One each.
    pub places: [Lookup; PLACES],
}

const _: () = assert!(size_of::<Lookups>() == 320);

/// Value of `SERVED_LOOKUPS`: what waits on a server's datagram socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedLookups {
    /// Each for a part of the clients.
    pub sets: [Lookups; SETS],
}

const _: () = assert!(size_of::<ServedLookups>() == 2_560);

named_enum! {
    /// What the next byte of a message that matters is.
    pub enum ReadingStep {
        /// The upper byte of the length that is before each message on a connection (RFC 1035, section 4.2.2).
        LengthHigh = 0 => "length_high",
        /// Its lower byte.
        LengthLow = 1 => "length_low",
        /// The upper byte of the number by which answers are told apart.
        IdHigh = 2 => "id_high",
        /// Its lower byte.
        IdLow = 3 => "id_low",
        /// The upper byte of the flags.
        FlagsHigh = 4 => "flags_high",
        /// Their lower byte.
        FlagsLow = 5 => "flags_low",
        /// The upper byte of the number of questions.
        QuestionsHigh = 6 => "questions_high",
        /// Its lower byte.
        QuestionsLow = 7 => "questions_low",
        /// The length of a label of the name.
        Label = 8 => "label",
        /// The upper byte of the type.
        TypeHigh = 9 => "type_high",
        /// Its lower byte.
        TypeLow = 10 => "type_low",
    }
}

/// How far a message is read, of one side of one connection or of a datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes to pass over before the next that matters.
    pub skip: u16,
    /// Bytes of the message behind that one.
    pub rest: u16,
    /// The message's number.
    pub id: u16,
    /// Its flags.
    pub flags: u16,
    /// The upper byte of what is being read, as a number.
    pub high: u16,
    /// Bytes of the name so far.
    pub name_bytes: u16,
    /// A [`ReadingStep`] by number.
    pub step: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<Reading>() == 16);

/// Value of `LOOKUP_STREAMS`: a connection to or of a server of names.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupStream {
    /// What the client says.
    pub questions: Reading,
    /// What the server says.
    pub answers: Reading,
    /// What this side sent.
    pub sent: Position,
    /// What it received.
    pub received: Position,
    /// `READ_SENT` and `READ_RECEIVED` of requests.
    pub marks: u8,
    /// A `Direction` by number.
    pub direction: u8,
    /// 1: nothing more is learnt from this connection.
    pub is_ended: u8,
    /// Zero.
    pub _pad: u8,
}

const _: () = assert!(size_of::<LookupStream>() == 60);

/// Bytes of a message that are looked at in one go. The question ends within 273: the length, the header, a name of 255
/// bytes, the type.
pub const ROOM_BYTES: usize = 512;

/// Programs that read messages on a CPU at the same time: as many as read packets at all.
pub const ROOMS: u32 = SCRATCHES;

/// Value of `LOOKUP_ROOM`, [`ROOMS`] per CPU: what is read of a packet, and how far.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LookupRoom {
    /// How far the message is read.
    pub reading: Reading,
    /// Bytes that were read or passed over.
    pub read: u64,
    /// Who waits, for a function to choose among.
    pub waiting: [Waiting; PLACES],
    /// What there is of it.
    pub bytes: [u8; ROOM_BYTES],
    /// How many programs hold it, or are about to find that another does.
    pub taken: u64,
}

const _: () = assert!(size_of::<LookupRoom>() == 32 + 16 * PLACES + ROOM_BYTES);

/// Messages that are looked at in one segment of a connection. A client asks two at a time; a segment with more is that of
/// somebody who asks for many, and the connection is not followed any further.
pub const MAX_MESSAGES: u32 = 4;
