//! The guard against mass deletion: of a change that takes away a large part of what a source had, it lets everything
//! through but the loss. What is held stays as it was until the source names it again, or an operator accepts.
//!
//! One [`Guard`] for each source, between the source and [`Desired`](super::Desired). It decides from what it is given:
//! changes and times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::Protocol;
use serde::{Deserialize, Serialize};

use super::{BackendSpec, Change, ServiceName, ServiceSpec};

/// Fewer losses than this are never held: a person deletes a handful by hand.
pub const LEAST: usize = 10;
/// Losses within this time count as one: an API server tells of a deleted namespace object by object.
const WINDOW: Duration = Duration::from_secs(60);

/// What a source would take away from a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The service itself.
    Service,
    /// All its backends.
    EveryBackend,
    /// A large part of its backends.
    Backends,
}

impl Loss {
    /// Each of them.
    pub const ALL: &'static [Self] = &[Self::Service, Self::EveryBackend, Self::Backends];

    /// The name used in metric labels, tables and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::EveryBackend => "every_backend",
            Self::Backends => "backends",
        }
    }
}

/// Which losses a source may not cause unasked. A service that goes and one that loses every backend count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Most of its services, or every backend of most of them.
    pub services: bool,
    /// Most backends of one service. Not where backends come and go by themselves: who scales down from 100 to 20 means
    /// it, and the addresses may be somebody else's tomorrow.
    pub backends: bool,
}

impl Holds {
    /// Nothing is held.
    pub const NOTHING: Self = Self { services: false, backends: false };
    /// What a person writes.
    pub const WRITTEN: Self = Self { services: true, backends: true };
    /// What machines tell.
    pub const TOLD: Self = Self { services: true, backends: false };
}

/// A loss that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What would be lost.
    pub loss: Loss,
    /// The service, as it stays.
    pub kept: Arc<ServiceSpec>,
    /// How many backends stay although the source does not name them.
    pub backends: usize,
    /// Since when, by the clock of [`Guard::admit`].
    pub since: Duration,
    /// The service as its source wants it; `None` where it is to go.
    said: Option<Arc<ServiceSpec>>,
}

/// Whether so many losses are a mass: more than half, and not a handful.
pub const fn is_mass(lost: usize, of: usize) -> bool {
    lost >= LEAST && lost * 2 > of
}

/// The guard of one source.
#[derive(Debug)]
pub struct Guard {
    holds: Holds,
    /// What the source has in force.
    in_force: BTreeMap<ServiceName, Arc<ServiceSpec>>,
    held: BTreeMap<ServiceName, Held>,
    /// Services that went of late, and when.
    gone: VecDeque<Duration>,
}

/// Who asks for which frontends.
type Claims = BTreeSet<(Protocol, SocketAddr)>;

fn claims(spec: &ServiceSpec) -> impl Iterator<Item = (Protocol, SocketAddr)> {
    spec.frontends.iter().map(|frontend| (spec.protocol, *frontend))
}

/// The backends that are in the first and not in the second.
fn lost_backends(old: &ServiceSpec, new: &ServiceSpec) -> Vec<BackendSpec> {
    let named: BTreeSet<SocketAddr> = new.backends.iter().map(|backend| backend.address).collect();
    old.backends.iter().filter(|backend| !named.contains(&backend.address)).cloned().collect()
}

/// What a service loses, and how many backends, where it loses much.
fn loss_of(old: &ServiceSpec, new: &ServiceSpec) -> Option<Loss> {
    if new.backends.is_empty() {
        return (!old.backends.is_empty()).then_some(Loss::EveryBackend);
    }
    // Looking for each is for services that may have lost many.
    if old.backends.len() < LEAST {
        return None;
    }
    is_mass(lost_backends(old, new).len(), old.backends.len()).then_some(Loss::Backends)
}

impl Guard {
    /// A guard of a source that has said nothing yet.
    pub fn new(holds: Holds) -> Self {
        Self { holds, in_force: BTreeMap::new(), held: BTreeMap::new(), gone: VecDeque::new() }
    }

    /// What of a change is to be applied now. `now` is any clock that only goes on.
    pub fn admit(&mut self, change: Change, now: Duration) -> Change {
        while self.gone.front().is_some_and(|then| now.saturating_sub(*then) > WINDOW) {
            self.gone.pop_front();
        }
        match change {
            Change::Reset(specs) => Change::Reset(self.reset(specs, now)),
            Change::Upsert(spec) => Change::Upsert(self.upsert(spec, now)),
            Change::Remove(name) => self.remove(name, now),
        }
    }

    /// What is held, in the order of names.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &Held)> {
        self.held.iter()
    }

    /// Lets go what is held of the services that `wanted` names, as their source wants it. The changes are to be applied.
    pub fn accept(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<Change> {
        let names: Vec<ServiceName> = self.held.keys().filter(|name| wanted(name)).map(Arc::clone).collect();
        let accepted = names.into_iter().filter_map(|name| {
            let held = self.held.remove(&name)?;
            Some(match held.said {
                Some(spec) => {
                    self.in_force.insert(name, Arc::clone(&spec));
                    Change::Upsert(spec)
                }
                None => {
                    self.in_force.remove(&name);
                    Change::Remove(name)
                }
            })
        });
        let accepted = accepted.collect();
        self.gone.clear();
        accepted
    }

    fn is_mass_of_services(&self, lost: usize) -> bool {
        let gone = self.gone.len();
        self.holds.services && is_mass(lost + gone, self.in_force.len() + gone)
    }

    fn reset(&mut self, specs: Vec<Arc<ServiceSpec>>, now: Duration) -> Vec<Arc<ServiceSpec>> {
        let asked: Claims = specs.iter().flat_map(|spec| claims(spec)).collect();
        let names: BTreeSet<&ServiceName> = specs.iter().map(|spec| &spec.name).collect();
        // A service whose frontends another one asks for was renamed, and cannot be kept beside it.
        let is_lost = |old: &ServiceSpec| {
            !names.contains(&old.name) && !claims(old).any(|claim| asked.contains(&claim))
        };
        let lost: Vec<Arc<ServiceSpec>> =
            self.in_force.values().filter(|old| is_lost(old)).map(Arc::clone).collect();
        let emptied = specs.iter().filter(|spec| spec.backends.is_empty()).filter(|spec| {
            self.in_force.get(&spec.name).is_some_and(|old| loss_of(old, spec) == Some(Loss::EveryBackend))
        });
        let emptied = emptied.count();
        let mass = self.is_mass_of_services(lost.len() + emptied);
        let mut held_before = std::mem::take(&mut self.held);
        let mut old = std::mem::take(&mut self.in_force);
        let mut admitted = Vec::with_capacity(specs.len());
        for spec in specs {
            let before = old.remove(&spec.name);
            let held = held_before.remove(&spec.name).map(|held| held.since);
            admitted.push(self.admit_one(before, spec, held, mass, now));
        }
        for spec in lost {
            let held = held_before.get(&spec.name).map(|held| held.since);
            if mass || held.is_some() {
                admitted.push(self.keep(spec, held.unwrap_or(now)));
            } else {
                self.gone.push_back(now);
            }
        }
        admitted
    }

    fn upsert(&mut self, spec: Arc<ServiceSpec>, now: Duration) -> Arc<ServiceSpec> {
        let before = self.in_force.get(&spec.name).map(Arc::clone);
        let held = self.held.remove(&spec.name).map(|held| held.since);
        let mass = self.is_mass_of_services(1);
        self.admit_one(before, spec, held, mass, now)
    }

    fn remove(&mut self, name: ServiceName, now: Duration) -> Change {
        let Some(spec) = self.in_force.get(&name).map(Arc::clone) else { return Change::Remove(name) };
        let held = self.held.get(&name).map(|held| held.since);
        if held.is_some() || self.is_mass_of_services(1) {
            return Change::Upsert(self.keep(spec, held.unwrap_or(now)));
        }
        self.in_force.remove(&name);
        self.gone.push_back(now);
        Change::Remove(name)
    }

    /// Keeps a service that is to go.
    fn keep(&mut self, spec: Arc<ServiceSpec>, since: Duration) -> Arc<ServiceSpec> {
        let name = Arc::clone(&spec.name);
        let (kept, backends) = (Arc::clone(&spec), spec.backends.len());
        let held = Held { loss: Loss::Service, kept, backends, since, said: None };
        self.held.insert(Arc::clone(&name), held);
        self.in_force.insert(name, Arc::clone(&spec));
        spec
    }

    /// A service as it is to be in force: as its source wants it, or with the backends it may not lose.
    fn admit_one(
        &mut self,
        before: Option<Arc<ServiceSpec>>,
        spec: Arc<ServiceSpec>,
        held: Option<Duration>,
        mass: bool,
        now: Duration,
    ) -> Arc<ServiceSpec> {
        let name = Arc::clone(&spec.name);
        let admitted = match before {
            // The same pointer says to everybody after us that nothing changed.
            Some(old) if *old == *spec => old,
            Some(old) => match self.loss(&old, &spec, held) {
                Some(loss) if self.is_held(loss, mass || held.is_some(), old.backends.len()) => {
                    self.keep_backends(&old, spec, loss, held.unwrap_or(now))
                }
                Some(Loss::EveryBackend) => {
                    self.gone.push_back(now);
                    spec
                }
                _ => spec,
            },
            None => spec,
        };
        self.in_force.insert(name, Arc::clone(&admitted));
        admitted
    }

    /// What a service loses. Of one that was held because of its backends, where these are written by a person, each
    /// counts until it is named again.
    fn loss(&self, old: &ServiceSpec, new: &ServiceSpec, held: Option<Duration>) -> Option<Loss> {
        let still = held.is_some() && self.holds.backends && !lost_backends(old, new).is_empty();
        loss_of(old, new).or(still.then_some(Loss::Backends))
    }

    fn is_held(&self, loss: Loss, mass: bool, of: usize) -> bool {
        match loss {
            Loss::Service => mass,
            Loss::EveryBackend => mass || (self.holds.backends && of >= LEAST),
            Loss::Backends => self.holds.backends,
        }
    }

    fn keep_backends(
        &mut self,
        old: &Arc<ServiceSpec>,
        said: Arc<ServiceSpec>,
        loss: Loss,
        since: Duration,
    ) -> Arc<ServiceSpec> {
        let mut kept = ServiceSpec::clone(&said);
        let lost = lost_backends(old, &said);
        let backends = lost.len();
        kept.backends.extend(lost);
        let kept = if **old == kept { Arc::clone(old) } else { Arc::new(kept) };
        let name = Arc::clone(&said.name);
        self.held.insert(name, Held { loss, kept: Arc::clone(&kept), backends, since, said: Some(said) });
        kept
    }
}

#[cfg(test)]
mod tests;
