//! `random`: each connection goes to a random backend, in proportion to the weights.

use super::Position;
#[cfg(not(target_arch = "bpf"))]
use {super::Entry, crate::abi::Slot};

/// One draw gives both numbers: of draw × `slot_count`, the high half is the slot and the low half, which is
/// evenly spread within the slot, is the coin.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 64-bit product")]
pub const fn position(slot_count: u32, draw: u32) -> Position {
    let product = draw as u64 * slot_count as u64;
    Position { slot: (product >> 32) as u32, coin: product as u32 }
}

/// A second place that is not the first, drawn evenly among the others: each slot is as often the second as it is the
/// first, so weights hold for both. The first itself where there is no other.
#[inline(always)]
pub const fn another(slot_count: u32, first: u32, draw: u32) -> Position {
    if slot_count < 2 {
        return position(slot_count, draw);
    }
    let among_others = position(slot_count - 1, draw);
    let slot = if among_others.slot < first { among_others.slot } else { among_others.slot + 1 };
    Position { slot, coin: among_others.coin }
}

/// An alias table, one row per backend, in exact integers: every row holds the mean weight, a backend below the
/// mean shares its row with one above it. `entries` all have a weight.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn fill(entries: &[Entry]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = entries.iter().map(|entry| Slot::sole(entry.backend)).collect();
    let rows = entries.len() as u64;
    // In units in which a row holds `row` and all weights together fill all rows.
    let row: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    let mut left: Vec<u64> = entries.iter().map(|entry| u64::from(entry.weight) * rows).collect();
    let (mut below, mut above): (Vec<usize>, Vec<usize>) = (0..entries.len()).partition(|&i| left[i] < row);
    while let (Some(&donor), Some(taker)) = (above.last(), below.pop()) {
        slots[taker].alias = entries[donor].backend;
        slots[taker].keep_below = threshold(left[taker], row);
        left[donor] -= row - left[taker];
        if left[donor] < row {
            above.pop();
            below.push(donor);
        }
    }
    slots
}

/// The highest coin of a row's first backend, which has `kept` of `row`; `kept` is 1 to `row` - 1.
#[cfg(not(target_arch = "bpf"))]
fn threshold(kept: u64, row: u64) -> u32 {
    let coins = ((u128::from(kept) << 32) + u128::from(row) / 2) / u128::from(row);
    u32::try_from(coins.saturating_sub(1)).unwrap_or(u32::MAX)
}
