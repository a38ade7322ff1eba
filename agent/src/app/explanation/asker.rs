//! What the kernel remembers of one client of a service, and what that does to its next connection. Reads nothing itself.

use std::path::Path;
use std::sync::Arc;

use agent_ebpf::abi::breaker::{TICK_SHIFT, remaining_ticks, ticks};
use agent_ebpf::abi::settings::WORKLOAD_LEFT_ALONE;
use agent_ebpf::abi::{AffinityKey, AffinityValue, BreakerMode, FailedOn, Policy};
use agent_ebpf::decide::affinity;
use agent_ebpf::decide::breaker::avoidance::{self, NOBODY};

use crate::admin::view::AskerView;
use crate::app::services::Readings;
use crate::flows::Workload;

/// The client that asks.
#[derive(Clone, Debug)]
pub(in crate::app) struct Asker {
    /// As it is shown.
    pub view: AskerView,
    /// Its own cgroup, under which failures are kept.
    cgroup: u64,
    /// The cgroup of its workload, under which affinity and limits are kept.
    pub workload: u64,
}

impl Asker {
    /// The client in the last of these cgroups, of which each is in the one before it, without the root of the hierarchy.
    /// `said` is what is written down of a workload's cgroup; 0 where it is none.
    pub(in crate::app) fn in_cgroup(
        path: &Path,
        lineage: &[u64],
        managed: u64,
        workload: Arc<Workload>,
        said: impl Fn(u64) -> u32,
    ) -> Option<Self> {
        let cgroup = *lineage.last()?;
        // The outermost one counts: a cgroup made inside a pod is no new client.
        let (of_workload, what) =
            lineage.iter().map(|&id| (id, said(id))).find(|(_, what)| *what != 0).unwrap_or((cgroup, 0));
        let view = AskerView {
            cgroup: path.display().to_string(),
            workload,
            managed: managed == 0 || lineage.contains(&managed),
            left_alone: what & WORKLOAD_LEFT_ALONE != 0,
        };
        Some(Self { view, cgroup, workload: of_workload })
    }

    /// The backend it failed on lately, and for how many more seconds others are preferred.
    pub(super) fn avoids(
        &self,
        service: u32,
        policy: &Policy,
        readings: &impl Readings,
        now_ns: u64,
    ) -> Option<(u32, u64)> {
        if policy.breaker.mode != BreakerMode::Enforce as u8 {
            return None;
        }
        let period_ticks = u32::from(policy.breaker.avoidance_ticks);
        let now_ticks = ticks(now_ns);
        #[allow(clippy::cast_possible_truncation, reason = "ticks are kept in a word")]
        let failed_ticks = readings.service_state(service).failed_ticks as u32;
        if !avoidance::is_recent(failed_ticks, period_ticks, now_ticks) {
            return None;
        }
        let failed = readings.failed_on(&AffinityKey { client: self.cgroup, service, _pad: 0 });
        let backend = failed.avoided(period_ticks, now_ticks);
        (backend != NOBODY).then(|| (backend, left_s(failed, period_ticks, now_ticks)))
    }

    /// The backend it was given last, where the policy lets it keep it.
    pub(super) fn keeps(
        &self,
        service: u32,
        policy: &Policy,
        readings: &impl Readings,
        now_ns: u64,
    ) -> Option<AffinityValue> {
        if policy.affinity_timeout_ms == 0 {
            return None;
        }
        let value = readings.affinity(&AffinityKey { client: self.workload, service, _pad: 0 })?;
        affinity::holds(policy, &value, &readings.backend(value.backend), now_ns).then_some(value)
    }
}

/// Seconds until a failure is forgiven, rounded up.
#[allow(clippy::cast_possible_truncation, reason = "the lower half of the word is the tick")]
fn left_s(failed: FailedOn, period_ticks: u32, now_ticks: u32) -> u64 {
    let left = remaining_ticks((failed.0 as u32).wrapping_add(period_ticks), now_ticks, period_ticks);
    (u64::from(left) << TICK_SHIFT).div_ceil(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::settings::WORKLOAD_KNOWN;

    use super::*;

    fn asker(managed: u64, said: impl Fn(u64) -> u32) -> Asker {
        let lineage = [2, 3, 4];
        Asker::in_cgroup(Path::new("/pods/shop/main"), &lineage, managed, Arc::new(Workload::unknown()), said)
            .expect("a client")
    }

    #[test]
    fn a_client_is_the_outermost_workload_above_it() {
        let known = |id| if id >= 3 { WORKLOAD_KNOWN } else { 0 };
        assert_eq!((asker(0, known).workload, asker(0, known).cgroup), (3, 4));
        assert_eq!(asker(0, |_| 0).workload, 4, "outside any workload it is its own cgroup");
    }

    #[test]
    fn it_is_managed_below_the_managed_cgroup_and_left_alone_as_its_workload_is() {
        assert!(asker(2, |_| 0).view.managed && !asker(9, |_| 0).view.managed);
        assert!(
            asker(0, |id| if id == 3 { WORKLOAD_KNOWN | WORKLOAD_LEFT_ALONE } else { 0 }).view.left_alone
        );
        let inside = |id| if id == 4 { WORKLOAD_KNOWN | WORKLOAD_LEFT_ALONE } else { WORKLOAD_KNOWN };
        assert!(!asker(0, inside).view.left_alone, "what a pod makes inside itself does not count");
    }

    #[test]
    fn nobody_asks_from_the_root_of_the_hierarchy() {
        assert!(Asker::in_cgroup(Path::new("/"), &[], 0, Arc::new(Workload::unknown()), |_| 0).is_none());
    }
}
