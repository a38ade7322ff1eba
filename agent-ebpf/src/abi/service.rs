//! Services, policies, slots and backends: the tables the agent writes and the state the kernel keeps per entry.

use super::address::Endpoint;
use super::admission::{LIMITS, RateWord, ServiceLimits, Usage};
use super::breaker::{BreakerMode, BreakerPolicy, CellWord, WindowWord};
use super::drain::Drain;
use super::limits::{MAX_SUBSETS, WINDOW_BUCKETS};
use super::load::LatencyWord;
use super::named_enum;
use super::other::Shift;

named_enum! {
    /// How a backend is chosen among the slots of a subset.
    pub enum Algorithm {
        /// Each connection goes to a random backend, in proportion to the weights.
        Random = 0 => "random",
        /// Connections go round the backends in a fixed sequence in which weights are interleaved.
        RoundRobin = 1 => "round_robin",
        /// A client keeps its backend while it is there; losing one backend moves few other clients.
        Maglev = 2 => "maglev",
        /// Of two random backends, the one with fewer open connections.
        LeastConnections = 3 => "least_connections",
        /// Of two random backends, the one with the lower product of connect latency and open connections.
        PeakEwma = 4 => "peak_ewma",
    }
}

/// Value of `SERVICES`: which policy record is in force. One aligned 64-bit word, so that the agent replaces a
/// service in a single store and a reader sees the old or the new one, never a mix. Zero: no such service.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceWord(pub u64);

impl ServiceWord {
    /// No such service.
    pub const NONE: Self = Self(0);

    /// A word naming a policy record; `generation` counts the replacements of this service.
    pub const fn new(policy: u32, generation: u32) -> Self {
        Self(((generation as u64) << 32) | (policy as u64 + 1))
    }

    /// Index of the policy record, or `None` where there is no such service.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is the index")]
    pub const fn policy(self) -> Option<u32> {
        (self.0 as u32).checked_sub(1)
    }

    /// How often this service was replaced, modulo 2³².
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The part of a service's backends that has one version (or all of them, without a split), and its share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// A draw of 32 random bits up to and including this belongs here or to a subset before. The last is `u32::MAX`.
    pub share_end: u32,
    /// The version's id, 0 without one.
    pub version: u32,
    /// First slot of the window in `SLOTS`.
    pub first_slot: u32,
    /// Slots in the window. 0: nothing usable.
    pub slot_count: u32,
    /// Of these, so many at the beginning are of the preferred zone, the rest of the others. 0: zones do not matter.
    pub near_slots: u32,
}

const _: () = assert!(size_of::<Subset>() == 20);

/// Value of `POLICIES`: everything that decides where a connection to one service goes. Never changed while a
/// [`ServiceWord`] names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The service this record belongs to.
    pub service: u32,
    /// How long a client keeps its backend after its last connection, in milliseconds. 0: no affinity.
    pub affinity_timeout_ms: u32,
    /// An [`Algorithm`] by number.
    pub algorithm: u8,
    /// Subsets in use, 1 to [`MAX_SUBSETS`].
    pub subset_count: u8,
    /// The errno an application gets where nothing is usable.
    pub refuse_errno: u8,
    /// Which of `limits` there are: a sum of [`PER_BACKEND`](super::admission::PER_BACKEND) and the like; and
    /// [`REQUESTS_UNREAD`].
    pub marks: u8,
    /// The service that takes the connections where nothing of this one is usable. 0: none, refuse.
    pub fallback: u32,
    /// How long a handshake may take, in milliseconds. 0: as long as the kernel tries by itself.
    pub connect_timeout_ms: u32,
    /// Backends that take new connections.
    pub ready_backends: u32,
    /// The id of the zone that is preferred. 0: none.
    pub zone: u32,
    /// How long the share of a backend that joins grows. 0: the whole share at once.
    pub join_ticks: u32,
    /// The subsets; those past `subset_count` are zero.
    pub subsets: [Subset; MAX_SUBSETS],
    /// When a backend is ejected and how it comes back.
    pub breaker: BreakerPolicy,
    /// How many connections may be open, waiting and new.
    pub limits: ServiceLimits,
}

const _: () = assert!(size_of::<Policy>() == 32 + 20 * MAX_SUBSETS + 56 + 48);

/// In the marks of a policy: requests on connections to the service are not read.
pub const REQUESTS_UNREAD: u8 = 128;

impl Policy {
    /// Whether requests on connections to the service are read.
    #[inline(always)]
    pub const fn reads_requests(&self) -> bool {
        self.marks & REQUESTS_UNREAD == 0
    }

    /// The algorithm, or `None` for a number this build does not know.
    #[inline(always)]
    pub const fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::from_raw(self.algorithm)
    }
}

/// Value of `SLOTS`: one place of a window.
///
/// For `random` it is a row of an alias table (Vose, "A linear algorithm for generating random numbers with a
/// given distribution", 1991): a coin at or below `keep_below` takes `backend`, above it `alias`. For the other
/// algorithms both name the same backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// A backend's id.
    pub backend: u32,
    /// The backend's id that takes the rest of this row.
    pub alias: u32,
    /// Up to here, of `u32::MAX`, the row belongs to `backend`.
    pub keep_below: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    /// A slot that always gives this backend.
    pub const fn sole(backend: u32) -> Self {
        Self { backend, alias: backend, keep_below: u32::MAX, _pad: 0 }
    }
}

named_enum! {
    /// Whether a backend takes new connections.
    pub enum BackendStatus {
        /// No backend has this id.
        Vacant = 0 => "vacant",
        /// Takes new connections.
        Ready = 1 => "ready",
        /// Keeps the connections it has and takes no new ones.
        Draining = 2 => "draining",
    }
}

/// Value of `BACKENDS`: one (service, address, port). Endpoint, service and generation never change while a
/// slot or a connection names the id; of the others none spans two words, and each word is replaced in one store.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Where connections go.
    pub endpoint: Endpoint,
    /// The service this backend belongs to.
    pub service: u32,
    /// Which use of this id this is; a connection of an earlier use leaves today's counts alone.
    pub generation: u32,
    /// The version's id, 0 without one.
    pub version: u32,
    /// A [`BackendStatus`] by number.
    pub status: u16,
    /// Its weight among the backends of its version.
    pub weight: u16,
    /// The zone's id, 0 without one.
    pub zone: u32,
    /// The next of the service's backends that take new connections, of the same version first; the last names
    /// the first. Where one may not be used, the next is asked.
    pub next: u32,
    /// The tick at which it joined a service that was running already. 0: it did not.
    pub joined_ticks: u32,
    /// An operator's order.
    pub verdict: Verdict,
    /// Since when it is out, and when its open connections are reset.
    pub drain: Drain,
}

// One cache line, since most connections go to a backend that this CPU has not seen lately.
const _: () = assert!(size_of::<Backend>() == 64);

/// An operator's order about one backend. It ends by itself, with or without an agent.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict(pub u64);

impl Verdict {
    /// No order.
    pub const NONE: Self = Self(0);
    const MODE_BITS: u64 = 0b111;

    /// An order until a moment of the monotonic clock, kept to 8 ns.
    pub const fn new(mode: BreakerMode, until_ns: u64) -> Self {
        Self((until_ns & !Self::MODE_BITS) | mode as u64)
    }

    /// The mode ordered, while it holds.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "masked to three bits")]
    pub const fn mode(self, now_ns: u64) -> Option<BreakerMode> {
        if self.0 <= now_ns { None } else { BreakerMode::from_raw((self.0 & Self::MODE_BITS) as u8) }
    }

    /// Until when it holds, on the monotonic clock.
    pub const fn until_ns(self) -> u64 {
        self.0 & !Self::MODE_BITS
    }
}

/// Value of `BACKEND_STATE`: what the kernel counts per backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendState {
    /// Nothing, but in a build that tests upgrade to.
    pub _shift: Shift,
    /// Connections reserved and not yet released.
    pub active: u64,
    /// Connections sent here since the id came into use.
    pub selections: u64,
    /// Of those, connections whose handshake failed.
    pub failures: u64,
    /// The breaker.
    pub cell: CellWord,
    /// How long a handshake takes.
    pub latency: LatencyWord,
    /// Connections whose handshake is under way.
    pub pending: u64,
    /// The tick of the last handshake that ended, well or not, or of the first of those that are under way.
    pub progress_ticks: u64,
    /// The bucket of the limit on new connections.
    pub rate: RateWord,
    /// The breaker's window: what became of connections, by bucket of time.
    pub window: [WindowWord; WINDOW_BUCKETS],
}

// Two cache lines, of which a connection that begins needs the first.
const _: () =
    assert!(size_of::<BackendState>() == 64 + 8 * WINDOW_BUCKETS + size_of::<Shift>() && WINDOW_BUCKETS == 8);

/// Value of `SERVICE_STATE`: what the kernel counts per service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// The next position of `round_robin`, shared by all CPUs.
    pub cursor: u64,
    /// Breakers that are open or half-open. At least one whenever one is: a hint whether it is worth counting them.
    pub ejected: u64,
    /// The tick at which a client failed on a backend last.
    pub failed_ticks: u64,
    /// Connections (or datagram flows) that were given a backend.
    pub selected: u64,
    /// Of those, by affinity and not by the algorithm.
    pub affine: u64,
    /// Connections refused because nothing was usable.
    pub no_backend: u64,
    /// Connections let through untouched because the tables surprised us.
    pub passed: u64,
    /// Connections sent to the fallback because nothing of this service was usable.
    pub fallback: u64,
    /// Connections that asked a backend whose breaker refused, and went elsewhere.
    pub avoided: u64,
    /// The same in mode `observe`: they went there all the same.
    pub would_avoid: u64,
    /// Connections admitted as probes.
    pub probes: u64,
    /// Breakers of backends that opened.
    pub opened: u64,
    /// Breakers that began to probe.
    pub half_opened: u64,
    /// Breakers that closed.
    pub closed: u64,
    /// Breakers that would have opened if one more backend might be ejected.
    pub capped: u64,
    /// Connections that went to an ejected backend because too few were healthy.
    pub panicked: u64,
    /// Connections that were not given the backend their client had just failed on.
    pub kept_away: u64,
    /// Connections that went to a backend of the preferred zone.
    pub near: u64,
    /// Connections of a service that prefers a zone and has backends in it, that went elsewhere.
    pub overflowed: u64,
    /// What is in use of the service's own limits.
    pub usage: Usage,
    /// Times each [`Limit`](super::Limit) was reached, by its number: of a backend's, times a full backend was passed
    /// over; of the others, connections that the service did not take.
    pub limited: [u64; LIMITS],
    /// Connections refused because of a limit, of this service or of a fallback.
    pub refused_by_limit: u64,
}

const _: () = assert!(size_of::<ServiceState>() == 256);
