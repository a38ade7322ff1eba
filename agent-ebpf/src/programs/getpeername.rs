//! `getpeername()`: the application sees the address it asked for.

use agent_ebpf::abi::{Hook, Outcome, Phase};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::ALLOW;
use crate::context::{Family, SocketAddress};
use crate::{emit, maps};

/// Attach point `cgroup/getpeername4`, kernel 5.8.
#[cgroup_sock_addr(getpeername4)]
fn segue_getpeername4(context: SockAddrContext) -> i32 {
    run(Hook::Getpeername4, &SocketAddress::new(&context, Family::V4))
}

/// Attach point `cgroup/getpeername6`, kernel 5.8.
#[cgroup_sock_addr(getpeername6)]
fn segue_getpeername6(context: SockAddrContext) -> i32 {
    run(Hook::Getpeername6, &SocketAddress::new(&context, Family::V6))
}

#[inline(always)]
fn run(hook: Hook, call: &SocketAddress) -> i32 {
    let outcome = match call.socket().and_then(maps::connection) {
        // The comparison matters: a socket may have been connected elsewhere since, by a way that has no hook.
        Some(connection)
            if connection.phase != Phase::Released as u8 && connection.chosen == call.endpoint() =>
        {
            call.set_endpoint(&connection.requested);
            Outcome::Restored
        }
        _ => Outcome::PeerUnmanaged,
    };
    emit::outcome(hook, outcome);
    ALLOW
}
