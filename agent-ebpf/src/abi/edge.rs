//! What the kernel counts per edge: from one client cgroup to one version of one service.

use super::named_enum;

/// Buckets of a histogram: bucket *k* counts durations up to 16 µs × 2^*k*; the last bound is 33.5 s. One more
/// cell holds what was longer.
pub const HISTOGRAM_BUCKETS: usize = 22;

/// Key of `EDGES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    /// The client's cgroup (leaf); the agent folds leaves into workloads.
    pub cgroup: u64,
    /// The service's id.
    pub service: u32,
    /// The version's id, 0 without one.
    pub version: u32,
}

const _: () = assert!(size_of::<EdgeKey>() == 16);

named_enum! {
    /// Why an established connection ended.
    pub enum CloseReason {
        /// Both sides said they were done.
        Fin = 0 => "fin",
        /// This side reset it.
        RstLocal = 1 => "rst_local",
        /// The other side reset it.
        RstRemote = 2 => "rst_remote",
        /// Retransmission gave up.
        Timeout = 3 => "timeout",
        /// None of these could be told.
        Other = 4 => "other",
        /// Its backend was out for as long as the policy lets connections live.
        Drained = 5 => "drained",
    }
}

named_enum! {
    /// Why a connection was not established.
    pub enum ConnectFailure {
        /// The backend answered with a reset.
        Refused = 0 => "refused",
        /// No answer to any SYN.
        Timeout = 1 => "timeout",
        /// The network said there is no way there.
        Unreachable = 2 => "unreachable",
        /// Known service, nothing usable: refused before a SYN.
        NoBackend = 3 => "no_backend",
        /// The application gave up, or no SYN could leave this host.
        Local = 4 => "local",
        /// Its backend was out for as long as the policy lets connections live.
        Drained = 5 => "drained",
    }
}

/// A distribution of durations.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Sum of all durations, in nanoseconds.
    pub sum_ns: u64,
    /// Counts per bucket, not cumulative; the last is what exceeded every bound.
    pub buckets: [u64; HISTOGRAM_BUCKETS + 1],
}

const _: () = assert!(size_of::<Histogram>() == 8 * (HISTOGRAM_BUCKETS + 2));

/// Value of `EDGES`, one per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Connections established.
    pub opened: u64,
    /// Connections ended, by [`CloseReason`].
    pub closed: [u64; 6],
    /// Connections not established, by [`ConnectFailure`].
    pub failed: [u64; 6],
    /// Payload bytes the backend acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes received from the backend.
    pub received_bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// From `connect()` to the end of a handshake that succeeded.
    pub connect: Histogram,
    /// From `connect()` to the failure.
    pub connect_failed: Histogram,
    /// The smoothed round-trip time, sampled when a connection ends and while it is open.
    pub rtt: Histogram,
}

const _: () = assert!(size_of::<Edge>() == 8 * 16 + 3 * size_of::<Histogram>());
