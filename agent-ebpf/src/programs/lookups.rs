//! DNS lookups and their answers: follows those that wait on each socket, and counts.
//!
//! Only the port tells that it is DNS. Two programs share what waits on a socket, as those of requests do.

use agent_ebpf::abi::lookup::{DNS_PORT, LookupStatus, LookupStream, MAX_MESSAGES, PLACES, Reading, SETS};
use agent_ebpf::abi::request::{READ_RECEIVED, READ_SENT};
use agent_ebpf::abi::{
    AppProtocol, Direction, Endpoint, Lookup, Lookups, Outcome, Phase, RecordType, RequestKey, Unparsed,
};
use agent_ebpf::decide::histogram;
use agent_ebpf::decide::l7::dns::pending::{self, Gone};
use agent_ebpf::decide::l7::dns::{self, Kept, Message, Side};
use agent_ebpf::decide::l7::position;

use super::requests::Way;
use crate::context::{self, Datagram, Packet, RawPacket, Segment, Socket};
use crate::maps;

/// Which of the two sides of a lookup, and whose socket this is.
#[derive(Clone, Copy)]
struct Talk {
    /// What is said is a lookup, or else an answer.
    asks: bool,
    /// This socket is the client's.
    is_outbound: bool,
    /// The socket is connected by TCP.
    is_stream: bool,
    /// The number of the room that this program took.
    room: u32,
}

impl Talk {
    #[inline(always)]
    fn new(asks: bool, way: Way, is_stream: bool, room: u32) -> Self {
        Self { asks, is_outbound: asks == (way == Way::Sent), is_stream, room }
    }
}

/// Reads what is no segment of TCP: one look at the ports, for all but DNS. Gives the number of an [`Outcome`]. A global function, which
/// the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn segue_lookup_datagram(packet: RawPacket, is_sent: u32) -> u32 {
    let packet = Packet::from_raw(packet);
    let Some(datagram) = packet.datagram() else { return Outcome::Ignored as u32 };
    let Some(room) = maps::take_lookup_room() else { return lost(Unparsed::NoMemory) as u32 };
    let outcome = read_datagram(packet, &datagram, way(is_sent), room);
    maps::leave_lookup_room(room);
    outcome as u32
}

#[inline(always)]
fn way(is_sent: u32) -> Way {
    if is_sent != 0 { Way::Sent } else { Way::Received }
}

#[inline(always)]
fn read_datagram(packet: Packet, datagram: &Datagram, way: Way, number: u32) -> Outcome {
    let Some(socket) = packet.socket() else { return Outcome::Unsupported };
    let Some(room) = maps::lookup_room(number) else { return Outcome::Ignored };
    let talk = Talk::new(datagram.asks, way, false, number);
    let Some(reading) = dns::datagram(datagram.payload_bytes) else { return lost(Unparsed::Malformed) };
    room.reading = reading;
    let length = packet.copy_message(datagram.payload_at, datagram.payload_bytes, &mut room.bytes);
    let said = segue_read_lookup(number, u32::from(talk.asks), length as u32);
    let port_be = if talk.is_outbound { DNS_PORT.to_be() } else { datagram.client_port_be };
    let peer = packet.endpoint(way == Way::Received, port_be);
    said_by(packet, socket, talk, &peer, Message::from_raw(said))
}

/// Reads a segment of a connection to a server of names, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn segue_lookup_segment(packet: RawPacket, is_sent: u32) -> u32 {
    let packet = Packet::from_raw(packet);
    let Some(segment) = packet.segment() else { return Outcome::Ignored as u32 };
    let Some(room) = maps::take_lookup_room() else { return lost(Unparsed::NoMemory) as u32 };
    let outcome = read_segment(packet, &segment, way(is_sent), room);
    maps::leave_lookup_room(room);
    outcome as u32
}

#[inline(always)]
fn read_segment(packet: Packet, segment: &Segment, way: Way, room: u32) -> Outcome {
    let Some(socket) = packet.socket() else { return Outcome::Unsupported };
    let asks = segment.destination_port_be == DNS_PORT.to_be();
    let talk = Talk::new(asks, way, true, room);
    let stream = match maps::lookup_stream(socket) {
        Some(stream) => stream,
        None => match maps::new_lookup_stream(socket) {
            Some(stream) => {
                begin(packet, socket, stream);
                stream
            }
            None => return lost(Unparsed::NoMemory),
        },
    };
    if stream.is_ended != 0 {
        return Outcome::Ignored;
    }
    let (position, mark) = match way {
        Way::Sent => (&mut stream.sent, READ_SENT),
        Way::Received => (&mut stream.received, READ_RECEIVED),
    };
    if stream.marks & mark == 0 {
        stream.marks |= mark;
        *position = position::start(segment.sequence);
    }
    let fresh = position::advance(position, segment.sequence, segment.payload_bytes);
    if fresh.length == 0 {
        return Outcome::Ignored;
    }
    if position.next != segment.sequence.wrapping_add(segment.payload_bytes) {
        return end(stream, Unparsed::Gap);
    }
    messages(packet, stream, talk, segment.payload_at + fresh.skip, fresh.length)
}

/// A connection of which nothing was seen.
#[inline(always)]
fn begin(packet: Packet, socket: Socket, stream: &mut LookupStream) {
    stream.questions = dns::STREAM;
    stream.answers = dns::STREAM;
    if packet.is_joined_late(socket) {
        // Where a message begins is not known.
        end(stream, Unparsed::Joined);
    }
}

/// Reads the messages in `bytes` bytes of a connection.
#[inline(always)]
fn messages(packet: Packet, stream: &mut LookupStream, talk: Talk, at: u32, bytes: u32) -> Outcome {
    let (mut at, mut bytes) = (at, bytes);
    let mut outcome = Outcome::Ignored;
    let way = u32::from(talk.asks == talk.is_outbound);
    let mut turn = 0;
    while turn < MAX_MESSAGES {
        turn += 1;
        let said = segue_lookup_message(packet.to_raw(), talk.room, at, bytes, way);
        if let Some(now) = Outcome::from_raw((said >> 32) as u8) {
            outcome = now;
        }
        let taken = said as u32;
        if taken == 0 || taken >= bytes {
            return outcome;
        }
        at += taken;
        bytes -= taken;
    }
    let reading = if talk.asks { &mut stream.questions } else { &mut stream.answers };
    if dns::pass_over(reading, bytes) == bytes { outcome } else { end(stream, Unparsed::Pipelined) }
}

/// In the upper half of what [`segue_lookup_message`] gives: nothing was said. No [`Outcome`]'s number.
const UNSAID: u64 = 0xff << 32;

/// Reads the next message in `bytes` bytes of a connection, from `at` on. Gives how many bytes were read or passed over, 0 where
/// nothing more is to be read, and in its upper half an [`Outcome`] by number. A global function, which the verifier reads once: with
/// one message after the other it took longer than with everything else that packets are read for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_lookup_message(packet: RawPacket, room: u32, at: u32, bytes: u32, is_sent: u32) -> u64 {
    let packet = Packet::from_raw(packet);
    let (Some(segment), Some(socket)) = (packet.segment(), packet.socket()) else { return UNSAID };
    let (Some(stream), Some(place)) = (maps::lookup_stream(socket), maps::lookup_room(room)) else {
        return UNSAID;
    };
    let asks = segment.destination_port_be == DNS_PORT.to_be();
    let talk = Talk::new(asks, way(is_sent), true, room);
    let reading = if asks { &mut stream.questions } else { &mut stream.answers };
    let passed = dns::pass_over(reading, bytes);
    if passed >= bytes {
        return UNSAID;
    }
    place.reading = *reading;
    let length = packet.copy_message(at + passed, bytes - passed, &mut place.bytes) as u32;
    let said = Message::from_raw(segue_read_lookup(room, u32::from(asks), length));
    *reading = place.reading;
    let read = place.read as u32;
    if let Message::Lost(reason) = said {
        return (end(stream, reason) as u64) << 32;
    }
    let port_be = match talk.is_outbound {
        true => DNS_PORT.to_be(),
        false if asks => segment.source_port_be,
        false => segment.destination_port_be,
    };
    let peer = packet.endpoint(is_sent == 0, port_be);
    let outcome = (said_by(packet, socket, talk, &peer, said) as u64) << 32;
    if read == 0 { outcome } else { outcome | u64::from(passed + read) }
}

/// Reads on in the first `length` bytes of a room. Gives what [`Message::to_raw`] packs. A global function, which the
/// verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_read_lookup(room: u32, asks: u32, length: u32) -> u32 {
    let Some(place) = maps::lookup_room(room) else { return 0 };
    let (said, read) =
        dns::read(&mut InRoom(room, &mut place.reading), side(asks), &place.bytes, length as usize);
    place.read = read as u64;
    said.to_raw()
}

/// How far the message is read that is in this room.
struct InRoom<'r>(u32, &'r mut Reading);

impl Kept for InRoom<'_> {
    #[inline(always)]
    fn skip(&self) -> u16 {
        self.1.skip
    }

    #[inline(always)]
    fn set_skip(&mut self, skip: u16) {
        self.1.skip = skip;
    }

    #[inline(always)]
    fn take(&mut self, side: Side, byte: u8) -> Message {
        Message::from_raw(segue_take_lookup(self.0, u32::from(side == Side::Client), byte.into()))
    }
}

/// Takes in the next byte that matters of the message in a room, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_take_lookup(room: u32, asks: u32, byte: u32) -> u32 {
    let Some(room) = maps::lookup_room(room) else { return 0 };
    dns::take(&mut room.reading, side(asks), byte as u8).to_raw()
}

#[inline(always)]
fn side(asks: u32) -> Side {
    if asks != 0 { Side::Client } else { Side::Server }
}

/// Something was said. Not a part of its callers, whose stack is short.
#[inline(never)]
fn said_by(packet: Packet, socket: Socket, talk: Talk, peer: &Endpoint, said: Message) -> Outcome {
    match said {
        Message::Asked { id, record_type } => asked(packet, socket, talk, peer, id, record_type),
        Message::Answered { id, status } => answered(socket, talk, pending::key(id, peer), status),
        Message::Lost(reason) => lost(reason),
        // Of a datagram there is no more.
        Message::More if !talk.is_stream => lost(Unparsed::Malformed),
        Message::More | Message::Other => Outcome::Ignored,
    }
}

#[inline(always)]
fn asked(
    packet: Packet,
    socket: Socket,
    talk: Talk,
    peer: &Endpoint,
    id: u16,
    record_type: RecordType,
) -> Outcome {
    let now_ns = context::now_ns();
    let key = pending::key(id, peer);
    let Some(lookups) = waiting_or_new(socket, talk, key) else { return lost(Unparsed::NoMemory) };
    if !maps::load_waiting(lookups, talk.room) {
        return Outcome::Ignored;
    }
    let at = segue_place_for(talk.room, key, now_ns);
    let place = &mut lookups.places[maps::unproven(at as usize) & (PLACES - 1)];
    match pending::gone(&place.waiting, key, now_ns) {
        Gone::Nobody => {}
        Gone::Unanswered => count(place, LookupStatus::NoAnswer, now_ns),
        Gone::Crowded => maps::unparsed(Unparsed::Crowded),
    }
    place.waiting.asked_at_ns = now_ns;
    place.waiting.key = key;
    place.record_type = record_type as u8;
    place.direction = Direction::Inbound as u8;
    place.service = 0;
    place.version = 0;
    place.cgroup = packet.socket_cgroup(socket);
    if talk.is_outbound {
        place.direction = Direction::Outbound as u8;
        name_service(socket, peer, place);
    }
    Outcome::Asked
}

/// The place for a lookup among those in a room. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_place_for(room: u32, key: u64, now_ns: u64) -> u32 {
    let Some(room) = maps::lookup_room(room) else { return 0 };
    pending::place_for(&room.waiting, key, now_ns) as u32
}

/// Where the lookup waits that an answer is to, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_place_of(room: u32, key: u64) -> u32 {
    let Some(room) = maps::lookup_room(room) else { return PLACES as u32 };
    pending::place_of(&room.waiting, key) as u32
}

/// Notes which service is asked, if it is one.
#[inline(always)]
fn name_service(socket: Socket, server: &Endpoint, lookup: &mut Lookup) {
    if let Some(connection) = maps::connection(socket)
        && connection.phase != Phase::Released as u8
        && connection.chosen == *server
    {
        lookup.cgroup = connection.cgroup;
        lookup.service = connection.service;
        lookup.version = connection.version;
        return;
    }
    let Some(datagrams) = maps::datagrams(socket) else { return };
    for translation in &datagrams.translations {
        if translation.chosen == *server {
            lookup.service = translation.service;
            if let Some(backend) = maps::backend(translation.backend)
                && backend.generation == translation.backend_generation
            {
                lookup.version = backend.version;
            }
            return;
        }
    }
}

#[inline(always)]
fn answered(socket: Socket, talk: Talk, key: u64, status: LookupStatus) -> Outcome {
    let Some(lookups) = waiting(socket, talk, key) else { return lost(Unparsed::Unasked) };
    if !maps::load_waiting(lookups, talk.room) {
        return Outcome::Ignored;
    }
    let at = segue_place_of(talk.room, key) as usize;
    if at >= PLACES {
        return lost(Unparsed::Unasked);
    }
    let place = &mut lookups.places[maps::unproven(at) & (PLACES - 1)];
    count(place, status, context::now_ns());
    place.waiting.asked_at_ns = 0;
    if talk.is_outbound {
        // Who asks several servers the same at once, with one number, takes the first answer.
        for other in &mut lookups.places {
            if pending::is_same_number(other.waiting.key, key) {
                other.waiting.asked_at_ns = 0;
            }
        }
    }
    Outcome::Answered
}

/// The lookups among which this one waits, if any do.
#[inline(always)]
fn waiting(socket: Socket, talk: Talk, key: u64) -> Option<&'static mut Lookups> {
    if talk.is_outbound || talk.is_stream {
        return maps::lookups(socket);
    }
    maps::served_lookups(socket)?.sets.get_mut(maps::unproven(pending::set_of(key)) & (SETS - 1))
}

/// The same, with room to wait. `None` where there is no memory.
#[inline(always)]
fn waiting_or_new(socket: Socket, talk: Talk, key: u64) -> Option<&'static mut Lookups> {
    if talk.is_outbound || talk.is_stream {
        return maps::lookups_or_new(socket);
    }
    maps::served_lookups_or_new(socket)?.sets.get_mut(maps::unproven(pending::set_of(key)) & (SETS - 1))
}

/// The application closes its socket: what a client still waited for has no answer.
#[inline(always)]
pub(super) fn left(socket: Socket) {
    let Some(lookups) = maps::lookups(socket) else { return };
    // What was answered on a connection that is not followed any more is not known.
    if !maps::lookup_stream(socket).is_some_and(|stream| stream.is_ended != 0) {
        give_up(lookups);
    }
}

#[inline(never)]
fn give_up(lookups: &mut Lookups) {
    let now_ns = context::now_ns();
    for lookup in &mut lookups.places {
        if lookup.waiting.asked_at_ns != 0 && lookup.direction == Direction::Outbound as u8 {
            count(lookup, LookupStatus::NoAnswer, now_ns);
            lookup.waiting.asked_at_ns = 0;
        }
    }
}

/// Learns nothing more from a connection.
#[inline(always)]
fn end(stream: &mut LookupStream, reason: Unparsed) -> Outcome {
    stream.is_ended = 1;
    lost(reason)
}

#[inline(always)]
fn lost(reason: Unparsed) -> Outcome {
    maps::unparsed(reason);
    Outcome::Unparsed
}

/// Counts a lookup that ended.
#[inline(always)]
fn count(lookup: &Lookup, status: LookupStatus, now_ns: u64) {
    let of_whom = u64::from(lookup.service) << 32 | u64::from(lookup.version);
    let what = (status as u32) << 16 | u32::from(lookup.record_type) << 8 | u32::from(lookup.direction);
    let duration_ns = now_ns.saturating_sub(lookup.waiting.asked_at_ns);
    segue_count_lookup(lookup.cgroup, of_whom, what, duration_ns);
}

/// Counts a lookup: of a cgroup, to a service and its version, with a status, a type and a direction. A global function,
/// which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_count_lookup(cgroup: u64, of_whom: u64, what: u32, duration_ns: u64) -> u32 {
    let service = (of_whom >> 32) as u32;
    let key = RequestKey {
        cgroup,
        service,
        version: of_whom as u32,
        // A service has a port of its own.
        port_be: if service == 0 { DNS_PORT.to_be() } else { 0 },
        status: (what >> 16) as u16,
        protocol: AppProtocol::Dns as u8,
        direction: what as u8,
        operation: (what >> 8) as u8,
        _pad: 0,
    };
    let Some(requests) = maps::requests(&key) else {
        maps::unparsed(Unparsed::TableFull);
        return 0;
    };
    maps::add(&mut requests.0.sum_ns, duration_ns);
    if let Some(counter) = requests.0.buckets.get_mut(histogram::bucket(duration_ns)) {
        maps::add(counter, 1);
    }
    1
}
