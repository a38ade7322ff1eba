//! The limits a policy can set on connections, and what the kernel keeps to hold them.

/// Limits on connections to one backend, one service or from one client. 0: no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections reserved and not yet released.
    pub max_connections: u32,
    /// Connections whose handshake is not done.
    pub max_pending: u32,
    /// New connections per second, on average.
    pub rate_per_second: u32,
    /// New connections at once, after a rest long enough. With a rate but 0 here: 1; at most 2²⁹.
    pub rate_burst: u32,
}

const _: () = assert!(size_of::<Limits>() == 16);

/// A token bucket. Instead of tokens and a time it keeps the one time at which it will be full, in sixteenths of a
/// nanosecond of the monotonic clock: 0, and any time that has passed, is a full bucket.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateWord(pub u64);
