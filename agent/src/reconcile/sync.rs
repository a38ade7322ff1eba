//! Brings one service's map contents to its intent, in an order that no reader can see half of. Every step looks at
//! what is there first, so that it can be run again after a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_ebpf::abi::{Backend, BackendStatus, FrontendKey, Policy, ServiceWord, Slot};

use super::Reconciler;
use super::report::{Report, SyncError};
use super::spans::Span;
use crate::compile::{CompiledService, Family};
use crate::desired::ServiceName;
use crate::kernel::{MapError, Tables};

/// What should become of a service id.
#[derive(Debug, Default)]
#[expect(clippy::large_enum_variant, reason = "all but a few are wanted; a box for each would cost more")]
pub(super) enum Intent {
    /// It was found in the maps and nobody has claimed it yet: it stays as it is.
    #[default]
    Adopted,
    /// It should be this.
    Wanted(CompiledService),
    /// It should go.
    Gone,
}

/// What a service id stands for, in intent and in the maps.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) name: Option<ServiceName>,
    pub(super) family: Option<Family>,
    pub(super) intent: Intent,
    /// It was found in the maps, and what it holds there may be another service's. Until it is its own.
    pub(super) renamed: bool,
    /// What its word in `SERVICES` leads to.
    pub(super) published: Option<Published>,
    /// How often the word was replaced.
    pub(super) generation: u32,
    /// What it holds in `FRONTENDS` and `BACKENDS`, where that is not exactly what is wanted.
    held: Option<Box<Held>>,
    /// Backends that left and are not vacated yet.
    pub(super) retired: BTreeSet<u32>,
}

/// Entries of a service, as last written.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The entries of `FRONTENDS` that lead to it.
    pub(super) frontends: BTreeSet<FrontendKey>,
    /// Its entries in `BACKENDS`, without those that are retired.
    pub(super) backends: BTreeMap<u32, Backend>,
}

impl Held {
    fn of(compiled: &CompiledService) -> Self {
        Self {
            frontends: compiled.frontends.iter().copied().collect(),
            backends: compiled.backends.iter().map(|backend| (backend.id, backend.record)).collect(),
        }
    }

    fn is(&self, compiled: &CompiledService) -> bool {
        self.frontends.iter().eq(&compiled.frontends)
            && self.backends.len() == compiled.backends.len()
            && compiled.backends.iter().all(|it| self.backends.get(&it.id) == Some(&it.record))
    }
}

impl Live {
    /// The intent, if the service is to stay.
    pub(super) fn wanted(&self) -> Option<&CompiledService> {
        match &self.intent {
            Intent::Wanted(compiled) => Some(compiled),
            Intent::Adopted | Intent::Gone => None,
        }
    }

    /// What it holds, to be changed, or to be kept while the intent changes.
    pub(super) fn held_mut(&mut self) -> &mut Held {
        let wanted = match &self.intent {
            Intent::Wanted(compiled) => Some(compiled),
            Intent::Adopted | Intent::Gone => None,
        };
        self.held.get_or_insert_with(|| Box::new(wanted.map(Held::of).unwrap_or_default()))
    }

    /// The entries of `FRONTENDS` that lead to it.
    pub(super) fn frontends(&self) -> impl Iterator<Item = &FrontendKey> {
        let held = self.held.as_ref();
        let wanted = self.wanted().filter(|_| held.is_none());
        let held = held.into_iter().flat_map(|held| &held.frontends);
        held.chain(wanted.into_iter().flat_map(|wanted| &wanted.frontends))
    }

    /// Its entries in `BACKENDS`, without those that are retired.
    pub(super) fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        let held = self.held.as_ref();
        let wanted = self.wanted().filter(|_| held.is_none());
        let held = held.into_iter().flat_map(|held| held.backends.iter().map(|(&id, record)| (id, record)));
        let wanted = wanted.into_iter().flat_map(|wanted| wanted.backends.iter());
        held.chain(wanted.map(|backend| (backend.id, &backend.record)))
    }

    /// Whether this backend of an intent was written.
    pub(super) fn has_written(&self, backend: u32) -> bool {
        let held = self.held.as_ref().is_none_or(|held| held.backends.contains_key(&backend));
        held || self.retired.contains(&backend)
    }

    /// Keeps no second list where everything is as wanted.
    fn settle(&mut self) {
        let settled = match (&self.held, &self.intent) {
            (Some(held), Intent::Wanted(compiled)) => held.is(compiled),
            (Some(held), _) => held.frontends.is_empty() && held.backends.is_empty(),
            (None, _) => return,
        };
        if settled {
            self.held = None;
        }
    }
}

/// A policy record and the slots it leads to.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) word: ServiceWord,
    /// Place in `POLICIES`; empty where what was found there belongs to somebody else.
    pub(super) record: Span,
    /// Place in `SLOTS`; empty where what was found there belongs to somebody else.
    pub(super) window: Span,
    pub(super) policy: Policy,
    pub(super) slots: Arc<[Slot]>,
    /// `false` where what was found in the maps cannot be right and has to be replaced.
    pub(super) sound: bool,
}

impl Published {
    fn is(&self, compiled: &CompiledService) -> bool {
        let mut policy = self.policy;
        policy.subsets.iter_mut().for_each(|subset| subset.first_slot = 0);
        self.sound && policy == compiled.policy && self.slots == compiled.slots
    }
}

impl<T: Tables> Reconciler<T> {
    /// Brings one service to its intent. Safe to call again.
    pub(super) fn sync(&mut self, id: u32, report: &mut Report) -> Result<(), SyncError> {
        let Some(mut live) = self.live.remove(&id) else { return Ok(()) };
        live.held_mut();
        let intent = std::mem::take(&mut live.intent);
        let result = match &intent {
            Intent::Adopted => Ok(()),
            Intent::Wanted(compiled) => self.sync_wanted(&mut live, compiled, report),
            Intent::Gone => self.sync_gone(id, &mut live, report),
        };
        live.intent = intent;
        live.settle();
        self.live.insert(id, live);
        result
    }

    fn sync_wanted(
        &mut self,
        live: &mut Live,
        compiled: &CompiledService,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        self.limbo.recall_service(compiled.id);
        for backend in compiled.backends.iter() {
            if live.retired.remove(&backend.id) {
                self.limbo.recall_backend(backend.id);
                live.held_mut().backends.insert(backend.id, backend.record);
            }
        }
        self.drop_frontends(live, compiled, report)?;
        // Backends that new slots may name come before the slots; those that close come after.
        self.write_backends(live, compiled, true, report)?;
        self.publish(live, compiled, report)?;
        self.place_frontends(live, compiled, report)?;
        self.write_backends(live, compiled, false, report)?;
        let wanted: BTreeSet<u32> = compiled.backends.iter().map(|backend| backend.id).collect();
        let gone: Vec<u32> = live.backends().map(|(id, _)| id).filter(|id| !wanted.contains(id)).collect();
        gone.into_iter().try_for_each(|id| self.retire(live, id, report))?;
        live.renamed = false;
        Ok(())
    }

    fn sync_gone(&mut self, id: u32, live: &mut Live, report: &mut Report) -> Result<(), SyncError> {
        for key in live.frontends().copied().collect::<Vec<_>>() {
            self.remove_frontend(live, &key, report)?;
        }
        if self.tables.service(id) != ServiceWord::NONE {
            self.tables.set_service(id, ServiceWord::NONE)?;
            report.removed.services += 1;
        }
        if let Some(old) = live.published.take() {
            report.removed.policies += 1;
            report.removed.slots += old.slots.len() as u64;
            self.limbo.put(&old);
        }
        for backend in live.backends().map(|(id, _)| id).collect::<Vec<_>>() {
            self.retire(live, backend, report)?;
        }
        self.limbo.put_service(id);
        Ok(())
    }

    /// Writes backends that are not what they should be: the new ones and those that (again) take connections
    /// with `opening`, otherwise the rest.
    fn write_backends(
        &mut self,
        live: &mut Live,
        compiled: &CompiledService,
        opening: bool,
        report: &mut Report,
    ) -> Result<(), MapError> {
        for backend in compiled.backends.iter() {
            let present = self.tables.backend(backend.id);
            let opens = backend.record.status == BackendStatus::Ready as u16
                || present.status == BackendStatus::Vacant as u16
                || (present.endpoint, present.service) != (backend.record.endpoint, backend.record.service);
            if present != backend.record && (opens || !opening) {
                self.tables.set_backend(backend.id, &backend.record)?;
                report.written.backends += 1;
            }
            if present == backend.record || opens || !opening {
                live.held_mut().backends.insert(backend.id, backend.record);
            }
        }
        Ok(())
    }

    /// Writes slots and a policy record where nobody reads, and then names them in one store.
    pub(super) fn publish(
        &mut self,
        live: &mut Live,
        compiled: &CompiledService,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        if let Some(published) = live.published.as_ref().filter(|published| published.is(compiled)) {
            if self.tables.service(compiled.id) != published.word {
                self.tables.set_service(compiled.id, published.word)?;
                report.written.services += 1;
            }
            return Ok(());
        }
        let needed = compiled.slot_count();
        let window = self.slots.allocate(needed).ok_or(SyncError::NoRoom { map: "SLOTS", needed })?;
        let Some(record) = self.policies.allocate(1) else {
            self.slots.release(window);
            return Err(SyncError::NoRoom { map: "POLICIES", needed: 1 });
        };
        let slots = Arc::clone(&compiled.slots);
        let written = self.switch(live, &compiled.policy, slots, record, window)?;
        report.written.services += 1;
        report.written.policies += 1;
        report.written.slots += written;
        Ok(())
    }

    /// Writes a record and slots to places nobody reads, and then leads the service there in one store. Gives the
    /// number of slots written.
    pub(super) fn switch(
        &mut self,
        live: &mut Live,
        policy: &Policy,
        slots: Arc<[Slot]>,
        record: Span,
        window: Span,
    ) -> Result<u64, MapError> {
        let mut policy = *policy;
        let mut next = window.first;
        for subset in policy.subsets.iter_mut().filter(|subset| subset.slot_count > 0) {
            subset.first_slot = next;
            next += subset.slot_count;
        }
        let word = ServiceWord::new(record.first, live.generation.wrapping_add(1));
        if let Err(error) = self.write_switch(&policy, &slots, window, word) {
            // Nobody was ever led there.
            self.slots.release(window);
            self.policies.release(record);
            return Err(error);
        }
        live.generation = word.generation();
        let count = slots.len() as u64;
        let published = Published { word, record, window, policy, slots, sound: true };
        if let Some(old) = live.published.replace(published) {
            self.limbo.put(&old);
        }
        Ok(count)
    }

    fn write_switch(
        &mut self,
        policy: &Policy,
        slots: &[Slot],
        window: Span,
        word: ServiceWord,
    ) -> Result<(), MapError> {
        if !slots.is_empty() {
            self.tables.set_slots(window.first, slots)?;
        }
        if let Some(index) = word.policy() {
            self.tables.set_policy(index, policy)?;
        }
        self.tables.set_service(policy.service, word)
    }

    fn place_frontends(
        &mut self,
        live: &mut Live,
        compiled: &CompiledService,
        report: &mut Report,
    ) -> Result<(), MapError> {
        for key in &compiled.frontends {
            let holder = self.placed.get(key).copied();
            if holder != Some(compiled.id) {
                self.tables.insert_frontend(key, compiled.id)?;
                report.written.frontends += 1;
                self.placed.insert(*key, compiled.id);
                if let Some(holder) = holder.and_then(|holder| self.live.get_mut(&holder)) {
                    holder.held_mut().frontends.remove(key);
                }
            }
            live.held_mut().frontends.insert(*key);
        }
        Ok(())
    }

    /// Removes the frontends the service does not have any more, so that nothing comes in under them once it changes.
    /// One that another service asks for is left for that one to take over without a gap.
    fn drop_frontends(
        &mut self,
        live: &mut Live,
        compiled: &CompiledService,
        report: &mut Report,
    ) -> Result<(), MapError> {
        let unwanted = live.frontends().filter(|key| compiled.frontends.binary_search(key).is_err());
        // The other service, found under another id, may be the one whose clients come in there: then a gap is better
        // than the wrong service.
        let dropped = unwanted.filter(|key| live.renamed || !self.claims.contains_key(key));
        for key in dropped.copied().collect::<Vec<_>>() {
            self.remove_frontend(live, &key, report)?;
        }
        Ok(())
    }

    fn remove_frontend(
        &mut self,
        live: &mut Live,
        key: &FrontendKey,
        report: &mut Report,
    ) -> Result<(), MapError> {
        self.tables.remove_frontend(key)?;
        report.removed.frontends += 1;
        self.placed.remove(key);
        live.held_mut().frontends.remove(key);
        Ok(())
    }

    /// Closes a backend that is not wanted any more. Its id stays taken until its connections are gone.
    fn retire(&mut self, live: &mut Live, id: u32, report: &mut Report) -> Result<(), SyncError> {
        let Some(&known) = live.held_mut().backends.get(&id) else { return Ok(()) };
        let record = Backend { status: BackendStatus::Draining as u16, ..known };
        if self.tables.backend(id) != record {
            self.tables.set_backend(id, &record)?;
            report.written.backends += 1;
        }
        live.held_mut().backends.remove(&id);
        live.retired.insert(id);
        self.limbo.put_backend(id, record);
        Ok(())
    }
}
