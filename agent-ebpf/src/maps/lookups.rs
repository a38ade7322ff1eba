//! The maps of DNS lookups: which of them wait on a socket, and how far a connection's messages are read.

use agent_ebpf::abi::lookup::PLACES;
use agent_ebpf::abi::{LookupRoom, LookupStream, Lookups, ServedLookups};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::PerCpuArray;

use super::stored;
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

/// The lookups that wait on a client's socket or a connection.
#[inline(always)]
pub(crate) fn lookups(socket: Socket) -> Option<&'static mut Lookups> {
    stored::get(&LOOKUPS, socket)
}

/// The same, made empty when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn lookups_or_new(socket: Socket) -> Option<&'static mut Lookups> {
    stored::get_or_zeros(&LOOKUPS, socket)
}

/// The lookups that wait on a server's datagram socket.
#[inline(always)]
pub(crate) fn served_lookups(socket: Socket) -> Option<&'static mut ServedLookups> {
    stored::get(&SERVED_LOOKUPS, socket)
}

/// The same, made empty when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn served_lookups_or_new(socket: Socket) -> Option<&'static mut ServedLookups> {
    stored::get_or_zeros(&SERVED_LOOKUPS, socket)
}

/// How far a connection's messages are read.
#[inline(always)]
pub(crate) fn lookup_stream(socket: Socket) -> Option<&'static mut LookupStream> {
    stored::get(&LOOKUP_STREAMS, socket)
}

/// The same, at its beginning, when it is not there yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn new_lookup_stream(socket: Socket) -> Option<&'static mut LookupStream> {
    stored::get_or_zeros(&LOOKUP_STREAMS, socket)
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
