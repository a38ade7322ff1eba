//! The ordinary case, told by a few comparisons: nothing of the service, and nothing of the backend its algorithm
//! wants, asks for more than a look. Knows only when that holds; what is to be done otherwise is for the others here.
//!
//! What is let through here, the general way would have let through as well, and would have changed nothing by it.

use super::breaker::{avoidance, slow_start};
use super::locality;
use crate::abi::breaker::ticks;
use crate::abi::{Algorithm, Backend, BackendStatus, BreakerMode, CellWord, Policy};

/// Whether a service's policy leaves the choice to its algorithm alone: one version, no affinity, no zone, and no
/// client to be known.
#[inline(always)]
pub const fn is_ordinary(policy: &Policy) -> bool {
    policy.affinity_timeout_ms == 0
        && policy.subset_count == 1
        && !locality::is_divided(&policy.subsets[0])
        && policy.algorithm != Algorithm::Maglev as u8
        && policy.breaker.mode <= BreakerMode::Enforce as u8
}

/// Whether nothing went wrong in a service lately: no breaker is out, and no client failed on a backend. Both are as
/// `SERVICE_STATE` has them.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the word holds a tick")]
pub const fn is_quiet(policy: &Policy, ejected: u64, failed_ticks: u64, now_ticks: u32) -> bool {
    policy.breaker.mode != BreakerMode::Enforce as u8
        || ejected == 0
            && !avoidance::is_recent(failed_ticks as u32, policy.breaker.avoidance_ticks as u32, now_ticks)
}

/// Whether a backend takes the next connection without being asked: no order is in force, it has its whole share, and
/// its breaker holds nothing against it.
#[inline(always)]
pub const fn takes(policy: &Policy, backend: &Backend, cell: CellWord, now_ns: u64) -> bool {
    let now_ticks = ticks(now_ns);
    let (joined, whole) = (backend.joined_ticks, policy.join_ticks);
    backend.status == BackendStatus::Ready as u16
        && backend.verdict.mode(now_ns).is_none()
        && (policy.breaker.mode == BreakerMode::Off as u8 || cell.0 == CellWord::CLEAN.0)
        && (joined == 0 || slow_start::joining_permille(joined, whole, &policy.breaker, now_ticks) >= 1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::abi::{BreakerPolicy, FailedOn, Subset, Verdict};
    use crate::decide::breaker::avoidance::NOBODY;
    use crate::decide::breaker::{Change, Decision, cell, ejection};
    use crate::decide::census::Census;
    use crate::decide::{balance, split};

    /// Policies of which most are ordinary.
    fn policies() -> impl Strategy<Value = Policy> {
        let subsets =
            prop::array::uniform4((any::<u32>(), 0u32..9, prop_oneof![4 => Just(0u32), 1 => 0u32..4]));
        let affinity = prop_oneof![9 => Just(0u32), 1 => any::<u32>()];
        let (count, mode) = (prop_oneof![9 => Just(1u8), 1 => 0u8..6], prop_oneof![9 => 0u8..3, 1 => 0u8..6]);
        let numbers = (0u8..5, 0u16..4_000, any::<u32>(), 0u32..20_000);
        (affinity, count, mode, subsets, numbers).prop_map(
            |(
                affinity_timeout_ms,
                subset_count,
                mode,
                subsets,
                (algorithm, avoidance_ticks, first_slot, join_ticks),
            )| {
                let subset = |(share_end, slot_count, near_slots)| Subset {
                    // As the agent writes it: the last in use ends at the top.
                    share_end: if subset_count == 1 { u32::MAX } else { share_end },
                    first_slot,
                    slot_count,
                    near_slots,
                    ..Subset::default()
                };
                Policy {
                    affinity_timeout_ms,
                    algorithm,
                    subset_count,
                    join_ticks,
                    subsets: subsets.map(subset),
                    breaker: BreakerPolicy { mode, avoidance_ticks, ..BreakerPolicy::default() },
                    ..Policy::default()
                }
            },
        )
    }

    /// Backends, their cells and a moment, of which most are nothing out of the ordinary.
    fn backends() -> impl Strategy<Value = (Backend, CellWord, u64)> {
        let order = prop_oneof![9 => Just(0u64), 1 => any::<u64>()];
        let joined = prop_oneof![4 => Just(0u32), 1 => any::<u32>(), 1 => 0u32..40_000];
        let cell = prop_oneof![4 => Just(0u64), 1 => any::<u64>()];
        let status = prop_oneof![9 => Just(1u16), 1 => 0u16..3];
        (order, joined, cell, status, 0u64..1 << 45).prop_map(
            |(order, joined_ticks, cell, status, now_ns)| {
                (
                    Backend { status, joined_ticks, verdict: Verdict(order), ..Backend::default() },
                    CellWord(cell),
                    now_ns,
                )
            },
        )
    }

    proptest! {
        #[test]
        fn an_ordinary_service_would_have_been_given_the_same_slots(policy in policies(), draw in any::<u32>()) {
            prop_assume!(is_ordinary(&policy));
            prop_assert_eq!(split::subset(&policy, draw), Some(&policy.subsets[0]));
            let whole = locality::window(&policy.subsets[0], true);
            prop_assert_eq!(whole, locality::window(&policy.subsets[0], false), "there is no border");
            let window = (policy.subsets[0].first_slot, policy.subsets[0].slot_count);
            prop_assert_eq!((whole.first_slot, whole.slot_count), window);
            let algorithm = policy.algorithm().unwrap();
            prop_assert!(!balance::needs_client(algorithm));
        }

        #[test]
        fn in_a_quiet_service_nobody_is_kept_away_and_nobody_panics(
            policy in policies(), ejected in 0u64..2, failed in 5_000u32..9_000, since in 0u32..9_000, before in 0u32..5_000
        ) {
            // The clock of the CPU that asks may be a little behind that of the one that wrote.
            let now = failed + since - 100;
            prop_assume!(is_quiet(&policy, ejected, u64::from(failed), now));
            if policy.breaker.mode == BreakerMode::Enforce as u8 {
                prop_assert_eq!(ejected, 0, "else backends are counted");
                // No client failed later than the service's last failure.
                let period = u32::from(policy.breaker.avoidance_ticks);
                prop_assert_eq!(FailedOn::new(7, failed - before).avoided(period, now), NOBODY);
            }
            let nobody_out = Census::EMPTY.in_question();
            prop_assert!(!ejection::panic(nobody_out.total, nobody_out.healthy, policy.breaker.panic_percent));
        }

        #[test]
        fn who_takes_a_connection_unasked_would_have_taken_it_and_changed_nothing(
            policy in policies(), (backend, word, now_ns) in backends()
        ) {
            prop_assume!(is_ordinary(&policy) && takes(&policy, &backend, word, now_ns));
            let now_ticks = ticks(now_ns);
            prop_assert_eq!(backend.status, BackendStatus::Ready as u16);
            prop_assert_eq!(backend.verdict.mode(now_ns), None);
            let joining =
                slow_start::joining_permille(backend.joined_ticks, policy.join_ticks, &policy.breaker, now_ticks);
            prop_assert!(slow_start::accepts(joining, u32::MAX), "no draw is declined");
            if policy.breaker.mode != BreakerMode::Off as u8 {
                let (after, admission, change) = cell::admit(word, &policy.breaker, now_ticks);
                prop_assert_eq!((after, admission.decision, change), (word, Decision::Admit, Change::NONE));
                prop_assert_eq!(slow_start::weight_permille(after, &policy.breaker, now_ticks), 1_000);
            }
        }
    }

    #[test]
    fn what_most_services_are_is_ordinary_and_quiet_and_takes_connections() {
        for mode in [BreakerMode::Off, BreakerMode::Observe, BreakerMode::Enforce] {
            let policy = Policy {
                subset_count: 1,
                breaker: BreakerPolicy { mode: mode as u8, ..BreakerPolicy::default() },
                ..Policy::default()
            };
            let backend = Backend { status: BackendStatus::Ready as u16, ..Backend::default() };
            assert!(is_ordinary(&policy), "{mode:?}");
            assert!(is_quiet(&policy, 0, 0, 1 << 20), "{mode:?}");
            assert!(takes(&policy, &backend, CellWord::CLEAN, 1 << 40), "{mode:?}");
        }
    }
}
