//! What is left of a socket once nothing more happens to it: so two clients that do the same see the same, however
//! busy the machine is. Knows nothing of what the test compares it with.

use std::io;
use std::os::fd::RawFd;
use std::thread::sleep;
use std::time::Duration;

use segue_tests::client::protocol::{Command, Datagram, Received};
use segue_tests::sockopt;
use serde_json::{Value, json};

use crate::socket;

/// How often a socket is looked at.
const INTERVAL: Duration = Duration::from_millis(3);

/// So many looks that all see the same count as rest.
const LOOKS: u32 = 6;

/// After so many looks a socket that never rests is taken as it is.
const MAX_LOOKS: u32 = 100;

pub(crate) fn execute(command: Command, find: impl Fn(&str) -> io::Result<RawFd>) -> io::Result<Value> {
    let done = |()| Value::Null;
    match command {
        Command::ReceiveAll { socket, peek } => {
            let socket = find(&socket)?;
            settle(socket)?;
            receive_all(socket, peek).map(|received| json!(received))
        }
        Command::Events { socket } => settle(find(&socket)?).map(|events| json!(events)),
        Command::TakeError { socket } => {
            let socket = find(&socket)?;
            settle(socket)?;
            sockopt::get(socket, libc::SOL_SOCKET, libc::SO_ERROR).map(|errno| json!(errno))
        }
        Command::Patience { socket, timeout_ms } => patience(find(&socket)?, timeout_ms).map(done),
        Command::SetUserTimeout { socket, timeout_ms } => {
            sockopt::set(find(&socket)?, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &timeout_ms).map(done)
        }
        Command::UserTimeout { socket } => {
            sockopt::get(find(&socket)?, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT).map(|value| json!(value))
        }
        Command::Shutdown { socket, how } => {
            let socket = find(&socket)?;
            let result = socket::shutdown(socket, how);
            settle(socket)?;
            result.map(done)
        }
        other => panic!("{other:?} does not wait for rest"),
    }
}

/// Waits until nothing more happens to a socket; what `poll(2)` then says of it.
pub(crate) fn settle(socket: RawFd) -> io::Result<i32> {
    let mut seen = look(socket)?;
    let mut looks = 0;
    for _ in 0..MAX_LOOKS {
        sleep(INTERVAL);
        let now = look(socket)?;
        looks = if now == seen { looks + 1 } else { 0 };
        seen = now;
        if looks == LOOKS {
            break;
        }
    }
    Ok(i32::from(seen.0))
}

/// What can be seen of a socket without changing it: its events, the bytes that wait, its TCP state.
fn look(socket: RawFd) -> io::Result<(libc::c_short, libc::c_int, libc::c_int)> {
    let mut watched = libc::pollfd {
        fd: socket,
        events: libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one pollfd, which outlives the call.
    if unsafe { libc::poll(&raw mut watched, 1, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one integer. Where there is nothing to read from, zero stays.
    let _none = unsafe { libc::ioctl(socket, libc::FIONREAD, &raw mut waiting) };
    // The first byte of `struct tcp_info` is the state; a datagram socket has none.
    let state = sockopt::get(socket, libc::IPPROTO_TCP, libc::TCP_INFO).unwrap_or(0) & 0xff;
    Ok((watched.revents, waiting, state))
}

fn receive_all(socket: RawFd, peek: bool) -> io::Result<Received> {
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    let is_stream = sockopt::get(socket, libc::SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_STREAM;
    let mut parts: Vec<Datagram> = Vec::new();
    loop {
        let end = match socket::receive_from_with(socket, flags) {
            Ok(part) if is_stream && part.text.is_empty() => 0,
            Ok(part) => {
                match parts.first_mut() {
                    Some(all) if is_stream => all.text.push_str(&part.text),
                    _ => parts.push(part),
                }
                if !peek {
                    continue;
                }
                0
            }
            Err(error) => error.raw_os_error().unwrap_or(libc::EPROTO),
        };
        return Ok(Received { parts, end });
    }
}

fn patience(socket: RawFd, timeout_ms: u32) -> io::Result<()> {
    let timeout = libc::timeval {
        tv_sec: libc::time_t::from(timeout_ms / 1_000),
        tv_usec: libc::suseconds_t::from(timeout_ms % 1_000 * 1_000),
    };
    for option in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
        sockopt::set(socket, libc::SOL_SOCKET, option, &timeout)?;
    }
    Ok(())
}
