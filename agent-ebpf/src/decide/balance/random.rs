//! `random`: each connection goes to a random backend, in proportion to the weights.

use super::Position;

/// One draw gives both numbers: of draw × `slot_count`, the high half is the slot and the low half, which is
/// evenly spread within the slot, is the coin.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 64-bit product")]
pub const fn position(slot_count: u32, draw: u32) -> Position {
    let product = draw as u64 * slot_count as u64;
    Position { slot: (product >> 32) as u32, coin: product as u32 }
}
