//! Requests and their answers: follows the exchange on each socket, and counts.
//!
//! Two programs share a socket's exchange and may run in the same instant on two CPUs. They speak in turn because the
//! two sides do; where those do not, a count may be off by what they said at once.

pub(in crate::programs) mod turns;
mod words;

use agent_ebpf::abi::request::{JOINED_LATE, READ_RECEIVED, READ_SENT, UNDERSTOOD};
use agent_ebpf::abi::{
    AppProtocol, Direction, Exchange, Method, Outcome, Phase, RequestKey, Stage, Unparsed,
};
use agent_ebpf::decide::histogram;
use agent_ebpf::decide::l7::conversation;
use agent_ebpf::decide::l7::position::{self, Fresh};

use turns::{Listener, Said};
use words::{NO_GREETING, greets};

use super::{answers, conversations, http2, lookups, tell, tls};
use crate::context::{Moment, Packet, RawPacket, Segment, Socket};
use crate::maps;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this socket.
    Received,
    /// From it.
    Sent,
}

/// Reads a packet.
#[inline(always)]
pub(crate) fn read(packet: &Packet, way: Way) -> Outcome {
    let is_sent = u32::from(way == Way::Sent);
    let Some(segment) = packet.segment() else {
        return done(lookups::segue_lookup_datagram(packet.to_raw(), is_sent));
    };
    if segment.is_of_dns() {
        return done(lookups::segue_lookup_segment(packet.to_raw(), is_sent));
    }
    let Some(socket) = packet.socket() else { return Outcome::Unsupported };
    let exchange = match maps::exchange(socket) {
        Some(exchange) => exchange,
        None => {
            segue_begin_exchange(packet.to_raw(), is_sent);
            match maps::exchange(socket) {
                Some(exchange) => exchange,
                None => return Outcome::StorageFailed,
            }
        }
    };
    let asks = (way == Way::Sent) == (exchange.direction == Direction::Outbound as u8);
    if exchange.stage == Stage::Ended as u8 {
        return tls::spoken(exchange, asks);
    }
    let fresh = take_in(packet, socket, exchange, &segment, way);
    if fresh.length == 0 {
        return Outcome::Ignored;
    }
    let at = segment.payload_at + fresh.skip;
    let sequence = segment.sequence.wrapping_add(fresh.skip);
    let mut begins = 0;
    if !is_walked(exchange) {
        let Some(scratch) = maps::take_scratch() else { return give_up(exchange, Unparsed::NoMemory) };
        let said = Said { text: packet, at, bytes: fresh.length, scratch };
        let mut listener = OnPackets { packet, socket, way, sequence };
        let outcome = if asks {
            turns::asked(&mut listener, exchange, said)
        } else if is_interrupted(exchange) {
            listener.interrupted(exchange, said)
        } else {
            turns::answered(&mut listener, exchange, said)
        };
        maps::leave_scratch(scratch);
        if !is_walked(exchange) || exchange.stage == Stage::Ended as u8 {
            return outcome;
        }
        // Its first words told what is spoken: they are walked as well.
        begins = conversations::BEGINS;
    }
    let asks = u32::from(asks);
    if exchange.protocol == AppProtocol::Http2 as u8 {
        let skips = if skips(exchange, &segment, way) { http2::SKIPS } else { 0 };
        return done(http2::read(packet, (at, fresh.length, sequence), asks | skips));
    }
    done(conversations::segue_read_conversation(packet.to_raw(), at, fresh.length, asks | begins))
}

/// What a function said by the number of an outcome.
#[inline(always)]
fn done(outcome: u32) -> Outcome {
    Outcome::from_raw(outcome as u8).unwrap_or(Outcome::Inconsistent)
}

/// Whether what is spoken is told by walking frames or messages, and not by the sides taking turns.
#[inline(always)]
fn is_walked(exchange: &Exchange) -> bool {
    match AppProtocol::from_raw(exchange.protocol) {
        Some(AppProtocol::Http2) => true,
        Some(protocol) => conversation::is_walked(protocol),
        None => false,
    }
}

/// Makes the exchange of a socket that none was kept of. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_begin_exchange(packet: RawPacket, is_sent: u32) -> u32 {
    let packet = &Packet::from_raw(packet);
    let (Some(segment), Some(socket)) = (packet.segment(), packet.socket()) else { return 0 };
    let way = if is_sent != 0 { Way::Sent } else { Way::Received };
    if begin(packet, &segment, socket, way).is_none() {
        maps::unparsed(Unparsed::NoMemory);
        return 0;
    }
    1
}

#[inline(always)]
fn begin(packet: &Packet, segment: &Segment, socket: Socket, way: Way) -> Option<&'static mut Exchange> {
    let mut exchange = maps::no_exchange();
    exchange.operation = Method::Other as u8;
    let mut greeted = false;
    match maps::connection(socket) {
        Some(connection) if connection.phase == Phase::Established as u8 => {
            exchange.cgroup = connection.cgroup;
            exchange.service = connection.service;
            exchange.version = connection.version;
            if answers::is_unread(exchange.service) {
                exchange.stage = Stage::Ended as u8;
            }
        }
        _ if way == Way::Received => {
            exchange.direction = Direction::Inbound as u8;
            exchange.cgroup = packet.socket_cgroup(socket);
            exchange.port_be = segment.destination_port_be;
        }
        // A server that speaks first, in words that are understood.
        _ if begins_with_greeting(packet, segment) => {
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

/// Whether this is how a server speaks that does not wait for its client.
#[inline(always)]
fn begins_with_greeting(packet: &Packet, segment: &Segment) -> bool {
    let Some(number) = maps::take_scratch() else { return false };
    let greeting = greets(packet, number, segment.payload_at, segment.payload_bytes);
    maps::leave_scratch(number);
    greeting != NO_GREETING
}

/// How much of a segment is new, by its place among what went the same way.
#[inline(always)]
fn take_in(packet: &Packet, socket: Socket, exchange: &mut Exchange, segment: &Segment, way: Way) -> Fresh {
    let is_sent = way == Way::Sent;
    let mark = if is_sent { READ_SENT } else { READ_RECEIVED };
    let position = if is_sent { &exchange.sent } else { &exchange.received };
    let mut is_first = exchange.marks & mark == 0;
    if !is_first
        && position::is_before(position, segment.sequence)
        && packet.next_sequence(socket, is_sent).is_some_and(|next| position::is_before(position, next))
    {
        begin_anew(exchange);
        is_first = true;
    }
    let position = if is_sent { &mut exchange.sent } else { &mut exchange.received };
    if is_first {
        exchange.marks |= mark;
        *position = position::start(segment.sequence);
    }
    position::advance(position, segment.sequence, segment.payload_bytes)
}

/// Something passed while nobody looked, as reading may be switched off and on: what is kept says nothing any more, and the
/// connection is one that was joined late.
#[inline(always)]
fn begin_anew(exchange: &mut Exchange) {
    exchange.protocol = AppProtocol::Unknown as u8;
    exchange.stage = Stage::Idle as u8;
    exchange.marks = JOINED_LATE;
    exchange.head_length = 0;
    exchange.doubts = 0;
    maps::unparsed(Unparsed::Joined);
}

/// Whether TCP sent or received something that nobody looked at.
#[inline(always)]
fn has_missed(packet: &Packet, socket: Socket, exchange: &Exchange) -> bool {
    let missed = |mark, position, is_sent| {
        exchange.marks & mark != 0
            && packet.next_sequence(socket, is_sent).is_some_and(|next| position::is_before(position, next))
    };
    missed(READ_SENT, &exchange.sent, true) || missed(READ_RECEIVED, &exchange.received, false)
}

/// When a packet passes. TCP read the clock when it sent it; reading it again is a third of what a request costs.
#[inline(always)]
fn moment(packet: &Packet, way: Way) -> Moment {
    match (way, packet.sent_at_ns()) {
        (Way::Received, _) | (Way::Sent, 0) => Moment::now(),
        (Way::Sent, ns) => Moment { ns },
    }
}

/// Whether what came before its turn, behind this segment, is passed over.
#[inline(always)]
fn skips(exchange: &Exchange, segment: &Segment, way: Way) -> bool {
    let position = if way == Way::Sent { &exchange.sent } else { &exchange.received };
    position.next != segment.sequence.wrapping_add(segment.payload_bytes)
}

/// Whether the server speaks before the first words of its client are whole: what is kept is the client's.
#[inline(always)]
fn is_interrupted(exchange: &Exchange) -> bool {
    // The client began and did not end; what is kept of a server that greets is its own.
    let client = if exchange.direction == Direction::Outbound as u8 { READ_SENT } else { READ_RECEIVED };
    exchange.stage == Stage::Idle as u8 && exchange.head_length != 0 && exchange.marks & client != 0
}

/// Listens to what passes in packets.
struct OnPackets<'p> {
    packet: &'p Packet,
    socket: Socket,
    way: Way,
    /// Of the first byte that is listened to.
    sequence: u32,
}

impl OnPackets<'_> {
    /// The server speaks out of turn.
    #[inline(always)]
    fn interrupted(&mut self, exchange: &mut Exchange, said: Said<'_, Packet>) -> Outcome {
        if greets(self.packet, said.scratch, said.at, said.bytes) == AppProtocol::Http2 as u32 {
            return http2::begin(self.socket, exchange);
        }
        if exchange.marks & JOINED_LATE != 0 {
            return Outcome::Ignored;
        }
        self.lose(exchange, Unparsed::OtherProtocol)
    }
}

impl Listener for OnPackets<'_> {
    #[inline(always)]
    fn begin(&self, exchange: &mut Exchange) {
        exchange.asked_at_ns = moment(self.packet, self.way).ns;
        exchange.asked_sequence = self.sequence;
    }

    #[inline(always)]
    fn take(&mut self, exchange: &mut Exchange, protocol: AppProtocol) -> Option<Outcome> {
        if protocol == AppProtocol::Http2 {
            return Some(http2::begin(self.socket, exchange));
        }
        if !conversation::is_walked(protocol) {
            return None;
        }
        exchange.protocol = protocol as u8;
        Some(Outcome::Ignored)
    }

    #[inline(always)]
    fn asked<T>(&mut self, exchange: &mut Exchange, said: &Said<'_, T>, begins: bool) -> Outcome {
        if !answers::asked(self.socket, exchange) {
            exchange.stage = Stage::Ended as u8;
        }
        if begins {
            tell::asked(self.packet, exchange, said.at, said.bytes);
        }
        Outcome::Asked
    }

    #[inline(always)]
    fn is_sealed(&self, exchange: &mut Exchange, scratch: u32, length: u32) -> bool {
        tls::seal(exchange, scratch, length)
    }

    #[inline(always)]
    fn recognises<T>(&self, exchange: &mut Exchange, said: &Said<'_, T>) -> bool {
        let joins = http2::segue_join_http2(self.packet.to_raw(), said.at, said.bytes) != 0;
        if joins {
            exchange.protocol = AppProtocol::Http2 as u8;
        }
        joins
    }

    #[inline(always)]
    fn answered(&mut self, _: &mut Exchange, status: u16) {
        segue_count_answer(self.packet.to_raw(), status.into(), moment(self.packet, self.way).ns);
    }

    /// Unless what was not understood is for something that passed unseen.
    #[inline(always)]
    fn lose(&mut self, exchange: &mut Exchange, reason: Unparsed) -> Outcome {
        if has_missed(self.packet, self.socket, exchange) {
            begin_anew(exchange);
            return Outcome::Unparsed;
        }
        give_up(exchange, reason)
    }
}

/// Learns nothing more from this connection.
#[inline(always)]
pub(super) fn give_up(exchange: &mut Exchange, reason: Unparsed) -> Outcome {
    exchange.stage = Stage::Ended as u8;
    maps::unparsed(reason);
    Outcome::Unparsed
}

/// Counts a request that was answered, of the exchange on a packet's socket. A global function: the verifier reads it once, and not
/// behind each way on which an answer comes here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_count_answer(packet: RawPacket, status: u32, now_ns: u64) -> u32 {
    let packet = &Packet::from_raw(packet);
    let Some(socket) = packet.socket() else { return 0 };
    let Some(exchange) = maps::exchange(socket) else { return 0 };
    let (status, now) = (status as u16, Moment { ns: now_ns });
    exchange.marks |= UNDERSTOOD;
    let duration_ns = now.ns.saturating_sub(exchange.asked_at_ns);
    answers::answered(socket, exchange, status, duration_ns, now);
    tell::answered(packet, exchange, status, duration_ns);
    add(&row(exchange, status), duration_ns);
    1
}

/// The row in which a request is counted.
#[inline(always)]
pub(super) fn row(exchange: &Exchange, status: u16) -> RequestKey {
    RequestKey {
        cgroup: exchange.cgroup,
        service: exchange.service,
        version: exchange.version,
        port_be: exchange.port_be,
        status,
        protocol: exchange.protocol,
        direction: exchange.direction,
        operation: exchange.operation,
        _pad: 0,
    }
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
