//! Which version of a service a connection goes to. Knows nothing of how the shares came about.

use crate::abi::limits::MAX_SUBSETS;
use crate::abi::{Policy, Subset};

/// The subset a draw of 32 random bits belongs to, or `None` where the record's subset count is not 1 to
/// [`MAX_SUBSETS`].
#[inline(always)]
pub fn subset(policy: &Policy, draw: u32) -> Option<&Subset> {
    let count = policy.subset_count as usize;
    if count == 0 || count > MAX_SUBSETS {
        return None;
    }
    policy.subsets.iter().take(count).find(|subset| draw <= subset.share_end)
}

/// Turns relative shares into the `share_end` of each: shares of the 2³² possible draws, exact to one draw. `None`
/// for a share no draw falls to, which must not become a subset. The last of the others ends at `u32::MAX`.
#[cfg(not(target_arch = "bpf"))]
pub fn share_ends(shares: &[u32]) -> Vec<Option<u32>> {
    let total: u128 = shares.iter().map(|&share| u128::from(share)).sum();
    let mut before = 0u128;
    let mut summed = 0u128;
    shares
        .iter()
        .map(|&share| {
            summed += u128::from(share);
            let end = (summed << 32).checked_div(total)?;
            let drawn = end > before;
            before = end;
            drawn.then(|| u32::try_from(end - 1).unwrap_or(u32::MAX))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(ends: &[Option<u32>]) -> Policy {
        let mut policy = Policy::default();
        for (place, (version, end)) in
            ends.iter().enumerate().filter_map(|(version, end)| end.map(|end| (version, end))).enumerate()
        {
            policy.subsets[place] =
                Subset { share_end: end, version: u32::try_from(version).unwrap() + 1, ..Subset::default() };
            policy.subset_count += 1;
        }
        policy
    }

    /// Draws that reach this version, found by bisection: subsets are contiguous and in order.
    fn draws_of(policy: &Policy, version: u32) -> u64 {
        let first_at_least = |wanted: u32| {
            let (mut low, mut high) = (0u64, 1 << 32);
            while low < high {
                let middle = low.midpoint(high);
                let draw = u32::try_from(middle).unwrap();
                if subset(policy, draw).unwrap().version >= wanted { high = middle } else { low = middle + 1 }
            }
            low
        };
        first_at_least(version + 1) - first_at_least(version)
    }

    proptest! {
        #[test]
        fn each_share_gets_its_part_of_all_draws_to_within_one_draw(
            shares in prop::collection::vec(prop_oneof![Just(0u32), 1u32..200, any::<u32>()], 1..=MAX_SUBSETS)
        ) {
            let total: u128 = shares.iter().map(|&share| u128::from(share)).sum();
            if total == 0 {
                return Ok(());
            }
            let policy = policy(&share_ends(&shares));
            for (version, &share) in (1u32..).zip(&shares) {
                let exact = (u128::from(share) << 32) / total;
                let drawn = u128::from(draws_of(&policy, version));
                prop_assert!(drawn.abs_diff(exact) <= 1, "{share} of {total}: {drawn} draws, {exact} are due");
                prop_assert!(share > 0 || drawn == 0);
            }
        }

        #[test]
        fn every_draw_finds_a_subset(shares in prop::collection::vec(1u32.., 1..=MAX_SUBSETS), draw: u32) {
            let policy = policy(&share_ends(&shares));
            prop_assert!(subset(&policy, draw).is_some());
            prop_assert!(subset(&policy, u32::MAX).is_some());
        }
    }

    #[test]
    fn a_record_with_an_impossible_subset_count_gives_no_subset() {
        let mut policy = policy(&share_ends(&[1]));
        for count in (0..=u8::MAX).filter(|&count| !(1..=MAX_SUBSETS).contains(&usize::from(count))) {
            policy.subset_count = count;
            assert_eq!(subset(&policy, 0), None);
        }
    }

    #[test]
    fn shares_that_are_all_zero_give_no_subset() {
        assert_eq!(share_ends(&[0, 0]), [None, None]);
    }
}
