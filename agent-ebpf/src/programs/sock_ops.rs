//! The life of a TCP connection to a service: handshake, failure, end; counted per edge.

use agent_ebpf::abi::connection::TIMED_OUT;
use agent_ebpf::abi::{
    CloseReason, ConnectFailure, Connection, EdgeKey, EventKind, Histogram, Hook, Outcome, Phase,
};
use agent_ebpf::decide::flow::{self, tcp_state};
use agent_ebpf::decide::histogram;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use crate::context::{self, TcpCounts, TcpEvent, TcpSocket};
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
            Outcome::Watched
        }
        TcpEvent::Established => established(connection),
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

#[inline(always)]
fn established(connection: &mut Connection) -> Outcome {
    if connection.phase != Phase::Connecting as u8 {
        return Outcome::Ignored;
    }
    connection.phase = Phase::Established as u8;
    let now_ns = context::now_ns();
    if let Some(edge) = maps::edge(&edge_key(connection)) {
        maps::add(&mut edge.opened, 1);
        observe(&mut edge.connect, now_ns.saturating_sub(connection.started_at_ns));
    }
    if now_ns < maps::follow_until_ns() {
        emit::event(EventKind::Opened, 0, connection, &TcpCounts::default(), now_ns);
    }
    Outcome::Opened
}

#[inline(always)]
fn closed(connection: &mut Connection, socket: &TcpSocket, old_state: u8) -> Outcome {
    if connection.phase == Phase::Released as u8 {
        return Outcome::Ignored;
    }
    let mut counts = socket.counts();
    counts.keep_payload(connection, old_state);
    let now_ns = context::now_ns();
    let was_established = connection.phase == Phase::Established as u8;
    release(connection);
    if was_established {
        let reason = flow::close_reason(old_state, connection.marks, connection.state_at_close);
        count_close(connection, reason, &counts);
        emit::event(EventKind::Closed, reason as u8, connection, &counts, now_ns);
        Outcome::Closed
    } else {
        let failure = flow::connect_failure(connection.marks, counts.segments_received);
        fail(connection, failure, &counts, now_ns);
        Outcome::Failed
    }
}

/// A socket that was closed before its SYN left: nothing between here and the backend was to blame.
#[inline(always)]
pub(crate) fn fail_before_syn(connection: &mut Connection, now_ns: u64) {
    release(connection);
    fail(connection, ConnectFailure::Local, &TcpCounts::default(), now_ns);
}

#[inline(always)]
fn fail(connection: &Connection, failure: ConnectFailure, counts: &TcpCounts, now_ns: u64) {
    count_failure(connection, failure, now_ns.saturating_sub(connection.started_at_ns));
    if let Some(state) = maps::backend_state(connection.backend) {
        maps::add(&mut state.failures, 1);
    }
    emit::event(EventKind::Failed, failure as u8, connection, counts, now_ns);
}

/// Gives back what `connect()` reserved, once.
#[inline(always)]
pub(crate) fn release(connection: &mut Connection) {
    if connection.phase == Phase::Released as u8 {
        return;
    }
    connection.phase = Phase::Released as u8;
    let Some(backend) = maps::backend(connection.backend) else { return };
    // The id may have a new owner by now, whose count this connection is not part of.
    if backend.generation == connection.backend_generation {
        if let Some(state) = maps::backend_state(connection.backend) {
            maps::add(&mut state.active, u64::MAX);
        }
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
