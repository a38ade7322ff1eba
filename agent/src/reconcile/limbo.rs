//! What nothing in the maps leads to any more, but a reader may still hold: slots, policy records, backend ids and
//! service ids. A backend id also waits until its last connection is gone.

use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf::abi::Backend;

use super::Reconciler;
use super::report::{Failure, Report};
use super::spans::Span;
use super::sync::Published;
use crate::kernel::{Capacity, Readers, Tables};

/// One part in so many of a map may wait in limbo before readers are waited for within an `apply`.
const HEAVY: u32 = 4;

/// What left the maps between two waits for readers.
#[derive(Debug, Default)]
struct Batch {
    windows: Vec<Span>,
    records: Vec<Span>,
    slot_count: u32,
    /// Backend ids on their way out, and what their entries hold until they are vacated.
    backends: BTreeMap<u32, Backend>,
    /// Service ids that are gone.
    services: BTreeSet<u32>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.windows.is_empty()
            && self.records.is_empty()
            && self.backends.is_empty()
            && self.services.is_empty()
    }
}

/// What waits, and for what.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    /// For readers that nobody waits for yet.
    fresh: Batch,
    /// For these readers.
    held: Option<(Batch, Readers)>,
    /// For the last connection; no reader can choose one of these backends any more.
    backends: BTreeMap<u32, Backend>,
    /// For the last of its backends.
    services: BTreeSet<u32>,
}

impl Limbo {
    pub(super) fn put(&mut self, old: &Published) {
        self.fresh.windows.push(old.window);
        self.fresh.records.push(old.record);
        self.fresh.slot_count += old.window.count;
    }

    pub(super) fn put_backend(&mut self, id: u32, record: Backend) {
        self.recall_backend(id);
        self.fresh.backends.insert(id, record);
    }

    pub(super) fn put_service(&mut self, id: u32) {
        self.recall_service(id);
        self.fresh.services.insert(id);
    }

    /// This service id is wanted again.
    pub(super) fn recall_service(&mut self, id: u32) {
        self.batches_mut().for_each(|batch| {
            batch.services.remove(&id);
        });
        self.services.remove(&id);
    }

    /// This backend id is wanted again.
    pub(super) fn recall_backend(&mut self, id: u32) {
        self.batches_mut().for_each(|batch| {
            batch.backends.remove(&id);
        });
        self.backends.remove(&id);
    }

    /// Every retired backend, and what its entry should hold.
    pub(super) fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        let waiting = self.batches().flat_map(|batch| &batch.backends);
        waiting.chain(&self.backends).map(|(&id, record)| (id, record))
    }

    /// Whether so much waits that it should not wait for the next tick.
    pub(super) fn is_heavy(&self, capacity: &Capacity) -> bool {
        let sum = |of: fn(&Batch) -> usize| self.batches().map(of).sum::<usize>();
        sum(|batch| batch.slot_count as usize) > (capacity.slots / HEAVY) as usize
            || sum(|batch| batch.records.len()) > (capacity.policies / HEAVY) as usize
            || sum(|batch| batch.backends.len()) > (capacity.backends / HEAVY) as usize
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        std::iter::once(&self.fresh).chain(self.held.as_ref().map(|(batch, _)| batch))
    }

    fn batches_mut(&mut self) -> impl Iterator<Item = &mut Batch> {
        std::iter::once(&mut self.fresh).chain(self.held.as_mut().map(|(batch, _)| batch))
    }
}

impl<T: Tables> Reconciler<T> {
    /// Gives back what no reader holds any more. Waits for readers, if anything waits for them.
    pub(super) fn reclaim(&mut self, report: &mut Report) {
        let held = self.limbo.held.take().map(|(batch, _)| batch);
        let fresh = Some(std::mem::take(&mut self.limbo.fresh)).filter(|batch| !batch.is_empty());
        if held.is_some() || fresh.is_some() {
            self.tables.wait_for_readers();
        }
        held.into_iter().chain(fresh).for_each(|batch| self.release(batch));
        self.vacate_backends(report);
        self.release_services();
    }

    /// Gives back what no reader holds any more, as far as that can be done without waiting. The rest follows with one
    /// of the next calls.
    pub(super) fn reclaim_in_passing(&mut self, report: &mut Report) {
        self.release_held();
        if self.limbo.held.is_none() && !self.limbo.fresh.is_empty() {
            // Asked for after everything in the batch has left the maps.
            let readers = self.tables.readers();
            self.limbo.held = Some((std::mem::take(&mut self.limbo.fresh), readers));
            self.release_held();
        }
        self.vacate_backends(report);
        self.release_services();
    }

    fn release_held(&mut self) {
        if let Some((batch, _)) = self.limbo.held.take_if(|(_, readers)| readers.are_gone()) {
            self.release(batch);
        }
    }

    /// Gives back what only readers held. Backends go on waiting for their connections, services for their backends.
    fn release(&mut self, mut batch: Batch) {
        batch.windows.into_iter().for_each(|window| self.slots.release(window));
        batch.records.into_iter().for_each(|record| self.policies.release(record));
        self.limbo.backends.append(&mut batch.backends);
        self.limbo.services.append(&mut batch.services);
    }

    /// Vacates every backend that has no connection left. No reader can choose one: they were all waited for.
    fn vacate_backends(&mut self, report: &mut Report) {
        for (id, record) in self.limbo.backends.clone() {
            if self.tables.backend_state(id).active > 0 {
                continue;
            }
            // The generation stays, so that the next use of the id can be told from this one.
            let vacant = Backend { generation: record.generation, ..Backend::default() };
            if let Err(error) = self.tables.set_backend(id, &vacant) {
                let service = self.live.get(&record.service).and_then(|live| live.name.clone());
                report.failed.push(Failure { service, error: error.into() });
                continue;
            }
            report.removed.backends += 1;
            self.limbo.backends.remove(&id);
            self.ids.release_backend(record.service, record.endpoint);
            self.directory.remove_backend(id);
            if let Some(live) = self.live.get_mut(&record.service) {
                live.retired.remove(&id);
            }
        }
    }

    /// Gives back the ids of services that are gone with all their backends.
    fn release_services(&mut self) {
        for id in self.limbo.services.clone() {
            if self.live.get(&id).is_some_and(|live| !live.retired.is_empty()) {
                continue;
            }
            self.limbo.services.remove(&id);
            if let Some(live) = self.live.remove(&id) {
                self.ids.release_service(id, live.name.as_ref().zip(live.family));
                self.pending.remove(&id);
                self.directory.remove_service(id);
            }
        }
    }
}
