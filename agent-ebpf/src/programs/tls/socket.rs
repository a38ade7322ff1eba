//! Connections that speak TLS, as programs see them that see sockets and packets: what is said on them is left to the probes.

use agent_ebpf::abi::request::SEALED;
use agent_ebpf::abi::{Connection, Exchange, Outcome, Stage, TlsKey, Unparsed};
use agent_ebpf::decide::l7::tls;

use super::super::answers;
use super::said;
use crate::{context, maps};

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

/// Somebody speaks on a connection that nobody who reads packets follows.
#[inline(always)]
pub(in crate::programs) fn spoken(exchange: &mut Exchange, asks: bool) -> Outcome {
    if !context::reads_tls() {
        return Outcome::Ignored;
    }
    match tls::spoken(exchange.marks, asks) {
        // Written only where it changes: a probe may be taking the connection over on another CPU.
        Some(marks) if marks == exchange.marks => Outcome::Ignored,
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

/// The application closes the socket of a connection that was read inside TLS. Since when it awaits an answer; 0: it does not.
#[inline(always)]
pub(in crate::programs) fn left(connection: &mut Connection, exchange: &Exchange) -> u64 {
    let key = TlsKey { ssl: exchange.head[0], process: exchange.head[1] as u32, _pad: 0 };
    // Where it was forgotten, nobody knows; where another `SSL` is in its place, this one was freed before.
    let Some(session) = maps::tls_session(&key) else { return 0 };
    if session.cookie != exchange.head[2] {
        return 0;
    }
    answers::take_back(connection, &session.connection);
    let since_ns = said::waits_since_ns(session);
    // Its `SSL` may be freed much later, as where memory is collected: nobody waits for that long.
    session.exchange.stage = Stage::Ended as u8;
    since_ns
}
