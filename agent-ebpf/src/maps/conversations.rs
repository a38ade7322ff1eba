//! The maps of conversations: what a socket remembers of messages that are walked, and the room to walk them in.

use core::ptr;

use agent_ebpf::abi::conversation::{CARRY_BYTES, Conversation, Cursor, DESKS, Desk, ROOM_BYTES, Room};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::PerCpuArray;

use super::rooms::{self, copy_words};
use super::stored;
use crate::context::Socket;

/// What a socket remembers of a conversation; only those that have one have an entry. Kernel writes.
#[btf_map]
static CONVERSATIONS: SkStorage<Conversation> = SkStorage::new();

/// What the programs that read a packet on a CPU right now work on. Kernel writes.
#[map]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(DESKS, 0);

/// What a socket remembers of its conversation.
#[inline(always)]
pub(crate) fn conversation(socket: Socket) -> Option<&'static mut Conversation> {
    stored::get(&CONVERSATIONS, socket)
}

/// The same for a socket whose conversation begins. `None` where there is no memory.
#[inline(always)]
pub(crate) fn new_conversation(socket: Socket) -> Option<&'static mut Conversation> {
    stored::get_or_zeros(&CONVERSATIONS, socket)
}

/// Forgets a socket's conversation.
#[inline(always)]
pub(crate) fn forget_conversation(socket: Socket) {
    stored::forget(&CONVERSATIONS, socket);
}

/// A desk of this CPU by its number.
#[inline(always)]
pub(crate) fn desk(number: u32) -> Option<&'static mut Desk> {
    // SAFETY: the kernel gave a pointer to this CPU's desk, which only who took it works on.
    DESK.get_ptr_mut(number).map(|desk| unsafe { &mut *desk })
}

/// Takes a desk for the run of this program, which must leave it; gives its number. `None` where all are taken.
#[inline(always)]
pub(crate) fn take_desk() -> Option<u32> {
    rooms::take(DESKS, |number| Some(&mut desk(number)?.taken))
}

/// Leaves a desk.
#[inline(always)]
pub(crate) fn leave_desk(desk: &mut Desk) {
    rooms::leave(&mut desk.taken);
}

/// Lays a conversation on the desk.
#[inline(always)]
pub(crate) fn lay_out(kept: &Conversation, desk: &mut Desk) {
    copy_words(kept, &mut desk.conversation);
}

/// Keeps what a packet of the client changed.
#[inline(always)]
pub(crate) fn keep_asks(desk: &Desk, kept: &mut Conversation) {
    copy_words(&desk.conversation.flights, &mut kept.flights);
    copy_words::<Cursor>(&desk.conversation.asks, &mut kept.asks);
}

/// Keeps what a packet of the server changed.
#[inline(always)]
pub(crate) fn keep_answers(desk: &Desk, kept: &mut Conversation) {
    copy_words::<Cursor>(&desk.conversation.answers, &mut kept.answers);
    kept.tail = desk.conversation.tail;
}

/// Puts what was kept of a message at the beginning of the room.
#[inline(always)]
pub(crate) fn place(carry: &[u64; CARRY_BYTES / 8], room: &mut Room) {
    let to = room.as_mut_ptr().cast::<u64>();
    let mut at = 0;
    while at < CARRY_BYTES / 8 {
        // SAFETY: the room is longer, and begins at a multiple of eight. Volatile: as above.
        unsafe { ptr::write_volatile(to.add(at), ptr::read_volatile(&raw const carry[at])) };
        at += 1;
    }
}

/// Keeps what is in the room from `from` on.
#[inline(always)]
pub(crate) fn pick_up(room: &Room, from: u32, carry: &mut [u64; CARRY_BYTES / 8]) {
    let mut at = 0;
    while at < CARRY_BYTES / 8 {
        let begin = from as usize + at * 8;
        let mut word = 0;
        let mut byte = 0;
        while byte < 8 {
            // One after the other: the compiler would work out all places first, and keep them in two hundred bytes of stack.
            let place = super::unproven(begin + byte) & (ROOM_BYTES - 1);
            // The target is little-endian: the first byte is the lowest.
            word |= u64::from(room[place]) << (8 * byte);
            byte += 1;
        }
        carry[at] = word;
        at += 1;
    }
}
