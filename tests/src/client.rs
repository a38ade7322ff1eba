//! Drives the `socket-client` program: an application whose every system call a test decides. Knows nothing of
//! Segue.

pub mod protocol;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use protocol::{Answer, Attempt, Command, Datagram, Family, Kind};
use serde::de::DeserializeOwned;

use crate::namespace::Handle;
use crate::program::spawn_inside;
use crate::wait::patient;
use crate::world::beside_test;

/// How long one command may take before the test fails.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The errno of a system call that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// What a system call gave.
pub type Outcome<T> = Result<T, Errno>;

/// A `socket-client` process. Killed on drop.
#[derive(Debug)]
pub struct Client {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    opened: u32,
}

/// A socket in a [`Client`], by name.
#[derive(Clone, Debug)]
pub struct Socket(String);

impl Client {
    /// Starts a client inside the namespace and the cgroup.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(namespace: Handle, cgroup: &Path) -> Self {
        let mut command = Process::new(beside_test("socket-client"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_inside(&mut command, namespace, cgroup).expect("socket-client can be started");
        let stdin = child.stdin.take().expect("a piped stdin");
        let stdout = child.stdout.take().expect("a piped stdout");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, answers, opened: 0 }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Panics
    /// When the client ended, does not answer within a minute, or answers something else than a `T`.
    #[track_caller]
    pub fn ask<T: DeserializeOwned>(&mut self, command: &Command) -> Outcome<T> {
        let line = serde_json::to_string(command).expect("a command is plain data");
        writeln!(self.stdin, "{line}").expect("the client reads its commands");
        let answer = self.answers.recv_timeout(patient(ANSWER_LIMIT));
        let answer = answer.unwrap_or_else(|error| panic!("no answer from the client to {line}: {error}"));
        match serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer} to {line}")) {
            Answer::Ok(value) => {
                Ok(serde_json::from_value(value)
                    .unwrap_or_else(|error| panic!("{error} in {answer} to {line}")))
            }
            Answer::Errno(errno) => Err(Errno(errno)),
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on closing this socket sends a reset.
    ///
    /// # Panics
    /// When the kernel refuses that.
    pub fn reset_on_close(&mut self, socket: &Socket) {
        self.ask::<()>(&Command::ResetOnClose { socket: socket.name() })
            .expect("SO_LINGER on a socket of ours");
    }

    /// Kills the process where it stands, sockets open.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn kill(mut self) {
        self.child.kill().expect("the client runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Opens a socket.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn open(&mut self, family: Family, kind: Kind) -> Socket {
        self.opened += 1;
        let socket = Socket(format!("s{}", self.opened));
        self.ask::<()>(&Command::Open { socket: socket.0.clone(), family, kind }).expect("a socket");
        socket
    }

    /// Opens a TCP socket of the address's family and connects it.
    ///
    /// # Errors
    /// The errno of `connect(2)`.
    #[track_caller]
    pub fn connect_tcp(&mut self, to: &str) -> Outcome<Socket> {
        let socket = self.open(family_of(to), Kind::Stream);
        self.connect(&socket, to).map(|()| socket)
    }

    /// Opens a UDP socket of the address's family and connects it.
    ///
    /// # Errors
    /// The errno of `connect(2)`.
    #[track_caller]
    pub fn connect_udp(&mut self, to: &str) -> Outcome<Socket> {
        let socket = self.open(family_of(to), Kind::Datagram);
        self.connect(&socket, to).map(|()| socket)
    }

    /// `connect(2)`.
    ///
    /// # Errors
    /// Its errno.
    #[track_caller]
    pub fn connect(&mut self, socket: &Socket, to: &str) -> Outcome<()> {
        self.ask(&Command::Connect { socket: socket.name(), to: address(to), nonblocking: false })
    }

    /// `connect(2)` on a socket made non-blocking.
    ///
    /// # Errors
    /// Its errno: EINPROGRESS when it is under way.
    #[track_caller]
    pub fn connect_nonblocking(&mut self, socket: &Socket, to: &str) -> Outcome<()> {
        self.ask(&Command::Connect { socket: socket.name(), to: address(to), nonblocking: true })
    }

    /// Waits for the end of a non-blocking connect.
    ///
    /// # Errors
    /// What `SO_ERROR` says.
    #[track_caller]
    pub fn finish_connect(&mut self, socket: &Socket) -> Outcome<()> {
        self.ask(&Command::FinishConnect { socket: socket.name() })
    }

    /// `connect(2)` with `AF_UNSPEC`.
    ///
    /// # Errors
    /// Its errno.
    #[track_caller]
    pub fn disconnect(&mut self, socket: &Socket) -> Outcome<()> {
        self.ask(&Command::Disconnect { socket: socket.name() })
    }

    /// `getpeername(2)`.
    ///
    /// # Errors
    /// Its errno.
    #[track_caller]
    pub fn peer(&mut self, socket: &Socket) -> Outcome<String> {
        self.ask(&Command::Peer { socket: socket.name() })
    }

    /// `getsockname(2)`.
    ///
    /// # Errors
    /// Its errno.
    #[track_caller]
    pub fn local(&mut self, socket: &Socket) -> Outcome<String> {
        self.ask(&Command::Local { socket: socket.name() })
    }

    /// `send(2)`.
    ///
    /// # Errors
    /// Its errno.
    #[track_caller]
    pub fn send(&mut self, socket: &Socket, text: &str) -> Outcome<()> {
        self.ask(&Command::Send { socket: socket.name(), text: text.into() })
    }

    /// `sendto(2)`.
    ///
    /// # Errors
    /// Its errno.
    #[track_caller]
    pub fn send_to(&mut self, socket: &Socket, text: &str, to: &str) -> Outcome<()> {
        self.ask(&Command::SendTo { socket: socket.name(), text: text.into(), to: address(to) })
    }

    /// `recv(2)`.
    ///
    /// # Errors
    /// Its errno; EAGAIN after 5 s without data.
    #[track_caller]
    pub fn receive(&mut self, socket: &Socket) -> Outcome<String> {
        self.ask(&Command::Receive { socket: socket.name() })
    }

    /// `recvfrom(2)`.
    ///
    /// # Errors
    /// Its errno; EAGAIN after 5 s without data.
    #[track_caller]
    pub fn receive_from(&mut self, socket: &Socket) -> Outcome<Datagram> {
        self.ask(&Command::ReceiveFrom { socket: socket.name() })
    }

    /// Receives a line: what a server of the harness says first is its name.
    ///
    /// # Errors
    /// The errno of `recv(2)`.
    #[track_caller]
    pub fn read_line(&mut self, socket: &Socket) -> Outcome<String> {
        self.ask(&Command::ReadLine { socket: socket.name() })
    }

    /// Closes a socket.
    ///
    /// # Panics
    /// When the kernel does not know it.
    #[track_caller]
    pub fn close(&mut self, socket: Socket) {
        self.ask::<()>(&Command::Close { socket: socket.0 }).expect("an open socket");
    }

    /// So many TCP connections one after the other; the servers' names, which all of them must have given.
    ///
    /// # Panics
    /// When one of them failed.
    #[track_caller]
    pub fn greetings(&mut self, to: &str, count: u32) -> Vec<String> {
        all_answered(self.attempts(to, count))
    }

    /// So many TCP connections one after the other, with the errno of those that failed.
    #[track_caller]
    pub fn attempts(&mut self, to: &str, count: u32) -> Vec<Attempt> {
        self.ask(&Command::Greetings { to: address(to), count }).expect("a list of attempts")
    }

    /// `threads` times `each` TCP connections, the threads side by side.
    #[track_caller]
    pub fn crowd(&mut self, to: &str, threads: u32, each: u32) -> Vec<Attempt> {
        self.ask(&Command::Crowd { to: address(to), threads, each }).expect("a list of attempts")
    }

    /// So many TCP connections at the same moment, held until [`Self::release_together`].
    #[track_caller]
    pub fn connect_together(&mut self, to: &str, count: u32) -> Vec<Attempt> {
        self.ask(&Command::ConnectTogether { to: address(to), count }).expect("a list of attempts")
    }

    /// Sends so many bytes on each connection of [`Self::connect_together`] to a server that echoes; how many did not
    /// bring back the same.
    #[track_caller]
    pub fn exchange_together(&mut self, bytes: u32) -> u32 {
        self.ask(&Command::ExchangeTogether { bytes }).expect("a number of connections")
    }

    /// Closes the connections of [`Self::connect_together`].
    #[track_caller]
    pub fn release_together(&mut self) {
        self.ask::<()>(&Command::ReleaseTogether).expect("connections are closed");
    }

    /// So many connected UDP sockets one after the other; the names of the servers that answered.
    ///
    /// # Panics
    /// When one of them failed.
    #[track_caller]
    pub fn questions(&mut self, to: &str, count: u32) -> Vec<String> {
        all_answered(self.ask(&Command::Questions { to: address(to), count }).expect("a list of attempts"))
    }

    /// Starts connecting in a loop of at most `count` rounds.
    #[track_caller]
    pub fn start_load(&mut self, to: &str, count: u32, pause: Duration) {
        let pause_us = u64::try_from(pause.as_micros()).expect("a short pause");
        self.ask::<()>(&Command::StartLoad { to: address(to), count, pause_us }).expect("a thread");
    }

    /// Ends the loop; every attempt it made.
    #[track_caller]
    pub fn stop_load(&mut self) -> Vec<Attempt> {
        self.ask(&Command::StopLoad).expect("a list of attempts")
    }

    /// Waits until the loop has gone round `rounds` more times.
    ///
    /// # Panics
    /// When it takes longer than 20 s.
    #[track_caller]
    pub fn await_load(&mut self, rounds: u32) {
        let goal = self.load_progress() + rounds;
        crate::wait::eventually("the load to go on", Duration::from_secs(20), || {
            let progress = self.load_progress();
            if progress >= goal { Ok(()) } else { Err(format!("{progress} of {goal} rounds")) }
        });
    }

    fn load_progress(&mut self) -> u32 {
        self.ask(&Command::LoadProgress).expect("a number of rounds")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Already gone after `kill`; then both calls say so, which is fine.
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Socket {
    /// The name commands call it by.
    pub fn name(&self) -> String {
        self.0.clone()
    }
}

/// The errno of each attempt that failed, in order.
pub fn errors(attempts: &[Attempt]) -> Vec<Errno> {
    attempts.iter().filter_map(|attempt| attempt.as_ref().err()).map(|errno| Errno(*errno)).collect()
}

/// How often each name came.
pub fn tally(names: &[String]) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

/// An address in a test's text.
///
/// # Panics
/// When it is none.
#[track_caller]
pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn family_of(text: &str) -> Family {
    if address(text).is_ipv4() { Family::V4 } else { Family::V6 }
}

#[track_caller]
fn all_answered(attempts: Vec<Attempt>) -> Vec<String> {
    let total = attempts.len();
    let check = |(index, attempt): (usize, Attempt)| match attempt {
        Ok(name) => name,
        Err(errno) => panic!("attempt {index} of {total} failed: {:?}", Errno(errno)),
    };
    attempts.into_iter().enumerate().map(check).collect()
}
