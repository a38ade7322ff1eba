//! Spans whose workload is not known yet: its cgroup was just made, or the cluster has not told about its pod. They wait a
//! moment for its name. Bounded: the oldest goes on without one.

use std::collections::VecDeque;
use std::time::Duration;

use super::Span;
use crate::flows::Names;

/// Spans that wait at most, less than half a megabyte of them.
const CAPACITY: usize = 1_024;
/// How long one waits: cgroups are looked for every few seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module. Times are of any monotonic clock.
#[derive(Debug, Default)]
pub struct Unnamed {
    waiting: VecDeque<(Duration, Span)>,
}

impl Unnamed {
    /// Has a span wait for the name of its workload. Gives the one that must go on without, where too many wait.
    pub fn wait(&mut self, now: Duration, span: Span) -> Option<Span> {
        self.waiting.push_back((now, span));
        if self.waiting.len() > CAPACITY { self.waiting.pop_front().map(|(_, span)| span) } else { None }
    }

    /// Those that have their name by now, and those that have waited for long enough, in the order in which they came.
    pub fn take(&mut self, now: Duration, names: &mut dyn Names) -> Vec<Span> {
        let (mut ready, mut still) = (Vec::new(), VecDeque::new());
        for (since, span) in self.waiting.drain(..) {
            let client = names.client(span.cgroup);
            if !client.is_provisional || now.saturating_sub(since) >= PATIENCE {
                ready.push(Span { workload: client.workload, ..span });
            } else {
                still.push_back((since, span));
            }
        }
        self.waiting = still;
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Shop, some_span};
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_span_goes_on_when_its_workload_has_a_name_or_after_a_while_without() {
        let mut unnamed = Unnamed::default();
        assert_eq!(unnamed.wait(at(1), Span { id: 1, ..some_span(99) }), None);
        assert_eq!(unnamed.wait(at(5), Span { id: 2, ..some_span(42) }), None);
        let named = unnamed.take(at(6), &mut Shop);
        assert_eq!(
            named.iter().map(|span| (span.id, &*span.workload.name)).collect::<Vec<_>>(),
            [(2, "nginx")]
        );
        assert!(unnamed.take(at(10), &mut Shop).is_empty());
        let late = unnamed.take(at(11), &mut Shop);
        assert_eq!(
            late.iter().map(|span| (span.id, &*span.workload.name)).collect::<Vec<_>>(),
            [(1, "unknown")]
        );
        assert!(unnamed.take(at(90), &mut Shop).is_empty());
    }

    #[test]
    fn the_oldest_goes_on_where_too_many_wait() {
        let mut unnamed = Unnamed::default();
        for id in 0..CAPACITY as u64 {
            assert_eq!(unnamed.wait(at(0), Span { id, ..some_span(99) }), None);
        }
        assert_eq!(unnamed.wait(at(0), some_span(99)).map(|span| span.id), Some(0));
    }
}
