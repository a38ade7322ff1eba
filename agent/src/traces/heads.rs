//! Beginnings of requests that wait for their answers. Bounded: the oldest gives way, as that of a request that is never
//! answered must.

use std::collections::{HashMap, VecDeque};

use super::context::Beginning;

/// Beginnings kept: requests on their way at a time, of those that are sampled.
const CAPACITY: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// By the socket's cookie; on a connection one request waits at a time.
    waiting: HashMap<u64, (u32, Beginning)>,
    /// In the order in which they came. Some are answered already.
    order: VecDeque<(u64, u32)>,
}

impl Heads {
    /// Keeps the beginning of the request at this sequence number of this socket.
    pub(super) fn keep(&mut self, cookie: u64, sequence: u32, beginning: Beginning) {
        self.waiting.insert(cookie, (sequence, beginning));
        self.order.push_back((cookie, sequence));
        if self.order.len() > CAPACITY
            && let Some((cookie, sequence)) = self.order.pop_front()
        {
            self.take(cookie, sequence);
        }
    }

    /// The beginning of this request, which is not kept any longer.
    pub(super) fn take(&mut self, cookie: u64, sequence: u32) -> Option<Beginning> {
        let (its, _) = self.waiting.get(&cookie)?;
        if *its != sequence {
            return None;
        }
        self.waiting.remove(&cookie).map(|(_, beginning)| beginning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> Beginning {
        Beginning { path: Some(path.to_owned()), ..Beginning::default() }
    }

    #[test]
    fn a_beginning_is_given_to_its_own_answer_once() {
        let mut heads = Heads::default();
        heads.keep(7, 100, named("/a"));
        heads.keep(8, 100, named("/b"));
        assert_eq!(heads.take(7, 101), None);
        assert_eq!(heads.take(7, 100), Some(named("/a")));
        assert_eq!(heads.take(7, 100), None);
        assert_eq!(heads.take(8, 100), Some(named("/b")));
    }

    #[test]
    fn the_next_request_of_a_connection_takes_the_place_of_one_without_an_answer() {
        let mut heads = Heads::default();
        heads.keep(7, 100, named("/a"));
        heads.keep(7, 200, named("/b"));
        assert_eq!(heads.take(7, 100), None);
        assert_eq!(heads.take(7, 200), Some(named("/b")));
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_stay() {
        let mut heads = Heads::default();
        for cookie in 0..3 * CAPACITY as u64 {
            heads.keep(cookie, 1, named("/"));
        }
        assert_eq!((heads.waiting.len(), heads.order.len()), (CAPACITY, CAPACITY));
        assert!(heads.take(0, 1).is_none() && heads.take(3 * CAPACITY as u64 - 1, 1).is_some());
    }
}
