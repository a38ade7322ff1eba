//! The definition of TrafficPolicy for a cluster, from the same enums and ranges that read a policy. Knows no file.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::wire::{TrafficPolicyWire, Wire as _};
use crate::config;

/// Characters of a line of a description.
const WIDTH: usize = 110;

/// `deploy/kubernetes/crd.yaml`.
pub fn yaml() -> String {
    let mut text = String::from("# Generated from agent/src/config: `cargo xtask reference` rewrites it.\n");
    write_value(&mut text, &definition(), 0);
    text
}

/// The CustomResourceDefinition.
pub fn definition() -> Value {
    let group = <TrafficPolicyWire as super::wire::Wire>::GROUP;
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{group}", TrafficPolicyWire::KIND.name()) },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": TrafficPolicyWire::NAME, "listKind": format!("{}List", TrafficPolicyWire::NAME),
                "plural": TrafficPolicyWire::KIND.name(), "singular": "trafficpolicy",
                "shortNames": ["tp"], "categories": ["segue"],
            },
            "versions": [{
                "name": TrafficPolicyWire::VERSION, "served": true, "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Service", "type": "string", "jsonPath": ".spec.targetRef.name" },
                    {
                        "name": "Accepted", "type": "string",
                        "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status",
                    },
                    {
                        "name": "Reason", "type": "string",
                        "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason",
                    },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": schema() },
            }],
        },
    })
}

fn schema() -> Value {
    json!({
        "type": "object",
        "description": "How connections to a Service of the same namespace are balanced, broken and limited.",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": {
                "type": "object",
                "required": ["targetRef"],
                "properties": { "targetRef": target(), "policy": policy() },
            },
            "status": status(),
        },
    })
}

fn policy() -> Value {
    let mut policy = config::policy_schema();
    policy["description"] = json!(
        "The rules, as under `policy` in a configuration file. Versions of a `split` are names of Services beside the \
         one this is for."
    );
    policy
}

fn target() -> Value {
    let name = |pattern: &str, text: &str| json!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": pattern, "description": text });
    json!({
        "type": "object",
        "description": "The Service this is for, in the same namespace.",
        "required": ["name"],
        "properties": {
            "group": { "type": "string", "enum": [""], "default": "" },
            "kind": { "type": "string", "enum": ["Service"], "default": "Service" },
            "name": name("^[a-z]([-a-z0-9]*[a-z0-9])?$", "Its name."),
            "sectionName": name("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "The name of one of its ports; without it, all."),
        },
    })
}

fn status() -> Value {
    json!({
        "type": "object",
        "description": "What became of it. Written by one of the agents.",
        "properties": { "conditions": {
            "type": "array",
            "maxItems": 8,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                "properties": {
                    "type": { "type": "string", "maxLength": 316 },
                    "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                    "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                    "lastTransitionTime": { "type": "string", "format": "date-time" },
                    "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                    "message": { "type": "string", "maxLength": 32768 },
                },
            },
        } },
    })
}

/// Writes a value as YAML in blocks, `depth` levels deep.
fn write_value(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    // Writing to a string does not fail.
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let _ = write!(text, "{indent}{}:", scalar(&json!(key)));
                write_nested(text, value, depth);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for element in elements {
                let mut nested = String::new();
                write_value(&mut nested, element, depth + 1);
                let _ = write!(text, "{indent}- {}", nested.trim_start());
            }
        }
        other => {
            let _ = writeln!(text, "{indent}{}", scalar(other));
        }
    }
}

/// Writes what comes after a key and its colon.
fn write_nested(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write_value(text, value, depth + 1);
        }
        Value::Array(elements) if !elements.is_empty() => {
            text.push('\n');
            write_value(text, value, depth + 1);
        }
        Value::String(long) if long.len() > WIDTH && !long.contains('\n') => {
            text.push_str(" >-\n");
            let indent = "  ".repeat(depth + 1);
            let mut line = String::new();
            for word in long.split(' ') {
                if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > WIDTH {
                    let _ = writeln!(text, "{indent}{line}");
                    line.clear();
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            let _ = writeln!(text, "{indent}{line}");
        }
        other => {
            let _ = writeln!(text, " {}", scalar(other));
        }
    }
}

/// A value on one line: plain where that means the same, else as in JSON.
fn scalar(value: &Value) -> String {
    let Value::String(plain) = value else { return value.to_string() };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'-' | b'_');
    let is_word =
        plain.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic()) && plain.bytes().all(inner);
    let means_else = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    match is_word && !means_else.contains(&plain.to_ascii_lowercase().as_str()) {
        true => plain.clone(),
        false => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::objects::Kind;
    use super::*;

    #[test]
    fn the_committed_definition_is_what_the_code_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/crd.yaml");
        if std::env::var_os("SEGUE_UPDATE_REFERENCE").is_some_and(|value| value == "1") {
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("deploy is writable");
            std::fs::write(&path, yaml()).expect("deploy is writable");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == yaml(), "deploy/kubernetes/crd.yaml is out of date; run `cargo xtask reference`");
    }

    #[test]
    fn the_committed_role_lets_an_agent_read_every_kind() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/rbac.yaml");
        let role = std::fs::read_to_string(path).expect("the committed role");
        let readable: Vec<&str> = role
            .split("- apiGroups:")
            .filter(|rule| rule.contains("verbs: [get, list, watch]"))
            .filter_map(|rule| rule.split_once("resources: [")?.1.split(']').next())
            .flat_map(|resources| resources.split(", "))
            .collect();
        for kind in Kind::ALL {
            assert!(readable.contains(&kind.name()), "{} is not among {readable:?}", kind.name());
        }
    }
}
