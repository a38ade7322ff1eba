//! The maps of requests: what a socket remembers of its exchange, and what is counted.

use core::mem::MaybeUninit;
use core::ptr;

use agent_ebpf::abi::request::{HEAD_BYTES, Position, SCRATCHES, Scratch};
use agent_ebpf::abi::{AppProtocol, Direction, Exchange, RequestKey, Requests, Stage, Unparsed, limits};
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{PerCpuArray, PerCpuHashMap};

use super::{NEW_HISTOGRAM, add, rooms, stored};
use crate::context::Socket;

/// What a socket remembers of its requests. Kernel writes.
#[btf_map]
static EXCHANGES: SkStorage<Exchange> = SkStorage::new();

/// Counts of requests per CPU. Kernel writes, agent removes those of dead cgroups.
#[map]
static REQUESTS: PerCpuHashMap<RequestKey, Requests> =
    PerCpuHashMap::with_max_entries(limits::MAX_REQUESTS, BPF_F_NO_PREALLOC);

/// What was not counted as a request, by reason and CPU. Kernel writes.
#[map]
static UNPARSED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Unparsed::ALL.len() as u32, 0);

/// Room for the bytes of a message, of the programs that run on a CPU right now: the stack has none. Kernel writes.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SCRATCHES, 0);

/// A row of requests nobody counted yet.
static NEW_REQUESTS: Requests = Requests(NEW_HISTOGRAM);

/// A direction nothing was read of.
pub(super) const NOWHERE: Position = Position { next: 0, ahead_start: 0, ahead_end: 0 };

/// What a socket remembers of its requests.
#[inline(always)]
pub(crate) fn exchange(socket: Socket) -> Option<&'static mut Exchange> {
    stored::get(&EXCHANGES, socket)
}

/// The same for a socket that has nothing to remember yet. `None` where there is no memory.
#[inline(always)]
pub(crate) fn new_exchange(socket: Socket, value: &mut Exchange) -> Option<&'static mut Exchange> {
    stored::get_or(&EXCHANGES, socket, value)
}

/// What is remembered where nothing is known: zeros, which are an outbound exchange of no protocol that is idle.
///
/// Word by word: the target's library writes byte by byte, and this is done for every connection.
#[inline(always)]
pub(crate) fn no_exchange() -> Exchange {
    const _: () =
        assert!(AppProtocol::Unknown as u8 == 0 && Direction::Outbound as u8 == 0 && Stage::Idle as u8 == 0);
    let mut exchange = MaybeUninit::uninit();
    rooms::zero_words(&mut exchange);
    // SAFETY: all of it is zero now, which numbers may be.
    unsafe { exchange.assume_init() }
}

/// Forgets what a socket remembered of its requests.
#[inline(always)]
pub(crate) fn forget_exchange(socket: Socket) {
    stored::forget(&EXCHANGES, socket);
}

/// This CPU's counts of a row of requests, made when they are not there yet.
#[inline(always)]
pub(crate) fn requests(key: &RequestKey) -> Option<&'static mut Requests> {
    let found = match REQUESTS.get_ptr_mut(key) {
        Some(found) => Some(found),
        None => {
            // NOEXIST: as for edges.
            let _ = REQUESTS.insert(key, &NEW_REQUESTS, u64::from(BPF_NOEXIST));
            REQUESTS.get_ptr_mut(key)
        }
    };
    // SAFETY: the kernel gave a pointer to this CPU's value; fields are only changed by `add`.
    found.map(|found| unsafe { &mut *found })
}

/// Counts something that was not counted as a request.
#[inline(always)]
pub(crate) fn unparsed(reason: Unparsed) {
    if let Some(counter) = UNPARSED.get_ptr_mut(reason as u32) {
        // SAFETY: the kernel gave a pointer to this CPU's counter.
        add(unsafe { &mut *counter }, 1);
    }
}

/// A room of this CPU by its number.
#[inline(always)]
pub(crate) fn scratch(number: u32) -> Option<&'static mut Scratch> {
    // SAFETY: the kernel gave a pointer to this CPU's room, which only who took it writes to.
    SCRATCH.get_ptr_mut(number).map(|room| unsafe { &mut *room })
}

/// Takes a room for the run of this program, which must leave it; gives its number. `None` where all are taken.
#[inline(always)]
pub(crate) fn take_scratch() -> Option<u32> {
    rooms::take(SCRATCHES, |number| Some(&mut scratch(number)?.taken))
}

/// Leaves a room.
#[inline(always)]
pub(crate) fn leave_scratch(number: u32) {
    if let Some(room) = scratch(number) {
        rooms::leave(&mut room.taken);
    }
}

/// Words of a head, as bytes are kept and as they are read.
const HEAD_WORDS: usize = HEAD_BYTES / 4;

/// Puts what is kept of a head into the scratch. Word by word: the target's library copies byte by byte.
#[inline(always)]
pub(crate) fn load_head(scratch: &mut Scratch, kept: &[u64; HEAD_WORDS]) {
    let to = scratch.head.as_mut_ptr().cast::<u64>();
    let mut at = 0;
    while at < HEAD_WORDS {
        // SAFETY: a head is so many words long, and a map's value begins at a multiple of eight. Volatile: no call of memcpy.
        unsafe { ptr::write_volatile(to.add(at), kept[at]) };
        at += 1;
    }
}

/// How much is kept of a message right now. Volatile: the socket's other program may be changing it.
#[inline(always)]
pub(crate) fn kept_bytes(exchange: &Exchange) -> u8 {
    // SAFETY: a reference is a valid, aligned pointer.
    unsafe { ptr::read_volatile(&raw const exchange.head_length) }
}

/// Keeps the head that is in the scratch.
#[inline(always)]
pub(crate) fn keep_head(scratch: &Scratch, kept: &mut [u64; HEAD_WORDS]) {
    let from = scratch.head.as_ptr().cast::<u64>();
    let mut at = 0;
    while at < HEAD_WORDS {
        // SAFETY: as above.
        kept[at] = unsafe { ptr::read_volatile(from.add(at)) };
        at += 1;
    }
}
