//! The few switches the programs read on every run.

/// Value of `SETTINGS`, one entry. The agent writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Until then, on the monotonic clock, every connection's opening and closing is sent to the event ring.
    /// It ends by itself, so that an agent that dies leaves nothing switched on.
    pub follow_until_ns: u64,
    /// When the agent last said that it is alive, on the monotonic clock.
    pub heartbeat_ns: u64,
}

const _: () = assert!(size_of::<Settings>() == 16);
