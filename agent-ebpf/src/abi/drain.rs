//! What becomes of the open connections of a backend that is out: since when it is, when they are reset, and which
//! sockets they belong to.

use super::address::Endpoint;

/// Bits of the period, which is in milliseconds: up to [`Drain::MAX_AFTER_MS`].
const AFTER_BITS: u32 = 26;

/// Since when a backend is out, and how long after that its open connections are reset. One aligned 64-bit word: the
/// agent replaces it in one store, and a new agent goes on from it. Zero: they are kept.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain(pub u64);

impl Drain {
    /// Connections are kept.
    pub const NONE: Self = Self(0);

    /// The longest period there is room for, in milliseconds: more than 18 hours.
    pub const MAX_AFTER_MS: u64 = (1 << AFTER_BITS) - 1;

    /// Out since a moment of the monotonic clock, kept to a millisecond (rounded up, so that what was opened before is
    /// older); connections are reset so many milliseconds later, [`Drain::MAX_AFTER_MS`] at most.
    pub const fn new(since_ns: u64, after_ms: u64) -> Self {
        let after_ms = if after_ms > Self::MAX_AFTER_MS { Self::MAX_AFTER_MS } else { after_ms };
        let since_ms = since_ns.div_ceil(1_000_000);
        // A backend cannot be out since the moment the machine was switched on; zero means something else.
        Self(((if since_ms == 0 { 1 } else { since_ms }) << AFTER_BITS) | after_ms)
    }

    /// Since when the backend is out, on the monotonic clock in nanoseconds.
    #[inline(always)]
    pub const fn since_ns(self) -> u64 {
        (self.0 >> AFTER_BITS) * 1_000_000
    }

    /// When connections are reset, on the monotonic clock in nanoseconds.
    #[inline(always)]
    pub const fn deadline_ns(self) -> u64 {
        self.since_ns() + (self.0 & Self::MAX_AFTER_MS) * 1_000_000
    }
}

/// One record of the walk over connections that are due to be reset: what names this very socket and no other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenSocket {
    /// The kernel's number of the socket, never used twice. 0: it has none.
    pub cookie: u64,
    /// The service's id.
    pub service: u32,
    /// The backend's id.
    pub backend: u32,
    /// The generation of the backend's id.
    pub backend_generation: u32,
    /// The inode number of the socket's network namespace, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// The address and port on this side.
    pub local: Endpoint,
    /// Where the socket is connected now; nothing where it is not.
    pub remote: Endpoint,
    /// Where this connection was sent.
    pub chosen: Endpoint,
    /// The interface the socket is bound to, 0 for none.
    pub interface: u32,
    /// A `Protocol` by number.
    pub protocol: u8,
    /// The socket's state, numbered as TCP states are.
    pub state: u8,
    /// Zero.
    pub _pad: [u8; 6],
}

const _: () = assert!(size_of::<OpenSocket>() == 96);

/// Where the kernel keeps what the walk reads of a socket, in bytes; found out by the loader.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `skc_family` of a `struct sock_common`.
    pub family: u32,
    /// `skc_daddr`
    pub remote_v4: u32,
    /// `skc_rcv_saddr`
    pub local_v4: u32,
    /// `skc_v6_daddr`
    pub remote_v6: u32,
    /// `skc_v6_rcv_saddr`
    pub local_v6: u32,
    /// `skc_dport`
    pub remote_port: u32,
    /// `skc_num`
    pub local_port: u32,
    /// `skc_bound_dev_if`
    pub interface: u32,
    /// `skc_cookie`
    pub cookie: u32,
    /// `skc_net`, which points to a `struct net`.
    pub net: u32,
    /// `ns.inum` of a `struct net`.
    pub net_inode: u32,
}

const _: () = assert!(size_of::<SocketOffsets>() == 44);
