//! What the kernel counts for a service, read from the pinned maps themselves: so also while no agent lives. Knows
//! the layouts of `agent_ebpf::abi`, nothing of the agent.

use std::mem::offset_of;

use agent_ebpf::abi::{
    BackendState, CellWord, FrontendKey, Policy, Protocol, ServiceState, ServiceWord, Slot, Subset,
};

use crate::client::address;
use crate::pinned::PinnedMap;
use crate::world::World;

/// What the kernel counts for the TCP service with this frontend.
///
/// # Panics
/// When there is no such frontend, or the maps cannot be read.
pub fn service_state(world: &World, frontend: &str) -> ServiceState {
    let state = lookup(world, "SERVICE_STATE", &service_id(world, frontend, Protocol::Tcp));
    let at = |offset: usize| word(&state, offset);
    ServiceState {
        cursor: at(offset_of!(ServiceState, cursor)),
        selected: at(offset_of!(ServiceState, selected)),
        affine: at(offset_of!(ServiceState, affine)),
        no_backend: at(offset_of!(ServiceState, no_backend)),
        passed: at(offset_of!(ServiceState, passed)),
        fallback: at(offset_of!(ServiceState, fallback)),
        avoided: at(offset_of!(ServiceState, avoided)),
        would_avoid: at(offset_of!(ServiceState, would_avoid)),
        probes: at(offset_of!(ServiceState, probes)),
        opened: at(offset_of!(ServiceState, opened)),
        half_opened: at(offset_of!(ServiceState, half_opened)),
        closed: at(offset_of!(ServiceState, closed)),
        capped: at(offset_of!(ServiceState, capped)),
        panicked: at(offset_of!(ServiceState, panicked)),
        ejected: at(offset_of!(ServiceState, ejected)),
        kept_away: at(offset_of!(ServiceState, kept_away)),
        near: at(offset_of!(ServiceState, near)),
        overflowed: at(offset_of!(ServiceState, overflowed)),
        ..ServiceState::default()
    }
}

/// The key of a service's first backend in `BACKEND_STATE`.
///
/// # Panics
/// When there is no such frontend, or the maps cannot be read.
pub fn first_backend(world: &World, frontend: &str) -> Vec<u8> {
    first_backend_of(world, frontend, Protocol::Tcp)
}

/// The same, for a service of any protocol.
///
/// # Panics
/// As [`first_backend`].
pub fn first_backend_of(world: &World, frontend: &str, protocol: Protocol) -> Vec<u8> {
    let service = lookup(world, "SERVICES", &service_id(world, frontend, protocol));
    let policy = ServiceWord(word(&service, 0)).policy().expect("the service has a policy");
    let policy = lookup(world, "POLICIES", &policy.to_ne_bytes());
    let slot = offset_of!(Policy, subsets) + offset_of!(Subset, first_slot);
    let slot = lookup(world, "SLOTS", &policy[slot..slot + 4]);
    let backend = offset_of!(Slot, backend);
    slot[backend..backend + 4].to_vec()
}

/// What the kernel keeps for the backend of this key: the breaker's cell, and the connections it counts.
///
/// # Panics
/// When the map cannot be read.
pub fn cell_and_active(world: &World, backend: &[u8]) -> (CellWord, u64) {
    let state = lookup(world, "BACKEND_STATE", backend);
    (CellWord(word(&state, offset_of!(BackendState, cell))), word(&state, offset_of!(BackendState, active)))
}

/// The id of the service with this frontend, as bytes.
fn service_id(world: &World, frontend: &str, protocol: Protocol) -> Vec<u8> {
    let key = FrontendKey::new(address(frontend).into(), protocol as u8);
    let mut bytes: Vec<u8> = key.address.words_be.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(key.port_be.to_ne_bytes());
    bytes.extend([key.protocol, key._pad]);
    lookup(world, "FRONTENDS", &bytes)
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// The bytes of one value of a pinned map.
fn lookup(world: &World, map: &str, key: &[u8]) -> Vec<u8> {
    PinnedMap::open(world, map).lookup(key).unwrap_or_else(|| panic!("{map} has no {key:x?}"))
}
