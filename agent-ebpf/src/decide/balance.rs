//! Which slot of a window a connection takes. One file per algorithm, each with both sides: the pick, which runs
//! in the kernel, and the fill, which builds the window in the agent.
//!
//! This module knows nothing of maps, addresses or health: it gets numbers and gives numbers.

pub mod least_connections;
pub mod maglev;
pub mod peak_ewma;
pub mod random;
pub mod round_robin;

use crate::abi::{Algorithm, Slot};

/// What a pick may depend on. An algorithm reads only what [`needs_draw`], [`needs_client`] and [`needs_cursor`]
/// say; the rest may be anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs {
    /// 32 random bits. Not the draw that chose the subset: the two choices would depend on each other.
    pub draw: u32,
    /// Who connects: the id of the client's workload. The same client gives the same value.
    pub client: u64,
    /// The value of the service's cursor before this connection raised it by one.
    pub cursor: u64,
}

/// The outcome of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Place in the window, less than its number of slots.
    pub slot: u32,
    /// What decides between the two backends of a slot; see [`resolve`].
    pub coin: u32,
}

/// Whether this algorithm reads [`Inputs::draw`].
#[inline(always)]
pub const fn needs_draw(algorithm: Algorithm) -> bool {
    !needs_client(algorithm) && !needs_cursor(algorithm)
}

/// Whether this algorithm reads [`Inputs::client`].
#[inline(always)]
pub const fn needs_client(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::Maglev)
}

/// Whether this algorithm reads [`Inputs::cursor`], which the caller raises by one for each connection.
#[inline(always)]
pub const fn needs_cursor(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::RoundRobin)
}

/// Whether this algorithm draws two backends and takes the less loaded one; see [`compare`].
#[inline(always)]
pub const fn compares(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::LeastConnections | Algorithm::PeakEwma)
}

/// Which of two backends drawn by an algorithm that [`compares`] takes the connection.
#[inline(always)]
pub const fn compare(algorithm: Algorithm, left: Load, right: Load) -> Side {
    match algorithm {
        Algorithm::LeastConnections => least_connections::compare(left, right),
        _ => peak_ewma::compare(left, right),
    }
}

/// The place in a window of `slot_count` slots, or `None` where the window is empty.
#[inline(always)]
pub fn position(algorithm: Algorithm, slot_count: u32, inputs: &Inputs) -> Option<Position> {
    if slot_count == 0 {
        return None;
    }
    match algorithm {
        Algorithm::Random | Algorithm::LeastConnections | Algorithm::PeakEwma => {
            Some(random::position(slot_count, inputs.draw))
        }
        Algorithm::RoundRobin => round_robin::position(slot_count, inputs.cursor),
        Algorithm::Maglev => Some(maglev::position(slot_count, inputs.client)),
    }
}

/// The place of the second backend that an algorithm which [`compares`] draws. For `least_connections` not the slot of
/// the first: else one in as many connections as there are backends would go to one that is compared with itself, black
/// holes included. For `peak_ewma` any slot: those few connections are what tells it that a backend does well again.
#[inline(always)]
pub const fn second_position(algorithm: Algorithm, slot_count: u32, first: Position, draw: u32) -> Position {
    match algorithm {
        Algorithm::PeakEwma => random::position(slot_count, draw),
        _ => random::another(slot_count, first.slot, draw),
    }
}

/// A second draw out of a first one and the moment: to ask the kernel for another takes as long as all of this module.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the high half of 64 bits")]
pub const fn second_draw(draw: u32, now_ns: u64) -> u32 {
    (mix(now_ns << 32 | draw as u64) >> 32) as u32
}

/// The id of the backend a slot gives for a coin.
#[inline(always)]
pub fn resolve(slot: &Slot, coin: u32) -> u32 {
    if coin <= slot.keep_below { slot.backend } else { slot.alias }
}

/// How loaded a backend is, for the algorithms that compare two. An algorithm that does not need a field may be
/// given anything for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections reserved and not yet released, pending ones among them.
    pub active: u32,
    /// What [`peak_ewma::latency_us`] says, in microseconds.
    pub latency_us: u32,
    /// What [`peak_ewma::waiting_us`] says, in microseconds.
    pub waiting_us: u32,
    /// The backend's share relative to the other's.
    pub weight: u16,
}

impl Load {
    /// The weight; where it is missing, 1.
    #[inline(always)]
    const fn weight(self) -> u64 {
        if self.weight == 0 { 1 } else { self.weight as u64 }
    }
}

/// One of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Left,
    /// The second.
    Right,
}

/// Spreads 64 bits over 64 bits, one to one; every input bit changes about half of the output bits. The constants
/// are those of the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A backend as [`fill`] sees it.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The backend's id.
    pub backend: u32,
    /// Its share relative to the others'; with 0 it gets no slot.
    pub weight: u16,
    /// A number that stays with the backend whatever its id and its place in the list: a hash of its endpoint.
    pub identity: u64,
}

/// The window in which this algorithm finds these backends in proportion to their weights. Empty if and only if no
/// entry has a weight.
///
/// `previous_slots` is the number of slots of the window this one replaces, 0 without one: `maglev` keeps its table
/// size while it can, because another size moves every client. For more backends than [`maglev::MAX_BACKENDS`]
/// `maglev` leaves some without a slot; callers refuse that before.
#[cfg(not(target_arch = "bpf"))]
pub fn fill(algorithm: Algorithm, entries: &[Entry], previous_slots: u32) -> Vec<Slot> {
    let weighted: Vec<Entry> = entries.iter().copied().filter(|entry| entry.weight > 0).collect();
    if weighted.is_empty() {
        return Vec::new();
    }
    match algorithm {
        Algorithm::Random | Algorithm::LeastConnections | Algorithm::PeakEwma => random::fill(&weighted),
        Algorithm::RoundRobin => round_robin::fill(&weighted),
        Algorithm::Maglev => maglev::fill(&weighted, previous_slots),
    }
}

#[cfg(test)]
mod tests;
