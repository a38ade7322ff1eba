//! The life of a TCP connection to a service: handshake, failure, end; counted per edge.

use agent_ebpf::abi::connection::{
    CLOSED_BY_APPLICATION, JUDGED_BY_ANSWERS, PROVED_GOOD, TIME_LIMITED, TIMED_OUT,
};
use agent_ebpf::abi::{
    CloseReason, ConnectFailure, Connection, EdgeKey, EventKind, Histogram, Hook, Outcome, Phase,
};
use agent_ebpf::decide::breaker::signal::Signal;
use agent_ebpf::decide::flow::{self, tcp_state};
use agent_ebpf::decide::histogram;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use super::breaker::{self, Report};
use super::limits;
use crate::context::{Moment, TcpCounts, TcpEvent, TcpSocket};
use crate::{emit, maps};

/// Attach point: any cgroup, kernel 4.13. The return value is not used for these operations.
#[sock_ops]
fn segue_tcp_events(context: SockOpsContext) -> u32 {
    let socket = TcpSocket::new(&context);
    let outcome = follow(&socket);
    emit::outcome(Hook::SockOps, outcome);
    1
}

#[inline(always)]
fn follow(socket: &TcpSocket) -> Outcome {
    let event = socket.event();
    if matches!(event, TcpEvent::Other) {
        return Outcome::Ignored;
    }
    let Some(connection) = socket.socket().and_then(maps::connection) else { return Outcome::Unmanaged };
    match event {
        TcpEvent::Connect => {
            connection.phase = Phase::Connecting as u8;
            // From here on a failing handshake is seen as well, which asking at ESTABLISHED would miss.
            socket.watch();
            let policy = maps::policy_of(connection.service);
            let timeout_ms = policy.map_or(0, |policy| policy.connect_timeout_ms);
            if timeout_ms != 0 {
                limit_handshake(connection, socket, timeout_ms);
            }
            Outcome::Watched
        }
        TcpEvent::Overruled => {
            socket.watch();
            Outcome::Ignored
        }
        TcpEvent::Established => {
            if !socket.is_watched() {
                socket.watch();
            }
            established(connection, socket)
        }
        TcpEvent::RoundTrip => answered(connection, socket),
        TcpEvent::Retransmission { expired } => {
            if expired {
                connection.marks |= TIMED_OUT;
            }
            Outcome::Ignored
        }
        TcpEvent::State { old, new: tcp_state::CLOSE } => closed(connection, socket, old),
        TcpEvent::State { new: tcp_state::FIN_WAIT2, .. } => {
            connection.received_at_fin_low = socket.counts().received_bytes as u32;
            Outcome::Ignored
        }
        _ => Outcome::Ignored,
    }
}

/// Limits the handshake, unless the application has a shorter limit of its own.
#[inline(always)]
fn limit_handshake(connection: &mut Connection, socket: &TcpSocket, timeout_ms: u32) {
    let own_ms = socket.user_timeout();
    if own_ms == 0 || own_ms > timeout_ms {
        socket.set_user_timeout(timeout_ms);
        connection.user_timeout_ms = own_ms;
        connection.marks |= TIME_LIMITED;
    }
}

#[inline(always)]
fn established(connection: &mut Connection, socket: &TcpSocket) -> Outcome {
    if connection.phase != Phase::Connecting as u8 {
        return Outcome::Ignored;
    }
    connection.phase = Phase::Established as u8;
    let now = Moment::now();
    let connect_ns = now.ns.saturating_sub(connection.started_at_ns);
    if connection.marks & TIME_LIMITED != 0 {
        socket.set_user_timeout(connection.user_timeout_ms);
    }
    no_longer_pending(connection);
    limits::established(connection);
    let slow = breaker::is_slow(connection, connect_ns);
    if slow {
        connection.marks |= PROVED_GOOD;
    }
    breaker::report(connection, Report::Established { connect_ns, slow }, now);
    if breaker::is_waiting(connection) {
        socket.watch_round_trips(true);
    }
    if let Some(edge) = maps::edge(&edge_key(connection)) {
        maps::add(&mut edge.opened, 1);
        observe(&mut edge.connect, connect_ns);
    }
    emit::event(EventKind::Opened, 0, connection, &TcpCounts::default(), now.ns);
    Outcome::Opened
}

/// A round trip on a connection whose first answer somebody waits for.
#[inline(always)]
fn answered(connection: &mut Connection, socket: &TcpSocket) -> Outcome {
    if socket.counts().received_bytes == 0 || connection.marks & PROVED_GOOD != 0 {
        return Outcome::Ignored;
    }
    socket.watch_round_trips(false);
    // What it says is looked at, and not only that it says something.
    if connection.marks & JUDGED_BY_ANSWERS != 0 {
        return Outcome::Ignored;
    }
    connection.marks |= PROVED_GOOD;
    breaker::report(connection, Report::Good, Moment::now());
    Outcome::Ignored
}

#[inline(always)]
fn closed(connection: &mut Connection, socket: &TcpSocket, old_state: u8) -> Outcome {
    if connection.phase == Phase::Released as u8 {
        return Outcome::Ignored;
    }
    let mut counts = socket.counts();
    counts.keep_payload(connection, old_state);
    let now = Moment::now();
    if connection.phase != Phase::Established as u8 {
        let failure =
            flow::connect_failure(connection.marks, counts.segments_received, socket.met_no_error());
        release(connection);
        let waited_ns = now.ns.saturating_sub(connection.started_at_ns);
        let signal = match breaker::signal_of_failure(failure) {
            None if breaker::waited_in_vain(connection, waited_ns) => Some(Signal::Timeout),
            signal => signal,
        };
        fail(connection, failure, signal, &counts, now);
        return Outcome::Failed;
    }
    release(connection);
    let reason =
        flow::close_reason(old_state, connection.marks, connection.state_at_close, socket.met_no_error());
    count_close(connection, reason, &counts);
    match verdict(connection, reason, &counts) {
        Some(report) => breaker::report(connection, report, now),
        None => {}
    }
    emit::event(EventKind::Closed, reason as u8, connection, &counts, now.ns);
    Outcome::Closed
}

/// What the end of a connection says of its backend; `None` where that was said before.
#[inline(always)]
fn verdict(connection: &Connection, reason: CloseReason, counts: &TcpCounts) -> Option<Report> {
    let answered = counts.received_bytes > 0;
    let already = connection.marks & PROVED_GOOD != 0;
    let judged = connection.marks & JUDGED_BY_ANSWERS != 0;
    // What arrives for a socket whose application has left resets it in the kernel's own hands, which looks like the
    // peer's reset. Who did not wait for an answer has nothing to tell.
    let left = connection.marks & CLOSED_BY_APPLICATION != 0;
    match reason {
        CloseReason::RstRemote if !answered && left => Some(Report::Abandoned),
        CloseReason::RstRemote if answered => Some(Report::Failed(Signal::Reset)),
        CloseReason::RstRemote => Some(Report::Failed(Signal::ResetEarly)),
        CloseReason::Timeout => Some(Report::Failed(Signal::RetransmissionTimeout)),
        _ if already => None,
        CloseReason::Drained => Some(Report::Abandoned),
        // The application may have left before an answer; then the backend is neither good nor bad.
        _ if answered && !judged => Some(Report::Good),
        _ => Some(Report::Abandoned),
    }
}

/// A socket that was closed before its SYN left: nothing between here and the backend was to blame.
#[inline(always)]
pub(crate) fn fail_before_syn(connection: &mut Connection) {
    release(connection);
    fail(connection, ConnectFailure::Local, None, &TcpCounts::default(), Moment::now());
}

#[inline(always)]
fn fail(
    connection: &Connection,
    failure: ConnectFailure,
    signal: Option<Signal>,
    counts: &TcpCounts,
    now: Moment,
) {
    count_failure(connection, failure, now.ns.saturating_sub(connection.started_at_ns));
    let report = match signal {
        Some(signal) => Report::Failed(signal),
        None => Report::Abandoned,
    };
    breaker::report(connection, report, now);
    if let Some(state) = maps::backend_state(connection.backend) {
        maps::add(&mut state.failures, 1);
    }
    emit::event(EventKind::Failed, failure as u8, connection, counts, now.ns);
}

/// Gives back what `connect()` reserved, once.
#[inline(always)]
pub(crate) fn release(connection: &mut Connection) {
    if connection.phase == Phase::Released as u8 {
        return;
    }
    if connection.phase != Phase::Established as u8 {
        no_longer_pending(connection);
    }
    limits::release(connection);
    connection.phase = Phase::Released as u8;
    let Some(backend) = maps::backend(connection.backend) else { return };
    // The id may have a new owner by now, whose count this connection is not part of.
    if backend.generation == connection.backend_generation {
        if let Some(state) = maps::backend_state(connection.backend) {
            maps::add(&mut state.active, u64::MAX);
        }
    }
}

/// As [`release`], for a connection whose socket turns to another before anything was learnt: a probe gives its
/// admission back too.
#[inline(always)]
pub(crate) fn abandon(connection: &mut Connection, now: Moment) {
    if connection.phase != Phase::Released as u8 {
        release(connection);
        breaker::report(connection, Report::Abandoned, now);
    }
}

/// The handshake of a connection is over, one way or the other.
#[inline(always)]
fn no_longer_pending(connection: &Connection) {
    if let Some(state) = maps::backend_state(connection.backend) {
        maps::add(&mut state.pending, u64::MAX);
    }
}

/// Counts a handshake that failed.
#[inline(always)]
pub(crate) fn count_failure(connection: &Connection, failure: ConnectFailure, duration_ns: u64) {
    if let Some(edge) = maps::edge(&edge_key(connection)) {
        if let Some(counter) = edge.failed.get_mut(failure as usize) {
            maps::add(counter, 1);
        }
        observe(&mut edge.connect_failed, duration_ns);
    }
}

#[inline(always)]
fn count_close(connection: &Connection, reason: CloseReason, counts: &TcpCounts) {
    if let Some(edge) = maps::edge(&edge_key(connection)) {
        if let Some(counter) = edge.closed.get_mut(reason as usize) {
            maps::add(counter, 1);
        }
        maps::add(&mut edge.sent_bytes, counts.sent_bytes);
        maps::add(&mut edge.received_bytes, counts.received_bytes);
        maps::add(&mut edge.retransmits, u64::from(counts.retransmits));
        if counts.rtt_us != 0 {
            observe(&mut edge.rtt, u64::from(counts.rtt_us) * 1_000);
        }
    }
}

#[inline(always)]
fn observe(histogram: &mut Histogram, duration_ns: u64) {
    maps::add(&mut histogram.sum_ns, duration_ns);
    if let Some(counter) = histogram.buckets.get_mut(histogram::bucket(duration_ns)) {
        maps::add(counter, 1);
    }
}

#[inline(always)]
fn edge_key(connection: &Connection) -> EdgeKey {
    EdgeKey { cgroup: connection.cgroup, service: connection.service, version: connection.version }
}
