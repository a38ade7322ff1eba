//! `connect()`: a service address becomes a backend's, and the socket remembers both.

use agent_ebpf::abi::{
    ConnectFailure, Connection, EventKind, FrontendKey, Hook, Limit, Outcome, Phase, Protocol,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::breaker::{self, Report};
use super::choice::is_left_alone;
use super::datagrams;
use super::limits;
use super::select::{Found, Selection, refuse_as_asked, select};
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
    if matches!(outcome, Outcome::NoBackend | Outcome::Limited) { REFUSE } else { ALLOW }
}

#[inline(always)]
fn connect(call: &SocketAddress) -> Outcome {
    let protocol = call.protocol();
    if protocol != Protocol::Tcp as u8 && protocol != Protocol::Udp as u8 {
        return Outcome::Unsupported;
    }
    let Some(socket) = call.socket() else { return Outcome::Unsupported };
    // One record of what was asked for, handed on by reference: the stack is short.
    let asked = FrontendKey::new(call.endpoint(), protocol);
    // A socket that connects again gives back what it held: a UDP socket may do so at any time, a TCP one after
    // a handshake that failed before its SYN left.
    let previous = maps::connection(socket);
    if protocol == Protocol::Udp as u8 {
        if let Some(previous) = &previous {
            datagrams::keep_peer(socket, previous);
        }
    }
    let found = maps::service_of(&asked);
    let left_alone = found.is_some() && is_left_alone();
    let Some(service) = found.filter(|_| !left_alone) else {
        if let Some(previous) = previous {
            give_up(socket, previous, Moment::now().ns);
            maps::forget_connection(socket);
        }
        if protocol == Protocol::Udp as u8 {
            datagrams::forget(socket, &asked.endpoint());
        }
        return if left_alone { Outcome::OptedOut } else { Outcome::Unmanaged };
    };
    let now = Moment::now();
    let previous = match previous {
        Some(previous) => {
            give_up(socket, previous, now.ns);
            Some(previous)
        }
        None => None,
    };
    let is_udp = protocol == Protocol::Udp as u8;
    let caller = if is_udp { limits::CONNECTED } else { limits::HANDSHAKE };
    let selection = select(service, caller, now);
    match selection.found {
        Found::Backend => {
            let outcome = take(socket, &asked, &selection, previous, now.ns);
            if matches!(outcome, Outcome::Selected | Outcome::Affine) {
                if let Some(backend) = maps::backend(selection.id) {
                    call.give_cookie();
                    call.set_endpoint(&backend.endpoint);
                }
            }
            outcome
        }
        Found::Nothing => {
            refuse(service, &asked, selection.id, now.ns);
            if selection.id == limits::FREE { Outcome::NoBackend } else { Outcome::Limited }
        }
        Found::Inconsistent => {
            if let Some(state) = maps::service_state(service) {
                maps::add(&mut state.passed, 1);
            }
            Outcome::Inconsistent
        }
    }
}

/// Gives back what a socket holds that connects again. Not a part of its caller, as [`take`].
#[inline(never)]
fn give_up(socket: Socket, previous: &mut Connection, now_ns: u64) {
    maps::forget_exchange(socket);
    maps::forget_http2(socket);
    abandon(previous, Moment { ns: now_ns });
}

/// Counts the connection and lets the socket remember it. Not a part of its caller: its records would stand on the stack
/// while a backend is chosen, and kernels before 6.8 round every frame up to 32 bytes.
#[inline(never)]
fn take(
    socket: Socket,
    asked: &FrontendKey,
    chosen: &Selection,
    previous: Option<&'static mut Connection>,
    now_ns: u64,
) -> Outcome {
    let now = Moment { ns: now_ns };
    let Some(backend) = maps::backend(chosen.id) else { return Outcome::Inconsistent };
    let protocol = asked.protocol;
    let is_udp = protocol == Protocol::Udp as u8;
    let mut connection = Connection {
        requested: asked.endpoint(),
        chosen: backend.endpoint,
        service: chosen.service,
        backend: chosen.id,
        backend_generation: backend.generation,
        version: backend.version,
        cgroup: context::current_cgroup(),
        started_at_ns: now.ns,
        phase: if is_udp { Phase::Established } else { Phase::Reserved } as u8,
        protocol,
        marks: chosen.place.marks(),
        state_at_close: 0,
        received_at_fin_low: 0,
        probe: chosen.probe,
        user_timeout_ms: 0,
        client: chosen.place.client(chosen.client),
    };
    if !remember(socket, previous, &mut connection) {
        if chosen.place.is_counted() {
            limits::undo_at_backend(chosen.service, chosen.id, !is_udp);
        }
        limits::undo(chosen.service, connection.client, connection.marks, !is_udp);
        breaker::report(&connection, Report::Abandoned, now);
        return Outcome::StorageFailed;
    }
    reserve(chosen, is_udp, now);
    if is_udp && emit::is_followed(now.ns) {
        tell_opened(&connection, now.ns);
    }
    if chosen.affine { Outcome::Affine } else { Outcome::Selected }
}

/// Apart from its caller for the same reason as [`refuse`].
#[inline(never)]
fn tell_opened(connection: &Connection, now_ns: u64) {
    emit::event(EventKind::Opened, 0, connection, &TcpCounts::default(), now_ns);
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
fn reserve(chosen: &Selection, is_udp: bool, now: Moment) {
    if let Some(state) = maps::backend_state(chosen.id) {
        maps::add(&mut state.selections, 1);
        if !chosen.place.is_counted() {
            maps::add(&mut state.active, 1);
        }
        if !is_udp && !chosen.place.is_counted() {
            if state.pending == 0 {
                state.progress_ticks = u64::from(now.ticks());
            }
            maps::add(&mut state.pending, 1);
        }
    }
    if let Some(state) = maps::service_state(chosen.asked) {
        maps::add(&mut state.selected, 1);
        if chosen.affine {
            maps::add(&mut state.affine, 1);
        }
    }
}

/// Not a part of its caller: together their records are more than the stack of a program that calls others may be.
#[inline(never)]
fn refuse(service: u32, asked: &FrontendKey, limit: u32, now_ns: u64) {
    let protocol = asked.protocol;
    let is_limited = limit != limits::FREE;
    if let Some(state) = maps::service_state(service) {
        maps::add(if is_limited { &mut state.refused_by_limit } else { &mut state.no_backend }, 1);
    }
    let nowhere = Connection {
        requested: asked.endpoint(),
        service,
        cgroup: context::current_cgroup(),
        started_at_ns: now_ns,
        protocol,
        ..Connection::default()
    };
    let failure = if is_limited { Limit::failure(limit - 1) } else { ConnectFailure::NoBackend };
    if protocol == Protocol::Tcp as u8 {
        count_failure(&nowhere, failure, 0);
    }
    emit::event(EventKind::Failed, failure as u8, &nowhere, &TcpCounts::default(), now_ns);
    refuse_as_asked(service);
}
