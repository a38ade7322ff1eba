//! Finds what somebody else changed in the agent-owned maps, and puts it right.

use std::collections::HashMap;

use agent_ebpf::abi::{Backend, BackendStatus, FrontendKey, ServiceWord};

use super::Reconciler;
use super::report::{Counts, Failure, Report, SyncError};
use super::sync::Intent;
use crate::kernel::{MapError, Tables};

impl<T: Tables> Reconciler<T> {
    /// Compares every agent-owned map with what should be in it, and repairs what differs; also removes what nobody
    /// here put in. Does nothing before the first [`Reconciler::apply`]: until then nobody knows what should be.
    pub fn repair(&mut self) -> Report {
        let mut report = Report::default();
        if !self.applied {
            return report;
        }
        // What is merely late is no drift.
        let work = std::mem::take(&mut self.pending);
        report.failed = self.sync_all(&work, &mut report);
        self.repair_backends(&mut report);
        // The id 0 belongs to nobody; whatever stands there is not ours.
        for id in 0..self.capacity.services {
            if let Err(error) = self.repair_service(id, &mut report) {
                self.pending.insert(id);
                report.failed.push(self.failure(id, error));
            }
        }
        if let Err(error) = self.repair_frontends(&mut report) {
            report.failed.push(Failure { service: None, error: error.into() });
        }
        report.pending = self.pending.len() + self.waiting.len();
        report
    }

    fn failure(&self, id: u32, error: SyncError) -> Failure {
        Failure { service: self.live.get(&id).and_then(|live| live.name.clone()), error }
    }

    fn repair_backends(&mut self, report: &mut Report) {
        for (id, wanted) in self.wrong_backends() {
            match self.tables.set_backend(id, &wanted) {
                Ok(()) => report.repaired.backends += 1,
                Err(error) => report.failed.push(self.failure(wanted.service, error.into())),
            }
        }
    }

    /// Backends that are not what they should be, and what they should be.
    fn wrong_backends(&self) -> Vec<(u32, Backend)> {
        let mut wrong = Vec::new();
        let mut known = vec![false; self.capacity.backends as usize];
        let mut compare = |(id, wanted): (u32, &Backend)| {
            known[id as usize] = true;
            if self.tables.backend(id) != *wanted {
                wrong.push((id, *wanted));
            }
        };
        // By id, and so mostly in the order in which both lie in memory.
        for live in (1..self.capacity.services).filter_map(|id| self.live.get(&id)) {
            live.backends().for_each(&mut compare);
        }
        self.limbo.backends().for_each(&mut compare);
        for id in (0..self.capacity.backends).filter(|&id| !known[id as usize]) {
            let present = self.tables.backend(id);
            if present.status != BackendStatus::Vacant as u16 {
                wrong.push((id, Backend { generation: present.generation, ..Backend::default() }));
            }
        }
        wrong
    }

    /// Checks a service's record and slots, and then its word.
    fn repair_service(&mut self, id: u32, report: &mut Report) -> Result<(), SyncError> {
        let word = self.tables.service(id);
        let Some(live) = self.live.get_mut(&id) else {
            if word != ServiceWord::NONE {
                self.tables.set_service(id, ServiceWord::NONE)?;
                report.repaired.services += 1;
            }
            return Ok(());
        };
        let Some(published) = live.published.as_mut() else {
            if word != ServiceWord::NONE && !matches!(live.intent, Intent::Adopted) {
                self.tables.set_service(id, ServiceWord::NONE)?;
                report.repaired.services += 1;
            }
            return Ok(());
        };
        let mut repaired = Counts::default();
        if published.sound {
            repaired.policies += u64::from(self.tables.policy(published.record.first) != published.policy);
            let present = self.tables.slots(published.window.first, published.window.count);
            let differ =
                present.iter().zip(published.slots.iter()).filter(|(present, known)| present != known);
            repaired.slots += differ.count() as u64;
        }
        repaired.services += u64::from(word != published.word);
        if repaired.policies + repaired.slots > 0 {
            // Readers are in there: a fresh record and window, as for any change.
            published.sound = false;
            self.republish(id)?;
        } else if repaired.services > 0 {
            let word = published.word;
            self.tables.set_service(id, word)?;
        }
        report.repaired.policies += repaired.policies;
        report.repaired.slots += repaired.slots;
        report.repaired.services += repaired.services;
        Ok(())
    }

    fn republish(&mut self, id: u32) -> Result<(), SyncError> {
        let Some(mut live) = self.live.remove(&id) else { return Ok(()) };
        let intent = std::mem::take(&mut live.intent);
        let result = match &intent {
            Intent::Wanted(compiled) => self.publish(&mut live, compiled, &mut Report::default()),
            Intent::Adopted | Intent::Gone => Ok(()),
        };
        live.intent = intent;
        self.live.insert(id, live);
        result
    }

    fn repair_frontends(&mut self, report: &mut Report) -> Result<(), MapError> {
        let present = self.read_frontends()?;
        if self.are_as_known(&present) {
            return Ok(());
        }
        let present: HashMap<FrontendKey, u32> = present.into_iter().collect();
        let live = self.live.iter();
        let known = live.flat_map(|(&id, live)| live.frontends().map(move |&key| (key, id)));
        let known: HashMap<FrontendKey, u32> = known.collect();
        self.placed.clone_from(&present);
        for (key, &id) in &known {
            if present.get(key) != Some(&id) {
                self.tables.insert_frontend(key, id)?;
                self.placed.insert(*key, id);
                report.repaired.frontends += 1;
            }
        }
        for key in present.keys().filter(|key| !known.contains_key(key)) {
            self.tables.remove_frontend(key)?;
            self.placed.remove(key);
            report.repaired.frontends += 1;
        }
        Ok(())
    }

    /// Whether the map holds exactly what the services hold, as it nearly always does.
    fn are_as_known(&self, present: &[(FrontendKey, u32)]) -> bool {
        let placed = |key: &FrontendKey, id: u32| self.placed.get(key) == Some(&id);
        let mut known = 0;
        let all_placed = self.live.iter().all(|(&id, live)| {
            live.frontends().all(|key| {
                known += 1;
                placed(key, id)
            })
        });
        all_placed
            && known == self.placed.len()
            && present.len() == self.placed.len()
            && present.iter().all(|(key, id)| placed(key, *id))
    }
}
