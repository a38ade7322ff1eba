//! What requests and their answers tell the breaker of a connection's backend. Reads no packet, and knows no protocol:
//! `requests` does.

use agent_ebpf::abi::connection::{JUDGED_BY_ANSWERS, PROVED_GOOD};
use agent_ebpf::abi::request::IN_TLS;
use agent_ebpf::abi::{AppProtocol, Connection, Direction, Exchange, Phase, Policy, Probe, Stage};
use agent_ebpf::decide::breaker::Signal;
use agent_ebpf::decide::breaker::answer::{self, Judgement};

use super::breaker::{self, Report};
use super::{http2, tls};
use crate::context::{self, Moment, Socket};
use crate::maps;

/// Whether requests to a service are not read.
#[inline(always)]
pub(super) fn is_unread(service: u32) -> bool {
    maps::policy_of(service).is_some_and(|policy| !policy.reads_requests())
}

/// The same of the service of a connection, whose policy may have changed since it was opened.
#[inline(always)]
pub(super) fn is_unread_now(exchange: &Exchange) -> bool {
    exchange.direction == Direction::Outbound as u8 && is_unread(exchange.service)
}

/// A request was understood: from now on the connection is judged by its answers, where the policy says so. Whether
/// requests of this connection are to be read at all: its service's policy may have changed since it was opened.
#[inline(always)]
pub(super) fn asked(socket: Socket, exchange: &Exchange) -> bool {
    if exchange.direction != Direction::Outbound as u8 {
        return true;
    }
    let Some(policy) = maps::policy_of(exchange.service) else { return true };
    if !policy.reads_requests() {
        return false;
    }
    if answer::is_judged(&policy.breaker) {
        if let Some(connection) = established(socket) {
            connection.marks |= JUDGED_BY_ANSWERS;
        }
    }
    true
}

/// What is said on a connection is read inside TLS: its answers judge it from now on, where the policy says so.
#[inline(always)]
pub(super) fn judged_inside(connection: &mut Connection, exchange: &Exchange) {
    if are_judged(exchange) {
        connection.marks |= JUDGED_BY_ANSWERS;
    }
}

/// It is not read any further.
#[inline(always)]
pub(super) fn unjudged(connection: &mut Connection) {
    connection.marks &= !JUDGED_BY_ANSWERS;
}

/// A socket takes back what became of its connection while somebody read inside TLS.
#[inline(always)]
pub(super) fn take_back(connection: &mut Connection, inside: &Connection) {
    const OF_ANSWERS: u8 = JUDGED_BY_ANSWERS | PROVED_GOOD;
    connection.marks = connection.marks & !JUDGED_BY_ANSWERS | inside.marks & OF_ANSWERS;
    connection.probe = inside.probe;
}

/// An answer that counts began, `duration_ns` after its request.
#[inline(always)]
pub(super) fn answered(socket: Socket, exchange: &Exchange, status: u16, duration_ns: u64, now: Moment) {
    if !are_judged(exchange) {
        return;
    }
    let Some(connection) = established(socket) else { return };
    let Some(protocol) = AppProtocol::from_raw(exchange.protocol) else { return };
    if let Some(report) = judge(connection, protocol, status, duration_ns) {
        tell(connection, report, now);
    }
}

/// What an answer says of the backend, on a connection whose answers are judged.
#[inline(always)]
pub(super) fn judge(
    connection: &Connection,
    protocol: AppProtocol,
    status: u16,
    duration_ns: u64,
) -> Option<Report> {
    let policy = maps::policy_of(connection.service)?;
    Some(match answer::judge(&policy.breaker, protocol, status, duration_ns / 1_000) {
        Judgement::Failed(signal) => Report::Failed(signal),
        Judgement::Slow => Report::Slow,
        Judgement::Good => Report::Good,
    })
}

/// The application closes its socket. Where it waited for an answer for too long, it will have waited in vain.
#[inline(always)]
pub(super) fn left(connection: &mut Connection, socket: Socket) {
    if connection.marks & JUDGED_BY_ANSWERS == 0 {
        return;
    }
    let Some(exchange) = maps::exchange(socket) else { return };
    if context::reads_tls() && exchange.marks & IN_TLS != 0 {
        let since_ns = tls::left(connection, exchange);
        return waited(connection, since_ns);
    }
    let since_ns = if exchange.protocol == AppProtocol::Http2 as u8 {
        http2::waits_since_ns(socket)
    } else if exchange.stage == Stage::Asked as u8 || exchange.stage == Stage::Interim as u8 {
        exchange.asked_at_ns
    } else {
        0
    };
    waited(connection, since_ns);
}

/// The application waited for an answer since then; 0: it did not.
#[inline(always)]
pub(super) fn waited(connection: &mut Connection, since_ns: u64) {
    if since_ns != 0 {
        let now = Moment::now();
        if let Some(report) = given_up(connection, now.ns.saturating_sub(since_ns)) {
            tell(connection, report, now);
        }
    }
}

/// What it says of the backend that the application no longer waits for an answer, after so long: nothing, if that is not long.
#[inline(always)]
pub(super) fn given_up(connection: &Connection, waited_ns: u64) -> Option<Report> {
    let policy = maps::policy_of(connection.service)?;
    answer::is_overdue(&policy.breaker, waited_ns / 1_000).then_some(Report::Failed(Signal::NoAnswer))
}

/// Whether the answers on a connection are told to a breaker.
#[inline(always)]
pub(super) fn are_judged(exchange: &Exchange) -> bool {
    policy_of(exchange).is_some()
}

/// The policy of the service that is asked, if its breaker judges answers.
#[inline(always)]
fn policy_of(exchange: &Exchange) -> Option<&'static Policy> {
    if exchange.direction != Direction::Outbound as u8 {
        return None;
    }
    maps::policy_of(exchange.service).filter(|policy| answer::is_judged(&policy.breaker))
}

/// The connection of a socket, while it is one.
#[inline(always)]
pub(super) fn established(socket: Socket) -> Option<&'static mut Connection> {
    maps::connection(socket).filter(|connection| connection.phase == Phase::Established as u8)
}

/// Tells the breaker. A probe is one request: what comes after it on the same connection is none.
#[inline(always)]
pub(super) fn tell(connection: &mut Connection, report: Report, now: Moment) {
    breaker::report(connection, report, now);
    connection.marks |= PROVED_GOOD;
    connection.probe = Probe::NONE;
}
