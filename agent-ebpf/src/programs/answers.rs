//! What requests and their answers tell the breaker of a connection's backend. Reads no packet, and knows no protocol:
//! `requests` does.

use agent_ebpf::abi::connection::{JUDGED_BY_ANSWERS, PROVED_GOOD};
use agent_ebpf::abi::{AppProtocol, Connection, Direction, Exchange, Phase, Policy, Probe, Stage};
use agent_ebpf::decide::breaker::Signal;
use agent_ebpf::decide::breaker::answer::{self, Judgement};

use super::breaker::{self, Report};
use crate::context::{Moment, Socket};
use crate::maps;

/// A request was understood: from now on the connection is judged by its answers, where the policy says so.
#[inline(always)]
pub(super) fn asked(socket: Socket, exchange: &Exchange) {
    if policy_of(exchange).is_none() {
        return;
    }
    if let Some(connection) = established(socket) {
        connection.marks |= JUDGED_BY_ANSWERS;
    }
}

/// An answer that counts began, `duration_ns` after its request.
#[inline(always)]
pub(super) fn answered(socket: Socket, exchange: &Exchange, status: u16, duration_ns: u64, now: Moment) {
    let Some(policy) = policy_of(exchange) else { return };
    let Some(connection) = established(socket) else { return };
    let Some(protocol) = AppProtocol::from_raw(exchange.protocol) else { return };
    let report = match answer::judge(&policy.breaker, protocol, status, duration_ns / 1_000) {
        Judgement::Failed(signal) => Report::Failed(signal),
        Judgement::Slow => Report::Slow,
        Judgement::Good => Report::Good,
    };
    tell(connection, report, now);
}

/// The application closes its socket. Where it waited for an answer for too long, it will have waited in vain.
#[inline(always)]
pub(super) fn left(connection: &mut Connection, socket: Socket) {
    if connection.marks & JUDGED_BY_ANSWERS == 0 {
        return;
    }
    let Some(exchange) = maps::exchange(socket) else { return };
    if exchange.stage != Stage::Asked as u8 && exchange.stage != Stage::Interim as u8 {
        return;
    }
    let Some(policy) = maps::policy_of(connection.service) else { return };
    let now = Moment::now();
    if answer::is_overdue(&policy.breaker, now.ns.saturating_sub(exchange.asked_at_ns) / 1_000) {
        tell(connection, Report::Failed(Signal::NoAnswer), now);
    }
}

/// The policy of the service that is asked, if its breaker judges answers.
#[inline(always)]
fn policy_of(exchange: &Exchange) -> Option<&'static Policy> {
    if exchange.direction != Direction::Outbound as u8 {
        return None;
    }
    maps::policy_of(exchange.service).filter(|policy| answer::is_judged(&policy.breaker))
}

#[inline(always)]
fn established(socket: Socket) -> Option<&'static mut Connection> {
    maps::connection(socket).filter(|connection| connection.phase == Phase::Established as u8)
}

/// Tells the breaker. A probe is one request: what comes after it on the same connection is none.
#[inline(always)]
fn tell(connection: &mut Connection, report: Report, now: Moment) {
    breaker::report(connection, report, now);
    connection.marks |= PROVED_GOOD;
    connection.probe = Probe::NONE;
}
