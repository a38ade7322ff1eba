//! `maglev`: a client keeps its backend while it is there, and losing one backend moves few other clients
//! (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016).

use super::{Position, mix};

/// The client's place in the table: its hash, scaled onto the slots.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the high half of a 64-bit product")]
pub const fn position(slot_count: u32, client: u64) -> Position {
    let product = (mix(client) >> 32) * slot_count as u64;
    Position { slot: (product >> 32) as u32, coin: 0 }
}
