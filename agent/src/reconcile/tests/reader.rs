//! A kernel program's way through the maps, and what it may find there. Knows specs and map contents, and nothing of
//! how the reconciler came from one to the other.

use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf::abi::BackendStatus;

use super::*;
use crate::kernel::fake::Image;

/// For each frontend, the sets of endpoints a reader may find behind it.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed(BTreeMap<FrontendKey, Vec<BTreeSet<Endpoint>>>);

impl Allowed {
    /// What any of these desired states would have it find at a service that has the frontend in any of them: while a
    /// frontend goes, or passes to another service, its old service may already be the new one.
    pub(super) fn by(states: &[&[ServiceSpec]]) -> Self {
        let specs = || states.iter().copied().flatten();
        let mut allowed = Self::default();
        for owner in specs() {
            for &frontend in &owner.frontends {
                let key = FrontendKey::new(frontend.into(), owner.protocol as u8);
                let versions = specs().filter(|spec| spec.name == owner.name);
                let sets = versions.map(|spec| usable(spec, frontend.is_ipv4()));
                allowed.0.entry(key).or_default().extend(sets);
            }
        }
        allowed
    }
}

/// The endpoints that take connections for a family of a service.
fn usable(spec: &ServiceSpec, v4: bool) -> BTreeSet<Endpoint> {
    let share = |version: &Arc<str>| {
        let mut shares = spec.policy.split.iter();
        shares.any(|share| share.version == *version && share.share > 0)
    };
    let backends = spec.backends.iter().filter(|backend| {
        let chosen = spec.policy.split.is_empty() || backend.version.as_ref().is_some_and(share);
        backend.address.is_ipv4() == v4 && backend.weight > 0 && !backend.draining && chosen
    });
    backends.map(|backend| backend.address.into()).collect()
}

/// A reader that stopped somewhere on its way for each frontend: at its service id, word, record, and slots.
#[derive(Default)]
pub(super) struct Journey {
    services: Vec<(FrontendKey, u32)>,
    words: Vec<(FrontendKey, u32, ServiceWord)>,
    records: Vec<(FrontendKey, u32, agent_ebpf::abi::Policy)>,
    backends: Vec<(FrontendKey, u32, BTreeSet<u32>)>,
}

impl Journey {
    /// Takes the next of five steps in the maps as they are now.
    pub(super) fn step(&mut self, image: &Image, number: usize, allowed: &Allowed) -> Result<(), String> {
        match number {
            0 => self.services = image.frontends.iter().map(|(key, id)| (*key, *id)).collect(),
            1 => {
                let word = |&(key, id): &(FrontendKey, u32)| (key, id, image.services[id as usize]);
                self.words = self.services.iter().map(word).collect();
            }
            2 => {
                for &(key, id, word) in &self.words {
                    // A frontend read before its removal leads to a word that is gone: the call goes on untouched.
                    if let Some(index) = word.policy() {
                        self.records.push((key, id, image.policies[index as usize]));
                    }
                }
            }
            3 => self.read_slots(image)?,
            _ => self.arrive(image, allowed)?,
        }
        Ok(())
    }

    fn read_slots(&mut self, image: &Image) -> Result<(), String> {
        for (key, id, policy) in &self.records {
            if policy.service != *id {
                return Err(format!("{key:?}: the record of service {id} belongs to {}", policy.service));
            }
            let mut found = BTreeSet::new();
            for subset in policy.subsets.iter().take(usize::from(policy.subset_count)) {
                let window = &image.slots[subset.first_slot as usize..][..subset.slot_count as usize];
                found.extend(window.iter().flat_map(|slot| [slot.backend, slot.alias]));
            }
            self.backends.push((*key, *id, found));
        }
        Ok(())
    }

    fn arrive(&self, image: &Image, allowed: &Allowed) -> Result<(), String> {
        for (key, id, backends) in &self.backends {
            let mut reached = BTreeSet::new();
            for &backend in backends {
                let record = image.backends[backend as usize];
                if record.status == BackendStatus::Vacant as u16 || record.service != *id {
                    return Err(format!("{key:?}: slot of service {id} names backend {backend}: {record:?}"));
                }
                reached.insert(record.endpoint);
            }
            let known = allowed.0.get(key).ok_or_else(|| format!("{key:?} belongs to nobody"))?;
            if !known.contains(&reached) {
                return Err(format!("{key:?}: a mix of backends: {reached:?}, allowed {known:?}"));
            }
        }
        Ok(())
    }
}

/// Checks a reader that runs between any two writes.
pub(super) fn check_between_writes(start: &Image, log: &[Write], allowed: &Allowed) -> Result<(), String> {
    let mut image = start.clone();
    for (place, write) in log.iter().enumerate() {
        image.replay(write);
        for (key, id) in &image.frontends {
            if image.services[*id as usize] == ServiceWord::NONE {
                return Err(format!("after write {place}: {key:?} leads to no service"));
            }
        }
        let mut journey = Journey::default();
        for number in 0..5 {
            let step = journey.step(&image, number, allowed);
            step.map_err(|error| format!("after write {place} {write:?}: {error}"))?;
        }
    }
    Ok(())
}

/// A reader that pauses before one of its steps, 1 to 4, from one place of the log to a later one; places are in
/// thousandths of each part of the log between two waits for readers, because a wait lets no reader through.
pub(super) type Pause = (usize, usize, usize);

/// Checks readers that pause on their way.
pub(super) fn check_slow_readers(
    start: &Image,
    log: &[Write],
    pauses: &[Pause],
    allowed: &Allowed,
) -> Result<(), String> {
    let mut image = start.clone();
    for part in log.split_inclusive(|write| *write == Write::Wait) {
        let mut images = vec![image.clone()];
        for write in part {
            image.replay(write);
            images.push(image.clone());
        }
        for &(before, from, to) in pauses {
            let (from, to) = (from.min(to) * part.len() / 1_000, from.max(to) * part.len() / 1_000);
            let mut journey = Journey::default();
            for number in 0..5 {
                let place = if number < before { from } else { to };
                let step = journey.step(&images[place], number, allowed);
                step.map_err(|error| {
                    format!("paused before step {before}, {from} to {to} of {part:?}: {error}")
                })?;
            }
        }
    }
    Ok(())
}
