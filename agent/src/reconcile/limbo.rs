//! What nothing in the maps leads to any more, but a reader may still hold: slots, policy records, backend ids and
//! service ids. A backend id also waits until its last connection is gone.

use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf::abi::Backend;

use super::Reconciler;
use super::report::{Failure, Report};
use super::spans::Span;
use super::sync::Published;
use crate::kernel::{Capacity, Tables};

/// One part in so many of a map may wait in limbo before readers are waited for within an `apply`.
const HEAVY: u32 = 4;

/// What waits, and for what.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    windows: Vec<Span>,
    records: Vec<Span>,
    slot_count: u32,
    /// Backend ids on their way out, and what their entries hold until they are vacated.
    backends: BTreeMap<u32, Backend>,
    /// Service ids that are gone.
    services: BTreeSet<u32>,
    /// Whether anything came in since readers were last waited for.
    fresh: bool,
    fresh_backends: u32,
}

impl Limbo {
    pub(super) fn put(&mut self, old: &Published) {
        self.windows.push(old.window);
        self.records.push(old.record);
        self.slot_count += old.window.count;
        self.fresh = true;
    }

    pub(super) fn put_backend(&mut self, id: u32, record: Backend) {
        self.backends.insert(id, record);
        self.fresh_backends += 1;
        self.fresh = true;
    }

    pub(super) fn put_service(&mut self, id: u32) {
        self.services.insert(id);
        self.fresh = true;
    }

    /// This service id is wanted again.
    pub(super) fn recall_service(&mut self, id: u32) {
        self.services.remove(&id);
    }

    /// This backend id is wanted again.
    pub(super) fn recall_backend(&mut self, id: u32) {
        self.backends.remove(&id);
    }

    /// What the entry of a retired backend should hold.
    pub(super) fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }

    /// Whether so much waits that it should not wait for the next tick.
    pub(super) fn is_heavy(&self, capacity: &Capacity) -> bool {
        self.slot_count > capacity.slots / HEAVY
            || self.records.len() > (capacity.policies / HEAVY) as usize
            || self.fresh_backends > capacity.backends / HEAVY
    }
}

impl<T: Tables> Reconciler<T> {
    /// Gives back what no reader holds any more. Waits for readers only if something came into limbo since the last
    /// time.
    pub(super) fn reclaim(&mut self, report: &mut Report) {
        if self.limbo.fresh {
            self.tables.wait_for_readers();
            for window in self.limbo.windows.drain(..) {
                self.slots.release(window);
            }
            for record in self.limbo.records.drain(..) {
                self.policies.release(record);
            }
            self.limbo.slot_count = 0;
            self.limbo.fresh_backends = 0;
            self.limbo.fresh = false;
        }
        self.vacate_backends(report);
        self.release_services();
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
