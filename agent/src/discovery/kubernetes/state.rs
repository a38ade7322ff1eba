//! What is known of the cluster, and what changes in what Segue should do when something happens there. Pure: events in,
//! changes out.
//!
//! Until everything that matters was listed once, nothing is said. A list that is read again takes nothing away before it
//! has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::desired::{Change, ServiceName, ServiceSpec};

use super::objects::{Kind, Node, Object, ObjectKey, Route, Service, Slice, TrafficPolicy};
use super::policy::{Entry, Reason, Verdict};
use super::translate::{Cluster, translate};

/// Notes that are kept; where there are more, one cause explains most of them.
const MAX_NOTES: usize = 1_000;

/// Something that happened in the cluster.
#[derive(Clone, Debug)]
pub enum Event {
    /// A list of all objects of this kind begins.
    Begin(Kind),
    /// This is in the list.
    Listed(Object),
    /// This is in the list, and of no use.
    Passed(Kind, ObjectKey),
    /// The list has ended: what was not in it is gone.
    End(Kind),
    /// An object is new or different.
    Put(Object),
    /// An object is gone, or of no use any more.
    Gone(Kind, ObjectKey),
    /// There are no objects of this kind, as the cluster does not know it.
    Unknown(Kind),
}

impl Event {
    /// The kind of what it happened to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Begin(kind) | Self::End(kind) | Self::Unknown(kind) => *kind,
            Self::Passed(kind, _) | Self::Gone(kind, _) => *kind,
            Self::Listed(object) | Self::Put(object) => object.kind(),
        }
    }
}

/// What is known of the services of the cluster.
#[derive(Debug, Default)]
pub struct State {
    node: Option<Node>,
    /// What the operator says the zone is, which counts more than what the Node says.
    zone: Option<Arc<str>>,
    api_server: Option<SocketAddr>,
    services: HashMap<ObjectKey, Service>,
    /// The slices of each Service, by their names.
    slices: HashMap<ObjectKey, BTreeMap<Arc<str>, Arc<Slice>>>,
    /// The Service of each slice.
    slice_owners: HashMap<ObjectKey, Arc<str>>,
    policies: BTreeMap<ObjectKey, Entry>,
    routes: BTreeMap<(Kind, ObjectKey), Route>,
    /// Services that use the endpoints of another one.
    users: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// What each Service came to when it was translated last.
    known: HashMap<ObjectKey, Known>,
    verdicts: BTreeMap<ObjectKey, Verdict>,
    /// Kinds that are being listed, with what was in the list so far.
    listing: HashMap<Kind, HashSet<ObjectKey>>,
    listed: BTreeSet<Kind>,
    dirty: BTreeSet<ObjectKey>,
    /// Texts that many endpoints share.
    names: HashSet<Arc<str>>,
    /// Everything was said once.
    in_sync: bool,
}

/// What a Service came to.
#[derive(Debug, Default)]
struct Known {
    names: Vec<ServiceName>,
    uses: Vec<ObjectKey>,
    notes: Vec<String>,
}

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub slices: usize,
    /// Endpoints in them.
    pub endpoints: usize,
    /// TrafficPolicies.
    pub policies: usize,
    /// Routes attached to Services.
    pub routes: usize,
    /// Pods of this node.
    pub pods: usize,
    /// Services that are left out, whole or in part.
    pub noted: usize,
}

impl State {
    /// Knows nothing of the cluster yet; `zone` is what the operator said, `api_server` where the agent asks.
    pub fn new(zone: Option<Arc<str>>, api_server: Option<SocketAddr>) -> Self {
        Self { zone, api_server, ..Self::default() }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(kind) => drop(self.listing.insert(kind, HashSet::new())),
            Event::Listed(object) => {
                if let Some(seen) = self.listing.get_mut(&object.kind()) {
                    seen.insert(object.key().clone());
                }
                self.put(object);
            }
            Event::Passed(kind, key) => {
                // Were it here, it would have been of use.
                self.remove(kind, &key);
            }
            Event::End(kind) => {
                let seen = self.listing.remove(&kind).unwrap_or_default();
                let gone: Vec<ObjectKey> =
                    self.keys(kind).filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.remove(kind, &key);
                }
                self.listed.insert(kind);
                self.names.retain(|name| Arc::strong_count(name) > 1);
            }
            Event::Put(object) => self.put(object),
            Event::Gone(kind, key) => self.remove(kind, &key),
            Event::Unknown(kind) => {
                // Where there was one, whatever took it away will say so.
                self.listed.insert(kind);
            }
        }
    }

    /// Takes in what was known when the last agent ended. It counts as heard of, and not as listed.
    pub fn remember(&mut self, objects: impl IntoIterator<Item = Object>) {
        objects.into_iter().for_each(|object| self.put(object));
    }

    /// Whether every kind that services are made of was listed once, or is unknown to the cluster.
    pub fn is_whole(&self) -> bool {
        Kind::ALL.iter().all(|kind| !kind.is_of_services() || self.listed.contains(kind))
    }

    /// Whether this kind was listed once.
    pub fn is_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// What is different since the last call, once everything is known: then all of it.
    pub fn take_changes(&mut self) -> Vec<Change> {
        if !self.is_whole() {
            return Vec::new();
        }
        if !mem::replace(&mut self.in_sync, true) {
            return vec![Change::Reset(self.all())];
        }
        let mut changes = Vec::new();
        while let Some(key) = self.dirty.pop_first() {
            let before = self.known.get(&key).map(|known| known.names.clone()).unwrap_or_default();
            let specs = self.translate(&key);
            let gone = before.into_iter().filter(|name| specs.iter().all(|spec| spec.name != *name));
            changes.extend(gone.map(Change::Remove));
            changes.extend(specs.into_iter().map(Change::Upsert));
        }
        changes
    }

    /// Everything that is known, as services.
    pub fn all(&mut self) -> Vec<Arc<ServiceSpec>> {
        self.dirty.clear();
        let targets = self.policies.values().filter_map(Entry::target);
        let keys: BTreeSet<ObjectKey> = self.services.keys().cloned().chain(targets).collect();
        keys.iter().flat_map(|key| self.translate(key)).collect()
    }

    /// Translates a Service, and remembers what it came to.
    fn translate(&mut self, key: &ObjectKey) -> Vec<Arc<ServiceSpec>> {
        for used in self.known.remove(key).unwrap_or_default().uses {
            if let Some(users) = self.users.get_mut(&used) {
                users.remove(key);
                if users.is_empty() {
                    self.users.remove(&used);
                }
            }
        }
        let Some(service) = self.services.get(key) else {
            self.orphaned(key);
            return Vec::new();
        };
        let translation = translate(self, service);
        for used in &translation.uses {
            self.users.entry(used.clone()).or_default().insert(key.clone());
        }
        self.verdicts.extend(translation.verdicts);
        let names = translation.specs.iter().map(|spec| Arc::clone(&spec.name)).collect();
        let known = Known { names, uses: translation.uses, notes: translation.notes };
        self.known.insert(key.clone(), known);
        translation.specs
    }

    /// Policies for a Service that is not there.
    fn orphaned(&mut self, key: &ObjectKey) {
        let verdict = |entry: &Entry| {
            let (reason, message) = match &entry.read {
                Err(problem) => (Reason::Invalid, problem.clone()),
                Ok(_) => (Reason::TargetNotFound, format!("there is no Service {}", key.name)),
            };
            (entry.object.key.clone(), Verdict::new(entry, reason, message))
        };
        let verdicts: Vec<_> = self.policies(key).map(verdict).collect();
        self.verdicts.extend(verdicts);
    }

    /// What the authors of policies are to be told, where their status does not say it.
    pub fn untold(&self) -> impl Iterator<Item = (&ObjectKey, &Verdict)> {
        self.verdicts.iter().filter(|(key, verdict)| {
            self.policies.get(key).is_some_and(|entry| !verdict.is_told(entry.object.told.as_ref()))
        })
    }

    /// A policy's version, for who writes its status.
    pub fn policy_version(&self, key: &ObjectKey) -> Option<Arc<str>> {
        self.policies.get(key).map(|entry| Arc::clone(&entry.object.version))
    }

    /// What became of each policy.
    pub fn verdicts(&self) -> impl Iterator<Item = (&ObjectKey, &Verdict)> {
        self.verdicts.iter()
    }

    /// What is left out, in the order of Services.
    pub fn notes(&self) -> Vec<(ObjectKey, String)> {
        let noted =
            self.known.iter().flat_map(|(key, known)| known.notes.iter().map(move |note| (key, note)));
        let mut notes: Vec<_> = noted.map(|(key, note)| (key.clone(), note.clone())).collect();
        notes.sort();
        notes.truncate(MAX_NOTES);
        notes
    }

    /// How much is known.
    pub fn counts(&self) -> Counts {
        let slices = || self.slices.values().flat_map(BTreeMap::values);
        Counts {
            services: self.services.len(),
            slices: slices().count(),
            endpoints: slices().map(|slice| slice.endpoints.len()).sum(),
            policies: self.policies.len(),
            routes: self.routes.len(),
            pods: 0,
            noted: self.known.values().filter(|known| !known.notes.is_empty()).count(),
        }
    }

    /// Everything that is known, to be written down.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let slices = self.slices.values().flat_map(BTreeMap::values);
        let node = self.node.iter().cloned().map(Object::Node);
        node.chain(self.services.values().cloned().map(Object::Service))
            .chain(slices.cloned().map(Object::Slice))
            .chain(self.policies.values().map(|entry| Object::Policy(entry.object.clone())))
            .chain(self.routes.values().cloned().map(Object::Route))
    }

    fn keys(&self, kind: Kind) -> Box<dyn Iterator<Item = &ObjectKey> + '_> {
        match kind {
            Kind::Node => Box::new(self.node.iter().map(|node| &node.key)),
            Kind::Service => Box::new(self.services.keys()),
            Kind::EndpointSlice => Box::new(self.slice_owners.keys()),
            Kind::TrafficPolicy => Box::new(self.policies.keys()),
            Kind::HttpRoute | Kind::TcpRoute => {
                Box::new(self.routes.keys().filter(move |(it, _)| *it == kind).map(|(_, key)| key))
            }
            Kind::Pod | Kind::Namespace => Box::new(std::iter::empty()),
        }
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Node(node) => {
                if self.node.as_ref() != Some(&node) {
                    self.node = Some(node);
                    self.dirty.extend(self.services.keys().cloned());
                }
            }
            Object::Service(service) => {
                if self.services.get(&service.key) != Some(&service) {
                    self.touch(&service.key.clone());
                    self.services.insert(service.key.clone(), service);
                }
            }
            Object::Slice(slice) => self.put_slice(slice),
            Object::Policy(policy) => {
                let same = self.policies.get(&policy.key).map(|entry| {
                    let (told, version) = (policy.told.clone(), Arc::clone(&policy.version));
                    TrafficPolicy { told, version, ..entry.object.clone() } == policy
                });
                match (same, self.policies.get_mut(&policy.key)) {
                    // Its status is all that changed.
                    (Some(true), Some(entry)) => entry.object = policy,
                    _ => {
                        self.remove(Kind::TrafficPolicy, &policy.key);
                        let entry = Entry::new(policy);
                        match entry.target() {
                            Some(target) => self.touch(&target),
                            None => {
                                let message = "targetRef names no Service; name one of this namespace";
                                let verdict = Verdict::new(&entry, Reason::Invalid, message);
                                self.verdicts.insert(entry.object.key.clone(), verdict);
                            }
                        }
                        self.policies.insert(entry.object.key.clone(), entry);
                    }
                }
            }
            Object::Route(route) => {
                let key = (route.kind(), route.key.clone());
                if self.routes.get(&key) != Some(&route) {
                    self.remove(key.0, &key.1);
                    self.dirty.extend(route.parents.iter().map(|parent| parent.service.clone()));
                    self.routes.insert(key, route);
                }
            }
            // No service is made of them.
            Object::Pod(_) | Object::Namespace(_) => {}
        }
    }

    fn put_slice(&mut self, slice: Arc<Slice>) {
        let mut slice = Arc::unwrap_or_clone(slice);
        for endpoint in &mut slice.endpoints {
            endpoint.zone = endpoint.zone.take().map(|zone| self.shared(zone));
            endpoint.for_zones = endpoint
                .for_zones
                .take()
                .map(|zones| zones.iter().map(|zone| self.shared(Arc::clone(zone))).collect());
        }
        let owner = slice.key.beside(&slice.service);
        let before = self.slice_owners.get(&slice.key);
        if before.is_some_and(|before| *before != slice.service) {
            self.remove(Kind::EndpointSlice, &slice.key.clone());
        }
        let slices = self.slices.entry(owner.clone()).or_default();
        if slices.get(&slice.key.name).is_some_and(|known| **known == slice) {
            return;
        }
        self.slice_owners.insert(slice.key.clone(), Arc::clone(&slice.service));
        slices.insert(Arc::clone(&slice.key.name), Arc::new(slice));
        self.touch(&owner);
    }

    /// One copy of a text, however many endpoints say it.
    fn shared(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(known) = self.names.get(&name) {
            return Arc::clone(known);
        }
        self.names.insert(Arc::clone(&name));
        name
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) {
        match kind {
            Kind::Node => {
                // A node that is gone from the cluster while its agent runs keeps its addresses and its zone.
            }
            Kind::Service => {
                if self.services.remove(key).is_some() {
                    self.touch(key);
                }
            }
            Kind::EndpointSlice => {
                let Some(service) = self.slice_owners.remove(key) else { return };
                let owner = key.beside(&service);
                if let Some(slices) = self.slices.get_mut(&owner) {
                    slices.remove(&key.name);
                    if slices.is_empty() {
                        self.slices.remove(&owner);
                    }
                }
                self.touch(&owner);
            }
            Kind::TrafficPolicy => {
                self.verdicts.remove(key);
                if let Some(target) = self.policies.remove(key).and_then(|entry| entry.target()) {
                    self.touch(&target);
                }
            }
            Kind::HttpRoute | Kind::TcpRoute => {
                if let Some(route) = self.routes.remove(&(kind, key.clone())) {
                    self.dirty.extend(route.parents.into_iter().map(|parent| parent.service));
                }
            }
            Kind::Pod | Kind::Namespace => {}
        }
    }

    /// A Service, and those that use its endpoints, are to be translated again.
    fn touch(&mut self, key: &ObjectKey) {
        self.dirty.insert(key.clone());
        self.dirty.extend(self.users.get(key).into_iter().flatten().cloned());
    }
}

impl Cluster for State {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn zone(&self) -> Option<&Arc<str>> {
        self.zone.as_ref().or_else(|| self.node.as_ref()?.zone.as_ref())
    }

    fn api_server(&self) -> Option<SocketAddr> {
        self.api_server
    }

    fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn slices(&self, key: &ObjectKey) -> impl Iterator<Item = &Slice> {
        self.slices.get(key).into_iter().flat_map(BTreeMap::values).map(|slice| &**slice)
    }

    fn policies(&self, key: &ObjectKey) -> impl Iterator<Item = &Entry> {
        // Policies are few, and all of a namespace lie together.
        let from = ObjectKey { namespace: Arc::clone(&key.namespace), name: "".into() };
        let beside = self.policies.range(from..).take_while(|(it, _)| it.namespace == key.namespace);
        beside.map(|(_, entry)| entry).filter(|entry| entry.object.target.as_ref() == Some(&key.name))
    }

    fn routes(&self, key: &ObjectKey) -> impl Iterator<Item = &Route> {
        let is_parent = |route: &&Route| route.parents.iter().any(|parent| parent.service == *key);
        self.routes.values().filter(is_parent)
    }
}

#[cfg(test)]
mod tests;
