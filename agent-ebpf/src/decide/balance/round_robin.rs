//! `round_robin`: connections go round the backends in a fixed sequence in which weights are interleaved.

use super::Position;

/// The next place of the sequence, or `None` where the sequence is empty.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "less than `slot_count`, which has 32 bits")]
pub const fn position(slot_count: u32, cursor: u64) -> Option<Position> {
    match cursor.checked_rem(slot_count as u64) {
        Some(slot) => Some(Position { slot: slot as u32, coin: 0 }),
        None => None,
    }
}
