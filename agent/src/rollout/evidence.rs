//! What was counted of a canary and of its baseline within a window: a ring of buckets of what kernel counters grew.
//! Knows no verdict and no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use agent_ebpf::abi::{
    AppProtocol, CloseReason, ConnectFailure, Direction, Edge, EdgeKey, Histogram, RequestKey, Requests,
};
use agent_ebpf::decide::l7::is_server_error;

use crate::flows::histogram;

/// Steps in which the window moves on.
const BUCKETS: u64 = 10;

/// What became of connections, and of requests on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Established.
    pub opened: u64,
    /// Not established, by the backend's or the network's doing.
    pub failed: u64,
    /// Established and ended.
    pub ended: u64,
    /// Of those, reset by the backend, or given up because nothing was acknowledged any more.
    pub reset: u64,
    /// From `connect()` to the end of a handshake that succeeded.
    pub connect: Histogram,
    /// Requests that were answered, where the protocol is understood.
    pub answered: u64,
    /// Of those, by the server's fault not as asked.
    pub errors: u64,
}

impl From<&Edge> for Counts {
    /// What the application gave up by itself, what found no backend and what Segue reset says nothing about a backend.
    fn from(edge: &Edge) -> Self {
        use ConnectFailure::{Refused, Timeout, Unreachable};
        let failed = [Refused, Timeout, Unreachable].map(|reason| edge.failed[reason as usize]);
        let reset = [CloseReason::RstRemote, CloseReason::Timeout].map(|reason| edge.closed[reason as usize]);
        Self {
            opened: edge.opened,
            failed: failed.iter().sum(),
            ended: edge.closed.iter().sum::<u64>() - edge.closed[CloseReason::Drained as usize],
            reset: reset.iter().sum(),
            connect: edge.connect,
            ..Self::default()
        }
    }
}

/// What the kernel counts of connections, with what it counts of the requests on them.
pub fn readings(edges: &[(EdgeKey, Edge)], requests: &[(RequestKey, Requests)]) -> BTreeMap<EdgeKey, Counts> {
    let mut readings: BTreeMap<EdgeKey, Counts> =
        edges.iter().map(|(key, edge)| (*key, Counts::from(edge))).collect();
    for (key, requests) in requests.iter().filter(|(key, _)| key.direction == Direction::Outbound as u8) {
        let RequestKey { cgroup, service, version, status, protocol, .. } = *key;
        let counts = readings.entry(EdgeKey { cgroup, service, version }).or_default();
        let answered = requests.0.buckets.iter().sum::<u64>();
        counts.answered = counts.answered.saturating_add(answered);
        if AppProtocol::from_raw(protocol).is_some_and(|protocol| is_server_error(protocol, status)) {
            counts.errors = counts.errors.saturating_add(answered);
        }
    }
    readings
}

impl Counts {
    /// Connections of which it is known whether they were established.
    pub fn tried(&self) -> u64 {
        self.opened.saturating_add(self.failed)
    }

    /// What there is to judge by: connections, or requests where one connection carries many.
    pub fn samples(&self) -> u64 {
        self.tried().max(self.answered)
    }

    fn add(&mut self, other: &Self) {
        let Self { opened, failed, ended, reset, connect, answered, errors } = self;
        for (to, from) in [
            (opened, other.opened),
            (failed, other.failed),
            (ended, other.ended),
            (reset, other.reset),
            (answered, other.answered),
            (errors, other.errors),
        ] {
            *to = to.saturating_add(from);
        }
        histogram::add(connect, &other.connect);
    }

    /// What was counted since `before`. An entry that counts less than before was made anew: then all of it.
    fn since(&self, before: &Self) -> Self {
        let pairs = [
            (self.opened, before.opened),
            (self.failed, before.failed),
            (self.ended, before.ended),
            (self.reset, before.reset),
            (self.answered, before.answered),
            (self.errors, before.errors),
        ];
        if pairs.iter().any(|(now, before)| now < before) {
            return *self;
        }
        let [opened, failed, ended, reset, answered, errors] = pairs.map(|(now, before)| now - before);
        let connect = histogram::since(&self.connect, &before.connect);
        Self { opened, failed, ended, reset, connect, answered, errors }
    }
}

/// A kernel entry of a service, as read now.
pub type Reading = (EdgeKey, Counts);

/// What was counted within the window.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The versions' ids.
    canary: u32,
    baseline: u32,
    bucket: Duration,
    /// The entries at the last reading; `None` before the first, which tells nothing of when it was counted.
    seen: Option<HashMap<EdgeKey, Counts>>,
    /// By number, counted from the beginning of the clock, the oldest first; canary, baseline.
    buckets: VecDeque<(u64, Counts, Counts)>,
}

impl Evidence {
    /// Nothing seen yet of two versions, by their ids.
    pub fn new(canary: u32, baseline: u32, window: Duration) -> Self {
        let bucket = (window / 10).max(Duration::from_millis(1));
        Self { canary, baseline, bucket, seen: None, buckets: VecDeque::new() }
    }

    /// Takes in every kernel entry of the service. `now` is any monotonic time.
    pub fn add(&mut self, now: Duration, readings: &[Reading]) {
        let ours = |key: &EdgeKey| key.version == self.canary || key.version == self.baseline;
        let current: HashMap<EdgeKey, Counts> =
            readings.iter().filter(|(key, _)| ours(key)).copied().collect();
        let (mut canary, mut baseline) = (Counts::default(), Counts::default());
        if let Some(seen) = &self.seen {
            for (key, counts) in &current {
                let growth = seen.get(key).map_or(*counts, |before| counts.since(before));
                if key.version == self.canary { &mut canary } else { &mut baseline }.add(&growth);
            }
        }
        self.seen = Some(current);
        let number = self.number(now);
        self.forget(number);
        match self.buckets.back_mut() {
            Some((last, to, other)) if *last == number => {
                to.add(&canary);
                other.add(&baseline);
            }
            _ => self.buckets.push_back((number, canary, baseline)),
        }
    }

    /// What the window holds of the canary and of the baseline, as of the last reading.
    pub fn counts(&self) -> (Counts, Counts) {
        let mut sums = (Counts::default(), Counts::default());
        for (_, canary, baseline) in &self.buckets {
            sums.0.add(canary);
            sums.1.add(baseline);
        }
        sums
    }

    fn number(&self, now: Duration) -> u64 {
        u64::try_from(now.as_nanos() / self.bucket.as_nanos()).unwrap_or(u64::MAX)
    }

    fn forget(&mut self, number: u64) {
        while self.buckets.front().is_some_and(|(oldest, ..)| oldest + BUCKETS < number) {
            self.buckets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CANARY: u32 = 2;
    const BASELINE: u32 = 1;

    fn key(cgroup: u64, version: u32) -> EdgeKey {
        EdgeKey { cgroup, service: 7, version }
    }

    fn opened(opened: u64) -> Counts {
        Counts { opened, ..Counts::default() }
    }

    fn evidence() -> Evidence {
        Evidence::new(CANARY, BASELINE, Duration::from_secs(10))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn held(evidence: &Evidence) -> (u64, u64) {
        let (canary, baseline) = evidence.counts();
        (canary.opened, baseline.opened)
    }

    #[test]
    fn what_was_counted_before_the_first_reading_is_not_evidence() {
        let mut evidence = evidence();
        evidence.add(at(1), &[(key(1, CANARY), opened(500)), (key(1, BASELINE), opened(900))]);
        assert_eq!(held(&evidence), (0, 0));
        evidence.add(at(2), &[(key(1, CANARY), opened(503)), (key(1, BASELINE), opened(904))]);
        assert_eq!(held(&evidence), (3, 4));
    }

    #[test]
    fn clients_are_summed_and_other_versions_left_out() {
        let mut evidence = evidence();
        evidence.add(at(1), &[]);
        let readings = [
            (key(1, CANARY), opened(1)),
            (key(2, CANARY), opened(2)),
            (key(1, BASELINE), opened(4)),
            (key(1, 3), opened(100)),
            (key(1, 0), opened(100)),
        ];
        evidence.add(at(2), &readings);
        assert_eq!(held(&evidence), (3, 4));
    }

    #[test]
    fn an_entry_that_was_made_anew_counts_whole() {
        let mut evidence = evidence();
        evidence.add(at(1), &[(key(1, CANARY), opened(500))]);
        evidence.add(at(2), &[]);
        evidence.add(at(3), &[(key(1, CANARY), opened(5))]);
        assert_eq!(held(&evidence), (5, 0));
        evidence.add(at(4), &[(key(1, CANARY), opened(2))]);
        assert_eq!(held(&evidence), (7, 0));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut evidence = evidence();
        evidence.add(at(1), &[]);
        evidence.add(at(2), &[(key(1, CANARY), opened(5))]);
        evidence.add(at(12), &[(key(1, CANARY), opened(6))]);
        assert_eq!(held(&evidence), (6, 0), "a window reaches back its whole length");
        evidence.add(at(13), &[(key(1, CANARY), opened(6))]);
        assert_eq!(held(&evidence), (1, 0));
    }

    #[test]
    fn what_says_nothing_about_a_backend_is_not_counted() {
        let mut edge = Edge { opened: 10, ..Edge::default() };
        edge.failed = [1, 2, 4, 100, 100, 100, 100, 100, 100];
        edge.closed = [1, 2, 4, 8, 16, 100];
        let counts = Counts::from(&edge);
        assert_eq!((counts.failed, counts.ended, counts.reset, counts.tried()), (7, 31, 12, 17));
    }

    #[test]
    fn requests_count_with_the_connections_they_came_on() {
        let histogram = |count| {
            let mut requests = Requests::default();
            requests.0.buckets[3] = count;
            requests
        };
        let asked = |status, direction: Direction| RequestKey {
            cgroup: 1,
            service: 7,
            version: CANARY,
            status,
            direction: direction as u8,
            ..RequestKey::default()
        };
        let edges = [(key(1, CANARY), Edge { opened: 3, ..Edge::default() })];
        let requests = [
            (asked(200, Direction::Outbound), histogram(40)),
            (asked(499, Direction::Outbound), histogram(2)),
            (asked(503, Direction::Outbound), histogram(5)),
            (asked(503, Direction::Inbound), histogram(100)),
        ];
        let read = readings(&edges, &requests);
        let expected = Counts { opened: 3, answered: 47, errors: 5, ..Counts::default() };
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [(key(1, CANARY), expected)]);
    }

    proptest! {
        #[test]
        fn a_window_never_holds_more_than_what_grew(
            steps in prop::collection::vec((0_u64..4, 0_u64..20), 1..40)
        ) {
            let mut evidence = evidence();
            let (mut now, mut total, mut first) = (0, 0, None);
            for (seconds, growth) in steps {
                now += seconds;
                total += growth;
                evidence.add(at(now), &[(key(1, CANARY), opened(total))]);
                let first = *first.get_or_insert(total);
                prop_assert!(held(&evidence).0 <= total - first);
            }
            prop_assert!(evidence.buckets.len() <= 11);
        }
    }
}
