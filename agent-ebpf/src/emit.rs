//! What leaves a program: the count of its outcome, and events for those who listen.

use agent_ebpf::abi::{Backend, Connection, Event, EventKind, Hook, Loss, Outcome, Protocol};

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;

use crate::context::{Moment, TcpCounts};
use crate::maps;

/// Counts the outcome of a run; the last thing every program does.
#[inline(always)]
pub(crate) fn outcome(hook: Hook, outcome: Outcome) {
    maps::count(hook, outcome);
}

/// Says in the agent's log that a connection was let through because the tables surprised a program. Rare by
/// design, so it may cost something; not a part of its caller, whose stack is short.
#[inline(never)]
pub(crate) fn surprise<C: EbpfContext>(context: &C, hook: Hook, outcome: Outcome) {
    warn!(context, "program {} let a call through untouched, outcome {}", hook as u8, outcome as u8);
}

/// Whether somebody follows single connections.
#[inline(always)]
pub(crate) fn is_followed(now_ns: u64) -> bool {
    now_ns < maps::follow_until_ns()
}

/// Sends an event about a connection, while somebody follows. To wake a reader costs more than all else a refusal does.
#[inline(always)]
pub(crate) fn event(kind: EventKind, reason: u8, connection: &Connection, counts: &TcpCounts, now_ns: u64) {
    if !is_followed(now_ns) {
        return;
    }
    let sent = maps::send(Event {
        at_ns: now_ns,
        duration_ns: now_ns.saturating_sub(connection.started_at_ns),
        cgroup: connection.cgroup,
        sent_bytes: counts.sent_bytes,
        received_bytes: counts.received_bytes,
        requested: connection.requested,
        chosen: connection.chosen,
        service: connection.service,
        backend: connection.backend,
        version: connection.version,
        rtt_us: counts.rtt_us,
        retransmits: counts.retransmits,
        kind: kind as u8,
        reason,
        protocol: connection.protocol,
        states: 0,
    });
    maps::lost(if sent { Loss::EventWritten } else { Loss::Event });
}

/// Tells of a breaker that changed its state; `states` and `reason` as in [`Event`]. Always sent: there are few.
#[inline(always)]
pub(crate) fn transition(service: u32, id: u32, backend: &Backend, states: u8, reason: u8, now: Moment) {
    let sent = maps::send(Event {
        at_ns: now.ns,
        chosen: backend.endpoint,
        service,
        backend: id,
        version: backend.version,
        // Only TCP tells a breaker anything.
        protocol: Protocol::Tcp as u8,
        kind: EventKind::Breaker as u8,
        reason,
        states,
        ..Event::default()
    });
    maps::lost(if sent { Loss::EventWritten } else { Loss::Event });
}
