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
    /// How many workloads are to be left alone. At 0 nobody looks whether the caller is one.
    pub left_alone: u64,
    /// Until then, on the monotonic clock, requests are told one by one. It ends by itself, as `follow_until_ns` does.
    pub tell_until_ns: u64,
    /// Of these, the ones whose lot is less: see `decide::trace::lot`.
    pub tell_below: u64,
    /// Of these, the ones whose lot is less also with the bytes they begin with.
    pub tell_heads_below: u64,
}

const _: () = assert!(size_of::<Settings>() == 48);

/// In a value of `WORKLOADS`: the cgroup is a workload's. In every value.
pub const WORKLOAD_KNOWN: u32 = 1;

/// In a value of `WORKLOADS`: its connections go on untouched.
pub const WORKLOAD_LEFT_ALONE: u32 = 2;
