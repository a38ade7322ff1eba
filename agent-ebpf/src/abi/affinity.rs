//! Which backend a client of a service was given last.

/// Key of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client: id of its workload's cgroup (pod or unit).
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
