//! What two agents that never talk to each other can agree on about a request: whether it is one of those that are told, and
//! by which ids.
//!
//! All of it is made of its [`RequestPlace`], which both sides of a connection see, and of nothing that only one of them knows:
//! no time, no chance, no byte of what was said. A network that translates addresses or sequence numbers between them ends
//! the agreement.

use crate::abi::{Address, Endpoint, RequestPlace};

/// As many lots as there are: a limit of this many takes every request.
pub const ALL_LOTS: u64 = 1 << 32;

/// What the numbers of a place are mixed with, so that one of a kind says nothing about another: the first digits of the
/// square roots of 2, 3, 5, 7 and 11 behind the point.
const LOT: u64 = 0x6a09_e667_f3bc_c908;
const TRACE_HIGH: u64 = 0xbb67_ae85_84ca_a73b;
const TRACE_LOW: u64 = 0x3c6e_f372_fe94_f82b;
const CLIENT_SPAN: u64 = 0xa54f_f53a_5f1d_36f1;
const SERVER_SPAN: u64 = 0x510e_527f_ade6_82d1;

/// The lot a request draws: as good as a random number, and the same on both sides. It is one of those that are told where
/// its lot is less than a limit, so a share of all requests is a limit of that share of [`ALL_LOTS`].
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the upper half is all that is wanted")]
pub const fn lot(place: &RequestPlace) -> u32 {
    (mixed(place, LOT) >> 32) as u32
}

/// The limit of lots that a share of all requests has, from 0 to 1. For the agent; programs have no such numbers.
#[cfg(not(target_arch = "bpf"))]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 2^32")]
pub fn lots_of(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * ALL_LOTS as f64).round() as u64
}

/// The id of the trace of a request whose application names none.
pub const fn trace_id(place: &RequestPlace) -> u128 {
    let (high, low) = (mixed(place, TRACE_HIGH), mixed(place, TRACE_LOW));
    // The low half is never zero, so an id is always one (W3C Trace Context, section 3.2.2.3).
    (high as u128) << 64 | some(low) as u128
}

/// The id of the span on the client's side; never zero.
pub const fn client_span_id(place: &RequestPlace) -> u64 {
    some(mixed(place, CLIENT_SPAN))
}

/// The id of the span on the server's side; never zero.
pub const fn server_span_id(place: &RequestPlace) -> u64 {
    some(mixed(place, SERVER_SPAN))
}

const fn some(number: u64) -> u64 {
    if number == 0 { 1 } else { number }
}

#[inline(always)]
const fn mixed(place: &RequestPlace, with: u64) -> u64 {
    let mixed = endpoint(endpoint(with, &place.client), &place.server);
    last(step(mixed, place.sequence as u64))
}

#[inline(always)]
const fn endpoint(mixed: u64, endpoint: &Endpoint) -> u64 {
    let Address { words_be: [one, two, three, four] } = endpoint.address;
    let mixed = step(step(mixed, pair(one, two)), pair(three, four));
    step(mixed, u16::from_be(endpoint.port_be) as u64)
}

/// Two words of an address as a number that is the same whatever the byte order of this machine.
#[inline(always)]
const fn pair(high_be: u32, low_be: u32) -> u64 {
    (u32::from_be(high_be) as u64) << 32 | u32::from_be(low_be) as u64
}

/// Takes in a number. What makes every bit of it reach every bit of the result comes at the end.
#[inline(always)]
const fn step(mixed: u64, number: u64) -> u64 {
    // The golden ratio's digits, as Fibonacci hashing multiplies by (Knuth, The Art of Computer Programming, volume 3, 6.4).
    let mixed = (mixed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// Spreads every bit over all: two rounds of multiplying, and folding the upper bits onto the lower ones.
#[inline(always)]
const fn last(mixed: u64) -> u64 {
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn place(client: &str, server: &str, sequence: u32) -> RequestPlace {
        let end = |text: &str| Endpoint::from(text.parse::<SocketAddr>().expect("an address"));
        RequestPlace { client: end(client), server: end(server), sequence }
    }

    /// Ten thousand requests as a node sees them: few servers, ports that follow each other, sequences that grow by the size of
    /// a request. Nothing about them is random.
    fn places() -> Vec<RequestPlace> {
        let one = |at: u32| {
            let (port, turn) = (32_768 + at / 100, at % 100);
            place(&format!("10.0.0.{}:{port}", at % 3), "10.0.1.1:8080", 1_000 + 78 * turn)
        };
        (0..10_000).map(one).collect()
    }

    #[test]
    fn a_share_of_requests_is_about_that_share_also_where_they_are_alike() {
        for share in [0.01, 0.1, 0.5] {
            let limit = lots_of(share);
            let taken = places().iter().filter(|place| u64::from(lot(place)) < limit).count() as f64;
            let (expected, n) = (share * 10_000.0, 10_000.0);
            // Five standard deviations of as many draws: of a good hash one such test in a million fails.
            let slack = 5.0 * (n * share * (1.0 - share)).sqrt();
            assert!((taken - expected).abs() < slack, "{taken} of {expected}");
        }
        assert!(places().iter().all(|place| u64::from(lot(place)) < lots_of(1.0)));
        assert!(!places().iter().any(|place| u64::from(lot(place)) < lots_of(0.0)));
    }

    #[test]
    fn ids_differ_and_are_none_of_each_other() {
        let places = places();
        let mut ids = HashSet::new();
        for place in &places {
            let trace = trace_id(place);
            let halves = [trace >> 64, trace & u128::from(u64::MAX)];
            let spans = [client_span_id(place), server_span_id(place)].map(u128::from);
            ids.extend(halves.into_iter().chain(spans));
        }
        assert_eq!(ids.len(), 4 * places.len());
    }

    #[test]
    fn what_a_place_comes_to_never_changes() {
        // Agents of several versions must agree. The figures are those of another program, written from the description.
        let place = place("10.0.0.1:40000", "[fd00::5]:8080", 0xdead_beef);
        let all = (lot(&place), trace_id(&place), client_span_id(&place), server_span_id(&place));
        let ids = (0xa792_d838_19ef_b081_c657_bc38_009e_124c, 0x8f39_055a_13ae_9d24, 0xba1d_c108_3e9d_a999);
        assert_eq!(all, (1_748_982_407, ids.0, ids.1, ids.2));
    }

    proptest! {
        /// Each bit of a place changes the lot in about half of all cases; here: each changes both ids, and the sides of a
        /// connection are no each other's.
        #[test]
        fn every_bit_of_a_place_counts(words: [u32; 8], ports: [u16; 2], sequence: u32, bit in 0_usize..320) {
            let of = |words: [u32; 8], ports: [u16; 2], sequence: u32| RequestPlace {
                client: Endpoint::new(Address { words_be: [words[0], words[1], words[2], words[3]] }, ports[0]),
                server: Endpoint::new(Address { words_be: [words[4], words[5], words[6], words[7]] }, ports[1]),
                sequence,
            };
            let (mut other_words, mut other_ports, mut other_sequence) = (words, ports, sequence);
            match bit {
                0..256 => other_words[bit / 32] ^= 1 << (bit % 32),
                256..288 => other_ports[(bit - 256) / 16] ^= 1 << (bit % 16),
                _ => other_sequence ^= 1 << (bit - 288),
            }
            let one = of(words, ports, sequence);
            let other = of(other_words, other_ports, other_sequence);
            prop_assert_ne!(trace_id(&one), trace_id(&other));
            prop_assert_ne!(client_span_id(&one), client_span_id(&other));
            let turned = RequestPlace { client: one.server, server: one.client, sequence };
            prop_assert!(one.client == one.server || trace_id(&turned) != trace_id(&one));
        }

        /// A limit takes what a lower one takes: who takes more, takes the same and more.
        #[test]
        fn limits_nest(share in 0.0_f64..1.0, more in 0.0_f64..1.0) {
            prop_assert!(lots_of(share) <= lots_of((share + more).min(1.0)));
        }
    }
}
