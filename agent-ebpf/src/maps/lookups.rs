//! The maps of DNS lookups: which of them wait on a socket, and how far a connection's messages are read.

use core::ptr;

use agent_ebpf::abi::lookup::PLACES;
use agent_ebpf::abi::{LookupRoom, LookupStream, Lookups, ServedLookups};
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::PerCpuArray;

use super::storage;
use crate::context::Socket;

/// Lookups that wait on a client's socket, or on a connection. Kernel writes.
#[btf_map]
static LOOKUPS: SkStorage<Lookups> = SkStorage::new();

/// Lookups that wait on a server's datagram socket. Kernel writes.
#[btf_map]
static SERVED_LOOKUPS: SkStorage<ServedLookups> = SkStorage::new();

/// How far the messages of a connection are read. Kernel writes.
#[btf_map]
static LOOKUP_STREAMS: SkStorage<LookupStream> = SkStorage::new();

/// Room for a message, one of each CPU for what is received and one for what is sent: a packet may arrive while another is
/// on its way out. Kernel writes.
#[map]
static LOOKUP_ROOM: PerCpuArray<LookupRoom> = PerCpuArray::with_max_entries(2, 0);

/// What a socket remembers, or without an initial value what the kernel makes of zeros.
#[inline(always)]
fn get<T>(map: &'static SkStorage<T>, socket: Socket, flags: u32) -> Option<&'static mut T> {
    // SAFETY: the socket comes from a context and is checked for null; the kernel gives a pointer to the socket's own
    // value, valid for this run.
    unsafe {
        bpf_sk_storage_get(storage(map), socket.0, ptr::null_mut(), u64::from(flags)).cast::<T>().as_mut()
    }
}

/// The lookups that wait on a client's socket or a connection.
#[inline(always)]
pub(crate) fn lookups(socket: Socket) -> Option<&'static mut Lookups> {
    get(&LOOKUPS, socket, 0)
}

/// The same, made empty when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn lookups_or_new(socket: Socket) -> Option<&'static mut Lookups> {
    get(&LOOKUPS, socket, BPF_SK_STORAGE_GET_F_CREATE)
}

/// The lookups that wait on a server's datagram socket.
#[inline(always)]
pub(crate) fn served_lookups(socket: Socket) -> Option<&'static mut ServedLookups> {
    get(&SERVED_LOOKUPS, socket, 0)
}

/// The same, made empty when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn served_lookups_or_new(socket: Socket) -> Option<&'static mut ServedLookups> {
    get(&SERVED_LOOKUPS, socket, BPF_SK_STORAGE_GET_F_CREATE)
}

/// How far a connection's messages are read.
#[inline(always)]
pub(crate) fn lookup_stream(socket: Socket) -> Option<&'static mut LookupStream> {
    get(&LOOKUP_STREAMS, socket, 0)
}

/// The same, at its beginning, when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn new_lookup_stream(socket: Socket) -> Option<&'static mut LookupStream> {
    get(&LOOKUP_STREAMS, socket, BPF_SK_STORAGE_GET_F_CREATE)
}

/// Room for a message that goes one way, until the run of this program ends.
#[inline(always)]
pub(crate) fn lookup_room(is_sent: bool) -> Option<&'static mut LookupRoom> {
    // SAFETY: the kernel gave a pointer to this CPU's room; what is received is not interrupted by more of it, and of
    // what is sent only what a process sends is about names.
    LOOKUP_ROOM.get_ptr_mut(u32::from(is_sent)).map(|room| unsafe { &mut *room })
}

/// Puts what lookups are told by into a room, for a function that takes numbers to choose among. `false`: there is none.
#[inline(always)]
pub(crate) fn load_waiting(lookups: &Lookups, is_sent: bool) -> bool {
    let Some(room) = lookup_room(is_sent) else { return false };
    let mut at = 0;
    while at < PLACES {
        room.waiting[at].asked_at_ns = lookups.places[at].waiting.asked_at_ns;
        room.waiting[at].key = lookups.places[at].waiting.key;
        at += 1;
    }
    true
}
