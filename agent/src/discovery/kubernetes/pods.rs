//! The pods of this node: what their workloads are called, and which of them are to be left alone. Pure: events in,
//! changes out.
//!
//! Until the pods were listed once, only what is remembered is told. A list that is read again takes nothing away before
//! it has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use crate::flows::{Pod as Named, PodChange, Workload, WorkloadKind};

use super::objects::{Kind, Object, ObjectKey, Owner, Pod};
use super::state::Event;

/// Jobs whose owners are remembered. A node runs fewer at a time.
const MAX_JOBS: usize = 4_096;

/// What is known of the pods of a node.
#[derive(Debug, Default)]
pub struct PodState {
    node: Arc<str>,
    pods: BTreeMap<ObjectKey, Pod>,
    /// Namespaces whose pods are to be left alone.
    left_alone: BTreeSet<ObjectKey>,
    /// What made each Job, as far as that was asked.
    jobs: HashMap<ObjectKey, Option<Owner>>,
    listing: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    listed: BTreeSet<Kind>,
    dirty: BTreeSet<ObjectKey>,
    gone: BTreeSet<Arc<str>>,
    in_sync: bool,
}

impl PodState {
    /// Knows no pods yet.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// Takes in what happened to a pod or a namespace.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(kind) => drop(self.listing.insert(kind, BTreeSet::new())),
            Event::Listed(object) => {
                if let Some(seen) = self.listing.get_mut(&object.kind()) {
                    seen.insert(object.key().clone());
                }
                self.put(object);
            }
            Event::Put(object) => self.put(object),
            Event::Passed(kind, key) | Event::Gone(kind, key) => self.remove(kind, &key),
            Event::End(kind) => {
                let seen = self.listing.remove(&kind).unwrap_or_default();
                let gone: Vec<ObjectKey> = match kind {
                    Kind::Pod => self.pods.keys().filter(|key| !seen.contains(key)).cloned().collect(),
                    _ => self.left_alone.difference(&seen).cloned().collect(),
                };
                gone.iter().for_each(|key| self.remove(kind, key));
                self.listed.insert(kind);
            }
            // Where no pods may be seen, those that are remembered keep their names.
            Event::Unknown(kind) => _ = kind == Kind::Namespace && self.listed.insert(kind),
        }
    }

    /// Takes in what was known when the last agent ended.
    pub fn remember(&mut self, object: Object) {
        self.put(object);
    }

    /// Whether this kind was listed once, or is not to be seen.
    pub fn is_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// What is different since the last call, once pods and namespaces are known: then all of it.
    pub fn take_changes(&mut self) -> Vec<PodChange> {
        if !self.is_listed(Kind::Pod) || !self.is_listed(Kind::Namespace) {
            return Vec::new();
        }
        if !mem::replace(&mut self.in_sync, true) {
            (self.dirty, self.gone) = (BTreeSet::new(), BTreeSet::new());
            return vec![PodChange::Reset(self.pods.values().map(|pod| self.named(pod)).collect())];
        }
        let mut changes: Vec<PodChange> =
            mem::take(&mut self.gone).into_iter().map(PodChange::Remove).collect();
        let dirty = mem::take(&mut self.dirty);
        let pods = dirty.iter().filter_map(|key| self.pods.get(key));
        changes.extend(pods.map(|pod| PodChange::Upsert(self.named(pod))));
        changes
    }

    /// What is known, be it from before.
    pub fn remembered(&self) -> Vec<PodChange> {
        self.pods.values().map(|pod| PodChange::Upsert(self.named(pod))).collect()
    }

    /// How many pods there are.
    pub fn count(&self) -> usize {
        self.pods.len()
    }

    /// Everything that is known, to be written down.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let namespaces = self.left_alone.iter().cloned().map(Object::Namespace);
        self.pods.values().cloned().map(Object::Pod).chain(namespaces)
    }

    /// Jobs that own pods and of which nobody was asked who made them, at most so many.
    pub fn unasked_jobs(&self, at_most: usize) -> Vec<ObjectKey> {
        let jobs: BTreeSet<ObjectKey> = self.pods.values().filter_map(job_of).collect();
        jobs.into_iter().filter(|job| !self.jobs.contains_key(job)).take(at_most).collect()
    }

    /// Takes in who made a Job; `None`: nobody, or it cannot be known.
    pub fn answer(&mut self, job: ObjectKey, owner: Option<Owner>) {
        if self.jobs.len() >= MAX_JOBS {
            let alive: BTreeSet<ObjectKey> = self.pods.values().filter_map(job_of).collect();
            self.jobs.retain(|job, _| alive.contains(job));
        }
        let pods = self.pods.iter().filter(|(_, pod)| job_of(pod).as_ref() == Some(&job));
        self.dirty.extend(pods.map(|(key, _)| key.clone()));
        self.jobs.insert(job, owner);
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Pod(pod) => {
                let before = self.pods.insert(pod.key.clone(), pod.clone());
                if before.as_ref() == Some(&pod) {
                    return;
                }
                if let Some(before) = before.filter(|before| before.uid != pod.uid) {
                    self.gone.insert(before.uid);
                }
                self.gone.remove(&pod.uid);
                self.dirty.insert(pod.key);
            }
            Object::Namespace(key) if self.left_alone.insert(key.clone()) => self.touch_namespace(&key),
            _ => {}
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) {
        if kind == Kind::Pod {
            if let Some(pod) = self.pods.remove(key) {
                self.gone.insert(pod.uid);
                self.dirty.remove(key);
            }
        } else if self.left_alone.remove(key) {
            self.touch_namespace(key);
        }
    }

    fn touch_namespace(&mut self, namespace: &ObjectKey) {
        let pods = self.pods.keys().filter(|key| key.namespace == namespace.name);
        self.dirty.extend(pods.cloned());
    }

    fn named(&self, pod: &Pod) -> Named {
        let namespace = ObjectKey { namespace: "".into(), name: Arc::clone(&pod.key.namespace) };
        Named {
            uid: Arc::clone(&pod.uid),
            workload: Arc::new(self.workload(pod)),
            left_alone: pod.left_alone || self.left_alone.contains(&namespace),
        }
    }

    /// The workload a pod belongs to: its owner, or the owner of that.
    fn workload(&self, pod: &Pod) -> Workload {
        let named = |name: &str, kind| Workload::of_pod(&pod.key.namespace, name, kind);
        let Some(owner) = &pod.owner else { return named(&pod.key.name, WorkloadKind::Pod) };
        match &*owner.kind {
            "ReplicaSet" => match of_template(pod, &owner.name) {
                Some((name, true)) => named(name, WorkloadKind::Deployment),
                Some((name, false)) => named(name, WorkloadKind::Controller),
                None => named(&owner.name, WorkloadKind::ReplicaSet),
            },
            "StatefulSet" => named(&owner.name, WorkloadKind::StatefulSet),
            "DaemonSet" => named(&owner.name, WorkloadKind::DaemonSet),
            "Job" => self.of_job(pod, owner),
            // A static pod, which is called by its manifest and its node.
            "Node" => {
                let suffix = format!("-{}", self.node);
                let name = pod.key.name.strip_suffix(&*suffix).filter(|name| !name.is_empty());
                named(name.unwrap_or(&pod.key.name), WorkloadKind::Pod)
            }
            _ => named(&owner.name, WorkloadKind::Controller),
        }
    }

    fn of_job(&self, pod: &Pod, owner: &Owner) -> Workload {
        let named = |name: &str, kind| Workload::of_pod(&pod.key.namespace, name, kind);
        match self.jobs.get(&pod.key.beside(&owner.name)) {
            Some(Some(maker)) if &*maker.kind == "CronJob" => named(&maker.name, WorkloadKind::CronJob),
            Some(Some(maker)) => named(&maker.name, WorkloadKind::Controller),
            Some(None) | None => match scheduled(&owner.name) {
                Some(name) => named(name, WorkloadKind::CronJob),
                None => named(&owner.name, WorkloadKind::Job),
            },
        }
    }
}

fn job_of(pod: &Pod) -> Option<ObjectKey> {
    let owner = pod.owner.as_ref().filter(|owner| &*owner.kind == "Job")?;
    Some(pod.key.beside(&owner.name))
}

/// The name of the Deployment whose ReplicaSet this is, and whether it is one: the pod's label confirms the hash.
fn of_template<'a>(pod: &Pod, set: &'a str) -> Option<(&'a str, bool)> {
    let template = pod.template.as_ref()?;
    let name = set.strip_suffix(&*template.hash)?.strip_suffix('-').filter(|name| !name.is_empty())?;
    Some((name, template.is_deployments))
}

/// The name of the CronJob in that of a Job it made: what follows is the scheduled time, in minutes since 1970.
fn scheduled(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let is_time = minutes.len() == 8 && minutes.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
