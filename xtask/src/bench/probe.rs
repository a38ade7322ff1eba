//! The benchmarks' client: a process in a cgroup that does on its input what a line says, and answers with a
//! line. It times nothing but the system calls it is about.
//!
//! - `udp COUNT FIRST LAST`, `tcp COUNT FIRST LAST`: connects COUNT new sockets to random addresses of the
//!   range; answers with the mean times of a connect() and of a close() in nanoseconds.
//! - `again COUNT FIRST LAST`: the same with one UDP socket, which is connected anew each time, and closed once.
//! - `fail COUNT ADDRESS`: as `tcp`, where every connect() must fail; answers with the mean time and the errno.
//! - `trip ADDRESS`: connects until it fails otherwise than ECONNREFUSED; answers with the refusals before, the
//!   nanoseconds from the last of them to that failure, and its errno.
//! - `until NAME ADDRESS`: asks over new connections until NAME answers; answers with the attempts.

use std::io;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::node::{Node, Place};

/// After this, `until` gives up.
const LIMIT: Duration = Duration::from_secs(30);

/// After so many refusals, `trip` gives up.
const MAX_REFUSALS: u32 = 100;

/// A probe in a cgroup of a node.
pub(crate) struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Addresses from the first to the last, on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first.
    pub(crate) first: SocketAddrV4,
    /// The last.
    pub(crate) last: Ipv4Addr,
}

impl Range {
    /// A single address.
    pub(crate) fn of_one(address: SocketAddrV4) -> Self {
        Self { first: address, last: *address.ip() }
    }
}

impl Probe {
    /// Starts one.
    pub(crate) fn start(node: &Node, place: Place) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = node.command(&own, place)?;
        command.arg("bench-probe").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a probe")?;
        let input = child.stdin.take().context("the probe has no input")?;
        let output = BufReader::new(child.stdout.take().context("the probe has no output")?);
        Ok(Self { child, input, output })
    }

    /// The mean time of a connect() to random addresses of the range, in microseconds.
    pub(crate) fn connect_us(&mut self, protocol: &str, count: u32, range: Range) -> anyhow::Result<f64> {
        Ok(self.connect_and_close_us(protocol, count, range)?.0)
    }

    /// The same, and the mean time of the close() that ends it.
    pub(crate) fn connect_and_close_us(
        &mut self,
        protocol: &str,
        count: u32,
        range: Range,
    ) -> anyhow::Result<(f64, f64)> {
        let answer = self.ask(&format!("{protocol} {count} {} {}", range.first, range.last))?;
        let parts: Option<(f64, f64)> = answer
            .split_once(' ')
            .and_then(|(connect, close)| Some((connect.parse().ok()?, close.parse().ok()?)));
        let (connect, close) = parts.with_context(|| format!("the probe said {answer:?}"))?;
        Ok((connect / 1000.0, close / 1000.0))
    }

    /// The mean time of a connect() that fails, in microseconds, and what it fails with.
    pub(crate) fn failure_us(&mut self, count: u32, address: SocketAddrV4) -> anyhow::Result<(f64, i32)> {
        let answer = self.ask(&format!("fail {count} {address}"))?;
        let parts: Option<(f64, i32)> =
            answer.split_once(' ').and_then(|(time, errno)| Some((time.parse().ok()?, errno.parse().ok()?)));
        let (nanoseconds, errno) = parts.with_context(|| format!("the probe said {answer:?}"))?;
        Ok((nanoseconds / 1000.0, errno))
    }

    /// Connects to an address that refuses until something else refuses: how many refusals that took, and the time
    /// from the last of them to the end of the first other failure, in microseconds.
    pub(crate) fn trip_us(&mut self, address: SocketAddrV4) -> anyhow::Result<(f64, f64)> {
        let answer = self.ask(&format!("trip {address}"))?;
        let parts: Option<(f64, f64)> =
            answer.split_once(' ').and_then(|(count, time)| Some((count.parse().ok()?, time.parse().ok()?)));
        let (refusals, nanoseconds) = parts.with_context(|| format!("the probe said {answer:?}"))?;
        Ok((refusals, nanoseconds / 1000.0))
    }

    /// Returns when new connections to the address are answered by `name`.
    pub(crate) fn until(&mut self, name: &str, address: SocketAddrV4) -> anyhow::Result<()> {
        let answer = self.ask(&format!("until {name} {address}"))?;
        answer.parse::<u64>().map(drop).with_context(|| format!("the probe said {answer:?}"))
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        writeln!(self.input, "{line}").context("the probe is gone")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).context("the probe is gone")?;
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Does what the lines of the input say.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    for line in stdin().lock().lines() {
        let line = line.context("cannot read the input")?;
        let answer = obey(&line, &mut random).unwrap_or_else(|error| format!("error: {error:#}"));
        writeln!(stdout().lock(), "{answer}").context("cannot write the output")?;
    }
    Ok(())
}

fn obey(line: &str, random: &mut u64) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["udp", count, first, last] => connect_many(libc::SOCK_DGRAM, count, first, last, random),
        ["tcp", count, first, last] => connect_many(libc::SOCK_STREAM, count, first, last, random),
        ["again", count, first, last] => connect_again(count, first, last, random),
        ["fail", count, address] => fail_many(count, address.parse()?),
        ["trip", address] => trip(address.parse()?),
        ["until", name, address] => {
            let address: SocketAddrV4 = address.parse()?;
            let begin = Instant::now();
            let mut attempts = 1_u64;
            while !answers(address, name) {
                if begin.elapsed() > LIMIT {
                    bail!("{name} did not answer at {address} within {LIMIT:?}");
                }
                attempts += 1;
            }
            Ok(attempts.to_string())
        }
        _ => bail!("no such command: {line}"),
    }
}

fn connect_many(kind: i32, count: &str, first: &str, last: &str, random: &mut u64) -> anyhow::Result<String> {
    let count: u32 = count.parse()?;
    let mut addresses = Addresses::parse(first, last, random)?;
    let mut total = Times::default();
    for _ in 0..count {
        let address = addresses.next()?;
        let times = connect_once(kind, address).with_context(|| format!("connect to {address}"))?;
        total.connect += times.connect;
        total.close += times.close;
    }
    let mean = |total: Duration| total.as_nanos() / u128::from(count.max(1));
    Ok(format!("{} {}", mean(total.connect), mean(total.close)))
}

fn connect_again(count: &str, first: &str, last: &str, random: &mut u64) -> anyhow::Result<String> {
    let count: u32 = count.parse()?;
    let mut addresses = Addresses::parse(first, last, random)?;
    let socket = Socket::new(libc::SOCK_DGRAM)?;
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let address = addresses.next()?;
        let (time, error) = socket.connect(address)?;
        if let Some(error) = error {
            return Err(error).with_context(|| format!("connect to {address}"));
        }
        total += time;
    }
    Ok(format!("{} 0", total.as_nanos() / u128::from(count.max(1))))
}

/// Random addresses of a range.
struct Addresses<'r> {
    low: u32,
    span: u32,
    port: u16,
    random: &'r mut u64,
}

impl<'r> Addresses<'r> {
    fn parse(first: &str, last: &str, random: &'r mut u64) -> anyhow::Result<Self> {
        let first: SocketAddrV4 = first.parse()?;
        let last: Ipv4Addr = last.parse()?;
        let low = first.ip().to_bits();
        let span = last.to_bits().checked_sub(low).context("the range ends before it begins")? + 1;
        Ok(Self { low, span, port: first.port(), random })
    }

    fn next(&mut self) -> anyhow::Result<SocketAddrV4> {
        let ip = self.low + u32::try_from(next(self.random) % u64::from(self.span))?;
        Ok(SocketAddrV4::new(Ipv4Addr::from_bits(ip), self.port))
    }
}

/// The next number of a xorshift sequence: which address comes next must not be predictable to a cache.
pub(super) fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Connects in vain; the mean time and the errno, which must be the same each time.
fn fail_many(count: &str, address: SocketAddrV4) -> anyhow::Result<String> {
    let count: u32 = count.parse()?;
    let mut total = Duration::ZERO;
    let mut errno = None;
    for _ in 0..count {
        let (time, error) = timed_connect(libc::SOCK_STREAM, address)?;
        let this = error.and_then(|error| error.raw_os_error()).context("a connect() succeeded")?;
        if errno.replace(this).is_some_and(|before| before != this) {
            bail!("connect to {address} fails with different errors");
        }
        total += time.connect;
    }
    Ok(format!("{} {}", total.as_nanos() / u128::from(count.max(1)), errno.context("no connect")?))
}

/// Connects until the failure is another.
fn trip(address: SocketAddrV4) -> anyhow::Result<String> {
    let mut last = Instant::now();
    for refusals in 0..MAX_REFUSALS {
        let (_, error) = timed_connect(libc::SOCK_STREAM, address)?;
        let error = error.context("a connect() succeeded")?;
        if error.raw_os_error() != Some(libc::ECONNREFUSED) {
            return Ok(format!("{refusals} {}", last.elapsed().as_nanos()));
        }
        last = Instant::now();
    }
    bail!("connect to {address} was refused {MAX_REFUSALS} times")
}

/// How long the system calls of one connection took.
#[derive(Clone, Copy, Default)]
struct Times {
    connect: Duration,
    close: Duration,
}

/// The times of one connect() of a new socket, which must succeed.
fn connect_once(kind: i32, address: SocketAddrV4) -> io::Result<Times> {
    match timed_connect(kind, address)? {
        (times, None) => Ok(times),
        (_, Some(error)) => Err(error),
    }
}

/// The times of one connect() of a new socket, and how it failed, if it did.
fn timed_connect(kind: i32, address: SocketAddrV4) -> io::Result<(Times, Option<io::Error>)> {
    let socket = Socket::new(kind)?;
    let (connect, error) = socket.connect(address)?;
    let begin = Instant::now();
    drop(socket);
    Ok((Times { connect, close: begin.elapsed() }, error))
}

/// A socket of our own: that of the standard library looks at what it is given before it connects.
struct Socket(i32);

impl Socket {
    fn new(kind: i32) -> io::Result<Self> {
        // Closing with a reset leaves no TIME_WAIT behind, of which a long run would have too many.
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = libc::socklen_t::try_from(size_of_val(&reset)).map_err(io::Error::other)?;
        // SAFETY: the option outlives the call, and the size is its own.
        unsafe {
            let socket = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0);
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const reset).cast(), size);
            Ok(Self(socket))
        }
    }

    /// How long connect() took, and how it failed, if it did.
    fn connect(&self, address: SocketAddrV4) -> io::Result<(Duration, Option<io::Error>)> {
        let target = libc::sockaddr_in {
            sin_family: libc::AF_INET.try_into().map_err(io::Error::other)?,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: address.ip().to_bits().to_be() },
            sin_zero: [0; 8],
        };
        let size = libc::socklen_t::try_from(size_of_val(&target)).map_err(io::Error::other)?;
        let begin = Instant::now();
        // SAFETY: the address outlives the call, and the size is its own.
        let result = unsafe { libc::connect(self.0, (&raw const target).cast(), size) };
        let time = begin.elapsed();
        let error = io::Error::last_os_error();
        Ok((time, (result != 0).then_some(error)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the socket is ours, and nobody uses it afterwards.
        unsafe { libc::close(self.0) };
    }
}

/// Whether a new connection to the address is answered with this name.
fn answers(address: SocketAddrV4, name: &str) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.trim_end().ends_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    #[test]
    fn connects_to_a_range_are_timed() {
        let answer = obey("udp 50 127.0.0.1:9 127.0.0.4", &mut 1).unwrap();
        let times: Vec<u64> = answer.split_whitespace().map(|time| time.parse().unwrap()).collect();
        assert!(times.len() == 2 && times[0] > 0, "{answer}");
    }

    #[test]
    fn one_socket_is_connected_again_and_again() {
        let answer = obey("again 50 127.0.0.1:9 127.0.0.4", &mut 1).unwrap();
        let (connect, close) = answer.split_once(' ').unwrap();
        assert!(connect.parse::<u64>().unwrap() > 0 && close == "0", "{answer}");
    }

    #[test]
    fn a_refused_connect_is_an_error_that_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        drop(listener);
        let error = obey(&format!("tcp 1 {address} 127.0.0.1"), &mut 1).unwrap_err();
        assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
    }

    #[test]
    fn failures_are_timed_and_a_success_among_them_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(obey(&format!("fail 3 {address}"), &mut 1).is_err());
        drop(listener);
        let answer = obey(&format!("fail 3 {address}"), &mut 1).unwrap();
        assert!(answer.ends_with(&format!(" {}", libc::ECONNREFUSED)), "{answer}");
        assert!(
            obey(&format!("trip {address}"), &mut 1).unwrap_err().to_string().contains("refused 100 times")
        );
    }

    #[test]
    fn a_line_nobody_understands_is_an_error() {
        assert!(obey("dance", &mut 1).is_err());
    }
}
