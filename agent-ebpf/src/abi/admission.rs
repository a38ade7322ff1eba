//! The limits a policy can set on connections, and what the kernel keeps to hold them.

use super::edge::ConnectFailure;
use super::named_enum;

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

/// All limits of a service. The agent writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceLimits {
    /// On connections to each backend.
    pub backend: Limits,
    /// On connections to the service.
    pub service: Limits,
    /// On connections of each client (a pod or a unit) to the service.
    pub client: Limits,
}

const _: () = assert!(size_of::<ServiceLimits>() == 48);

impl ServiceLimits {
    /// What [`Policy::marks`](super::Policy::marks) says of these limits.
    pub fn scopes(&self) -> u8 {
        let bit = |limits: Limits, bit| if limits == Limits::default() { 0 } else { bit };
        bit(self.backend, PER_BACKEND) | bit(self.service, PER_SERVICE) | bit(self.client, PER_CLIENT)
    }
}

/// Connections to each backend are limited.
pub const PER_BACKEND: u8 = 1;
/// Connections to the service are limited.
pub const PER_SERVICE: u8 = 2;
/// Connections of each client are limited.
pub const PER_CLIENT: u8 = 4;

named_enum! {
    /// A limit that can be reached.
    pub enum Limit {
        /// Connections to one backend.
        BackendConnections = 0 => "backend_connections",
        /// Connections to one backend whose handshake is not done.
        BackendPending = 1 => "backend_pending",
        /// New connections per second to one backend.
        BackendRate = 2 => "backend_rate",
        /// Connections to the service.
        ServiceConnections = 3 => "service_connections",
        /// Connections to the service whose handshake is not done.
        ServicePending = 4 => "service_pending",
        /// New connections per second to the service.
        ServiceRate = 5 => "service_rate",
        /// Connections of one client to the service.
        ClientConnections = 6 => "client_connections",
        /// Connections of one client to the service whose handshake is not done.
        ClientPending = 7 => "client_pending",
        /// New connections per second of one client to the service.
        ClientRate = 8 => "client_rate",
    }
}

/// How many limits there are.
pub const LIMITS: usize = 9;
const _: () = assert!(Limit::ALL.len() == LIMITS);

impl Limit {
    /// Why a connection failed that was refused for this limit. By number, since programs keep it as one.
    #[inline(always)]
    pub const fn failure(number: u32) -> ConnectFailure {
        if number >= Self::ClientConnections as u32 {
            ConnectFailure::ClientLimit
        } else if number >= Self::ServiceConnections as u32 {
            ConnectFailure::ServiceLimit
        } else {
            ConnectFailure::BackendLimit
        }
    }
}

/// What is in use of a limit: part of `SERVICE_STATE`, and the value of `CLIENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections taken under a limit and not yet released.
    pub active: u64,
    /// Of those, connections whose handshake is under way.
    pub pending: u64,
    /// The bucket of the rate.
    pub rate: RateWord,
}

const _: () = assert!(size_of::<Usage>() == 24);

/// Key of `CLIENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey {
    /// The client: id of its workload's cgroup (pod or unit).
    pub client: u64,
    /// The service's id.
    pub service: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<ClientKey>() == 16);

impl ClientKey {
    /// A client of a service.
    #[inline(always)]
    pub const fn new(client: u64, service: u32) -> Self {
        Self { client, service, _pad: 0 }
    }
}
