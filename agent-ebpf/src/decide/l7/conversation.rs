//! Protocols that say how long their messages are: the requests of a connection that wait for their answers, and how far
//! each side's messages were walked.
//!
//! A protocol's `step` is given the bytes from where it stopped, and tells how many of them it has understood. It knows no
//! packet and no time: where a message spans segments, [`Walk`] keeps its beginning.

#![allow(
    clippy::cast_possible_truncation,
    reason = "places in a room and lengths of its parts are less than 4 KiB"
)]

use super::{Head, kafka, postgresql, redis};
use crate::abi::conversation::{CARRY_BYTES, Conversation, MAX_FLIGHTS, ROOM_BYTES, Room};
use crate::abi::{AppProtocol, Unparsed};

/// What the next bytes of one side mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Too few to be told.
    More,
    /// So many bytes are told, which may be more than there are yet; they may have begun a request.
    Take(u32),
    /// So many bytes are told, and something in them is not counted, for this reason; the conversation goes on.
    Missed(u32, Unparsed),
    /// So many bytes are told, and with them a request was answered.
    Answered(u32, Answered),
    /// Nothing more is to be learnt from this connection.
    Lost(Unparsed),
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What it asked for, by the protocol's numbers.
    pub operation: u8,
    /// What came of it, likewise.
    pub status: u16,
    /// Time from its first byte to the first byte of the answer.
    pub duration_ns: u64,
}

/// Whether a connection begins with a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// So far it could.
    More,
}

/// A mark of the server's: something it said was understood as an answer, so that the connection does speak the protocol.
/// The lower bits of `marks` are a protocol's own.
pub const KNOWN: u32 = 1 << 31;

/// Whether requests of this protocol are told by walking messages.
#[inline(always)]
pub const fn is_walked(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Redis | AppProtocol::Postgresql | AppProtocol::Mysql | AppProtocol::Kafka)
}

/// Whether a side's messages are walked to their end. Of PostgreSQL's and MySQL's answers only the beginning is, which one
/// window holds.
#[inline(always)]
pub const fn is_followed_whole(protocol: AppProtocol, asks: bool) -> bool {
    asks || matches!(protocol, AppProtocol::Redis | AppProtocol::Kafka)
}

/// Which of these protocols a client speaks that begins so. They exclude each other, so that the order is free.
#[inline(always)]
pub const fn begins(head: &Head, length: usize) -> (AppProtocol, Begin) {
    let (redis, postgresql) = (redis::begins(head, length), postgresql::begins(head, length));
    let kafka = kafka::begins(head, length);
    match (redis, postgresql, kafka) {
        (Begin::Yes, _, _) => (AppProtocol::Redis, Begin::Yes),
        (_, Begin::Yes, _) => (AppProtocol::Postgresql, Begin::Yes),
        (_, _, Begin::Yes) => (AppProtocol::Kafka, Begin::Yes),
        (Begin::No, Begin::No, Begin::No) => (AppProtocol::Unknown, Begin::No),
        _ => (AppProtocol::Unknown, Begin::More),
    }
}

/// A byte of the room. The mask is for the verifier, which does not follow what the compiler makes of a bound.
#[inline(always)]
pub const fn byte(room: &Room, at: usize) -> u8 {
    room[at & (ROOM_BYTES - 1)]
}

/// Two bytes, the first one highest.
#[inline(always)]
pub const fn two(room: &Room, at: usize) -> u32 {
    (byte(room, at) as u32) << 8 | byte(room, at + 1) as u32
}

/// Four bytes, the first one highest.
#[inline(always)]
pub const fn four(room: &Room, at: usize) -> u32 {
    two(room, at) << 16 | two(room, at + 2)
}

/// Eight bytes as one word, the first lowest.
#[inline(always)]
pub const fn eight(room: &Room, at: usize) -> u64 {
    let at = at & (ROOM_BYTES - 1);
    u64::from_le_bytes([
        room[at],
        room[at + 1],
        room[at + 2],
        room[at + 3],
        room[at + 4],
        room[at + 5],
        room[at + 6],
        room[at + 7],
    ])
}

/// The same byte eight times.
#[inline(always)]
pub const fn eightfold(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Of a word whose bytes have their upper bit set where something was found: the bytes before the first of these, all of
/// them set. Written without a branch, as is all that goes over bytes here: the verifier follows each.
#[inline(always)]
pub const fn before_first(found: u64) -> u64 {
    let found = found & eightfold(0x80);
    // The lowest bit that is set, and less 1 all below it; of none, everything.
    let below = (found & found.wrapping_neg()).wrapping_sub(1);
    if found == 0 { u64::MAX } else { below >> 7 }
}

/// A word of up to eight capital letters, as [`letters`] gives them.
pub const fn word(text: &[u8]) -> u64 {
    assert!(text.len() <= 8);
    let (mut value, mut at) = (0, 0);
    while at < text.len() {
        value |= (text[at] as u64) << (8 * at);
        at += 1;
    }
    value
}

/// The letters from `at` on, up to eight of them and to `length`, as one word in capitals, the first lowest.
#[inline(always)]
pub const fn letters(room: &Room, at: usize, length: usize) -> u64 {
    eight(room, at) & !eightfold(0x20) & letter_bytes(room, at, length)
}

/// How many letters that are.
#[inline(always)]
pub const fn count_letters(room: &Room, at: usize, length: usize) -> usize {
    (letter_bytes(room, at, length) & eightfold(1)).count_ones() as usize
}

/// All bits of these bytes.
#[inline(always)]
const fn letter_bytes(room: &Room, at: usize, length: usize) -> u64 {
    let capitals = eight(room, at) & !eightfold(0x20);
    // In each byte, without a carry into the next: less than A, more than Z, or none of ASCII.
    let low = capitals & eightfold(0x7f);
    let is_none = !(low + eightfold(0x80 - b'A')) | (low + eightfold(0x7f - b'Z')) | capitals;
    let there = length.saturating_sub(at);
    let there = if there >= 8 { u64::MAX } else { !(u64::MAX << (8 * there)) };
    before_first(is_none) & there
}

/// What the conversation is lost for where something is not what the protocol says.
#[inline(always)]
pub const fn refused(conversation: &Conversation) -> Step {
    if conversation.answers.marks & KNOWN != 0 {
        Step::Lost(Unparsed::Malformed)
    } else {
        Step::Lost(Unparsed::OtherProtocol)
    }
}

// A request that waits for its answer is one word: 12 bits of a tag, 8 of its operation, and 44 of the clock.
const TAG_SHIFT: u32 = 52;
const OPERATION_SHIFT: u32 = 44;
/// The clock's bits go round in 4.8 hours: an answer that takes longer is counted short.
const CLOCK: u64 = (1 << OPERATION_SHIFT) - 1;
/// A tag's bits.
pub const TAG: u32 = 0xfff;
const INDEX: u32 = MAX_FLIGHTS as u32 - 1;

const _: () = assert!(MAX_FLIGHTS.is_power_of_two());

/// Requests that wait for their answers.
#[inline(always)]
pub const fn waiting(conversation: &Conversation) -> u32 {
    conversation.asks.count.wrapping_sub(conversation.answers.count)
}

/// Remembers a request. False where there is no room.
#[inline(always)]
pub const fn ask(conversation: &mut Conversation, operation: u8, tag: u32, now_ns: u64) -> bool {
    if waiting(conversation) >= MAX_FLIGHTS as u32 {
        return false;
    }
    let at = conversation.asks.count & INDEX;
    conversation.flights[at as usize] =
        ((tag & TAG) as u64) << TAG_SHIFT | (operation as u64) << OPERATION_SHIFT | now_ns & CLOCK;
    conversation.asks.count = conversation.asks.count.wrapping_add(1);
    true
}

/// The same for a protocol that answers in order and without tags: the same operation asked for in the same packet only
/// raises the count of the last one, which nobody can have answered yet.
#[inline(always)]
pub const fn ask_in_order(conversation: &mut Conversation, operation: u8, now_ns: u64) -> bool {
    if waiting(conversation) > 0 {
        let last = (conversation.asks.count.wrapping_sub(1) & INDEX) as usize;
        let flight = conversation.flights[last];
        let same = (operation as u64) << OPERATION_SHIFT | now_ns & CLOCK;
        if flight << (64 - TAG_SHIFT) == same << (64 - TAG_SHIFT) && flight >> TAG_SHIFT < TAG as u64 {
            conversation.flights[last] = flight + (1 << TAG_SHIFT);
            return true;
        }
    }
    ask(conversation, operation, 1, now_ns)
}

/// The oldest request is answered. `None` where none waits.
#[inline(always)]
pub const fn answer(conversation: &mut Conversation, status: u16, now_ns: u64) -> Option<Answered> {
    if waiting(conversation) == 0 {
        return None;
    }
    let flight = conversation.flights[(conversation.answers.count & INDEX) as usize];
    conversation.answers.taken += 1;
    if conversation.answers.taken as u64 >= flight >> TAG_SHIFT {
        drop_oldest(conversation);
    }
    Some(answered(flight, status, now_ns))
}

/// The request with this tag is answered. Tags go up by one from request to request and round: older requests never will
/// be answered, and of newer ones alone the answer says nothing.
#[inline(always)]
pub const fn answer_tagged(
    conversation: &mut Conversation,
    tag: u32,
    status: u16,
    now_ns: u64,
) -> Option<Answered> {
    let mut turn = 0;
    while turn < MAX_FLIGHTS {
        if waiting(conversation) == 0 {
            return None;
        }
        let flight = conversation.flights[(conversation.answers.count & INDEX) as usize];
        let newer = tag.wrapping_sub((flight >> TAG_SHIFT) as u32) & TAG;
        if newer > TAG / 2 {
            return None;
        }
        drop_oldest(conversation);
        if newer == 0 {
            return Some(answered(flight, status, now_ns));
        }
        turn += 1;
    }
    None
}

#[inline(always)]
const fn drop_oldest(conversation: &mut Conversation) {
    conversation.answers.count = conversation.answers.count.wrapping_add(1);
    conversation.answers.taken = 0;
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the operation is the lowest byte of what is left")]
const fn answered(flight: u64, status: u16, now_ns: u64) -> Answered {
    Answered {
        operation: (flight >> OPERATION_SHIFT) as u8,
        status,
        duration_ns: now_ns.wrapping_sub(flight) & CLOCK,
    }
}

/// How many bytes of a room of `length`, of which the walk has reached `at`, wait for more: what is kept. `None` where
/// that is more than can be, so that what it is can never be told.
#[inline(always)]
pub const fn kept(at: u32, length: u32) -> Option<u32> {
    let left = length.saturating_sub(at);
    if left as usize <= CARRY_BYTES { Some(left) } else { None }
}

#[cfg(test)]
pub(crate) mod follower;
#[cfg(test)]
mod tests;
