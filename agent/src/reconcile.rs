//! Makes the agent-owned maps equal to what was compiled, and keeps them so. The only writer of these maps.
//!
//! For each service the order of writes is such that a program that reads between any two of them sees the old
//! service or the new one: backends, slots, policy record, service word, frontends; and the other way round when
//! something goes. What a reader may still hold is never written over: it waits in limbo until every reader that
//! could hold it is gone.
//!
//! This module knows nothing of where services come from, and of the kernel only what [`Tables`] says.

mod adopt;
mod compact;
mod crowd;
mod directory;
mod dump;
mod joining;
mod limbo;
mod repair;
mod report;
mod spans;
mod sync;
#[cfg(test)]
mod tests;

pub use adopt::Adopted;
pub use directory::{BackendEntry, Directory, ServiceEntry};
pub use dump::dump;
pub use report::{Counts, Failure, MapFill, ReconcileError, Refusal, Report, Shortage, SyncError};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;
use std::sync::Arc;

use agent_ebpf::abi::{Backend, FrontendKey};

use crate::compile::{self, CompiledBackend, CompiledService, Family, Ids, compile, fallback};
use crate::desired::{Desired, ServiceName, ServiceSpec};
use crate::kernel::{Capacity, MapError, Tables};
use limbo::Limbo;
use report::Need;
use spans::Spans;
use sync::{Intent, Live};

/// The state of the agent-owned maps: what should be in them, what is, and what may not be touched yet.
pub struct Reconciler<T> {
    tables: T,
    capacity: Capacity,
    ids: Ids,
    /// Every service id in use, also of services that are going.
    live: Lives,
    /// What `FRONTENDS` holds.
    placed: HashMap<FrontendKey, u32>,
    /// What `FRONTENDS` should hold.
    claims: HashMap<FrontendKey, u32>,
    slots: Spans,
    policies: Spans,
    limbo: Limbo,
    /// Services whose map contents are not yet what they should be.
    pending: BTreeSet<u32>,
    /// The specs that were compiled last.
    seen: BTreeMap<ServiceName, Arc<ServiceSpec>>,
    /// What found no free backend id, to be tried again on a tick.
    waiting: Vec<Arc<ServiceSpec>>,
    /// Services to compile again although their spec did not change.
    unsettled: BTreeSet<ServiceName>,
    /// What all intents together take.
    need: Need,
    directory: Arc<Directory>,
    /// A desired state was applied at least once: maps that differ from it are wrong.
    applied: bool,
    /// Services that were found in the maps stay until this is over, also where nobody claims them.
    keeps_unclaimed: bool,
    /// What the programs' clock said last, 0 while nobody has told.
    now_ticks: u32,
}

/// Services by id.
type Lives = HashMap<u32, Box<Live>>;

/// A changed service on its way from spec to intent.
struct Changed {
    spec: Arc<ServiceSpec>,
    compiled: Vec<CompiledService>,
}

/// What is different from what was compiled last.
#[derive(Default)]
struct Difference {
    changed: Vec<Arc<ServiceSpec>>,
    removed: Vec<ServiceName>,
}

impl<T: Tables> Reconciler<T> {
    /// Takes empty maps. For maps that hold something, call [`Reconciler::adopt`] before anything else.
    pub fn new(tables: T) -> Self {
        let capacity = tables.capacity();
        Self {
            tables,
            capacity,
            ids: Ids::new(capacity.services, capacity.backends),
            live: HashMap::new(),
            placed: HashMap::new(),
            claims: HashMap::new(),
            slots: Spans::new(capacity.slots),
            policies: Spans::new(capacity.policies),
            limbo: Limbo::default(),
            pending: BTreeSet::new(),
            seen: BTreeMap::new(),
            waiting: Vec::new(),
            unsettled: BTreeSet::new(),
            need: Need::default(),
            directory: Arc::new(Directory::default()),
            applied: false,
            keeps_unclaimed: false,
            now_ticks: 0,
        }
    }

    /// Tells the zone of this node, for services that prefer it. They are compiled again by the next `apply` where it is
    /// another one.
    pub fn set_zone(&mut self, zone: Option<&str>) {
        let here = zone.map_or(0, compile::name_id);
        if here == self.ids.here() {
            return;
        }
        self.ids.set_here(here);
        let preferring = self.seen.values().filter(|spec| spec.policy.prefers_zone);
        self.unsettled.extend(preferring.map(|spec| Arc::clone(&spec.name)));
    }

    /// Tells the time of the programs' clock, in nanoseconds: backends that join in the next `apply` join then. While
    /// nobody has told, none counts as joining.
    pub fn set_now(&mut self, now_ns: u64) {
        self.now_ticks = agent_ebpf::abi::breaker::ticks(now_ns).max(1);
    }

    /// The maps.
    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// The maps, for what the reconciler does not own, and for tests that break things.
    pub fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// Ends the reconciler; the maps stay as they are.
    pub fn into_tables(self) -> T {
        self.tables
    }

    /// What ids stand for. The same directory for the life of the reconciler; it can be read from any thread.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// Makes the maps hold this desired state, which is all there is: what is not in it goes. What was found in the maps
    /// and never claimed goes too, unless it is held ([`Reconciler::keep_unclaimed`]).
    ///
    /// Only services whose `Arc` changed cost anything. A failed map operation does not stop the others; it is
    /// reported, and tried again by the next `apply` or [`Reconciler::idle`].
    ///
    /// # Errors
    /// The whole does not fit; nothing was written, and what worked goes on working.
    pub fn apply(&mut self, desired: &Desired) -> Result<Report, ReconcileError> {
        let mut report = self.apply_once(desired)?;
        let stale: Vec<ServiceName> = self.stale_fallbacks(desired).collect();
        if !stale.is_empty() {
            self.unsettled.extend(stale);
            report.absorb(self.apply_once(desired)?);
        }
        Ok(report)
    }

    /// Services compiled before their fallback had the id it has now.
    fn stale_fallbacks(&self, desired: &Desired) -> impl Iterator<Item = ServiceName> {
        let with_fallback = desired.services().filter(|spec| spec.policy.fallback.is_some());
        let is_stale = |spec: &&Arc<ServiceSpec>| {
            Family::ALL.into_iter().any(|family| {
                let id = self.ids.service_of(&spec.name, family);
                let compiled = id.and_then(|id| self.live.get(&id)?.wanted());
                compiled.is_some_and(|is| is.policy.fallback != fallback(spec, family, &self.ids))
            })
        };
        with_fallback.filter(is_stale).map(|spec| Arc::clone(&spec.name))
    }

    fn apply_once(&mut self, desired: &Desired) -> Result<Report, ReconcileError> {
        let mut report = Report::default();
        let difference = self.difference(desired);
        let start = self.ids.mark();
        let mut need = self.need_without(&difference);
        let (changed, deferred) = self.compile_all(&difference.changed, &mut need, &mut report);
        if let Err(error) = need.check(&self.capacity) {
            self.ids.rollback(start);
            return Err(error);
        }
        self.ids.settle();
        self.release_claims(&changed, &difference.removed);
        self.claim_held(&changed);
        let mut work: BTreeSet<u32> = std::mem::take(&mut self.pending);
        for changed in changed {
            self.intend(changed, &mut work, &mut report);
        }
        let gone = self.mark_removed(difference.removed, &difference.changed);
        // What goes goes last: a renamed service takes its frontends over without a gap.
        let mut failures = self.sync_all(work.difference(&gone), &mut report);
        failures.append(&mut self.sync_all(&gone, &mut report));
        let stuck = failures.iter().any(|failure| matches!(failure.error, SyncError::NoRoom { .. }));
        if stuck || !deferred.is_empty() {
            self.reclaim(&mut report);
        }
        let mut again: BTreeSet<u32> = BTreeSet::new();
        if !deferred.is_empty() {
            self.intend_waiting(&deferred, &mut again, &mut report);
        }
        if stuck || !gone.is_empty() {
            // What goes has made room for what comes.
            again.append(&mut self.pending);
            failures.clear();
        }
        failures.append(&mut self.sync_all(&again, &mut report));
        let mut failures = self.make_room(failures, &mut report);
        report.failed.append(&mut failures);
        if self.limbo.is_heavy(&self.capacity) {
            self.reclaim(&mut report);
        }
        self.unsettled = report.refused.iter().map(|refusal| Arc::clone(&refusal.service)).collect();
        self.applied = true;
        report.pending = self.pending.len() + self.waiting.len();
        Ok(report)
    }

    /// Does what can wait: tries again what failed, and gives back what no reader holds any more, and memory. Call it
    /// on a slow tick. It waits for readers only where there is no room without.
    pub fn idle(&mut self) -> Report {
        let mut report = Report::default();
        let work = std::mem::take(&mut self.pending);
        let failures = self.sync_all(&work, &mut report);
        report.failed = self.make_room(failures, &mut report);
        self.reclaim_in_passing(&mut report);
        if !self.waiting.is_empty() {
            let (waiting, mut work) = (std::mem::take(&mut self.waiting), BTreeSet::new());
            self.intend_waiting(&waiting, &mut work, &mut report);
            let mut failures = self.sync_all(&work, &mut report);
            report.failed.append(&mut failures);
            // The `apply` that found no id has said so.
            report.refused.clear();
        }
        self.tables.rest();
        report.pending = self.pending.len() + self.waiting.len();
        report
    }

    /// Every backend that left its service and waits for its last connection: its id, and what its entry holds.
    pub fn retired(&self) -> impl Iterator<Item = (u32, &Backend)> {
        self.limbo.backends()
    }

    /// How full each map is.
    pub fn fill(&self) -> [MapFill; 5] {
        let entries = |map, used: usize, capacity| MapFill {
            map,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            capacity,
        };
        [
            entries("FRONTENDS", self.placed.len(), self.capacity.frontends),
            entries("SERVICES", self.live.len(), self.capacity.services),
            entries("POLICIES", self.policies.used() as usize, self.capacity.policies),
            entries("SLOTS", self.slots.used() as usize, self.capacity.slots),
            entries("BACKENDS", self.ids.backends_taken(), self.capacity.backends),
        ]
    }

    fn difference(&self, desired: &Desired) -> Difference {
        let mut difference = Difference::default();
        let mut old = self.seen.values().peekable();
        for spec in desired.services() {
            skip_removed(&mut old, spec, &mut difference.removed);
            let known = old.next_if(|old| Arc::ptr_eq(old, spec) || old.name == spec.name);
            let same = known.is_some_and(|old| Arc::ptr_eq(old, spec));
            if !same || (!self.unsettled.is_empty() && self.unsettled.contains(&spec.name)) {
                difference.changed.push(Arc::clone(spec));
            }
        }
        difference.removed.extend(old.map(|old| Arc::clone(&old.name)));
        difference
    }

    /// Ids a name has in the maps or is about to have.
    fn ids_of(&self, name: &ServiceName) -> impl Iterator<Item = u32> {
        Family::ALL.into_iter().filter_map(|family| self.ids.service_of(name, family))
    }

    fn need_without(&self, difference: &Difference) -> Need {
        let changed = difference.changed.iter().map(|spec| &spec.name);
        let mut need = self.need.steady();
        for name in changed.chain(&difference.removed) {
            for compiled in self.ids_of(name).filter_map(|id| self.live.get(&id)?.wanted()) {
                need.subtract(compiled);
            }
        }
        need
    }

    /// Compiles what changed, and adds what it needs. Second come the specs for which no id was left: ids may wait
    /// in limbo.
    fn compile_all(
        &mut self,
        specs: &[Arc<ServiceSpec>],
        need: &mut Need,
        report: &mut Report,
    ) -> (Vec<Changed>, Vec<Arc<ServiceSpec>>) {
        self.ids.reserve_backends(specs.iter().map(|spec| spec.backends.len()).sum());
        let (mut changed, mut deferred) = (Vec::with_capacity(specs.len()), Vec::new());
        for spec in specs {
            let mark = self.ids.mark();
            match compile(spec, &mut self.ids) {
                Ok(compiled) => {
                    compiled.iter().for_each(|compiled| need.add(compiled));
                    if compiled.iter().all(|compiled| self.has_ids(compiled)) {
                        changed.push(Changed { spec: Arc::clone(spec), compiled });
                    } else {
                        self.ids.rollback(mark);
                        deferred.push(Arc::clone(spec));
                    }
                }
                Err(error) => {
                    self.ids.rollback(mark);
                    for compiled in self
                        .ids_of(&spec.name)
                        .filter_map(|id| self.live.get(&id)?.wanted())
                        .collect::<Vec<_>>()
                    {
                        need.add(compiled);
                    }
                    report.refused.push(Refusal::new(&spec.name, error.to_string()));
                }
            }
        }
        (changed, deferred)
    }

    fn has_ids(&self, compiled: &CompiledService) -> bool {
        compiled.id < self.capacity.services
            && compiled.backends.iter().all(|backend| backend.id < self.capacity.backends)
    }

    /// Takes back the claims of services that are about to claim anew, or to go.
    fn release_claims(&mut self, changed: &[Changed], removed: &[ServiceName]) {
        let names = changed.iter().map(|changed| &changed.spec.name).chain(removed);
        let ids: Vec<u32> = names.flat_map(|name| self.ids_of(name)).collect();
        for id in ids {
            let Some(compiled) = self.live.get(&id).and_then(|live| live.wanted()) else { continue };
            for key in &compiled.frontends {
                if self.claims.get(key) == Some(&id) {
                    self.claims.remove(key);
                }
                // Left there by another service, to be taken over.
                self.pending.extend(self.placed.get(key).filter(|&&holder| holder != id));
            }
        }
    }

    /// Where services ask for the same frontend, the one that has it keeps it.
    fn claim_held(&mut self, changed: &[Changed]) {
        for compiled in changed.iter().flat_map(|changed| &changed.compiled) {
            for key in &compiled.frontends {
                if self.placed.get(key) == Some(&compiled.id) {
                    self.claims.entry(*key).or_insert(compiled.id);
                }
            }
        }
    }

    /// Makes compiled services what should be, and adds their ids to the work.
    fn intend(&mut self, changed: Changed, work: &mut BTreeSet<u32>, report: &mut Report) {
        let Changed { spec, compiled } = changed;
        let kept: Vec<u32> = compiled.iter().map(|compiled| compiled.id).collect();
        for id in self.ids_of(&spec.name).filter(|id| !kept.contains(id)).collect::<Vec<_>>() {
            self.set_gone(id);
            work.insert(id);
        }
        for mut compiled in compiled {
            let id = compiled.id;
            if let Some(live) = self.live.get(&id) {
                joining::mark(&mut compiled, live, self.now_ticks);
            }
            compiled.frontends.retain(|key| {
                let owner = *self.claims.entry(*key).or_insert(id);
                if owner != id {
                    let owner = self.live.get(&owner).and_then(|live| live.name.as_ref());
                    report.refused.push(Refusal::taken(&spec.name, key, owner));
                }
                owner == id
            });
            self.forget_unwritten(id, &compiled.backends);
            self.directory.set_service(&spec, &compiled);
            self.need.add(&compiled);
            let live = self.live.entry(id).or_default();
            live.held_mut();
            live.name = Some(Arc::clone(&spec.name));
            live.family = Some(compiled.family);
            match std::mem::replace(&mut live.intent, Intent::Wanted(compiled)) {
                Intent::Wanted(old) => self.need.subtract(&old),
                Intent::Adopted => live.renamed = true,
                Intent::Gone => {}
            }
            work.insert(id);
        }
        self.seen.insert(Arc::clone(&spec.name), spec);
    }

    /// Marks what is to go: removed services, and services found in the maps that nobody claimed, except those that a
    /// service which was refused, or waits for an id, would claim.
    fn mark_removed(&mut self, removed: Vec<ServiceName>, changed: &[Arc<ServiceSpec>]) -> BTreeSet<u32> {
        let mut gone = BTreeSet::new();
        for name in removed {
            gone.extend(self.ids_of(&name));
            self.seen.remove(&name);
        }
        if !self.keeps_unclaimed && !self.ids.unclaimed().is_empty() {
            let keys = changed.iter().chain(&self.waiting).flat_map(|spec| {
                let nameless =
                    Family::ALL.into_iter().filter(|&it| self.ids.service_of(&spec.name, it).is_none());
                nameless.flat_map(|family| compile::frontends(spec, family))
            });
            let keys: Vec<FrontendKey> = keys.collect();
            let protected: BTreeSet<u32> = self.ids.adopted_by(&keys).collect();
            let orphans: Vec<u32> = self.ids.unclaimed().difference(&protected).copied().collect();
            for &id in &orphans {
                self.ids.disown(id);
            }
            gone.extend(orphans);
        }
        for &id in &gone {
            self.set_gone(id);
        }
        gone
    }

    /// Gives back the ids of backends that were wanted until now, never written, and are not kept.
    fn forget_unwritten(&mut self, id: u32, kept: &[CompiledBackend]) {
        let Some(live) = self.live.get(&id) else { return };
        let wanted = live.wanted().map_or(&[][..], |old| &old.backends);
        let unwritten = wanted.iter().filter(|backend| !live.has_written(backend.id));
        for backend in unwritten.filter(|old| kept.iter().all(|kept| kept.id != old.id)) {
            self.ids.release_backend(backend.record.service, backend.record.endpoint);
            self.directory.remove_backend(backend.id);
        }
    }

    fn set_gone(&mut self, id: u32) {
        self.forget_unwritten(id, &[]);
        let Some(live) = self.live.get_mut(&id) else { return };
        live.held_mut();
        if let Intent::Wanted(old) = std::mem::replace(&mut live.intent, Intent::Gone) {
            self.need.subtract(&old);
            for key in &old.frontends {
                if self.claims.get(key) == Some(&id) {
                    self.claims.remove(key);
                }
            }
        }
    }

    /// Brings each of these services to its intent; what fails stays pending.
    fn sync_all<'a>(&mut self, work: impl IntoIterator<Item = &'a u32>, report: &mut Report) -> Vec<Failure> {
        let mut failures = Vec::new();
        for &id in work {
            match self.sync(id, report) {
                Ok(()) => {
                    self.pending.remove(&id);
                }
                Err(error) => {
                    self.pending.insert(id);
                    let service = self.live.get(&id).and_then(|live| live.name.clone());
                    failures.push(Failure { service, error });
                }
            }
        }
        failures
    }

    /// What `FRONTENDS` holds, from the map itself.
    fn read_frontends(&mut self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        self.tables.frontends()
    }
}

/// Moves `old` past every service whose name comes before that of `spec`.
fn skip_removed<'a>(
    old: &mut Peekable<impl Iterator<Item = &'a Arc<ServiceSpec>>>,
    spec: &Arc<ServiceSpec>,
    removed: &mut Vec<ServiceName>,
) {
    while let Some(passed) = old.next_if(|old| !Arc::ptr_eq(old, spec) && old.name < spec.name) {
        removed.push(Arc::clone(&passed.name));
    }
}
