//! The system calls on one socket, with nothing between the test and the kernel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use segue_tests::client::protocol::{Datagram, Family, Kind};
use segue_tests::sockopt;

/// How long a receive waits before it says EAGAIN.
const PATIENCE_S: libc::time_t = 5;

pub(crate) fn open(family: Family, kind: Kind) -> io::Result<OwnedFd> {
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Datagram => libc::SOCK_DGRAM,
    };
    // SAFETY: socket takes integers, and the descriptor it gives is owned by nobody else.
    let socket = unsafe {
        let raw = libc::socket(family, kind | libc::SOCK_CLOEXEC, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    let patience = libc::timeval { tv_sec: PATIENCE_S, tv_usec: 0 };
    sockopt::set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
    Ok(socket)
}

pub(crate) fn connect(socket: RawFd, to: SocketAddr, nonblocking: bool) -> io::Result<()> {
    connect_as(socket, to, family_of(socket)?, nonblocking)
}

pub(crate) fn connect_as(socket: RawFd, to: SocketAddr, family: Family, nonblocking: bool) -> io::Result<()> {
    if nonblocking {
        // SAFETY: fcntl takes integers here.
        checked(unsafe { libc::fcntl(socket, libc::F_SETFL, libc::O_NONBLOCK) })?;
    }
    let (address, length) = raw_address(family, to);
    // SAFETY: the address is initialised for `length` bytes.
    checked(unsafe { libc::connect(socket, (&raw const address).cast(), length) })
}

pub(crate) fn bind(socket: RawFd, at: SocketAddr) -> io::Result<()> {
    let (address, length) = raw_address(family_of(socket)?, at);
    // SAFETY: the address is initialised for `length` bytes.
    checked(unsafe { libc::bind(socket, (&raw const address).cast(), length) })
}

pub(crate) fn shutdown(socket: RawFd, how: libc::c_int) -> io::Result<()> {
    // SAFETY: shutdown takes integers.
    checked(unsafe { libc::shutdown(socket, how) })
}

pub(crate) fn finish_connect(socket: RawFd) -> io::Result<()> {
    let mut watched = libc::pollfd { fd: socket, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    if unsafe { libc::poll(&raw mut watched, 1, 20_000) } != 1 {
        return Err(io::Error::from_raw_os_error(libc::ETIME));
    }
    match sockopt::get(socket, libc::SOL_SOCKET, libc::SO_ERROR)? {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

pub(crate) fn peer(socket: RawFd) -> io::Result<String> {
    // SAFETY: storage and length belong together; the kernel writes no more than the length.
    name_of(|address, length| unsafe { libc::getpeername(socket, address, length) })
}

pub(crate) fn local(socket: RawFd) -> io::Result<String> {
    // SAFETY: storage and length belong together; the kernel writes no more than the length.
    name_of(|address, length| unsafe { libc::getsockname(socket, address, length) })
}

pub(crate) fn send(socket: RawFd, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the buffer is valid for its length.
        let sent = counted(unsafe { libc::send(socket, rest.as_ptr().cast(), rest.len(), 0) })?;
        rest = &rest[sent..];
    }
    Ok(())
}

pub(crate) fn send_to(socket: RawFd, text: &str, to: SocketAddr, flags: libc::c_int) -> io::Result<()> {
    let (address, length) = raw_address(family_of(socket)?, to);
    // SAFETY: buffer and address are valid for their lengths.
    let sent = unsafe {
        libc::sendto(socket, text.as_ptr().cast(), text.len(), flags, (&raw const address).cast(), length)
    };
    if counted(sent)? == text.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) }
}

pub(crate) fn receive(socket: RawFd) -> io::Result<String> {
    let mut buffer = [0_u8; 4096];
    let length = receive_into(socket, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn receive_from(socket: RawFd) -> io::Result<Datagram> {
    receive_from_with(socket, 0)
}

pub(crate) fn receive_from_with(socket: RawFd, flags: libc::c_int) -> io::Result<Datagram> {
    let mut buffer = [0_u8; 4096];
    let mut received = 0;
    let from = name_of(|address, length| {
        // SAFETY: buffer, address and length are valid and belong together.
        received = unsafe {
            libc::recvfrom(socket, buffer.as_mut_ptr().cast(), buffer.len(), flags, address, length)
        };
        if received < 0 { -1 } else { 0 }
    })?;
    let length = counted(received)?;
    Ok(Datagram { text: String::from_utf8_lossy(&buffer[..length]).into_owned(), from })
}

pub(crate) fn read_line(socket: RawFd) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0_u8];
    while receive_into(socket, &mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

pub(crate) fn drain(socket: RawFd) -> io::Result<u64> {
    let mut buffer = [0_u8; 64 * 1024];
    let mut total = 0;
    loop {
        match receive_into(socket, &mut buffer)? {
            0 => return Ok(total),
            length => total += length as u64,
        }
    }
}

pub(crate) fn exchange(socket: RawFd, bytes: u64) -> io::Result<()> {
    let mut buffer = [0_u8; 16 * 1024];
    let mut rest = bytes;
    while rest > 0 {
        let chunk = usize::try_from(rest.min(buffer.len() as u64)).expect("at most the buffer");
        send(socket, &buffer[..chunk])?;
        let mut missing = chunk;
        while missing > 0 {
            match receive_into(socket, &mut buffer[..missing])? {
                0 => return Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
                length => missing -= length,
            }
        }
        rest -= chunk as u64;
    }
    Ok(())
}

pub(crate) fn reset_on_close(socket: RawFd) -> io::Result<()> {
    sockopt::set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

pub(crate) fn shutdown_write(socket: RawFd) -> io::Result<()> {
    shutdown(socket, libc::SHUT_WR)
}

/// Room for the control message that carries one descriptor, aligned as its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

pub(crate) fn pass_descriptor(channel: RawFd, descriptor: RawFd) -> io::Result<()> {
    let mut control = Control([0; 64]);
    with_message(&mut control, |message| {
        // SAFETY: the control buffer has room for one descriptor; header and data lie within it.
        unsafe {
            (*message).msg_controllen = libc::CMSG_SPACE(sockopt::length_of::<RawFd>()) as usize;
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(sockopt::length_of::<RawFd>()) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
            counted(libc::sendmsg(channel, message, 0)).map(|_| ())
        }
    })
}

pub(crate) fn take_descriptor(channel: RawFd) -> io::Result<RawFd> {
    let mut control = Control([0; 64]);
    with_message(&mut control, |message| {
        // SAFETY: the kernel fills the control buffer; the header is read only where there is one.
        unsafe {
            counted(libc::recvmsg(channel, message, 0))?;
            let header = libc::CMSG_FIRSTHDR(message);
            if header.is_null() {
                return Err(io::Error::from_raw_os_error(libc::EBADMSG));
            }
            Ok(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())
        }
    })
}

fn with_message<T>(
    control: &mut Control,
    action: impl FnOnce(*mut libc::msghdr) -> io::Result<T>,
) -> io::Result<T> {
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: an all-zero msghdr is valid: it is plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    action(&raw mut message)
}

fn receive_into(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length.
    counted(unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// The family a socket was opened with.
fn family_of(socket: RawFd) -> io::Result<Family> {
    let family = sockopt::get(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    Ok(if family == libc::AF_INET { Family::V4 } else { Family::V6 })
}

/// The address in the form this family has. An IPv6 address has only one.
fn raw_address(family: Family, to: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: an all-zero sockaddr_storage is valid: it is plain data.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let port_be = to.port().to_be();
    match to.ip() {
        IpAddr::V4(v4) if family == Family::V4 => {
            let address = libc::sockaddr_in {
                sin_family: family_number(libc::AF_INET),
                sin_port: port_be,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large enough and aligned for every address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(address) };
            (storage, sockopt::length_of::<libc::sockaddr_in>())
        }
        ip => {
            let octets = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let address = libc::sockaddr_in6 {
                sin6_family: family_number(libc::AF_INET6),
                sin6_port: port_be,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: octets },
                sin6_scope_id: 0,
            };
            // SAFETY: sockaddr_storage is large enough and aligned for every address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(address) };
            (storage, sockopt::length_of::<libc::sockaddr_in6>())
        }
    }
}

/// The address a call fills in, as text; an IPv4-mapped one stays one.
fn name_of(
    call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
) -> io::Result<String> {
    // SAFETY: an all-zero sockaddr_storage is valid: it is plain data.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = sockopt::length_of::<libc::sockaddr_storage>();
    checked(call((&raw mut storage).cast(), &raw mut length))?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in was written.
            let address = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            Ok(format!("{ip}:{}", u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a sockaddr_in6 was written.
            let address = unsafe { (&raw const storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Ok(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, 0).to_string())
        }
        _ => Ok("none".to_owned()),
    }
}

fn family_number(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("families are small numbers")
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn counted(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
