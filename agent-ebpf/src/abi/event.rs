//! One record of the event ring: a connection that opened, failed or closed.

use super::address::Endpoint;
use super::named_enum;

named_enum! {
    /// What happened. What happens to connections is sent only while somebody follows.
    pub enum EventKind {
        /// A connection was established.
        Opened = 0 => "opened",
        /// A connection was not established; `reason` is a `ConnectFailure`.
        Failed = 1 => "failed",
        /// A connection ended; `reason` is a `CloseReason`.
        Closed = 2 => "closed",
        /// A breaker of a backend changed its state; `reason` is a `TransitionReason`, `states` from and to. Always sent.
        Breaker = 3 => "breaker",
    }
}

/// A record of the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When it happened, on the monotonic clock.
    pub at_ns: u64,
    /// How long the handshake took (opened, failed) or the connection lasted (closed).
    pub duration_ns: u64,
    /// The client's cgroup (leaf).
    pub cgroup: u64,
    /// Payload bytes the backend acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes received from the backend.
    pub received_bytes: u64,
    /// What the application asked for.
    pub requested: Endpoint,
    /// Where the connection went.
    pub chosen: Endpoint,
    /// The service's id.
    pub service: u32,
    /// The backend's id.
    pub backend: u32,
    /// The version's id.
    pub version: u32,
    /// The smoothed round-trip time, in microseconds; 0 where none is known.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// An [`EventKind`] by number.
    pub kind: u8,
    /// A `ConnectFailure` or `CloseReason` by number, after `kind`.
    pub reason: u8,
    /// A protocol by number.
    pub protocol: u8,
    /// The breaker's states: before in the high half, after in the low half.
    pub states: u8,
}

const _: () = assert!(size_of::<Event>() == 104);
