//! Every map, with the one side that writes it, behind accessors that are safe to call.

mod clients;
mod conversations;
mod exchanges;
mod lookups;
mod rooms;
mod stored;
mod tidings;
mod tls;
mod walkers;
mod workloads;

use core::ptr;

use agent_ebpf::abi::limits;
use agent_ebpf::abi::{
    Backend, BackendState, Connection, Datagrams, Edge, EdgeKey, Event, FrontendKey, Hook, Loss, Outcome,
    Policy, ServiceState, ServiceWord, Settings, Slot,
};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf};

use crate::context::Socket;

pub(crate) use clients::{affinity, client, client_or_new, failed_on, set_affinity, set_failed_on};
pub(crate) use conversations::{
    conversation, desk, forget_conversation, keep_answers, keep_asks, lay_out, leave_desk, new_conversation,
    pick_up, place, take_desk,
};
pub(crate) use exchanges::{
    exchange, forget_exchange, keep_head, kept_bytes, leave_scratch, load_head, new_exchange, no_exchange,
    requests, scratch, take_scratch, unparsed,
};
pub(crate) use lookups::{
    leave_lookup_room, load_waiting, lookup_room, lookup_stream, lookups, lookups_or_new, new_lookup_stream,
    served_lookups, served_lookups_or_new, take_lookup_room,
};
pub(crate) use tidings::{send_answered, send_head, tell_below, tell_heads_below, tell_until_ns};
pub(crate) use tls::{
    begin_tls_call, begin_tls_session, end_tls_call, forget_tls_session, never_tail_call, tls_call,
    tls_session, tls_session_or_new,
};
pub(crate) use walkers::{
    copy_connection, copy_stream, copy_walk, forget_http2, http2, new_http2, take_walker, walker,
};
pub(crate) use workloads::{some_are_left_alone, workload};

/// What applications ask for → service id. Agent writes.
#[map]
static FRONTENDS: HashMap<FrontendKey, u32> = HashMap::with_max_entries(limits::MAX_FRONTENDS, 0);

/// Service id → the policy record in force. Agent writes, one store per replacement.
#[map]
static SERVICES: Array<ServiceWord> = Array::with_max_entries(limits::MAX_SERVICES, BPF_F_MMAPABLE);

/// Policy records. Agent writes those that no service names.
#[map]
static POLICIES: Array<Policy> = Array::with_max_entries(limits::MAX_POLICIES, BPF_F_MMAPABLE);

/// Windows of backend ids. Agent writes those that no policy names.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(limits::MAX_SLOTS, BPF_F_MMAPABLE);

/// Backend id → where it listens. Agent writes.
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(limits::MAX_BACKENDS, BPF_F_MMAPABLE);

/// Counts per backend. Kernel writes.
#[map]
static BACKEND_STATE: Array<BackendState> = Array::with_max_entries(limits::MAX_BACKENDS, BPF_F_MMAPABLE);

/// Counts per service. Kernel writes.
#[map]
static SERVICE_STATE: Array<ServiceState> = Array::with_max_entries(limits::MAX_SERVICES, BPF_F_MMAPABLE);

/// Counts per edge and CPU. Kernel writes, agent removes those of dead cgroups.
#[map]
static EDGES: PerCpuHashMap<EdgeKey, Edge> =
    PerCpuHashMap::with_max_entries(limits::MAX_EDGES, BPF_F_NO_PREALLOC);

/// How runs ended, per program and CPU. Kernel writes.
#[map]
static OUTCOMES: PerCpuArray<u64> =
    PerCpuArray::with_max_entries((Hook::ALL.len() * Outcome::ALL.len()) as u32, 0);

/// What could not be recorded, per CPU. Kernel writes.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Connections that opened, failed or closed. Kernel writes.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(limits::EVENT_RING_BYTES, 0);

/// The few switches. Agent writes.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What a connected socket remembers. Kernel writes.
#[btf_map]
static CONNECTIONS: SkStorage<Connection> = SkStorage::new();

/// What an unconnected UDP socket remembers. Kernel writes.
#[btf_map]
static DATAGRAMS: SkStorage<Datagrams> = SkStorage::new();

/// An edge nobody counted on yet.
static NEW_EDGE: Edge = Edge {
    opened: 0,
    closed: [0; 6],
    failed: [0; 9],
    sent_bytes: 0,
    received_bytes: 0,
    retransmits: 0,
    connect: NEW_HISTOGRAM,
    connect_failed: NEW_HISTOGRAM,
    rtt: NEW_HISTOGRAM,
};
const NEW_HISTOGRAM: agent_ebpf::abi::Histogram =
    agent_ebpf::abi::Histogram { sum_ns: 0, buckets: [0; agent_ebpf::abi::HISTOGRAM_BUCKETS + 1] };

/// Adds to a counter that other CPUs, or an interrupt on this one, may be adding to.
///
/// One atomic add without a result, which every supported kernel knows (`BPF_XADD`); the target's standard
/// library has no atomic arithmetic because older kernels had no compare-and-swap.
#[inline(always)]
pub(crate) fn add(counter: &mut u64, amount: u64) {
    // SAFETY: an exclusive reference is a valid, aligned pointer; every concurrent writer uses this function.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {amount}",
            counter = in(reg) ptr::from_mut(counter),
            amount = in(reg) amount,
            options(nostack, preserves_flags),
        );
    }
}

/// Adds to a word that other CPUs may be adding to, and gives what it was before. Kernel 5.12.
#[cfg(not(segue_no_compare_and_swap))]
#[inline(always)]
pub(crate) fn fetch_add(word: &mut u64, amount: u64) -> u64 {
    let mut value = amount;
    // SAFETY: an exclusive reference is a valid, aligned pointer; every concurrent writer uses atomic steps.
    unsafe {
        core::arch::asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            word = in(reg) ptr::from_mut(word),
            value = inout(reg) value,
            options(nostack, preserves_flags),
        );
    }
    value
}

/// The same for kernels without that instruction: nothing that is added is lost, but two CPUs in the same instant may
/// be told the same number.
#[cfg(segue_no_compare_and_swap)]
#[inline(always)]
pub(crate) fn fetch_add(word: &mut u64, amount: u64) -> u64 {
    let before = read(word);
    add(word, amount);
    before
}

/// The same number, of which the compiler knows nothing any more: it would leave out a bound check that it can prove
/// needless and the verifier cannot (a remainder, say).
#[inline(always)]
pub(crate) fn unproven(number: usize) -> usize {
    let mut number = number;
    // SAFETY: moves a register onto itself. Not empty, since two lines of source may not share an instruction.
    unsafe {
        core::arch::asm!("{number} = {number}", number = inout(reg) number, options(nostack, nomem, preserves_flags))
    };
    number
}

/// Reads a word that another CPU may be changing.
#[inline(always)]
pub(crate) fn read(word: &u64) -> u64 {
    // SAFETY: a reference is a valid, aligned pointer. Volatile: one load, done each time.
    unsafe { ptr::read_volatile(word) }
}

/// Sets a word to 0. Volatile: of several the compiler would make a call of `memset`, which takes a frame of the stack.
#[inline(always)]
pub(crate) fn clear(word: &mut u64) {
    // SAFETY: an exclusive reference is a valid, aligned pointer.
    unsafe { ptr::write_volatile(word, 0) };
}

/// Replaces a word if it still is what it was. Kernel 5.12.
#[cfg(not(segue_no_compare_and_swap))]
#[inline(always)]
pub(crate) fn swap(word: &mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: an exclusive reference is a valid, aligned pointer; every concurrent writer of such a word uses this.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) ptr::from_mut(word),
            new = in(reg) new,
            inout("r0") found,
            options(nostack, preserves_flags),
        );
    }
    found == old
}

/// The same for kernels without that instruction: not one step, so that of two CPUs in the same instant one change
/// may be lost.
#[cfg(segue_no_compare_and_swap)]
#[inline(always)]
pub(crate) fn swap(word: &mut u64, old: u64, new: u64) -> bool {
    if read(word) != old {
        return false;
    }
    // SAFETY: an exclusive reference is a valid, aligned pointer.
    unsafe { ptr::write_volatile(word, new) };
    true
}

/// The service of a destination.
#[inline(always)]
pub(crate) fn service_of(key: &FrontendKey) -> Option<u32> {
    // SAFETY: the value is one word, which an update replaces as a whole.
    unsafe { FRONTENDS.get(key) }.copied()
}

/// The policy record in force for a service.
#[inline(always)]
pub(crate) fn policy_of(service: u32) -> Option<&'static Policy> {
    let word = SERVICES.get_ptr(service)?;
    // SAFETY: the kernel gave a pointer into the array. Volatile: one load of the word the agent may replace.
    let word = unsafe { ptr::read_volatile(word) };
    POLICIES.get(word.policy()?)
}

/// A slot.
#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<&'static Slot> {
    SLOTS.get(index)
}

/// A backend.
#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<&'static Backend> {
    BACKENDS.get(id)
}

/// The counts of a backend.
#[inline(always)]
pub(crate) fn backend_state(id: u32) -> Option<&'static mut BackendState> {
    // SAFETY: the kernel gave a pointer into the array; fields are only changed by `add`.
    BACKEND_STATE.get_ptr_mut(id).map(|state| unsafe { &mut *state })
}

/// The counts of a service.
#[inline(always)]
pub(crate) fn service_state(service: u32) -> Option<&'static mut ServiceState> {
    // SAFETY: as for `backend_state`.
    SERVICE_STATE.get_ptr_mut(service).map(|state| unsafe { &mut *state })
}

/// This CPU's counts of an edge, made when they are not there yet.
#[inline(always)]
pub(crate) fn edge(key: &EdgeKey) -> Option<&'static mut Edge> {
    let found = match EDGES.get_ptr_mut(key) {
        Some(found) => Some(found),
        None => {
            // NOEXIST: another CPU may have made the entry since, and this CPU's counts with it.
            let _ = EDGES.insert(key, &NEW_EDGE, u64::from(BPF_NOEXIST));
            EDGES.get_ptr_mut(key)
        }
    };
    match found {
        // SAFETY: the kernel gave a pointer to this CPU's value; fields are only changed by `add`.
        Some(found) => Some(unsafe { &mut *found }),
        None => {
            lost(Loss::Edge);
            None
        }
    }
}

/// What a connected socket remembers.
#[inline(always)]
pub(crate) fn connection(socket: Socket) -> Option<&'static mut Connection> {
    stored::get(&CONNECTIONS, socket)
}

/// Remembers for a socket that has nothing to remember yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn new_connection(socket: Socket, value: &mut Connection) -> Option<&'static mut Connection> {
    stored::get_or(&CONNECTIONS, socket, value)
}

/// Forgets what a connected socket remembered.
#[inline(always)]
pub(crate) fn forget_connection(socket: Socket) {
    stored::forget(&CONNECTIONS, socket);
}

/// What an unconnected UDP socket remembers.
#[inline(always)]
pub(crate) fn datagrams(socket: Socket) -> Option<&'static mut Datagrams> {
    stored::get(&DATAGRAMS, socket)
}

/// The same, made empty when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn datagrams_or_new(socket: Socket) -> Option<&'static mut Datagrams> {
    stored::get_or_zeros(&DATAGRAMS, socket)
}

/// Until when somebody follows single connections.
#[inline(always)]
pub(crate) fn follow_until_ns() -> u64 {
    match SETTINGS.get_ptr(0) {
        // SAFETY: the kernel gave a pointer into the array. Volatile: one load of a word the agent may replace.
        Some(settings) => unsafe { ptr::read_volatile(&raw const (*settings).follow_until_ns) },
        None => 0,
    }
}

/// Counts how a run of a program ended.
#[inline(always)]
pub(crate) fn count(hook: Hook, outcome: Outcome) {
    let index = hook as u32 * Outcome::ALL.len() as u32 + outcome as u32;
    if let Some(counter) = OUTCOMES.get_ptr_mut(index) {
        // SAFETY: the kernel gave a pointer to this CPU's counter.
        add(unsafe { &mut *counter }, 1);
    }
}

/// Counts what could not be recorded.
#[inline(always)]
pub(crate) fn lost(loss: Loss) {
    if let Some(counter) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the kernel gave a pointer to this CPU's counter.
        add(unsafe { &mut *counter }, 1);
    }
}

/// Sends an event to the ring. `false` where it is full.
#[inline(always)]
pub(crate) fn send(event: Event) -> bool {
    match EVENTS.reserve::<Event>(0) {
        Some(mut place) => {
            // SAFETY: the kernel gave so much memory to write to, and every field is written.
            unsafe { fill(place.as_mut_ptr(), &event) };
            place.submit(0);
            true
        }
        None => false,
    }
}

/// Writes an event field by field. Volatile: of the zeros the compiler would make calls of `memset`, each with a frame
/// of its own on a stack that kernels before 6.8 count in steps of 32 bytes.
///
/// # Safety
/// `at` must be valid for writing an event.
#[inline(always)]
unsafe fn fill(at: *mut Event, event: &Event) {
    macro_rules! write_each {
        ($($($field:ident).+),+ $(,)?) => {
            // SAFETY: fields of what the caller may write to.
            unsafe { $( ptr::write_volatile(&raw mut (*at).$($field).+, event.$($field).+); )+ }
        };
    }
    write_each!(
        at_ns,
        duration_ns,
        cgroup,
        sent_bytes,
        received_bytes,
        service,
        backend,
        version,
        rtt_us,
        retransmits,
        kind,
        reason,
        protocol,
        states,
        requested.port_be,
        requested._pad,
        chosen.port_be,
        chosen._pad,
    );
    let mut word = 0;
    while word < 4 {
        // SAFETY: as above; an address has four words.
        unsafe {
            ptr::write_volatile(
                &raw mut (*at).requested.address.words_be[word],
                event.requested.address.words_be[word],
            );
            ptr::write_volatile(
                &raw mut (*at).chosen.address.words_be[word],
                event.chosen.address.words_be[word],
            );
        }
        word += 1;
    }
}
