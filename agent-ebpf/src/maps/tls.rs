//! The maps of TLS that is read: calls of OpenSSL that are under way, and what is said on each connection. They are not pinned,
//! since no probe outlives the agent that put it in place; without probes they have room for one entry.

use agent_ebpf::abi::request::HEAD_BYTES;
use agent_ebpf::abi::{
    Address, Connection, Direction, Endpoint, Exchange, Phase, Probe, Stage, TlsCall, TlsKey, TlsSession,
    limits,
};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, ProgramArray};

use super::rooms::copy_words;

/// Calls that are under way, by thread. Kernel writes.
#[map]
static TLS_CALLS: LruHashMap<u64, TlsCall> = LruHashMap::with_max_entries(limits::MAX_TLS_CALLS, 0);

/// What is said inside TLS. Kernel writes.
#[map]
static TLS_SESSIONS: LruHashMap<TlsKey, TlsSession> =
    LruHashMap::with_max_entries(limits::MAX_TLS_SESSIONS, 0);

const NO_ENDPOINT: Endpoint = Endpoint { address: Address { words_be: [0; 4] }, port_be: 0, _pad: 0 };

const NO_CONNECTION: Connection = Connection {
    requested: NO_ENDPOINT,
    chosen: NO_ENDPOINT,
    service: 0,
    backend: 0,
    backend_generation: 0,
    version: 0,
    cgroup: 0,
    started_at_ns: 0,
    phase: Phase::Released as u8,
    protocol: 0,
    marks: 0,
    state_at_close: 0,
    received_at_fin_low: 0,
    probe: Probe::NONE,
    user_timeout_ms: 0,
    client: 0,
};

/// A connection of which nothing is known, and nothing is to be learnt.
static NEW_SESSION: TlsSession = TlsSession {
    exchange: Exchange {
        asked_at_ns: 0,
        cgroup: 0,
        service: 0,
        version: 0,
        sent: super::exchanges::NOWHERE,
        received: super::exchanges::NOWHERE,
        single_bytes: 0,
        port_be: 0,
        protocol: 0,
        direction: Direction::Outbound as u8,
        stage: Stage::Ended as u8,
        operation: 0,
        marks: 0,
        head_length: 0,
        head: [0; HEAD_BYTES / 4],
        doubts: 0,
        asked_sequence: 0,
        _pad_end: 0,
        _pad: 0,
    },
    cookie: 0,
    connection: NO_CONNECTION,
};

/// Programs to go on with: none.
#[map]
static TLS_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// A tail call that leads nowhere.
#[inline(always)]
pub(crate) fn never_tail_call(context: &impl EbpfContext) {
    // SAFETY: the array is empty and stays so: the call comes back.
    unsafe {
        let _ = TLS_NEXT.tail_call(context, 0);
    }
}

/// The call a thread is in.
#[inline(always)]
pub(crate) fn tls_call(thread: u64) -> Option<&'static TlsCall> {
    // SAFETY: the kernel gave a pointer to the thread's own entry, which only that thread changes.
    TLS_CALLS.get_ptr(thread).map(|call| unsafe { &*call })
}

/// A thread begins a call.
#[inline(always)]
pub(crate) fn begin_tls_call(thread: u64, call: &TlsCall) {
    let _ = TLS_CALLS.insert(thread, call, u64::from(BPF_ANY));
}

/// It ends it.
#[inline(always)]
pub(crate) fn end_tls_call(thread: u64) {
    let _ = TLS_CALLS.remove(thread);
}

/// What is said on a connection.
#[inline(always)]
pub(crate) fn tls_session(key: &TlsKey) -> Option<&'static mut TlsSession> {
    // SAFETY: the kernel gave a pointer to the entry. OpenSSL lets one thread use an `SSL` at a time; what a packet's program
    // takes is one word.
    TLS_SESSIONS.get_ptr_mut(key).map(|session| unsafe { &mut *session })
}

/// The same, made for a connection of which nothing is to be learnt when it is not there yet.
#[inline(always)]
pub(crate) fn tls_session_or_new(key: &TlsKey) -> Option<&'static mut TlsSession> {
    if let Some(session) = tls_session(key) {
        return Some(session);
    }
    let _ = TLS_SESSIONS.insert(key, &NEW_SESSION, u64::from(BPF_ANY));
    tls_session(key)
}

/// Forgets it.
#[inline(always)]
pub(crate) fn forget_tls_session(key: &TlsKey) {
    let _ = TLS_SESSIONS.remove(key);
}

/// Begins what is said inside TLS with what its socket knows.
#[inline(always)]
pub(crate) fn begin_tls_session(
    session: &mut TlsSession,
    exchange: &Exchange,
    connection: Option<&Connection>,
) {
    copy_words(exchange, &mut session.exchange);
    if let Some(connection) = connection {
        copy_words(connection, &mut session.connection);
    }
}
