//! Kafka: requests and responses framed by their length, matched by correlation id.
//!
//! Only headers are read, which have had the same beginning in every version of the protocol. What a response says is not:
//! where its error code is depends on the request and its version, so that every answer counts as one without an error.

#![allow(
    clippy::cast_possible_truncation,
    reason = "places in a room and lengths of its parts are less than 4 KiB"
)]

use super::Head;
use super::conversation::{Begin, KNOWN, Step, answer_tagged, ask, byte, four, refused, two};
use crate::abi::Unparsed;
use crate::abi::conversation::{Conversation, Room};
use crate::abi::kafka::KafkaApi;

/// Bytes of a request that are read: its length, API key and version, correlation id, and the length of the client's name.
const HEADER: usize = 14;
/// Bytes of the length itself.
const LENGTH: u32 = 4;
/// The longest message: what brokers and clients take by default (`socket.request.max.bytes`).
const MAX_MESSAGE: u32 = 100 << 20;
/// API keys and versions in use end at 90 and 20; room for a few years.
const MAX_KEY: u32 = 127;
const MAX_VERSION: u32 = 31;
/// A client's name is short.
const MAX_NAME: u32 = 512;
/// The first request of a connection is small, and its correlation id is low.
const MAX_FIRST: u32 = 1 << 16;
const NULL: u32 = 0xffff;
const PRODUCE: u32 = 0;
/// A mark of the client's: once there were more requests under way than are remembered.
const MISSED: u32 = 1;
/// The first version of `Produce` whose body begins with a transaction's name.
const PRODUCE_WITH_TRANSACTION: u32 = 3;

/// Whether a client that says this speaks Kafka.
///
/// A `Produce` of version 0 could be ZooKeeper's handshake too; no client of the last ten years sends one.
#[inline(always)]
pub const fn begins(head: &Head, length: usize) -> Begin {
    if length > 0 && head[0] != 0 || length > 1 && head[1] != 0 {
        return Begin::No;
    }
    if length > 4 && head[4] != 0 || length > 5 && head[5] as u32 > MAX_KEY {
        return Begin::No;
    }
    if length > 6 && head[6] != 0 || length > 7 && head[7] as u32 > MAX_VERSION {
        return Begin::No;
    }
    if length > 8 && head[8] != 0 || length > 9 && head[9] != 0 {
        return Begin::No;
    }
    if length < HEADER {
        return Begin::More;
    }
    let message = (head[2] as u32) << 8 | head[3] as u32;
    let name = (head[12] as u32) << 8 | head[13] as u32;
    if head[5] as u32 == PRODUCE && head[7] == 0 || !is_header(message, name) {
        return Begin::No;
    }
    Begin::Yes
}

/// Whether a message of this length can have a client's name of this one.
#[inline(always)]
const fn is_header(message: u32, name: u32) -> bool {
    message >= HEADER as u32 - LENGTH
        && (name == NULL || name <= MAX_NAME && name + HEADER as u32 - LENGTH <= message)
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
    if at + HEADER > length {
        return Step::More;
    }
    let (message, key, version) = (four(room, at), two(room, at + 4), two(room, at + 6));
    let (correlation, name) = (four(room, at + 8), two(room, at + 12));
    let is_plausible = if conversation.answers.marks & KNOWN != 0 {
        message <= MAX_MESSAGE
    } else {
        message < MAX_FIRST && correlation < MAX_FIRST
    };
    if !is_plausible || key > MAX_KEY || version > MAX_VERSION || !is_header(message, name) {
        return refused(conversation);
    }
    let take = message + LENGTH;
    if key == PRODUCE {
        let body = at + HEADER + if name == NULL { 0 } else { name as usize };
        let acks = if version >= PRODUCE_WITH_TRANSACTION { body + 2 } else { body };
        if acks + 2 <= length && two(room, acks) == 0 && is_without_transaction(room, body, version) {
            // Nobody will answer.
            return Step::Take(take);
        }
    }
    if ask(conversation, operation(key), correlation, now_ns) {
        return Step::Take(take);
    }
    // Its answer will find no request, and is passed over. Said once for a connection.
    if conversation.asks.marks & MISSED != 0 {
        return Step::Take(take);
    }
    conversation.asks.marks |= MISSED;
    Step::Missed(take, Unparsed::Pipelined)
}

/// Whether a `Produce` has no name of a transaction, which takes two bytes: -1, or from version 9 on an empty list of tags
/// and the compact form of nothing. With one it waits for all replicas.
#[inline(always)]
const fn is_without_transaction(room: &Room, body: usize, version: u32) -> bool {
    match version {
        0..PRODUCE_WITH_TRANSACTION => true,
        3..9 => two(room, body) == NULL,
        _ => two(room, body) == 0,
    }
}

/// The number of a kind of request.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "keys are less than 128")]
const fn operation(key: u32) -> u8 {
    match KafkaApi::from_raw(key as u8 + 1) {
        Some(api) => api as u8,
        None => KafkaApi::Other as u8,
    }
}

/// What a server says.
#[inline(always)]
pub const fn response(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    length: usize,
    now_ns: u64,
) -> Step {
    if at + 8 > length {
        return Step::More;
    }
    let (message, correlation) = (four(room, at), four(room, at + 4));
    if message < 4 || message > MAX_MESSAGE || byte(room, at) > 0x7f {
        return refused(conversation);
    }
    match answer_tagged(conversation, correlation, 0, now_ns) {
        Some(answered) => {
            conversation.answers.marks |= KNOWN;
            Step::Answered(message + LENGTH, answered)
        }
        None if conversation.answers.marks & KNOWN != 0 => Step::Take(message + LENGTH),
        None => refused(conversation),
    }
}

#[cfg(test)]
mod tests;
