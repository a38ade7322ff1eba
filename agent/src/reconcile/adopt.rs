//! Goes on from what a predecessor left in the maps: ids, and which entries are taken. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_ebpf::abi::limits::MAX_SUBSETS;
use agent_ebpf::abi::{Algorithm, Backend, BackendStatus, FrontendKey, Policy, ServiceWord, Slot};

use super::spans::Span;
use super::sync::Published;
use super::{Lives, Reconciler};
use crate::compile::{Ids, Restored, near_version};
use crate::kernel::{MapError, Tables};

/// How much was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Frontends that lead to a service.
    pub frontends: usize,
    /// Service ids in use.
    pub services: usize,
    /// Backends in use.
    pub backends: usize,
    /// Services whose tables cannot be right; they are replaced by the first `apply`.
    pub unsound: usize,
}

impl<T: Tables> Reconciler<T> {
    /// Reads the maps and takes them over, in place of whatever this reconciler knew. What is there stays as it is
    /// until the first [`Reconciler::apply`].
    ///
    /// # Errors
    /// The frontends cannot be listed; nothing was taken over.
    pub fn adopt(&mut self) -> Result<Adopted, MapError> {
        let frontends = self.read_frontends()?;
        // The predecessor may have unlinked something just before it ended.
        self.tables.wait_for_readers();
        let (mut live, vacant) = self.read_backends();
        let mut adopted = Adopted::default();
        let mut table_slots = Vec::new();
        for &(key, service) in &frontends {
            if (1..self.capacity.services).contains(&service) {
                live.entry(service).or_default().held_mut().frontends.insert(key);
                adopted.frontends += 1;
            }
        }
        self.slots = super::Spans::new(self.capacity.slots);
        self.policies = super::Spans::new(self.capacity.policies);
        for id in 1..self.capacity.services {
            let word = self.tables.service(id);
            if word == ServiceWord::NONE {
                continue;
            }
            let service = live.entry(id).or_default();
            let published = self.read_published(id, word, &service.held_mut().backends);
            service.generation = word.generation();
            adopted.unsound += usize::from(!published.sound);
            if published.sound && published.policy.algorithm() == Some(Algorithm::Maglev) {
                let subsets = published.policy.subsets.iter().filter(|subset| subset.slot_count > 0);
                table_slots.extend(subsets.flat_map(|subset| {
                    let elsewhere = subset.slot_count.saturating_sub(subset.near_slots);
                    [(id, near_version(subset.version), subset.near_slots), (id, subset.version, elsewhere)]
                }));
            }
            live.entry(id).or_default().published = Some(published);
        }
        adopted.services = live.len();
        adopted.backends = live.values().map(|live| live.backends().count()).sum();
        self.take_over(frontends, live, vacant, table_slots);
        Ok(adopted)
    }

    /// Whether services that were found in the maps, and that no `apply` has claimed, stay as they are. They go with the
    /// next `apply` after it was switched off.
    pub fn keep_unclaimed(&mut self, keep: bool) {
        self.keeps_unclaimed = keep;
    }

    /// The frontends found in the maps that no `apply` has claimed, by the service id they lead to.
    pub fn unclaimed(&self) -> BTreeMap<u32, Vec<FrontendKey>> {
        let ids = self.ids.unclaimed().iter();
        ids.map(|&id| {
            (id, self.live.get(&id).map(|live| live.frontends().copied().collect()).unwrap_or_default())
        })
        .collect()
    }

    fn take_over(
        &mut self,
        frontends: Vec<(FrontendKey, u32)>,
        live: Lives,
        vacant: Vec<(u32, u32)>,
        table_slots: Vec<(u32, u32, u32)>,
    ) {
        let restored = Restored {
            frontends: live
                .iter()
                .flat_map(|(&id, live)| live.frontends().map(move |&key| (key, id)))
                .collect(),
            services: live.keys().copied().collect::<BTreeSet<u32>>(),
            backends: live
                .values()
                .flat_map(|live| live.backends())
                .map(|(id, backend)| (id, backend.generation, backend.service, backend.endpoint))
                .collect(),
            vacant,
            table_slots,
        };
        let tables_capacity = self.capacity;
        let here = self.ids.here();
        self.ids = Ids::restore(tables_capacity.services, tables_capacity.backends, &restored);
        self.ids.set_here(here);
        self.placed = frontends.into_iter().collect();
        self.live = live;
        self.claims.clear();
        self.pending.clear();
        self.seen.clear();
        self.waiting.clear();
        self.limbo = super::Limbo::default();
        self.need = super::Need::default();
        self.applied = false;
    }

    /// The backends in use by service, and the vacant ids that were used once, with their generation.
    fn read_backends(&self) -> (Lives, Vec<(u32, u32)>) {
        let mut live = Lives::new();
        let mut vacant = Vec::new();
        let mut endpoints = BTreeSet::new();
        for id in 1..self.capacity.backends {
            let backend = self.tables.backend(id);
            let vacated = backend.status == BackendStatus::Vacant as u16;
            let known = (1..self.capacity.services).contains(&backend.service);
            // An entry that cannot be ours counts as vacant; `repair` clears it.
            if !vacated && known && endpoints.insert((backend.service, backend.endpoint)) {
                live.entry(backend.service).or_default().held_mut().backends.insert(id, backend);
            } else if !vacated || backend.generation != 0 {
                vacant.push((id, backend.generation));
            }
        }
        (live, vacant)
    }

    /// What a service word leads to, and takes its place in the arrays. Not sound: a record of another service, a
    /// window that is shared or outside the array, or a slot without a backend of this service.
    fn read_published(&mut self, id: u32, word: ServiceWord, backends: &BTreeMap<u32, Backend>) -> Published {
        let nothing = Published {
            word,
            record: Span::default(),
            window: Span::default(),
            policy: Policy::default(),
            slots: Arc::default(),
            sound: false,
        };
        let Some(index) = word.policy() else { return nothing };
        let record = Span { first: index, count: 1 };
        if !self.policies.reserve(record) {
            return nothing;
        }
        let policy = self.tables.policy(index);
        let nothing = Published { record, policy, ..nothing };
        let Some(window) = window_of(&policy, id).filter(|&window| self.slots.reserve(window)) else {
            return nothing;
        };
        let slots: Arc<[Slot]> = self.tables.slots(window.first, window.count).into();
        let sound = slots
            .iter()
            .all(|slot| backends.contains_key(&slot.backend) && backends.contains_key(&slot.alias));
        Published { window, slots, sound, ..nothing }
    }
}

/// The window of a record written by an agent of this ABI: its subsets lie one after the other.
fn window_of(policy: &Policy, service: u32) -> Option<Span> {
    let subsets = policy.subsets.get(..usize::from(policy.subset_count))?;
    if policy.service != service || subsets.is_empty() || subsets.len() > MAX_SUBSETS {
        return None;
    }
    let mut filled = subsets.iter().filter(|subset| subset.slot_count > 0);
    let Some(first) = filled.next() else { return Some(Span::default()) };
    let mut window = Span { first: first.first_slot, count: first.slot_count };
    for subset in filled {
        if Some(subset.first_slot) != window.first.checked_add(window.count) {
            return None;
        }
        window.count = window.count.checked_add(subset.slot_count)?;
    }
    Some(window)
}
