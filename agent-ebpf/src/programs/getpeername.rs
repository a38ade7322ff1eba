//! `getpeername()`: the application sees the address it asked for.

use agent_ebpf::abi::{Hook, Outcome};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::ALLOW;
use super::datagrams::requested_of;
use crate::context::{Family, SocketAddress};
use crate::emit;

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
    let requested = match call.socket() {
        Some(socket) => requested_of(socket, &call.endpoint()),
        None => None,
    };
    let outcome = match requested {
        Some(requested) => {
            call.set_endpoint(&requested);
            Outcome::Restored
        }
        None => Outcome::PeerUnmanaged,
    };
    emit::outcome(hook, outcome);
    ALLOW
}
