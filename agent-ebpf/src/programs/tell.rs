//! Tells of single requests, while somebody wants it: which ones is decided by their lots, the same on both sides.
//!
//! Functions of their own, with frames of their own, so that a request nobody wants to hear of costs a load and a branch.

use agent_ebpf::abi::{AppProtocol, Direction, Endpoint, Exchange, Loss, RequestPlace};
use agent_ebpf::decide::trace;

use crate::context::{Packet, Socket};
use crate::maps;

/// A request begins in this packet, at `at`. Of protocols in which an application names no trace, the agent need not see how
/// requests begin.
#[inline(always)]
pub(crate) fn asked(packet: &Packet, exchange: &Exchange, at: u32, bytes: u32) {
    if exchange.asked_at_ns < maps::tell_until_ns() && exchange.protocol == AppProtocol::Http1 as u8 {
        head(*packet, exchange.asked_sequence, at, bytes);
    }
}

#[inline(never)]
fn head(packet: Packet, sequence: u32, at: u32, bytes: u32) {
    let below = maps::tell_heads_below();
    if below == 0 {
        return;
    }
    let Some((client, server)) = packet.ends() else { return };
    let place = RequestPlace { client, server, sequence };
    if u64::from(trace::lot(&place)) >= below {
        return;
    }
    if !maps::send_head(packet, at, bytes, packet.socket_cookie(), sequence) {
        maps::lost(Loss::Request);
    }
}

/// Its answer begins in this one.
#[inline(always)]
pub(crate) fn answered(packet: &Packet, socket: Socket, exchange: &Exchange, status: u16, duration_ns: u64) {
    if exchange.asked_at_ns.wrapping_add(duration_ns) < maps::tell_until_ns() {
        answer(*packet, socket, exchange, status, duration_ns);
    }
}

#[inline(never)]
fn answer(packet: Packet, socket: Socket, exchange: &Exchange, status: u16, duration_ns: u64) {
    let Some((server, client)) = packet.ends() else { return };
    let place = RequestPlace { client, server, sequence: exchange.asked_sequence };
    let lot = trace::lot(&place);
    if u64::from(lot) >= maps::tell_below() {
        return;
    }
    let mut requested = Endpoint::default();
    if exchange.direction == Direction::Outbound as u8
        && let Some(connection) = maps::connection(socket)
    {
        requested = connection.requested;
    }
    let (what, which) = ((status, duration_ns), (lot, packet.socket_cookie()));
    if !maps::send_answered(exchange, &place, &requested, what, which) {
        maps::lost(Loss::Request);
    }
}
