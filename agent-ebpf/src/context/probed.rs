//! What probes are given: the arguments and the result of a function of a process, its memory, and the socket of a tracepoint.
//! Decides nothing.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_socket_cookie, bpf_probe_read_user};
use aya_ebpf::programs::{BtfTracePointContext, ProbeContext, RetProbeContext};

use super::{Socket, Text};

/// Text in the memory of the process that runs.
#[derive(Clone, Copy)]
pub(crate) struct UserText {
    at: u64,
}

impl UserText {
    /// The text at an address. Where there is none, reading it gives nothing.
    #[inline(always)]
    pub(crate) fn new(at: u64) -> Self {
        Self { at }
    }
}

impl Text for UserText {
    #[inline(always)]
    unsafe fn load(&self, at: u32, to: *mut c_void, count: u32) -> bool {
        let from = (self.at + u64::from(at)) as *const c_void;
        // SAFETY: the caller's word; the helper checks the address it reads from.
        unsafe { bpf_probe_read_user(to, count, from) == 0 }
    }
}

/// The number in the memory of the process that runs, at an address.
#[inline(always)]
pub(crate) fn user_number(at: u64) -> Option<u64> {
    let mut number = 0_u64;
    // SAFETY: the number is on this program's stack; the helper checks the address.
    let read = unsafe {
        bpf_probe_read_user((&raw mut number).cast(), size_of::<u64>() as u32, at as *const c_void)
    };
    (read == 0).then_some(number)
}

/// The thread that runs, by its number in the first namespace; above it, the process.
#[inline(always)]
pub(crate) fn current_thread() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

/// The process of a thread.
#[inline(always)]
pub(crate) fn process_of(thread: u64) -> u32 {
    (thread >> 32) as u32
}

/// An argument of the function that is called; 0 where the machine does not pass it in a register.
#[inline(always)]
pub(crate) fn argument(context: &ProbeContext, index: usize) -> u64 {
    context.arg::<u64>(index).unwrap_or_default()
}

/// What the function gave that returns, as the `int` it is.
#[inline(always)]
pub(crate) fn result(context: &RetProbeContext) -> i32 {
    context.ret::<i32>()
}

/// The socket that a tracepoint is about, its first argument.
#[inline(always)]
pub(crate) fn traced_socket(context: &BtfTracePointContext) -> Socket {
    Socket(context.arg::<*mut c_void>(0))
}

/// The number of the socket of a tracepoint, as [`Packet::socket_cookie`](super::Packet::socket_cookie) gives it. Kernel 5.12.
#[inline(always)]
pub(crate) fn traced_cookie(context: &BtfTracePointContext) -> u64 {
    // SAFETY: the kernel gave the context; the tracepoint's first argument is a socket, as this program type's helper wants it.
    unsafe {
        let socket = *context.as_ptr().cast::<*mut c_void>();
        bpf_get_socket_cookie(socket)
    }
}
