//! How many of a client's connections stay in its own zone. Knows zones only as numbers of backends.

use crate::abi::Subset;

/// A zone, or several zones together, as the choice sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Backends that take connections.
    pub healthy: u32,
    /// All backends, healthy or not; at least `healthy`.
    pub total: u32,
}

/// How much more than its share a healthy backend is trusted to carry, in thousandths: a zone is whole down to
/// 72 % healthy.
const OVERPROVISIONING_PERMILLE: u64 = 1_400;

/// What a zone can carry of the load it was built for, in thousandths.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "at most 1000")]
pub const fn capacity_permille(zone: Zone) -> u32 {
    match (OVERPROVISIONING_PERMILLE * zone.healthy as u64).checked_div(zone.total as u64) {
        Some(capacity) if capacity < 1_000 => capacity as u32,
        Some(_) => 1_000,
        None => 0,
    }
}

/// The part of a client's connections that stays in its zone, in thousandths: what the zone can carry; the rest
/// overflows. Where all other zones together cannot take the rest, each side gets a part by what it can carry.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a part of 1000")]
pub const fn local_share_permille(local: Zone, elsewhere: Zone) -> u32 {
    let here = capacity_permille(local) as u64;
    let both = here + capacity_permille(elsewhere) as u64;
    if both >= 1_000 {
        return here as u32;
    }
    match (here * 1_000).checked_div(both) {
        Some(share) => share as u32,
        // Nothing is healthy anywhere: there is no better place than near.
        None => 1_000,
    }
}

/// Whether this connection stays, for a draw of 32 random bits.
#[inline(always)]
pub const fn stays(local_share_permille: u32, draw: u32) -> bool {
    (draw as u64 * 1_000) >> 32 < local_share_permille as u64
}

/// Slots a connection may take: first, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first slot.
    pub first_slot: u32,
    /// How many.
    pub slot_count: u32,
}

/// Whether a subset has backends in the preferred zone and elsewhere, so that there is something to decide.
#[inline(always)]
pub const fn is_divided(subset: &Subset) -> bool {
    subset.near_slots > 0 && subset.near_slots < subset.slot_count
}

/// The part of a divided subset's window for a connection that stays in the zone, or does not; of another, all of it.
#[inline(always)]
pub const fn window(subset: &Subset, stays: bool) -> Window {
    let Subset { first_slot, slot_count, near_slots, .. } = *subset;
    if !is_divided(subset) {
        Window { first_slot, slot_count }
    } else if stays {
        Window { first_slot, slot_count: near_slots }
    } else {
        Window { first_slot: first_slot.wrapping_add(near_slots), slot_count: slot_count - near_slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn zone(healthy: u32, total: u32) -> Zone {
        Zone { healthy, total }
    }

    const WHOLE: Zone = zone(10, 10);

    #[test]
    fn a_zone_keeps_everything_down_to_72_percent_healthy() {
        assert_eq!(local_share_permille(zone(100, 100), WHOLE), 1_000);
        assert_eq!(local_share_permille(zone(72, 100), WHOLE), 1_000);
        assert_eq!(local_share_permille(zone(71, 100), WHOLE), 994);
        assert_eq!(local_share_permille(zone(50, 100), WHOLE), 700);
        assert_eq!(local_share_permille(zone(0, 100), WHOLE), 0);
    }

    #[test]
    fn what_the_others_cannot_take_stays_by_what_each_can_carry() {
        assert_eq!(local_share_permille(zone(1, 10), zone(3, 10)), 250);
        assert_eq!(local_share_permille(zone(1, 10), zone(0, 10)), 1_000);
        assert_eq!(local_share_permille(zone(0, 10), zone(1, 10)), 0);
    }

    #[test]
    fn a_client_without_backends_in_its_zone_goes_elsewhere() {
        assert_eq!(local_share_permille(Zone::default(), WHOLE), 0);
    }

    #[test]
    fn where_nothing_is_healthy_connections_stay_near() {
        assert_eq!(local_share_permille(zone(0, 3), zone(0, 3)), 1_000);
        assert_eq!(local_share_permille(Zone::default(), Zone::default()), 1_000);
    }

    #[test]
    fn the_two_parts_of_a_window_are_the_whole() {
        for near_slots in 0..=10 {
            let subset = Subset { first_slot: 100, slot_count: 10, near_slots, ..Subset::default() };
            let (near, elsewhere) = (window(&subset, true), window(&subset, false));
            if (1..10).contains(&near_slots) {
                assert_eq!((near.first_slot, near.slot_count), (100, near_slots));
                assert_eq!((elsewhere.first_slot, elsewhere.slot_count), (100 + near_slots, 10 - near_slots));
            } else {
                assert_eq!(near, Window { first_slot: 100, slot_count: 10 }, "{near_slots}");
                assert_eq!(elsewhere, near, "{near_slots}");
            }
        }
    }

    fn zones() -> impl Strategy<Value = Zone> {
        (0u32..=u32::MAX, 0u32..=u32::MAX).prop_map(|(a, b)| zone(a.min(b), a.max(b)))
    }

    proptest! {
        #[test]
        fn the_share_is_the_exact_one_to_three_thousandths(local in zones(), elsewhere in zones()) {
            let capacity = |zone: Zone| match zone.total {
                0 => 0.0,
                total => (1.4 * f64::from(zone.healthy) / f64::from(total)).min(1.0),
            };
            let (here, there) = (capacity(local), capacity(elsewhere));
            // Below this, what integers cut off is more than three thousandths of the result.
            prop_assume!(here + there == 0.0 || here + there > 0.6);
            let exact = if here + there == 0.0 { 1.0 } else { here.max(here / (here + there).min(1.0)) };
            let exact = if here + there >= 1.0 { here } else { exact };
            let share = f64::from(local_share_permille(local, elsewhere)) / 1_000.0;
            prop_assert!((share - exact).abs() <= 0.003, "{share}, exactly {exact}");
        }

        #[test]
        fn one_more_healthy_backend_never_sends_more_away(local in zones(), elsewhere in zones()) {
            prop_assume!(local.healthy < local.total);
            let better = zone(local.healthy + 1, local.total);
            prop_assert!(local_share_permille(better, elsewhere) >= local_share_permille(local, elsewhere));
        }

        #[test]
        fn so_many_of_all_draws_stay(share in 0u32..=1_000, draw: u32) {
            prop_assert_eq!(stays(share, draw), f64::from(draw) / 4_294_967_296.0 * 1_000.0 < f64::from(share));
        }
    }
}
