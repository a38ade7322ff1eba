//! Which backend a connection or datagram goes to: follows the tables and asks `decide` at each fork.

use agent_ebpf::abi::limits::MAX_CGROUP_LEVELS;
use agent_ebpf::abi::{AffinityKey, AffinityValue, Backend, BackendStatus, Policy};
use agent_ebpf::decide::{affinity, balance, split};

use crate::context;
use crate::maps;

/// What the tables and the policy say.
pub(crate) enum Selection {
    /// This backend.
    Backend {
        /// Its id.
        id: u32,
        /// Its record.
        backend: &'static Backend,
        /// Chosen by the client's affinity.
        affine: bool,
    },
    /// The service is known and has nothing usable: this errno.
    Nothing {
        /// The errno the policy names.
        errno: u8,
    },
    /// The tables named something that is not there.
    Inconsistent,
}

/// Selects a backend of a service.
#[inline(always)]
pub(crate) fn select(service: u32, now_ns: u64) -> Selection {
    let Some(policy) = maps::policy_of(service) else { return Selection::Inconsistent };
    let Some(algorithm) = policy.algorithm() else { return Selection::Inconsistent };

    let has_affinity = policy.affinity_timeout_ms != 0;
    let client = if has_affinity || balance::needs_client(algorithm) { client() } else { 0 };
    let affinity_key = AffinityKey { client, service, _pad: 0 };
    if has_affinity {
        if let Some((id, backend)) = affine_backend(policy, &affinity_key, now_ns) {
            remember(&affinity_key, id, backend, now_ns);
            return Selection::Backend { id, backend, affine: true };
        }
    }

    let subset_draw = if policy.subset_count > 1 { context::draw() } else { 0 };
    let Some(subset) = split::subset(policy, subset_draw) else { return Selection::Inconsistent };
    let cursor = if balance::needs_cursor(algorithm) { next_cursor(service) } else { 0 };
    let inputs = balance::Inputs { draw: context::draw(), client, cursor };
    let Some(position) = balance::position(algorithm, subset.slot_count, &inputs) else {
        return Selection::Nothing { errno: policy.refuse_errno };
    };
    let Some(slot) = maps::slot(subset.first_slot.wrapping_add(position.slot)) else {
        return Selection::Inconsistent;
    };
    let id = balance::resolve(slot, position.coin);
    match maps::backend(id) {
        Some(backend) if backend.service == service && backend.status != BackendStatus::Vacant as u32 => {
            if has_affinity {
                remember(&affinity_key, id, backend, now_ns);
            }
            Selection::Backend { id, backend, affine: false }
        }
        _ => Selection::Inconsistent,
    }
}

/// The backend the client was given last, where that still holds.
#[inline(always)]
fn affine_backend(policy: &Policy, key: &AffinityKey, now_ns: u64) -> Option<(u32, &'static Backend)> {
    let value = maps::affinity(key)?;
    let backend = maps::backend(value.backend)?;
    if affinity::holds(policy, &value, backend, now_ns) { Some((value.backend, backend)) } else { None }
}

#[inline(always)]
fn remember(key: &AffinityKey, id: u32, backend: &Backend, now_ns: u64) {
    maps::set_affinity(
        key,
        &AffinityValue { used_at_ns: now_ns, backend: id, generation: backend.generation },
    );
}

/// Takes the next position of a service's round. Two CPUs that ask in the same instant may get the same one:
/// an add that also reads needs kernel 5.12.
#[inline(always)]
fn next_cursor(service: u32) -> u64 {
    match maps::service_state(service) {
        Some(state) => {
            let cursor = state.cursor;
            maps::add(&mut state.cursor, 1);
            cursor
        }
        None => 0,
    }
}

/// Who is calling: the workload (pod or unit) above the process, so that a cgroup made inside a pod is no new
/// client; outside any known workload, the process' own cgroup.
#[inline(always)]
fn client() -> u64 {
    let mut level = 1;
    while level <= MAX_CGROUP_LEVELS {
        let cgroup = context::current_ancestor_cgroup(level);
        if cgroup == 0 {
            break;
        }
        if maps::is_workload(cgroup) {
            return cgroup;
        }
        level += 1;
    }
    context::current_cgroup()
}
