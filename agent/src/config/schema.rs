//! The rules of a service as a structural schema of Kubernetes, from the enums and ranges that also read the file. What a
//! schema cannot say, rules in CEL do, as far as they can; the rest is found by who reads the policy.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use agent_ebpf::abi::Algorithm;
use agent_ebpf::abi::limits::MAX_SUBSETS;
use serde_json::{Map, Value, json};

use super::breaker;
use super::canary;
use super::draining::{DrainingField, RESET_AFTER};
use super::limits::{CONNECTIONS, LimitField, LimitsField, RATE};
use super::reader::Fields;
use super::service::{AffinityField, PolicyField};
use super::value::{
    AFFINITY_TIMEOUT, CONNECT_TIMEOUT, MAX_LABEL, RefuseWith, SHARES, SLOW_START, show_duration,
};
use crate::desired::Departure;

/// The longest text that is a number with a unit.
const MAX_QUANTITY: usize = 16;
/// A name as Services have it.
const NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The schema of the rules of a service.
pub fn policy() -> Value {
    let version = |text: &str| described(text, label());
    let fields = |field: PolicyField| match field {
        PolicyField::Algorithm => one_of(Algorithm::ALL.iter().map(|it| it.name())),
        PolicyField::Affinity => object(
            |field: AffinityField| match field {
                AffinityField::Timeout => duration(&AFFINITY_TIMEOUT),
            },
            &["timeout"],
            &[],
        ),
        PolicyField::Split => json!({
            "type": "object",
            "minProperties": 1,
            "maxProperties": MAX_SUBSETS,
            "additionalProperties": integer(&SHARES),
            "x-kubernetes-validations": rules(&[(
                "self.exists(name, self[name] > 0)", "give one version a share, or remove the split",
            )]),
        }),
        PolicyField::Canary => canary::schema(&version),
        PolicyField::RefuseWith => one_of(RefuseWith::ALL.iter().map(|it| it.name())),
        PolicyField::ConnectTimeout => duration(&CONNECT_TIMEOUT),
        PolicyField::Fallback => json!({ "type": "string", "maxLength": MAX_LABEL, "pattern": NAME }),
        PolicyField::Limits => object(|_: LimitsField| limits(), &[], &[]),
        PolicyField::Draining => object(
            |field: DrainingField| match field {
                DrainingField::On => json!({
                    "type": "array", "minItems": 1, "maxItems": Departure::ALL.len(),
                    "x-kubernetes-list-type": "set",
                    "items": one_of(Departure::ALL.iter().map(|it| it.name())),
                }),
                DrainingField::ResetAfter => duration(&RESET_AFTER),
            },
            &["reset_after"],
            &[],
        ),
        PolicyField::Locality => one_of(["any", "prefer_zone"].into_iter()),
        PolicyField::Requests => one_of(["auto", "off"].into_iter()),
        PolicyField::SlowStart => duration(&SLOW_START),
        PolicyField::Breaker => breaker::schema(),
    };
    object(
        fields,
        &[],
        &[
            ("!has(self.canary) || has(self.split)", "canary needs a split between it and its baseline"),
            (
                "!has(self.canary) || !has(self.split) || self.canary.version in self.split",
                "canary.version is no version of the split",
            ),
            (
                "!has(self.canary) || !has(self.split) || !has(self.canary.baseline) || self.canary.baseline in self.split",
                "canary.baseline is no version of the split",
            ),
        ],
    )
}

fn limits() -> Value {
    object(
        |field: LimitField| match field {
            LimitField::Connections | LimitField::Pending => integer(&CONNECTIONS),
            LimitField::Rate => {
                json!({ "type": "string", "maxLength": MAX_QUANTITY, "pattern": "^[1-9][0-9]*/s$" })
            }
            LimitField::Burst => integer(&RATE),
        },
        &[],
        &[
            (
                "has(self.connections) || has(self.pending) || has(self.rate)",
                "limits nothing; write connections, pending or rate",
            ),
            ("!has(self.burst) || has(self.rate)", "burst means something only together with rate"),
        ],
    )
}

/// A mapping with these fields.
pub(super) fn object<F: Fields>(
    schema: impl Fn(F) -> Value,
    required: &[&str],
    validations: &[(&str, &str)],
) -> Value {
    let properties: Map<String, Value> = F::ALL
        .iter()
        .map(|&field| (field.name().to_owned(), described(field.meaning(), schema(field))))
        .collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    if !validations.is_empty() {
        object["x-kubernetes-validations"] = rules(validations);
    }
    object
}

/// Rules in CEL, each with what is said where it does not hold.
pub(super) fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect()
}

fn described(text: &str, mut schema: Value) -> Value {
    schema["description"] = json!(text);
    schema
}

/// A name from a closed list.
pub(super) fn one_of(names: impl Iterator<Item = &'static str>) -> Value {
    json!({ "type": "string", "enum": names.collect::<Vec<_>>() })
}

/// A whole number.
pub(super) fn integer<T: Copy + Display + Into<u64>>(range: &RangeInclusive<T>) -> Value {
    let (from, to): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
    json!({ "type": "integer", "format": "int64", "minimum": from, "maximum": to })
}

/// A part in percent.
pub(super) fn percent() -> Value {
    json!({ "type": "string", "maxLength": MAX_QUANTITY, "pattern": "^(100|[1-9]?[0-9])%$" })
}

/// A multiple.
pub(super) fn factor() -> Value {
    json!({ "type": "string", "maxLength": MAX_QUANTITY, "pattern": r"^[0-9]+(\.[0-9]{1,2})?x$" })
}

/// A zone or a version.
pub(super) fn label() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": MAX_LABEL, "pattern": "^[-A-Za-z0-9_.]+$" })
}

/// A whole number with a unit of time.
pub(super) fn duration(range: &RangeInclusive<Duration>) -> Value {
    let [from, to] = [*range.start(), *range.end()].map(show_duration);
    let rule = match range.start().is_zero() {
        true => format!("duration(self) <= duration('{to}')"),
        false => format!("duration(self) >= duration('{from}') && duration(self) <= duration('{to}')"),
    };
    json!({
        "type": "string", "maxLength": MAX_QUANTITY, "pattern": "^[0-9]+(ms|s|m|h)$",
        "x-kubernetes-validations": [{ "rule": rule, "message": format!("write a duration from {from} to {to}") }],
    })
}
