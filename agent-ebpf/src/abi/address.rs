//! Addresses, normalised so that one code path serves IPv4, IPv6 and IPv4-mapped IPv6.

use super::named_enum;

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form (RFC 4291 §2.5.5.2), as four words in network
/// byte order: the form `bpf_sock_addr` uses, so that the kernel side copies words and never bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The four words, most significant first, each in network byte order.
    pub words_be: [u32; 4],
}

const MAPPED_PREFIX_BE: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// The mapped form of an IPv4 address given in network byte order.
    #[inline(always)]
    pub const fn from_v4_be(word_be: u32) -> Self {
        Self { words_be: [0, 0, MAPPED_PREFIX_BE, word_be] }
    }

    /// An IPv6 address given as four words in network byte order.
    #[inline(always)]
    pub const fn from_v6_be(words_be: [u32; 4]) -> Self {
        Self { words_be }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == MAPPED_PREFIX_BE
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<std::net::IpAddr> for Address {
    fn from(ip: std::net::IpAddr) -> Self {
        let octets = match ip {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        let mut words_be = [0; 4];
        for (word, bytes) in words_be.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self { words_be }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<Address> for std::net::IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address.words_be) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        std::net::Ipv6Addr::from(octets).to_canonical()
    }
}

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in network byte order.
    pub port_be: u16,
    /// Zero.
    pub _pad: u16,
}

const _: () = assert!(size_of::<Endpoint>() == 20);

impl Endpoint {
    /// An endpoint from its parts.
    #[inline(always)]
    pub const fn new(address: Address, port_be: u16) -> Self {
        Self { address, port_be, _pad: 0 }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<std::net::SocketAddr> for Endpoint {
    fn from(socket: std::net::SocketAddr) -> Self {
        Self::new(socket.ip().into(), socket.port().to_be())
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<Endpoint> for std::net::SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address.into(), u16::from_be(endpoint.port_be))
    }
}

named_enum! {
    /// The transport of a service; the numbers are IANA's, as in an IP header.
    pub enum Protocol {
        /// TCP.
        Tcp = 6 => "tcp",
        /// UDP.
        Udp = 17 => "udp",
    }
}

/// Key of `FRONTENDS`: what an application asks for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// The service address.
    pub address: Address,
    /// The service port, in network byte order.
    pub port_be: u16,
    /// A [`Protocol`] by number.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// The key of an endpoint under a protocol number.
    #[inline(always)]
    pub const fn new(endpoint: Endpoint, protocol: u8) -> Self {
        Self { address: endpoint.address, port_be: endpoint.port_be, protocol, _pad: 0 }
    }

    /// The endpoint part.
    #[inline(always)]
    pub const fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.address, self.port_be)
    }
}
