//! `least_connections`: of two backends drawn by weight, the one with fewer connections for its weight
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use super::{Load, Side};

/// The backend with fewer open connections per weight; the left one where both have as many.
#[inline(always)]
pub const fn compare(left: Load, right: Load) -> Side {
    // Left / left weight <= right / right weight, without dividing.
    if left.active as u64 * right.weight() <= right.active as u64 * left.weight() {
        Side::Left
    } else {
        Side::Right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(active: u32, weight: u16) -> Load {
        Load { active, weight, ..Load::default() }
    }

    #[test]
    fn the_backend_with_fewer_connections_is_taken() {
        assert_eq!(compare(load(3, 1), load(4, 1)), Side::Left);
        assert_eq!(compare(load(4, 1), load(3, 1)), Side::Right);
    }

    #[test]
    fn a_backend_of_twice_the_weight_takes_twice_the_connections() {
        assert_eq!(compare(load(6, 2), load(4, 1)), Side::Left);
        assert_eq!(compare(load(9, 2), load(4, 1)), Side::Right);
    }

    #[test]
    fn a_missing_weight_counts_as_one() {
        assert_eq!(compare(load(3, 0), load(2, 1)), Side::Right);
        assert_eq!(compare(load(2, 0), load(3, 1)), Side::Left);
    }

    proptest! {
        #[test]
        fn the_side_is_that_of_the_smaller_quotient(a: u32, b: u32, v: u16, w: u16) {
            let quotient = |active: u32, weight: u16| f64::from(active) / f64::from(weight.max(1));
            let (left, right) = (quotient(a, v), quotient(b, w));
            // What an f64 cannot tell apart may go either way, unless it is the same by sight.
            prop_assume!((a, v) == (b, w) || (left - right).abs() > left * 1e-12);
            let fewer = if left <= right { Side::Left } else { Side::Right };
            prop_assert_eq!(compare(load(a, v), load(b, w)), fewer);
        }
    }
}
