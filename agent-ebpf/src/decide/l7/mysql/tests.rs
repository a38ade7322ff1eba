//! MySQL as captured and as made up, cut anywhere, against what was put into it.

use proptest::prelude::*;

use super::*;
use crate::abi::AppProtocol;
use crate::decide::l7::conversation::follower::Follower;

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_le_bytes()[..3].to_vec();
    bytes.push(sequence);
    bytes.extend(payload);
    bytes
}

fn query(sql: &str) -> Vec<u8> {
    packet(0, &[b"\x03", sql.as_bytes()].concat())
}

/// As captured, of MariaDB 10.11.19 and its client.
const GREETING: &[u8] = b"d\0\0\0\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x03\0\0\x000B<F+COA\0\xfe\xf7\x08\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0;By]E#y^J7r\\\0mysql_native_password\0";
const LOGIN: &[u8] = b"\x55\0\0\x01\x84\xa2\xbf\0\0\0\0\x10\0\x21\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x1d\0\0\0root\0\0mysql_native_password\0\x18\x03_os\x05Linux\x0a_client_na\x01x";
const OK: &[u8] = b"\x07\0\0\x02\0\0\0\x02\0\0\0";
const DONE: &[u8] = b"\x07\0\0\x01\0\x01\0\x02\0\0\0";
const RESULT: &[u8] = b"\x02\0\0\x01\x01\x01\x18\0\0\x02\x03def\0\0\0\x011\0\0\x0c?\0\x01\0\0\0\x03\x81\0\0\0\0\x05\0\0\x03\xfe\0\0\x02\0\x02\0\0\x04\x011\x05\0\0\x05\xfe\0\0\x02\0";
const DUPLICATE: &[u8] = b".\0\0\x01\xff&\x04#23000Duplicate entry '1' for key 'PRIMARY'";

fn started() -> Follower {
    let mut follower = Follower::new(AppProtocol::Mysql);
    follower.says(false, GREETING);
    follower.says(true, LOGIN);
    follower.says(false, OK);
    assert_eq!((follower.counted(), follower.lost), (vec![], None));
    follower
}

#[test]
fn the_fixtures_are_whole_packets() {
    for packet in [GREETING, LOGIN, OK, DONE, DUPLICATE] {
        assert_eq!(usize::from(packet[0]) + 4, packet.len(), "{}", packet.escape_ascii());
    }
}

#[test]
fn a_session_of_the_client_is_counted() {
    let mut follower = started();
    let mut expected = Vec::new();
    for (asked, answer, operation, status) in [
        (query("select 1"), RESULT, SqlOperation::Select, 0),
        (query("create database d"), DONE, SqlOperation::Create, 0),
        (packet(0, b"\x02d"), DONE, SqlOperation::Use, 0),
        (query("insert into t values(1)"), DUPLICATE, SqlOperation::Insert, 1062),
        (packet(0, b"\x0e"), DONE, SqlOperation::Ping, 0),
        (packet(0, b"\x16select ?"), DONE, SqlOperation::Prepare, 0),
        (packet(0, b"\x17\x01\0\0\0\0\x01\0\0\0"), RESULT, SqlOperation::Execute, 0),
        // Query attributes of MySQL 8: no parameter, one set.
        (packet(0, b"\x03\0\x01update t set a=1"), DONE, SqlOperation::Update, 0),
    ] {
        follower.says(true, &asked);
        follower.says(false, answer);
        expected.push((operation as u8, status));
    }
    // A statement that is closed has no answer; what follows in the same segment has.
    follower.says(true, &[packet(0, b"\x19\x01\0\0\0"), query("commit")].concat());
    follower.says(false, DONE);
    expected.push((SqlOperation::Commit as u8, 0));
    follower.says(true, &packet(0, b"\x01"));
    assert_eq!((follower.counted(), follower.lost), (expected, None));
    assert!(
        follower.answered.iter().all(|answered| answered.duration_ns == 1_000),
        "{:?}",
        follower.answered
    );
}

#[test]
fn tls_and_compression_are_given_up() {
    let mut tls = Follower::new(AppProtocol::Mysql);
    tls.says(false, GREETING);
    tls.says(true, &packet(1, &[&b"\x84\xaa\xbf\0"[..], &[0; 28]].concat()));
    let mut compressed = Follower::new(AppProtocol::Mysql);
    compressed.says(false, GREETING);
    compressed.says(true, &packet(1, &[&b"\xa4\xa2\xbf\0"[..], &[0; 60]].concat()));
    assert_eq!((tls.lost, compressed.lost), (Some(Unparsed::Opaque), Some(Unparsed::Opaque)));
}

#[test]
fn a_second_command_before_the_answer_is_a_pipeline() {
    let mut one = started();
    one.says(true, &[query("select 1"), query("select 2")].concat());
    // The rest of an answer after the next command.
    let mut two = started();
    two.says(true, &query("select 1"));
    two.says(false, &RESULT[..20]);
    two.says(true, &query("select 2"));
    two.says(false, &packet(3, b"\x01\x02\x03"));
    assert_eq!((one.lost, two.lost), (Some(Unparsed::Pipelined), Some(Unparsed::Pipelined)));
}

#[test]
fn replication_is_something_else() {
    let mut follower = started();
    follower.says(true, &packet(0, b"\x12\x04\0\0\0\0\0\x01\0\0\0"));
    assert_eq!(follower.lost, Some(Unparsed::Upgraded));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// However a session in turns is cut, each command is counted once, with its error.
    #[test]
    fn commands_in_turn_are_counted_however_they_are_cut(
        commands in prop::collection::vec((0_usize..4, any::<bool>(), 0_usize..300, "[a-z0-9 ]{0,3000}"), 1..8),
        cuts in prop::collection::btree_set(1_usize..4_000, 0..20),
        bytewise: bool,
    ) {
        let cuts: Vec<usize> = if bytewise { (1..40_000).collect() } else { cuts.into_iter().collect() };
        let mut follower = Follower::new(AppProtocol::Mysql);
        follower.says_in_pieces(false, GREETING, &cuts);
        follower.says_in_pieces(true, LOGIN, &cuts);
        follower.says_in_pieces(false, OK, &cuts);
        let mut expected = Vec::new();
        for (word, fails, rows, rest) in commands {
            let (text, operation) = [
                ("SELECT", SqlOperation::Select), ("insert", SqlOperation::Insert), ("Begin", SqlOperation::Begin),
                ("xyz", SqlOperation::Other),
            ][word];
            follower.says_in_pieces(true, &query(&format!("{text} {rest}")), &cuts);
            let answer = if fails { DUPLICATE.to_vec() } else { [RESULT, &packet(6, b"row").repeat(rows)].concat() };
            follower.says_in_pieces(false, &answer, &cuts);
            expected.push((operation as u8, if fails { 1062 } else { 0 }));
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
        let mut follower = started();
        for (asks, bytes) in said {
            follower.says(asks, &bytes);
        }
        prop_assert!(follower.counted().len() <= 12);
    }
}
