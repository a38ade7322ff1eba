//! Which policy holds for a Service's port, and what its author is told. Pure: objects in, verdicts out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config;
use crate::desired::PolicySpec;

use super::objects::{ObjectKey, Service, ServicePort, Told, TrafficPolicy};

/// Characters of a message; the API server allows 32 768.
const MAX_MESSAGE: usize = 1_000;

/// What became of a policy, in the words of its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is in force.
    Accepted,
    /// There is no such Service, or no such port.
    TargetNotFound,
    /// An older policy is for the same.
    Conflicted,
    /// It says something that cannot be used.
    Invalid,
    /// Segue does not balance this Service.
    NotManaged,
}

impl Reason {
    /// The word in the status; those that the Gateway API knows are its.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::TargetNotFound => "TargetNotFound",
            Self::Conflicted => "Conflicted",
            Self::Invalid => "Invalid",
            Self::NotManaged => "NotManaged",
        }
    }
}

/// What the author of a policy is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What became of it.
    pub reason: Reason,
    /// That, in a sentence.
    pub message: String,
    /// The generation this is about.
    pub generation: i64,
}

impl Verdict {
    pub(super) fn new(policy: &Entry, reason: Reason, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push_str("...");
        }
        Self { reason, message, generation: policy.object.generation }
    }

    /// Whether the status says this already.
    pub fn is_told(&self, told: Option<&Told>) -> bool {
        told.is_some_and(|told| {
            told.accepted == (self.reason == Reason::Accepted)
                && *told.reason == *self.reason.name()
                && *told.message == *self.message
                && told.generation == self.generation
        })
    }
}

/// A policy and what it says.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) object: TrafficPolicy,
    /// What is wrong with it, or what it means.
    pub(super) read: Result<Read, String>,
}

/// A policy that can be used.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) spec: PolicySpec,
    /// What its author may not have meant.
    pub(super) warnings: Vec<String>,
}

impl Entry {
    pub(super) fn new(object: TrafficPolicy) -> Self {
        let read = match config::parse_policy(&object.policy) {
            Ok((spec, warnings)) => Ok(Read { spec, warnings }),
            Err(problems) => Err(problems.join("; ")),
        };
        Self { object, read }
    }

    /// The Service it is for.
    pub(super) fn target(&self) -> Option<ObjectKey> {
        self.object.target.as_ref().map(|name| self.object.key.beside(name))
    }

    /// Older ones first, as the Gateway API orders them.
    fn age(&self) -> (&str, &ObjectKey) {
        (&self.object.created, &self.object.key)
    }
}

/// The policy of each port, by its name, and verdicts.
pub(super) type Assigned<'a> = (BTreeMap<Arc<str>, &'a Entry>, Vec<(ObjectKey, Verdict)>);

/// The policy for each port of a Service, and what the authors of all its policies are told.
pub(super) fn assign<'a>(service: &Service, policies: impl Iterator<Item = &'a Entry>) -> Assigned<'a> {
    let mut policies: Vec<&Entry> = policies.collect();
    policies.sort_by(|one, other| one.age().cmp(&other.age()));
    let mut verdicts = Vec::new();
    let mut whole: Option<&Entry> = None;
    let mut by_section: BTreeMap<Arc<str>, &Entry> = BTreeMap::new();
    for entry in policies {
        let verdict =
            |reason, message: String| (entry.object.key.clone(), Verdict::new(entry, reason, message));
        if let Err(problem) = &entry.read {
            verdicts.push(verdict(Reason::Invalid, problem.clone()));
            continue;
        }
        let section = entry.object.section.as_ref();
        if let Some(section) = section.filter(|name| !service.ports.iter().any(|port| port.name == **name)) {
            let message = format!("Service {} has no port named {section}", service.key.name);
            verdicts.push(verdict(Reason::TargetNotFound, message));
            continue;
        }
        let taken = match section {
            None => whole.replace(entry),
            Some(section) => by_section.insert(Arc::clone(section), entry),
        };
        if let Some(older) = taken {
            let message =
                format!("{} is older and for the same; remove one of the two", older.object.key.name);
            verdicts.push(verdict(Reason::Conflicted, message));
            match section {
                None => whole = Some(older),
                Some(section) => drop(by_section.insert(Arc::clone(section), older)),
            }
        }
    }
    let port = |port: &ServicePort| {
        let entry = by_section.get(&port.name).copied().or(whole)?;
        Some((Arc::clone(&port.name), entry))
    };
    let assigned: BTreeMap<Arc<str>, &Entry> = service.ports.iter().filter_map(port).collect();
    if let Some(entry) = whole.filter(|whole| !assigned.values().any(|entry| std::ptr::eq(*entry, *whole))) {
        let message = "each port of the Service has a policy of its own";
        verdicts.push((entry.object.key.clone(), Verdict::new(entry, Reason::Accepted, message)));
    }
    (assigned, verdicts)
}
