//! Connections that speak TLS, as programs see them that see packets: they leave them to the probes, and tell the breaker what a probe,
//! which cannot reach a socket, left word of.

use agent_ebpf::abi::request::{IN_TLS, SEALED};
use agent_ebpf::abi::{
    AppProtocol, Connection, Direction, Exchange, Outcome, Stage, TlsKey, TlsTidings, Unparsed,
};
use agent_ebpf::decide::l7::tls;

use super::super::answers;
use crate::context::{self, Moment, Packet, RawPacket};
use crate::maps;

/// Whether a client that is not understood greets in TLS, while that is read: then the probes will tell, or nobody.
#[inline(always)]
pub(in crate::programs) fn seal(exchange: &mut Exchange, number: u32, length: u32) -> bool {
    if !context::reads_tls() {
        return false;
    }
    let Some(scratch) = maps::scratch(number) else { return false };
    if !tls::is_greeting(&scratch.head, length as usize) {
        return false;
    }
    exchange.stage = Stage::Ended as u8;
    exchange.marks |= SEALED;
    true
}

/// A packet of a connection that nobody who reads packets follows.
#[inline(always)]
pub(in crate::programs) fn passed(packet: &Packet, exchange: &mut Exchange, asks: bool) -> Outcome {
    if !context::reads_tls() || exchange.marks & (SEALED | IN_TLS) == 0 {
        return Outcome::Ignored;
    }
    if exchange.marks & IN_TLS != 0 {
        if exchange.direction == Direction::Outbound as u8 {
            segue_tell_of_tls(packet.to_raw());
        }
        return Outcome::Ignored;
    }
    match tls::spoken(exchange.marks, asks) {
        Some(marks) => {
            exchange.marks = marks;
            Outcome::Ignored
        }
        None => {
            exchange.marks &= !SEALED;
            maps::unparsed(Unparsed::OtherProtocol);
            Outcome::Unparsed
        }
    }
}

/// Tells the breaker what there is to tell about a connection. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_tell_of_tls(packet: RawPacket) -> u32 {
    let Some(socket) = Packet::from_raw(packet).socket() else { return 0 };
    let Some(exchange) = maps::exchange(socket) else { return 0 };
    let Some(connection) = answers::established(socket) else { return 0 };
    if !answers::are_judged(exchange) {
        return 0;
    }
    tell(connection, exchange);
    1
}

#[inline(always)]
fn key_of(exchange: &Exchange) -> TlsKey {
    TlsKey { ssl: exchange.head[0], process: exchange.head[1] as u32, _pad: 0 }
}

#[inline(always)]
fn tell(connection: &mut Connection, exchange: &Exchange) {
    let Some(session) = maps::tls_session(&key_of(exchange)) else { return };
    match TlsTidings::from_raw(maps::take_tidings(session)) {
        Some(TlsTidings::Answer { status, duration_us }) => {
            let duration_ns = duration_us.wrapping_mul(1_000);
            answers::judge(connection, AppProtocol::Http1, status, duration_ns, Moment::now());
        }
        Some(TlsTidings::Lost) => answers::unsealed(connection),
        None => {}
    }
}

/// The application closes a socket: tells the breaker what there is to tell, and gives since when an answer is awaited; 0: none is.
#[inline(always)]
pub(in crate::programs) fn left(connection: &mut Connection, exchange: &Exchange) -> u64 {
    if !context::reads_tls() {
        return 0;
    }
    tell(connection, exchange);
    let Some(session) = maps::tls_session(&key_of(exchange)) else { return 0 };
    let stage = session.exchange.stage;
    if stage == Stage::Asked as u8 || stage == Stage::Interim as u8 {
        session.exchange.asked_at_ns
    } else {
        0
    }
}

/// Whether an exchange is one that is read inside TLS.
#[inline(always)]
pub(in crate::programs) fn is_inside(exchange: &Exchange) -> bool {
    exchange.marks & IN_TLS != 0
}
