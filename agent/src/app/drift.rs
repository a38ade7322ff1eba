//! Finds counts of open connections that are wrong for good, and not only while a connection opens or closes. Reads
//! nothing itself.

use std::collections::BTreeMap;

/// A count that was off by the same number so many times in a row is wrong.
const CORRECTION_AFTER: u32 = 3;

/// Backends whose count differed in the last round: how often in a row, by how much.
#[derive(Default)]
pub(super) struct Drift {
    off: BTreeMap<u32, (u32, i64)>,
}

impl Drift {
    /// Begins a round of comparisons with the backends of all open connections.
    pub(super) fn round(&mut self, open: impl IntoIterator<Item = u32>) -> Round<'_> {
        let mut counts: BTreeMap<u32, i64> = BTreeMap::new();
        for backend in open {
            *counts.entry(backend).or_default() += 1;
        }
        Round { before: std::mem::take(&mut self.off), off: &mut self.off, open: counts, wrong: Vec::new() }
    }
}

/// One round.
pub(super) struct Round<'a> {
    before: BTreeMap<u32, (u32, i64)>,
    off: &'a mut BTreeMap<u32, (u32, i64)>,
    open: BTreeMap<u32, i64>,
    wrong: Vec<(u32, i64)>,
}

impl Round<'_> {
    /// Compares what is counted for a backend, once a round.
    pub(super) fn compare(&mut self, backend: u32, counted: i64) {
        let difference = self.open.get(&backend).copied().unwrap_or_default() - counted;
        if difference == 0 {
            return;
        }
        let times = match self.before.get(&backend) {
            Some((times, same)) if *same == difference => times + 1,
            _ => 1,
        };
        if times < CORRECTION_AFTER {
            self.off.insert(backend, (times, difference));
        } else {
            self.wrong.push((backend, difference));
        }
    }

    /// The backends whose count is wrong, and what to add to it.
    pub(super) fn wrong(self) -> Vec<(u32, i64)> {
        self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(drift: &mut Drift, open: &[u32], counted: &[(u32, i64)]) -> Vec<(u32, i64)> {
        let mut round = drift.round(open.iter().copied());
        counted.iter().for_each(|&(backend, counted)| round.compare(backend, counted));
        round.wrong()
    }

    #[test]
    fn a_count_is_corrected_when_it_was_off_by_the_same_three_times() {
        let mut drift = Drift::default();
        for _ in 0..2 {
            assert_eq!(round(&mut drift, &[7, 7, 8], &[(7, 3), (8, 1), (9, 2)]), []);
        }
        assert_eq!(round(&mut drift, &[7, 7, 8], &[(7, 3), (8, 1), (9, 2)]), [(7, -1), (9, -2)]);
        assert_eq!(round(&mut drift, &[7, 7], &[(7, 2), (9, 0)]), []);
    }

    #[test]
    fn a_count_that_is_off_by_something_else_each_time_is_left_alone() {
        let mut drift = Drift::default();
        for extra in 0..9 {
            assert_eq!(round(&mut drift, &[], &[(7, 1 + extra % 2)]), []);
        }
        for _ in 0..2 {
            assert_eq!(round(&mut drift, &[], &[(7, 5)]), []);
            assert_eq!(round(&mut drift, &[], &[(7, 0)]), []);
        }
    }
}
