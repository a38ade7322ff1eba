//! Redis as captured and as made up, cut anywhere, against what was put into it.

use proptest::prelude::*;

use super::*;
use crate::abi::AppProtocol;
use crate::decide::l7::conversation::follower::Follower;

/// A command as a client library writes it.
fn command(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len());
    for part in parts {
        bytes += &format!("${}\r\n{part}\r\n", part.len());
    }
    bytes.into_bytes()
}

fn follower() -> Follower {
    Follower::new(AppProtocol::Redis)
}

#[test]
fn every_command_of_the_list_is_told_by_its_name_in_any_case() {
    for &known in RedisCommand::ALL {
        for name in [known.name().to_owned(), known.name().to_lowercase()] {
            let mut follower = follower();
            follower.says(true, &command(&[&name, "key", "value"]));
            follower.says(false, b"+OK\r\n");
            let expected = if known == RedisCommand::Other { RedisCommand::Other } else { known };
            assert_eq!(follower.counted(), [(expected as u8, 0)], "{name}");
        }
    }
    let mut follower = follower();
    for name in ["GETDEL", "XX", "ZRANGEBYSCORE", "SMEMBERSX", "A-VERY-LONG-NAME-OF-A-COMMAND"] {
        follower.says(true, &command(&[name, "key"]));
        follower.says(false, b":0\r\n");
    }
    assert_eq!(follower.counted(), [(RedisCommand::Other as u8, 0); 5]);
}

#[test]
fn errors_are_told_by_their_first_word() {
    for &status in RedisStatus::ALL {
        if status == RedisStatus::Ok {
            continue;
        }
        let word = if status == RedisStatus::Other { "WHATEVER" } else { status.name() };
        for answer in [format!("-{word} says why\r\n"), format!("-{word}\r\n")] {
            for cut in 1..answer.len() {
                let mut follower = follower();
                follower.says(true, &command(&["GET", "key"]));
                follower.says_in_pieces(false, answer.as_bytes(), &[cut]);
                assert_eq!(
                    follower.counted(),
                    [(RedisCommand::Get as u8, status as u16)],
                    "{answer} at {cut}"
                );
            }
        }
    }
}

#[test]
fn a_session_of_redis_cli_is_counted() {
    // As captured, of Redis 7.0.15.
    let mut follower = follower();
    for (asks, bytes) in [
        (true, &b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n"[..]),
        (false, b"+OK\r\n"),
        (true, b"*3\r\n$5\r\nLPUSH\r\n$1\r\na\r\n$1\r\n3\r\n"),
        (false, b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        (true, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"),
        (false, b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"),
        (true, b"*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n"),
        (false, b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n"),
        (true, b"PING\r\n"),
        (false, b"+PONG\r\n"),
    ] {
        follower.says(asks, bytes);
    }
    use RedisCommand as Command;
    assert_eq!(
        follower.counted(),
        [
            (Command::Set as u8, 0),
            (Command::Lpush as u8, RedisStatus::Wrongtype as u16),
            (Command::Other as u8, 0),
            (Command::Hgetall as u8, 0),
            (Command::Ping as u8, 0),
        ]
    );
    assert!(
        follower.answered.iter().all(|answered| answered.duration_ns == 1_000),
        "{:?}",
        follower.answered
    );
}

#[test]
fn what_makes_the_connection_something_else_ends_it() {
    for parts in [
        &["SUBSCRIBE", "news"][..],
        &["psubscribe", "n*"],
        &["SSUBSCRIBE", "n"],
        &["MONITOR"],
        &["PSYNC", "?", "-1"],
        &["CLIENT", "REPLY", "SKIP"],
        &["client", "reply", "off"],
    ] {
        let mut follower = follower();
        follower.says(true, &command(parts));
        assert_eq!(follower.lost, Some(Unparsed::Upgraded), "{parts:?}");
    }
    let mut follower = follower();
    follower.says(true, &command(&["CLIENT", "SETNAME", "REPLY"]));
    follower.says(false, b"+OK\r\n");
    follower.says(true, &command(&["CLIENT", "LIST"]));
    follower.says(false, b"$4\r\nid=3\r\n");
    assert_eq!((follower.counted().len(), follower.lost), (2, None));
}

#[test]
fn pushes_answer_nothing_and_attributes_stand_before_an_answer() {
    let mut follower = follower();
    follower.says(true, &command(&["GET", "a"]));
    follower.says(false, b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n");
    assert_eq!(follower.counted(), []);
    follower.says(false, b"|1\r\n+ttl\r\n:3600\r\n$1\r\n1\r\n");
    assert_eq!(follower.counted(), [(RedisCommand::Get as u8, 0)]);
    assert_eq!(follower.lost, None);
}

#[test]
fn more_commands_under_way_than_are_remembered_end_it() {
    let mut follower = follower();
    let pipeline: Vec<u8> =
        (0..17).flat_map(|_| [command(&["GET", "a"]), command(&["SET", "a", "b"])].concat()).collect();
    follower.says(true, &pipeline);
    assert_eq!(follower.lost, Some(Unparsed::Pipelined));
}

#[test]
fn an_answer_that_nobody_asked_for_ends_it() {
    let mut follower = follower();
    follower.says(true, &command(&["GET", "a"]));
    follower.says(false, b"+OK\r\n");
    follower.says(false, b"+OK\r\n");
    assert_eq!(follower.lost, Some(Unparsed::Malformed));
}

/// An answer of Redis, and the status it is.
fn answers() -> impl Strategy<Value = (Vec<u8>, u16)> {
    let leaf = prop_oneof![
        Just(b"+OK\r\n".to_vec()),
        Just(b":12345\r\n".to_vec()),
        Just(b"$-1\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        Just(b"_\r\n".to_vec()),
        Just(b"#t\r\n".to_vec()),
        Just(b",3.25\r\n".to_vec()),
        Just(b"(3492890328409238509324850943850943825024385\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..3_000)
            .prop_map(|bytes| { [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat() }),
        "[a-z ]{0,200}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
    ];
    let value = leaf.prop_recursive(3, 40, 8, |inner| {
        (prop::sample::select(&b"*~%"[..]), prop::collection::vec(inner, 0..8)).prop_map(|(mark, parts)| {
            let parts = if mark == b'%' { &parts[..parts.len() / 2 * 2] } else { &parts[..] };
            let count = if mark == b'%' { parts.len() / 2 } else { parts.len() };
            [format!("{}{count}\r\n", char::from(mark)).into_bytes(), parts.concat()].concat()
        })
    });
    prop_oneof![
        4 => value.prop_map(|bytes| (bytes, 0)),
        1 => Just((b"-ERR unknown command\r\n".to_vec(), RedisStatus::Err as u16)),
        1 => Just((b"-WRONGTYPE Operation\r\n".to_vec(), RedisStatus::Wrongtype as u16)),
    ]
}

proptest! {
    /// Headers are the numbers that parsing their text finds, and bad where it finds none.
    #[test]
    fn headers_are_the_numbers_they_are_written_as(
        text in prop_oneof!["[0-9]{1,9}", "-1", "[0-9a-]{0,10}", "[0-9]{10,12}"],
        rest in "[0-9\r\n]{0,12}",
        cut in 0_usize..16,
    ) {
        use crate::abi::conversation::{ROOM_BYTES, SLACK_BYTES};
        let mut room = [b'9'; ROOM_BYTES + SLACK_BYTES];
        let said = format!("${text}\r\n{rest}");
        room[..said.len()].copy_from_slice(said.as_bytes());
        let whole = text.len() + 3;
        match header(&room, 0, said.len()) {
            Header::Of(Some(number), bytes) => {
                prop_assert_eq!((text.parse(), bytes as usize), (Ok(number), whole));
            }
            Header::Of(None, bytes) => {
                prop_assert!(text.starts_with('-') && text[1..].parse::<u32>().is_ok(), "{}", text);
                prop_assert_eq!(bytes as usize, whole);
            }
            Header::Bad => prop_assert!(text.len() > 9 || text.bytes().any(|byte| !byte.is_ascii_digit()) || text.is_empty(), "{}", text),
            Header::More => prop_assert!(text.len() > 8 && said.len() < 12, "{}", said),
        }
        // What is not there as a whole is never a number.
        if cut < whole {
            prop_assert!(!matches!(header(&room, 0, cut), Header::Of(..)), "{} of {}", cut, said);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However a pipeline and its answers are cut, also byte by byte, each command is counted once, in order and with what
    /// came of it.
    #[test]
    fn pipelines_are_counted_however_they_are_cut(
        flights in prop::collection::vec(
            prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec("[a-z\r\n$*]{0,60}", 0..5), answers()), 1..8),
            1..6),
        cuts in prop::collection::btree_set(1_usize..4_000, 0..30),
        bytewise: bool,
    ) {
        let cuts: Vec<usize> = if bytewise { (1..100_000).collect() } else { cuts.into_iter().collect() };
        let mut follower = follower();
        let mut expected = Vec::new();
        for flight in flights {
            let (mut asked, mut answered) = (Vec::new(), Vec::new());
            for (index, arguments, (answer, status)) in flight {
                let known = *index.get(RedisCommand::ALL);
                let mut parts = vec![known.name()];
                parts.extend(arguments.iter().map(String::as_str));
                asked.extend(command(&parts));
                answered.extend(answer);
                expected.push((known as u8, status));
            }
            follower.says_in_pieces(true, &asked, &cuts);
            follower.says_in_pieces(false, &answered, &cuts);
        }
        prop_assert_eq!(follower.lost, None);
        prop_assert_eq!(follower.counted(), expected);
    }

    /// Whatever the bytes: they are told or refused, and nothing is counted that was not asked for.
    #[test]
    fn any_bytes_are_told_or_refused(
        said in prop::collection::vec((any::<bool>(), prop::collection::vec(
            prop_oneof![3 => prop::sample::select(&b"*$+-:%>|12\r\n"[..]), 1 => any::<u8>()], 0..80)), 0..12),
    ) {
        let mut follower = follower();
        for (asks, bytes) in said {
            follower.says(asks, &bytes);
        }
        let answered = follower.counted().len();
        prop_assert!(answered == 0 || follower.now_ns > 2_000);
    }
}
