//! Whether a client may keep the backend it was given last.

use crate::abi::{AffinityValue, Backend, BackendStatus, Policy};

/// Whether the remembered choice still holds: made not too long ago, for the same use of the backend's id, of a
/// backend that takes new connections, and of a version that the split still gives a share.
///
/// `backend` is the record that the remembered id has now.
#[inline(always)]
pub fn holds(policy: &Policy, value: &AffinityValue, backend: &Backend, now_ns: u64) -> bool {
    let timeout_ns = policy.affinity_timeout_ms as u64 * 1_000_000;
    now_ns.saturating_sub(value.used_at_ns) <= timeout_ns
        && backend.service == policy.service
        && backend.generation == value.generation
        && backend.status == BackendStatus::Ready as u16
        && gives_share(policy, backend.version)
}

/// Whether a version gets any connections. Without a split there is one subset, for every version.
#[inline(always)]
fn gives_share(policy: &Policy, version: u32) -> bool {
    let count = policy.subset_count as usize;
    if count == 1 && policy.subsets[0].version == 0 {
        return true;
    }
    policy.subsets.iter().take(count).any(|subset| subset.version == version && subset.slot_count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Subset;

    const NOW_NS: u64 = 1_000_000_000_000;

    fn policy() -> Policy {
        Policy {
            service: 7,
            affinity_timeout_ms: 1_000,
            subset_count: 1,
            subsets: [Subset { share_end: u32::MAX, version: 0, first_slot: 0, slot_count: 1, near_slots: 0 };
                4],
            ..Policy::default()
        }
    }

    fn backend() -> Backend {
        Backend {
            service: 7,
            generation: 3,
            status: BackendStatus::Ready as u16,
            version: 5,
            ..Backend::default()
        }
    }

    fn value() -> AffinityValue {
        AffinityValue { used_at_ns: NOW_NS, backend: 1, generation: 3 }
    }

    #[test]
    fn a_fresh_choice_of_a_ready_backend_holds_until_the_timeout() {
        assert!(holds(&policy(), &value(), &backend(), NOW_NS));
        assert!(holds(&policy(), &value(), &backend(), NOW_NS + 1_000_000_000));
        assert!(!holds(&policy(), &value(), &backend(), NOW_NS + 1_000_000_001));
    }

    #[test]
    fn a_choice_falls_with_its_backend() {
        for changed in [
            Backend { generation: 4, ..backend() },
            Backend { service: 8, ..backend() },
            Backend { status: BackendStatus::Draining as u16, ..backend() },
            Backend { status: BackendStatus::Vacant as u16, ..backend() },
        ] {
            assert!(!holds(&policy(), &value(), &changed, NOW_NS), "{changed:?}");
        }
    }

    #[test]
    fn a_split_that_gives_the_version_nothing_ends_the_choice() {
        let mut split = policy();
        split.subset_count = 2;
        split.subsets[0].version = 4;
        split.subsets[1].version = 6;
        assert!(!holds(&split, &value(), &backend(), NOW_NS));
        split.subsets[1].version = 5;
        assert!(holds(&split, &value(), &backend(), NOW_NS));
        split.subsets[1].slot_count = 0;
        assert!(!holds(&split, &value(), &backend(), NOW_NS));
    }
}
