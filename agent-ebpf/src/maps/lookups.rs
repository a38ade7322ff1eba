//! The maps of DNS lookups: which of them wait on a socket, and how far a connection's messages are read.

use agent_ebpf::abi::lookup::{PLACES, ROOMS};
use agent_ebpf::abi::{LookupRoom, LookupStream, Lookups, ServedLookups};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::PerCpuArray;

use super::{rooms, stored};
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

/// Room for a message, of the programs that read one on a CPU right now. Kernel writes.
#[map]
static LOOKUP_ROOM: PerCpuArray<LookupRoom> = PerCpuArray::with_max_entries(ROOMS, 0);

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

/// A room of this CPU by its number.
#[inline(always)]
pub(crate) fn lookup_room(number: u32) -> Option<&'static mut LookupRoom> {
    // SAFETY: the kernel gave a pointer to this CPU's room, which only who took it writes to.
    LOOKUP_ROOM.get_ptr_mut(number).map(|room| unsafe { &mut *room })
}

/// Takes a room for the run of this program, which must leave it; gives its number. `None` where all are taken.
#[inline(always)]
pub(crate) fn take_lookup_room() -> Option<u32> {
    rooms::take(ROOMS, |number| Some(&mut lookup_room(number)?.taken))
}

/// Leaves a room.
#[inline(always)]
pub(crate) fn leave_lookup_room(number: u32) {
    if let Some(room) = lookup_room(number) {
        rooms::leave(&mut room.taken);
    }
}

/// Puts what lookups are told by into a room, for a function that takes numbers to choose among. `false`: there is none.
#[inline(always)]
pub(crate) fn load_waiting(lookups: &Lookups, number: u32) -> bool {
    let Some(room) = lookup_room(number) else { return false };
    let mut at = 0;
    while at < PLACES {
        room.waiting[at].asked_at_ns = lookups.places[at].waiting.asked_at_ns;
        room.waiting[at].key = lookups.places[at].waiting.key;
        at += 1;
    }
    true
}
