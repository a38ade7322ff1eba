//! What the kernel hands to a program. The only module that dereferences a context; it decides nothing.

mod packet;
mod probed;
mod visit;

use core::ffi::c_void;

use agent_ebpf::abi::request::{HEAD_BYTES, SCAN_BYTES};
use agent_ebpf::abi::{Address, Connection, Endpoint};
use agent_ebpf::decide::flow;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_prandom_u32, bpf_getsockopt,
    bpf_ktime_get_ns, bpf_set_retval, bpf_setsockopt, bpf_skc_to_tcp_sock, bpf_sock_ops_cb_flags_set,
    bpf_tcp_sock,
};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext};

pub(crate) use packet::{Datagram, Packet, RawPacket, Segment};
pub(crate) use probed::{
    UserText, argument, current_thread, process_of, result, traced_cookie, traced_socket, user_number,
};
pub(crate) use visit::{RawVisit, Visit};

/// Whether the kernel lets these hooks choose the errno (6.1 and later). Set by the loader, which asks the
/// kernel; the verifier removes the branch that is not taken, so an older one never sees the helper.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 0;

/// Where `struct sock` keeps its error on this kernel, in bytes from its start; 0 where that is not known. Set by the
/// loader, which reads it from the kernel's own type information.
#[unsafe(no_mangle)]
static SOCKET_ERROR_OFFSET: u32 = 0;

/// Whether what is said inside TLS is read: then programs that see packets leave such connections to the probes. Set by the
/// loader; the verifier removes what is behind it otherwise.
#[unsafe(no_mangle)]
static READS_TLS: u8 = 0;

/// The cgroup that is managed, by its id. Set by the loader; known only where TLS is read.
#[unsafe(no_mangle)]
static MANAGED_CGROUP: u64 = 0;

/// What one side says, wherever it is read from.
pub(crate) trait Text {
    /// Loads so many bytes from `at` on; whether that could be done.
    ///
    /// # Safety
    /// `to` must be valid for writing so many.
    unsafe fn load(&self, at: u32, to: *mut c_void, count: u32) -> bool;

    /// Copies up to [`HEAD_BYTES`] bytes from `at` on behind the `filled` first ones of a head; gives how many. None where
    /// `bytes` is 0.
    #[inline(always)]
    fn append(&self, at: u32, bytes: u32, head: &mut [u8; 2 * HEAD_BYTES], filled: u8) -> usize {
        const MASK: usize = HEAD_BYTES - 1;
        let filled = filled as usize & MASK;
        // As the verifier must see them: at least 1 and at most HEAD_BYTES.
        let wanted = if bytes as usize >= HEAD_BYTES { HEAD_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: `filled` + `count` + 1 is less than the size of a head.
        let is_loaded = unsafe {
            let to = head.as_mut_ptr().add(filled).cast::<c_void>();
            self.load(at, to, count as u32 + 1)
        };
        if is_loaded { count + 1 } else { 0 }
    }

    /// Copies the bytes from `at` on into a room, as many as there are and fit; gives how many.
    #[inline(always)]
    fn copy(&self, at: u32, bytes: u32, room: &mut [u8; SCAN_BYTES]) -> usize {
        const MASK: usize = SCAN_BYTES - 1;
        let wanted = if bytes as usize >= SCAN_BYTES { SCAN_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: `count` + 1 is at most the size of the room.
        let is_loaded = unsafe { self.load(at, room.as_mut_ptr().cast(), count as u32 + 1) };
        if is_loaded { count + 1 } else { 0 }
    }
}

/// Which of the two forms of an address a context has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// A `…4` hook.
    V4,
    /// A `…6` hook; the address may be an IPv4-mapped one.
    V6,
}

/// A socket, as these programs may use it: a key of socket-local storage.
#[derive(Clone, Copy)]
pub(crate) struct Socket(pub(crate) *mut c_void);

/// The context of the `cgroup/sock_addr` hooks.
pub(crate) struct SocketAddress {
    raw: *mut bpf_sock_addr,
    family: Family,
}

impl SocketAddress {
    /// Wraps a context.
    #[inline(always)]
    pub(crate) fn new(context: &SockAddrContext, family: Family) -> Self {
        Self { raw: context.sock_addr, family }
    }

    /// The transport protocol's number.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        // SAFETY: the kernel passes a valid context, readable in words for the length of the run.
        let protocol = unsafe { (*self.raw).protocol };
        if protocol <= 255 { protocol as u8 } else { 0 }
    }

    /// The destination (connect, sendmsg), the source (recvmsg) or the peer (getpeername).
    #[inline(always)]
    pub(crate) fn endpoint(&self) -> Endpoint {
        // SAFETY: as above; each field is read by a load of its own width.
        unsafe {
            let address = match self.family {
                Family::V4 => Address::from_v4_be((*self.raw).user_ip4),
                Family::V6 => Address::from_v6_be([
                    (*self.raw).user_ip6[0],
                    (*self.raw).user_ip6[1],
                    (*self.raw).user_ip6[2],
                    (*self.raw).user_ip6[3],
                ]),
            };
            Endpoint::new(address, (*self.raw).user_port as u16)
        }
    }

    /// Replaces that endpoint. On a `…4` hook the address must be IPv4.
    #[inline(always)]
    pub(crate) fn set_endpoint(&self, endpoint: &Endpoint) {
        // SAFETY: these fields are writable in words on every hook this is called from.
        unsafe {
            match self.family {
                Family::V4 => (*self.raw).user_ip4 = endpoint.address.words_be[3],
                Family::V6 => {
                    (*self.raw).user_ip6[0] = endpoint.address.words_be[0];
                    (*self.raw).user_ip6[1] = endpoint.address.words_be[1];
                    (*self.raw).user_ip6[2] = endpoint.address.words_be[2];
                    (*self.raw).user_ip6[3] = endpoint.address.words_be[3];
                }
            }
            (*self.raw).user_port = u32::from(endpoint.port_be);
        }
    }

    /// The socket of the call.
    #[inline(always)]
    pub(crate) fn socket(&self) -> Option<Socket> {
        // SAFETY: as above. The field may be null, which the verifier makes us check.
        let socket = unsafe { (*self.raw).__bindgen_anon_1.sk };
        if socket.is_null() { None } else { Some(Socket(socket.cast())) }
    }

    /// Has the kernel number the socket, so that a walk can name it later. From 5.12 on a walk may do so itself.
    #[inline(always)]
    pub(crate) fn give_cookie(&self) {
        #[cfg(segue_no_compare_and_swap)]
        // SAFETY: a helper of this program type.
        unsafe {
            aya_ebpf::helpers::generated::bpf_get_socket_cookie(self.raw.cast())
        };
    }
}

/// The context of `cgroup/sock_release`.
pub(crate) struct ClosingSocket {
    raw: *mut bpf_sock,
}

impl ClosingSocket {
    /// Wraps a context.
    #[inline(always)]
    pub(crate) fn new(context: &SockContext) -> Self {
        Self { raw: context.sock }
    }

    /// The socket, which here is the context itself.
    #[inline(always)]
    pub(crate) fn socket(&self) -> Socket {
        Socket(self.raw.cast())
    }

    /// The TCP state, by number.
    #[inline(always)]
    pub(crate) fn state(&self) -> u8 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.raw).state as u8 }
    }
}

/// What `sock_ops` is told about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpEvent {
    /// A SYN is about to leave.
    Connect,
    /// A SYN is about to leave, and somebody else's program took away that its fate is seen.
    Overruled,
    /// Our handshake is done.
    Established,
    /// A round trip was measured: something came from the other side.
    RoundTrip,
    /// A retransmission timer ran out; whether the kernel gives up.
    Retransmission {
        /// It gives up.
        expired: bool,
    },
    /// The socket changes its state.
    State {
        /// From this TCP state.
        old: u8,
        /// To this one.
        new: u8,
    },
    /// Anything else.
    Other,
}

// include/uapi/linux/bpf.h
const OP_TIMEOUT_INIT: u32 = 1;
const OP_TCP_CONNECT: u32 = 3;
const OP_ACTIVE_ESTABLISHED: u32 = 4;
const OP_RTO: u32 = 8;
const OP_STATE: u32 = 10;
const OP_RTT: u32 = 12;
const FLAG_RTO: i32 = 1;
const FLAG_STATE: i32 = 4;
const FLAG_RTT: i32 = 8;
const IPPROTO_TCP: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

/// The context of `sock_ops`.
pub(crate) struct TcpSocket {
    raw: *mut bpf_sock_ops,
}

/// What a TCP socket counted so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct TcpCounts {
    /// Payload bytes the peer acknowledged.
    pub(crate) sent_bytes: u64,
    /// Payload bytes received.
    pub(crate) received_bytes: u64,
    /// The smoothed round-trip time in microseconds.
    pub(crate) rtt_us: u32,
    /// Segments sent again.
    pub(crate) retransmits: u32,
    /// Segments received.
    pub(crate) segments_received: u32,
}

impl TcpCounts {
    /// Takes from the byte counts what was no payload, given the socket's state.
    #[inline(always)]
    pub(crate) fn keep_payload(&mut self, connection: &Connection, state: u8) {
        self.sent_bytes = flow::payload_sent(self.sent_bytes, state);
        self.received_bytes = flow::payload_received(
            self.received_bytes,
            state,
            connection.state_at_close,
            connection.received_at_fin_low,
        );
    }
}

impl TcpSocket {
    /// Wraps a context.
    #[inline(always)]
    pub(crate) fn new(context: &SockOpsContext) -> Self {
        Self { raw: context.ops }
    }

    /// What happened.
    #[inline(always)]
    pub(crate) fn event(&self) -> TcpEvent {
        // SAFETY: the kernel passes a valid context; `args` is valid for these operations.
        unsafe {
            let args = (*self.raw).__bindgen_anon_1.args;
            match (*self.raw).op {
                OP_TCP_CONNECT => TcpEvent::Connect,
                // Comes after `OP_TCP_CONNECT`, when everybody's programs have run for that.
                OP_TIMEOUT_INIT if self.flags() != 0 && !self.is_watched() => TcpEvent::Overruled,
                OP_ACTIVE_ESTABLISHED => TcpEvent::Established,
                OP_RTT => TcpEvent::RoundTrip,
                OP_RTO => TcpEvent::Retransmission { expired: args[2] != 0 },
                OP_STATE => TcpEvent::State { old: args[0] as u8, new: args[1] as u8 },
                _ => TcpEvent::Other,
            }
        }
    }

    /// The socket.
    #[inline(always)]
    pub(crate) fn socket(&self) -> Option<Socket> {
        // SAFETY: as above. Null for request sockets, which the verifier makes us check.
        let socket = unsafe { (*self.raw).__bindgen_anon_2.sk };
        if socket.is_null() { None } else { Some(Socket(socket.cast())) }
    }

    /// What programs asked to be told about this socket; all of them are told the same.
    #[inline(always)]
    fn flags(&self) -> i32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.raw).bpf_sock_ops_cb_flags as i32 }
    }

    /// Whether programs are told of its state changes.
    #[inline(always)]
    pub(crate) fn is_watched(&self) -> bool {
        self.flags() & FLAG_STATE != 0
    }

    /// Asks for state changes and retransmission time-outs of this socket, besides what others asked for.
    #[inline(always)]
    pub(crate) fn watch(&self) {
        let flags = self.flags() | FLAG_STATE | FLAG_RTO;
        // SAFETY: a helper of this program type. It cannot fail for flags every supported kernel knows.
        unsafe { bpf_sock_ops_cb_flags_set(self.raw, flags) };
    }

    /// Asks for round trips as well, or no longer.
    #[inline(always)]
    pub(crate) fn watch_round_trips(&self, wanted: bool) {
        let others = self.flags() & !FLAG_RTT;
        let flags = others | FLAG_STATE | FLAG_RTO | if wanted { FLAG_RTT } else { 0 };
        // SAFETY: as in `watch`.
        unsafe { bpf_sock_ops_cb_flags_set(self.raw, flags) };
    }

    /// Sets how long the socket may wait for an acknowledgement (TCP_USER_TIMEOUT), in milliseconds; 0 gives that
    /// back to the kernel.
    #[inline(always)]
    pub(crate) fn set_user_timeout(&self, timeout_ms: u32) {
        let mut value = timeout_ms;
        let size = size_of::<u32>() as i32;
        // SAFETY: helpers of this program type; the value is on this program's stack.
        unsafe {
            bpf_setsockopt(self.raw.cast(), IPPROTO_TCP, TCP_USER_TIMEOUT, (&raw mut value).cast(), size)
        };
    }

    /// Whether the socket is known to have met no error so far: then whatever ends it is the application. Unknown, and
    /// so false, where the kernel does not describe its types.
    #[inline(always)]
    pub(crate) fn met_no_error(&self) -> bool {
        // SAFETY: a volatile read of a constant of this object; null-checked as the verifier demands, and the helper
        // gives a pointer into which the verifier lets a program of ours read. It also removes the rest where the constant is
        // zero. No helper reads for us here: a locked-down kernel has none.
        unsafe {
            let offset = (&raw const SOCKET_ERROR_OFFSET).read_volatile();
            if offset == 0 {
                return false;
            }
            let socket = (*self.raw).__bindgen_anon_2.sk;
            if socket.is_null() {
                return false;
            }
            let tcp = bpf_skc_to_tcp_sock(socket.cast());
            if tcp.is_null() {
                return false;
            }
            tcp.cast::<u32>().byte_add(offset as usize).read_volatile() == 0
        }
    }

    /// What [`TcpSocket::set_user_timeout`] sets, as it is now; 0 also where this kernel does not tell (before 6.0).
    #[inline(always)]
    pub(crate) fn user_timeout(&self) -> u32 {
        let mut value = 0_u32;
        let size = size_of::<u32>() as i32;
        // SAFETY: as in `set_user_timeout`; the helper writes the whole value or zeros.
        unsafe {
            bpf_getsockopt(self.raw.cast(), IPPROTO_TCP, TCP_USER_TIMEOUT, (&raw mut value).cast(), size)
        };
        value
    }

    /// What the socket counted so far; zeros where the kernel does not say.
    #[inline(always)]
    pub(crate) fn counts(&self) -> TcpCounts {
        // SAFETY: null-checked as the verifier demands; the helper gives a view valid for this run.
        unsafe {
            let socket = (*self.raw).__bindgen_anon_2.sk;
            if socket.is_null() {
                return TcpCounts::default();
            }
            let tcp = bpf_tcp_sock(socket);
            if tcp.is_null() {
                return TcpCounts::default();
            }
            TcpCounts {
                sent_bytes: (*tcp).bytes_acked,
                received_bytes: (*tcp).bytes_received,
                // The kernel keeps eight times the smoothed value.
                rtt_us: (*tcp).srtt_us >> 3,
                retransmits: (*tcp).total_retrans,
                segments_received: (*tcp).segs_in,
            }
        }
    }
}

/// A moment of the monotonic clock, read once per run.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    /// In nanoseconds.
    pub(crate) ns: u64,
}

impl Moment {
    /// Now.
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self { ns: now_ns() }
    }
}

/// The monotonic clock.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// 32 random bits.
#[inline(always)]
pub(crate) fn draw() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The cgroup (leaf) of the calling process.
#[inline(always)]
pub(crate) fn current_cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The calling process' cgroup at a level of the hierarchy; 0 where it does not reach that deep.
#[inline(always)]
pub(crate) fn current_ancestor_cgroup(level: u32) -> u64 {
    // SAFETY: a helper that only takes a number.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Whether what is said inside TLS is read.
#[inline(always)]
pub(crate) fn reads_tls() -> bool {
    // SAFETY: a volatile read of a constant of this object, which the loader may have replaced.
    unsafe { core::ptr::read_volatile(&raw const READS_TLS) != 0 }
}

/// The cgroup that is managed.
#[inline(always)]
pub(crate) fn managed_cgroup() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const MANAGED_CGROUP) }
}

/// Makes the system call that is about to be refused fail with this errno, where the kernel can.
#[inline(always)]
pub(crate) fn refuse_with(errno: u8) {
    // SAFETY: a volatile read of a constant of this object, which the loader may have replaced.
    if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } != 0 {
        // SAFETY: a helper that only takes a number.
        unsafe { bpf_set_retval(-i32::from(errno)) };
    }
}
