//! What a test can tell the socket client to do: one JSON object a line, one answer a line. Plain data, no IO.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The family a socket is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`; an IPv4 address is then given to the kernel in its IPv4-mapped form.
    V6,
}

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// One thing to do. Sockets are called by names the test gives them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are the arguments of the call named above them")]
pub enum Command {
    /// `socket(2)`.
    Open { socket: String, family: Family, kind: Kind },
    /// `connect(2)`; `nonblocking` sets `O_NONBLOCK` first.
    Connect { socket: String, to: SocketAddr, nonblocking: bool },
    /// Waits until a non-blocking connect is decided; answers with its error if it has one.
    FinishConnect { socket: String },
    /// `connect(2)` with an address of this family, whatever the socket's own is.
    ConnectAs { socket: String, to: SocketAddr, family: Family, nonblocking: bool },
    /// `bind(2)`.
    Bind { socket: String, at: SocketAddr },
    /// `connect(2)` with `AF_UNSPEC`: the socket forgets its peer.
    Disconnect { socket: String },
    /// `getpeername(2)`.
    Peer { socket: String },
    /// `getsockname(2)`.
    Local { socket: String },
    /// `send(2)`.
    Send { socket: String, text: String },
    /// `sendto(2)`.
    SendTo { socket: String, text: String, to: SocketAddr },
    /// `sendto(2)` with `MSG_FASTOPEN`: connect and send in one call.
    FastOpen { socket: String, text: String, to: SocketAddr },
    /// `recv(2)` once.
    Receive { socket: String },
    /// `recvfrom(2)` once: text and source.
    ReceiveFrom { socket: String },
    /// Receives all there is once nothing more arrives, without waiting for more; the source with each part. Of a
    /// stream, one part with all bytes. With `peek` it stays where it is, and only the first is seen.
    ReceiveAll { socket: String, peek: bool },
    /// What `poll(2)` says once nothing more arrives: the bits of `revents`.
    Events { socket: String },
    /// `SO_ERROR`, which this takes away.
    TakeError { socket: String },
    /// How long connecting, sending and receiving wait (`SO_SNDTIMEO`, `SO_RCVTIMEO`).
    Patience { socket: String, timeout_ms: u32 },
    /// `TCP_USER_TIMEOUT`.
    SetUserTimeout { socket: String, timeout_ms: i32 },
    /// The same, as it is.
    UserTimeout { socket: String },
    /// Receives up to the end of a line.
    ReadLine { socket: String },
    /// Receives until the peer has closed; answers with the number of bytes.
    Drain { socket: String },
    /// Sends so many bytes while it receives as many back.
    Exchange { socket: String, bytes: u64 },
    /// `SO_LINGER` with zero time: closing sends a reset.
    ResetOnClose { socket: String },
    /// `shutdown(SHUT_WR)`.
    ShutdownWrite { socket: String },
    /// `shutdown(2)` with `SHUT_RD` (0), `SHUT_WR` (1) or `SHUT_RDWR` (2).
    Shutdown { socket: String, how: i32 },
    /// `dup(2)` under a second name.
    Duplicate { socket: String, copy: String },
    /// `close(2)`.
    Close { socket: String },
    /// Forks; the child does `then` on the sockets it inherited and ends.
    InChild { then: Box<Command> },
    /// Starts another process, passes it the socket over a unix socket, and has it do `then`.
    InReceiver { socket: String, then: Box<Command> },
    /// Forks a child that holds every open socket until `EndHolder`.
    StartHolder,
    /// Ends the child of `StartHolder`.
    EndHolder,
    /// So many times: connect, read a line, close. Answers with the line or the errno of each.
    Greetings { to: SocketAddr, count: u32 },
    /// So many times: a UDP socket connected anew, a question, an answer. Answers as `Greetings` does.
    Questions { to: SocketAddr, count: u32 },
    /// `threads` threads at once, each so many times: connect, read a line, close. Answers as `Greetings` does.
    Crowd { to: SocketAddr, threads: u32, each: u32 },
    /// So many threads at once: connect, and keep the connection until `ReleaseTogether`. Answers as `Greetings`
    /// does, with no name.
    ConnectTogether { to: SocketAddr, count: u32 },
    /// Sends so many bytes on each connection that `ConnectTogether` keeps, and answers with how many brought back
    /// other bytes, or none.
    ExchangeTogether { bytes: u32 },
    /// Closes what `ConnectTogether` keeps.
    ReleaseTogether,
    /// Greets again and again on a thread, at most `count` times, with a pause between two.
    StartLoad { to: SocketAddr, count: u32, pause_us: u64 },
    /// Ends the loop; answers with what `Greetings` answers.
    StopLoad,
    /// How often the loop has greeted so far.
    LoadProgress,
}

/// How a command ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It worked; what it gave, or null.
    Ok(serde_json::Value),
    /// The system call that failed said this.
    Errno(i32),
}

/// What [`Command::ReceiveFrom`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// The payload.
    pub text: String,
    /// Where the kernel says it came from, as the application sees it.
    pub from: String,
}

/// What [`Command::ReceiveAll`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The parts in the order of their arrival.
    pub parts: Vec<Datagram>,
    /// The errno that ended it; 0 where the peer has closed.
    pub end: i32,
}

/// One attempt of [`Command::Greetings`]: the name of the server, or the errno.
pub type Attempt = Result<String, i32>;
