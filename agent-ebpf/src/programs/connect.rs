//! `connect()`: a service address becomes a backend's, and the socket remembers both.

use agent_ebpf::abi::{
    ConnectFailure, Connection, Endpoint, EventKind, FrontendKey, Hook, Outcome, Phase, Protocol,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::select::{Selection, select};
use super::sock_ops::{count_failure, release};
use super::{ALLOW, REFUSE};
use crate::context::{self, Family, Socket, SocketAddress, TcpCounts};
use crate::{emit, maps};

/// Attach point `cgroup/connect4`, kernel 4.17.
#[cgroup_sock_addr(connect4)]
fn segue_connect4(context: SockAddrContext) -> i32 {
    run(Hook::Connect4, &context, Family::V4)
}

/// Attach point `cgroup/connect6`, kernel 4.17.
#[cgroup_sock_addr(connect6)]
fn segue_connect6(context: SockAddrContext) -> i32 {
    run(Hook::Connect6, &context, Family::V6)
}

#[inline(always)]
fn run(hook: Hook, context: &SockAddrContext, family: Family) -> i32 {
    let outcome = connect(&SocketAddress::new(context, family));
    emit::outcome(hook, outcome);
    if matches!(outcome, Outcome::Inconsistent | Outcome::StorageFailed) {
        emit::surprise(context, hook, outcome);
    }
    if matches!(outcome, Outcome::NoBackend) { REFUSE } else { ALLOW }
}

#[inline(always)]
fn connect(call: &SocketAddress) -> Outcome {
    let protocol = call.protocol();
    if protocol != Protocol::Tcp as u8 && protocol != Protocol::Udp as u8 {
        return Outcome::Unsupported;
    }
    let Some(socket) = call.socket() else { return Outcome::Unsupported };
    let requested = call.endpoint();
    let now_ns;
    // A socket that connects again gives back what it held: a UDP socket may do so at any time, a TCP one after
    // a handshake that failed before its SYN left.
    let previous = maps::connection(socket);
    let service = match maps::service_of(&FrontendKey::new(requested, protocol)) {
        Some(service) => service,
        None => {
            if let Some(previous) = previous {
                release(previous);
                maps::forget_connection(socket);
            }
            return Outcome::Unmanaged;
        }
    };
    if let Some(previous) = previous {
        release(previous);
    }
    now_ns = context::now_ns();
    match select(service, now_ns) {
        Selection::Backend { id, backend, affine } => {
            let chosen = backend.endpoint;
            let mut connection = Connection {
                requested,
                chosen,
                service,
                backend: id,
                backend_generation: backend.generation,
                version: backend.version,
                cgroup: context::current_cgroup(),
                started_at_ns: now_ns,
                phase: if protocol == Protocol::Udp as u8 { Phase::Established } else { Phase::Reserved }
                    as u8,
                protocol,
                marks: 0,
                state_at_close: 0,
                received_at_fin_low: 0,
            };
            if !remember(socket, &mut connection) {
                return Outcome::StorageFailed;
            }
            reserve(service, id, affine);
            call.set_endpoint(&chosen);
            if protocol == Protocol::Udp as u8 {
                emit::event(EventKind::Opened, 0, &connection, &TcpCounts::default(), now_ns);
            }
            if affine { Outcome::Affine } else { Outcome::Selected }
        }
        Selection::Nothing { errno } => {
            refuse(service, requested, protocol, errno, now_ns);
            Outcome::NoBackend
        }
        Selection::Inconsistent => {
            if let Some(state) = maps::service_state(service) {
                maps::add(&mut state.passed, 1);
            }
            Outcome::Inconsistent
        }
    }
}

/// Writes what the socket is to remember; in place where it remembered something before.
#[inline(always)]
fn remember(socket: Socket, connection: &mut Connection) -> bool {
    match maps::connection(socket) {
        Some(stored) => {
            *stored = *connection;
            true
        }
        None => maps::new_connection(socket, connection).is_some(),
    }
}

/// Counts a connection where it was sent, before it exists: load must show while handshakes are under way.
#[inline(always)]
fn reserve(service: u32, backend: u32, affine: bool) {
    if let Some(state) = maps::backend_state(backend) {
        maps::add(&mut state.active, 1);
        maps::add(&mut state.selections, 1);
    }
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.selected, 1);
        if affine {
            maps::add(&mut state.affine, 1);
        }
    }
}

#[inline(always)]
fn refuse(service: u32, requested: Endpoint, protocol: u8, errno: u8, now_ns: u64) {
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.no_backend, 1);
    }
    let nowhere = Connection {
        requested,
        service,
        cgroup: context::current_cgroup(),
        started_at_ns: now_ns,
        protocol,
        ..Connection::default()
    };
    if protocol == Protocol::Tcp as u8 {
        count_failure(&nowhere, ConnectFailure::NoBackend, 0);
    }
    emit::event(EventKind::Failed, ConnectFailure::NoBackend as u8, &nowhere, &TcpCounts::default(), now_ns);
    context::refuse_with(errno);
}
