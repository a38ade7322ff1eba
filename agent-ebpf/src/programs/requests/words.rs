//! The words a side begins with: brings them in front of those who know what they mean. Knows no exchange's course.

use agent_ebpf::abi::request::{HEAD_BYTES, JOINED_LATE, UNDERSTOOD};
use agent_ebpf::abi::{AppProtocol, Exchange, Outcome, Stage};
use agent_ebpf::decide::l7::conversation::Begin;
use agent_ebpf::decide::l7::{self, Known, Told, http1, mysql};

use crate::context::{Packet, Text};
use crate::maps;

/// As whom a server greets that does not wait for its client.
#[inline(always)]
pub(super) fn greets(packet: &Packet, number: u32, at: u32, bytes: u32) -> u32 {
    let Some(scratch) = maps::scratch(number) else { return NO_GREETING };
    maps::load_head(scratch, &[0; HEAD_BYTES / 4]);
    let length = packet.append(at, bytes, &mut scratch.head, 0);
    segue_greets(number, length as u32)
}

/// It does not.
pub(super) const NO_GREETING: u32 = AppProtocol::Unknown as u32;

/// The same of the head in a scratch.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_greets(number: u32, length: u32) -> u32 {
    let Some(scratch) = maps::scratch(number) else { return NO_GREETING };
    if l7::http2::is_greeting(&scratch.head, length as usize) {
        return AppProtocol::Http2 as u32;
    }
    match mysql::greets(&scratch.head, length as usize) {
        Begin::Yes => AppProtocol::Mysql as u32,
        _ => NO_GREETING,
    }
}

/// Beside the protocol: it is the client who speaks.
pub(super) const REQUEST: u32 = 1 << 8;
/// What [`Known::is_followed`] says.
const FOLLOWED: u32 = 1 << 9;

/// Above these, the number of the scratch.
const SCRATCH_SHIFT: u32 = 16;

/// What the head in a scratch means on this connection, said by its client ([`REQUEST`]) or its server (0).
#[inline(always)]
pub(super) fn hear(who: u32, exchange: &Exchange, number: u32, length: u32) -> Told {
    let followed = if exchange.marks & (UNDERSTOOD | JOINED_LATE) != 0 { FOLLOWED } else { 0 };
    let who = who | followed | u32::from(exchange.protocol) | number << SCRATCH_SHIFT;
    Told::from_raw(segue_hear(who, length, exchange.stage.into(), exchange.operation.into()))
}

/// The same as numbers: a global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_hear(who: u32, length: u32, stage: u32, operation: u32) -> u32 {
    let Some(scratch) = maps::scratch(who >> SCRATCH_SHIFT) else { return 0 };
    // Numbers that are none were never written.
    let Some(stage) = Stage::from_raw(stage as u8) else { return 0 };
    let Some(protocol) = AppProtocol::from_raw(who as u8) else { return 0 };
    let known = Known { protocol, stage, operation: operation as u8, is_followed: who & FOLLOWED != 0 };
    let told = if who & REQUEST != 0 {
        l7::request(known, &scratch.head, length as usize)
    } else {
        l7::answer(known, &scratch.head, length as usize)
    };
    told.to_raw()
}

/// Whether another request follows in the same segment.
#[inline(always)]
pub(super) fn is_followed_by_another(
    text: &impl Text,
    number: u32,
    at: u32,
    bytes: u32,
    operation: u8,
) -> bool {
    if http1::has_body(operation) {
        return false;
    }
    let end = head_end(text, number, at, bytes);
    if end == 0 || end >= bytes {
        return false;
    }
    let Some(scratch) = maps::scratch(number) else { return false };
    maps::load_head(scratch, &[0; HEAD_BYTES / 4]);
    text.append(at + end, bytes - end, &mut scratch.head, 0);
    segue_is_request(number) != 0
}

/// Whether the head in a scratch is a request's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_is_request(number: u32) -> u32 {
    let Some(scratch) = maps::scratch(number) else { return 0 };
    u32::from(http1::known_method(&scratch.head).is_some())
}

/// Bytes of the head that begins at `at`; 0 where its end is not in reach.
#[inline(always)]
pub(super) fn head_end(text: &impl Text, number: u32, at: u32, bytes: u32) -> u32 {
    let Some(scratch) = maps::scratch(number) else { return 0 };
    segue_head_end(number, text.copy(at, bytes, &mut scratch.bytes) as u32)
}

/// Where the head ends in the first `length` bytes of a scratch; 0: not there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_head_end(number: u32, length: u32) -> u32 {
    let Some(scratch) = maps::scratch(number) else { return 0 };
    match http1::head_end(&scratch.bytes, 0, length as usize) {
        Some(end) => end as u32,
        None => 0,
    }
}

/// Puts the beginning that is kept and what was said after it into a scratch; gives how much that is.
#[inline(always)]
pub(super) fn fill(text: &impl Text, exchange: &Exchange, number: u32, at: u32, bytes: u32) -> u32 {
    let Some(scratch) = maps::scratch(number) else { return 0 };
    let filled = exchange.head_length;
    if filled == 0 {
        maps::load_head(scratch, &[0; HEAD_BYTES / 4]);
    } else {
        maps::load_head(scratch, &exchange.head);
    }
    let added = text.append(at, bytes, &mut scratch.head, filled);
    u32::from(filled) + added as u32
}

/// Keeps the beginning of a message until there is more of it.
#[inline(always)]
pub(super) fn more(exchange: &mut Exchange, number: u32, length: u32) -> Outcome {
    if let Some(scratch) = maps::scratch(number) {
        maps::keep_head(scratch, &mut exchange.head);
        exchange.head_length = length as u8;
    }
    Outcome::Ignored
}
