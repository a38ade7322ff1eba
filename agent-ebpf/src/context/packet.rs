//! A packet at its socket, and what is read of it. Decides nothing.

use core::ffi::c_void;

use agent_ebpf::abi::request::{HEAD_BYTES, SCAN_BYTES};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_sk_cgroup_id, bpf_skb_load_bytes, bpf_tcp_sock};
use aya_ebpf::programs::SkBuffContext;

use super::Socket;

/// The context of `cgroup_skb`. Its data begins with the IP header.
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

const IPPROTO_TCP: u8 = 6;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TCP_SYN: u8 = 2;

impl Packet {
    /// Wraps a context.
    #[inline(always)]
    pub(crate) fn new(context: &SkBuffContext) -> Self {
        Self { raw: context.skb.skb }
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

    /// Copies up to [`HEAD_BYTES`] bytes of the packet behind the `filled` first ones of a head; gives how many. None where
    /// `bytes` is 0.
    #[inline(always)]
    pub(crate) fn append(&self, at: u32, bytes: u32, head: &mut [u8; 2 * HEAD_BYTES], filled: u8) -> usize {
        const MASK: usize = HEAD_BYTES - 1;
        let filled = filled as usize & MASK;
        // As the verifier must see them: at least 1 and at most HEAD_BYTES.
        let wanted = if bytes as usize >= HEAD_BYTES { HEAD_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: `filled` + `count` + 1 is less than the size of a head.
        let copied = unsafe {
            let to = head.as_mut_ptr().add(filled).cast::<c_void>();
            bpf_skb_load_bytes(self.raw.cast(), at, to, count as u32 + 1)
        };
        if copied == 0 { count + 1 } else { 0 }
    }

    /// Copies the packet's bytes from `at` on into a room, as many as there are and fit; gives how many.
    #[inline(always)]
    pub(crate) fn copy(&self, at: u32, bytes: u32, room: &mut [u8; SCAN_BYTES]) -> usize {
        const MASK: usize = SCAN_BYTES - 1;
        let wanted = if bytes as usize >= SCAN_BYTES { SCAN_BYTES } else { bytes as usize };
        let count = crate::maps::unproven(wanted.wrapping_sub(1)) & MASK;
        // SAFETY: `count` + 1 is at most the size of the room.
        let copied =
            unsafe { bpf_skb_load_bytes(self.raw.cast(), at, room.as_mut_ptr().cast(), count as u32 + 1) };
        if copied == 0 { count + 1 } else { 0 }
    }
}
