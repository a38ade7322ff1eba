//! Packets at their sockets: what the two sides say to each other, read for requests. Every packet goes on.

use agent_ebpf::abi::Hook;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;

use super::ALLOW;
use super::requests::{self, Way};
use crate::context::Packet;
use crate::emit;

/// Attach point `cgroup_skb/ingress`, kernel 4.10; what it asks of sockets, 5.8.
// The compiler would give it a frame of its own, and there is none to spare on the stack.
#[cgroup_skb(ingress)]
#[inline(always)]
fn segue_ingress(context: SkBuffContext) -> i32 {
    let outcome = requests::read(&Packet::new(&context), Way::Received);
    emit::outcome(Hook::Ingress, outcome);
    ALLOW
}

/// Attach point `cgroup_skb/egress`, likewise.
#[cgroup_skb(egress)]
#[inline(always)]
fn segue_egress(context: SkBuffContext) -> i32 {
    let outcome = requests::read(&Packet::new(&context), Way::Sent);
    emit::outcome(Hook::Egress, outcome);
    ALLOW
}
