//! What the two sides say inside TLS, brought in front of those who know what it means. It is in order and comes once, so that there is
//! less to it than to packets.

use agent_ebpf::abi::request::{MAX_DOUBTS, UNDERSTOOD};
use agent_ebpf::abi::{AppProtocol, Direction, Outcome, Stage, TlsSession, Unparsed};
use agent_ebpf::decide::l7::{Heard, Told};

use super::super::answers;
use super::super::requests::{self, MAX_INTERIMS, words};
use crate::context::{Moment, Text};
use crate::maps;

/// Reads what was said: so many bytes, at this moment.
#[inline(always)]
pub(super) fn read(
    session: &mut TlsSession,
    text: &impl Text,
    bytes: u32,
    is_write: bool,
    at: Moment,
) -> Outcome {
    let Some(number) = maps::take_scratch() else { return lose(session, Unparsed::NoMemory) };
    let asks = is_write == (session.exchange.direction == Direction::Outbound as u8);
    let outcome = if asks {
        asked(session, text, number, bytes, at)
    } else {
        answered(session, text, number, bytes, at)
    };
    maps::leave_scratch(number);
    outcome
}

/// The client said something.
#[inline(always)]
fn asked(session: &mut TlsSession, text: &impl Text, number: u32, bytes: u32, at: Moment) -> Outcome {
    let exchange = &mut session.exchange;
    let begins = exchange.head_length == 0;
    let length = words::fill(text, exchange, number, 0, bytes);
    let Told { protocol, heard } = words::hear(words::REQUEST, exchange, number, length);
    if begins && matches!(heard, Heard::Request(_) | Heard::More) {
        exchange.asked_at_ns = at.ns;
    }
    match heard {
        Heard::More => words::more(exchange, number, length),
        Heard::Request(operation) => {
            exchange.head_length = 0;
            if protocol != AppProtocol::Http1 {
                return lose(session, not_followed(protocol));
            }
            exchange.protocol = protocol as u8;
            exchange.operation = operation;
            exchange.stage = Stage::Asked as u8;
            if begins && bytes != u32::from(exchange.single_bytes) {
                if words::is_followed_by_another(text, number, 0, bytes, operation) {
                    return lose(session, Unparsed::Pipelined);
                }
                exchange.single_bytes = if bytes > u32::from(u16::MAX) { 0 } else { bytes as u16 };
            }
            if answers::is_unread(exchange.service) {
                return end(session);
            }
            answers::judged_inside(&mut session.connection, &session.exchange);
            Outcome::Asked
        }
        Heard::Lost(reason) => lose(session, reason),
        _ => {
            exchange.head_length = 0;
            if exchange.marks & UNDERSTOOD == 0 && exchange.stage == Stage::Idle as u8 {
                exchange.doubts += 1;
                if exchange.doubts > MAX_DOUBTS {
                    return lose(session, Unparsed::OtherProtocol);
                }
            }
            Outcome::Ignored
        }
    }
}

/// The server said something. An interim answer (1xx) may have the one that counts behind it.
#[inline(always)]
fn answered(session: &mut TlsSession, text: &impl Text, number: u32, bytes: u32, now: Moment) -> Outcome {
    let (mut at, mut bytes) = (0, bytes);
    let mut turn = 0;
    while turn <= MAX_INTERIMS {
        let exchange = &mut session.exchange;
        let length = words::fill(text, exchange, number, at, bytes);
        let Told { protocol, heard } = words::hear(0, exchange, number, length);
        if protocol != AppProtocol::Http1 && protocol != AppProtocol::Unknown {
            return lose(session, not_followed(protocol));
        }
        match heard {
            Heard::More => return words::more(exchange, number, length),
            Heard::Interim => {
                exchange.head_length = 0;
                exchange.stage = Stage::Interim as u8;
                let end = words::head_end(text, number, at, bytes);
                if end == 0 || end >= bytes {
                    return Outcome::Ignored;
                }
                at += end;
                bytes -= end;
            }
            Heard::Answer(status) => {
                exchange.head_length = 0;
                exchange.stage = Stage::Answered as u8;
                return count(session, status, now);
            }
            Heard::LastAnswer(status) => {
                exchange.stage = Stage::Ended as u8;
                maps::unparsed(Unparsed::Upgraded);
                return count(session, status, now);
            }
            Heard::Lost(reason) => return lose(session, reason),
            _ => {
                exchange.head_length = 0;
                return Outcome::Ignored;
            }
        }
        turn += 1;
    }
    Outcome::Ignored
}

/// Why what is spoken inside TLS is not followed.
#[inline(always)]
fn not_followed(protocol: AppProtocol) -> Unparsed {
    if protocol == AppProtocol::Http2 { Unparsed::Http2InTls } else { Unparsed::OtherProtocol }
}

/// Counts a request that was answered.
#[inline(always)]
fn count(session: &mut TlsSession, status: u16, now: Moment) -> Outcome {
    session.exchange.marks |= UNDERSTOOD;
    let duration_ns = now.ns.saturating_sub(session.exchange.asked_at_ns);
    if answers::are_judged(&session.exchange)
        && let Some(report) = answers::judge(&session.connection, AppProtocol::Http1, status, duration_ns)
    {
        answers::tell(&mut session.connection, report, now);
    }
    requests::add(&requests::row(&session.exchange, status), duration_ns);
    Outcome::Answered
}

/// Learns nothing more from this connection, and says why.
#[inline(always)]
fn lose(session: &mut TlsSession, reason: Unparsed) -> Outcome {
    maps::unparsed(reason);
    end(session);
    Outcome::Unparsed
}

/// Learns nothing more from this connection. What becomes of it says of its backend what there is to say, as if nobody had read.
#[inline(always)]
fn end(session: &mut TlsSession) -> Outcome {
    session.exchange.stage = Stage::Ended as u8;
    answers::unjudged(&mut session.connection);
    Outcome::Ignored
}

/// The application lets go of its `SSL`. Where it waited for an answer for too long, it will have waited in vain. What the socket
/// is to take back stays until it is closed, which mostly comes after this.
#[inline(always)]
pub(super) fn freed(session: &mut TlsSession) -> Outcome {
    let since_ns = waits_since_ns(session);
    session.exchange.stage = Stage::Ended as u8;
    if answers::are_judged(&session.exchange) {
        answers::waited(&mut session.connection, since_ns);
    }
    Outcome::Closed
}

/// Since when an answer is awaited; 0: none is.
#[inline(always)]
pub(super) fn waits_since_ns(session: &TlsSession) -> u64 {
    let stage = session.exchange.stage;
    if stage == Stage::Asked as u8 || stage == Stage::Interim as u8 {
        session.exchange.asked_at_ns
    } else {
        0
    }
}
