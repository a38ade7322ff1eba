//! Calls of OpenSSL, where the agent was told to read inside TLS: what is said in each, and on which socket.
//!
//! A probe sees a thread, an `SSL` and the text, and no socket. OpenSSL uses the socket within the call, by the same thread: a
//! tracepoint there sees both. What is learnt once holds for as long as the `SSL` lives, since what it decrypted before it gives without
//! asking the socket again.

mod said;
mod socket;

use agent_ebpf::abi::request::{IN_TLS, JOINED_LATE, SEALED};
use agent_ebpf::abi::{
    AppProtocol, Connection, Direction, Exchange, Hook, Outcome, Stage, TlsCall, TlsCallKind, TlsKey,
    TlsSession, Unparsed, limits,
};
use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{BtfTracePointContext, ProbeContext, RetProbeContext};

use super::answers;
use crate::context::{self, Moment, Socket, UserText};
use crate::{emit, maps};

pub(super) use socket::{left, seal, spoken};

/// Entry of `SSL_do_handshake`.
#[uprobe]
fn segue_tls_handshake(probe: ProbeContext) -> u32 {
    begin(&probe, TlsCallKind::Handshake, false)
}

/// Entry of `SSL_read`.
#[uprobe]
fn segue_tls_read(probe: ProbeContext) -> u32 {
    begin(&probe, TlsCallKind::Read, false)
}

/// Entry of `SSL_read_ex`.
#[uprobe]
fn segue_tls_read_ex(probe: ProbeContext) -> u32 {
    begin(&probe, TlsCallKind::Read, true)
}

/// Entry of `SSL_write`.
#[uprobe]
fn segue_tls_write(probe: ProbeContext) -> u32 {
    begin(&probe, TlsCallKind::Write, false)
}

/// Entry of `SSL_write_ex`.
#[uprobe]
fn segue_tls_write_ex(probe: ProbeContext) -> u32 {
    begin(&probe, TlsCallKind::Write, true)
}

/// Entry of `SSL_free`: the next `SSL` may be in the same place.
#[uprobe]
fn segue_tls_free(probe: ProbeContext) -> u32 {
    stay_on_the_tasks_stack(&probe);
    let process = context::process_of(context::current_thread());
    let key = TlsKey { ssl: context::argument(&probe, 0), process, _pad: 0 };
    let outcome = match maps::tls_session(&key) {
        None => Outcome::Unmanaged,
        Some(session) if session.cookie == 0 => {
            maps::forget_tls_session(&key);
            Outcome::Closed
        }
        Some(session) => said::freed(session),
    };
    emit::outcome(Hook::TlsCall, outcome);
    0
}

/// Return of any of these but `SSL_free`.
#[uretprobe]
fn segue_tls_return(probe: RetProbeContext) -> u32 {
    stay_on_the_tasks_stack(&probe);
    let thread = context::current_thread();
    let outcome = match maps::tls_call(thread) {
        Some(call) => end(thread, call, context::result(&probe)),
        // It began before there were probes.
        None => Outcome::Ignored,
    };
    maps::end_tls_call(thread);
    emit::outcome(Hook::TlsCall, outcome);
    0
}

/// A process takes what its TCP socket received. Kernel 4.16; that it reaches what lies with the socket, 5.11.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
fn segue_tls_receive(tracepoint: BtfTracePointContext) -> i32 {
    let thread = context::current_thread();
    let outcome = match maps::tls_call(thread) {
        Some(call) => {
            let key = TlsKey { ssl: call.ssl, process: context::process_of(thread), _pad: 0 };
            let socket = context::traced_socket(&tracepoint);
            learn(&key, socket, context::traced_cookie(&tracepoint))
        }
        None => Outcome::Ignored,
    };
    emit::outcome(Hook::TlsReceive, outcome);
    0
}

/// Has the kernel run a probe's program on the stack of the task. Since Linux 6.13 it would give it one for each processor, and such a
/// program may be interrupted by the scheduler: the next task on that processor that comes by the probe writes over what the first
/// one keeps there, pointers that were checked too. A program with a tail call in it is left on its task's stack. This one is never
/// made: the kernel knows the number, and leaves the code out.
#[inline(always)]
fn stay_on_the_tasks_stack(probe: &impl EbpfContext) {
    if !context::reads_tls() {
        maps::never_tail_call(probe);
    }
}

/// Notes a call.
#[inline(always)]
fn begin(probe: &ProbeContext, kind: TlsCallKind, says_length_apart: bool) -> u32 {
    stay_on_the_tasks_stack(probe);
    let call = TlsCall {
        ssl: context::argument(probe, 0),
        text_at: context::argument(probe, 1),
        length_at: if says_length_apart { context::argument(probe, 3) } else { 0 },
        began_at_ns: Moment::now().ns,
        kind: kind as u32,
        _pad: 0,
    };
    maps::begin_tls_call(context::current_thread(), &call);
    emit::outcome(Hook::TlsCall, Outcome::Watched);
    0
}

/// Reads what was said in a call.
#[inline(always)]
fn end(thread: u64, call: &TlsCall, result: i32) -> Outcome {
    if result <= 0 || call.kind == TlsCallKind::Handshake as u32 {
        return Outcome::Ignored;
    }
    let length = match call.length_at {
        0 => u64::from(result.cast_unsigned()),
        at => context::user_number(at).unwrap_or_default(),
    };
    if length == 0 || length > u64::from(u32::MAX) {
        return Outcome::Ignored;
    }
    let key = TlsKey { ssl: call.ssl, process: context::process_of(thread), _pad: 0 };
    let is_write = call.kind == TlsCallKind::Write as u32;
    let Some(session) = maps::tls_session(&key) else {
        // Who reads has received something before, on whatever it may be; who only wrote may be about to.
        return if is_write { Outcome::Ignored } else { unknown(&key) };
    };
    if session.exchange.stage == Stage::Ended as u8 {
        return Outcome::Ignored;
    }
    let at = if is_write { Moment { ns: call.began_at_ns } } else { Moment::now() };
    said::read(session, &UserText::new(call.text_at), length as u32, is_write, at)
}

/// An `SSL` that used no socket so far, or one of a process that is none of ours.
#[inline(always)]
fn unknown(key: &TlsKey) -> Outcome {
    // Not asked about again.
    let _ = maps::tls_session_or_new(key);
    if !is_managed() {
        return Outcome::Unmanaged;
    }
    maps::unparsed(Unparsed::NoSocket);
    Outcome::Unparsed
}

/// Whether the process that runs is in the managed cgroup.
#[inline(always)]
fn is_managed() -> bool {
    let managed = context::managed_cgroup();
    let mut level = 0;
    while level < limits::MAX_CGROUP_LEVELS {
        if context::current_ancestor_cgroup(level) == managed {
            return true;
        }
        level += 1;
    }
    false
}

/// Learns which socket an `SSL` uses, and takes over its exchange.
#[inline(always)]
fn learn(key: &TlsKey, socket: Socket, cookie: u64) -> Outcome {
    let known = match maps::tls_session(key) {
        Some(session) => session.cookie == cookie,
        None => false,
    };
    // None of the managed cgroup.
    let Some(exchange) = maps::exchange(socket) else { return Outcome::Unmanaged };
    let is_read = exchange.marks & IN_TLS != 0;
    if is_read && known {
        return Outcome::Followed;
    }
    let Some(session) = maps::tls_session_or_new(key) else { return Outcome::StorageFailed };
    session.cookie = cookie;
    if !is_read && !is_open(exchange) || answers::is_unread(exchange.service) {
        session.exchange.stage = Stage::Ended as u8;
        return Outcome::Ignored;
    }
    if (is_read || exchange.marks & SEALED == 0) && exchange.marks & JOINED_LATE == 0 {
        // Its beginning was not seen: it was read by an agent that is gone, or was forgotten, or nobody read inside it then.
        exchange.marks |= JOINED_LATE;
        maps::unparsed(Unparsed::Joined);
    }
    take_over(key, session, exchange, answers::established(socket));
    Outcome::Selected
}

/// Whether what a socket says may be read inside TLS: nobody understood it so far, and it is a server's or a service's.
#[inline(always)]
fn is_open(exchange: &Exchange) -> bool {
    exchange.protocol == AppProtocol::Unknown as u8
        && (exchange.direction == Direction::Inbound as u8 || exchange.service != 0)
}

#[inline(always)]
fn take_over(
    key: &TlsKey,
    session: &mut TlsSession,
    exchange: &mut Exchange,
    connection: Option<&mut Connection>,
) {
    // What comes back of the handshake would be taken for an answer.
    let connection = connection.map(|connection| {
        answers::judged_inside(connection, exchange);
        &*connection
    });
    maps::begin_tls_session(session, exchange, connection);
    session.exchange.stage = Stage::Idle as u8;
    session.exchange.marks = exchange.marks & JOINED_LATE;
    session.exchange.head_length = 0;
    session.exchange.single_bytes = 0;
    session.exchange.doubts = 0;
    exchange.head[0] = key.ssl;
    exchange.head[1] = u64::from(key.process);
    exchange.head[2] = session.cookie;
    exchange.head_length = 0;
    exchange.marks |= IN_TLS;
    exchange.stage = Stage::Ended as u8;
}
