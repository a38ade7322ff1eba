//! One program per hook: read, decide, act, record.

mod answers;
mod breaker;
mod choice;
mod connect;
mod conversations;
mod datagrams;
mod drain;
mod getpeername;
mod http2;
mod latency;
mod limits;
mod lookups;
mod packets;
mod recvmsg;
mod requests;
mod sample;
mod select;
mod sendmsg;
mod sock_ops;
mod sock_release;
mod tell;
mod tls;

/// The system call goes on.
const ALLOW: i32 = 1;
/// The system call fails, with EPERM unless an errno was set.
const REFUSE: i32 = 0;
