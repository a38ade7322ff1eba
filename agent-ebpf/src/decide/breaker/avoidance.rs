//! Sending a client elsewhere on its retry: it has just failed on a backend that others may still reach.

use crate::abi::FailedOn;
use crate::abi::breaker::remaining_ticks;

/// No backend's id: nobody is avoided.
pub const NOBODY: u32 = u32::MAX;

/// Whether something failed so lately, by the tick of the last failure, that it is worth asking who failed on what.
/// A period of 0 avoids nobody.
#[inline(always)]
pub const fn is_recent(failed_ticks: u32, period_ticks: u32, now_ticks: u32) -> bool {
    let until_ticks = failed_ticks.wrapping_add(period_ticks);
    period_ticks > 0 && remaining_ticks(until_ticks, now_ticks, period_ticks) > 0
}

impl FailedOn {
    /// The backend the client should not be given now, if there is another; [`NOBODY`] where there is none.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the word")]
    pub const fn avoided(self, period_ticks: u32, now_ticks: u32) -> u32 {
        if self.0 != 0 && is_recent(self.0 as u32, period_ticks, now_ticks) {
            ((self.0 >> 32) as u32).wrapping_sub(1)
        } else {
            NOBODY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u32 = 2_861;

    #[test]
    fn a_client_that_failed_on_a_backend_is_kept_away_from_it_for_a_few_seconds() {
        for at_ticks in [0, 77, u32::MAX - 5] {
            let failed = FailedOn::new(0, at_ticks);
            let avoided_after = |ticks: u32| failed.avoided(PERIOD, at_ticks.wrapping_add(ticks));
            assert_eq!((avoided_after(0), avoided_after(PERIOD - 1)), (0, 0), "{at_ticks}");
            assert_eq!((avoided_after(PERIOD), avoided_after(u32::MAX / 2)), (NOBODY, NOBODY), "{at_ticks}");
        }
        assert_eq!(FailedOn::new(4, 100).avoided(PERIOD, 100), 4);
    }

    #[test]
    fn a_client_that_never_failed_avoids_nobody() {
        assert_eq!(FailedOn::NONE.avoided(PERIOD, 0), NOBODY);
    }

    #[test]
    fn a_period_of_nothing_avoids_nobody() {
        assert_eq!(FailedOn::new(4, 100).avoided(0, 100), NOBODY);
        assert_eq!(FailedOn::new(4, 100).avoided(0, 99), NOBODY);
    }
}
