//! Sending a client elsewhere on its retry: it has just failed on a backend that others may still reach.

use crate::abi::breaker::{period_ticks, remaining_ticks};

/// How long a client is kept away from the backend it failed on. An application's own retry comes sooner.
pub const AVOIDANCE_TICKS: u32 = period_ticks(3_000);

/// The backend a client failed on last, and when. 0: none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedOn(pub u64);

impl FailedOn {
    /// None.
    pub const NONE: Self = Self(0);

    /// This backend, at that tick.
    #[inline(always)]
    pub const fn new(backend: u32, at_ticks: u32) -> Self {
        Self(((backend as u64 + 1) << 32) | at_ticks as u64)
    }

    /// Whether the client should not be given this backend now, if there is another.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is the tick")]
    pub const fn avoids(self, candidate: u32, now_ticks: u32) -> bool {
        let until_ticks = (self.0 as u32).wrapping_add(AVOIDANCE_TICKS);
        self.0 >> 32 == candidate as u64 + 1 && remaining_ticks(until_ticks, now_ticks, AVOIDANCE_TICKS) > 0
    }
}
