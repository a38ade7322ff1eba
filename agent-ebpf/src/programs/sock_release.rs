//! The last close of a socket: what it reserved is given back, unless TCP still has something to finish.

use agent_ebpf::abi::connection::CLOSED_BY_APPLICATION;
use agent_ebpf::abi::{CloseReason, EventKind, Hook, Outcome, Phase, Protocol};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;

use super::sock_ops::release;
use super::{ALLOW, answers, lookups};
use crate::context::{self, ClosingSocket, TcpCounts};
use crate::{emit, maps};

/// Attach point `cgroup/sock_release`, kernel 5.9.
#[cgroup_sock(sock_release)]
fn segue_sock_release(context: SockContext) -> i32 {
    let outcome = close(&ClosingSocket::new(&context));
    emit::outcome(Hook::SockRelease, outcome);
    ALLOW
}

#[inline(always)]
fn close(socket: &ClosingSocket) -> Outcome {
    lookups::left(socket.socket());
    let Some(connection) = maps::connection(socket.socket()) else { return Outcome::Unmanaged };
    connection.marks |= CLOSED_BY_APPLICATION;
    connection.state_at_close = socket.state();
    if connection.phase == Phase::Released as u8 {
        return Outcome::Ignored;
    }
    if connection.protocol == Protocol::Udp as u8 {
        release(connection);
        // The clock is not read for nothing.
        if maps::follow_until_ns() != 0 {
            let reason = CloseReason::Fin as u8;
            emit::event(EventKind::Closed, reason, connection, &TcpCounts::default(), context::now_ns());
        }
        return Outcome::Released;
    }
    if connection.phase == Phase::Reserved as u8 {
        // No SYN ever left (no route, no local port), so no state change will follow.
        super::sock_ops::fail_before_syn(connection);
        return Outcome::Released;
    }
    answers::left(connection, socket.socket());
    // FIN or reset follow; `sock_ops` sees the socket reach CLOSE.
    Outcome::Ignored
}
