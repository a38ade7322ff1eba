//! Values that lie with a socket and go when it goes: one way to them for every map of this kind.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get};

use crate::context::Socket;

/// A storage map as the helpers take it: the loader replaces the address of the definition by the map's.
#[inline(always)]
fn storage<T>(map: &'static SkStorage<T>) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}

/// What a socket remembers.
#[inline(always)]
pub(super) fn get<T>(map: &'static SkStorage<T>, socket: Socket) -> Option<&'static mut T> {
    // SAFETY: the socket comes from a context and is checked for null; the kernel gives a pointer to the socket's own
    // value, valid for this run.
    unsafe { bpf_sk_storage_get(storage(map), socket.0, ptr::null_mut(), 0).cast::<T>().as_mut() }
}

/// The same, and this for a socket that has nothing to remember yet. `None` where there is no memory.
#[inline(always)]
pub(super) fn get_or<T>(map: &'static SkStorage<T>, socket: Socket, value: &mut T) -> Option<&'static mut T> {
    // SAFETY: as for `get`; the value has the map's size.
    unsafe { create(map, socket, ptr::from_mut(value).cast()) }
}

/// The same, and zeros for a socket that has nothing to remember yet.
#[inline(always)]
pub(super) fn get_or_zeros<T>(map: &'static SkStorage<T>, socket: Socket) -> Option<&'static mut T> {
    // SAFETY: as for `get`; without an initial value the kernel gives zeros.
    unsafe { create(map, socket, ptr::null_mut()) }
}

/// # Safety
/// `value` is null, or points to a value of the map.
#[inline(always)]
unsafe fn create<T>(
    map: &'static SkStorage<T>,
    socket: Socket,
    value: *mut c_void,
) -> Option<&'static mut T> {
    // SAFETY: as for `get`, and as the caller says.
    unsafe {
        bpf_sk_storage_get(storage(map), socket.0, value, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
            .cast::<T>()
            .as_mut()
    }
}

/// Forgets what a socket remembered.
#[inline(always)]
pub(super) fn forget<T>(map: &'static SkStorage<T>, socket: Socket) {
    // SAFETY: as for `get`.
    unsafe { bpf_sk_storage_delete(storage(map), socket.0) };
}
