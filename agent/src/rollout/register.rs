//! Every rollout there is, by service: turns what sources say into what is to be in force.
//!
//! Keeps what another agent left until the services of the sources are known.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Cause, Moment, Order, Reading, Rollout, State, Transition, WrongPhase};
use crate::desired::{self, CanarySpec, ServiceName, ServiceSpec, SourceKind, VersionShare};

/// A rollout as it is written down, with what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    service: ServiceName,
    split: Vec<VersionShare>,
    canary: CanarySpec,
    state: State,
}

/// How often something became of the canaries of a service, since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Steps up, but for those to every connection.
    pub stepped_up: u64,
    /// Canaries promoted, by their last step or by order.
    pub promoted: u64,
    /// Canaries rolled back, by [`Cause`].
    pub rolled_back: [u64; Cause::ALL.len()],
}

/// A canary of which something became.
#[derive(Clone, Debug)]
pub struct Change {
    /// What became of it.
    pub transition: Transition,
    /// The service, with the shares it had then.
    pub spec: Arc<ServiceSpec>,
    /// The whole story in one sentence.
    pub told: String,
}

#[derive(Debug)]
struct Entry {
    source: SourceKind,
    asked: Arc<ServiceSpec>,
    rollout: Rollout,
    tallies: Tallies,
}

/// Every rollout.
#[derive(Debug, Default)]
pub struct Register {
    entries: BTreeMap<ServiceName, Entry>,
    left: BTreeMap<ServiceName, Saved>,
    changes: Vec<Change>,
}

impl Register {
    /// What another agent left.
    pub fn restored(saved: Vec<Saved>) -> Self {
        let left = saved.into_iter().map(|saved| (Arc::clone(&saved.service), saved)).collect();
        Self { left, ..Self::default() }
    }

    /// What a source says, with the shares that are to be in force.
    pub fn admit(&mut self, source: SourceKind, change: desired::Change, now: Moment) -> desired::Change {
        match change {
            desired::Change::Reset(specs) => {
                let (mut before, others) = std::mem::take(&mut self.entries)
                    .into_iter()
                    .partition::<BTreeMap<_, _>, _>(|(_, entry)| entry.source == source);
                self.entries = others;
                let specs = specs.into_iter().map(|spec| {
                    let entry = before.remove(&spec.name);
                    self.admit_one(source, spec, entry, now)
                });
                desired::Change::Reset(specs.collect())
            }
            desired::Change::Upsert(spec) => {
                let entry = self.take_entry(source, &spec.name);
                desired::Change::Upsert(self.admit_one(source, spec, entry, now))
            }
            desired::Change::Remove(name) => {
                if self.take_entry(source, &name).is_some() {
                    self.left.remove(&name);
                }
                desired::Change::Remove(name)
            }
        }
    }

    /// Every source has said what it has: what another agent left and nobody named is not coming back.
    pub fn forget_left(&mut self) {
        self.left.clear();
    }

    fn take_entry(&mut self, source: SourceKind, name: &ServiceName) -> Option<Entry> {
        let is_its = self.entries.get(name).is_some_and(|entry| entry.source == source);
        is_its.then(|| self.entries.remove(name)).flatten()
    }

    fn admit_one(
        &mut self,
        source: SourceKind,
        asked: Arc<ServiceSpec>,
        entry: Option<Entry>,
        now: Moment,
    ) -> Arc<ServiceSpec> {
        // A source of higher rank has this name; what this one asks for is not in force.
        if self.entries.get(&asked.name).is_some_and(|entry| entry.source < source) {
            return asked;
        }
        let left = self.left.remove(&asked.name);
        let Some(canary) = &asked.policy.canary else { return asked };
        let split = &asked.policy.split;
        let is_same = |plan: (&[VersionShare], &CanarySpec)| plan == (split.as_slice(), canary.as_ref());
        let tallies = entry.as_ref().map(|entry| entry.tallies.clone()).unwrap_or_default();
        let rollout = match (entry, left) {
            (Some(entry), _) if is_same(entry.rollout.plan()) => entry.rollout,
            (_, Some(saved)) if is_same((&saved.split, &saved.canary)) => {
                Rollout::resumed(split, canary, saved.state, now)
            }
            _ => Rollout::new(split, canary, now),
        };
        let entry = Entry { source, asked, rollout, tallies };
        let spec = entry.in_force();
        self.entries.insert(Arc::clone(&spec.name), entry);
        spec
    }

    /// The services whose canary is compared now.
    pub fn watched(&self) -> Vec<ServiceName> {
        let watched = self.entries.iter().filter(|(_, entry)| entry.rollout.is_watched());
        watched.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Takes in what the kernel counts for a service now.
    pub fn observe(&mut self, service: &str, now: Moment, readings: &[Reading]) {
        let Some(entry) = self.entries.get_mut(service) else { return };
        if let Some(transition) = entry.rollout.observe(now, readings) {
            self.changes.push(entry.changed(transition));
        }
    }

    /// Carries out an order. `None` where the service has no canary; else the rollout as it is then.
    ///
    /// # Errors
    /// The order makes no sense in this phase.
    pub fn order(&mut self, service: &str, order: Order, now: Moment) -> Option<Result<(), WrongPhase>> {
        let entry = self.entries.get_mut(service)?;
        Some(entry.rollout.order(order, now).map(|transition| {
            if let Some(transition) = transition {
                self.changes.push(entry.changed(transition));
            }
        }))
    }

    /// What became of canaries since the last call, the oldest first.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A service with a canary as it is to be now; `None` where there is no such.
    pub fn in_force(&self, service: &str) -> Option<Arc<ServiceSpec>> {
        self.entries.get(service).map(Entry::in_force)
    }

    /// The rollout of a service, and what was counted of it.
    pub fn rollout(&self, service: &str) -> Option<(&Rollout, &Tallies)> {
        self.entries.get(service).map(|entry| (&entry.rollout, &entry.tallies))
    }

    /// Every rollout, in the order of names.
    pub fn rollouts(&self) -> impl Iterator<Item = (&ServiceName, &Rollout, &Tallies)> {
        self.entries.iter().map(|(name, entry)| (name, &entry.rollout, &entry.tallies))
    }

    /// What is to outlive this agent, in the order of names.
    pub fn saved(&self) -> Vec<Saved> {
        let saved = self.entries.iter().map(|(service, entry)| {
            let (split, canary) = entry.rollout.plan();
            Saved {
                service: Arc::clone(service),
                split: split.to_vec(),
                canary: canary.clone(),
                state: entry.rollout.state().clone(),
            }
        });
        saved.chain(self.left.values().cloned()).collect()
    }
}

impl Entry {
    /// The service as it is to be.
    fn in_force(&self) -> Arc<ServiceSpec> {
        let shares = self.rollout.shares();
        if shares == self.asked.policy.split {
            return Arc::clone(&self.asked);
        }
        let mut spec = ServiceSpec::clone(&self.asked);
        spec.policy.split = shares;
        Arc::new(spec)
    }

    fn changed(&mut self, transition: Transition) -> Change {
        match transition {
            Transition::SteppedUp => self.tallies.stepped_up += 1,
            Transition::RolledBack(cause) => self.tallies.rolled_back[cause as usize] += 1,
            Transition::Promoted => self.tallies.promoted += 1,
            Transition::Paused | Transition::Resumed => {}
        }
        Change { transition, spec: self.in_force(), told: self.rollout.to_string() }
    }
}
