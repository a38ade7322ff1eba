//! How many of a service's backends breakers may take away, and when health is ignored. Knows only numbers.

/// Whether one more backend may be ejected (open or half-open), of `total` with `ejected` ejected already: within
/// the cap, but always one of two or more, and never the last.
#[inline(always)]
pub const fn may_eject(total: u32, ejected: u32, cap_percent: u8) -> bool {
    let after = ejected as u64 + 1;
    after < total as u64 && (ejected == 0 || after * 100 <= total as u64 * cap_percent as u64)
}

/// Whether so few of `total` backends are healthy that connections go to all of them: less than this part. With
/// 0 percent, or without backends, never.
#[inline(always)]
pub const fn panic(total: u32, healthy: u32, panic_percent: u8) -> bool {
    (healthy as u64) * 100 < total as u64 * panic_percent as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many can be ejected one after the other.
    fn most(total: u32, cap_percent: u8) -> u32 {
        (0..=total).find(|&ejected| !may_eject(total, ejected, cap_percent)).unwrap()
    }

    #[test]
    fn one_of_two_may_always_be_ejected_and_the_last_never() {
        assert_eq!([0, 1, 2, 3].map(|total| most(total, 0)), [0, 0, 1, 1]);
        assert_eq!([0, 1, 2, 3].map(|total| most(total, 100)), [0, 0, 1, 2]);
    }

    #[test]
    fn the_cap_is_a_part_of_all_backends() {
        assert_eq!([4, 5, 10, 100].map(|total| most(total, 50)), [2, 2, 5, 50]);
        assert_eq!(most(100, 10), 10);
    }

    #[test]
    fn health_is_ignored_below_the_panic_threshold() {
        assert!(!panic(10, 5, 50));
        assert!(panic(10, 4, 50));
        assert!(panic(10, 0, 50));
        assert!(!panic(10, 0, 0), "0 switches it off");
        assert!(!panic(0, 0, 50), "a service without backends is no panic");
    }

    proptest! {
        #[test]
        fn an_ejection_leaves_one_and_keeps_to_the_cap_beyond_the_first(total: u32, ejected: u32, cap in 0u8..=100) {
            if may_eject(total, ejected, cap) {
                let after = f64::from(ejected) + 1.0;
                prop_assert!(after < f64::from(total));
                prop_assert!(ejected == 0 || after / f64::from(total) <= f64::from(cap) / 100.0);
            }
        }
    }
}
