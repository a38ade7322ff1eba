//! Which open connections of a backend that is out are due to be reset.

use crate::abi::Drain;

/// Whether a connection is to be reset now: its backend's deadline is over, and it was opened before the backend went
/// out. What was opened since is there on purpose: a probe of a breaker, or a choice where all others are worse.
#[inline(always)]
pub const fn is_due(drain: Drain, started_at_ns: u64, now_ns: u64) -> bool {
    drain.0 != Drain::NONE.0 && started_at_ns <= drain.since_ns() && drain.deadline_ns() <= now_ns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const YEAR_NS: u64 = 365 * 24 * 3_600 * SECOND_NS;

    #[test]
    fn a_backend_that_keeps_its_connections_has_none_due() {
        assert!(!is_due(Drain::NONE, 0, u64::MAX));
    }

    #[test]
    fn what_was_opened_after_the_backend_went_out_is_never_due() {
        let drain = Drain::new(10 * SECOND_NS, 0);
        assert!(is_due(drain, 10 * SECOND_NS, 10 * SECOND_NS));
        assert!(!is_due(drain, 10 * SECOND_NS + 1, 100 * SECOND_NS));
    }

    proptest! {
        #[test]
        fn a_connection_is_due_exactly_from_the_deadline_on(
            since_ns in 0..8 * YEAR_NS,
            after_ms in 0..=Drain::MAX_AFTER_MS,
            age_ns in 0..YEAR_NS,
            early_ns in 2_000_000..YEAR_NS,
        ) {
            let drain = Drain::new(since_ns, after_ms);
            let opened_ns = since_ns.saturating_sub(age_ns);
            let deadline_ns = since_ns + after_ms * 1_000_000;
            // The word keeps milliseconds; the first of all is not zero.
            prop_assert!(drain.deadline_ns().abs_diff(deadline_ns) <= 1_000_000);
            prop_assert!(is_due(drain, opened_ns, deadline_ns + 1_000_000));
            prop_assert!(!is_due(drain, opened_ns, deadline_ns.saturating_sub(early_ns)));
        }
    }
}
