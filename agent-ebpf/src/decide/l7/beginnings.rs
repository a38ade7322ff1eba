//! Every protocol's beginning against every parser: each takes its own and refuses all others, whole or cut.

use proptest::prelude::*;

use super::conversation::Begin;
use super::{kafka, mysql, postgresql, redis};
use crate::abi::request::HEAD_BYTES;

/// What parsers are asked about the first bytes of a client.
type Begins = fn(&[u8; 2 * HEAD_BYTES], usize) -> Begin;

const CLIENTS: [(&str, Begins); 3] =
    [("redis", redis::begins), ("postgresql", postgresql::begins), ("kafka", kafka::begins)];

/// What clients say first, and the parser that takes it; captured, or from the specification of each.
const FIRST: &[(&[u8], &str)] = &[
    (b"*1\r\n$4\r\nPING\r\n", "redis"),
    (b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n", "redis"),
    (b"*1000000\r\n$4\r\nMSET\r\n$1\r\na\r\n", "redis"),
    (b"PING\r\n", "redis"),
    (b"ping\r\n", "redis"),
    (b"\0\0\0\x08\x04\xd2\x16/", "postgresql"),
    (b"\0\0\0\x08\x04\xd2\x16\x30", "postgresql"),
    (b"\0\0\0\x3f\0\x03\0\0user\0postgres\0database\0postgres\0", "postgresql"),
    (b"\0\0\0\x24\0\x12\0\x03\0\0\0\x01\0\x07rdkafka\0\x0blibrdkafka", "kafka"),
    (b"\0\0\0\x18\0\x03\0\x02\0\0\0\x03\0\x07rdkafka\0\0\0\x01\0\x01t", "kafka"),
    (b"\0\0\0\x0e\0\x12\0\0\0\0\0\0\xff\xff\0\0\0\0", "kafka"),
    // HTTP/1 and HTTP/2.
    (b"GET / HTTP/1.1\r\nhost: a\r\n", ""),
    (b"POST /a HTTP/1.1\r\nhost: a\r\n", ""),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
    (b"PINGING /a HTTP/1.1\r\n", ""),
    // TLS, SSH, AMQP, SMTP, memcached (text and binary), MQTT, NATS.
    (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 a client hello", ""),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", ""),
    (b"AMQP\0\0\x09\x01", ""),
    (b"EHLO example.org\r\n", ""),
    (b"get key\r\n", ""),
    (b"\x80\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0abc", ""),
    (b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06client", ""),
    (b"CONNECT {\"verbose\":false}\r\n", ""),
    (b"PING gateway\r\n", ""),
    // DNS with and without the wish for recursion, MongoDB, Cassandra, ZooKeeper.
    (b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0", ""),
    (b"\0\x1d\0\0\0\0\0\x01\0\0\0\0\0\0\x07example\x03org\0", ""),
    (b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0", ""),
    (b"\x04\0\0\0\x05\0\0\0\0", ""),
    (b"\0\0\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x75\x30\0\0\0\0\0\0\0\0\0\0\0\x10", ""),
    // A MySQL greeting from the wrong side, and a request that its length contradicts.
    (b"d\0\0\0\x0a5.5.5-10.11.19-MariaDB", ""),
    (b"\0\0\0\x09\0\x12\0\x03\0\0\0\x01\0\x07rdkafka", ""),
    (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", ""),
    (b"*0\r\n$4\r\nPING\r\n", ""),
    (b"*-1\r\n", ""),
    (b"**bold** text", ""),
];

/// What servers say before they are asked.
const GREETINGS: &[(&[u8], bool)] = &[
    (b"d\0\0\0\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x03\0\0\0", true),
    (b"I\0\0\0\x0a8.0.36\0\x0b\0\0\0", true),
    (b"J\0\0\0\x0a11.4.2-MariaDB\0\x0b\0\0\0", true),
    (b"\x17\0\0\0\xffj\x04Host is blocked", false),
    (b"I\0\0\x01\x0a8.0.36\0", false),
    (b"\x0a\0\0\0\x0a8.0.36\0", false),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", false),
    (b"220 mail ESMTP\r\n", false),
    (b"+OK POP3 ready\r\n", false),
    (b"INFO {\"server_id\":\"x\"}\r\n", false),
    (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", false),
];

fn head(bytes: &[u8]) -> ([u8; 2 * HEAD_BYTES], usize) {
    let mut head = [0; 2 * HEAD_BYTES];
    let length = bytes.len().min(2 * HEAD_BYTES);
    head[..length].copy_from_slice(&bytes[..length]);
    (head, length)
}

#[test]
fn each_beginning_is_taken_by_its_own_parser_and_refused_by_all_others() {
    for (bytes, owner) in FIRST {
        for (name, begins) in CLIENTS {
            for length in 1..=bytes.len().min(2 * HEAD_BYTES) {
                let (head, length) = head(&bytes[..length]);
                match begins(&head, length) {
                    Begin::Yes => assert_eq!(name, *owner, "{}", bytes[..length].escape_ascii()),
                    Begin::No => assert_ne!(name, *owner, "{}", bytes[..length].escape_ascii()),
                    Begin::More => assert!(length < HEAD_BYTES, "{name}: {}", bytes.escape_ascii()),
                }
            }
            let (head, length) = head(bytes);
            let expected = if name == *owner { Begin::Yes } else { Begin::No };
            if length >= HEAD_BYTES || name == *owner {
                assert_eq!(begins(&head, length), expected, "{name}: {}", bytes.escape_ascii());
            }
        }
    }
}

#[test]
fn greetings_are_told_whole_and_cut() {
    for (bytes, is_mysql) in GREETINGS {
        for length in 1..=bytes.len().min(2 * HEAD_BYTES) {
            let (head, length) = head(&bytes[..length]);
            match mysql::greets(&head, length) {
                Begin::Yes => assert!(is_mysql, "{}", bytes.escape_ascii()),
                Begin::No => assert!(!is_mysql, "{}", bytes[..length].escape_ascii()),
                Begin::More => assert!(length < 7, "{}", bytes.escape_ascii()),
            }
        }
    }
}

proptest! {
    /// Whatever is said first: at most one parser takes it, and none asks for more than is kept.
    #[test]
    fn no_two_parsers_take_the_same_beginning(
        bytes in prop::collection::vec(prop_oneof![2 => 0_u8..20, 1 => any::<u8>(), 1 => prop::sample::select(&b"*$\r\n1PING"[..])], 1..32)
    ) {
        let (head, length) = head(&bytes);
        let taken: Vec<_> = CLIENTS.iter().filter(|(_, begins)| begins(&head, length) == Begin::Yes).collect();
        prop_assert!(taken.len() <= 1, "{:?}", taken.iter().map(|(name, _)| name).collect::<Vec<_>>());
        for (name, begins) in CLIENTS {
            prop_assert!(begins(&head, length) != Begin::More || length < HEAD_BYTES, "{}", name);
        }
    }
}
