//! `maglev`: a client keeps its backend while it is there, and losing one backend moves few other clients
//! (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016).

use super::{Position, mix};
use crate::abi::limits::MAX_MAGLEV_TABLE;
#[cfg(not(target_arch = "bpf"))]
use {super::Entry, crate::abi::Slot, std::collections::BinaryHeap};

/// The client's place in the table: its hash, scaled onto the slots.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the high half of a 64-bit product")]
pub const fn position(slot_count: u32, client: u64) -> Position {
    let product = (mix(client) >> 32) * slot_count as u64;
    Position { slot: (product >> 32) as u32, coin: 0 }
}

/// The most backends a table has room for.
pub const MAX_BACKENDS: u32 = MAX_MAGLEV_TABLE;

/// Slots per backend, at least, where the largest table allows it: shares are then right to 1 %.
#[cfg(not(target_arch = "bpf"))]
const SLOTS_PER_BACKEND: u64 = 100;

/// How many times larger than needed a table may stay. A service that breathes by less keeps its table size, and
/// with it its clients.
#[cfg(not(target_arch = "bpf"))]
const OVERSIZE: u32 = 8;

/// The table sizes: prime, so that every skip visits every slot.
#[cfg(not(target_arch = "bpf"))]
const TABLE_SIZES: [u32; 10] = [101, 251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, MAX_MAGLEV_TABLE];

/// The size of the table for so many backends, given the size it had (0: none).
#[cfg(not(target_arch = "bpf"))]
fn table_size(backends: usize, previous: u32) -> u32 {
    let wanted = backends as u64 * SLOTS_PER_BACKEND;
    let fits = |size: u32| u64::from(size) >= wanted || size == MAX_MAGLEV_TABLE;
    let smallest = TABLE_SIZES.into_iter().find(|&size| fits(size)).unwrap_or(MAX_MAGLEV_TABLE);
    let keeps = TABLE_SIZES.contains(&previous) && fits(previous) && previous <= smallest * OVERSIZE;
    if keeps { previous } else { smallest }
}

/// A backend that waits for its next turn to take a slot.
#[cfg(not(target_arch = "bpf"))]
#[derive(PartialEq, Eq)]
struct Turn {
    /// Which turn this is, from 0; it comes at `nth` / `weight`.
    nth: u64,
    weight: u64,
    /// Place in the order of identities; decides between turns that come at once.
    rank: usize,
    /// The slot the backend wants most of those it has not asked for.
    wants: u32,
    skip: u32,
}

#[cfg(not(target_arch = "bpf"))]
impl Ord for Turn {
    /// The earliest turn is the greatest: a heap gives its greatest element first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (mine, others) = (self.nth * other.weight, other.nth * self.weight);
        others.cmp(&mine).then(other.rank.cmp(&self.rank))
    }
}

#[cfg(not(target_arch = "bpf"))]
impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The lookup table: backends take turns, as often as their weights say, and each takes the first free slot of its
/// own permutation. A backend's turns and permutation depend on its identity and weight alone, which is why the
/// others keep most of their slots when one goes. `entries` all have a weight.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn fill(entries: &[Entry], previous_slots: u32) -> Vec<Slot> {
    let size = table_size(entries.len(), previous_slots);
    let mut entries: Vec<Entry> = entries.to_vec();
    entries.sort_by_key(|entry| (entry.identity, entry.backend));
    let mut turns: BinaryHeap<Turn> =
        entries.iter().enumerate().map(|(rank, entry)| first_turn(rank, entry, size)).collect();
    let mut table: Vec<Option<Slot>> = vec![None; size as usize];
    for _ in 0..size {
        let Some(mut turn) = turns.pop() else { break };
        while table[turn.wants as usize].is_some() {
            turn.wants = (turn.wants + turn.skip) % size;
        }
        table[turn.wants as usize] = Some(Slot::sole(entries[turn.rank].backend));
        turn.nth += 1;
        turns.push(turn);
    }
    table.into_iter().flatten().collect()
}

#[cfg(not(target_arch = "bpf"))]
#[expect(clippy::cast_possible_truncation, reason = "remainders of a 32-bit size")]
fn first_turn(rank: usize, entry: &Entry, size: u32) -> Turn {
    let offset = mix(entry.identity);
    let skip = mix(offset);
    Turn {
        nth: 0,
        weight: u64::from(entry.weight),
        rank,
        wants: (offset % u64::from(size)) as u32,
        skip: (skip % u64::from(size - 1)) as u32 + 1,
    }
}
