//! One socket on a walk over all that remember a connection, and what is read of it.

use core::ffi::c_void;

use agent_ebpf::abi::{Address, Connection, Endpoint, OpenSocket, Sample, SocketOffsets};
#[cfg(not(segue_no_compare_and_swap))]
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_seq_write};

use super::TcpCounts;

/// Where `struct tcp_sock` keeps its counts on this kernel, in bytes from its start. Set by the loader, which
/// reads them from the kernel's own type information.
#[unsafe(no_mangle)]
static TCP_BYTES_ACKED_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
static TCP_BYTES_RECEIVED_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
static TCP_SRTT_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
static TCP_RETRANSMITS_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
static SOCKET_STATE_OFFSET: u32 = 0;

/// Where a `struct sock` keeps what names it.
#[unsafe(no_mangle)]
static SOCKET_OFFSETS: SocketOffsets = SocketOffsets {
    family: 0,
    remote_v4: 0,
    local_v4: 0,
    remote_v6: 0,
    local_v6: 0,
    remote_port: 0,
    local_port: 0,
    interface: 0,
    cookie: 0,
    net: 0,
    net_inode: 0,
};

/// The context of `iter/bpf_sk_storage_map`, as `struct bpf_iter__bpf_sk_storage_map` lays it out.
#[repr(C)]
pub(crate) struct RawVisit {
    meta: *mut RawVisitMeta,
    _map: u64,
    socket: *mut c_void,
    value: *mut Connection,
}

#[repr(C)]
struct RawVisitMeta {
    output: *mut c_void,
}

/// What a walk may write to its reader: integers without padding that is not written out.
pub(crate) trait Record: Copy {}
impl Record for Sample {}
impl Record for OpenSocket {}

/// One socket on the walk over all that remember a connection.
pub(crate) struct Visit {
    raw: *mut RawVisit,
}

impl Visit {
    /// Wraps a context.
    #[inline(always)]
    pub(crate) fn new(raw: *mut RawVisit) -> Self {
        Self { raw }
    }

    /// The walk is at its end.
    #[inline(always)]
    pub(crate) fn is_over(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.raw).socket.is_null() }
    }

    /// What the socket remembers; `None` at the end of the walk.
    #[inline(always)]
    pub(crate) fn connection(&self) -> Option<&Connection> {
        // SAFETY: the kernel passes a valid context; both pointers are null at the end of the walk.
        unsafe {
            if (*self.raw).socket.is_null() {
                return None;
            }
            (*self.raw).value.as_ref()
        }
    }

    /// The same, to be changed.
    #[inline(always)]
    pub(crate) fn connection_mut(&self) -> Option<&mut Connection> {
        // SAFETY: as above. What other programs write at this moment are other fields, or the end of the connection.
        unsafe { if (*self.raw).socket.is_null() { None } else { (*self.raw).value.as_mut() } }
    }

    /// What names this very socket; `None` at the end of the walk.
    #[inline(always)]
    pub(crate) fn open_socket(&self, connection: &Connection) -> Option<OpenSocket> {
        const AF_INET6: u16 = 10;
        let at = &raw const SOCKET_OFFSETS;
        // SAFETY: `socket` is a `struct sock`; the offsets are this kernel's. It is loaded once: the verifier asks for a
        // check of each pointer that was loaded.
        unsafe {
            let socket = (*self.raw).socket;
            if socket.is_null() {
                return None;
            }
            let (local, remote) = if read_field::<u16>(socket, &raw const (*at).family) == AF_INET6 {
                let address = |field| Address::from_v6_be(read_field(socket, field));
                (address(&raw const (*at).local_v6), address(&raw const (*at).remote_v6))
            } else {
                let address = |field| Address::from_v4_be(read_field(socket, field));
                (address(&raw const (*at).local_v4), address(&raw const (*at).remote_v4))
            };
            let local_port = read_field::<u16>(socket, &raw const (*at).local_port);
            let net = read_field::<u64>(socket, &raw const (*at).net) as *mut c_void;
            Some(OpenSocket {
                cookie: cookie_of(socket),
                service: connection.service,
                backend: connection.backend,
                backend_generation: connection.backend_generation,
                netns: read_field(net, &raw const (*at).net_inode),
                local: Endpoint::new(local, local_port.to_be()),
                remote: Endpoint::new(remote, read_field(socket, &raw const (*at).remote_port)),
                chosen: connection.chosen,
                interface: read_field(socket, &raw const (*at).interface),
                protocol: connection.protocol,
                state: read_field(socket, &raw const SOCKET_STATE_OFFSET),
                _pad: [0; 6],
            })
        }
    }

    /// What its TCP socket counted so far, as payload.
    #[inline(always)]
    pub(crate) fn counts(&self, connection: &Connection) -> TcpCounts {
        // SAFETY: `socket` is a `struct sock`, which is the start of a `struct tcp_sock` for TCP; the offsets
        // are this kernel's.
        unsafe {
            let socket = (*self.raw).socket;
            let mut counts = TcpCounts {
                sent_bytes: read_field(socket, &raw const TCP_BYTES_ACKED_OFFSET),
                received_bytes: read_field(socket, &raw const TCP_BYTES_RECEIVED_OFFSET),
                rtt_us: read_field::<u32>(socket, &raw const TCP_SRTT_OFFSET) >> 3,
                retransmits: read_field(socket, &raw const TCP_RETRANSMITS_OFFSET),
                segments_received: 0,
            };
            counts.keep_payload(connection, read_field(socket, &raw const SOCKET_STATE_OFFSET));
            counts
        }
    }

    /// Writes a record to the reader of the walk.
    #[inline(always)]
    pub(crate) fn report<T: Record>(&self, record: &T) {
        // SAFETY: the kernel passes a valid context; the helper copies the record.
        unsafe {
            let output = (*(*self.raw).meta).output;
            bpf_seq_write(output.cast(), core::ptr::from_ref(record).cast(), size_of::<T>() as u32);
        }
    }
}

/// The number the kernel knows a socket by, given to it now where it has none. Kernel 5.12.
///
/// # Safety
///
/// `socket` is a `struct sock` of the context of a walk, checked for null.
#[cfg(not(segue_no_compare_and_swap))]
#[inline(always)]
unsafe fn cookie_of(socket: *mut c_void) -> u64 {
    // SAFETY: what the helper asks for.
    unsafe { bpf_get_socket_cookie(socket) }
}

/// The same for kernels where a walk may not ask for it: what `connect()` saw to, see
/// [`super::SocketAddress::give_cookie`].
///
/// # Safety
///
/// As above.
#[cfg(segue_no_compare_and_swap)]
#[inline(always)]
unsafe fn cookie_of(socket: *mut c_void) -> u64 {
    // SAFETY: the offset is a constant of this object.
    unsafe { read_field(socket, &raw const SOCKET_OFFSETS.cookie) }
}

/// Reads a field of a kernel structure; zero where it cannot be read.
///
/// # Safety
///
/// `offset` must point to a constant of this object.
#[inline(always)]
unsafe fn read_field<T: Default>(base: *mut c_void, offset: *const u32) -> T {
    let mut value = T::default();
    // SAFETY: a volatile read of a constant; the helper checks the address it copies from.
    unsafe {
        let offset = core::ptr::read_volatile(offset);
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, base.byte_add(offset as usize));
    }
    value
}
