//! What is counted in one phase of the demo, and whether it went as the config and the state of the servers say.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Answers that are looked at to tell whether a change is in force.
const WINDOW: usize = 20;

/// How far a window's shares may lie off, in answers out of [`WINDOW`].
const WINDOW_TOLERANCE: u64 = 3;

/// Answers after that which may still be to questions from before.
const SETTLING: u64 = 200;

/// How far the shares after a change is in force may lie off, in percent of all.
const TOLERANCE_PERCENT: u64 = 5;

/// Servers that may answer: the backends, and the fallback's.
pub(crate) const SERVERS: usize = 4;

/// Counts of one phase.
pub(crate) struct Phase {
    /// What it shows.
    pub(crate) title: &'static str,
    /// The weights that are to be in force at its end.
    pub(crate) weights: [u64; SERVERS],
    /// Whether the shares are to be those of the weights, or only who answers at all.
    exact: bool,
    /// Failures that are in order.
    pub(crate) allowed: u64,
    begin: Instant,
    /// Answers by backend.
    pub(crate) answers: [u64; SERVERS],
    /// Answers since the change is in force.
    since_in_force: u64,
    /// Those of them that count for its shares, by backend.
    settled: [u64; SERVERS],
    /// New connections without an answer.
    pub(crate) failed: u64,
    window: VecDeque<usize>,
    in_force: Option<Duration>,
}

impl Phase {
    /// A phase that begins now.
    pub(crate) fn new(title: &'static str, weights: [u64; SERVERS]) -> Self {
        Self {
            title,
            weights,
            exact: true,
            allowed: 0,
            begin: Instant::now(),
            answers: [0; SERVERS],
            since_in_force: 0,
            settled: [0; SERVERS],
            failed: 0,
            window: VecDeque::new(),
            in_force: None,
        }
    }

    /// A phase that begins now, at whose end these answer and no others, in whatever shares. So many requests may
    /// fail.
    pub(crate) fn of_failure(title: &'static str, answering: [bool; SERVERS], allowed: u64) -> Self {
        Self { exact: false, allowed, ..Self::new(title, answering.map(u64::from)) }
    }

    /// Counts an answer of the backend with this index.
    pub(crate) fn answered(&mut self, backend: usize) {
        self.answers[backend] += 1;
        if self.in_force.is_some() {
            self.since_in_force += 1;
            self.settled[backend] += u64::from(self.since_in_force > SETTLING);
        }
        self.window.push_back(backend);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        if self.in_force.is_none() && self.window_agrees() {
            self.in_force = Some(self.begin.elapsed());
        }
    }

    /// How long it took until answers came as the weights say.
    pub(crate) fn in_force(&self) -> Option<Duration> {
        self.in_force
    }

    /// All answers.
    pub(crate) fn total(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.failed > self.allowed {
            return Some(format!(
                "{}: {} requests failed, and at most {} may",
                self.title, self.failed, self.allowed
            ));
        }
        let total: u64 = self.settled.iter().sum();
        let weights: u64 = self.weights.iter().sum();
        let agrees = total > 0
            && self.settled.iter().zip(self.weights).all(|(answers, weight)| {
                if weight == 0 || !self.exact {
                    return (*answers == 0) == (weight == 0);
                }
                (answers * weights * 100).abs_diff(weight * total * 100)
                    <= TOLERANCE_PERCENT * total * weights
            });
        (!agrees).then(|| {
            format!(
                "{}: the weights are {:?}, but the answers came as {:?}",
                self.title, self.weights, self.answers
            )
        })
    }

    fn window_agrees(&self) -> bool {
        let weights: u64 = self.weights.iter().sum();
        self.window.len() == WINDOW
            && (0..SERVERS).all(|backend| {
                let count = self.window.iter().filter(|answer| **answer == backend).count() as u64;
                let expected = self.weights[backend] * WINDOW as u64;
                let off = (count * weights).abs_diff(expected);
                if self.weights[backend] == 0 || !self.exact {
                    (count == 0) == (expected == 0)
                } else {
                    off <= WINDOW_TOLERANCE * weights
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase([a, b, c]: [u64; 3], answers: impl IntoIterator<Item = usize>) -> Phase {
        let mut phase = Phase::new("x", [a, b, c, 0]);
        answers.into_iter().for_each(|backend| phase.answered(backend));
        phase
    }

    #[test]
    fn shares_as_the_weights_say_are_in_order() {
        let phase = phase([8, 1, 1], (0..1000).map(|n| [0, 0, 0, 0, 1, 0, 0, 0, 0, 2][n % 10]));
        assert_eq!(phase.fault(), None);
        assert!(phase.in_force().is_some());
    }

    #[test]
    fn shares_of_other_weights_are_a_fault() {
        let phase = phase([8, 1, 1], (0..1000).map(|n| n % 3));
        assert!(phase.fault().is_some());
        assert_eq!(phase.in_force(), None);
    }

    #[test]
    fn one_answer_of_a_removed_backend_after_the_change_is_a_fault() {
        let before = (0..30).map(|n| n % 3);
        let after = (0..1000).map(|n| n % 2);
        assert_eq!(phase([1, 1, 0], before.clone().chain(after.clone())).fault(), None);
        assert!(phase([1, 1, 0], before.chain(after).chain([2])).fault().is_some());
    }

    #[test]
    fn a_failed_request_is_a_fault() {
        let mut phase = phase([1, 1, 1], (0..300).map(|n| n % 3));
        assert_eq!(phase.fault(), None);
        phase.failed = 1;
        assert!(phase.fault().unwrap().contains("1 requests failed"));
    }

    #[test]
    fn in_a_failure_only_who_answers_counts_and_how_many_fail() {
        let failure = |answers: &dyn Fn(usize) -> usize| {
            let mut phase = Phase::of_failure("x", [true, true, false, false], 7);
            (0..1000).for_each(|n| phase.answered(answers(n)));
            phase
        };
        let mut uneven = failure(&|n| usize::from(n % 3 == 0));
        uneven.failed = 7;
        assert_eq!(uneven.fault(), None);
        uneven.failed = 8;
        assert!(uneven.fault().unwrap().contains("at most 7 may"));
        assert!(failure(&|_| 0).fault().is_some(), "one that should answer does not");
        let late = |n| if n == 900 { 2 } else { n % 2 };
        assert!(failure(&late).fault().is_some(), "one that is out answers");
    }
}
