//! Which bucket a duration belongs to.

use crate::abi::HISTOGRAM_BUCKETS;

/// Upper bound of the first bucket, in nanoseconds. A TCP handshake over loopback takes about as long.
pub const FIRST_BOUND_NS: u64 = 16_000;

/// The bucket of a duration: the first whose bound, 16 µs × 2^*k*, is not below it. [`HISTOGRAM_BUCKETS`] for
/// what exceeds every bound.
#[inline(always)]
pub const fn bucket(duration_ns: u64) -> usize {
    let units = duration_ns.saturating_sub(1) / FIRST_BOUND_NS;
    // The number of bits of a quotient q is the k for which 2^(k-1) <= q < 2^k.
    let k = (u64::BITS - units.leading_zeros()) as usize;
    if k < HISTOGRAM_BUCKETS { k } else { HISTOGRAM_BUCKETS }
}

/// The inclusive upper bound of a bucket, in nanoseconds.
pub const fn bound_ns(bucket: usize) -> u64 {
    FIRST_BOUND_NS << bucket
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(bucket(0), 0);
        for k in 0..HISTOGRAM_BUCKETS {
            assert_eq!(bucket(bound_ns(k)), k, "the bound itself belongs to bucket {k}");
            assert_eq!(bucket(bound_ns(k) + 1), k + 1, "one more belongs to the next");
        }
        assert_eq!(bucket(u64::MAX), HISTOGRAM_BUCKETS);
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(duration_ns: u64) {
            let expected = (0..HISTOGRAM_BUCKETS).find(|&k| duration_ns <= bound_ns(k)).unwrap_or(HISTOGRAM_BUCKETS);
            prop_assert_eq!(bucket(duration_ns), expected);
        }
    }
}
