//! `round_robin`: connections go round the backends in a fixed sequence in which weights are interleaved.

use super::Position;
#[cfg(not(target_arch = "bpf"))]
use {super::Entry, crate::abi::Slot, crate::abi::limits::MAX_SEQUENCE};

/// The next place of the sequence, or `None` where the sequence is empty.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "less than `slot_count`, which has 32 bits")]
pub const fn position(slot_count: u32, cursor: u64) -> Option<Position> {
    match cursor.checked_rem(slot_count as u64) {
        Some(slot) => Some(Position { slot: slot as u32, coin: 0 }),
        None => None,
    }
}

/// The sequence: each backend as often as its reduced weight says, its turns evenly spaced. Equal weights take one
/// slot per backend, however many there are. `entries` all have a weight.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn fill(entries: &[Entry]) -> Vec<Slot> {
    let turns = turns(entries);
    let mut order: Vec<(usize, u64)> = turns
        .iter()
        .enumerate()
        .flat_map(|(index, &count)| (0..u64::from(count)).map(move |nth| (index, nth)))
        .collect();
    // Turn k of n happens at (2k + 1) / 2n of the round; fractions are compared by cross-multiplication.
    order.sort_by_key(|&(index, nth)| Turn { at: 2 * nth + 1, of: u64::from(turns[index]), index });
    order.into_iter().map(|(index, _)| Slot::sole(entries[index].backend)).collect()
}

/// A moment in the round, `at / of`; the backend's place in the list decides between equal moments.
#[cfg(not(target_arch = "bpf"))]
#[derive(PartialEq, Eq)]
struct Turn {
    at: u64,
    of: u64,
    index: usize,
}

#[cfg(not(target_arch = "bpf"))]
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at * other.of).cmp(&(other.at * self.of)).then(self.index.cmp(&other.index))
    }
}

#[cfg(not(target_arch = "bpf"))]
impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How many slots each backend gets: the weights reduced by their greatest common divisor, or, where that makes more
/// than [`MAX_SEQUENCE`] slots, the nearest whole numbers that fit, none of them 0.
#[cfg(not(target_arch = "bpf"))]
fn turns(entries: &[Entry]) -> Vec<u32> {
    let divisor = entries.iter().fold(0, |divisor, entry| common_divisor(divisor, u32::from(entry.weight)));
    let reduced: Vec<u32> = entries.iter().map(|entry| u32::from(entry.weight) / divisor).collect();
    let total: u64 = reduced.iter().map(|&weight| u64::from(weight)).sum();
    if total <= u64::from(MAX_SEQUENCE) || reduced.iter().all(|&weight| weight == 1) {
        return reduced;
    }
    apportion(&reduced, u64::from(MAX_SEQUENCE).max(entries.len() as u64))
}

#[cfg(not(target_arch = "bpf"))]
fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Shares out `places`, at least one per weight, by largest remainder. A weight too small for a whole place gets one,
/// and the others share what is left.
#[cfg(not(target_arch = "bpf"))]
fn apportion(weights: &[u32], places: u64) -> Vec<u32> {
    let mut shares = vec![1u64; weights.len()];
    let mut by_weight: Vec<usize> = (0..weights.len()).collect();
    by_weight.sort_by_key(|&index| (weights[index], index));
    let (mut places, mut total) = (places, weights.iter().map(|&weight| u64::from(weight)).sum::<u64>());
    let small = by_weight.iter().take_while(|&&index| {
        let weight = u64::from(weights[index]);
        let small = weight * places < total;
        if small {
            places -= 1;
            total -= weight;
        }
        small
    });
    let small = small.count();
    let large = &mut by_weight[small..];
    let quota = |index: usize| u64::from(weights[index]) * places;
    let mut over = places;
    for &index in large.iter() {
        shares[index] = quota(index) / total;
        over -= shares[index];
    }
    large.sort_by_key(|&index| (std::cmp::Reverse(quota(index) % total), index));
    for (&index, _) in large.iter().zip(0..over) {
        shares[index] += 1;
    }
    shares.into_iter().map(|share| u32::try_from(share).unwrap_or(u32::MAX)).collect()
}
