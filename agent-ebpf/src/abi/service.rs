//! Services, policies, slots and backends: the tables the agent writes and the state the kernel keeps per entry.

use super::address::Endpoint;
use super::limits::MAX_SUBSETS;
use super::named_enum;

named_enum! {
    /// How a backend is chosen among the slots of a subset.
    pub enum Algorithm {
        /// Each connection goes to a random backend, in proportion to the weights.
        Random = 0 => "random",
        /// Connections go round the backends in a fixed sequence in which weights are interleaved.
        RoundRobin = 1 => "round_robin",
        /// A client keeps its backend while it is there; losing one backend moves few other clients.
        Maglev = 2 => "maglev",
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
}

const _: () = assert!(size_of::<Subset>() == 16);

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
    /// Zero.
    pub _pad: [u8; 5],
    /// The subsets; those past `subset_count` are zero.
    pub subsets: [Subset; MAX_SUBSETS],
}

const _: () = assert!(size_of::<Policy>() == 16 + 16 * MAX_SUBSETS);

impl Policy {
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
/// slot or a connection names the id; version, zone and status are words of their own, replaced in one store.
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
    pub status: u32,
    /// The zone's id, 0 without one.
    pub zone: u32,
}

const _: () = assert!(size_of::<Backend>() == 40);

/// Value of `BACKEND_STATE`: what the kernel counts per backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendState {
    /// Connections reserved and not yet released.
    pub active: u64,
    /// Connections sent here since the id came into use.
    pub selections: u64,
    /// Of those, connections whose handshake failed.
    pub failures: u64,
    /// Zero; room for the breaker's cell.
    pub _reserved: [u64; 5],
}

const _: () = assert!(size_of::<BackendState>() == 64);

/// Value of `SERVICE_STATE`: what the kernel counts per service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// The next position of `round_robin`, shared by all CPUs.
    pub cursor: u64,
    /// Connections (or datagram flows) that were given a backend.
    pub selected: u64,
    /// Of those, by affinity and not by the algorithm.
    pub affine: u64,
    /// Connections refused because nothing was usable.
    pub no_backend: u64,
    /// Connections let through untouched because the tables surprised us.
    pub passed: u64,
    /// Zero.
    pub _reserved: [u64; 3],
}

const _: () = assert!(size_of::<ServiceState>() == 64);
