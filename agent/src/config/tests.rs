//! Whole files: what they become, and what is said of those that are wrong.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use agent_ebpf::abi::{Algorithm, Protocol};

use crate::config::check::{BACKENDS as MAX_BACKENDS, FRONTENDS as MAX_FRONTENDS, SERVICES as MAX_SERVICES};
use crate::desired::{BackendSpec, Departure, PolicySpec, VersionShare};

use super::*;

pub(super) fn parsed(yaml: &str) -> Result<Config, ConfigError> {
    parse(yaml.as_bytes(), Path::new("f"))
}

/// The lines of a refusal.
fn refused(yaml: &str) -> String {
    parsed(yaml).expect_err(yaml).to_string()
}

/// The lines of the warnings of a file that is good.
fn warned(yaml: &str) -> String {
    let config = parsed(yaml).unwrap_or_else(|error| panic!("{yaml}\n{error}"));
    config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A file with one service whose fields are `fields`, each on a line of its own from line 2.
fn service(fields: &[&str]) -> String {
    fields.iter().enumerate().fold("services:\n".to_owned(), |mut text, (index, field)| {
        let _ = writeln!(text, "{} {field}", if index == 0 { "-" } else { " " });
        text
    })
}

const NAME: &str = "name: shop/payment";
const FRONTENDS: &str = "frontends: [\"198.18.0.10:80\"]";
const BACKENDS: &str = "backends: [\"127.0.0.1:8081\", \"127.0.0.1:8082\"]";

#[test]
fn a_file_with_everything_becomes_what_it_says() {
    let config = parsed(
        r#"
services:
  - name: shop/payment
    protocol: udp
    frontends: ["198.18.0.10:80", "[fd00:5e::10]:80"]
    policy:
      algorithm: round_robin
      affinity: { timeout: 10m }
      split: { v1: 95, "1.10": 5 }
      refuse_with: ECONNREFUSED
    backends:
      - { address: "127.0.0.1:8081", weight: 3, zone: a, version: v1, draining: true }
      - { address: "127.0.0.1:8082", version: 1.10 }
      - { address: "[::1]:8081", version: v1 }
      - { address: "[::1]:8082", version: 1.10 }
"#,
    )
    .expect("a good file");
    let backend = |address: &str, version: &str| BackendSpec {
        address: address.parse().unwrap(),
        weight: 1,
        zone: None,
        version: Some(version.into()),
        draining: false,
    };
    let share = |version: &str, share| VersionShare { version: version.into(), share };
    let expected = ServiceSpec {
        name: "shop/payment".into(),
        protocol: Protocol::Udp,
        frontends: vec!["198.18.0.10:80".parse().unwrap(), "[fd00:5e::10]:80".parse().unwrap()],
        backends: vec![
            BackendSpec {
                weight: 3,
                zone: Some("a".into()),
                draining: true,
                ..backend("127.0.0.1:8081", "v1")
            },
            backend("127.0.0.1:8082", "1.10"),
            backend("[::1]:8081", "v1"),
            backend("[::1]:8082", "1.10"),
        ],
        policy: PolicySpec {
            algorithm: Algorithm::RoundRobin,
            affinity_timeout: Some(Duration::from_secs(600)),
            split: vec![share("v1", 95), share("1.10", 5)],
            refuse_errno: 111,
            ..PolicySpec::default()
        },
    };
    assert_eq!(*config.services[0], expected);
    assert_eq!((config.services.len(), config.warnings), (1, Vec::new()));
}

#[test]
fn what_is_left_out_has_its_default() {
    for policy in ["", "policy:", "policy: {}", "protocol: ~"] {
        let config =
            parsed(&service(&[NAME, policy, FRONTENDS, "backends: [\"127.0.0.1:8081\"]"])).expect(policy);
        let spec = &config.services[0];
        assert_eq!((spec.protocol, &spec.policy), (Protocol::Tcp, &PolicySpec::default()), "{policy}");
        let backend = &spec.backends[0];
        assert_eq!(
            (backend.weight, &backend.zone, &backend.version, backend.draining),
            (1, &None, &None, false),
            "{policy}"
        );
    }
}

#[test]
fn no_services_is_a_good_file() {
    assert_eq!(parsed("services: []\n").expect("a good file").services, []);
}

#[test]
fn backends_share_the_text_of_zones_and_versions() {
    let backends = "backends: [{address: \"127.0.0.1:1\", version: v1, zone: v1}, {address: \"127.0.0.1:2\", version: v1}]";
    let config = parsed(&service(&[NAME, FRONTENDS, backends])).expect("a good file");
    let backends = &config.services[0].backends;
    let version = |index: usize| backends[index].version.as_ref().expect("a version");
    assert!(Arc::ptr_eq(version(0), version(1)));
    assert!(Arc::ptr_eq(version(0), backends[0].zone.as_ref().expect("a zone")));
}

#[test]
fn a_file_without_services_says_what_to_write() {
    let missing = "f:1:1: services: is missing; write the list of services, or `services: []` for none";
    assert_eq!(refused(""), missing);
    assert_eq!(refused("# nothing yet\n"), missing);
    assert_eq!(refused("services:\n"), missing);
    assert_eq!(refused("{}"), missing);
    assert_eq!(refused("---\n"), "f:1:4: file: is empty; write a mapping with `services`");
    assert_eq!(refused("nothing"), "f:1:1: file: is \"nothing\"; write a mapping with `services`");
    assert_eq!(refused("services: 5"), "f:1:11: services: is \"5\"; write a list of services, or `[]`");
}

#[test]
fn what_is_not_text_is_refused_where_it_begins() {
    let line = "is not text; write YAML in UTF-8, and check that it is the right file";
    let refuse = |bytes: &[u8]| parse(bytes, Path::new("f")).expect_err("not text").to_string();
    assert_eq!(refuse(b"services: []\n# \xff\n"), format!("f:2:3: file: {line}"));
    assert_eq!(refuse(b"\x7fELF\x02\x01\x01\0\0"), format!("f:1:8: file: {line}"));
    assert_eq!(refuse(b"\xff\xfe"), format!("f:1:1: file: {line}"));
}

#[test]
fn malformed_yaml_is_refused_at_its_line() {
    for (yaml, place, wanted) in [
        ("services:\n  - name: a\n   frontends: []\n", "f:3:", "check the indentation"),
        ("services:\n\t- name: a\n", "f:2:2:", "indent with spaces"),
        ("services: [\n", "f:1:", "check the indentation, brackets and quotes"),
        ("services:\n  - name: \"a\n", "f:2:11:", "close the quotes"),
        ("services: []\n---\nservices: []\n", "f:2:1:", "second YAML document"),
        ("%YAML 1.2\n---\nservices: []\n", "f:1:1:", "remove the line that begins with \"%\""),
    ] {
        let line = refused(yaml);
        assert!(line.starts_with(place) && line.contains(wanted), "{yaml}\n{line}");
    }
    let deep = format!("services: {}", "[".repeat(100_000));
    assert!(refused(&deep).contains("nest less deeply"), "{}", refused(&deep));
}

#[test]
fn what_yaml_has_and_a_configuration_does_not_need_is_refused() {
    for (line, wanted) in [
        (
            "policy: *p",
            "f:3:11: services[0].policy: is a YAML alias, which is not supported; write the value out",
        ),
        (
            "policy: { <<: {} }",
            "f:3:13: services[0].policy.<<: merge keys are not supported; write the fields out",
        ),
        (
            "policy: !p { algorithm: random }",
            "f:3:14: services[0].policy: has a YAML tag; remove the word that begins with \"!\"",
        ),
        (
            "policy: { [a]: b }",
            "f:3:13: services[0].policy: has a key that is not text; write a name before the colon",
        ),
    ] {
        assert_eq!(refused(&service(&[NAME, line, FRONTENDS, BACKENDS])), wanted);
    }
}

/// Each line in place of its namesake in a good service, with what is said of it.
const WRONG_FIELDS: &[(&str, &str)] = &[
    ("nmae: a", "f:5:3: services[0].nmae: is not a known field; did you mean `name`?"),
    ("Backend: []", "f:5:3: services[0].Backend: is not a known field; did you mean `backends`?"),
    (
        "healthcheck: 1s",
        "f:5:3: services[0].healthcheck: is not a known field; remove it, known here are name, protocol, \
         frontends, policy, backends",
    ),
    (
        "\"a b\": 1",
        "f:5:3: services[0].\"a b\": is not a known field; remove it, known here are name, protocol, frontends, policy, backends",
    ),
    ("name: b", "f:5:3: services[0].name: is written twice; keep one of the two"),
    ("protocol: sctp", "f:5:13: services[0].protocol: \"sctp\" is not known; write one of tcp, udp"),
    ("protocol: [tcp]", "f:5:13: services[0].protocol: is a list; write tcp or udp"),
    (
        "policy: { algorithm: maglef }",
        "f:5:24: services[0].policy.algorithm: \"maglef\" is not known; write one of random, round_robin, maglev, \
         least_connections, peak_ewma",
    ),
    (
        "policy: { refuse_with: EPIPE }",
        "f:5:26: services[0].policy.refuse_with: \"EPIPE\" is not known; write one of EHOSTUNREACH, \
         ECONNREFUSED, ENETUNREACH, ETIMEDOUT, EPERM, EACCES, EAGAIN",
    ),
    (
        "policy: { affinity: {} }",
        "f:5:23: services[0].policy.affinity.timeout: is missing; write a duration, as in 10m",
    ),
    (
        "policy: { affinity: { timeout: 10 } }",
        "f:5:34: services[0].policy.affinity.timeout: is \"10\", which is not a duration; write a whole number \
         with ms, s, m or h, from 1s to 24h, as in 10m",
    ),
    (
        "policy: { split: {} }",
        "f:5:20: services[0].policy.split: is empty; write shares by version, or remove it",
    ),
    (
        "policy: { split: { v1: -5 } }",
        "f:5:26: services[0].policy.split.v1: is \"-5\"; write a whole number from 0 to 1000000",
    ),
    (
        "policy: { split: { v3: 5 } }",
        "f:5:22: services[0].policy.split.v3: is the version of no backend; correct it, or give it to a backend",
    ),
    (
        "policy: random",
        "f:5:11: services[0].policy: is \"random\"; write a mapping, as in { algorithm: random }",
    ),
];

#[test]
fn each_wrong_field_is_one_line_that_says_where_and_what_to_do() {
    for (line, expected) in WRONG_FIELDS {
        assert_eq!(refused(&service(&[NAME, FRONTENDS, BACKENDS, line])), *expected, "{line}");
    }
}

#[test]
fn each_wrong_backend_is_told_at_its_place() {
    for (backends, expected) in [
        (
            "[{}]",
            "f:4:14: services[0].backends[0].address: is missing; write an address and a port, as in \"10.0.0.1:80\" or \"[fd00::1]:80\" (in quotes)",
        ),
        (
            "[\"10.0.0.1:0\"]",
            "f:4:14: services[0].backends[0]: \"10.0.0.1:0\" has port 0; write a port from 1 to 65535",
        ),
        (
            "[{address: \"payment:80\"}]",
            "f:4:24: services[0].backends[0].address: \"payment:80\" has a host name; write its IP address, names are not looked up",
        ),
        (
            "[{address: \"10.0.0.1:1\", weight: 1001}]",
            "f:4:46: services[0].backends[0].weight: is \"1001\"; write a whole number from 0 to 1000",
        ),
        (
            "[{address: \"10.0.0.1:1\", draining: yes}]",
            "f:4:48: services[0].backends[0].draining: is \"yes\"; write true or false",
        ),
        (
            "[{address: \"10.0.0.1:1\", zone: \"a b\"}]",
            "f:4:44: services[0].backends[0].zone: \"a b\" cannot be used; write 1 to 63 letters, digits, \"-\", \"_\" and \".\"",
        ),
        (
            "[\"10.0.0.1:1\", {address: \"10.0.0.1:1\"}]",
            "f:4:38: services[0].backends[1]: 10.0.0.1:1 is already backends[0] on line 4; remove one of the two, a weight gives a larger share",
        ),
        (
            "[{address: \"10.0.0.1:1\", weight: 0}]",
            "f:4:24: services[0].backends: have weight 0, all of them; give one a weight, or use `draining: true`, or remove them",
        ),
        (
            "[\"198.18.0.10:80\"]",
            "f:4:14: services[0].backends[0]: 198.18.0.10:80 is a frontend of this service; write the address the server listens on",
        ),
        (
            "[\"[fd00::1]:80\"]",
            "f:3:15: services[0].frontends[0]: 198.18.0.10:80 is IPv4 and no backend is; add an IPv4 backend or remove it",
        ),
        (
            "[[fd00::1]]",
            "f:4:14: services[0].backends[0]: is a list; write an address, or a mapping with address, as in { address: \"10.0.0.1:80\" }",
        ),
    ] {
        let line = format!("backends: {backends}");
        assert_eq!(refused(&service(&[NAME, FRONTENDS, &line])), expected, "{line}");
    }
}

#[test]
fn each_wrong_frontend_is_told_at_its_place() {
    for (frontends, expected) in [
        ("[]", "f:3:14: services[0].frontends: is empty; write at least one address"),
        (
            "[\"fd00:5e::10:80\"]",
            "f:3:15: services[0].frontends[0]: \"fd00:5e::10:80\" is an IPv6 address without brackets; write \"[fd00:5e::10]:80\"",
        ),
        (
            "[\"0.0.0.0:80\"]",
            "f:3:15: services[0].frontends[0]: \"0.0.0.0:80\" is the unspecified address; write the address of one host or service",
        ),
        (
            "[\"239.1.1.1:80\"]",
            "f:3:15: services[0].frontends[0]: \"239.1.1.1:80\" is a multicast or broadcast address; write the address of one host or service",
        ),
        (
            "[\"198.18.0.1:80\", \"198.18.0.1:80\"]",
            "f:3:32: services[0].frontends[1]: 198.18.0.1:80 (tcp) is already a frontend of this service on line 3; remove one of the two",
        ),
        (
            "[\"198.18.0.1:80\", \"[fd00::1]:80\"]",
            "f:3:32: services[0].frontends[1]: [fd00::1]:80 is IPv6 and no backend is; add an IPv6 backend or remove it",
        ),
    ] {
        let line = format!("frontends: {frontends}");
        assert_eq!(refused(&service(&[NAME, &line, BACKENDS])), expected, "{line}");
    }
}

#[test]
fn a_split_is_checked_against_the_backends() {
    let versions = "backends: [{address: \"10.0.0.1:1\", version: a}, {address: \"10.0.0.2:1\", version: b}, \
                    {address: \"10.0.0.3:1\", version: c}, {address: \"10.0.0.4:1\", version: d}, \
                    {address: \"10.0.0.5:1\", version: e}, {address: \"[fd00::1]:1\", version: a}]";
    let refuse = |frontends: &str, split: &str| refused(&service(&[NAME, frontends, split, versions]));
    assert_eq!(
        refuse(FRONTENDS, "policy: { split: { a: 1, b: 1, c: 1, d: 1, e: 1 } }"),
        "f:4:46: services[0].policy.split: has more than 4 versions; remove some"
    );
    assert_eq!(
        refuse(FRONTENDS, "policy: { split: { a: 0, b: 0 } }"),
        "f:4:20: services[0].policy.split: gives every version 0; give one a share, or remove the split"
    );
    assert_eq!(
        refuse(FRONTENDS, "policy: { split: { a: 1, a: 2 } }"),
        "f:4:28: services[0].policy.split.a: is written twice; keep one of the two"
    );
    assert_eq!(
        refuse("frontends: [\"198.18.0.1:80\", \"[fd00::9]:80\"]", "policy: { split: { a: 1, b: 1 } }"),
        "f:4:28: services[0].policy.split.b: has no IPv6 backend, but the service has an IPv6 frontend; add one, \
         or remove the IPv6 frontends"
    );
}

#[test]
fn services_may_not_share_a_name_or_a_frontend_of_a_protocol() {
    let of = |name: &str, protocol: &str| {
        format!(
            "- {{ name: {name}, protocol: {protocol},\n    frontends: [\"198.18.0.1:53\"], backends: [\"10.0.0.1:53\"] }}\n"
        )
    };
    let (a_tcp, a_udp, b_tcp, b_udp) = (of("a", "tcp"), of("a", "udp"), of("b", "tcp"), of("b", "udp"));
    assert!(parsed(&format!("services:\n{a_tcp}{b_udp}")).is_ok());
    assert_eq!(
        refused(&format!("services:\n{a_tcp}{a_udp}")),
        "f:4:11: services[1].name: a is already the name of services[0] on line 2; rename one of the two"
    );
    assert_eq!(
        refused(&format!("services:\n{a_tcp}{b_tcp}")),
        "f:5:17: services[1].frontends[0]: 198.18.0.1:53 (tcp) is already a frontend of service a on line 3; \
         remove one of the two"
    );
}

#[test]
fn every_problem_of_a_file_is_reported_in_the_order_of_lines() {
    let yaml = service(&[
        "naem: a",
        "protocol: x",
        "frontends: [\"1.1.1.1:0\", \"a:1\"]",
        "backends: [{weight: x}]",
    ]);
    let refusal = refused(&yaml);
    let lines: Vec<&str> = refusal.lines().map(|line| line.split(" is ").next().unwrap_or(line)).collect();
    assert_eq!(
        lines,
        [
            "f:2:3: services[0].naem:",
            "f:2:3: services[0].name:",
            "f:3:13: services[0].protocol: \"x\"",
            "f:4:15: services[0].frontends[0]: \"1.1.1.1:0\" has port 0; write a port from 1 to 65535",
            "f:4:28: services[0].frontends[1]: \"a:1\" has a host name; write its IP address, names are not looked up",
            "f:5:14: services[0].backends[0].address:",
            "f:5:23: services[0].backends[0].weight:",
        ]
        .map(|line| line.trim_end_matches(" is"))
    );
}

#[test]
fn after_twenty_problems_the_rest_are_counted() {
    let yaml = "services:\n".to_owned() + &"- {}\n".repeat(10);
    let lines = refused(&yaml);
    assert_eq!(lines.lines().count(), 21);
    assert!(lines.ends_with("\nf: and 10 more"), "{lines}");
}

#[test]
fn a_problem_before_a_syntax_error_is_reported_with_it() {
    let lines = refused("services:\n- { name: A }\n- name: b\n  frontends: [\n");
    assert!(lines.contains("f:2:11: services[0].name: \"A\" is not a name"), "{lines}");
    assert!(
        lines.lines().last().is_some_and(|line| line.starts_with("f:4:") && line.contains(": yaml: ")),
        "{lines}"
    );
}

#[test]
fn what_the_author_may_not_have_meant_is_a_warning() {
    for (fields, expected) in [
        (
            [FRONTENDS, "backends: []", ""],
            "f:2:9: services[0].backends: is empty; every connect to this service is refused until there are backends",
        ),
        (
            ["frontends: [\"127.0.0.9:80\"]", BACKENDS, ""],
            "f:3:15: services[0].frontends[0]: 127.0.0.9:80 is a loopback address; programs on this host that use it for something else are sent to the backends too, choose an address nobody has",
        ),
        (
            [FRONTENDS, "backends: [{address: \"10.0.0.1:1\", draining: true}]", ""],
            "f:4:24: services[0].backends: are draining or have weight 0, all of them; every new connect is refused",
        ),
        (
            [
                FRONTENDS,
                "backends: [{address: \"10.0.0.1:1\", version: a}, {address: \"10.0.0.2:1\", version: b}]",
                "policy: { split: { a: 1 } }",
            ],
            "f:5:20: services[0].policy.split: says nothing of version b, whose backends get no connections; add a share, 0 if that is meant",
        ),
        (
            [
                FRONTENDS,
                "backends: [{address: \"10.0.0.1:1\", version: a}, {address: \"10.0.0.2:1\"}]",
                "policy: { split: { a: 1 } }",
            ],
            "f:5:20: services[0].policy.split: gives no connections to backends without a version; give them one of the versions",
        ),
        (
            [
                FRONTENDS,
                "backends: [{address: \"10.0.0.1:1\", version: a}, {address: \"10.0.0.2:1\", version: b, weight: 0}]",
                "policy: { split: { a: 1, b: 1 } }",
            ],
            "f:5:28: services[0].policy.split.b: has a share, but its backends are all draining or have weight 0; lower the share",
        ),
    ] {
        assert_eq!(warned(&service(&[NAME, fields[0], fields[1], fields[2]])), expected);
    }
    let chained = "services:\n- {name: a, frontends: [\"198.18.0.1:80\"], backends: [\"198.18.0.2:80\"]}\n- {name: b, \
                   frontends: [\"198.18.0.2:80\"], backends: [\"10.0.0.1:80\"]}\n";
    assert_eq!(
        warned(chained),
        "f:2:54: services[0].backends[0]: 198.18.0.2:80 is a frontend of services[1]; an address is translated \
         once, so connections go to 198.18.0.2:80 itself"
    );
}

/// A good file of `services` services with `backends` backends each.
pub(super) fn large(services: usize, backends: usize) -> String {
    let mut yaml = "services:\n".to_owned();
    for service in 0..services {
        let (high, low) = (service / 250, service % 250);
        let _ = write!(
            yaml,
            "  - name: ns-{}/service-{service}\n    frontends: [\"198.18.{high}.{low}:80\"]\n    backends:\n",
            service % 100
        );
        for backend in 0..backends {
            let _ = writeln!(
                yaml,
                "      - {{ address: \"10.{backend}.{high}.{low}:8080\", weight: 1, zone: zone-{}, version: v1 }}",
                backend % 3
            );
        }
    }
    yaml
}

#[test]
fn ten_thousand_services_of_ten_backends_are_a_good_file() {
    let config = parsed(&large(10_000, 10)).expect("a good file");
    assert_eq!(config.services.iter().map(|service| service.backends.len()).sum::<usize>(), 100_000);
}

#[test]
fn more_than_fits_is_refused_where_it_begins() {
    let services = MAX_SERVICES as usize + 9;
    assert_eq!(
        refused(&large(services, 1)),
        format!(
            "f:{}:11: services: holds more than {MAX_SERVICES} services, where one with IPv4 and IPv6 frontends counts twice; remove some",
            2 + 4 * MAX_SERVICES
        )
    );
    for (what, place, limit) in [("frontends", 1, MAX_FRONTENDS), ("backends", 2, MAX_BACKENDS)] {
        let count = limit + 9;
        let list: String =
            (0..count).map(|n| format!("  - \"{}:80\"\n", Ipv4Addr::from(0x0a01_0000 + n))).collect();
        let mut fields = [NAME, FRONTENDS, BACKENDS].map(|line| format!("  {line}\n"));
        fields[place] = format!("  {what}:\n{list}");
        let yaml = format!("services:\n-{}", fields.concat().split_off(1));
        let line = yaml.lines().position(|line| line.contains(what)).expect(what) + 2 + limit as usize;
        let message = format!("hold more than {limit} {what}; remove some");
        assert_eq!(refused(&yaml), format!("f:{line}:5: services: {message}"));
    }
}

#[test]
fn what_a_file_may_hold_fits_beside_the_agents_own_service() {
    use agent_ebpf::abi::limits;
    let own = crate::canary::service();
    // Ids of services and backends begin at 1.
    assert_eq!(MAX_SERVICES + 1, limits::MAX_SERVICES - 1);
    assert_eq!(MAX_FRONTENDS as usize + own.frontends.len(), limits::MAX_FRONTENDS as usize);
    assert_eq!(MAX_BACKENDS as usize + own.backends.len(), limits::MAX_BACKENDS as usize - 1);
}

#[test]
fn draining_says_which_backends_and_how_long() {
    let with = |draining: &str| {
        service(&[NAME, &format!("policy: {{ draining: {draining} }}"), FRONTENDS, BACKENDS])
    };
    let read = |draining: &str| {
        let config = parsed(&with(draining)).expect(draining);
        config.services[0].policy.draining.clone().expect(draining)
    };
    let defaults = read("{ reset_after: 30s }");
    assert_eq!(defaults.on, [Departure::Removed, Departure::Draining]);
    assert_eq!(defaults.reset_after, Duration::from_secs(30));
    assert_eq!(
        read("{ reset_after: 0s, on: [ejected, removed] }").on,
        [Departure::Removed, Departure::Ejected]
    );
    for (draining, expected) in [
        ("{ on: [removed] }", "reset_after: is missing"),
        ("{ reset_after: 13h }", "out of range"),
        ("{ reset_after: 1s, on: [] }", "is empty; name one of removed, draining, ejected"),
        ("{ reset_after: 1s, on: [removed, removed] }", "is written twice"),
        ("{ reset_after: 1s, on: [gone] }", "write one of removed, draining, ejected"),
    ] {
        let refusal = refused(&with(draining));
        assert!(refusal.contains(expected), "{draining}: {refusal}");
    }
    let warning = warned(&with("{ reset_after: 1s, on: [ejected] }"));
    assert!(warning.contains("without a breaker"), "{warning}");
}

#[test]
fn the_largest_wrong_files_are_told_in_one_message_of_bounded_length() {
    let repeated = |text: &str| text.repeat((1 << 20) / text.len());
    for yaml in [
        format!("services: {}", repeated("x")),
        format!("services: [{{ name: {} }}]", repeated("/")),
        format!("services: [{{ ? {} : 1 }}]", repeated("x")),
        format!("services: [{{ policy: {{ split: {{ {} }} }} }}]", repeated("? x\n:\n, ")),
        format!("services:\n{}", repeated("- {}\n")),
        format!("services:\n{}", repeated("-\n")),
        format!("services: [{{ frontends: [{}] }}]", repeated("{}, ")),
    ] {
        let refusal = refused(&yaml);
        assert!(refusal.len() < 10_000, "{} bytes", refusal.len());
    }
}

#[test]
fn a_file_is_read_only_where_it_is_a_regular_one_of_bounded_size() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("segue.yaml");
    let line = |wanted: &str| {
        let error = load(&file).expect_err(wanted).to_string();
        assert!(error.starts_with(&format!("{}:", file.display())) && error.contains(wanted), "{error}");
        assert_eq!(error.lines().count(), 1);
    };
    line("cannot be read: No such file");
    std::fs::create_dir(&file).expect("a directory");
    line("is a directory, not a regular file");
    std::fs::remove_dir(&file).expect("removed");
    let socket = std::os::unix::net::UnixListener::bind(&file).expect("a socket");
    line("cannot be read");
    drop(socket);
    std::fs::remove_file(&file).expect("removed");
    let path = std::ffi::CString::new(file.to_str().expect("UTF-8")).expect("no zero byte");
    // SAFETY: the pointer is to a string that ends in a zero byte and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    line("is a named pipe");
    std::fs::remove_file(&file).expect("removed");
    let created = File::create(&file).expect("a file");
    created.set_len(100 << 20).expect("a sparse file");
    line("is larger than 64 MiB");
    created.set_len(0).expect("an empty file");
    line("services: is missing");
    std::fs::write(&file, "services: []").expect("written");
    assert_eq!(load(&file).expect("a good file").services, []);
}

mod breaker;
mod canary;
mod fallback;
mod properties;
