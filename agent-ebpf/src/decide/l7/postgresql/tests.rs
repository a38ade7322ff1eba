//! PostgreSQL as captured and as made up, cut anywhere, against what was put into it.

use proptest::prelude::*;

use super::*;
use crate::abi::AppProtocol;
use crate::decide::l7::conversation::follower::Follower;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

const READY: &[u8] = b"Z\0\0\0\x05I";
const SYNC: &[u8] = b"S\0\0\0\x04";
const BIND_AND_EXECUTE: &[u8] = b"B\0\0\0\x11\0P_0\0\0\0\0\0\0\x01\0\0D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0";
const BOUND: &[u8] = b"2\0\0\0\x04";
const DONE: &[u8] = b"C\0\0\0\x0dSELECT 1\0";
const ROW: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x011";
const COLUMNS: &[u8] = b"T\0\0\0\x21\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
/// As captured: `select 1/0`, of PostgreSQL 15.18.
const DIVISION: &[u8] = b"E\0\0\0\x41SERROR\0VERROR\0C22012\0Mdivision by zero\0Fint.c\0L869\0Rint4div\0\0";
const DIVISION_CLASS: u16 = u16::from_be_bytes(*b"22");

/// A connection whose client is known.
fn started() -> Follower {
    let mut follower = Follower::new(AppProtocol::Postgresql);
    follower.says(true, b"\0\0\0\x08\x04\xd2\x16/");
    follower.says(false, b"N");
    follower
        .says(true, b"\0\0\0\x3f\0\x03\0\0user\0postgres\0database\0postgres\0application_name\0psql\0\0");
    follower.says(false, &message(b'R', &5_u32.to_be_bytes()));
    follower.says(true, &message(b'p', b"md5\0"));
    let mut hello = message(b'R', &0_u32.to_be_bytes());
    for _ in 0..12 {
        hello.extend(message(b'S', b"default_transaction_read_only\0off\0"));
    }
    hello.extend(message(b'K', &[7; 8]));
    hello.extend(READY);
    follower.says(false, &hello);
    assert_eq!((follower.counted(), follower.lost), (vec![], None));
    follower
}

#[test]
fn a_session_of_psql_is_counted() {
    let mut follower = started();
    follower.says(true, &query("select 1"));
    follower.says(false, &[COLUMNS, ROW, DONE, READY].concat());
    follower.says(true, &query("select 1/0"));
    // The server sends an error at once.
    follower.says(false, DIVISION);
    follower.says(false, READY);
    follower.says(true, &query("Insert into t values (1)"));
    follower.says(false, &[b"C\0\0\0\x0fINSERT 0 1\0", READY].concat());
    follower.says(true, b"X\0\0\0\x04");
    assert_eq!(
        follower.counted(),
        [
            (SqlOperation::Select as u8, 0),
            (SqlOperation::Select as u8, DIVISION_CLASS),
            (SqlOperation::Insert as u8, 0)
        ]
    );
    assert!(
        follower.answered.iter().all(|answered| answered.duration_ns == 1_000),
        "{:?}",
        follower.answered
    );
}

#[test]
fn extended_messages_are_one_request_for_each_sync() {
    let mut follower = started();
    follower.says(true, &[&parse("P_0", "select abalance from t where aid=1;"), SYNC].concat());
    follower.says(false, &[b"1\0\0\0\x04", READY].concat());
    follower.says(true, &[BIND_AND_EXECUTE, SYNC].concat());
    follower.says(false, &[BOUND, COLUMNS, ROW, DONE, READY].concat());
    follower.says(true, &[&parse("", "UPDATE t SET a = 1"), BIND_AND_EXECUTE, SYNC].concat());
    follower.says(false, &[b"1\0\0\0\x04", BOUND, DIVISION, READY].concat());
    // What is flushed and not synchronized goes on with what follows.
    follower.says(true, &[&parse("", "DELETE FROM t")[..], b"D\0\0\0\x06S\0H\0\0\0\x04"].concat());
    follower.says(false, b"1\0\0\0\x04n\0\0\0\x04");
    follower.says(true, &[BIND_AND_EXECUTE, SYNC].concat());
    follower.says(false, &[BOUND, DONE, READY].concat());
    follower.says(true, SYNC);
    follower.says(false, READY);
    assert_eq!(
        follower.counted(),
        [
            (SqlOperation::Select as u8, 0),
            (SqlOperation::Execute as u8, 0),
            (SqlOperation::Update as u8, DIVISION_CLASS),
            (SqlOperation::Delete as u8, 0),
            (SqlOperation::Other as u8, 0),
        ]
    );
    assert_eq!(follower.lost, None);
}

#[test]
fn rows_cost_nothing_and_the_end_of_a_long_answer_is_found() {
    let mut follower = started();
    let rows = [COLUMNS, &ROW.repeat(20_000), DONE, READY].concat();
    for cut in [1, 2, 5, 6, 7, 100] {
        follower.says(true, &query("select a from t"));
        let (most, last) = rows.split_at(rows.len() - cut);
        for segment in most.chunks(60_000).chain([last]) {
            follower.says(false, segment);
        }
    }
    assert_eq!((follower.counted(), follower.lost), (vec![(SqlOperation::Select as u8, 0); 6], None));
}

#[test]
fn copies_both_ways_are_one_request() {
    let mut follower = started();
    follower.says(true, &query("copy t from stdin"));
    follower.says(false, b"G\0\0\0\x07\0\0\0");
    follower.says(true, &message(b'd', &b"Q\0\0\0\x0dselect 1\0"[..].repeat(5_000)));
    follower.says(true, b"c\0\0\0\x04");
    follower.says(false, &[DONE, READY].concat());
    assert_eq!((follower.counted(), follower.lost), (vec![(SqlOperation::Copy as u8, 0)], None));
}

#[test]
fn two_requests_before_the_server_is_ready_are_a_pipeline() {
    let mut one = started();
    one.says(true, &[query("select 1"), query("select 2")].concat());
    let mut two = started();
    two.says(true, &[BIND_AND_EXECUTE, SYNC].concat());
    two.says(false, BOUND);
    two.says(true, &[BIND_AND_EXECUTE, SYNC].concat());
    assert_eq!((one.lost, two.lost), (Some(Unparsed::Pipelined), Some(Unparsed::Pipelined)));
}

#[test]
fn encryption_is_given_up() {
    for answer in [&b"S"[..], b"G"] {
        let mut follower = Follower::new(AppProtocol::Postgresql);
        follower.says(true, b"\0\0\0\x08\x04\xd2\x16/");
        follower.says(false, answer);
        assert_eq!(follower.lost, Some(Unparsed::Opaque));
    }
}

#[test]
fn a_wrong_password_is_no_request() {
    let mut follower = Follower::new(AppProtocol::Postgresql);
    follower.says(true, b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0");
    follower.says(false, b"E\0\0\0\x2aSFATAL\0VFATAL\0C28P01\0Mpassword wrong\0\0");
    assert_eq!((follower.counted(), follower.lost), (vec![], None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// However a session in turns is cut, each request is counted once. What the server said in a segment of its own is told;
    /// an error behind the first segment of an answer is not.
    #[test]
    fn requests_in_turn_are_counted_however_they_are_cut(
        requests in prop::collection::vec((any::<bool>(), 0_usize..4, any::<bool>(), 0_usize..50, "[a-z0-9 ]{0,3000}"), 1..6),
        cuts in prop::collection::btree_set(1_usize..4_000, 0..20),
        bytewise: bool,
    ) {
        let cuts: Vec<usize> = if bytewise { (1..9_000).collect() } else { cuts.into_iter().collect() };
        let mut follower = started();
        let mut expected = Vec::new();
        for (is_simple, word, fails, rows, rest) in requests {
            let (text, operation) = [
                ("SELECT", SqlOperation::Select), ("insert", SqlOperation::Insert), ("Begin", SqlOperation::Begin),
                ("xyz", SqlOperation::Other),
            ][word];
            let sql = format!("{text} {rest}");
            if is_simple {
                follower.says_in_pieces(true, &query(&sql), &cuts);
            } else {
                follower.says_in_pieces(true, &[&parse("", &sql), BIND_AND_EXECUTE, SYNC].concat(), &cuts);
            }
            if fails {
                follower.says_in_pieces(false, &[DIVISION, READY].concat(), &cuts);
            } else {
                follower.says_in_pieces(false, &[COLUMNS, &ROW.repeat(rows), DONE, READY].concat(), &cuts);
            }
            expected.push((operation as u8, if fails { DIVISION_CLASS } else { 0 }));
        }
        prop_assert_eq!(follower.lost, None);
        prop_assert_eq!(follower.counted(), expected);
    }

    /// Whatever the bytes: they are told or refused.
    #[test]
    fn any_bytes_are_told_or_refused(
        said in prop::collection::vec((any::<bool>(), prop::collection::vec(
            prop_oneof![3 => prop::sample::select(&b"QPBESZTDC\0\0\0\x04\x05"[..]), 1 => any::<u8>()], 0..80)), 0..12),
    ) {
        let mut follower = started();
        for (asks, bytes) in said {
            follower.says(asks, &bytes);
        }
        prop_assert!(follower.counted().len() <= 12);
    }
}
