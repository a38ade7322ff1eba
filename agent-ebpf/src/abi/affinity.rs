//! What is remembered of a client of a service: the backend it was given last, and the one it failed on.

/// Key of `AFFINITY` and `AVOIDANCES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client. For affinity the id of its workload's cgroup (pod or unit), for avoidance of its own (leaf).
    pub client: u64,
    /// The service's id.
    pub service: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 16);

/// Value of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// When the client last connected, on the monotonic clock.
    pub used_at_ns: u64,
    /// The backend's id.
    pub backend: u32,
    /// The generation of that id.
    pub generation: u32,
}

const _: () = assert!(size_of::<AffinityValue>() == 16);

/// Value of `AVOIDANCES`: the backend a client failed on last, and when. 0: none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedOn(pub u64);

impl FailedOn {
    /// None.
    pub const NONE: Self = Self(0);

    /// This backend, at that tick. No backend's id is `u32::MAX`.
    #[inline(always)]
    pub const fn new(backend: u32, at_ticks: u32) -> Self {
        Self(((backend as u64 + 1) << 32) | at_ticks as u64)
    }
}
