//! What the kernel keeps of connections whose TLS is read: calls of OpenSSL that are under way, and what is said on each
//! connection. All of it goes with the agent that put the probes in place.
//!
//! Knows the layouts, and nothing of how OpenSSL is called; that is `programs::tls`.

use super::connection::Connection;
use super::request::Exchange;

/// Value of `TLS_CALLS`, by thread: a call of OpenSSL that is under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsCall {
    /// Where its `SSL` is, in the process.
    pub ssl: u64,
    /// Where the text is that it writes, or that it reads to.
    pub text_at: u64,
    /// Where it says how much that was; 0 where what it returns says so.
    pub length_at: u64,
    /// When it began, on the monotonic clock.
    pub began_at_ns: u64,
    /// A [`TlsCallKind`] by number.
    pub kind: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<TlsCall>() == 40);

super::named_enum! {
    /// What a call of OpenSSL does.
    pub enum TlsCallKind {
        /// It greets the other side.
        Handshake = 0 => "handshake",
        /// It gives the application what the other side said.
        Read = 1 => "read",
        /// It says something to the other side.
        Write = 2 => "write",
    }
}

/// Key of `TLS_SESSIONS`: an `SSL` of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlsKey {
    /// Where it is, in the process.
    pub ssl: u64,
    /// The process, by its number in the first namespace.
    pub process: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<TlsKey>() == 16);

/// Value of `TLS_SESSIONS`: what is said inside TLS on one connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// How far the exchange is. Its positions mean nothing here: what OpenSSL hands over is in order.
    pub exchange: Exchange,
    /// The cookie of its socket; 0: it was never seen to use one.
    pub cookie: u64,
    /// A copy of what a client's socket remembers of its service, which the socket takes back when it is closed: a probe cannot reach
    /// it. Zeros for a server's.
    pub connection: Connection,
}

const _: () = assert!(size_of::<TlsSession>() == 208);
