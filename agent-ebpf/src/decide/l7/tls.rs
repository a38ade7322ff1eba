//! TLS (RFC 8446), of which only the beginning can be read from outside: whether a client greets, and when it is plain that nobody
//! reads inside.

use super::Head;
use crate::abi::request::{ANSWERED_SEALED, IN_TLS, SEALED};

/// Bytes that tell a greeting.
const GREETING_BYTES: usize = 6;

/// Whether a client begins with a `ClientHello`: a record of a handshake (section 5.1), of version 3.1 to 3.3 as every TLS since
/// 1.0 says, with that message in it (section 4).
#[inline(always)]
pub const fn is_greeting(head: &Head, length: usize) -> bool {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    length >= GREETING_BYTES
        && head[0] == HANDSHAKE
        && head[1] == 3
        && head[2] <= 3
        && head[5] == CLIENT_HELLO
}

/// What becomes of the marks of a sealed connection on which somebody spoke; `None`: nobody reads inside it. Who does has
/// begun when a client speaks again after it was answered: by then either side's program has read.
#[inline(always)]
pub const fn spoken(marks: u8, asks: bool) -> Option<u8> {
    if marks & SEALED == 0 || marks & IN_TLS != 0 {
        return Some(marks);
    }
    match (asks, marks & ANSWERED_SEALED != 0) {
        (true, true) => None,
        (true, false) => Some(marks),
        (false, _) => Some(marks | ANSWERED_SEALED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::request::{HEAD_BYTES, JOINED_LATE};

    fn greets(text: &[u8]) -> bool {
        let mut head = [0; 2 * HEAD_BYTES];
        head[..text.len()].copy_from_slice(text);
        is_greeting(&head, text.len())
    }

    #[test]
    fn a_client_that_greets_is_told_from_everything_else() {
        assert!(greets(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "TLS 1.0 to 1.3");
        assert!(greets(b"\x16\x03\x03\x02\x00\x01"));
        for other in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"\x17\x03\x03\x00\x20\x01",
            b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76",
            b"\x16\x02\x00\x02\x00\x01",
            b"GET / HTTP/1.1",
            b"",
        ] {
            assert!(!greets(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_client_that_speaks_again_after_an_answer_is_one_nobody_reads() {
        let greeted = SEALED | JOINED_LATE;
        assert_eq!(spoken(greeted, true), Some(greeted), "a greeting in two segments");
        let answered = spoken(greeted, false).expect("not yet");
        assert_eq!(spoken(answered, false), Some(answered), "an answer in two");
        assert_eq!(spoken(answered, true), None);
    }

    #[test]
    fn a_connection_that_is_read_inside_is_left_alone_whoever_speaks() {
        for marks in [IN_TLS, IN_TLS | SEALED | ANSWERED_SEALED, 0] {
            assert_eq!([spoken(marks, true), spoken(marks, false)], [Some(marks); 2]);
        }
    }
}
