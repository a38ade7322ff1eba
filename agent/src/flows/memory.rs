//! The newest events, kept for those who ask afterwards. Bounded: the oldest falls out, and is counted.
//!
//! Pure. Knows no ring buffer and no clock: what comes is kept, and for when connections were asked for is told by
//! who asked.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;
use super::selector::Selector;

/// Events kept: all of them take less than a megabyte, since names are shared.
pub const CAPACITY: usize = 4_096;
const _: () = assert!(CAPACITY * (size_of::<Record>() + 2 * size_of::<Arc<Record>>() + 8) < 1 << 20);

/// What is in the memory, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryView {
    /// Events it can hold.
    pub capacity: u64,
    /// Events it holds.
    pub held: u64,
    /// Events that fell out, because newer ones took their place.
    pub forgotten: u64,
    /// When the oldest event it holds happened; null where it holds none.
    pub oldest: Option<Timestamp>,
    /// Since when connections have been recorded without a pause; null where they never were. Before, only
    /// transitions of breakers and canaries were.
    pub recorded_from: Option<Timestamp>,
    /// Until when; null while they are.
    pub recorded_to: Option<Timestamp>,
}

/// Which part of what is remembered somebody wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// At most so many, the newest.
    pub last: Option<usize>,
    /// None from before.
    pub since: Option<Timestamp>,
    /// None from then on.
    pub until: Option<Timestamp>,
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    records: VecDeque<Arc<Record>>,
    capacity: usize,
    forgotten: u64,
    recorded: Option<(Timestamp, Option<Timestamp>)>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Memory {
    /// An empty memory for `capacity` events.
    pub fn new(capacity: usize) -> Self {
        Self { records: VecDeque::new(), capacity, forgotten: 0, recorded: None }
    }

    /// Keeps an event; the oldest gives way.
    pub fn keep(&mut self, record: Arc<Record>) {
        if self.records.len() >= self.capacity {
            self.records.pop_front();
            self.forgotten += 1;
        }
        self.records.push_back(record);
    }

    /// Connections are recorded as of `now`, or are not.
    pub fn recording(&mut self, now: Timestamp, is_on: bool) {
        match (&mut self.recorded, is_on) {
            (Some((_, None)), true) => {}
            (recorded, true) => *recorded = Some((now, None)),
            (Some((_, ended @ None)), false) => *ended = Some(now),
            (_, false) => {}
        }
    }

    /// What is wanted of it, the oldest first.
    pub fn select(&self, selector: &Selector, window: Window) -> Vec<Arc<Record>> {
        // Breakers and canaries come by other ways than connections: not all is in the order of its time.
        let in_time = |record: &Arc<Record>| {
            window.since.is_none_or(|since| record.time >= since)
                && window.until.is_none_or(|until| record.time < until)
        };
        let wanted = self.records.iter().rev().filter(|record| in_time(record) && selector.matches(record));
        let mut wanted: Vec<_> = wanted.take(window.last.unwrap_or(usize::MAX)).cloned().collect();
        wanted.reverse();
        wanted
    }

    /// What is in it.
    pub fn view(&self) -> MemoryView {
        MemoryView {
            capacity: self.capacity as u64,
            held: self.records.len() as u64,
            forgotten: self.forgotten,
            oldest: self.records.iter().map(|record| record.time).min(),
            recorded_from: self.recorded.map(|(from, _)| from),
            recorded_to: self.recorded.and_then(|(_, to)| to),
        }
    }

    /// The names of all clients and services in it.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().map(|record| &**record)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::specimen::{Specimen, now};

    fn at(second: u64) -> Timestamp {
        now() + Duration::from_secs(second)
    }

    fn filled(capacity: usize, seconds: std::ops::Range<u64>) -> Memory {
        let mut memory = Memory::new(capacity);
        for second in seconds {
            memory.keep(Arc::new(Record { time: at(second), ..(*Specimen::default().record()).clone() }));
        }
        memory
    }

    fn times(memory: &Memory, window: Window) -> Vec<u64> {
        let records = memory.select(&Selector::default(), window);
        let seconds = records.iter().map(|record| record.time.duration_since(now()).as_secs());
        seconds.map(|second| u64::try_from(second).expect("after the story began")).collect()
    }

    #[test]
    fn the_oldest_gives_way_and_is_counted() {
        let memory = filled(3, 0..5);
        assert_eq!(times(&memory, Window::default()), [2, 3, 4]);
        let view = memory.view();
        assert_eq!((view.held, view.forgotten, view.oldest), (3, 2, Some(at(2))));
        assert_eq!(Memory::new(3).view().oldest, None);
    }

    #[test]
    fn the_newest_of_those_in_time_that_are_wanted_are_given() {
        let memory = filled(10, 0..8);
        let last = |last| Window { last: Some(last), ..Window::default() };
        assert_eq!(times(&memory, last(2)), [6, 7]);
        assert_eq!(times(&memory, last(0)), [0_u64; 0]);
        assert_eq!(times(&memory, Window { since: Some(at(5)), ..Window::default() }), [5, 6, 7]);
        let both = Window { since: Some(at(2)), until: Some(at(6)), last: Some(3) };
        assert_eq!(times(&memory, both), [3, 4, 5]);
        let mut none = Selector::default();
        none.add("to-service", "cart").expect("a selector");
        assert!(memory.select(&none, Window::default()).is_empty());
    }

    #[test]
    fn it_knows_for_when_connections_were_recorded() {
        let mut memory = Memory::new(1);
        let recorded = |memory: &Memory| (memory.view().recorded_from, memory.view().recorded_to);
        memory.recording(at(0), false);
        assert_eq!(recorded(&memory), (None, None));
        memory.recording(at(1), true);
        memory.recording(at(2), true);
        assert_eq!(recorded(&memory), (Some(at(1)), None));
        memory.recording(at(3), false);
        memory.recording(at(4), false);
        assert_eq!(recorded(&memory), (Some(at(1)), Some(at(3))));
        memory.recording(at(5), true);
        assert_eq!(recorded(&memory), (Some(at(5)), None));
    }
}
