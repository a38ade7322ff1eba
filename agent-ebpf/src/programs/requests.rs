//! Requests and their answers: follows the exchange on each socket, and counts.
//!
//! Two programs share a socket's exchange and may run in the same instant on two CPUs. They speak in turn because the
//! two sides do; where those do not, a count may be off by what they said at once.

use agent_ebpf::abi::request::{HEAD_BYTES, JOINED_LATE, MAX_DOUBTS, READ_RECEIVED, READ_SENT, UNDERSTOOD};
use agent_ebpf::abi::{
    AppProtocol, Direction, Exchange, Method, Outcome, Phase, RequestKey, Stage, Unparsed,
};
use agent_ebpf::decide::histogram;
use agent_ebpf::decide::l7::conversation::{self, Begin};
use agent_ebpf::decide::l7::position::{self, Fresh};
use agent_ebpf::decide::l7::{self, Heard, Known, Told, http1, mysql};

use super::{answers, conversations};
use crate::context::{Moment, Packet, Segment, Socket};
use crate::maps;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this socket.
    Received,
    /// From it.
    Sent,
}

/// Interim answers (1xx) that are passed over in one segment.
const MAX_INTERIMS: u32 = 2;

/// Reads a packet.
#[inline(always)]
pub(crate) fn read(packet: &Packet, way: Way) -> Outcome {
    let Some(segment) = packet.segment() else { return Outcome::Ignored };
    let Some(socket) = packet.socket() else { return Outcome::Unsupported };
    let exchange = match maps::exchange(socket) {
        Some(exchange) => exchange,
        None => match begin(packet, &segment, socket, way) {
            Some(exchange) => exchange,
            None => {
                maps::unparsed(Unparsed::NoMemory);
                return Outcome::StorageFailed;
            }
        },
    };
    if exchange.stage == Stage::Ended as u8 {
        return Outcome::Ignored;
    }
    let fresh = take_in(exchange, &segment, way);
    if fresh.length == 0 {
        return Outcome::Ignored;
    }
    let at = segment.payload_at + fresh.skip;
    let asks = (way == Way::Sent) == (exchange.direction == Direction::Outbound as u8);
    if !is_walked(exchange) {
        let outcome = if asks {
            asked(packet, socket, exchange, at, fresh.length)
        } else {
            answered(packet, socket, exchange, at, fresh.length)
        };
        if !is_walked(exchange) {
            return outcome;
        }
        // Its first words told what is spoken: they are walked as well.
        if !conversations::begin(socket, exchange) {
            exchange.stage = Stage::Ended as u8;
            return Outcome::StorageFailed;
        }
    }
    conversations::read(packet, socket, exchange, at, fresh.length, asks)
}

/// Whether what is spoken is told by walking messages.
#[inline(always)]
fn is_walked(exchange: &Exchange) -> bool {
    match AppProtocol::from_raw(exchange.protocol) {
        Some(protocol) => conversation::is_walked(protocol),
        None => false,
    }
}

/// The exchange of a socket that none was kept of.
#[inline(always)]
fn begin(packet: &Packet, segment: &Segment, socket: Socket, way: Way) -> Option<&'static mut Exchange> {
    let mut exchange = Exchange {
        asked_at_ns: 0,
        cgroup: 0,
        service: 0,
        version: 0,
        sent: position::start(0),
        received: position::start(0),
        single_bytes: 0,
        port_be: 0,
        protocol: AppProtocol::Unknown as u8,
        direction: Direction::Outbound as u8,
        stage: Stage::Idle as u8,
        operation: Method::Other as u8,
        marks: 0,
        head_length: 0,
        head: [0; HEAD_BYTES / 4],
        doubts: 0,
    };
    let mut greeted = false;
    match maps::connection(socket) {
        Some(connection) if connection.phase == Phase::Established as u8 => {
            exchange.cgroup = connection.cgroup;
            exchange.service = connection.service;
            exchange.version = connection.version;
        }
        _ if way == Way::Received => {
            exchange.direction = Direction::Inbound as u8;
            exchange.cgroup = packet.socket_cgroup(socket);
            exchange.port_be = segment.destination_port_be;
        }
        // A server that speaks first, in words that are understood.
        _ if greets(packet, segment) => {
            greeted = true;
            exchange.direction = Direction::Inbound as u8;
            exchange.cgroup = packet.socket_cgroup(socket);
            exchange.port_be = segment.source_port_be;
        }
        // Or in others; or a client of something that is no service.
        _ => exchange.stage = Stage::Ended as u8,
    }
    // A greeting is the first thing that is said, also to a client that has hung up already, whose end counts as a byte.
    if exchange.stage != Stage::Ended as u8 && !greeted && packet.is_joined_late(socket) {
        exchange.marks = JOINED_LATE;
        maps::unparsed(Unparsed::Joined);
    }
    maps::new_exchange(socket, &mut exchange)
}

/// Whether what this side says before anybody asked is a server's greeting.
#[inline(always)]
fn greets(packet: &Packet, segment: &Segment) -> bool {
    let Some(scratch) = maps::scratch() else { return false };
    maps::load_head(scratch, &[0; HEAD_BYTES / 4]);
    let length = packet.append(segment.payload_at, segment.payload_bytes, &mut scratch.head, 0);
    mysql::greets(&scratch.head, length) == Begin::Yes
}

/// How much of a segment is new, by its place among what went the same way.
#[inline(always)]
fn take_in(exchange: &mut Exchange, segment: &Segment, way: Way) -> Fresh {
    let (position, mark) = match way {
        Way::Sent => (&mut exchange.sent, READ_SENT),
        Way::Received => (&mut exchange.received, READ_RECEIVED),
    };
    if exchange.marks & mark == 0 {
        exchange.marks |= mark;
        *position = position::start(segment.sequence);
    }
    position::advance(position, segment.sequence, segment.payload_bytes)
}

/// The client said something.
#[inline(always)]
fn asked(packet: &Packet, socket: Socket, exchange: &mut Exchange, at: u32, bytes: u32) -> Outcome {
    let begins = exchange.head_length == 0;
    let length = fill(packet, exchange, at, bytes);
    let Told { protocol, heard } = hear(REQUEST, exchange, length);
    if begins && matches!(heard, Heard::Request(_) | Heard::More) {
        exchange.asked_at_ns = Moment::now().ns;
    }
    match heard {
        Heard::More => more(exchange, length),
        Heard::Request(_) if conversation::is_walked(protocol) => {
            exchange.protocol = protocol as u8;
            Outcome::Asked
        }
        Heard::Request(operation) => {
            exchange.head_length = 0;
            exchange.protocol = protocol as u8;
            exchange.operation = operation;
            exchange.stage = Stage::Asked as u8;
            if begins && bytes != exchange.single_bytes {
                if is_followed_by_another(packet, at, bytes, operation) {
                    return lose(exchange, Unparsed::Pipelined);
                }
                exchange.single_bytes = bytes;
            }
            answers::asked(socket, exchange);
            Outcome::Asked
        }
        Heard::Lost(reason) => lose(exchange, reason),
        _ => {
            exchange.head_length = 0;
            if exchange.marks & UNDERSTOOD == 0 && exchange.stage == Stage::Idle as u8 {
                exchange.doubts += 1;
                if exchange.doubts > MAX_DOUBTS {
                    return lose(exchange, Unparsed::OtherProtocol);
                }
            }
            Outcome::Ignored
        }
    }
}

/// The server said something. An interim answer (1xx) may have the one that counts behind it.
#[inline(always)]
fn answered(packet: &Packet, socket: Socket, exchange: &mut Exchange, at: u32, bytes: u32) -> Outcome {
    let (mut at, mut bytes) = (at, bytes);
    let mut turn = 0;
    while turn <= MAX_INTERIMS {
        let length = fill(packet, exchange, at, bytes);
        let Told { protocol, heard } = hear(0, exchange, length);
        match heard {
            _ if conversation::is_walked(protocol) => {
                exchange.protocol = protocol as u8;
                return Outcome::Ignored;
            }
            Heard::More => return more(exchange, length),
            Heard::Interim => {
                exchange.head_length = 0;
                exchange.stage = Stage::Interim as u8;
                let end = head_end(packet, at, bytes);
                if end == 0 || end >= bytes {
                    return Outcome::Ignored;
                }
                at += end;
                bytes -= end;
            }
            Heard::Answer(status) => {
                exchange.head_length = 0;
                exchange.stage = Stage::Answered as u8;
                return count(socket, exchange, status);
            }
            Heard::LastAnswer(status) => {
                exchange.stage = Stage::Ended as u8;
                maps::unparsed(Unparsed::Upgraded);
                return count(socket, exchange, status);
            }
            Heard::Lost(reason) => return lose(exchange, reason),
            _ => {
                exchange.head_length = 0;
                return Outcome::Ignored;
            }
        }
        turn += 1;
    }
    Outcome::Ignored
}

/// Beside the protocol: it is the client who speaks.
const REQUEST: u32 = 1 << 8;
/// What [`Known::is_followed`] says.
const FOLLOWED: u32 = 1 << 9;

/// What the head in the scratch means on this connection, said by its client ([`REQUEST`]) or its server (0).
#[inline(always)]
fn hear(who: u32, exchange: &Exchange, length: u32) -> Told {
    let followed = if exchange.marks & (UNDERSTOOD | JOINED_LATE) != 0 { FOLLOWED } else { 0 };
    let who = who | followed | u32::from(exchange.protocol);
    Told::from_raw(segue_hear(who, length, exchange.stage.into(), exchange.operation.into()))
}

/// The same as numbers: a global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_hear(who: u32, length: u32, stage: u32, operation: u32) -> u32 {
    let Some(scratch) = maps::scratch() else { return 0 };
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
fn is_followed_by_another(packet: &Packet, at: u32, bytes: u32, operation: u8) -> bool {
    if http1::has_body(operation) {
        return false;
    }
    let end = head_end(packet, at, bytes);
    if end == 0 || end >= bytes {
        return false;
    }
    let Some(scratch) = maps::scratch() else { return false };
    maps::load_head(scratch, &[0; HEAD_BYTES / 4]);
    packet.append(at + end, bytes - end, &mut scratch.head, 0);
    segue_is_request() != 0
}

/// Whether the head in the scratch is a request's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_is_request() -> u32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    u32::from(http1::known_method(&scratch.head).is_some())
}

/// Bytes of the head that begins at `at`; 0 where its end is not in reach.
#[inline(always)]
fn head_end(packet: &Packet, at: u32, bytes: u32) -> u32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    segue_head_end(packet.copy(at, bytes, &mut scratch.bytes) as u32)
}

/// Where the head ends in the first `length` bytes of the scratch; 0: not there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_head_end(length: u32) -> u32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    match http1::head_end(&scratch.bytes, 0, length as usize) {
        Some(end) => end as u32,
        None => 0,
    }
}

/// Puts the beginning that is kept and what was said after it into the scratch; gives how much that is.
#[inline(always)]
fn fill(packet: &Packet, exchange: &Exchange, at: u32, bytes: u32) -> u32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    let filled = exchange.head_length;
    if filled == 0 {
        maps::load_head(scratch, &[0; HEAD_BYTES / 4]);
    } else {
        maps::load_head(scratch, &exchange.head);
    }
    let added = packet.append(at, bytes, &mut scratch.head, filled);
    u32::from(filled) + added as u32
}

/// Keeps the beginning of a message until there is more of it.
#[inline(always)]
fn more(exchange: &mut Exchange, length: u32) -> Outcome {
    if let Some(scratch) = maps::scratch() {
        maps::keep_head(scratch, &mut exchange.head);
        exchange.head_length = length as u8;
    }
    Outcome::Ignored
}

/// Learns nothing more from this connection.
#[inline(always)]
pub(super) fn lose(exchange: &mut Exchange, reason: Unparsed) -> Outcome {
    exchange.stage = Stage::Ended as u8;
    maps::unparsed(reason);
    Outcome::Unparsed
}

/// Counts a request that was answered.
#[inline(always)]
fn count(socket: Socket, exchange: &mut Exchange, status: u16) -> Outcome {
    exchange.marks |= UNDERSTOOD;
    let now = Moment::now();
    let duration_ns = now.ns.saturating_sub(exchange.asked_at_ns);
    answers::answered(socket, exchange, status, duration_ns, now);
    let key = RequestKey {
        cgroup: exchange.cgroup,
        service: exchange.service,
        version: exchange.version,
        port_be: exchange.port_be,
        status,
        protocol: exchange.protocol,
        direction: exchange.direction,
        operation: exchange.operation,
        _pad: 0,
    };
    add(&key, duration_ns);
    Outcome::Answered
}

/// Adds a request that took so long to its row.
#[inline(always)]
pub(super) fn add(key: &RequestKey, duration_ns: u64) {
    let Some(requests) = maps::requests(key) else {
        maps::unparsed(Unparsed::TableFull);
        return;
    };
    maps::add(&mut requests.0.sum_ns, duration_ns);
    if let Some(counter) = requests.0.buckets.get_mut(histogram::bucket(duration_ns)) {
        maps::add(counter, 1);
    }
}
