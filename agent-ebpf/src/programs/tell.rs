//! Tells of single requests, while somebody wants it: which ones is decided by their lots, the same on both sides.
//!
//! Functions of their own, with frames of their own, so that a request nobody wants to hear of costs a load and a branch.

use agent_ebpf::abi::{AppProtocol, Direction, Exchange, Loss, RequestKey, RequestPlace};
use agent_ebpf::decide::trace;

use crate::context::{Packet, RawPacket, Socket};
use crate::maps;

/// A request begins in this packet, at `at`. Of protocols in which an application names no trace, the agent need not see how
/// requests begin.
#[inline(always)]
pub(crate) fn asked(packet: &Packet, exchange: &Exchange, at: u32, bytes: u32) {
    if exchange.asked_at_ns < maps::tell_until_ns() && exchange.protocol == AppProtocol::Http1 as u8 {
        segue_tell_head(packet.to_raw(), exchange.asked_sequence, at, bytes);
    }
}

/// A global function, as all here: the verifier reads it once, and what it asks of the stack comes on no other's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_tell_head(packet: RawPacket, sequence: u32, at: u32, bytes: u32) -> u32 {
    let packet = Packet::from_raw(packet);
    let below = maps::tell_heads_below();
    if below == 0 {
        return 0;
    }
    let Some((client, server)) = packet.ends() else { return 0 };
    let place = RequestPlace { client, server, sequence };
    if u64::from(trace::lot(&place)) >= below {
        return 0;
    }
    if !maps::send_head(packet, at, bytes, packet.socket_cookie(), sequence) {
        maps::lost(Loss::Request);
        return 0;
    }
    1
}

/// Its answer begins in this one.
#[inline(always)]
pub(crate) fn answered(packet: &Packet, exchange: &Exchange, status: u16, duration_ns: u64) {
    if exchange.asked_at_ns.wrapping_add(duration_ns) < maps::tell_until_ns() {
        segue_tell_answer(packet.to_raw(), status.into(), duration_ns);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_tell_answer(packet: RawPacket, status: u32, duration_ns: u64) -> u32 {
    let packet = Packet::from_raw(packet);
    let Some(socket) = packet.socket() else { return 0 };
    let Some(exchange) = maps::exchange(socket) else { return 0 };
    let Some((server, client)) = packet.ends() else { return 0 };
    let place = RequestPlace { client, server, sequence: exchange.asked_sequence };
    let key = RequestKey {
        cgroup: exchange.cgroup,
        service: exchange.service,
        version: exchange.version,
        port_be: exchange.port_be,
        status: status as u16,
        protocol: exchange.protocol,
        direction: exchange.direction,
        operation: exchange.operation,
        _pad: 0,
    };
    send(packet, socket, &key, &place, (exchange.asked_at_ns, duration_ns))
}

/// The answer on a stream begins in this packet, or the stream ends, as a walker tells it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn segue_tell_stream(packet: RawPacket, number: u32) -> u32 {
    let packet = Packet::from_raw(packet);
    let Some(socket) = packet.socket() else { return 0 };
    let Some(walker) = maps::walker(number) else { return 0 };
    let Some((from, to)) = packet.ends() else { return 0 };
    // A client may end it itself.
    let (client, server) = if walker.asks != 0 { (from, to) } else { (to, from) };
    let place = RequestPlace { client, server, sequence: walker.asked_sequence };
    send(packet, socket, &walker.key, &place, (walker.asked_at_ns, walker.duration_ns))
}

/// Sends that the request at this place was answered, if its lot says so: when it began, and how long it took.
#[inline(always)]
fn send(
    packet: Packet,
    socket: Socket,
    key: &RequestKey,
    place: &RequestPlace,
    (asked_at_ns, duration_ns): (u64, u64),
) -> u32 {
    let lot = trace::lot(place);
    if u64::from(lot) >= maps::tell_below() {
        return 0;
    }
    let is_outbound = key.direction == Direction::Outbound as u8;
    let requested = maps::connection(socket).filter(|_| is_outbound).map(|connection| &connection.requested);
    if !maps::send_answered(key, place, requested, (asked_at_ns, duration_ns), (lot, packet.socket_cookie()))
    {
        maps::lost(Loss::Request);
        return 0;
    }
    1
}
