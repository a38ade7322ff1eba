//! MySQL and MariaDB, the protocol of their clients from version 4.1 on ("Client/Server Protocol" of their manuals).
//!
//! The server speaks first. The client's packets are walked one by one; a command is one with the sequence number 0. Of an
//! answer only the first packet is read, which is an error or is not: a query that fails while its rows are sent counts as a
//! good one.

#![allow(
    clippy::cast_possible_truncation,
    reason = "places in a room and lengths of its parts are less than 4 KiB"
)]

use super::Head;
use super::conversation::{Begin, KNOWN, Step, answer, ask, byte, four, refused, waiting};
use super::sql;
use crate::abi::Unparsed;
use crate::abi::conversation::{Conversation, Room};
use crate::abi::sql::SqlOperation;

// What a client says next. 0: who it is.
const COMMANDS: u32 = 1;

/// Bytes of a packet's length and sequence number.
const HEADER: usize = 4;
/// Version 10 of the greeting; 9 is from before 1998.
const GREETING: u8 = 10;
/// The first byte of an error.
const ERROR: u8 = 0xff;
/// What a client may be able to do (its first four bytes, lowest first).
const SSL: u32 = 1 << 11;
const COMPRESS: u32 = 1 << 5;
const COMPRESS_ZSTD: u32 = 1 << 26;
/// The SQL of a command is looked at so far.
const QUERY_BYTES: usize = 12;

/// Whether a server that says this before it was asked anything speaks MySQL: a greeting with a version such as `8.0.36` or
/// `5.5.5-10.11.6-MariaDB`.
#[inline(always)]
pub const fn greets(head: &Head, length: usize) -> Begin {
    if length > 1 && head[1] != 0 || length > 2 && head[2] != 0 || length > 3 && head[3] != 0 {
        return Begin::No;
    }
    if length > 4 && head[4] != GREETING || length > 5 && !head[5].is_ascii_digit() {
        return Begin::No;
    }
    if length > 6 && !(head[6].is_ascii_digit() || head[6] == b'.') {
        return Begin::No;
    }
    if length < 7 {
        return Begin::More;
    }
    // Version, thread, challenge, abilities: more than 40 bytes, and a version of less than 100.
    if head[0] >= 40 { Begin::Yes } else { Begin::No }
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
    if at + HEADER + 1 > length {
        return Step::More;
    }
    let header = four(room, at).swap_bytes();
    let (payload, sequence) = (header & 0xff_ffff, header >> 24);
    let take = payload + HEADER as u32;
    if sequence != 0 {
        if conversation.asks.state == COMMANDS || conversation.answers.marks & KNOWN != 0 {
            // Files (`LOAD DATA LOCAL`), and what goes on from a packet of 16 MiB.
            return Step::Take(take);
        }
        return login(conversation, room, at, length, payload, sequence);
    }
    if payload == 0 {
        return refused(conversation);
    }
    let command = byte(room, at + HEADER);
    if command == QUERY && (length - at) < take as usize && length - at < HEADER + QUERY_BYTES {
        return Step::More;
    }
    let operation = match operation(room, at, length, command) {
        Meaning::Asks(operation) => operation,
        Meaning::Says => {
            conversation.asks.state = COMMANDS;
            return Step::Take(take);
        }
        Meaning::Streams => return Step::Lost(Unparsed::Upgraded),
        Meaning::Unknown => return refused(conversation),
    };
    conversation.asks.state = COMMANDS;
    if waiting(conversation) > 0 {
        return Step::Lost(Unparsed::Pipelined);
    }
    if ask(conversation, operation as u8, 0, now_ns) {
        Step::Take(take)
    } else {
        Step::Lost(Unparsed::Pipelined)
    }
}

/// Who the client is, and whether what follows can be read.
#[inline(always)]
const fn login(
    conversation: &Conversation,
    room: &Room,
    at: usize,
    length: usize,
    payload: u32,
    sequence: u32,
) -> Step {
    if sequence == 1 {
        if at + HEADER + 4 > length {
            return Step::More;
        }
        let abilities = four(room, at + HEADER).swap_bytes();
        if payload < 32 {
            return refused(conversation);
        }
        // What is set is what will be done; a client that asks for TLS says the rest only behind it.
        if payload == 32 && abilities & SSL != 0 || abilities & (COMPRESS | COMPRESS_ZSTD) != 0 {
            return Step::Lost(Unparsed::Opaque);
        }
    }
    Step::Take(payload + HEADER as u32)
}

const QUERY: u8 = 3;

/// What a command means for the turns of both sides.
enum Meaning {
    /// It is answered.
    Asks(SqlOperation),
    /// It is not.
    Says,
    /// What the server says from now on is no answer any more.
    Streams,
    Unknown,
}

/// What a command does. The numbers are those of `enum_server_command`.
#[inline(always)]
const fn operation(room: &Room, at: usize, length: usize, command: u8) -> Meaning {
    Meaning::Asks(match command {
        QUERY => {
            // From 8.0.23 on, parameters of the query may stand before it: mostly none, in one set.
            let has_parameters = byte(room, at + HEADER + 1) == 0 && byte(room, at + HEADER + 2) == 1;
            let skipped = if has_parameters { 3 } else { 1 };
            sql::operation(room, at + HEADER + skipped, length)
        }
        0x02 => SqlOperation::Use,
        0x0e => SqlOperation::Ping,
        0x16 => SqlOperation::Prepare,
        // MariaDB has one for many rows at a time.
        0x17 | 0xfa => SqlOperation::Execute,
        0x1c => SqlOperation::Fetch,
        0x04..=0x0d | 0x11 | 0x1a | 0x1b | 0x1d | 0x1f => SqlOperation::Other,
        // The end; pieces of a long parameter; a statement that is forgotten.
        0x01 | 0x18 | 0x19 => return Meaning::Says,
        // Replication.
        0x12 | 0x13 | 0x14 | 0x15 | 0x1e => return Meaning::Streams,
        _ => return Meaning::Unknown,
    })
}

/// What a server says. Passes over everything but the first packet of an answer.
#[inline(always)]
pub const fn response(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    length: usize,
    now_ns: u64,
) -> Step {
    if waiting(conversation) == 0 {
        return Step::Take((length - at) as u32);
    }
    if at + HEADER + 3 > length {
        return Step::More;
    }
    // The answer's first packet follows the command's only one. Anything else is the rest of an answer before.
    if byte(room, at + 3) == 0 || byte(room, at + 3) > 1 && conversation.answers.marks & KNOWN == 0 {
        return refused(conversation);
    }
    if byte(room, at + 3) != 1 {
        return Step::Lost(Unparsed::Pipelined);
    }
    let status = if byte(room, at + HEADER) == ERROR {
        byte(room, at + HEADER + 1) as u16 | (byte(room, at + HEADER + 2) as u16) << 8
    } else {
        0
    };
    match answer(conversation, status, now_ns) {
        Some(answered) => {
            conversation.answers.marks |= KNOWN;
            Step::Answered((length - at) as u32, answered)
        }
        None => refused(conversation),
    }
}

#[cfg(test)]
mod tests;
