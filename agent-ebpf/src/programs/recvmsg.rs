//! The source of a received datagram: an answer of a backend comes from the service address.

use agent_ebpf::abi::{Hook, Outcome};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::ALLOW;
use super::datagrams::requested_of;
use crate::context::{Family, SocketAddress};
use crate::emit;

/// Attach point `cgroup/recvmsg4`, kernel 5.2.
#[cgroup_sock_addr(recvmsg4)]
fn segue_recvmsg4(context: SockAddrContext) -> i32 {
    run(Hook::Recvmsg4, &SocketAddress::new(&context, Family::V4))
}

/// Attach point `cgroup/recvmsg6`, kernel 5.2.
#[cgroup_sock_addr(recvmsg6)]
fn segue_recvmsg6(context: SockAddrContext) -> i32 {
    run(Hook::Recvmsg6, &SocketAddress::new(&context, Family::V6))
}

#[inline(always)]
fn run(hook: Hook, call: &SocketAddress) -> i32 {
    let outcome = match call.socket() {
        None => Outcome::Unsupported,
        Some(socket) => match requested_of(socket, &call.endpoint()) {
            Some(requested) => {
                call.set_endpoint(&requested);
                Outcome::Restored
            }
            None => Outcome::PeerUnmanaged,
        },
    };
    emit::outcome(hook, outcome);
    ALLOW
}
