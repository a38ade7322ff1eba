//! Finds counts of open connections that are wrong for good, and not only while a connection opens or closes. Reads
//! nothing itself.

use std::collections::BTreeMap;

use agent_ebpf::abi::connection::COUNTED_BY_SERVICE;
use agent_ebpf::abi::{ClientKey, Phase, Sample};

use crate::kernel::Open;

/// A count that was off by the same number so many times in a row is wrong.
const CORRECTION_AFTER: u32 = 3;

/// A count of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Count {
    /// Of a backend, by its id.
    Backend(u32, Open),
    /// Of what a service uses of its limits, by its id.
    Service(u32, Open),
    /// Of what a client uses of its limits.
    Client(ClientKey, Open),
}

/// The counts an open connection is part of.
pub(super) fn counts_of(sample: &Sample) -> impl Iterator<Item = Count> {
    // A datagram socket is established from the start.
    let is_pending = sample.phase != Phase::Established as u8;
    let of_service = sample.marks & COUNTED_BY_SERVICE != 0;
    let client = (sample.client != 0).then(|| ClientKey::new(sample.client, sample.service));
    let (backend, service) = (sample.backend, of_service.then_some(sample.service));
    [Open::All, Open::Pending].into_iter().filter(move |kind| is_pending || *kind == Open::All).flat_map(
        move |kind| {
            let service = service.map(|id| Count::Service(id, kind));
            let client = client.map(|key| Count::Client(key, kind));
            [Some(Count::Backend(backend, kind)), service, client].into_iter().flatten()
        },
    )
}

/// Counts that were off in the last round: how often in a row, by how much.
#[derive(Default)]
pub(super) struct Drift {
    off: BTreeMap<Count, (u32, i64)>,
}

impl Drift {
    /// Begins a round of comparisons with the counts that all open connections are part of.
    pub(super) fn round(&mut self, open: impl IntoIterator<Item = Count>) -> Round<'_> {
        let mut counts: BTreeMap<Count, i64> = BTreeMap::new();
        for count in open {
            *counts.entry(count).or_default() += 1;
        }
        Round { before: std::mem::take(&mut self.off), off: &mut self.off, open: counts, wrong: Vec::new() }
    }
}

/// One round.
pub(super) struct Round<'a> {
    before: BTreeMap<Count, (u32, i64)>,
    off: &'a mut BTreeMap<Count, (u32, i64)>,
    open: BTreeMap<Count, i64>,
    wrong: Vec<(Count, i64)>,
}

impl Round<'_> {
    /// Compares what is counted, once a round.
    pub(super) fn compare(&mut self, count: Count, counted: u64) {
        let difference =
            self.open.get(&count).copied().unwrap_or_default().wrapping_sub(counted.cast_signed());
        if difference == 0 {
            return;
        }
        let times = match self.before.get(&count) {
            Some((times, same)) if *same == difference => times + 1,
            _ => 1,
        };
        if times < CORRECTION_AFTER {
            self.off.insert(count, (times, difference));
        } else {
            self.wrong.push((count, difference));
        }
    }

    /// The counts that are wrong, and what to add to them.
    pub(super) fn wrong(self) -> Vec<(Count, i64)> {
        self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(drift: &mut Drift, open: &[u32], counted: &[(u32, u64)]) -> Vec<(u32, i64)> {
        let of = |backend| Count::Backend(backend, Open::All);
        let mut round = drift.round(open.iter().map(|&backend| of(backend)));
        counted.iter().for_each(|&(backend, counted)| round.compare(of(backend), counted));
        let backend = |count| match count {
            Count::Backend(backend, Open::All) => backend,
            other => panic!("{other:?} was not compared"),
        };
        round.wrong().into_iter().map(|(count, difference)| (backend(count), difference)).collect()
    }

    #[test]
    fn a_connection_is_part_of_the_counts_that_took_it() {
        let plain = Sample { service: 3, backend: 7, phase: Phase::Established as u8, ..Sample::default() };
        assert_eq!(counts_of(&plain).collect::<Vec<_>>(), [Count::Backend(7, Open::All)]);
        let opening =
            Sample { phase: Phase::Connecting as u8, marks: COUNTED_BY_SERVICE, client: 99, ..plain };
        let key = ClientKey::new(99, 3);
        let expected = [Open::All, Open::Pending]
            .map(|kind| [Count::Backend(7, kind), Count::Service(3, kind), Count::Client(key, kind)]);
        assert_eq!(counts_of(&opening).collect::<Vec<_>>(), expected.concat());
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
