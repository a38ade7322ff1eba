//! Fallbacks: where they may lead, and what they change.

use std::fmt::Write as _;

use super::{parsed, refused, warned};

/// A file of TCP services, each on one line from line 2, with its fallback where that is not empty.
fn chain(services: &[(&str, &str)]) -> String {
    let mut yaml = "services:\n".to_owned();
    for (place, (name, fallback)) in services.iter().enumerate() {
        let policy = if fallback.is_empty() { String::new() } else { format!("fallback: {fallback}") };
        let _ = writeln!(
            yaml,
            "- {{ policy: {{ {policy} }}, name: {name}, frontends: [\"198.18.0.{place}:80\"], backends: [\"10.0.0.{place}:80\"] }}"
        );
    }
    yaml
}

#[test]
fn a_fallback_is_another_service_wherever_it_stands_in_the_file() {
    for (services, from) in [([("a", "b"), ("b", "")], 0), ([("b", ""), ("a", "b")], 1)] {
        let config = parsed(&chain(&services)).expect("a good file");
        assert_eq!(config.services[from].policy.fallback.as_deref(), Some("b"));
        assert_eq!(config.services[1 - from].policy.fallback, None);
    }
}

#[test]
fn a_fallback_that_leads_nowhere_is_refused() {
    for (services, expected) in [
        (
            vec![("a", "a")],
            "f:2:25: services[0].policy.fallback: is this service itself; name another one, or remove it",
        ),
        (
            vec![("a", "b")],
            "f:2:25: services[0].policy.fallback: b is no service of this file; correct it, or add the service",
        ),
        (
            vec![("x", ""), ("b", "c"), ("c", "a"), ("a", "b"), ("into", "a")],
            "f:3:25: services[1].policy.fallback: goes round in a circle, b -> c -> a -> b; remove one of these fallbacks",
        ),
        (
            vec![("into", "c"), ("a", "b"), ("b", "c"), ("c", "a")],
            "f:3:25: services[1].policy.fallback: goes round in a circle, a -> b -> c -> a; remove one of these fallbacks",
        ),
        (
            vec![("e", ""), ("d", "e"), ("c", "d"), ("b", "c"), ("a", "b")],
            "f:6:25: services[4].policy.fallback: begins a chain of 5 services, of which at most 4 are tried; remove \
             one of their fallbacks",
        ),
    ] {
        assert_eq!(refused(&chain(&services)), expected, "{services:?}");
    }
    assert!(parsed(&chain(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "")])).is_ok(), "four are tried");
}

#[test]
fn a_large_circle_is_told_in_a_short_line() {
    let names: Vec<String> = (0..200).map(|place| format!("s{place}")).collect();
    let services: Vec<(&str, &str)> =
        (0..200).map(|place| (names[place].as_str(), names[(place + 1) % 200].as_str())).collect();
    let line = refused(&chain(&services));
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains("circle, s0 -> s1 -> s2 -> s3 -> s4 -> s5 -> s6 -> s7 -> 192 more -> s0;"),
        "{line}"
    );
}

#[test]
fn a_name_that_cannot_be_read_is_not_also_missing_as_a_fallback() {
    let line = refused(&chain(&[("a", "b"), ("B", "")]));
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn a_fallback_answers_in_the_same_protocol_and_in_each_family() {
    let file = |fallback: &str| {
        format!(
            "services:\n- name: a\n  frontends: [\"198.18.0.1:80\", \"[fd00::1]:80\"]\n  \
             backends: [\"10.0.0.1:80\", \"[fd01::1]:80\"]\n  policy: {{ fallback: b }}\n- name: b\n{fallback}"
        )
    };
    let both = "  frontends: [\"198.18.0.2:80\", \"[fd00::2]:80\"]\n";
    assert!(parsed(&file(&format!("{both}  backends: [\"10.0.0.2:80\", \"[fd01::2]:80\"]\n"))).is_ok());
    for (fallback, expected) in [
        (
            format!("{both}  protocol: udp\n  backends: [\"10.0.0.2:80\", \"[fd01::2]:80\"]\n"),
            "b is a udp service and this one is tcp; name a tcp service",
        ),
        (
            "  frontends: [\"198.18.0.2:80\"]\n  backends: [\"10.0.0.2:80\", \"[fd01::2]:80\"]\n".into(),
            "b has no IPv6 frontend, but this service has an IPv6 frontend; add one to b, or name another service",
        ),
        (
            "  frontends: [\"198.18.0.2:80\", \"[fd00::2]:80\"]\n  backends: []\n".into(),
            "b has no IPv4 backend, but this service has an IPv4 frontend; add one to b, or name another service\n\
             f:5:23: services[0].policy.fallback: b has no IPv6 backend, but this service has an IPv6 frontend; add \
             one to b, or name another service",
        ),
    ] {
        assert_eq!(refused(&file(&fallback)), format!("f:5:23: services[0].policy.fallback: {expected}"));
    }
}

#[test]
fn with_a_fallback_the_last_backend_may_be_out_too_unless_the_file_says_otherwise() {
    let file = |policy: &str| chain(&[("a", &format!("b, {policy}")), ("b", "")]);
    let cap = |policy: &str| {
        let config = parsed(&file(policy)).expect(policy);
        config.services[0].policy.breaker.expect("a breaker").ejection_cap_percent
    };
    assert_eq!(cap("breaker: {}"), 100);
    assert_eq!(cap("breaker: { max_ejection: 40% }"), 40);
    assert_eq!(warned(&file("breaker: { max_ejection: 100% }")), "");
    let line = warned(&file("breaker: { max_ejection: 40% }"));
    assert!(line.contains("services[0].policy.breaker.max_ejection: keeps the last backend in"), "{line}");
    // The order of fields changes nothing.
    let before =
        chain(&[("a", ""), ("b", "")]).replacen("policy: {  }", "policy: { breaker: {}, fallback: b }", 1);
    let policy = parsed(&before).expect("a good file").services[0].policy.clone();
    assert_eq!(policy.breaker.expect("a breaker").ejection_cap_percent, 100);
}

#[test]
fn the_namespace_of_segue_is_refused_for_services_and_fallbacks() {
    for (services, field) in
        [([("segue/a", ""), ("b", "")], "name"), ([("a", "segue/canary"), ("b", "")], "policy.fallback")]
    {
        let line = refused(&chain(&services));
        let wanted = format!("services[0].{field}: ");
        assert!(line.contains(&wanted), "{line}");
        assert!(line.contains("is in the namespace \"segue\", which is kept for Segue's own services; choose another namespace"), "{line}");
    }
}
