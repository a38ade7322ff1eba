//! Conversations: protocols whose messages are walked. Brings the packet's bytes in front of the walk, and counts.
//!
//! The walk is global functions, which the verifier reads once each. They can be given numbers only, so that what they work
//! on lies on the desk: a copy of the socket's conversation, of which afterwards the part of the side that spoke is kept.

use agent_ebpf::abi::conversation::{CARRY_BYTES, Conversation, Cursor, Desk, MAX_STEPS, MAX_WINDOWS};
use agent_ebpf::abi::request::UNDERSTOOD;
use agent_ebpf::abi::{AppProtocol, Exchange, Outcome, RequestKey, Stage, Unparsed};
use agent_ebpf::decide::l7::conversation::{self, Answered, Step};
use agent_ebpf::decide::l7::{kafka, mysql, postgresql, redis};

use super::{answers, requests};
use crate::context::{Moment, Packet, RawPacket, Socket};
use crate::maps;

/// In the last argument of [`segue_read_conversation`]: it is the client who speaks.
const CLIENT: u32 = 1;
/// Likewise: the conversation begins with this packet.
pub(super) const BEGINS: u32 = 2;

/// Reads `bytes` bytes from `at` on of a connection whose messages are walked; gives the number of an [`Outcome`]. A global function,
/// which the verifier reads once, and not behind each way on which a packet comes here.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn segue_read_conversation(packet: RawPacket, at: u32, bytes: u32, how: u32) -> u32 {
    let packet = &Packet::from_raw(packet);
    let Some(socket) = packet.socket() else { return Outcome::Unsupported as u32 };
    let Some(exchange) = maps::exchange(socket) else { return Outcome::StorageFailed as u32 };
    if how & BEGINS != 0 && !begin(socket, exchange) {
        exchange.stage = Stage::Ended as u8;
        return Outcome::StorageFailed as u32;
    }
    if how & CLIENT != 0 && answers::is_unread_now(exchange) {
        exchange.stage = Stage::Ended as u8;
        return Outcome::Ignored as u32;
    }
    read(packet, socket, exchange, at, bytes, how & CLIENT != 0) as u32
}

/// A packet of a conversation, of which `bytes` from `at` on are new.
#[inline(always)]
fn read(
    packet: &Packet,
    socket: Socket,
    exchange: &mut Exchange,
    at: u32,
    bytes: u32,
    asks: bool,
) -> Outcome {
    let Some(kept) = maps::conversation(socket) else { return Outcome::Inconsistent };
    let Some(number) = maps::take_desk() else { return requests::give_up(exchange, Unparsed::NoMemory) };
    let Some(desk) = maps::desk(number) else { return Outcome::Inconsistent };
    maps::lay_out(kept, desk);
    desk.now_ns = Moment::now().ns;
    desk.counted = 0;
    desk.lost = 0;
    desk.key.cgroup = exchange.cgroup;
    desk.key.service = exchange.service;
    desk.key.version = exchange.version;
    desk.key.port_be = exchange.port_be;
    desk.key.protocol = exchange.protocol;
    desk.key.direction = exchange.direction;
    let who = u32::from(exchange.protocol) | number << DESK_SHIFT | if asks { ASKS } else { 0 };
    let is_postgresql = !asks && exchange.protocol == AppProtocol::Postgresql as u8;
    if !is_postgresql || postgresql::listens(&desk.conversation) {
        walk(packet, desk, who, at, bytes);
    }
    if is_postgresql {
        look_at_end(packet, desk, number, at, bytes);
    }
    if asks {
        maps::keep_asks(desk, kept);
    } else {
        maps::keep_answers(desk, kept);
    }
    let (counted, lost) = (desk.counted, desk.lost);
    maps::leave_desk(desk);
    if lost != 0 {
        let reason = Unparsed::from_raw((lost - 1) as u8).unwrap_or(Unparsed::Malformed);
        return requests::give_up(exchange, reason);
    }
    if counted > 0 {
        exchange.marks |= UNDERSTOOD;
        return Outcome::Answered;
    }
    if asks { Outcome::Asked } else { Outcome::Ignored }
}

/// A conversation begins on a socket, with what is kept of its first message. False where there is no memory for it.
#[inline(always)]
fn begin(socket: Socket, exchange: &mut Exchange) -> bool {
    // That of a connection before, on the same socket.
    maps::forget_conversation(socket);
    let Some(conversation) = maps::new_conversation(socket) else {
        maps::unparsed(Unparsed::NoMemory);
        return false;
    };
    let is_mysql = exchange.protocol == AppProtocol::Mysql as u8;
    let cursor = if is_mysql { &mut conversation.answers } else { &mut conversation.asks };
    const { assert!(size_of_val(&Cursor::NEW.carry) == CARRY_BYTES) };
    cursor.carry[0] = exchange.head[0];
    cursor.carry[1] = exchange.head[1];
    cursor.carried = u32::from(exchange.head_length);
    exchange.head_length = 0;
    true
}

/// With the protocol's number: it is the client who speaks.
const ASKS: u32 = 1 << 8;
/// The segment ends with this window, or nothing behind it is looked at.
const LAST: u32 = 1 << 9;
/// Above these, the number of the desk.
const DESK_SHIFT: u32 = 16;

/// Brings what is new in front of the walk, window by window.
#[inline(always)]
fn walk(packet: &Packet, desk: &mut Desk, who: u32, at: u32, bytes: u32) {
    let (mut at, mut bytes) = (at, bytes);
    let mut turn = 0;
    while turn < MAX_WINDOWS {
        let skipped = segue_place(who, bytes);
        if skipped >= bytes {
            return;
        }
        at += skipped;
        bytes -= skipped;
        let fresh = packet.copy_window(at, bytes, &mut desk.room, desk.length);
        let read = segue_walk(if fresh < bytes { who } else { who | LAST }, fresh);
        if read == 0 || read >= bytes {
            return;
        }
        at += read;
        bytes -= read;
        turn += 1;
    }
    desk.lost = Unparsed::Pipelined as u32 + 1;
}

/// Places what was kept of this side at the beginning of the room. Gives how many of `bytes` are passed over.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_place(who: u32, bytes: u32) -> u32 {
    let Some(desk) = maps::desk(who >> DESK_SHIFT) else { return bytes };
    let cursor = side(&mut desk.conversation, who);
    let skipped = if cursor.skip < bytes { cursor.skip } else { bytes };
    cursor.skip -= skipped;
    desk.at = 0;
    if skipped < bytes {
        desk.length = cursor.carried;
        cursor.carried = 0;
        let carry = cursor.carry;
        maps::place(&carry, &mut desk.room);
    }
    skipped
}

/// Walks what is in the room, with so many new bytes, and keeps what could not be told. Gives how many of the new bytes
/// were told; 0 where the segment, or the conversation, is done.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_walk(who: u32, fresh: u32) -> u32 {
    let Some(desk) = maps::desk(who >> DESK_SHIFT) else { return 0 };
    let (number, carried) = (who >> DESK_SHIFT, desk.length);
    desk.length = carried + fresh;
    let mut turn = 0;
    while turn < MAX_STEPS {
        let goes_on = match (who & ASKS != 0, who & 0xff) {
            (true, REDIS) => segue_redis_request(number),
            (false, REDIS) => segue_redis_response(number),
            (true, KAFKA) => segue_kafka_request(number),
            (false, KAFKA) => segue_kafka_response(number),
            (true, POSTGRESQL) => segue_postgresql_request(number),
            (false, POSTGRESQL) => segue_postgresql_response(number),
            (true, MYSQL) => segue_mysql_request(number),
            (false, MYSQL) => segue_mysql_response(number),
            _ => 0,
        };
        if goes_on == 0 {
            break;
        }
        turn += 1;
    }
    segue_rest(who, carried)
}

const REDIS: u32 = AppProtocol::Redis as u32;
const KAFKA: u32 = AppProtocol::Kafka as u32;
const POSTGRESQL: u32 = AppProtocol::Postgresql as u32;
const MYSQL: u32 = AppProtocol::Mysql as u32;

/// Keeps what of the room was not walked, of which the first `carried` bytes are from the segment before. Gives how many of
/// the others were; 0 where the segment or the conversation is done.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_rest(who: u32, carried: u32) -> u32 {
    let Some(desk) = maps::desk(who >> DESK_SHIFT) else { return 0 };
    if desk.lost != 0 {
        return 0;
    }
    let is_whole = match AppProtocol::from_raw(who as u8) {
        Some(protocol) => conversation::is_followed_whole(protocol, who & ASKS != 0),
        None => false,
    };
    let (at, length) = (desk.at, desk.length);
    let cursor = side(&mut desk.conversation, who);
    if who & LAST == 0 {
        if !is_whole {
            return 0;
        }
        if at >= length {
            cursor.skip = at - length;
            return length.saturating_sub(carried);
        }
        // What is left is read again from the segment, with what follows it.
        if at <= carried {
            desk.lost = Unparsed::Malformed as u32 + 1;
            return 0;
        }
        return at - carried;
    }
    if at >= length {
        cursor.skip = at - length;
        return 0;
    }
    match conversation::kept(at, length) {
        Some(left) => {
            cursor.carried = left;
            maps::pick_up(&desk.room, at, &mut cursor.carry);
        }
        None => desk.lost = Unparsed::Malformed as u32 + 1,
    }
    0
}

/// The side that speaks.
#[inline(always)]
fn side(conversation: &mut Conversation, who: u32) -> &mut Cursor {
    if who & ASKS != 0 { &mut conversation.asks } else { &mut conversation.answers }
}

/// Declares the global function of a step: one message, or a part of it.
macro_rules! step {
    ($name:ident, $step:path) => {
        /// One step at a desk. Not 0: another may follow.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(number: u32) -> u32 {
            let Some(desk) = maps::desk(number) else { return 0 };
            let (at, length, now_ns) = (desk.at, desk.length, desk.now_ns);
            let step = $step(&mut desk.conversation, &desk.room, at as usize, length as usize, now_ns);
            let take = match step {
                Step::More => return 0,
                Step::Take(take) => take,
                Step::Missed(take, reason) => {
                    maps::unparsed(reason);
                    take
                }
                Step::Answered(take, answered) => {
                    count(number, answered);
                    take
                }
                Step::Lost(reason) => {
                    desk.lost = reason as u32 + 1;
                    return 0;
                }
            };
            desk.at = at.saturating_add(take);
            u32::from(desk.at < length)
        }
    };
}

step!(segue_redis_request, redis::request);
step!(segue_redis_response, redis::response);
step!(segue_kafka_request, kafka::request);
step!(segue_kafka_response, kafka::response);
step!(segue_postgresql_request, postgresql::request);
step!(segue_postgresql_response, postgresql::response);
step!(segue_mysql_request, mysql::request);
step!(segue_mysql_response, mysql::response);

/// The last bytes of what PostgreSQL says: whether it is ready.
#[inline(always)]
fn look_at_end(packet: &Packet, desk: &mut Desk, number: u32, at: u32, bytes: u32) {
    if desk.lost != 0 {
        return;
    }
    let last = if bytes < TAIL_BYTES { bytes } else { TAIL_BYTES };
    segue_postgresql_ends(number, packet.copy_window(at + bytes - last, last, &mut desk.room, 0));
}

/// Bytes of [`Conversation::tail`].
const TAIL_BYTES: u32 = 8;

/// A segment of PostgreSQL's ends, with so many bytes that are in the room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_postgresql_ends(number: u32, last: u32) -> u32 {
    let Some(desk) = maps::desk(number) else { return 0 };
    let (mut tail, mut at) = (desk.conversation.tail, 0);
    while at < TAIL_BYTES {
        if at < last {
            tail = tail << 8 | u64::from(desk.room[at as usize & (TAIL_BYTES as usize - 1)]);
        }
        at += 1;
    }
    desk.conversation.tail = tail;
    let now_ns = desk.now_ns;
    if let Some(answered) = postgresql::segment_ends(&mut desk.conversation, now_ns) {
        count(number, answered);
    }
    0
}

/// Counts a request that was answered.
#[inline(always)]
fn count(number: u32, answered: Answered) {
    let what = u32::from(answered.operation) << 16 | u32::from(answered.status);
    segue_count_at(number, what, answered.duration_ns);
}

/// The same as numbers: operation and status, and how long it took.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_count_at(number: u32, what: u32, duration_ns: u64) -> u32 {
    let Some(desk) = maps::desk(number) else { return 0 };
    desk.counted += 1;
    let key = RequestKey { status: what as u16, operation: (what >> 16) as u8, ..desk.key };
    requests::add(&key, duration_ns);
    0
}
