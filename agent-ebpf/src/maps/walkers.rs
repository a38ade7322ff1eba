//! The maps of HTTP/2: what a connection is at, and room for what a program walks.

use agent_ebpf::abi::http2::MAX_WALKERS;
use agent_ebpf::abi::{Connection, Http2, Stream, Walk, Walker};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::PerCpuArray;

use super::rooms::copy_words;
use super::{stored, unproven};
use crate::context::Socket;

/// What a socket remembers of HTTP/2. Kernel writes.
#[btf_map]
static HTTP2: SkStorage<Http2> = SkStorage::new();

/// Room for what a program walks. Kernel writes.
#[map]
static WALKERS: PerCpuArray<Walker> = PerCpuArray::with_max_entries(MAX_WALKERS, 0);

/// What a socket remembers of HTTP/2.
#[inline(always)]
pub(crate) fn http2(socket: Socket) -> Option<&'static mut Http2> {
    stored::get(&HTTP2, socket)
}

/// The same for a socket that has nothing to remember yet: all zero, as [`Walk::NEW`] is. `None` where there is no memory.
#[inline(always)]
pub(crate) fn new_http2(socket: Socket) -> Option<&'static mut Http2> {
    stored::get_or_zeros(&HTTP2, socket)
}

/// Forgets what a socket remembered of HTTP/2.
#[inline(always)]
pub(crate) fn forget_http2(socket: Socket) {
    stored::forget(&HTTP2, socket);
}

/// A walker of this CPU, by its number.
#[inline(always)]
pub(crate) fn walker(number: u32) -> Option<&'static mut Walker> {
    // SAFETY: the kernel gave a pointer to this CPU's room. Who has taken it alone uses it.
    WALKERS.get_ptr_mut(number).map(|walker| unsafe { &mut *walker })
}

/// Takes a walker, until its `is_taken` is 0 again. A task's program may be interrupted by another's on the same CPU, which
/// ends before it goes on; so what is free stays free between the look and the mark.
///
/// It tells its number itself: one that the verifier knows would have it read what follows once for each.
#[inline(always)]
pub(crate) fn take_walker() -> Option<&'static mut Walker> {
    let mut number = 0;
    while number < MAX_WALKERS {
        if let Some(found) = walker(number)
            && found.is_taken == 0
        {
            found.is_taken = 1;
            found.number = number;
            break;
        }
        number += 1;
    }
    if number < MAX_WALKERS { walker(unproven(number as usize) as u32) } else { None }
}

/// Copies a walk.
#[inline(always)]
pub(crate) fn copy_walk(from: &Walk, to: &mut Walk) {
    copy_words(from, to);
}

/// Copies a stream.
#[inline(always)]
pub(crate) fn copy_stream(from: &Stream, to: &mut Stream) {
    copy_words(from, to);
}

/// Copies a connection.
#[inline(always)]
pub(crate) fn copy_connection(from: &Connection, to: &mut Connection) {
    copy_words(from, to);
}
