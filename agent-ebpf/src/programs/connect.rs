//! `connect()`: a service address becomes a backend's, and the socket remembers both.

use agent_ebpf::abi::{
    Backend, ConnectFailure, Connection, Endpoint, EventKind, FrontendKey, Hook, Outcome, Phase, Protocol,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::breaker::{self, Report};
use super::datagrams;
use super::select::{Found, Selection, select};
use super::sock_ops::{abandon, count_failure};
use super::{ALLOW, REFUSE};
use crate::context::{self, Family, Moment, Socket, SocketAddress, TcpCounts};
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
    // A socket that connects again gives back what it held: a UDP socket may do so at any time, a TCP one after
    // a handshake that failed before its SYN left.
    let previous = maps::connection(socket);
    if protocol == Protocol::Udp as u8 {
        if let Some(previous) = &previous {
            datagrams::keep_peer(socket, previous);
        }
    }
    let Some(service) = maps::service_of(&FrontendKey::new(requested, protocol)) else {
        if let Some(previous) = previous {
            abandon(previous, Moment::now());
            maps::forget_connection(socket);
        }
        if protocol == Protocol::Udp as u8 {
            datagrams::forget(socket, &requested);
        }
        return Outcome::Unmanaged;
    };
    let now = Moment::now();
    let previous = match previous {
        Some(previous) => {
            abandon(previous, now);
            Some(previous)
        }
        None => None,
    };
    let selection = select(service, now);
    match (selection.found, selection.backend) {
        (Found::Backend, Some(backend)) => {
            take(call, socket, previous, service, &Asked { requested, protocol }, &selection, backend, now)
        }
        (Found::Nothing, _) => {
            refuse(service, requested, protocol, selection.errno, now);
            Outcome::NoBackend
        }
        _ => {
            if let Some(state) = maps::service_state(service) {
                maps::add(&mut state.passed, 1);
            }
            Outcome::Inconsistent
        }
    }
}

/// What the application asked for.
struct Asked {
    requested: Endpoint,
    protocol: u8,
}

/// Sends the connection to the backend, and remembers.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one step of `connect`, written apart to be read")]
fn take(
    call: &SocketAddress,
    socket: Socket,
    previous: Option<&'static mut Connection>,
    service: u32,
    asked: &Asked,
    chosen: &Selection,
    backend: &'static Backend,
    now: Moment,
) -> Outcome {
    let Asked { requested, protocol } = *asked;
    let is_udp = protocol == Protocol::Udp as u8;
    let mut connection = Connection {
        requested,
        chosen: backend.endpoint,
        service: chosen.service,
        backend: chosen.id,
        backend_generation: backend.generation,
        version: backend.version,
        cgroup: context::current_cgroup(),
        started_at_ns: now.ns,
        phase: if is_udp { Phase::Established } else { Phase::Reserved } as u8,
        protocol,
        marks: 0,
        state_at_close: 0,
        received_at_fin_low: 0,
        probe: chosen.probe,
        user_timeout_ms: 0,
    };
    if !remember(socket, previous, &mut connection) {
        breaker::report(&connection, Report::Abandoned, now);
        return Outcome::StorageFailed;
    }
    reserve(service, chosen, is_udp, now);
    call.give_cookie();
    call.set_endpoint(&connection.chosen);
    if is_udp {
        emit::event(EventKind::Opened, 0, &connection, &TcpCounts::default(), now.ns);
    }
    if chosen.affine { Outcome::Affine } else { Outcome::Selected }
}

/// Writes what the socket is to remember; in place where it remembered something before.
#[inline(always)]
fn remember(socket: Socket, previous: Option<&'static mut Connection>, connection: &mut Connection) -> bool {
    match previous {
        Some(stored) => {
            *stored = *connection;
            true
        }
        None => maps::new_connection(socket, connection).is_some(),
    }
}

/// Counts a connection where it was sent, before it exists: load must show while handshakes are under way.
#[inline(always)]
fn reserve(service: u32, chosen: &Selection, is_udp: bool, now: Moment) {
    if let Some(state) = maps::backend_state(chosen.id) {
        maps::add(&mut state.active, 1);
        maps::add(&mut state.selections, 1);
        if !is_udp {
            if state.pending == 0 {
                state.progress_ticks = u64::from(now.ticks());
            }
            maps::add(&mut state.pending, 1);
        }
    }
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.selected, 1);
        if chosen.affine {
            maps::add(&mut state.affine, 1);
        }
    }
}

#[inline(always)]
fn refuse(service: u32, requested: Endpoint, protocol: u8, errno: u8, now: Moment) {
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.no_backend, 1);
    }
    let nowhere = Connection {
        requested,
        service,
        cgroup: context::current_cgroup(),
        started_at_ns: now.ns,
        protocol,
        ..Connection::default()
    };
    if protocol == Protocol::Tcp as u8 {
        count_failure(&nowhere, ConnectFailure::NoBackend, 0);
    }
    emit::event(EventKind::Failed, ConnectFailure::NoBackend as u8, &nowhere, &TcpCounts::default(), now.ns);
    context::refuse_with(errno);
}
