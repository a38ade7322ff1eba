//! TrafficPolicies.

use serde::Deserialize;

use super::super::lenient::{lenient, readable};
use super::super::objects::{Kind, Object, ObjectKey, Told, TrafficPolicy};
use super::{Meta, Wire, is_name};

/// A policy that is longer is not read: every field with its longest value takes a tenth.
const MAX_POLICY_BYTES: usize = 64 * 1024;

/// A TrafficPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct TrafficPolicyWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    spec: Spec,
    #[serde(deserialize_with = "lenient")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "lenient")]
    target_ref: TargetRef,
    #[serde(deserialize_with = "lenient")]
    policy: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TargetRef {
    #[serde(deserialize_with = "lenient")]
    group: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    kind: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    name: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    section_name: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "lenient")]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type", deserialize_with = "lenient")]
    condition_type: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    status: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    reason: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    message: Option<Box<str>>,
    #[serde(deserialize_with = "lenient")]
    observed_generation: Option<i64>,
}
readable!(TrafficPolicyWire, Spec, TargetRef, Status, Condition);

impl Wire for TrafficPolicyWire {
    const KIND: Kind = Kind::TrafficPolicy;
    const GROUP: &'static str = "segue.dev";
    const VERSION: &'static str = "v1alpha1";
    const NAME: &'static str = "TrafficPolicy";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, _: &str) -> Option<Object> {
        let target = &self.spec.target_ref;
        let is_service = target.group.as_deref().unwrap_or_default().is_empty()
            && target.kind.as_deref().unwrap_or("Service") == "Service";
        let name = target.name.as_deref().filter(|name| is_service && is_name(name));
        let policy = self.spec.policy.as_ref().map_or_else(|| "{}".to_owned(), ToString::to_string);
        // Too long to be one: what is in its place says so when it is read.
        let policy = if policy.len() > MAX_POLICY_BYTES { "\"too long\"".to_owned() } else { policy };
        Some(Object::Policy(TrafficPolicy {
            key,
            created: self.metadata.creation_timestamp.as_deref().unwrap_or_default().into(),
            generation: self.metadata.generation.unwrap_or_default(),
            target: name.map(Into::into),
            section: target.section_name.as_deref().map(Into::into),
            policy: policy.into(),
            version: self.metadata.resource_version.as_deref().unwrap_or_default().into(),
            told: self.status.conditions.iter().find_map(Condition::read),
        }))
    }
}

impl Condition {
    fn read(&self) -> Option<Told> {
        (self.condition_type.as_deref()? == "Accepted").then(|| Told {
            accepted: self.status.as_deref() == Some("True"),
            reason: self.reason.as_deref().unwrap_or_default().into(),
            message: self.message.as_deref().unwrap_or_default().into(),
            generation: self.observed_generation.unwrap_or_default(),
        })
    }
}
