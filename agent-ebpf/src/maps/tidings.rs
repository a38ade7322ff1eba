//! The ring of requests, and the switches that say which of them are told.

use core::ptr;

use agent_ebpf::abi::{
    Address, Endpoint, RequestEvent, RequestHead, RequestKey, RequestPlace, RequestRecord, Settings, limits,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;

use crate::context::Packet;

/// Single requests, for those who follow them and for spans. Kernel writes.
#[map]
static REQUEST_EVENTS: RingBuf = RingBuf::with_byte_size(limits::REQUEST_RING_BYTES, 0);

#[inline(always)]
fn settings() -> Option<*mut Settings> {
    super::SETTINGS.get_ptr_mut(0)
}

/// Until when single requests are told.
#[inline(always)]
pub(crate) fn tell_until_ns() -> u64 {
    match settings() {
        // SAFETY: the kernel gave a pointer into the array. Volatile: one load of a word the agent may replace.
        Some(settings) => unsafe { ptr::read_volatile(&raw const (*settings).tell_until_ns) },
        None => 0,
    }
}

/// Which of them: those whose lot is less.
#[inline(always)]
pub(crate) fn tell_below() -> u64 {
    match settings() {
        // SAFETY: as above.
        Some(settings) => unsafe { ptr::read_volatile(&raw const (*settings).tell_below) },
        None => 0,
    }
}

/// Which of them with how they begin: those whose lot is less.
#[inline(always)]
pub(crate) fn tell_heads_below() -> u64 {
    match settings() {
        // SAFETY: as above.
        Some(settings) => unsafe { ptr::read_volatile(&raw const (*settings).tell_heads_below) },
        None => 0,
    }
}

/// Sends how a request begins: what stands in a packet from `at` on. `false` where the ring is full.
#[inline(always)]
pub(crate) fn send_head(packet: Packet, at: u32, bytes: u32, cookie: u64, sequence: u32) -> bool {
    let Some(mut place) = REQUEST_EVENTS.reserve::<RequestHead>(0) else { return false };
    let head = place.as_mut_ptr();
    // SAFETY: the kernel gave so much memory to write to. Every field is written, and the bytes as many as are named.
    unsafe {
        ptr::write_volatile(&raw mut (*head).kind, RequestRecord::Head as u32);
        ptr::write_volatile(&raw mut (*head).sequence, sequence);
        ptr::write_volatile(&raw mut (*head).cookie, cookie);
        let length = packet.copy_to((&raw mut (*head).bytes).cast(), at, bytes);
        ptr::write_volatile(&raw mut (*head).length, length);
        ptr::write_volatile(&raw mut (*head)._pad, 0);
    }
    place.submit(0);
    true
}

/// Sends that a request was answered. `false` where the ring is full.
#[inline(always)]
pub(crate) fn send_answered(
    key: &RequestKey,
    place: &RequestPlace,
    requested: Option<&Endpoint>,
    (asked_at_ns, duration_ns): (u64, u64),
    (lot, cookie): (u32, u64),
) -> bool {
    let Some(mut entry) = REQUEST_EVENTS.reserve::<RequestEvent>(0) else { return false };
    let at = entry.as_mut_ptr();
    // Volatile: of the zeros the compiler would make calls of `memset`, as for events.
    macro_rules! write_each {
        ($($field:ident = $value:expr),+ $(,)?) => {
            // SAFETY: the kernel gave so much memory to write to, and every field is written.
            unsafe { $( ptr::write_volatile(&raw mut (*at).$field, $value); )+ }
        };
    }
    write_each!(
        kind = RequestRecord::Answered as u32,
        lot = lot,
        asked_at_ns = asked_at_ns,
        duration_ns = duration_ns,
        cgroup = key.cgroup,
        cookie = cookie,
        service = key.service,
        version = key.version,
        status = key.status,
        protocol = key.protocol,
        operation = key.operation,
        direction = key.direction,
        _pad = [0; 3],
    );
    // SAFETY: as above.
    unsafe {
        put(&raw mut (*at).place.client, &place.client);
        put(&raw mut (*at).place.server, &place.server);
        ptr::write_volatile(&raw mut (*at).place.sequence, place.sequence);
        match requested {
            Some(requested) => put(&raw mut (*at).requested, requested),
            None => put(
                &raw mut (*at).requested,
                &Endpoint { address: Address { words_be: [0; 4] }, port_be: 0, _pad: 0 },
            ),
        }
    }
    entry.submit(0);
    true
}

/// Writes an endpoint word by word.
///
/// # Safety
/// `to` must be valid for writing an endpoint.
#[inline(always)]
unsafe fn put(to: *mut Endpoint, from: &Endpoint) {
    let mut word = 0;
    while word < 4 {
        // SAFETY: the caller's word; an address has four words.
        unsafe { ptr::write_volatile(&raw mut (*to).address.words_be[word], from.address.words_be[word]) };
        word += 1;
    }
    // SAFETY: as above.
    unsafe {
        ptr::write_volatile(&raw mut (*to).port_be, from.port_be);
        ptr::write_volatile(&raw mut (*to)._pad, 0);
    }
}
