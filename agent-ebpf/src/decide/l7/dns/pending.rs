//! Which lookups wait for their answer on a socket, and which of them have waited in vain.

use crate::abi::Endpoint;
use crate::abi::lookup::{PATIENCE_NS, PLACES, SETS, Waiting};

/// The number of a lookup together with the other side: what its answer is told by.
///
/// An IPv6 address is folded into 32 bits. Where two servers asked from one socket fold alike, and with the same number,
/// the first to answer is taken for either.
#[inline(always)]
pub const fn key(id: u16, peer: &Endpoint) -> u64 {
    let [first, second, third, fourth] = peer.address.words_be;
    let folded = first ^ second.rotate_left(8) ^ third.rotate_left(16) ^ fourth;
    (folded as u64) << 32 | (peer.port_be as u64) << 16 | id as u64
}

/// Whether two keys have the same number.
#[inline(always)]
pub const fn is_same_number(one: u64, other: u64) -> bool {
    (one ^ other) & 0xffff == 0
}

/// Which set of a server's socket a lookup waits in.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the lower bits are meant")]
pub const fn set_of(key: u64) -> usize {
    (key ^ key >> 16 ^ key >> 35) as usize & (SETS - 1)
}

/// What becomes of the lookup whose place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// There was none.
    Nobody,
    /// It was asked again, or has waited for too long: it has no answer.
    Unanswered,
    /// It might have got its answer: there are more at once than places.
    Crowded,
}

/// How much a place is to be taken: the least is. The same lookup's first, since it is asked again; then of one that waited
/// too long; then an empty one; then of the one that waited longest.
#[inline(always)]
pub const fn claim(waiting: &Waiting, key: u64, now_ns: u64) -> u64 {
    if waiting.asked_at_ns == 0 {
        return 2 * overdue_since(now_ns) - 1;
    }
    // Twice, so that an empty place has one between two moments.
    if waiting.key == key { 0 } else { 2 * waiting.asked_at_ns }
}

/// What becomes of the lookup whose place is taken by that of `key`.
#[inline(always)]
pub const fn gone(waiting: &Waiting, key: u64, now_ns: u64) -> Gone {
    if waiting.asked_at_ns == 0 {
        Gone::Nobody
    } else if waiting.key == key || waiting.asked_at_ns < overdue_since(now_ns) {
        Gone::Unanswered
    } else {
        Gone::Crowded
    }
}

/// The place for a lookup.
#[inline(always)]
pub const fn place_for(places: &[Waiting; PLACES], key: u64, now_ns: u64) -> usize {
    let mut place = 0;
    let mut least = u64::MAX;
    let mut at = 0;
    while at < PLACES {
        let claim = claim(&places[at], key, now_ns);
        if claim < least {
            least = claim;
            place = at;
        }
        at += 1;
    }
    place
}

/// Where the lookup waits that an answer is to; [`PLACES`]: nowhere.
#[inline(always)]
pub const fn place_of(places: &[Waiting; PLACES], key: u64) -> usize {
    let mut at = 0;
    while at < PLACES {
        if places[at].asked_at_ns != 0 && places[at].key == key {
            return at;
        }
        at += 1;
    }
    PLACES
}

/// Lookups asked before this have waited too long.
#[inline(always)]
const fn overdue_since(now_ns: u64) -> u64 {
    // Never 0, which is the claim of the same lookup.
    if now_ns > PATIENCE_NS { now_ns - PATIENCE_NS } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn peer(text: &str) -> Endpoint {
        Endpoint::from(text.parse::<SocketAddr>().expect("an address"))
    }

    #[test]
    fn keys_tell_numbers_servers_and_ports_apart() {
        let one = key(7, &peer("10.0.0.53:53"));
        assert_ne!(one, key(8, &peer("10.0.0.53:53")));
        assert_ne!(one, key(7, &peer("10.0.0.54:53")));
        assert_ne!(one, key(7, &peer("10.0.0.53:54")));
        assert_ne!(key(7, &peer("[fd00::a]:53")), key(7, &peer("[fd00::b]:53")));
        assert_ne!(key(7, &peer("[fd00:1::a]:53")), key(7, &peer("[fd00:2::a]:53")));
        assert!(is_same_number(one, key(7, &peer("[fd00::a]:5353"))));
        assert!(!is_same_number(one, key(6, &peer("10.0.0.53:53"))));
    }

    #[test]
    fn numbers_and_clients_are_spread_over_the_sets() {
        for by in [key(1, &peer("10.0.0.1:1")), key(1, &peer("10.0.0.2:1")), key(1, &peer("10.0.0.1:2"))] {
            assert!(set_of(by) < SETS);
        }
        let sets =
            |keys: Vec<u64>| keys.into_iter().map(set_of).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(sets((0..64).map(|id| key(id, &peer("10.0.0.1:999"))).collect()), SETS);
        let of_port = |port: u16| key(9, &Endpoint::new(peer("10.0.0.1:1").address, port));
        assert_eq!(sets((0..64).map(of_port).collect()), SETS);
    }

    /// What the places are meant to be: a queue in the order of asking.
    #[derive(Default)]
    struct Model {
        waiting: VecDeque<(u64, u64)>,
    }

    impl Model {
        fn ask(&mut self, key: u64, now_ns: u64) -> Gone {
            let again = self.waiting.iter().position(|&(waiting, _)| waiting == key);
            let gone = if let Some(at) = again {
                self.waiting.remove(at);
                Gone::Unanswered
            } else if self.waiting.front().is_some_and(|&(_, at)| at + PATIENCE_NS < now_ns) {
                self.waiting.pop_front();
                Gone::Unanswered
            } else if self.waiting.len() == PLACES {
                self.waiting.pop_front();
                Gone::Crowded
            } else {
                Gone::Nobody
            };
            self.waiting.push_back((key, now_ns));
            gone
        }

        fn answer(&mut self, key: u64) -> bool {
            let found = self.waiting.iter().position(|&(waiting, _)| waiting == key);
            found.map(|at| self.waiting.remove(at)).is_some()
        }
    }

    proptest! {
        /// Over any order of lookups, answers and pauses the places do what the queue does.
        #[test]
        fn places_are_a_queue(
            steps in prop::collection::vec((0_u16..12, any::<bool>(), 1_u64..PATIENCE_NS / 3), 1..120),
        ) {
            let server = peer("10.0.0.53:53");
            let mut places = [Waiting::default(); PLACES];
            let mut model = Model::default();
            let mut now_ns = 3 * PATIENCE_NS;
            for (id, asks, pause_ns) in steps {
                now_ns += pause_ns;
                let key = key(id, &server);
                if asks {
                    let at = place_for(&places, key, now_ns);
                    let gone = gone(&places[at], key, now_ns);
                    places[at] = Waiting { asked_at_ns: now_ns, key };
                    prop_assert_eq!(gone, model.ask(key, now_ns));
                } else {
                    let at = place_of(&places, key);
                    if at < PLACES {
                        places[at].asked_at_ns = 0;
                    }
                    prop_assert_eq!(at < PLACES, model.answer(key));
                }
            }
        }
    }
}
