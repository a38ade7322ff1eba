//! The services of all sources as one table, in the order of names. Knows which source wants what, and which of two
//! has a name that both want; not where sources get it from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Change, ServiceName, ServiceSpec, SourceKind};

/// The services of all sources.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    services: BTreeMap<ServiceName, Wanted>,
}

/// A service, as the sources that name it want it.
#[derive(Clone, Debug)]
struct Wanted {
    /// What is in force, and whose it is.
    source: SourceKind,
    spec: Arc<ServiceSpec>,
    /// What sources of lower rank want under the same name, in their order. Empty almost always.
    shadowed: Vec<(SourceKind, Arc<ServiceSpec>)>,
}

impl Desired {
    /// Folds a source's change in. An unchanged service keeps its `Arc`, also through a reset.
    pub fn apply(&mut self, source: SourceKind, change: Change) {
        match change {
            Change::Reset(specs) => {
                let named: BTreeSet<&ServiceName> = specs.iter().map(|spec| &spec.name).collect();
                let gone: Vec<ServiceName> =
                    self.names_of(source).filter(|name| !named.contains(name)).cloned().collect();
                for name in gone {
                    self.withdraw(source, &name);
                }
                for spec in specs {
                    self.want(source, spec);
                }
            }
            Change::Upsert(spec) => self.want(source, spec),
            Change::Remove(name) => self.withdraw(source, &name),
        }
    }

    /// Every service that is in force, in the order of names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceSpec>> {
        self.services.values().map(|wanted| &wanted.spec)
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceSpec>> {
        self.services.get(name).map(|wanted| &wanted.spec)
    }

    /// The source whose service of this name is in force.
    pub fn source(&self, name: &str) -> Option<SourceKind> {
        self.services.get(name).map(|wanted| wanted.source)
    }

    /// Names that a source wants and another one has, with that other one.
    pub fn shadowed(&self, source: SourceKind) -> impl Iterator<Item = (&ServiceName, SourceKind)> {
        let is_shadowed = move |wanted: &&Wanted| wanted.shadowed.iter().any(|(other, _)| *other == source);
        self.services
            .iter()
            .filter(move |(_, wanted)| is_shadowed(wanted))
            .map(|(name, it)| (name, it.source))
    }

    /// The services a source wants, whether or not they are in force.
    pub fn services_of(&self, source: SourceKind) -> impl Iterator<Item = &Arc<ServiceSpec>> {
        self.services.values().filter_map(move |wanted| wanted.of(source))
    }

    fn names_of(&self, source: SourceKind) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().filter(move |(_, wanted)| wanted.of(source).is_some()).map(|(name, _)| name)
    }

    fn want(&mut self, source: SourceKind, spec: Arc<ServiceSpec>) {
        match self.services.get_mut(&spec.name) {
            None => {
                let wanted = Wanted { source, spec, shadowed: Vec::new() };
                self.services.insert(Arc::clone(&wanted.spec.name), wanted);
            }
            Some(wanted) => wanted.put(source, spec),
        }
    }

    fn withdraw(&mut self, source: SourceKind, name: &ServiceName) {
        let Some(wanted) = self.services.get_mut(name) else { return };
        wanted.shadowed.retain(|(other, _)| *other != source);
        if wanted.source != source {
            return;
        }
        match wanted.shadowed.is_empty() {
            true => drop(self.services.remove(name)),
            false => (wanted.source, wanted.spec) = wanted.shadowed.remove(0),
        }
    }
}

impl Wanted {
    fn of(&self, source: SourceKind) -> Option<&Arc<ServiceSpec>> {
        let shadowed = || self.shadowed.iter().find(|(other, _)| *other == source).map(|(_, spec)| spec);
        if self.source == source { Some(&self.spec) } else { shadowed() }
    }

    fn put(&mut self, source: SourceKind, spec: Arc<ServiceSpec>) {
        if self.of(source).is_some_and(|old| **old == *spec) {
            return;
        }
        if self.source == source {
            self.spec = spec;
            return;
        }
        self.shadowed.retain(|(other, _)| *other != source);
        let mut shadowed = (source, spec);
        if source < self.source {
            let in_force = (&mut self.source, &mut self.spec);
            std::mem::swap(in_force.0, &mut shadowed.0);
            std::mem::swap(in_force.1, &mut shadowed.1);
        }
        let place = self.shadowed.partition_point(|(other, _)| *other < shadowed.0);
        self.shadowed.insert(place, shadowed);
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::Protocol;
    use proptest::prelude::*;

    use super::*;
    use crate::desired::PolicySpec;

    fn spec(name: &str, port: u16) -> Arc<ServiceSpec> {
        Arc::new(ServiceSpec {
            name: name.into(),
            protocol: Protocol::Tcp,
            frontends: vec![([198, 18, 0, 10], port).into()],
            backends: Vec::new(),
            policy: PolicySpec::default(),
        })
    }

    fn names(desired: &Desired) -> Vec<&str> {
        desired.services().map(|spec| &*spec.name).collect()
    }

    #[test]
    fn a_reset_replaces_the_services_of_its_own_source_only() {
        let mut desired = Desired::default();
        desired.apply(SourceKind::Agent, Change::Upsert(spec("segue/canary", 1)));
        desired.apply(SourceKind::File, Change::Reset(vec![spec("a", 1), spec("b", 1)]));
        desired.apply(SourceKind::Kubernetes, Change::Reset(vec![spec("shop/a", 1)]));
        desired.apply(SourceKind::File, Change::Reset(vec![spec("b", 1)]));
        assert_eq!(names(&desired), ["b", "segue/canary", "shop/a"]);
        desired.apply(SourceKind::Kubernetes, Change::Reset(Vec::new()));
        assert_eq!(names(&desired), ["b", "segue/canary"]);
    }

    #[test]
    fn an_unchanged_service_keeps_its_pointer_through_a_reset() {
        let mut desired = Desired::default();
        desired.apply(SourceKind::File, Change::Reset(vec![spec("a", 1), spec("b", 1)]));
        let before: Vec<_> = desired.services().map(Arc::as_ptr).collect();
        desired.apply(SourceKind::File, Change::Reset(vec![spec("a", 1), spec("b", 2)]));
        let after: Vec<_> = desired.services().map(Arc::as_ptr).collect();
        assert_eq!(before[0], after[0]);
        assert_ne!(before[1], after[1]);
    }

    #[test]
    fn the_file_has_a_name_that_both_want_and_the_other_has_it_back_when_the_file_lets_go() {
        for file_first in [true, false] {
            let mut desired = Desired::default();
            let mut sources = [(SourceKind::File, 1), (SourceKind::Kubernetes, 2)];
            if !file_first {
                sources.reverse();
            }
            for (source, port) in sources {
                desired.apply(source, Change::Upsert(spec("shop/a", port)));
            }
            assert_eq!(desired.source("shop/a"), Some(SourceKind::File));
            assert_eq!(desired.service("shop/a").expect("there").frontends[0].port(), 1);
            let shadowed: Vec<_> = desired.shadowed(SourceKind::Kubernetes).collect();
            assert_eq!(shadowed, [(&ServiceName::from("shop/a"), SourceKind::File)]);
            desired.apply(SourceKind::File, Change::Reset(Vec::new()));
            assert_eq!(desired.source("shop/a"), Some(SourceKind::Kubernetes));
            assert_eq!(desired.service("shop/a").expect("there").frontends[0].port(), 2);
        }
    }

    #[test]
    fn what_is_shadowed_changes_and_goes_without_touching_what_is_in_force() {
        let mut desired = Desired::default();
        desired.apply(SourceKind::File, Change::Upsert(spec("a", 1)));
        desired.apply(SourceKind::Kubernetes, Change::Upsert(spec("a", 2)));
        let in_force = Arc::clone(desired.service("a").expect("there"));
        desired.apply(SourceKind::Kubernetes, Change::Upsert(spec("a", 3)));
        assert!(Arc::ptr_eq(&in_force, desired.service("a").expect("there")));
        desired.apply(SourceKind::Kubernetes, Change::Remove("a".into()));
        assert!(Arc::ptr_eq(&in_force, desired.service("a").expect("there")));
        assert_eq!(desired.shadowed(SourceKind::Kubernetes).count(), 0);
        desired.apply(SourceKind::File, Change::Remove("a".into()));
        assert_eq!(names(&desired), Vec::<&str>::new());
    }

    proptest! {
        /// The reference: each source's services by themselves, and the first source that has a name.
        #[test]
        fn any_changes_of_any_sources_give_what_each_source_by_itself_would(
            steps in prop::collection::vec((0_usize..3, 0_u8..4, 0_u8..5, 1_u16..4), 0..60),
        ) {
            let mut desired = Desired::default();
            let mut model = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
            for (source, kind, name, port) in steps {
                let text = format!("s{name}");
                let change = match kind {
                    0 => {
                        let names: Vec<String> = (0..name).map(|name| format!("s{name}")).collect();
                        model[source] = names.iter().map(|name| (name.clone(), port)).collect();
                        Change::Reset(names.iter().map(|name| spec(name, port)).collect())
                    }
                    1 => {
                        model[source].remove(&text);
                        Change::Remove(text.as_str().into())
                    }
                    _ => {
                        model[source].insert(text.clone(), port);
                        Change::Upsert(spec(&text, port))
                    }
                };
                desired.apply(SourceKind::ALL[source], change);
            }
            let mut wanted = BTreeMap::new();
            for source in model.iter().rev() {
                wanted.extend(source.iter().map(|(name, port)| (name.clone(), *port)));
            }
            let is: BTreeMap<_, _> = desired
                .services()
                .map(|spec| (spec.name.to_string(), spec.frontends[0].port()))
                .collect();
            prop_assert_eq!(is, wanted);
            for (index, source) in model.iter().enumerate() {
                prop_assert_eq!(desired.services_of(SourceKind::ALL[index]).count(), source.len());
            }
        }
    }
}
