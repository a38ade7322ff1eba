//! The backend the algorithm wants, whatever its breaker and limits say; and who is asking.

use agent_ebpf::abi::Algorithm;
use agent_ebpf::abi::limits::MAX_CGROUP_LEVELS;
use agent_ebpf::abi::settings::WORKLOAD_LEFT_ALONE;
use agent_ebpf::decide::balance::{self, Side, peak_ewma};
use agent_ebpf::decide::limits;
use agent_ebpf::decide::locality::Window;

use crate::context::{self, Moment};
use crate::maps;

/// The backend the algorithm wants.
#[inline(always)]
pub(super) fn first_choice(
    service: u32,
    algorithm: Algorithm,
    window: Window,
    client: u64,
    now: Moment,
) -> Option<u32> {
    let cursor = if balance::needs_cursor(algorithm) { next_cursor(service) } else { 0 };
    let draw = if balance::needs_draw(algorithm) { context::draw() } else { 0 };
    let inputs = balance::Inputs { draw, client, cursor };
    let first = balance::position(algorithm, window.slot_count, &inputs)?;
    let one = at_position(window, first)?;
    if !balance::compares(algorithm) {
        return Some(one);
    }
    let draw = balance::second_draw(draw, now.ns);
    let second = balance::second_position(algorithm, window.slot_count, first, draw);
    let other = at_position(window, second)?;
    let (left, right) = (load(one, now)?, load(other, now)?);
    match balance::compare(algorithm, left, right) {
        Side::Left => Some(one),
        Side::Right => Some(other),
    }
}

#[inline(always)]
fn at_position(window: Window, position: balance::Position) -> Option<u32> {
    let slot = maps::slot(window.first_slot.wrapping_add(position.slot))?;
    Some(balance::resolve(slot, position.coin))
}

/// How loaded a backend is right now.
#[inline(always)]
fn load(id: u32, now: Moment) -> Option<balance::Load> {
    let (backend, state) = (maps::backend(id)?, maps::backend_state(id)?);
    Some(balance::Load {
        active: limits::in_use(state.active),
        latency_us: peak_ewma::latency_us(state.latency, now.ticks()),
        waiting_us: peak_ewma::waiting_us(
            limits::in_use(state.pending),
            state.progress_ticks as u32,
            now.ticks(),
        ),
        weight: backend.weight,
    })
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
/// client; outside any known workload, the process' own cgroup. A global function, which the verifier reads once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn segue_client() -> u64 {
    let mut level = 1;
    while level <= MAX_CGROUP_LEVELS {
        let cgroup = context::current_ancestor_cgroup(level);
        if cgroup == 0 {
            break;
        }
        if maps::workload(cgroup) != 0 {
            return cgroup;
        }
        level += 1;
    }
    context::current_cgroup()
}

/// Whether the caller is to be left alone. Asked once a service was found.
#[inline(always)]
pub(super) fn is_left_alone() -> bool {
    maps::some_are_left_alone() && segue_left_alone() != 0
}

/// Whether the outermost workload above the calling process is to be left alone: a pod, and not what it makes of
/// cgroups inside itself. A global function, as [`segue_client`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_left_alone() -> u32 {
    let mut level = 1;
    while level <= MAX_CGROUP_LEVELS {
        let cgroup = context::current_ancestor_cgroup(level);
        if cgroup == 0 {
            break;
        }
        let said = maps::workload(cgroup);
        if said != 0 {
            return said & WORKLOAD_LEFT_ALONE;
        }
        level += 1;
    }
    0
}
