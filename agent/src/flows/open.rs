//! What connections that are still open have transferred, so that a long one does not look idle for hours.
//!
//! The kernel counts a connection's bytes when it ends; the walk over sockets says what the open ones have so far.
//! The two are read one after the other, and a connection that ends in between is in neither. So what was shown
//! once is kept: a total never falls while its kernel entry lives.

use std::collections::HashMap;

use agent_ebpf::abi::{Edge, EdgeKey, Sample};

/// Bytes sent, bytes received, segments sent again.
type Transferred = [u64; 3];

/// Adds up ended and open connections, reading after reading.
#[derive(Debug, Default)]
pub struct OpenConnections {
    shown: HashMap<EdgeKey, (u64, Transferred)>,
}

impl OpenConnections {
    /// Adds the samples to the edges, which must have been read before them.
    pub fn add(&mut self, edges: &mut [(EdgeKey, Edge)], samples: &[Sample]) {
        let mut open: HashMap<EdgeKey, Transferred> = HashMap::new();
        for sample in samples {
            let key = EdgeKey { cgroup: sample.cgroup, service: sample.service, version: sample.version };
            let sum = open.entry(key).or_default();
            let parts = [sample.sent_bytes, sample.received_bytes, u64::from(sample.retransmits)];
            for (sum, part) in sum.iter_mut().zip(parts) {
                *sum += part;
            }
        }
        let before = std::mem::take(&mut self.shown);
        for (key, edge) in edges {
            let extra = open.get(key).copied().unwrap_or_default();
            let mut now =
                [edge.sent_bytes + extra[0], edge.received_bytes + extra[1], edge.retransmits + extra[2]];
            // An entry that opened fewer connections than before was made anew: it starts from nothing.
            if let Some((_, shown)) = before.get(key).filter(|(opened, _)| *opened <= edge.opened) {
                for (now, shown) in now.iter_mut().zip(shown) {
                    *now = (*now).max(*shown);
                }
            }
            [edge.sent_bytes, edge.received_bytes, edge.retransmits] = now;
            self.shown.insert(*key, (edge.opened, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: EdgeKey = EdgeKey { cgroup: 1, service: 2, version: 0 };

    fn edge(opened: u64, sent_bytes: u64) -> Vec<(EdgeKey, Edge)> {
        vec![(KEY, Edge { opened, sent_bytes, ..Edge::default() })]
    }

    fn sample(sent_bytes: u64) -> Sample {
        Sample { cgroup: 1, service: 2, sent_bytes, ..Sample::default() }
    }

    fn shown(open: &mut OpenConnections, mut edges: Vec<(EdgeKey, Edge)>, samples: &[Sample]) -> u64 {
        open.add(&mut edges, samples);
        edges[0].1.sent_bytes
    }

    #[test]
    fn an_open_connection_counts_before_it_ends() {
        let mut open = OpenConnections::default();
        assert_eq!(shown(&mut open, edge(2, 100), &[sample(10), sample(5)]), 115);
        assert_eq!(shown(&mut open, edge(2, 100), &[sample(20), sample(5)]), 125);
    }

    #[test]
    fn a_connection_that_ends_between_the_two_readings_takes_nothing_away() {
        let mut open = OpenConnections::default();
        assert_eq!(shown(&mut open, edge(1, 0), &[sample(50)]), 50);
        assert_eq!(shown(&mut open, edge(1, 0), &[]), 50);
        assert_eq!(shown(&mut open, edge(1, 60), &[]), 60);
    }

    #[test]
    fn an_entry_made_anew_starts_from_nothing() {
        let mut open = OpenConnections::default();
        assert_eq!(shown(&mut open, edge(5, 1_000), &[]), 1_000);
        assert_eq!(shown(&mut open, edge(1, 7), &[]), 7);
    }
}
