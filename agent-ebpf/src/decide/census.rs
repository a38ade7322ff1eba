//! How a service's backends are doing, near and elsewhere: counted backend by backend, without a branch, for a loop
//! of which the kernel's verifier would follow every combination of branches. Knows nothing of where they are found.

use super::locality::Zone;
use crate::abi::{CellWord, Verdict};

/// Counts of at most [`MAX_CENSUS`](crate::abi::limits::MAX_CENSUS) backends that take new connections.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census(pub u64);

/// Bits of each count.
const BITS: u32 = 10;
const MASK: u64 = (1 << BITS) - 1;
const NEAR: u32 = 0;
const ELSEWHERE: u32 = 2 * BITS;
const ORDERED_AWAY: u32 = 4 * BITS;
const EJECTED: u32 = 5 * BITS;

/// 1 where a backend of this zone is near for clients of the preferred one, else 0.
#[inline(always)]
pub const fn is_near(zone: u32, preferred: u32) -> u64 {
    ((zone ^ preferred) as u64).wrapping_sub(1) >> 63
}

#[allow(clippy::cast_possible_truncation, reason = "counts of ten bits")]
impl Census {
    /// Nobody counted yet.
    pub const EMPTY: Self = Self(0);

    /// One more backend: whether it is near (0 or 1), its breaker and the order about it. It is healthy where an
    /// order keeps it in, or its breaker is closed and no order keeps it away. Moments are below 2⁶³ ns.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, near: u64, cell: CellWord, verdict: Verdict, now_ns: u64) -> Self {
        let state = cell.state_number() as u64;
        let ejected = (state | state >> 1) & 1;
        // A mode counts while its moment lies ahead: then the difference is negative.
        let holds = now_ns.wrapping_sub(verdict.0) >> 63;
        let kept_in = holds & (verdict.0 >> 2) & 1;
        let kept_away = holds & verdict.0 & (verdict.0 >> 1) & 1;
        let healthy = kept_in | ((ejected ^ 1) & (kept_away ^ 1));
        let one = healthy | 1 << BITS;
        let here = (one * near) << NEAR;
        let there = (one * (near ^ 1)) << ELSEWHERE;
        Self(self.0 + here + there + (kept_away << ORDERED_AWAY) + (ejected << EJECTED))
    }

    #[inline(always)]
    const fn get(self, low: u32) -> u32 {
        (self.0 >> low & MASK) as u32
    }

    /// Those that are near.
    #[inline(always)]
    pub const fn near(self) -> Zone {
        Zone { healthy: self.get(NEAR), total: self.get(NEAR + BITS) }
    }

    /// The others.
    #[inline(always)]
    pub const fn elsewhere(self) -> Zone {
        Zone { healthy: self.get(ELSEWHERE), total: self.get(ELSEWHERE + BITS) }
    }

    /// All of those whose breakers have a say: not those that an order keeps away, which nobody disbelieves.
    #[inline(always)]
    pub const fn in_question(self) -> Zone {
        let (near, elsewhere) = (self.near(), self.elsewhere());
        let total = near.total + elsewhere.total;
        Zone {
            healthy: near.healthy + elsewhere.healthy,
            total: total.saturating_sub(self.get(ORDERED_AWAY)),
        }
    }

    /// How many breakers are open or half-open, whatever the orders say.
    #[inline(always)]
    pub const fn ejected(self) -> u32 {
        self.get(EJECTED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::abi::limits::MAX_CENSUS;
    use crate::abi::{BreakerMode, BreakerState};

    const NOW_NS: u64 = 1 << 50;

    fn cells() -> impl Strategy<Value = CellWord> {
        prop_oneof![
            Just(CellWord::CLEAN),
            Just(CellWord::recovering(3, 7)),
            Just(CellWord::open(1, u32::MAX)),
            Just(CellWord::half_open(1, u32::MAX).with_probes_established(31)),
        ]
    }

    fn verdicts() -> impl Strategy<Value = Verdict> {
        let modes = prop::sample::select(BreakerMode::ALL);
        let times = prop_oneof![Just(0u64), Just(NOW_NS - 8), Just(NOW_NS + 8), Just(NOW_NS * 2)];
        (modes, times).prop_map(|(mode, until_ns)| Verdict::new(mode, until_ns))
    }

    fn share(zone: Zone) -> (u32, u32) {
        (zone.healthy, zone.total)
    }

    proptest! {
        #[test]
        fn a_census_counts_what_one_would_count_by_hand(
            backends in prop::collection::vec((any::<bool>(), cells(), verdicts()), 0..=MAX_CENSUS as usize)
        ) {
            let (mut near, mut elsewhere, mut away, mut ejected) = ((0, 0), (0, 0), 0, 0);
            let mut census = Census::EMPTY;
            for (is_near, cell, verdict) in backends {
                census = census.with(u64::from(is_near), cell, verdict, NOW_NS);
                let closed = cell.state() == BreakerState::Closed;
                let healthy = match verdict.mode(NOW_NS) {
                    Some(BreakerMode::ForcedOpen) => false,
                    Some(BreakerMode::ForcedClosed) => true,
                    _ => closed,
                };
                let side = if is_near { &mut near } else { &mut elsewhere };
                side.0 += u32::from(healthy);
                side.1 += 1;
                away += u32::from(verdict.mode(NOW_NS) == Some(BreakerMode::ForcedOpen));
                ejected += u32::from(!closed);
            }
            prop_assert_eq!((share(census.near()), share(census.elsewhere())), (near, elsewhere));
            let all = (near.0 + elsewhere.0, near.1 + elsewhere.1 - away);
            prop_assert_eq!((share(census.in_question()), census.ejected()), (all, ejected));
        }

        #[test]
        fn near_is_the_same_zone(zone: u32, other: u32) {
            prop_assert_eq!(is_near(zone, other), u64::from(zone == other));
            prop_assert_eq!(is_near(zone, zone), 1);
        }
    }
}
