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

    /// This backend, at that tick. No backend's id is `u32::MAX`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_failed_on_a_backend_is_kept_away_from_it_for_a_few_seconds() {
        for at_ticks in [0, 77, u32::MAX - 5] {
            let failed = FailedOn::new(0, at_ticks);
            let avoids_after = |ticks: u32| failed.avoids(0, at_ticks.wrapping_add(ticks));
            assert!(avoids_after(0) && avoids_after(AVOIDANCE_TICKS - 1), "{at_ticks}");
            assert!(!avoids_after(AVOIDANCE_TICKS) && !avoids_after(u32::MAX / 2), "{at_ticks}");
        }
    }

    #[test]
    fn other_backends_are_not_avoided() {
        let failed = FailedOn::new(4, 100);
        assert!(failed.avoids(4, 100));
        assert!(!failed.avoids(3, 100) && !failed.avoids(5, 100));
    }

    #[test]
    fn a_client_that_never_failed_avoids_nothing() {
        assert!(!FailedOn::NONE.avoids(0, 0));
    }
}
