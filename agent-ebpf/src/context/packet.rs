//! A packet at its socket, and what is read of it. Decides nothing.

use core::ffi::c_void;
use core::ptr;

use agent_ebpf::abi::conversation::{self, CARRY_BYTES, Room, WINDOW_BYTES};
use agent_ebpf::abi::lookup::{DNS_PORT, ROOM_BYTES};
use agent_ebpf::abi::request_event::TOLD_BYTES;
use agent_ebpf::abi::{Address, Endpoint};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_sk_cgroup_id, bpf_skb_load_bytes, bpf_tcp_sock,
};
use aya_ebpf::programs::SkBuffContext;

use super::{Socket, Text};

/// The context of `cgroup_skb`. Its data begins with the IP header.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    raw: *mut __sk_buff,
}

/// A TCP segment with payload.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// The sequence number of its first byte.
    pub(crate) sequence: u32,
    /// Where its payload begins in the packet.
    pub(crate) payload_at: u32,
    /// Bytes of payload, at least 1.
    pub(crate) payload_bytes: u32,
    /// The port it comes from, in network byte order.
    pub(crate) source_port_be: u16,
    /// The port it goes to, likewise.
    pub(crate) destination_port_be: u16,
}

impl Segment {
    /// Whether one side is a server of names.
    #[inline(always)]
    pub(crate) fn is_of_dns(&self) -> bool {
        self.destination_port_be == DNS_PORT_BE || self.source_port_be == DNS_PORT_BE
    }
}

/// A datagram from or to a server of names.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    /// Where its payload begins in the packet.
    pub(crate) payload_at: u32,
    /// Bytes of payload.
    pub(crate) payload_bytes: u32,
    /// It goes to the server.
    pub(crate) asks: bool,
    /// The port of the client, in network byte order.
    pub(crate) client_port_be: u16,
}

const DNS_PORT_BE: u16 = DNS_PORT.to_be();
const IPPROTO_UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPPROTO_TCP: u8 = 6;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TCP_SYN: u8 = 2;

/// A packet as a global function is given it. The verifier knows a context there by the name of its type (kernel 5.6).
pub(crate) type RawPacket = *mut __sk_buff;

impl Packet {
    /// Wraps a context.
    #[inline(always)]
    pub(crate) fn new(context: &SkBuffContext) -> Self {
        Self { raw: context.skb.skb }
    }

    /// The packet a global function was given.
    #[inline(always)]
    pub(crate) fn from_raw(raw: RawPacket) -> Self {
        Self { raw }
    }

    /// As it is given to one.
    #[inline(always)]
    pub(crate) fn to_raw(self) -> RawPacket {
        self.raw
    }

    /// The TCP segment, if it carries anything. IPv6 with extension headers is not read.
    ///
    /// The headers lie in the packet's linear part: TCP builds them there and has the receiving side pull them there
    /// before it asks for the socket.
    #[inline(always)]
    pub(crate) fn segment(&self) -> Option<Segment> {
        // SAFETY: the kernel passes a valid context. Packet bytes are read only where they were found to be before the end,
        // which the verifier makes sure of.
        unsafe {
            let (data, end) = ((*self.raw).data as usize, (*self.raw).data_end as usize);
            let length = (*self.raw).len;
            if data + IPV4_HEADER + TCP_HEADER > end {
                return None;
            }
            let first = *(data as *const u8);
            let header = match first >> 4 {
                4 if *((data + 9) as *const u8) == IPPROTO_TCP => (first & 0xf) as usize * 4,
                6 if *((data + 6) as *const u8) == IPPROTO_TCP => IPV6_HEADER,
                _ => return None,
            };
            let tcp = data + header;
            if tcp + TCP_HEADER > end {
                return None;
            }
            let payload_at = header as u32 + u32::from(*((tcp + 12) as *const u8) >> 4) * 4;
            if length <= payload_at {
                return None;
            }
            let is_syn = *((tcp + 13) as *const u8) & TCP_SYN != 0;
            Some(Segment {
                // A SYN takes a number of its own, before what a client sends along (Fast Open).
                sequence: u32::from_be(*((tcp + 4) as *const u32)).wrapping_add(u32::from(is_syn)),
                payload_at,
                payload_bytes: length - payload_at,
                source_port_be: *(tcp as *const u16),
                destination_port_be: *((tcp + 2) as *const u16),
            })
        }
    }

    /// The datagram, if it is from or to a server of names. IPv6 with extension headers is not read.
    #[inline(always)]
    pub(crate) fn datagram(&self) -> Option<Datagram> {
        // SAFETY: as in `segment`. UDP too has its header in the linear part.
        unsafe {
            let (data, end) = ((*self.raw).data as usize, (*self.raw).data_end as usize);
            let length = (*self.raw).len;
            if data + IPV4_HEADER + UDP_HEADER > end {
                return None;
            }
            let first = *(data as *const u8);
            let header = match first >> 4 {
                4 if *((data + 9) as *const u8) == IPPROTO_UDP => (first & 0xf) as usize * 4,
                6 if *((data + 6) as *const u8) == IPPROTO_UDP => IPV6_HEADER,
                _ => return None,
            };
            let udp = data + header;
            if udp + UDP_HEADER > end {
                return None;
            }
            let (source_port_be, destination_port_be) = (*(udp as *const u16), *((udp + 2) as *const u16));
            let asks = destination_port_be == DNS_PORT_BE;
            if !asks && source_port_be != DNS_PORT_BE {
                return None;
            }
            let payload_at = (header + UDP_HEADER) as u32;
            Some(Datagram {
                payload_at,
                payload_bytes: length.saturating_sub(payload_at),
                asks,
                client_port_be: if asks { source_port_be } else { destination_port_be },
            })
        }
    }

    /// The address it comes from, or else goes to.
    #[inline(always)]
    pub(crate) fn address(&self, is_source: bool) -> Address {
        // SAFETY: as in `segment`.
        unsafe {
            let (data, end) = ((*self.raw).data as usize, (*self.raw).data_end as usize);
            let at = |offset: usize| *((data + offset) as *const u32);
            if data + IPV4_HEADER <= end && *(data as *const u8) >> 4 == 4 {
                return Address::from_v4_be(if is_source { at(12) } else { at(16) });
            }
            if data + IPV6_HEADER > end {
                return Address::default();
            }
            match is_source {
                true => Address::from_v6_be([at(8), at(12), at(16), at(20)]),
                false => Address::from_v6_be([at(24), at(28), at(32), at(36)]),
            }
        }
    }

    /// Where it comes from, or else goes to.
    #[inline(always)]
    pub(crate) fn endpoint(&self, is_source: bool, port_be: u16) -> Endpoint {
        Endpoint::new(self.address(is_source), port_be)
    }

    /// Where it comes from and where it goes to. `None` where [`Packet::segment`] gives none.
    #[inline(always)]
    pub(crate) fn ends(&self) -> Option<(Endpoint, Endpoint)> {
        // SAFETY: as in `segment`.
        unsafe {
            let (data, end) = ((*self.raw).data as usize, (*self.raw).data_end as usize);
            if data + IPV4_HEADER + TCP_HEADER > end {
                return None;
            }
            let word = |at: usize| *((data + at) as *const u32);
            let first = *(data as *const u8);
            let (from, to, header) = if first >> 4 == 4 {
                let header = (first & 0xf) as usize * 4;
                (Address::from_v4_be(word(12)), Address::from_v4_be(word(16)), header)
            } else {
                if data + IPV6_HEADER + TCP_HEADER > end {
                    return None;
                }
                let from = Address::from_v6_be([word(8), word(12), word(16), word(20)]);
                (from, Address::from_v6_be([word(24), word(28), word(32), word(36)]), IPV6_HEADER)
            };
            let tcp = data + header;
            if tcp + TCP_HEADER > end {
                return None;
            }
            let port = |at: usize| *((tcp + at) as *const u16);
            Some((Endpoint::new(from, port(0)), Endpoint::new(to, port(2))))
        }
    }

    /// The number of the socket, which nothing else has while this kernel runs.
    #[inline(always)]
    pub(crate) fn socket_cookie(&self) -> u64 {
        // SAFETY: a helper of this program type.
        unsafe { bpf_get_socket_cookie(self.raw.cast()) }
    }

    /// The socket.
    #[inline(always)]
    pub(crate) fn socket(&self) -> Option<Socket> {
        // SAFETY: as above. The field may be null, which the verifier makes us check.
        let socket = unsafe { (*self.raw).__bindgen_anon_2.sk };
        if socket.is_null() { None } else { Some(Socket(socket.cast())) }
    }

    /// The cgroup (leaf) of the socket: that of the process that made it, or that listens. Kernel 5.8.
    #[inline(always)]
    pub(crate) fn socket_cgroup(&self, socket: Socket) -> u64 {
        // SAFETY: a helper of this program type, for a socket that is checked for null.
        unsafe { bpf_sk_cgroup_id(socket.0) }
    }

    /// Whether anything was said on the connection before this packet.
    #[inline(always)]
    pub(crate) fn is_joined_late(&self, socket: Socket) -> bool {
        // SAFETY: a helper of this program type; null-checked as the verifier demands.
        unsafe {
            let tcp = bpf_tcp_sock(socket.0.cast());
            // A client's SYN counts as one byte that was acknowledged, and its FIN as one that was received: by a server that greets
            // somebody who has left.
            !tcp.is_null() && ((*tcp).bytes_received > 1 || (*tcp).bytes_acked > 1)
        }
    }

    /// The number of the next byte that the socket sends (`is_sent`) or receives in order, as its TCP has it.
    #[inline(always)]
    pub(crate) fn next_sequence(&self, socket: Socket, is_sent: bool) -> Option<u32> {
        // SAFETY: as for `is_joined_late`. Volatile: read here, as the verifier lets nobody reckon with the pointer.
        unsafe {
            let tcp = bpf_tcp_sock(socket.0.cast());
            if tcp.is_null() {
                return None;
            }
            Some(if is_sent {
                ptr::read_volatile(&raw const (*tcp).snd_nxt)
            } else {
                ptr::read_volatile(&raw const (*tcp).rcv_nxt)
            })
        }
    }

    /// When TCP sent it, on the monotonic clock: it stamps every segment since Linux 4.20. 0 where nobody did, and of no
    /// meaning for a packet that is received.
    #[inline(always)]
    pub(crate) fn sent_at_ns(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (*self.raw).tstamp }
    }

    /// Copies up to [`TOLD_BYTES`] bytes of the packet from `at` on; gives how many. None where `bytes` is 0.
    ///
    /// # Safety
    /// `to` must be valid for writing so many.
    #[inline(always)]
    pub(crate) unsafe fn copy_to(&self, to: *mut c_void, at: u32, bytes: u32) -> u32 {
        const MASK: usize = TOLD_BYTES - 1;
        let wanted = if bytes as usize >= TOLD_BYTES { TOLD_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: the caller's word; `count` + 1 is at most so many.
        let copied = unsafe { bpf_skb_load_bytes(self.raw.cast(), at, to, count as u32 + 1) };
        if copied == 0 { count as u32 + 1 } else { 0 }
    }

    /// Copies the packet's bytes from `at` on into the room of a message, as many as there are and fit; gives how many.
    #[inline(always)]
    pub(crate) fn copy_message(&self, at: u32, bytes: u32, room: &mut [u8; ROOM_BYTES]) -> usize {
        const MASK: usize = ROOM_BYTES - 1;
        let wanted = if bytes as usize >= ROOM_BYTES { ROOM_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: `count` + 1 is at most the size of the room.
        let copied =
            unsafe { bpf_skb_load_bytes(self.raw.cast(), at, room.as_mut_ptr().cast(), count as u32 + 1) };
        if copied == 0 { count + 1 } else { 0 }
    }

    /// Copies the packet's bytes from `at` on into a room behind its `filled` first ones, as many as there are and fit into
    /// a window; gives how many. None where `bytes` is 0.
    #[inline(always)]
    pub(crate) fn copy_window(&self, at: u32, bytes: u32, room: &mut Room, filled: u32) -> u32 {
        const MASK: usize = WINDOW_BYTES - 1;
        const _: () = assert!(conversation::ROOM_BYTES >= 2 * WINDOW_BYTES && CARRY_BYTES < WINDOW_BYTES);
        let filled = crate::maps::unproven(filled as usize) & MASK;
        let wanted = if bytes as usize >= WINDOW_BYTES { WINDOW_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: `filled` + `count` + 1 is less than the size of the room.
        let copied = unsafe {
            let to = room.as_mut_ptr().add(filled).cast::<c_void>();
            bpf_skb_load_bytes(self.raw.cast(), at, to, count as u32 + 1)
        };
        if copied == 0 { count as u32 + 1 } else { 0 }
    }
}

impl Text for Packet {
    #[inline(always)]
    unsafe fn load(&self, at: u32, to: *mut c_void, count: u32) -> bool {
        // SAFETY: the caller's word; the helper checks that the packet has as much.
        unsafe { bpf_skb_load_bytes(self.raw.cast(), at, to, count) == 0 }
    }
}
