//! What the walk over sockets reports of each connection that is open.

/// One record of the walk's output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The client's cgroup (leaf).
    pub cgroup: u64,
    /// Payload bytes the backend acknowledged so far.
    pub sent_bytes: u64,
    /// Payload bytes received so far.
    pub received_bytes: u64,
    /// The service's id.
    pub service: u32,
    /// The version's id.
    pub version: u32,
    /// The backend's id.
    pub backend: u32,
    /// The generation of the backend's id.
    pub backend_generation: u32,
    /// The smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// Segments sent again so far.
    pub retransmits: u32,
    /// A `Phase` by number; never `Released`.
    pub phase: u8,
    /// A `Protocol` by number.
    pub protocol: u8,
    /// The marks of the connection, as in `Connection`.
    pub marks: u8,
    /// Zero.
    pub _pad: [u8; 5],
    /// The client whose limit it counts towards; 0: none's.
    pub client: u64,
}

const _: () = assert!(size_of::<Sample>() == 64);
