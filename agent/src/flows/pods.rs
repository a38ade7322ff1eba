//! Pods by their UID, as a source tells them: what their workloads are called, and which of them are to be left alone.
//!
//! Knows no cgroups and no API server. The caller says what time it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::identity::Workload;

/// How long a pod that is gone keeps its name: its cgroup and its counters may be read after the source has
/// forgotten it.
pub const REMEMBERED: Duration = Duration::from_secs(300);

/// A pod, as far as its connections are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The UID that its cgroup is named by; of a static pod, the hash of its manifest.
    pub uid: Arc<str>,
    /// What its connections are counted for.
    pub workload: Arc<Workload>,
    /// Its connections are to go on untouched.
    pub left_alone: bool,
}

/// What is different about pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// These are all there are.
    Reset(Vec<Pod>),
    /// A pod is new or different.
    Upsert(Pod),
    /// The pod with this UID is gone.
    Remove(Arc<str>),
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    /// When the source said that it is gone.
    gone_at: Option<Duration>,
}

/// The pods of this node.
#[derive(Debug, Default)]
pub struct Pods {
    known: HashMap<Arc<str>, Known>,
}

impl Pods {
    /// Takes in what is different, and forgets those that are gone for [`REMEMBERED`].
    pub fn apply(&mut self, change: PodChange, now: Duration) {
        match change {
            PodChange::Reset(pods) => {
                let there: HashSet<Arc<str>> = pods.iter().map(|pod| Arc::clone(&pod.uid)).collect();
                let gone = self.known.iter_mut().filter(|(uid, _)| !there.contains(*uid));
                gone.for_each(|(_, known)| _ = known.gone_at.get_or_insert(now));
                pods.into_iter().for_each(|pod| self.put(pod));
            }
            PodChange::Upsert(pod) => self.put(pod),
            PodChange::Remove(uid) => {
                if let Some(known) = self.known.get_mut(&uid) {
                    known.gone_at.get_or_insert(now);
                }
            }
        }
        self.known.retain(|_, known| known.gone_at.is_none_or(|at| now.saturating_sub(at) < REMEMBERED));
    }

    fn put(&mut self, pod: Pod) {
        self.known.insert(Arc::clone(&pod.uid), Known { pod, gone_at: None });
    }

    /// The pod with this UID, also for a while after it is gone.
    pub fn get(&self, uid: &str) -> Option<&Pod> {
        self.known.get(uid).map(|known| &known.pod)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.values().filter(|known| known.gone_at.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::WorkloadKind;

    fn pod(uid: &str, name: &str) -> Pod {
        let workload = Arc::new(Workload::of_pod("shop", name, WorkloadKind::Deployment));
        Pod { uid: uid.into(), workload, left_alone: false }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_pod_that_is_gone_keeps_its_name_for_five_minutes() {
        let mut pods = Pods::default();
        pods.apply(PodChange::Upsert(pod("1", "payment")), at(0));
        pods.apply(PodChange::Remove("1".into()), at(10));
        assert_eq!(pods.count(), 0);
        pods.apply(PodChange::Remove("1".into()), at(300));
        assert_eq!(pods.get("1").map(|pod| &*pod.workload.name), Some("payment"), "said twice is gone once");
        pods.apply(PodChange::Upsert(pod("2", "cart")), at(310));
        assert_eq!(pods.get("1"), None);
    }

    #[test]
    fn a_whole_list_ends_those_that_are_not_in_it() {
        let mut pods = Pods::default();
        pods.apply(PodChange::Upsert(pod("1", "payment")), at(0));
        pods.apply(PodChange::Reset(vec![pod("2", "cart")]), at(1));
        assert_eq!(pods.count(), 1);
        assert!(pods.get("1").is_some() && pods.get("2").is_some());
        pods.apply(PodChange::Reset(vec![pod("1", "payment")]), at(2));
        pods.apply(PodChange::Reset(vec![pod("1", "payment")]), at(400));
        assert!(pods.get("1").is_some() && pods.get("2").is_none());
    }
}
