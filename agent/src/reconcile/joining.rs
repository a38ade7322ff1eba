//! Which backends join a service that was running already: their share is to grow. Knows what is and what should be,
//! and nothing of shares.

use std::collections::HashMap;
use std::sync::Arc;

use agent_ebpf::abi::BackendStatus;

use super::sync::Live;
use crate::compile::CompiledService;

/// Marks the backends that the service did not have so far as joining at this tick. Those it had keep what they are,
/// also after a restart of the agent. Where it had none of those that take connections now, there is nothing to compare
/// a new one with, and none joins; a tick of 0 is no moment to join at.
pub(super) fn mark(compiled: &mut CompiledService, live: &Live, now_ticks: u32) {
    let known: HashMap<u32, u32> = live.backends().map(|(id, record)| (id, record.joined_ticks)).collect();
    let takes = |status: u16| status == BackendStatus::Ready as u16;
    let stays = compiled.backends.iter().any(|it| takes(it.record.status) && known.contains_key(&it.id));
    let runs = live.published.is_some() && stays;
    for backend in Arc::make_mut(&mut compiled.backends) {
        let joins = runs && takes(backend.record.status);
        backend.record.joined_ticks =
            known.get(&backend.id).copied().unwrap_or(if joins { now_ticks } else { 0 });
    }
}
