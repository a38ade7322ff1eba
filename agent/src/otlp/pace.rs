//! When to send next. Knows no clock.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::Outcome;

/// The wait after the first failure; it doubles with each one more.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
/// The longest wait after failures, where the interval is not longer.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// The longest a receiver can make the agent wait: its word is not worth more, it may have meant another client.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    failures: u32,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, failures: 0 }
    }

    /// The wait before the first request: agents that were started together do not send together.
    pub(super) fn first(&self) -> Duration {
        self.interval.mul_f64(chance())
    }

    /// The wait after a reading was sent.
    pub(super) fn after(&mut self, outcome: &Outcome) -> Duration {
        self.wait(outcome, chance())
    }

    /// As [`Pace::after`], with a number from 0 to 1 for what is up to chance.
    fn wait(&mut self, outcome: &Outcome, chance: f64) -> Duration {
        let Outcome::Failed { retry_after, .. } = outcome else {
            self.failures = 0;
            return self.interval;
        };
        let doubled = FIRST_BACK_OFF.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        // From half of it to all: after a fault of the receiver's not all agents are there at once.
        let back_off = doubled.min(LONGEST_BACK_OFF.max(self.interval)).mul_f64(0.5 + chance / 2.0);
        let told = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        back_off.max(told)
    }
}

/// A number from 0 to 1, by chance: what the keys of a hash map are made of is random enough.
fn chance() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(retry_after: Option<u64>) -> Outcome {
        Outcome::Failed { error: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn waits_double_with_failures_up_to_a_limit_and_end_with_success() {
        let mut pace = Pace::new(Duration::from_secs(15));
        let waits: Vec<_> = (0..9).map(|_| pace.wait(&failed(None), 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pace.wait(&failed(None), 0.0).as_secs(), 30);
        assert_eq!(pace.wait(&Outcome::Ok, 1.0).as_secs(), 15);
        assert_eq!(pace.wait(&failed(None), 1.0).as_secs(), 1);
        for _ in 0..100 {
            assert!(pace.after(&failed(None)) <= LONGEST_BACK_OFF);
        }
    }

    #[test]
    fn a_receiver_is_left_alone_for_as_long_as_it_says_within_reason() {
        let mut pace = Pace::new(Duration::from_secs(15));
        assert_eq!(pace.wait(&failed(Some(120)), 1.0).as_secs(), 120);
        assert_eq!(pace.wait(&failed(Some(1_000_000)), 1.0).as_secs(), 600);
        assert_eq!(pace.wait(&failed(Some(0)), 1.0).as_secs(), 4);
    }

    #[test]
    fn what_is_refused_for_good_is_not_hurried() {
        let mut pace = Pace::new(Duration::from_secs(15));
        assert_eq!(pace.wait(&Outcome::Rejected { count: None, error: String::new() }, 1.0).as_secs(), 15);
    }

    #[test]
    fn chance_is_within_its_range_and_not_always_the_same() {
        let drawn: Vec<_> = (0..100).map(|_| chance()).collect();
        assert!(drawn.iter().all(|number| (0.0..=1.0).contains(number)));
        assert!(drawn.iter().any(|number| *number != drawn[0]));
    }
}
