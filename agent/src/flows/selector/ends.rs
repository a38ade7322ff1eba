//! The two ends of a flow, as selectors of names look at them. Knows no event and no edge.

use super::Key;
use super::pattern::Pattern;
use crate::flows::{Workload, split_service_name};

/// The two ends of a flow. What is about a service only has no client.
pub(super) struct Ends<'a> {
    pub(super) client: Option<&'a Workload>,
    pub(super) service: &'a str,
    pub(super) version: Option<&'a str>,
}

impl Ends<'_> {
    pub(super) fn are_of(&self, key: Key, pattern: &Pattern) -> bool {
        let (namespace, name) = split_service_name(self.service);
        let from = || self.client.is_some_and(|client| pattern.matches_name(&client.namespace, &client.name));
        let to = || pattern.matches_name(namespace, name);
        let from_namespace = || self.client.is_some_and(|client| pattern.matches(&client.namespace));
        let to_namespace = || pattern.matches(namespace);
        match key {
            Key::FromWorkload | Key::FromService => from(),
            Key::ToService | Key::ToWorkload => to(),
            Key::Service | Key::Workload => from() || to(),
            Key::FromNamespace => from_namespace(),
            Key::ToNamespace => to_namespace(),
            Key::Namespace => from_namespace() || to_namespace(),
            Key::ToVersion => self.version.is_some_and(|version| pattern.matches(version)),
            Key::ToIp | Key::ToPort | Key::Protocol | Key::Verdict | Key::HttpStatus | Key::Method => false,
        }
    }
}
