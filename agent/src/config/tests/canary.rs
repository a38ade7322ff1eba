//! The canary of a service.

use std::sync::Arc;
use std::time::Duration;

use crate::desired::{CanarySpec, GuardSpec};

use super::{FRONTENDS, NAME, parsed, refused, service};

const BACKENDS: &str = "backends: [{ address: \"127.0.0.1:8081\", version: v1 }, { address: \"127.0.0.1:8082\", \
                        version: v2 }, { address: \"127.0.0.1:8083\", version: v3 }]";

fn file(policy: &str) -> String {
    service(&[NAME, FRONTENDS, BACKENDS, &format!("policy: {{ {policy} }}")])
}

fn canary(policy: &str) -> Option<Arc<CanarySpec>> {
    let config = parsed(&file(policy)).unwrap_or_else(|error| panic!("{policy}\n{error}"));
    config.services[0].policy.canary.clone()
}

#[test]
fn a_canary_that_says_nothing_more_is_compared_with_the_other_version_by_default() {
    let expected = CanarySpec {
        version: "v2".into(),
        baseline: "v1".into(),
        guard: GuardSpec::default(),
        steps: Vec::new(),
        every: Duration::from_secs(300),
    };
    assert_eq!(canary("split: { v1: 95, v2: 5 }, canary: { version: v2 }").as_deref(), Some(&expected));
    // What stands first in the file does not matter.
    assert_eq!(
        canary("canary: { version: v2, guard: {} }, split: { v1: 95, v2: 5 }").as_deref(),
        Some(&expected)
    );
    assert_eq!(canary("split: { v1: 95, v2: 5 }, canary: ~"), None);
}

#[test]
fn a_canary_with_everything_becomes_what_it_says() {
    let guard = "guard: { connect_failure_ratio: 1%, reset_ratio: 10, request_error_ratio: 3%, connect_p99: 1.5x, minimum_samples: 80, \
                 window: 10s }";
    let policy = format!(
        "split: {{ v1: 9, v2: 0, v3: 1 }}, canary: {{ version: v2, baseline: v3, {guard}, steps: [5%, 25, 100%], \
         every: 1m }}"
    );
    let expected = CanarySpec {
        version: "v2".into(),
        baseline: "v3".into(),
        guard: GuardSpec {
            connect_failure_percent: 1,
            reset_percent: 10,
            request_error_percent: 3,
            connect_p99_percent: Some(150),
            minimum_samples: 80,
            window: Duration::from_secs(10),
        },
        steps: vec![5, 25, 100],
        every: Duration::from_secs(60),
    };
    assert_eq!(canary(&policy).as_deref(), Some(&expected));
}

#[test]
fn each_thing_that_cannot_be_is_a_problem_with_its_place() {
    const SPLIT: &str = "split: { v1: 95, v2: 5 }, canary:";
    let cases = [
        ("canary: { version: v2 }", "canary: needs a `split`"),
        (&*format!("{SPLIT} {{}}"), "canary.version: is missing"),
        (&*format!("{SPLIT} {{ version: v9 }}"), "canary.version: v9 is no version of the split"),
        (
            &*format!("{SPLIT} {{ version: v2, baseline: v3 }}"),
            "canary.baseline: v3 is no version of the split",
        ),
        (&*format!("{SPLIT} {{ version: v2, baseline: v2 }}"), "canary.baseline: is the canary itself"),
        ("split: { v1: 9, v2: 0 }, canary: { version: v2 }", "canary.version: v2 has share 0"),
        ("split: { v1: 0, v2: 9 }, canary: { version: v2 }", "canary.baseline: has share 0"),
        ("split: { v1: 9, v2: 1, v3: 1 }, canary: { version: v2 }", "canary.baseline: is missing"),
        (&*format!("{SPLIT} {{ version: v2, steps: [] }}"), "canary.steps: is empty"),
        (&*format!("{SPLIT} {{ version: v2, steps: [0%, 5%] }}"), "canary.steps[0]: is no beginning"),
        (&*format!("{SPLIT} {{ version: v2, steps: [100%] }}"), "canary.steps[0]: is no beginning"),
        (&*format!("{SPLIT} {{ version: v2, steps: [9%, 9%] }}"), "canary.steps[1]: is not more than"),
        (&*format!("{SPLIT} {{ version: v2, steps: [9%], every: 10s }}"), "canary.every: is 10s, less than"),
        (
            &*format!("{SPLIT} {{ version: v2, guard: {{ connect_p99: 1x }} }}"),
            "write a multiple from 1.1x to 100x",
        ),
        (&*format!("{SPLIT} {{ version: v2, guard: {{ minimum_samples: 9 }} }}"), "from 10 to 100000"),
        (&*format!("{SPLIT} {{ version: v2, guard: {{ window: 1ms }} }}"), "out of range"),
        (&*format!("{SPLIT} {{ version: v2, guard: {{ p99: 2x }} }}"), "guard.p99"),
    ];
    for (policy, expected) in cases {
        let text = refused(&file(policy));
        assert!(text.contains(expected), "{policy}\n{text}");
    }
    let many: Vec<String> = (1..=21).map(|percent| format!("{percent}%")).collect();
    let text = refused(&file(&format!("{SPLIT} {{ version: v2, steps: [{}] }}", many.join(", "))));
    assert!(text.contains("canary.steps[20]: is one step too many; at most 20"), "{text}");
}

#[test]
fn a_canary_of_a_udp_service_is_refused() {
    let policy = "policy: { split: { v1: 1, v2: 1 }, canary: { version: v2 } }";
    let text = refused(&service(&[NAME, "protocol: udp", FRONTENDS, BACKENDS, policy]));
    assert!(text.contains("canary: cannot be judged for udp"), "{text}");
}
