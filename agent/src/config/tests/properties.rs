//! What holds for every file: no panic, places within the file, and good files become what they say.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{Algorithm, Protocol};
use proptest::prelude::*;

use crate::config::value::RefuseWith;
use crate::config::{ConfigError, Problem, parse};
use crate::desired::{BackendSpec, PolicySpec, ServiceSpec, VersionShare};

use super::{large, parsed};

/// Lines of a file as YAML breaks them, a last empty one left out.
fn lines(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n");
    let body = text.strip_suffix(['\n', '\r']).unwrap_or(&text);
    body.split(['\n', '\r']).map(str::to_owned).collect()
}

fn assert_within(problems: &[Problem], bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = lines(&text);
    for problem in problems {
        let line = problem.line.checked_sub(1).and_then(|line| lines.get(line as usize));
        let line = line.unwrap_or_else(|| panic!("{problem:?} is beyond {} lines", lines.len()));
        let columns = 1..=line.chars().count() + 1;
        assert!(columns.contains(&(problem.column as usize)), "{problem:?} is beyond {columns:?}");
        assert_eq!(problem.to_string().lines().count(), 1, "{problem:?}");
    }
}

fn check(bytes: &[u8]) {
    match parse(bytes, "f".as_ref()) {
        Ok(config) => assert_within(&config.warnings, bytes),
        Err(ConfigError::Invalid(problems)) => {
            assert!(problems.total() > 0);
            assert_within(problems.first(), bytes);
        }
        Err(other) => panic!("nothing was opened: {other}"),
    }
}

fn any_address(ipv6: bool, high: u8) -> impl Strategy<Value = SocketAddr> {
    (any::<u16>(), 1..=u16::MAX).prop_map(move |(low, port)| {
        let [a, b] = low.to_be_bytes();
        let ip = match ipv6 {
            true => IpAddr::from([0xfd00, u16::from(high), 0, 0, 0, 0, 0, low]),
            false => IpAddr::from([10, high, a, b]),
        };
        SocketAddr::new(ip, port)
    })
}

fn any_backend(ipv6: bool) -> impl Strategy<Value = BackendSpec> {
    let label = || proptest::option::of("[a-zA-Z0-9_.-]{1,12}".prop_map(Arc::<str>::from));
    (any_address(ipv6, 1), 1..=1_000_u16, label(), label(), any::<bool>()).prop_map(
        |(address, weight, zone, version, draining)| BackendSpec { address, weight, zone, version, draining },
    )
}

fn any_service() -> impl Strategy<Value = ServiceSpec> {
    let policy = (
        proptest::sample::select(Algorithm::ALL),
        proptest::option::of((1_000..=86_400_000_u64).prop_map(Duration::from_millis)),
        proptest::sample::select(RefuseWith::ALL),
        proptest::option::of(1..=1_000_000_u32),
    );
    any::<bool>().prop_flat_map(move |ipv6| {
        let frontends = proptest::collection::btree_set(any_address(ipv6, 2), 1..4);
        let backends = proptest::collection::vec(any_backend(ipv6), 0..6);
        let protocol = proptest::sample::select(Protocol::ALL);
        ("[a-z0-9]{1,8}(/[a-z0-9]{1,8})?", protocol, frontends, backends, policy.clone()).prop_map(
            |(name, protocol, frontends, mut backends, (algorithm, affinity_timeout, refuse, share))| {
                backends.sort_by_key(|backend| backend.address);
                backends.dedup_by_key(|backend| backend.address);
                let version = backends.iter().find_map(|backend| backend.version.clone());
                let split = version.zip(share).map(|(version, share)| VersionShare { version, share });
                let policy = PolicySpec {
                    algorithm,
                    affinity_timeout,
                    split: split.into_iter().collect(),
                    refuse_errno: refuse.errno(),
                    ..PolicySpec::default()
                };
                let frontends = frontends.into_iter().collect();
                ServiceSpec { name: name.into(), protocol, frontends, backends, policy }
            },
        )
    })
}

/// Services with names and frontends of their own.
fn any_services() -> impl Strategy<Value = Vec<ServiceSpec>> {
    proptest::collection::vec(any_service(), 0..6).prop_map(|services| {
        let mut kept: Vec<ServiceSpec> = Vec::new();
        for service in services {
            let apart = |other: &ServiceSpec| {
                other.name != service.name && other.frontends.iter().all(|f| !service.frontends.contains(f))
            };
            if kept.iter().all(apart) {
                kept.push(service);
            }
        }
        kept
    })
}

/// The services as a file, in the long form where `long`.
fn written(services: &[ServiceSpec], long: bool) -> String {
    let mut yaml = if services.is_empty() { "services: []\n".to_owned() } else { "services:\n".to_owned() };
    for service in services {
        let _ = write!(yaml, "- name: \"{}\"\n  frontends:\n", service.name);
        for frontend in &service.frontends {
            let _ = writeln!(yaml, "  - '{frontend}'");
        }
        let policy = &service.policy;
        if long || service.protocol != Protocol::Tcp {
            let _ = writeln!(yaml, "  protocol: {}", service.protocol.name());
        }
        let refuse =
            RefuseWith::ALL.iter().find(|value| value.errno() == policy.refuse_errno).expect("known");
        let _ = writeln!(yaml, "  policy:\n    refuse_with: {}", refuse.name());
        if long || policy.algorithm != Algorithm::Random {
            let _ = writeln!(yaml, "    algorithm: {}", policy.algorithm.name());
        }
        if let Some(timeout) = policy.affinity_timeout {
            let _ = writeln!(yaml, "    affinity: {{ timeout: {}ms }}", timeout.as_millis());
        }
        for entry in &policy.split {
            let _ = writeln!(yaml, "    split: {{ \"{}\": {} }}", entry.version, entry.share);
        }
        let _ = writeln!(yaml, "  backends:{}", if service.backends.is_empty() { " []" } else { "" });
        for backend in &service.backends {
            let bare = BackendSpec { weight: 1, zone: None, version: None, draining: false, ..*backend };
            if !long && bare == *backend {
                let _ = writeln!(yaml, "  - \"{}\"", backend.address);
                continue;
            }
            let _ = writeln!(yaml, "  - address: \"{}\"\n    weight: {}", backend.address, backend.weight);
            if long || backend.draining {
                let _ = writeln!(yaml, "    draining: {}", backend.draining);
            }
            for (field, label) in [("zone", &backend.zone), ("version", &backend.version)] {
                if let Some(label) = label {
                    let _ = writeln!(yaml, "    {field}: \"{label}\"");
                }
            }
        }
    }
    yaml
}

const EXAMPLE: &str = include_str!("../../../../deploy/examples/segue.yaml");

#[test]
fn the_example_is_a_good_file_without_warnings() {
    let config = parsed(EXAMPLE).expect("a good file");
    assert_eq!((config.services.len() > 1, config.warnings), (true, Vec::new()));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn any_text_of_yaml_characters_is_refused_or_taken_without_a_panic(
        text in "(services:|- |  |name|: |\\[|\\]|\\{|\\}|,|\"|'|\n|\r\n|\r|\t|&a |\\*a|!t |#|\\||>|-|\\?|%|é|v1|80|---|\\.\\.\\.){0,80}",
    ) {
        check(text.as_bytes());
    }

    #[test]
    fn a_mutated_good_file_is_refused_or_taken_without_a_panic(
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<u8>()), 1..6),
    ) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        for (place, kind, byte) in mutations {
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte & 0x7f),
                _ => {
                    bytes.remove(place);
                }
            }
        }
        check(&bytes);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_or_taken_without_a_panic(place in any::<prop::sample::Index>()) {
        let yaml = large(3, 3);
        check(&yaml.as_bytes()[..place.index(yaml.len())]);
    }

    #[test]
    fn good_files_become_the_services_they_describe(services in any_services(), long in any::<bool>()) {
        let yaml = written(&services, long);
        let config = match parsed(&yaml) {
            Ok(config) => config,
            Err(error) => return Err(TestCaseError::fail(format!("{yaml}\n{error}"))),
        };
        let read: Vec<ServiceSpec> = config.services.iter().map(|service| (**service).clone()).collect();
        prop_assert_eq!(read, services, "{}", yaml);
    }
}
