//! HTTP/2 at a socket: has the frames of each segment walked, and counts the streams that were answered.
//!
//! The steps of a walk are global functions over a walker, which the verifier reads once; only the socket's storage is left to
//! the program itself, which copies what they need of it.

use agent_ebpf::abi::connection::{JUDGED_BY_ANSWERS, PROVED_GOOD};
use agent_ebpf::abi::http2::{STREAM_SETS, STREAM_WAYS};
use agent_ebpf::abi::request::{JOINED_LATE, UNDERSTOOD};
use agent_ebpf::abi::{
    AppProtocol, Exchange, Http2, Outcome, Probe, RequestKey, Stage, Stream, Unparsed, Walker,
};
use agent_ebpf::decide::histogram;
use agent_ebpf::decide::l7::http2::streams::{self, Answer};
use agent_ebpf::decide::l7::http2::{self, Step, sync};

use super::requests::give_up;
use super::{answers, tell};
use crate::context::{Moment, Packet, RawPacket, Socket, Text};
use crate::maps;

/// What of a packet is new.
#[derive(Clone, Copy)]
struct Said {
    /// Where it begins in the packet.
    at: u32,
    /// Bytes of it.
    bytes: u32,
    /// The TCP sequence number of its first byte.
    sequence: u32,
    /// It is the client who speaks.
    asks: bool,
    /// What came before its turn, behind this, is passed over.
    skips: bool,
}

/// Steps in a row, so many at once: as many as a window has bytes.
const MAX_STEPS: u32 = 1_024;
/// See [`MAX_STEPS`].
const STEPS_AT_ONCE: u32 = 8;
/// Frames of a segment that matter, and windows, of which a segment of 64 KiB has 64: so many turns, as often as this. What has more
/// is not walked to its end.
const MAX_TURNS: u32 = 8;
/// See [`MAX_TURNS`].
const MAX_ROUNDS: u32 = 48;
/// Told the breaker.
const TOLD: u32 = 2;

/// The connection turned out to be HTTP/2's: by its preface, of which as much was said before as is kept, or by its server, who
/// spoke first. What was said is to be read.
#[inline(always)]
pub(super) fn begin(socket: Socket, exchange: &mut Exchange) -> Outcome {
    let Some(http2) = maps::new_http2(socket) else { return give_up(exchange, Unparsed::NoMemory) };
    if exchange.marks & JOINED_LATE != 0 {
        http2.asked.lose_way();
        http2.answered.lose_way();
    } else {
        // What is kept is the client's, which on a server's socket may say more of it at this moment. So it is looked at as late as
        // can be: making the memory takes longer than a client needs for its next byte.
        http2.asked.expect_preface(maps::kept_bytes(exchange));
    }
    exchange.protocol = AppProtocol::Http2 as u8;
    exchange.head_length = 0;
    Outcome::Ignored
}

/// It was open before it was looked at; what its client says now, `bytes` from `at` on, may begin with a frame of a request. Then it
/// is to be read as HTTP/2: not 0. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn segue_join_http2(packet: RawPacket, at: u32, bytes: u32) -> u32 {
    let packet = &Packet::from_raw(packet);
    let Some(socket) = packet.socket() else { return 0 };
    let Some(walker) = maps::take_walker() else { return 0 };
    (walker.said_at, walker.said_bytes, walker.done) = (at, bytes, 0);
    load(packet, walker);
    let begin = segue_http2_sync(walker.number);
    walker.is_taken = 0;
    if begin == sync::Begin::Request as u32
        && let Some(http2) = maps::new_http2(socket)
    {
        http2.asked.lose_way();
        http2.answered.lose_way();
        return 1;
    }
    0
}

/// Something was said that nobody sees: the walk knows its way no more. What the client asked meanwhile is not known, and of what
/// the server said some streams may be at their end.
#[inline(always)]
fn miss(http2: &mut Http2, walker: &mut Walker) {
    maps::unparsed(Unparsed::Gap);
    walker.walk.lose_way();
    if walker.asks != 0 {
        return;
    }
    let mut set = 0;
    while set < STREAM_SETS {
        let mut way = 0;
        while way < STREAM_WAYS {
            http2.streams[set][way].number = 0;
            way += 1;
        }
        set += 1;
    }
}

/// In the last argument of [`read`]: it is the client who speaks.
pub(super) const ASKS: u32 = 1;
/// Likewise: what came before its turn, behind this, is passed over.
pub(super) const SKIPS: u32 = 2;

/// Reads `bytes` bytes from `at` on of a connection that is known to speak it; the first has this TCP sequence number.
///
/// Three functions and not one that calls the others: what each has on its stack comes on no other's. And the verifier reads the
/// turns of one of them alone, knowing nothing of those before: so what a segment may hold is not limited by what it can bear.
#[inline(always)]
pub(super) fn read(packet: &Packet, (at, bytes, sequence): (u32, u32, u32), how: u32) -> u32 {
    let begun = segue_begin_http2(packet.to_raw(), at, bytes, sequence, how);
    if begun & WALKS == 0 {
        return begun;
    }
    let mut step = Step::Onward as u32;
    let mut round = 0;
    while round < MAX_ROUNDS && step == Step::Onward as u32 {
        step = segue_walk_http2(packet.to_raw(), begun & !WALKS);
        round += 1;
    }
    segue_end_http2(packet.to_raw(), begun & !WALKS, step)
}

/// In what [`segue_begin_http2`] gives: beside it is the number of a walker, and of an [`Outcome`] otherwise.
const WALKS: u32 = 1 << 8;

/// What is to be read is passed over, or taken to a walker. What is needed afterwards is kept there: the verifier would read the
/// walk once for each thing it knows before it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_begin_http2(packet: RawPacket, at: u32, bytes: u32, sequence: u32, how: u32) -> u32 {
    let packet = &Packet::from_raw(packet);
    let Some(socket) = packet.socket() else { return Outcome::Unsupported as u32 };
    let Some(exchange) = maps::exchange(socket) else { return Outcome::StorageFailed as u32 };
    if how & ASKS != 0 && answers::is_unread_now(exchange) {
        exchange.stage = Stage::Ended as u8;
        return Outcome::Ignored as u32;
    }
    let Some(http2) = maps::http2(socket) else { return Outcome::Ignored as u32 };
    let said = Said { at, bytes, sequence, asks: how & ASKS != 0, skips: how & SKIPS != 0 };
    let walk = if said.asks { &mut http2.asked } else { &mut http2.answered };
    if !said.skips && walk.pass(said.bytes) {
        return Outcome::Ignored as u32;
    }
    let Some(walker) = maps::take_walker() else { return give_up(exchange, Unparsed::NoMemory) as u32 };
    maps::copy_walk(walk, &mut walker.walk);
    prepare(socket, exchange, walker, said);
    walker.number | WALKS
}

/// Keeps what a walk came to, whose last step was this. Gives the number of an [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_end_http2(packet: RawPacket, number: u32, step: u32) -> u32 {
    let packet = &Packet::from_raw(packet);
    let Some(walker) = maps::walker(number) else { return Outcome::Inconsistent as u32 };
    let outcome = end(packet, walker, Step::from_raw(step));
    walker.is_taken = 0;
    outcome as u32
}

#[inline(always)]
fn end(packet: &Packet, walker: &mut Walker, step: Step) -> Outcome {
    let Some(socket) = packet.socket() else { return Outcome::Unsupported };
    let Some(exchange) = maps::exchange(socket) else { return Outcome::StorageFailed };
    let Some(http2) = maps::http2(socket) else { return Outcome::Ignored };
    if step == Step::Onward || walker.skips != 0 {
        miss(http2, walker);
    }
    let walk = if walker.asks != 0 { &mut http2.asked } else { &mut http2.answered };
    maps::copy_walk(&walker.walk, walk);
    if walker.is_judged == TOLD
        && let Some(connection) = answers::established(socket)
    {
        // A probe is one request: what comes after it on the same connection is none.
        connection.marks |= PROVED_GOOD;
        connection.probe = Probe::NONE;
    }
    match step {
        Step::Foreign => give_up(exchange, Unparsed::OtherProtocol),
        Step::Malformed => give_up(exchange, Unparsed::Malformed),
        _ => Outcome::Answered,
    }
}

/// Tells a walker whose requests are counted, and whom to tell of them.
#[inline(always)]
fn prepare(socket: Socket, exchange: &mut Exchange, walker: &mut Walker, said: Said) {
    walker.now_ns = Moment::now().ns;
    walker.asks = u32::from(said.asks);
    walker.skips = u32::from(said.skips);
    (walker.said_at, walker.said_bytes, walker.sequence, walker.done) =
        (said.at, said.bytes, said.sequence, 0);
    walker.is_judged = 0;
    walker.asked_at_ns = 0;
    walker.at = 0;
    walker.length = 0;
    walker.end = 0;
    walker.key = RequestKey {
        cgroup: exchange.cgroup,
        service: exchange.service,
        version: exchange.version,
        port_be: exchange.port_be,
        status: 0,
        protocol: 0,
        direction: exchange.direction,
        operation: 0,
        _pad: 0,
    };
    exchange.marks |= UNDERSTOOD;
    if answers::are_judged(exchange)
        && let Some(connection) = answers::established(socket)
    {
        if said.asks {
            connection.marks |= JUDGED_BY_ANSWERS;
        }
        maps::copy_connection(connection, &mut walker.connection);
        walker.is_judged = 1;
    }
}

/// Walks on in a segment, some turns; gives the step that ended it, [`Step::Dry`] where it was the segment's end, and
/// [`Step::Onward`] where nothing did.
///
/// What changes from turn to turn is in the walker, of which the verifier knows nothing: so each turn looks to it like the one before,
/// however it came there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_walk_http2(packet: RawPacket, number: u32) -> u32 {
    let packet = &Packet::from_raw(packet);
    let Some(walker) = maps::walker(number) else { return Step::Malformed as u32 };
    let Some(socket) = packet.socket() else { return Step::Malformed as u32 };
    let Some(http2) = maps::http2(socket) else { return Step::Malformed as u32 };
    let mut turn = 0;
    while turn < MAX_TURNS {
        turn += 1;
        if walker.at >= walker.length && !move_on(packet, walker) {
            return Step::Dry as u32;
        }
        let step = segue_http2_walk(number);
        if step >= Step::Foreign as u32 {
            return step;
        }
        if step >= Step::Block as u32 {
            let set = streams::set(walker.walk.stream);
            take(&http2.streams[set], &mut walker.set);
            let way = segue_http2_event(number, step) as usize;
            if way < STREAM_WAYS {
                maps::copy_stream(&walker.set[way], &mut http2.streams[set][way]);
            }
            if walker.asked_at_ns != 0 {
                tell::segue_tell_stream(packet.to_raw(), number);
                walker.asked_at_ns = 0;
            }
        }
    }
    Step::Onward as u32
}

/// Moves the window on to where the walk is. `false` at the end of the segment, and where nothing tells where a frame begins in it.
#[inline(always)]
fn move_on(packet: &Packet, walker: &mut Walker) -> bool {
    walker.done += walker.at;
    if walker.done >= walker.said_bytes {
        return false;
    }
    load(packet, walker);
    // A segment that cannot be read is passed over by the next one's sequence number.
    walker.length != 0 && (!walker.walk.is_astray() || segue_http2_sync(walker.number) != 0)
}

#[inline(always)]
fn take(from: &[Stream; STREAM_WAYS], to: &mut [Stream; STREAM_WAYS]) {
    let mut way = 0;
    while way < STREAM_WAYS {
        maps::copy_stream(&from[way], &mut to[way]);
        way += 1;
    }
}

/// Puts what comes next of what was said into a walker's window.
#[inline(always)]
fn load(packet: &Packet, walker: &mut Walker) {
    let (at, bytes) = (walker.said_at + walker.done, walker.said_bytes - walker.done);
    walker.at = 0;
    walker.end = bytes;
    walker.length = packet.copy(at, bytes, &mut walker.window) as u32;
}

/// Walks on in a window: to its end, or to something that matters. A [`Step`] by number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_http2_walk(number: u32) -> u32 {
    let mut turn = 0;
    while turn < MAX_STEPS / STEPS_AT_ONCE {
        let step = segue_http2_step(number);
        if step != Step::Onward as u32 {
            return step;
        }
        turn += 1;
    }
    Step::Onward as u32
}

/// Some steps: each call costs finding the walker again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_http2_step(number: u32) -> u32 {
    let Some(walker) = maps::walker(number) else { return Step::Malformed as u32 };
    let mut turn = 0;
    while turn < STEPS_AT_ONCE {
        let step = http2::step(walker) as u32;
        if step != Step::Onward as u32 {
            return step;
        }
        turn += 1;
    }
    Step::Onward as u32
}

/// What the window begins with, as a number of [`sync::Begin`]: 0 where nothing is known. A walk that was astray has found its way then;
/// only a segment's beginning can show it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_http2_sync(number: u32) -> u32 {
    let Some(walker) = maps::walker(number) else { return 0 };
    if walker.done != 0 {
        return 0;
    }
    walker.found = 0;
    let mut turn = 0;
    while turn <= sync::MAX_FRAMES {
        let begin = segue_http2_look(number);
        if begin <= sync::Begin::Request as u32 {
            walker.at = 0;
            if begin != sync::Begin::Unknown as u32 {
                walker.walk.find_way();
            }
            return begin;
        }
        turn += 1;
    }
    0
}

/// Looks at one frame: more than any number of [`sync::Begin`] until it can be told.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_http2_look(number: u32) -> u32 {
    let Some(walker) = maps::walker(number) else { return 0 };
    match sync::look_on(walker) {
        Some(begin) => begin as u32,
        None => u32::MAX,
    }
}

/// Takes in what a walk came to. Gives the place in the walker's set that is to be kept; [`STREAM_WAYS`]: none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_http2_event(number: u32, step: u32) -> u32 {
    const NOWHERE: u32 = STREAM_WAYS as u32;
    let Some(walker) = maps::walker(number) else { return NOWHERE };
    let step = Step::from_raw(step);
    if walker.asks != 0 && step == Step::End {
        return NOWHERE;
    }
    if walker.asks != 0 && step == Step::Block {
        return ask(walker);
    }
    let way = streams::way(&walker.set, walker.walk.stream);
    if way >= STREAM_WAYS || walker.walk.stream == 0 {
        return NOWHERE;
    }
    let now = Moment { ns: walker.now_ns };
    let stream = &mut walker.set[way];
    let is_given_up = walker.asks != 0;
    let waited_ns =
        if streams::is_unanswered(stream) { now.ns.saturating_sub(stream.asked_at_ns) } else { 0 };
    let (asked_at_ns, asked_sequence) = (stream.asked_at_ns, stream.asked_sequence);
    let answer = match step {
        Step::Block => streams::answered(stream, &walker.walk),
        Step::End => streams::ended(stream, now.ns),
        _ => streams::reset(stream, walker.walk.number, now.ns),
    };
    let protocol = |answer: &Answer| if answer.is_grpc { AppProtocol::Grpc } else { AppProtocol::Http2 };
    if walker.is_judged != 0 {
        let report = match &answer {
            _ if is_given_up => answers::given_up(&walker.connection, waited_ns),
            Some(answer) => {
                answers::judge(&walker.connection, protocol(answer), answer.status, answer.duration_ns)
            }
            None => None,
        };
        if let Some(report) = report {
            walker.is_judged = TOLD;
            answers::tell(&mut walker.connection, report, now);
        }
    }
    let Some(answer) = answer else { return way as u32 };
    let protocol = protocol(&answer);
    walker.key.protocol = protocol as u8;
    walker.key.operation = answer.method;
    walker.key.status = answer.status;
    walker.duration_ns = answer.duration_ns;
    if asked_at_ns.wrapping_add(answer.duration_ns) < maps::tell_until_ns() {
        (walker.asked_at_ns, walker.asked_sequence) = (asked_at_ns, asked_sequence);
    }
    let Some(requests) = maps::requests(&walker.key) else {
        maps::unparsed(Unparsed::TableFull);
        return way as u32;
    };
    maps::add(&mut requests.0.sum_ns, answer.duration_ns);
    if let Some(counter) = requests.0.buckets.get_mut(histogram::bucket(answer.duration_ns)) {
        maps::add(counter, 1);
    }
    way as u32
}

/// The client asks for something, or says the last of what it asked for.
#[inline(always)]
fn ask(walker: &mut Walker) -> u32 {
    if !streams::is_request(&walker.walk) {
        return STREAM_WAYS as u32;
    }
    walker.walk.highest = walker.walk.stream;
    let way = streams::way(&walker.set, 0);
    if way >= STREAM_WAYS {
        maps::unparsed(Unparsed::TooManyStreams);
        return STREAM_WAYS as u32;
    }
    walker.set[way] = streams::asked(&walker.walk);
    way as u32
}

/// Since when the stream waits that waits longest for its answer; 0: none does.
#[inline(always)]
pub(super) fn waits_since_ns(socket: Socket) -> u64 {
    let Some(http2) = maps::http2(socket) else { return 0 };
    let mut oldest_ns = u64::MAX;
    let mut set = 0;
    while set < STREAM_SETS {
        let mut way = 0;
        while way < STREAM_WAYS {
            let stream = &http2.streams[set][way];
            if streams::is_unanswered(stream) && stream.asked_at_ns < oldest_ns {
                oldest_ns = stream.asked_at_ns;
            }
            way += 1;
        }
        set += 1;
    }
    oldest_ns.wrapping_add(1).saturating_sub(1)
}
