//! PostgreSQL, protocol 3 (chapter 55 of its manual, "Frontend/Backend Protocol").
//!
//! One request is what a client says until the server is ready again: a simple query, or extended messages up to their
//! `Sync`. The client's messages are walked one by one. Of an answer only the first window is, for an error; that the server
//! is ready is told from the end of a segment, so that rows cost nothing.

#![allow(
    clippy::cast_possible_truncation,
    reason = "places in a room and lengths of its parts are less than 4 KiB"
)]

use super::Head;
use super::conversation::{Answered, Begin, KNOWN, Step, answer, ask, byte, four, refused};
use super::sql;
use crate::abi::Unparsed;
use crate::abi::conversation::{Conversation, Room};
use crate::abi::sql::SqlOperation;

// Each side has its own notes, as only its packets write them.
/// In the state of the client: its messages have a type from now on. Above this bit is how often it asked for encryption;
/// the state of the server is how often that was answered.
const TYPED: u32 = 1;

// The client's `left` counts how often it waited for the server to be ready, and the server's is how many of these were
// over when it was last. The client's `marks` are the server's count when it began a request, and 1.

// Marks of the server.
/// It was ready once: it is no longer about who the client is.
const STARTED: u32 = 1;
/// The answer began; how the request ended is not known yet.
const BEGUN: u32 = 2;
/// It was counted.
const COUNTED: u32 = 4;

/// Whether a request is under way, until the server is ready.
#[inline(always)]
const fn is_open(conversation: &Conversation) -> bool {
    conversation.asks.marks == conversation.answers.left.wrapping_add(1)
}

/// Bytes of a message's type and length.
const HEADER: usize = 5;
/// A message has 1 GiB at most.
const MAX_MESSAGE: u32 = 1 << 30;
/// What a session starts with is short (`MAX_STARTUP_PACKET_LENGTH`).
const MAX_START: u32 = 10_000;
const VERSION_3: u32 = 3;
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
/// The longest name of a prepared statement that a statement is looked for behind.
const NAME_BYTES: usize = 16;
/// Bytes of an error in which its SQLSTATE is looked for: the two fields before it are the severity, in two languages.
const ERROR_BYTES: usize = 30;
/// The status of an error whose SQLSTATE was not found.
pub const UNKNOWN_CLASS: u16 = 0xffff;

/// Whether a client that says this speaks PostgreSQL.
#[inline(always)]
pub const fn begins(head: &Head, length: usize) -> Begin {
    if length > 0 && head[0] != 0 || length > 1 && head[1] != 0 {
        return Begin::No;
    }
    if length < 8 {
        return Begin::More;
    }
    let message = (head[2] as u32) << 8 | head[3] as u32;
    let code = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if !is_start(message, code) {
        return Begin::No;
    }
    // The version alone could be a request of Kafka too, which has a small number where a name must follow here.
    if code >> 16 != VERSION_3 || length > 8 && head[8].is_ascii_alphabetic() {
        Begin::Yes
    } else if length > 8 {
        Begin::No
    } else {
        Begin::More
    }
}

#[inline(always)]
const fn is_start(message: u32, code: u32) -> bool {
    match code {
        SSL | GSS => message == 8,
        CANCEL => message >= 16 && message <= 268,
        _ => code >> 16 == VERSION_3 && code & 0xffff <= 2 && message >= 9 && message <= MAX_START,
    }
}

/// What a client says.
#[inline(always)]
pub const fn request(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    length: usize,
    now_ns: u64,
) -> Step {
    if conversation.asks.state & TYPED == 0 {
        return start(conversation, room, at, length);
    }
    if at + HEADER > length {
        return Step::More;
    }
    let message = four(room, at + 1);
    if message < 4 || message > MAX_MESSAGE {
        return refused(conversation);
    }
    let take = message + 1;
    let kind = byte(room, at);
    match kind {
        // A statement is looked at where it begins; if that is not there yet, it comes with the next segment.
        b'Q' | b'P' if !is_open(conversation) && is_cut(at, length, take) => return Step::More,
        b'Q' | b'P' | b'B' | b'E' | b'C' | b'D' | b'F' | b'S' => {}
        // Passwords, copied data, flushes, and the end.
        b'p' | b'd' | b'c' | b'f' | b'H' | b'X' => return Step::Take(take),
        _ => return refused(conversation),
    }
    if conversation.answers.marks & STARTED == 0 {
        return refused(conversation);
    }
    if conversation.asks.left != conversation.answers.left {
        return Step::Lost(Unparsed::Pipelined);
    }
    if matches!(kind, b'Q' | b'S' | b'F') {
        conversation.asks.left = conversation.asks.left.wrapping_add(1);
    }
    if !is_open(conversation) {
        conversation.asks.marks = conversation.answers.left.wrapping_add(1);
        let operation = match kind {
            b'Q' => sql::operation(room, at + HEADER, length),
            b'P' => prepared(room, at + HEADER, length),
            b'B' | b'E' => SqlOperation::Execute,
            _ => SqlOperation::Other,
        };
        if !ask(conversation, operation as u8, 0, now_ns) {
            return Step::Lost(Unparsed::Pipelined);
        }
    }
    Step::Take(take)
}

/// Whether a message goes on behind the room, within what is looked at of it.
#[inline(always)]
const fn is_cut(at: usize, length: usize, take: u32) -> bool {
    let there = length - at;
    there < take as usize && there < HEADER + NAME_BYTES + 8
}

/// How a session starts.
#[inline(always)]
const fn start(conversation: &mut Conversation, room: &Room, at: usize, length: usize) -> Step {
    if at + 8 > length {
        return Step::More;
    }
    let (message, code) = (four(room, at), four(room, at + 4));
    if !is_start(message, code) {
        return refused(conversation);
    }
    match code {
        SSL | GSS => conversation.asks.state += 2,
        CANCEL => return Step::Lost(Unparsed::OtherProtocol),
        _ => conversation.asks.state |= TYPED,
    }
    Step::Take(message)
}

/// The operation of a statement that is prepared, behind its name.
#[inline(always)]
const fn prepared(room: &Room, at: usize, length: usize) -> SqlOperation {
    let mut count = 0;
    while count < NAME_BYTES {
        if byte(room, at + count) == 0 {
            return sql::operation(room, at + count + 1, length);
        }
        count += 1;
    }
    SqlOperation::Other
}

/// What a server says, in the first window of a segment.
#[inline(always)]
pub const fn response(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    length: usize,
    now_ns: u64,
) -> Step {
    if at >= length {
        return Step::More;
    }
    let kind = byte(room, at);
    if conversation.answers.state < conversation.asks.state >> 1 {
        conversation.answers.state += 1;
        match kind {
            b'N' => return Step::Take(1),
            b'S' | b'G' => return Step::Lost(Unparsed::Opaque),
            // A server that does not know the question says so and hangs up.
            _ => {}
        }
    }
    if !is_open(conversation) {
        // Who the client is, or what the server says unasked; the end tells whether it is ready.
        return Step::Take((length - at) as u32);
    }
    if at + HEADER > length {
        return Step::More;
    }
    let message = four(room, at + 1);
    if message < 4 || message > MAX_MESSAGE || !kind.is_ascii_alphanumeric() {
        return refused(conversation);
    }
    let take = message + 1;
    if kind == b'Z' {
        return match ready(conversation, now_ns) {
            Some(answered) => Step::Answered(take, answered),
            None => Step::Take(take),
        };
    }
    // What has been notified of, and parameters that changed, are no part of an answer.
    if conversation.answers.marks & COUNTED != 0 || matches!(kind, b'A' | b'S') {
        return Step::Take(take);
    }
    if kind == b'E' {
        let Some(class) = class(room, at + HEADER, length, take) else { return Step::More };
        conversation.answers.marks |= COUNTED;
        if let Some(answered) = answer(conversation, class, now_ns) {
            return Step::Answered(take, answered);
        }
    }
    conversation.answers.marks |= BEGUN;
    Step::Take(take)
}

/// The class of an error, its SQLSTATE's first two characters. `None` where they are not there yet.
#[inline(always)]
const fn class(room: &Room, at: usize, length: usize, take: u32) -> Option<u16> {
    let mut count = 1;
    while count < ERROR_BYTES - HEADER {
        if at + count + 3 > length {
            return if length - at < take as usize - HEADER && length - at < ERROR_BYTES - HEADER {
                None
            } else {
                Some(UNKNOWN_CLASS)
            };
        }
        if byte(room, at + count - 1) == 0 && byte(room, at + count) == b'C' {
            let (first, second) = (byte(room, at + count + 1), byte(room, at + count + 2));
            let is_class = first.is_ascii_alphanumeric() && second.is_ascii_alphanumeric();
            return Some(if is_class { (first as u16) << 8 | second as u16 } else { UNKNOWN_CLASS });
        }
        count += 1;
    }
    Some(UNKNOWN_CLASS)
}

/// A segment of the server ends, and what the conversation knows of its last bytes is up to date: an answer that began and
/// showed no error counts as a good one, and the server may be ready.
#[inline(always)]
pub const fn segment_ends(conversation: &mut Conversation, now_ns: u64) -> Option<Answered> {
    /// `ReadyForQuery`: its type, its length, and whether a transaction is open.
    const READY: u64 = 0x5a_0000_0005;
    if conversation.tail >> 8 & 0xff_ffff_ffff == READY {
        // What was not walked ends here too.
        conversation.answers.skip = 0;
        conversation.answers.carried = 0;
        return ready(conversation, now_ns);
    }
    // Where the beginning of a message waits for the rest of it, that may be the error.
    if conversation.answers.marks & BEGUN == 0
        || conversation.answers.marks & COUNTED != 0
        || conversation.answers.carried > 0
    {
        return None;
    }
    conversation.answers.marks |= COUNTED;
    answer(conversation, 0, now_ns)
}

/// The server is ready for the next request. What it was asked has been answered, if only by that. Twice is as good as once.
#[inline(always)]
const fn ready(conversation: &mut Conversation, now_ns: u64) -> Option<Answered> {
    let answered = if is_open(conversation) && conversation.answers.marks & COUNTED == 0 {
        answer(conversation, 0, now_ns)
    } else {
        None
    };
    conversation.answers.left = conversation.asks.left;
    conversation.answers.marks = STARTED | KNOWN;
    answered
}

/// Whether the messages of the server matter now: not the rest of an answer that was counted.
#[inline(always)]
pub const fn listens(conversation: &Conversation) -> bool {
    conversation.answers.marks & COUNTED == 0
}

#[cfg(test)]
mod tests;
