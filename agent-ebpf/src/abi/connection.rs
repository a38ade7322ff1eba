//! What a socket remembers about the service it talks to, in socket-local storage: it goes when the socket goes.

use super::address::Endpoint;
use super::breaker::Probe;
use super::limits::MAX_TRANSLATIONS;
use super::named_enum;

named_enum! {
    /// How far a connection came.
    pub enum Phase {
        /// Not counted: never chosen, or already released.
        Released = 0 => "released",
        /// Counted at `connect()`; for TCP, no SYN has left yet.
        Reserved = 1 => "reserved",
        /// A SYN is on its way.
        Connecting = 2 => "connecting",
        /// The handshake is done (TCP), or the socket is connected (UDP).
        Established = 3 => "established",
    }
}

/// Value of `CONNECTIONS`: one connected socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// What the application asked for.
    pub requested: Endpoint,
    /// Where the connection goes.
    pub chosen: Endpoint,
    /// The service's id.
    pub service: u32,
    /// The backend's id.
    pub backend: u32,
    /// The generation of the backend's id.
    pub backend_generation: u32,
    /// The backend's version id.
    pub version: u32,
    /// The client's cgroup (leaf).
    pub cgroup: u64,
    /// When `connect()` was called, on the monotonic clock.
    pub started_at_ns: u64,
    /// A [`Phase`] by number.
    pub phase: u8,
    /// A protocol by number.
    pub protocol: u8,
    /// [`CLOSED_BY_APPLICATION`], [`TIMED_OUT`], [`PROVED_GOOD`], [`TIME_LIMITED`], [`RESET_BY_POLICY`],
    /// [`COUNTED_BY_SERVICE`] and [`JUDGED_BY_ANSWERS`].
    pub marks: u8,
    /// The TCP state in which the application closed the socket.
    pub state_at_close: u8,
    /// Bytes received, modulo 2³², when the peer acknowledged this side's FIN.
    pub received_at_fin_low: u32,
    /// What it was admitted as, by its backend's breaker.
    pub probe: Probe,
    /// The application's own `TCP_USER_TIMEOUT`, in milliseconds, while the handshake has a limit of ours.
    pub user_timeout_ms: u32,
    /// The client whose limit it counts towards, as in `ClientKey`; 0: none's.
    pub client: u64,
}

const _: () = assert!(size_of::<Connection>() == 96);

/// The application gave up its last handle of the socket.
pub const CLOSED_BY_APPLICATION: u8 = 1;
/// The kernel gave up retransmitting.
pub const TIMED_OUT: u8 = 2;

/// The backend's answers were seen, and its breaker was told.
pub const PROVED_GOOD: u8 = 4;

/// The handshake has a time limit of ours, to be lifted when it is done.
pub const TIME_LIMITED: u8 = 8;

/// Its backend is out for longer than the policy lets connections live: the agent was told to reset it.
pub const RESET_BY_POLICY: u8 = 16;

/// It counts towards the limits of its service.
pub const COUNTED_BY_SERVICE: u8 = 32;

/// A request was understood on it, and its service's breaker judges answers: that bytes came back is no merit any more.
pub const JUDGED_BY_ANSWERS: u8 = 64;

/// One service an unconnected UDP socket talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// What the application sends to.
    pub requested: Endpoint,
    /// Where its datagrams go.
    pub chosen: Endpoint,
    /// The service's id.
    pub service: u32,
    /// The backend's id.
    pub backend: u32,
    /// The generation of the backend's id.
    pub backend_generation: u32,
}

const _: () = assert!(size_of::<Translation>() == 52);

/// Value of `DATAGRAMS`: the services an unconnected UDP socket talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// The translations; one that is not in use has a zero port.
    pub translations: [Translation; MAX_TRANSLATIONS],
    /// Which one gives way next.
    pub next: u32,
}

const _: () = assert!(size_of::<Datagrams>() == 52 * MAX_TRANSLATIONS + 4);
