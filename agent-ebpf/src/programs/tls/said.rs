//! Listens to what the two sides say inside TLS, and acts on it. It is in order and comes once, so that there is less to it than to
//! packets.

use agent_ebpf::abi::request::UNDERSTOOD;
use agent_ebpf::abi::{AppProtocol, Connection, Direction, Exchange, Outcome, Stage, TlsSession, Unparsed};

use super::super::answers;
use super::super::requests;
use super::super::requests::turns::{self, Listener, Said};
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
    let exchange = &mut session.exchange;
    let mut listener = InsideTls { connection: &mut session.connection, at };
    let Some(scratch) = maps::take_scratch() else { return listener.lose(exchange, Unparsed::NoMemory) };
    let said = Said { text, at: 0, bytes, scratch };
    let asks = is_write == (exchange.direction == Direction::Outbound as u8);
    let outcome = if asks {
        turns::asked(&mut listener, exchange, said)
    } else {
        turns::answered(&mut listener, exchange, said)
    };
    maps::leave_scratch(scratch);
    outcome
}

/// Listens to what a process says to OpenSSL, and is told by it.
struct InsideTls<'s> {
    /// As the socket had it when it was learnt.
    connection: &'s mut Connection,
    /// When it is said.
    at: Moment,
}

impl InsideTls<'_> {
    /// Learns nothing more from this connection. What becomes of it says of its backend what there is to say, as if nobody had read.
    #[inline(always)]
    fn end(&mut self, exchange: &mut Exchange) {
        exchange.stage = Stage::Ended as u8;
        answers::unjudged(self.connection);
    }
}

impl Listener for InsideTls<'_> {
    #[inline(always)]
    fn begin(&self, exchange: &mut Exchange) {
        exchange.asked_at_ns = self.at.ns;
    }

    /// Nothing but HTTP/1 is followed inside TLS.
    #[inline(always)]
    fn take(&mut self, exchange: &mut Exchange, protocol: AppProtocol) -> Option<Outcome> {
        match protocol {
            AppProtocol::Http1 | AppProtocol::Unknown => None,
            AppProtocol::Http2 => Some(self.lose(exchange, Unparsed::Http2InTls)),
            _ => Some(self.lose(exchange, Unparsed::OtherProtocol)),
        }
    }

    #[inline(always)]
    fn asked<T>(&mut self, exchange: &mut Exchange, _: &Said<'_, T>, _begins: bool) -> Outcome {
        if answers::is_unread(exchange.service) {
            self.end(exchange);
            return Outcome::Ignored;
        }
        answers::judged_inside(self.connection, exchange);
        Outcome::Asked
    }

    #[inline(always)]
    fn is_sealed(&self, _: &mut Exchange, _scratch: u32, _length: u32) -> bool {
        false
    }

    #[inline(always)]
    fn recognises<T>(&self, _: &mut Exchange, _: &Said<'_, T>) -> bool {
        false
    }

    #[inline(always)]
    fn answered(&mut self, exchange: &mut Exchange, status: u16) {
        exchange.marks |= UNDERSTOOD;
        let duration_ns = self.at.ns.saturating_sub(exchange.asked_at_ns);
        if answers::are_judged(exchange)
            && let Some(report) = answers::judge(self.connection, AppProtocol::Http1, status, duration_ns)
        {
            answers::tell(self.connection, report, self.at);
        }
        requests::add(&requests::row(exchange, status), duration_ns);
    }

    #[inline(always)]
    fn lose(&mut self, exchange: &mut Exchange, reason: Unparsed) -> Outcome {
        maps::unparsed(reason);
        self.end(exchange);
        Outcome::Unparsed
    }
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
