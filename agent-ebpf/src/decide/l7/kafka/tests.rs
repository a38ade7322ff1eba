//! Kafka as captured and as made up, cut anywhere, against what was put into it.

use proptest::prelude::*;

use super::*;
use crate::abi::AppProtocol;
use crate::decide::l7::conversation::follower::Follower;

/// A request with a body of zeros.
fn request_of(key: u16, version: u16, correlation: u32, body: &[u8]) -> Vec<u8> {
    let name = b"rdkafka";
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(10 + name.len() + body.len()).unwrap().to_be_bytes());
    bytes.extend(key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(correlation.to_be_bytes());
    bytes.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
    bytes.extend(name);
    bytes.extend(body);
    bytes
}

fn response_to(correlation: u32, body: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(4 + body).unwrap().to_be_bytes().to_vec();
    bytes.extend(correlation.to_be_bytes());
    bytes.resize(8 + body, 0x55);
    bytes
}

fn follower() -> Follower {
    Follower::new(AppProtocol::Kafka)
}

#[test]
fn a_session_of_kcat_is_counted() {
    // As captured, of librdkafka 2.0.2 and its mock broker; bodies of answers are zeros.
    let mut follower = follower();
    follower.says(true, b"\0\0\0\x24\0\x12\0\x03\0\0\0\x01\0\x07rdkafka\0\x0blibrdkafka\x062.0.2\0");
    follower.says(false, b"\0\0\0\x11\0\0\0\x01\0\x23\x01\0\x12\0\0\0\x02\0\0\0\0");
    follower.says(true, b"\0\0\0\x11\0\x12\0\0\0\0\0\x02\0\x07rdkafka");
    follower.says(false, &response_to(2, 108));
    follower.says(true, b"\0\0\0\x18\0\x03\0\x02\0\0\0\x03\0\x07rdkafka\0\0\0\x01\0\x01t");
    follower.says(false, &response_to(3, 172));
    let expected = [KafkaApi::ApiVersions, KafkaApi::ApiVersions, KafkaApi::Metadata];
    assert_eq!(follower.counted(), expected.map(|api| (api as u8, 0)));
    assert_eq!(follower.lost, None);
}

#[test]
fn numbers_of_requests_are_their_keys_and_one() {
    for &api in KafkaApi::ALL {
        if api != KafkaApi::Other {
            assert_eq!(operation(u32::from(api as u8) - 1), api as u8, "{}", api.name());
        }
    }
    assert_eq!(operation(57), KafkaApi::Other as u8);
    assert_eq!(operation(127), KafkaApi::Other as u8);
}

#[test]
fn nobody_answers_a_produce_without_acknowledgement() {
    // Without a transaction: null, or the compact form of it behind an empty list of tags.
    for (version, transaction) in [(2, &b""[..]), (7, b"\xff\xff"), (9, b"\0\0")] {
        let produce = |acks: &[u8], correlation| {
            request_of(0, version, correlation, &[transaction, acks, &[0; 40]].concat())
        };
        let mut follower = follower();
        follower.says(true, &request_of(18, 0, 1, b""));
        follower.says(false, &response_to(1, 10));
        for correlation in 2..200 {
            follower.says(true, &produce(b"\0\0", correlation));
        }
        follower.says(true, &produce(b"\xff\xff", 200));
        follower.says(false, &response_to(200, 30));
        let expected = [(KafkaApi::ApiVersions as u8, 0), (KafkaApi::Produce as u8, 0)];
        assert_eq!((follower.counted(), follower.lost), (expected.to_vec(), None), "version {version}");
    }
}

#[test]
fn of_more_requests_under_way_than_are_remembered_the_rest_is_missed_and_said_once() {
    let mut follower = follower();
    for correlation in 1..=50 {
        follower.says(true, &request_of(1, 11, correlation, &[0; 30]));
    }
    assert_eq!(follower.missed, [Unparsed::Pipelined]);
    for correlation in 1..=40 {
        follower.says(false, &response_to(correlation, 20));
    }
    assert_eq!(follower.counted().len(), 32);
    // Whoever is remembered again is counted again, with its own time.
    follower.says(true, &request_of(3, 1, 51, b""));
    for correlation in 41..=51 {
        follower.says(false, &response_to(correlation, 20));
    }
    assert_eq!(follower.counted()[32..], [(KafkaApi::Metadata as u8, 0)]);
    assert_eq!(follower.answered[32].duration_ns, 11_000);
    assert_eq!((follower.missed.len(), follower.lost), (1, None));
}

#[test]
fn an_answer_to_nothing_that_was_asked_ends_it() {
    let mut follower = follower();
    follower.says(true, &request_of(3, 1, 1, b""));
    follower.says(false, &response_to(2, 10));
    assert_eq!(follower.lost, Some(Unparsed::OtherProtocol));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However requests under way at a time and their answers are cut, each is counted once and in order.
    #[test]
    fn requests_under_way_at_a_time_are_counted_however_they_are_cut(
        flights in prop::collection::vec(
            prop::collection::vec((any::<prop::sample::Index>(), 0_u16..14, 8_usize..3_000, 0_usize..3_000), 1..30), 1..5),
        first in 0_u32..60_000,
        cuts in prop::collection::btree_set(1_usize..9_000, 0..30),
        bytewise: bool,
    ) {
        let cuts: Vec<usize> = if bytewise { (1..200_000).collect() } else { cuts.into_iter().collect() };
        let mut follower = follower();
        let mut expected = Vec::new();
        let mut correlation = first;
        for flight in flights {
            let (mut asked, mut answered) = (Vec::new(), Vec::new());
            for (index, version, body, answer) in flight {
                let api = *index.get(&KafkaApi::ALL[1..]);
                // Long enough to say whether a produce is acknowledged, and not zero, by which it would not be.
                asked.extend(request_of(u16::from(api as u8) - 1, version, correlation, &vec![1; body]));
                answered.extend(response_to(correlation, answer));
                expected.push((api as u8, 0));
                correlation += 1;
            }
            follower.says_in_pieces(true, &asked, &cuts);
            follower.says_in_pieces(false, &answered, &cuts);
        }
        prop_assert_eq!(follower.lost, None);
        prop_assert_eq!(follower.counted(), expected);
    }

    /// Whatever the bytes: they are told or refused.
    #[test]
    fn any_bytes_are_told_or_refused(
        said in prop::collection::vec((any::<bool>(), prop::collection::vec(
            prop_oneof![3 => 0_u8..20, 1 => any::<u8>()], 0..80)), 0..12),
    ) {
        let mut follower = follower();
        for (asks, bytes) in said {
            follower.says(asks, &bytes);
        }
        prop_assert!(follower.counted().len() < 12);
    }
}
