//! Ends single sockets through the kernel's socket diagnosis (sock_diag(7), `SOCK_DESTROY`, kernel 4.5 with
//! CONFIG_INET_DIAG_DESTROY). Knows how to name a socket and how to enter its network namespace, not why it should end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_ebpf::abi::{Endpoint, OpenSocket, Protocol};

use super::privileges;

/// What became of a socket that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel ended it: the application gets ECONNABORTED, a TCP peer a reset.
    Reset,
    /// It had ended before, or its address belongs to another socket by now.
    Gone,
    /// Its network namespace cannot be entered: no process of it is to be seen, or this one lacks CAP_SYS_ADMIN.
    OutOfReach,
    /// The kernel refused, with this errno.
    Refused(i32),
}

/// Ends sockets. The real one is [`SockDiag`].
pub trait ResetSockets: Send {
    /// Ends each of these sockets, and none that only has its address. The answers stand in the same order.
    fn reset(&mut self, sockets: &[OpenSocket]) -> Vec<Fate>;
}

/// [`ResetSockets`] by way of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct SockDiag;

impl ResetSockets for SockDiag {
    /// To be called on the control thread: it takes capabilities that no other has.
    fn reset(&mut self, sockets: &[OpenSocket]) -> Vec<Fate> {
        privileges::switched_on(privileges::TO_RESET, || reset_each(sockets))
    }
}

fn reset_each(sockets: &[OpenSocket]) -> Vec<Fate> {
    let mut fates = vec![Fate::OutOfReach; sockets.len()];
    let mut by_namespace: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, socket) in sockets.iter().enumerate() {
        by_namespace.entry(socket.netns).or_default().push(place);
    }
    let here = own_namespace();
    let elsewhere: BTreeSet<u32> =
        by_namespace.keys().copied().filter(|netns| Some(*netns) != here).collect();
    let doors = if elsewhere.is_empty() { BTreeMap::new() } else { find_namespaces(&elsewhere) };
    for (netns, places) in by_namespace {
        let of_this = || places.iter().map(|&place| &sockets[place]);
        let ended = match doors.get(&netns) {
            Some(door) => inside(door, || end_all(of_this())),
            None if Some(netns) == here => end_all(of_this()),
            None => continue,
        };
        if let Ok(ended) = ended {
            places.iter().zip(ended).for_each(|(&place, fate)| fates[place] = fate);
        }
    }
    fates
}

/// Whether this kernel ends a socket when it is asked to, tried on one of our own.
pub(super) fn can_reset() -> bool {
    let attempt = || -> io::Result<Fate> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let socket = OpenSocket {
            cookie: cookie_of(&stream)?,
            local: Endpoint::from(stream.local_addr()?),
            remote: Endpoint::from(stream.peer_addr()?),
            protocol: Protocol::Tcp as u8,
            ..OpenSocket::default()
        };
        Ok(end_all([&socket])?.first().copied().unwrap_or(Fate::Gone))
    };
    matches!(attempt(), Ok(Fate::Reset))
}

/// Whether this process may find and enter network namespaces; entering is tried on its own.
pub(super) fn can_enter_namespaces() -> bool {
    privileges::may_enter_namespaces()
        && File::open("/proc/self/ns/net").and_then(|door| inside(&door, || Ok(()))).is_ok()
}

/// The network namespace of this process, as its inode number.
fn own_namespace() -> Option<u32> {
    namespace_at(Path::new("/proc/self/ns/net"))
}

fn namespace_at(path: &Path) -> Option<u32> {
    u32::try_from(std::fs::metadata(path).ok()?.ino()).ok()
}

/// Opens those of these namespaces in which a process runs that can be seen here, or that have a name.
fn find_namespaces(wanted: &BTreeSet<u32>) -> BTreeMap<u32, File> {
    let mut found = BTreeMap::new();
    let listing = |path: &str| std::fs::read_dir(path).into_iter().flatten().flatten();
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = listing("/proc").filter(|entry| is_process(&entry.file_name()));
    let paths = processes.map(|entry| entry.path().join("ns/net"));
    for path in paths.chain(listing("/run/netns").map(|entry| entry.path())) {
        if found.len() == wanted.len() {
            break;
        }
        let Some(netns) = namespace_at(&path).filter(|netns| wanted.contains(netns)) else { continue };
        let Ok(door) = File::open(&path) else { continue };
        // The process may have ended since, and its number be another's.
        if door.metadata().is_ok_and(|data| data.ino() == u64::from(netns)) {
            found.insert(netns, door);
        }
    }
    found
}

/// Does something on a thread of its own inside a network namespace: a thread that others use must not move. It has what
/// its maker has switched on.
fn inside<T: Send>(door: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, move || {
            // SAFETY: a system call that takes a descriptor that is open, and a number.
            if unsafe { libc::setns(door.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            work()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside a namespace panicked")))
    })
}

/// Ends sockets of the calling thread's network namespace.
fn end_all<'a>(sockets: impl IntoIterator<Item = &'a OpenSocket>) -> io::Result<Vec<Fate>> {
    let netlink = open_netlink()?;
    let mut fates = Vec::new();
    for (sequence, socket) in (1..).zip(sockets) {
        fates.push(match ask(&netlink, &request(socket, sequence), sequence)? {
            0 => Fate::Reset,
            libc::ENOENT | libc::ESTALE => Fate::Gone,
            errno => Fate::Refused(errno),
        });
    }
    Ok(fates)
}

/// How long an answer may take. The kernel answers before the request returns; this keeps a surprise from hanging
/// the agent.
const ANSWER_LIMIT: libc::timeval = libc::timeval { tv_sec: 1, tv_usec: 0 };

fn open_netlink() -> io::Result<OwnedFd> {
    // SAFETY: a system call that takes numbers.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, NETLINK_SOCK_DIAG) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let limit = ANSWER_LIMIT;
    // SAFETY: the option is a `timeval` of this size, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const limit).cast(),
            SOCKLEN_TIMEVAL,
        )
    };
    if set == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::cast_possible_truncation, reason = "sixteen bytes")]
const SOCKLEN_TIMEVAL: libc::socklen_t = size_of::<libc::timeval>() as libc::socklen_t;

/// Sends a request and waits for its answer: an errno, 0 where it was done.
fn ask(netlink: &OwnedFd, request: &[u8], sequence: u32) -> io::Result<i32> {
    // SAFETY: the buffer is as long as is said.
    let sent = unsafe { libc::send(netlink.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if usize::try_from(sent).ok() != Some(request.len()) {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0_u8; 512];
    loop {
        // SAFETY: as above.
        let length = unsafe { libc::recv(netlink.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
        if let Some(errno) = errno_of(&answer[..length.min(answer.len())], sequence) {
            return Ok(errno);
        }
    }
}

/// `include/uapi/linux/netlink.h`
const NETLINK_SOCK_DIAG: i32 = 4;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `include/uapi/linux/sock_diag.h`
const SOCK_DESTROY: u16 = 21;
/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 16 + 56;

/// The request to end this socket. The kernel looks it up by its addresses and compares the cookie.
fn request(socket: &OpenSocket, sequence: u32) -> [u8; REQUEST_BYTES] {
    let is_v4 = socket.local.address.is_v4() && socket.remote.address.is_v4();
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    let words = |endpoint: &Endpoint| {
        let words_be = endpoint.address.words_be;
        if is_v4 { [words_be[3], 0, 0, 0] } else { words_be }
    };
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend(u32::try_from(REQUEST_BYTES).unwrap_or_default().to_ne_bytes());
    bytes.extend(SOCK_DESTROY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    // Family, protocol, extensions, padding; every state.
    bytes.extend([u8::try_from(family).unwrap_or_default(), socket.protocol, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(socket.local.port_be.to_ne_bytes());
    bytes.extend(socket.remote.port_be.to_ne_bytes());
    for word_be in words(&socket.local).into_iter().chain(words(&socket.remote)) {
        bytes.extend(word_be.to_ne_bytes());
    }
    bytes.extend(socket.interface.to_ne_bytes());
    // The low half of the cookie comes first on every architecture.
    let cookie = socket.cookie;
    for half in [cookie & u64::from(u32::MAX), cookie >> 32] {
        bytes.extend(u32::try_from(half).unwrap_or_default().to_ne_bytes());
    }
    bytes.try_into().unwrap_or([0; REQUEST_BYTES])
}

/// The errno in an answer to this request; `None` where it is not one.
fn errno_of(answer: &[u8], sequence: u32) -> Option<i32> {
    let bytes = |at: usize, length: usize| answer.get(at..at + length);
    let kind = u16::from_ne_bytes(bytes(4, 2)?.try_into().ok()?);
    let number = u32::from_ne_bytes(bytes(8, 4)?.try_into().ok()?);
    let error = i32::from_ne_bytes(bytes(16, 4)?.try_into().ok()?);
    (kind == NLMSG_ERROR && number == sequence).then_some(error.saturating_neg())
}

/// The kernel's number of a socket of ours.
fn cookie_of(stream: &TcpStream) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: the option is 64 bits, and there is room for them.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Where the socket is, for people.
pub fn describe(socket: &OpenSocket) -> String {
    format!("{} → {}", SocketAddr::from(socket.local), SocketAddr::from(socket.remote))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().expect("an address").into()
    }

    #[test]
    fn a_request_names_the_socket_by_family_addresses_interface_and_cookie() {
        let socket = OpenSocket {
            cookie: 0x1_0000_0002,
            local: endpoint("10.0.0.1:4660"),
            remote: endpoint("10.0.0.2:80"),
            interface: 7,
            protocol: 6,
            ..OpenSocket::default()
        };
        let bytes = request(&socket, 9);
        assert_eq!(bytes[0..4], 72_u32.to_ne_bytes());
        assert_eq!(bytes[4..6], SOCK_DESTROY.to_ne_bytes());
        assert_eq!(bytes[16..18], [2, 6], "AF_INET, TCP");
        assert_eq!(bytes[24..28], [0x12, 0x34, 0, 80], "ports in network byte order");
        assert_eq!(bytes[28..32], [10, 0, 0, 1]);
        assert_eq!(bytes[44..48], [10, 0, 0, 2]);
        assert_eq!(bytes[60..64], 7_u32.to_ne_bytes());
        assert_eq!((&bytes[64..68], &bytes[68..72]), (&2_u32.to_ne_bytes()[..], &1_u32.to_ne_bytes()[..]));
        let v6 = OpenSocket { local: endpoint("[fd00::1]:1"), remote: endpoint("[fd00::2]:2"), ..socket };
        let bytes = request(&v6, 9);
        assert_eq!((bytes[16], bytes[28], bytes[59]), (10, 0xfd, 2));
    }

    #[test]
    fn only_the_answer_to_the_request_counts() {
        let mut answer = [0_u8; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[8..12].copy_from_slice(&3_u32.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(errno_of(&answer, 3), Some(libc::ENOENT));
        assert_eq!(errno_of(&answer, 4), None);
        assert_eq!(errno_of(&answer[..12], 3), None);
    }

    #[test]
    fn a_namespace_that_nobody_is_in_is_out_of_reach() {
        let socket = OpenSocket { netns: 1, protocol: 6, ..OpenSocket::default() };
        assert_eq!(SockDiag.reset(&[socket]), [Fate::OutOfReach]);
    }
}
