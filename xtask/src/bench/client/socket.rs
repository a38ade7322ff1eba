//! The system calls of the client that the standard library does not have: epoll with timeouts in nanoseconds, and
//! connect() that does not wait.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Events taken at a time.
const EVENTS: usize = 256;

/// An epoll instance.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// Makes one.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    /// Watches a socket, edge by edge, until it is closed.
    pub(super) fn add(&self, stream: &TcpStream, token: usize) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: token as u64 };
        // SAFETY: both descriptors are open, and the event outlives the call.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The tokens of sockets that have something new, at most after this long.
    pub(super) fn wait(&mut self, patience: Duration) -> io::Result<Vec<usize>> {
        let timeout = libc::timespec {
            tv_sec: patience.as_secs().try_into().map_err(io::Error::other)?,
            tv_nsec: patience.subsec_nanos().into(),
        };
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: the events are a buffer of that many, the timeout outlives the call, and there is no mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS,
                &raw const timeout,
                no_mask,
                0_usize,
            )
        };
        let count = match usize::try_from(count) {
            Ok(count) => count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(self.events[..count].iter().filter_map(|event| usize::try_from(event.u64).ok()).collect())
    }
}

/// Begins a connection and does not wait for it.
pub(super) fn connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    let target = libc::sockaddr_in {
        sin_family: libc::AF_INET.try_into().map_err(io::Error::other)?,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: address.ip().to_bits().to_be() },
        sin_zero: [0; 8],
    };
    let size = libc::socklen_t::try_from(size_of_val(&target)).map_err(io::Error::other)?;
    // SAFETY: the address outlives the call, its size is right, and the descriptor goes to one owner.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = libc::socket(libc::AF_INET, kind, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let stream = TcpStream::from_raw_fd(fd);
        if libc::connect(fd, (&raw const target).cast(), size) != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINPROGRESS) {
                return Err(error);
            }
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Lets timeouts of this thread end when they end, and not up to 50 µs later.
pub(super) fn wake_on_time() {
    // SAFETY: a plain system call; where it fails, timeouts are a little late for every system alike.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};
    use std::time::Instant;

    #[test]
    fn a_connection_is_told_of_and_a_timeout_is_not_rounded_to_milliseconds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        let mut poller = Poller::new().unwrap();
        let stream = connect(address).unwrap();
        poller.add(&stream, 7).unwrap();
        assert_eq!(poller.wait(Duration::from_secs(10)).unwrap(), [7]);
        let begin = Instant::now();
        for _ in 0..10 {
            assert!(poller.wait(Duration::from_nanos(1_000)).unwrap().is_empty());
        }
        assert!(begin.elapsed() >= Duration::from_micros(10));
    }
}
