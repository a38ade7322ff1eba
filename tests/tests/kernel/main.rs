//! The kernel tier: the agent, its programs and real sockets. One module per hook or subject.
//!
//! Run by `cargo xtask test --tier kernel`, as root.

mod connect;
mod harness;
