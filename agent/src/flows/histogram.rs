//! What the kernel's log2 histograms say: bounds, quantiles, merging and differences. Pure.

use agent_ebpf::abi::{HISTOGRAM_BUCKETS, Histogram};
use agent_ebpf::decide::histogram as buckets;
use serde::{Deserialize, Serialize};

/// The upper bound of a bucket, in nanoseconds; `None` for the last cell, which has none.
pub const fn bound_ns(bucket: usize) -> Option<u64> {
    if bucket < HISTOGRAM_BUCKETS { Some(buckets::bound_ns(bucket)) } else { None }
}

/// How many durations a histogram counts.
pub fn count(histogram: &Histogram) -> u64 {
    histogram.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(*bucket))
}

/// The duration below which a share of `quantile` (0 to 1) of all durations lies, in nanoseconds, taken as
/// evenly spread within its bucket. `None` where nothing was counted; the last bound where it lies beyond it.
pub fn quantile_ns(histogram: &Histogram, quantile: f64) -> Option<u64> {
    let total = count(histogram);
    if total == 0 {
        return None;
    }
    let rank = quantile.clamp(0.0, 1.0) * as_f64(total);
    let mut below = 0_u64;
    for (bucket, &held) in histogram.buckets.iter().enumerate() {
        let reached = below.saturating_add(held);
        if held > 0 && as_f64(reached) >= rank {
            let Some(upper) = bound_ns(bucket) else { break };
            let lower = bucket.checked_sub(1).and_then(bound_ns).unwrap_or(0);
            let share = ((rank - as_f64(below)) / as_f64(held)).clamp(0.0, 1.0);
            return Some(lower + rounded(as_f64(upper - lower) * share));
        }
        below = reached;
    }
    bound_ns(HISTOGRAM_BUCKETS - 1)
}

/// Adds `other` to `sum`.
pub(crate) fn add(sum: &mut Histogram, other: &Histogram) {
    sum.sum_ns = sum.sum_ns.saturating_add(other.sum_ns);
    for (to, from) in sum.buckets.iter_mut().zip(other.buckets) {
        *to = to.saturating_add(from);
    }
}

/// What was counted since `before`; never below zero.
pub(crate) fn since(now: &Histogram, before: &Histogram) -> Histogram {
    let mut difference = *now;
    difference.sum_ns = now.sum_ns.saturating_sub(before.sum_ns);
    for (to, from) in difference.buckets.iter_mut().zip(before.buckets) {
        *to = to.saturating_sub(from);
    }
    difference
}

/// The buckets without the zeros at the end, as they are written down.
pub(crate) fn used(histogram: &Histogram) -> &[u64] {
    let used = histogram.buckets.iter().rposition(|held| *held > 0).map_or(0, |last| last + 1);
    &histogram.buckets[..used]
}

/// What was written down; buckets beyond those there are count for nothing.
pub(crate) fn of_used(sum_ns: u64, used: &[u64]) -> Histogram {
    let mut histogram = Histogram { sum_ns, ..Histogram::default() };
    histogram.buckets.iter_mut().zip(used).for_each(|(to, held)| *to = *held);
    histogram
}

#[expect(clippy::cast_precision_loss, reason = "a rank among more than 2^53 durations may be off by one")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value lies between two bucket bounds"
)]
fn rounded(ns: f64) -> u64 {
    ns.round() as u64
}

/// A distribution of durations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Distribution {
    /// How many were counted.
    pub count: u64,
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// The median, in nanoseconds; null where nothing was counted.
    pub p50_ns: Option<u64>,
    /// The 99th percentile, in nanoseconds; null where nothing was counted.
    pub p99_ns: Option<u64>,
    /// The counts behind these.
    pub histogram: Histogram,
}

impl From<Histogram> for Distribution {
    fn from(histogram: Histogram) -> Self {
        Self {
            count: count(&histogram),
            sum_ns: histogram.sum_ns,
            p50_ns: quantile_ns(&histogram, 0.50),
            p99_ns: quantile_ns(&histogram, 0.99),
            histogram,
        }
    }
}

/// A distribution in JSON. `buckets` counts up to 16 µs, up to 32 µs and so on by doubling, without the zeros at the end.
#[derive(Serialize, Deserialize)]
struct Written {
    count: u64,
    sum_ns: u64,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<u64>,
}

impl From<Distribution> for Written {
    fn from(distribution: Distribution) -> Self {
        let Distribution { count, sum_ns, p50_ns, p99_ns, histogram } = distribution;
        Self { count, sum_ns, p50_ns, p99_ns, buckets: used(&histogram).to_vec() }
    }
}

impl From<Written> for Distribution {
    fn from(written: Written) -> Self {
        let Written { count, sum_ns, p50_ns, p99_ns, buckets } = written;
        Self { count, sum_ns, p50_ns, p99_ns, histogram: of_used(sum_ns, &buckets) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(buckets: &[(usize, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, held) in buckets {
            histogram.buckets[*bucket] = *held;
        }
        histogram
    }

    #[test]
    fn the_bounds_double_from_16_microseconds_to_33_seconds() {
        assert_eq!(bound_ns(0), Some(16_000));
        assert_eq!(bound_ns(1), Some(32_000));
        assert_eq!(bound_ns(HISTOGRAM_BUCKETS - 1), Some(33_554_432_000));
        assert_eq!(bound_ns(HISTOGRAM_BUCKETS), None);
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert_eq!(quantile_ns(&Histogram::default(), 0.5), None);
    }

    #[test]
    fn a_distribution_comes_back_equal_from_json_with_its_buckets() {
        for histogram in [Histogram::default(), Histogram { sum_ns: 9, ..of(&[(1, 3), (4, 2)]) }] {
            let distribution = Distribution::from(histogram);
            let json = serde_json::to_string(&distribution).expect("plain values");
            assert_eq!(serde_json::from_str::<Distribution>(&json).expect("its own output"), distribution);
        }
        let json = serde_json::to_value(Distribution::from(of(&[(1, 3)]))).expect("plain values");
        assert_eq!(json["buckets"], serde_json::json!([0, 3]));
    }

    #[test]
    fn a_quantile_lies_in_its_bucket_in_proportion_to_its_rank() {
        let histogram = of(&[(1, 50), (3, 50)]);
        assert_eq!(quantile_ns(&histogram, 0.25), Some(24_000));
        assert_eq!(quantile_ns(&histogram, 0.5), Some(32_000));
        assert_eq!(quantile_ns(&histogram, 0.75), Some(96_000));
        assert_eq!(quantile_ns(&histogram, 1.0), Some(128_000));
    }

    #[test]
    fn what_exceeds_every_bound_reads_as_the_last_bound() {
        assert_eq!(quantile_ns(&of(&[(HISTOGRAM_BUCKETS, 7)]), 0.5), Some(33_554_432_000));
    }

    proptest! {
        #[test]
        fn quantiles_rise_with_their_share_and_stay_within_the_bounds(
            buckets in proptest::array::uniform23(0_u64..1_000_000), low in 0.0..1.0_f64, more in 0.0..1.0_f64
        ) {
            let histogram = Histogram { sum_ns: 0, buckets };
            let high = (low + more).min(1.0);
            let (lower, upper) = (quantile_ns(&histogram, low), quantile_ns(&histogram, high));
            prop_assert!(lower <= upper);
            prop_assert!(upper.is_none_or(|ns| ns <= 33_554_432_000));
        }

        #[test]
        fn a_difference_added_back_gives_the_sum(
            before in proptest::array::uniform23(0_u64..1_000), growth in proptest::array::uniform23(0_u64..1_000)
        ) {
            let before = Histogram { sum_ns: 5, buckets: before };
            let mut now = before;
            add(&mut now, &Histogram { sum_ns: 7, buckets: growth });
            let difference = since(&now, &before);
            prop_assert_eq!(difference, Histogram { sum_ns: 7, buckets: growth });
        }
    }
}
