//! HTTP/1.0 and HTTP/1.1 (RFC 9112), from the first bytes of each message alone.
//!
//! No body is followed and no length is read: a client that is not pipelining says nothing new before it was answered, so
//! the sides speaking in turn tell where messages begin. What breaks that rule is noticed where it can be, and ends the
//! following of that connection.

use super::{Head, Heard, Known};
use crate::abi::request::HEAD_BYTES;
use crate::abi::{Method, Stage, Unparsed};

/// What a client's bytes mean.
#[inline(always)]
pub const fn request(known: Known, head: &Head, length: usize) -> Heard {
    match known.stage {
        Stage::Idle | Stage::Answered => match method_of(head, length) {
            Token::Method(method) => Heard::Request(method as u8),
            Token::Incomplete => Heard::More,
            // The rest of a request that was answered early.
            Token::None if known.is_followed => Heard::Nothing,
            Token::None => Heard::Lost(Unparsed::OtherProtocol),
        },
        // The rest of a request, unless it can have none.
        Stage::Asked | Stage::Interim if is_pipelined(known.operation, head) => {
            Heard::Lost(Unparsed::Pipelined)
        }
        Stage::Asked | Stage::Interim => Heard::Nothing,
        Stage::Ended => Heard::Nothing,
    }
}

/// What a server's bytes mean.
#[inline(always)]
pub const fn answer(known: Known, head: &Head, length: usize) -> Heard {
    match known.stage {
        // An answer to what was asked before anybody looked, or a server that speaks first.
        Stage::Idle if known.is_followed => Heard::Nothing,
        Stage::Idle => Heard::Lost(Unparsed::OtherProtocol),
        Stage::Asked | Stage::Interim => match status_of(head, length) {
            Line::Status(101) => Heard::LastAnswer(101),
            Line::Status(status) if status < 200 => Heard::Interim,
            Line::Status(status) if known.operation == Method::Connect as u8 && status < 300 => {
                Heard::LastAnswer(status)
            }
            Line::Status(status) => Heard::Answer(status),
            Line::Incomplete => Heard::More,
            // The rest of an interim answer.
            Line::None if matches!(known.stage, Stage::Interim) => Heard::Nothing,
            Line::None if known.is_followed => Heard::Lost(Unparsed::Malformed),
            Line::None => Heard::Lost(Unparsed::OtherProtocol),
        },
        // A second answer to one request: the client asked twice.
        Stage::Answered => match status_of(head, length) {
            Line::Status(_) => Heard::Lost(Unparsed::Pipelined),
            _ => Heard::Nothing,
        },
        Stage::Ended => Heard::Nothing,
    }
}

/// Whether what comes after the head of a request of this method, before its answer, is another request.
#[inline(always)]
const fn is_pipelined(method: u8, rest: &Head) -> bool {
    !has_body(method) && known_method(rest).is_some()
}

/// Whether requests of this method have a body as a rule.
#[inline(always)]
pub const fn has_body(method: u8) -> bool {
    match Method::from_raw(method) {
        Some(method) => {
            matches!(method, Method::Post | Method::Put | Method::Patch | Method::Other | Method::Delete)
        }
        None => true,
    }
}

enum Token {
    Method(Method),
    Incomplete,
    None,
}

enum Line {
    Status(u16),
    Incomplete,
    None,
}

/// Eight bytes as one word, the first lowest.
#[inline(always)]
const fn word(head: &Head, at: usize) -> u64 {
    u64::from_le_bytes([
        head[at],
        head[at + 1],
        head[at + 2],
        head[at + 3],
        head[at + 4],
        head[at + 5],
        head[at + 6],
        head[at + 7],
    ])
}

/// A text of up to eight bytes as such a word, and the mask of its bytes. For constants only.
const fn pattern(text: &[u8]) -> (u64, u64) {
    let (mut value, mut mask, mut at) = (0, 0, 0);
    while at < text.len() {
        value |= (text[at] as u64) << (8 * at);
        mask |= 0xff << (8 * at);
        at += 1;
    }
    (value, mask)
}

/// The method a message begins with (RFC 9112, section 3.1). Bytes past `length` must be zero.
#[inline(always)]
const fn method_of(head: &Head, length: usize) -> Token {
    match known_method(head) {
        Some(method) => Token::Method(method),
        None => other_method(head, length),
    }
}

/// The same for methods that have a name here; those are asked about first that are met most.
#[inline(always)]
pub const fn known_method(head: &Head) -> Option<Method> {
    let begin = word(head, 0);
    // Written out and not a loop over a table: each is two instructions, and no access that could miss the table.
    macro_rules! known {
        ($($text:literal => $method:ident),+ $(,)?) => {
            $(
                const { assert!($text.len() <= 8) };
                if begin & const { pattern($text).1 } == const { pattern($text).0 } {
                    return Some(Method::$method);
                }
            )+
        };
    }
    known!(
        b"GET " => Get,
        b"POST " => Post,
        b"PUT " => Put,
        b"HEAD " => Head,
        b"DELETE " => Delete,
        b"PATCH " => Patch,
        b"OPTIONS " => Options,
        b"CONNECT " => Connect,
        b"TRACE " => Trace,
    );
    None
}

/// Any other method: capital letters and dashes, then a space. (RFC 9110 allows more; nobody uses it.)
#[inline(always)]
const fn other_method(head: &Head, length: usize) -> Token {
    let mut at = 0;
    while at < HEAD_BYTES {
        if at >= length {
            return if at == 0 { Token::None } else { Token::Incomplete };
        }
        // The mask is for the verifier, which does not follow what the compiler makes of the bound.
        match head[at & (2 * HEAD_BYTES - 1)] {
            b'A'..=b'Z' | b'-' => {}
            b' ' if at >= 3 => return Token::Method(Method::Other),
            _ => return Token::None,
        }
        at += 1;
    }
    Token::None
}

/// The status a message begins with (RFC 9112, section 4). Bytes past `length` must be zero.
#[inline(always)]
const fn status_of(head: &Head, length: usize) -> Line {
    const VERSION: (u64, u64) = pattern(b"HTTP/1.");
    let (version, mask) = VERSION;
    let known = if length >= 7 { mask } else { !(u64::MAX << (8 * length)) };
    let begin = word(head, 0);
    if begin & known & mask != version & known {
        return Line::None;
    }
    if length < 12 {
        return Line::Incomplete;
    }
    if !matches!(head[7], b'0' | b'1') || head[8] != b' ' {
        return Line::None;
    }
    let (hundreds, tens, ones) = (digit(head[9]), digit(head[10]), digit(head[11]));
    if hundreds < 1 || hundreds > 5 || tens > 9 || ones > 9 {
        return Line::None;
    }
    Line::Status(hundreds * 100 + tens * 10 + ones)
}

/// The value of a digit; more than 9 for anything else.
#[inline(always)]
const fn digit(byte: u8) -> u16 {
    byte.wrapping_sub(b'0') as u16
}

/// Where the head of a message ends that begins at `from`: behind its empty line. `None` where that is not within
/// `length` bytes.
///
/// Looks at all bytes and at the length afterwards: with two bounds the compiler makes a loop until their minimum is met,
/// and verifiers up to Linux 6.1 do not see that it ends before the bytes do.
#[inline(always)]
pub const fn head_end(bytes: &[u8], from: usize, length: usize) -> Option<usize> {
    let mut last_four = 0_u32;
    let mut at = from;
    while at < bytes.len() {
        last_four = last_four << 8 | bytes[at] as u32;
        at += 1;
        if last_four == u32::from_be_bytes(*b"\r\n\r\n") {
            return if at <= length { Some(at) } else { None };
        }
    }
    None
}

#[cfg(test)]
mod tests;
