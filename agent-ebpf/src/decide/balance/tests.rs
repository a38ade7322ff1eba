//! What holds for every algorithm, checked against a model that knows only weights.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::abi::limits::{MAX_MAGLEV_TABLE, MAX_SEQUENCE};

/// Evenly spread draws: what a random source gives in the long run, without its noise.
const DRAWS: u32 = 1 << 14;

fn entries(weights: &[u16], seed: u64) -> Vec<Entry> {
    let entry = |(place, &weight): (u32, &u16)| Entry {
        backend: 7 * place + 3,
        weight,
        identity: mix(seed ^ u64::from(place)),
    };
    (0u32..).zip(weights).map(entry).collect()
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    let weight = prop_oneof![3 => Just(1u16), 1 => Just(0u16), 3 => 1u16..10, 1 => any::<u16>()];
    prop::collection::vec(weight, 1..40)
}

/// How often each backend is picked over one whole cycle of an algorithm's inputs.
fn picks(algorithm: Algorithm, window: &[Slot]) -> BTreeMap<u32, u32> {
    let slot_count = u32::try_from(window.len()).unwrap();
    let cycle: Vec<Inputs> = match algorithm {
        Algorithm::Random | Algorithm::LeastConnections | Algorithm::PeakEwma => (0..DRAWS)
            .map(|step| Inputs { draw: step * (u32::MAX / DRAWS + 1), ..Inputs::default() })
            .collect(),
        Algorithm::RoundRobin => {
            (0..slot_count).map(|cursor| Inputs { cursor: u64::from(cursor), ..Inputs::default() }).collect()
        }
        // Whole slots; that clients spread evenly over the slots is a test of its own.
        Algorithm::Maglev => return slots_of(window),
    };
    let mut counts = BTreeMap::new();
    for inputs in &cycle {
        let position = position(algorithm, slot_count, inputs).unwrap();
        *counts.entry(resolve(&window[position.slot as usize], position.coin)).or_default() += 1;
    }
    counts
}

/// How many slots name each backend.
fn slots_of(window: &[Slot]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for slot in window {
        *counts.entry(slot.backend).or_default() += 1;
    }
    counts
}

/// How far from its due share of `picks` a backend of weight `weight` may be.
fn tolerance(algorithm: Algorithm, share: f64, backends: usize, picked: u32) -> f64 {
    let backends = f64::from(u32::try_from(backends).unwrap());
    match algorithm {
        // The stride of the draws cuts each row, and each threshold, at most one draw off.
        Algorithm::Random | Algorithm::LeastConnections | Algorithm::PeakEwma => 2.0 * backends,
        // Exact, or rounded; where weights are extreme, those too small for a slot get one at the others' cost.
        Algorithm::RoundRobin if picked < MAX_SEQUENCE => 1e-6,
        Algorithm::RoundRobin => 1.0 + backends * share,
        // A backend's first turn is free; the others pay for it in proportion.
        Algorithm::Maglev => 1.0 + backends * share,
    }
}

/// Slots of a table that name another backend once one backend is lost, slots that had to, and slots in all.
fn loss(weights: &[u16], seed: u64, lost: usize) -> (usize, usize, usize) {
    let entries = entries(weights, seed);
    let before = fill(Algorithm::Maglev, &entries, 0);
    let lost = entries[lost];
    let rest: Vec<Entry> = entries.iter().copied().filter(|entry| *entry != lost).collect();
    let after = fill(Algorithm::Maglev, &rest, u32::try_from(before.len()).unwrap());
    assert_eq!(before.len(), after.len());
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    (moved, before.iter().filter(|slot| slot.backend == lost.backend).count(), before.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_pick_is_inside_the_window(slot_count in 1u32.., draw: u32, client: u64, cursor: u64) {
        for &algorithm in Algorithm::ALL {
            let position = position(algorithm, slot_count, &Inputs { draw, client, cursor }).unwrap();
            prop_assert!(position.slot < slot_count, "{algorithm:?}");
        }
    }

    #[test]
    fn every_backend_is_picked_in_proportion_to_its_weight(weights in weights(), seed: u64) {
        let entries = entries(&weights, seed);
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for &algorithm in Algorithm::ALL {
            let window = fill(algorithm, &entries, 0);
            prop_assert_eq!(window.is_empty(), total == 0.0);
            if window.is_empty() { continue; }
            let counts = picks(algorithm, &window);
            let picked: u32 = counts.values().sum();
            let usable = weights.iter().filter(|&&weight| weight > 0).count();
            for entry in &entries {
                let count = counts.get(&entry.backend).copied().unwrap_or(0);
                let share = f64::from(entry.weight) / total;
                let due = share * f64::from(picked);
                prop_assert!(entry.weight > 0 || count == 0, "{algorithm:?} picked a backend of weight 0");
                let allowed = tolerance(algorithm, share, usable, picked);
                prop_assert!((f64::from(count) - due).abs() <= allowed,
                    "{algorithm:?}: weight {} of {total} was picked {count} times of {picked}, {due} are due", entry.weight);
            }
        }
    }

    #[test]
    fn every_backend_with_a_weight_is_in_the_window(weights in weights(), seed: u64) {
        let entries = entries(&weights, seed);
        for &algorithm in Algorithm::ALL {
            let window = fill(algorithm, &entries, 0);
            for entry in &entries {
                let named = window.iter().any(|slot| slot.backend == entry.backend);
                prop_assert_eq!(named, entry.weight > 0, "{:?}, weight {}", algorithm, entry.weight);
                let aliased = window.iter().any(|slot| slot.alias == entry.backend);
                prop_assert!(entry.weight > 0 || !aliased);
            }
        }
    }

    #[test]
    fn shares_do_not_depend_on_the_order_of_backends(weights in weights(), seed: u64, turn: prop::sample::Index) {
        let entries = entries(&weights, seed);
        let mut turned = entries.clone();
        turned.rotate_left(turn.index(entries.len()));
        for &algorithm in Algorithm::ALL {
            let (window, other) = (fill(algorithm, &entries, 0), fill(algorithm, &turned, 0));
            prop_assert_eq!(window.len(), other.len());
            if window.is_empty() { continue; }
            let (counts, others) = (picks(algorithm, &window), picks(algorithm, &other));
            for entry in &entries {
                let (count, other) = (counts.get(&entry.backend), others.get(&entry.backend));
                let (count, other) = (count.copied().unwrap_or(0), other.copied().unwrap_or(0));
                // An alias table cuts its rows elsewhere; the sampling sees each cut to within one draw. A rounded
                // sequence gives the odd slot to another of several equal backends.
                let slack = match algorithm {
                    Algorithm::Random | Algorithm::LeastConnections | Algorithm::PeakEwma => {
                        2 * u32::try_from(window.len()).unwrap()
                    }
                    Algorithm::RoundRobin => 1,
                    Algorithm::Maglev => 0,
                };
                prop_assert!(count.abs_diff(other) <= slack, "{algorithm:?}: {count} and {other}");
            }
        }
    }

    #[test]
    fn an_alias_table_implies_the_weights_to_two_to_the_minus_31(weights in weights()) {
        let entries = entries(&weights, 0);
        let window = fill(Algorithm::Random, &entries, 0);
        if window.is_empty() { return Ok(()); }
        let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
        let rows = window.len() as u128;
        for entry in &entries {
            // Coins of all rows together that give this backend, of rows × 2³².
            let coins: u128 = window.iter().map(|slot| {
                let kept = u128::from(slot.keep_below) + 1;
                let first = if slot.backend == entry.backend { kept } else { 0 };
                let second = if slot.alias == entry.backend { (1 << 32) - kept } else { 0 };
                first + second
            }).sum();
            // |coins / (rows × 2³²) − weight / total| ≤ 2⁻³¹, multiplied out.
            let error = (coins * total).abs_diff(u128::from(entry.weight) * (rows << 32));
            prop_assert!(error <= 2 * rows * total, "weight {} of {total}: {coins} coins", entry.weight);
        }
    }

    #[test]
    fn a_table_of_maglev_is_the_same_in_any_order(weights in weights(), seed: u64, turn: prop::sample::Index) {
        let entries = entries(&weights, seed);
        let mut turned = entries.clone();
        turned.rotate_left(turn.index(entries.len()));
        prop_assert_eq!(fill(Algorithm::Maglev, &entries, 0), fill(Algorithm::Maglev, &turned, 0));
    }

    #[test]
    fn turns_of_a_backend_in_a_sequence_are_evenly_spaced(weights in prop::collection::vec(1u16..20, 1..12)) {
        let entries = entries(&weights, 0);
        let window = fill(Algorithm::RoundRobin, &entries, 0);
        for entry in &entries {
            let places: Vec<usize> =
                (0..window.len()).filter(|&place| window[place].backend == entry.backend).collect();
            let gap = window.len() / places.len();
            for pair in places.windows(2) {
                // Neighbours may be pushed aside by every other backend at most once.
                prop_assert!((pair[1] - pair[0]).abs_diff(gap) <= entries.len(), "{places:?} of {}", window.len());
            }
        }
    }
}

// On average over the backends and over many services: a single loss may be a little worse.
#[test]
fn losing_one_backend_of_maglev_moves_at_most_twice_the_ideal() {
    for count in [2, 5, 10, 20, 30] {
        let losses = (0..10).flat_map(|seed| (0..count).map(move |lost| loss(&vec![1; count], seed, lost)));
        let (moved, ideal) = losses.fold((0, 0), |sum, loss| (sum.0 + loss.0, sum.1 + loss.1));
        assert!(moved <= 2 * ideal, "of {count} backends: {moved} slots moved, {ideal} had to");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // Among many backends the ideal is so small that twice as much is no useful bound: it is the part of all clients
    // that moves without need which has to stay small.
    #[test]
    fn losing_one_backend_of_maglev_moves_few_clients_of_the_others(
        count in 2usize..300, weight in 1u16..5, seed: u64, lost: prop::sample::Index
    ) {
        let weights: Vec<u16> = (0..count).map(|place| if place % 2 == 0 { 1 } else { weight }).collect();
        let (moved, ideal, size) = loss(&weights, seed, lost.index(count));
        prop_assert!(8 * (moved - ideal) <= size, "{moved} of {size} slots moved, {ideal} had to");
    }
}

#[test]
fn clients_of_maglev_spread_evenly_over_the_slots() {
    const SLOTS: u32 = 1_021;
    const CLIENTS: u32 = 100 * SLOTS;
    let mut counts = vec![0u32; SLOTS as usize];
    for client in 0..CLIENTS {
        // Ids of cgroups are small and close together, which is what a weak hash would show.
        let inputs = Inputs { client: u64::from(client), ..Inputs::default() };
        counts[position(Algorithm::Maglev, SLOTS, &inputs).unwrap().slot as usize] += 1;
    }
    let squares: f64 = counts.iter().map(|&count| (f64::from(count) - 100.0).powi(2) / 100.0).sum();
    // Chi-square with 1 020 degrees of freedom: mean 1 020, standard deviation 45; six of them.
    assert!((squares - 1_020.0).abs() < 6.0 * 45.2, "chi-square {squares}");
}

#[test]
fn an_empty_window_gives_no_position() {
    for &algorithm in Algorithm::ALL {
        assert_eq!(position(algorithm, 0, &Inputs { draw: 1, client: 2, cursor: 3 }), None);
        assert!(fill(algorithm, &[], 0).is_empty());
    }
}

#[test]
fn weights_are_interleaved_and_reduced() {
    let window = fill(Algorithm::RoundRobin, &entries(&[50, 10, 10], 0), 0);
    let order: Vec<u32> = window.iter().map(|slot| (slot.backend - 3) / 7).collect();
    assert_eq!(order, [0, 0, 0, 1, 2, 0, 0]);
}

#[test]
fn a_sequence_stays_within_its_limit_and_leaves_nobody_out() {
    let mut weights = vec![1u16; 300];
    weights.extend([65_535, 40_000]);
    let window = fill(Algorithm::RoundRobin, &entries(&weights, 0), 0);
    assert_eq!(window.len(), MAX_SEQUENCE as usize);
    let counts = picks(Algorithm::RoundRobin, &window);
    assert_eq!(counts.len(), 302);
    assert!((0..300).all(|place| counts[&(7 * place + 3)] == 1));
    // 724 places are left for 65 535 : 40 000.
    assert_eq!((counts[&(7 * 300 + 3)], counts[&(7 * 301 + 3)]), (450, 274));
}

#[test]
fn equal_weights_take_one_slot_each_however_many_there_are() {
    assert_eq!(fill(Algorithm::RoundRobin, &entries(&[40; 5_000], 0), 0).len(), 5_000);
}

#[test]
fn more_unequal_backends_than_the_limit_get_one_slot_each() {
    let mut weights = vec![1u16; 1_500];
    weights[7] = 900;
    assert_eq!(fill(Algorithm::RoundRobin, &entries(&weights, 0), 0).len(), 1_500);
}

#[test]
fn table_sizes_of_maglev_are_prime_and_a_hundred_per_backend() {
    let sizes: Vec<u32> = [1, 2, 10, 100, 600, 5_000]
        .map(|count| u32::try_from(fill(Algorithm::Maglev, &entries(&vec![1; count], 0), 0).len()).unwrap())
        .to_vec();
    assert_eq!(sizes, [101, 251, 1_021, 16_381, 65_521, 65_521]);
    for size in sizes {
        assert!((2..size).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0));
        assert!(size <= MAX_MAGLEV_TABLE);
    }
}

#[test]
fn a_table_of_maglev_keeps_its_size_until_it_is_far_too_large() {
    let size = |count: usize, previous| fill(Algorithm::Maglev, &entries(&vec![1; count], 0), previous).len();
    assert_eq!(size(10, 2_039), 2_039);
    assert_eq!(size(21, 2_039), 4_093);
    assert_eq!(size(10, 16_381), 1_021);
    assert_eq!(size(10, 2_000), 1_021, "not a size of this list");
}

#[test]
fn a_draw_below_the_threshold_takes_the_backend_and_above_it_the_alias() {
    let slot = Slot { backend: 1, alias: 2, keep_below: 9, _pad: 0 };
    assert_eq!([resolve(&slot, 9), resolve(&slot, 10)], [1, 2]);
    assert_eq!(resolve(&Slot::sole(4), u32::MAX), 4);
}

#[test]
fn only_the_algorithms_that_say_so_read_the_client_and_the_cursor() {
    let base = Inputs { draw: 0x8000_0000, client: 11, cursor: 5 };
    for &algorithm in Algorithm::ALL {
        let spot = position(algorithm, 1_021, &base);
        let other_client = position(algorithm, 1_021, &Inputs { client: 12, ..base });
        let other_cursor = position(algorithm, 1_021, &Inputs { cursor: 6, ..base });
        assert_eq!(spot != other_client, needs_client(algorithm));
        assert_eq!(spot != other_cursor, needs_cursor(algorithm));
    }
}

proptest! {
    #[test]
    fn the_second_place_is_another_one_and_each_of_them_as_often(slot_count in 2u32..40, first in 0u32..40) {
        let first = Position { slot: first % slot_count, coin: 0 };
        let mut counts = vec![0u32; slot_count as usize];
        for step in 0..DRAWS {
            let second = second_position(Algorithm::LeastConnections, slot_count, first, step * (u32::MAX / DRAWS + 1));
            counts[second.slot as usize] += 1;
        }
        prop_assert_eq!(counts[first.slot as usize], 0);
        let due = DRAWS / (slot_count - 1);
        let others = (0u32..).zip(&counts).filter(|(slot, _)| *slot != first.slot);
        prop_assert!(others.map(|(_, count)| *count).all(|count| count.abs_diff(due) <= 1), "{:?}", counts);
    }

    #[test]
    fn a_backend_that_looks_worst_is_still_drawn_twice_by_peak_ewma(slot_count in 2u32..40, slot in 0u32..40) {
        let first = Position { slot: slot % slot_count, coin: 0 };
        let again = (0..DRAWS).any(|step| {
            second_position(Algorithm::PeakEwma, slot_count, first, step * (u32::MAX / DRAWS + 1)).slot == first.slot
        });
        prop_assert!(again);
    }

    #[test]
    fn the_second_place_of_one_is_that_one(draw: u32) {
        let first = Position { slot: 0, coin: 0 };
        prop_assert_eq!(second_position(Algorithm::LeastConnections, 1, first, draw).slot, 0);
        prop_assert_eq!(second_position(Algorithm::PeakEwma, 1, first, draw).slot, 0);
    }
}
