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
