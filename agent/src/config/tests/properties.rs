//! What holds for every file: no panic, places within the file, and good files become what they say.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::breaker::period_ticks;
use agent_ebpf::abi::limits::MAX_FALLBACKS;
use agent_ebpf::abi::{Algorithm, BreakerMode, BreakerPolicy, Limits, Protocol, ServiceLimits};
use agent_ebpf::decide::breaker::SignalSet;
use proptest::prelude::*;

use crate::config::breaker::{duration_of, known_signals, window_of};
use crate::config::value::RefuseWith;
use crate::config::{ConfigError, Problem, parse};
use crate::desired::{BackendSpec, Departure, DrainingSpec, PolicySpec, ServiceSpec, VersionShare};

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

/// Periods a little within their ranges: to the millisecond, ticks read back may be off by one.
fn any_breaker() -> impl Strategy<Value = BreakerPolicy> + Clone {
    let known: Vec<_> = known_signals().collect();
    let most = known.len();
    let percent = || 0..=100_u8;
    let ticks = |from_ms: u64, to_ms: u64| (from_ms..=to_ms).prop_map(period_ticks);
    let rules = (
        proptest::sample::select(BreakerMode::ALL),
        any::<u8>(),
        (percent(), percent(), 1..=100_000_u32),
        // A bucket, of which eight are a window of a second or more.
        (1..=60_000_u32, ticks(126, 359_999)),
        proptest::sample::subsequence(known, 0..=most),
    );
    let times = (ticks(101, 3_599_999), ticks(101, 3_599_999), ticks(101, 3_599_999));
    let returns = (ticks(0, 3_599_999), ticks(0, 86_399_999), percent(), (1..=31_u8, 1..=31_u8));
    (rules, times, returns, percent(), percent(), percent()).prop_map(
        |(rules, times, returns, jitter_percent, ejection_cap_percent, panic_percent)| {
            let (mode, consecutive_failures, (failure_percent, slow_percent, minimum_samples), slow, signals) =
                rules;
            let (slow_start_ticks, decay_ticks, slow_start_min_percent, (one, other)) = returns;
            BreakerPolicy {
                mode: mode as u8,
                consecutive_failures,
                failure_percent,
                slow_percent,
                signals: signals.into_iter().fold(SignalSet::NONE, SignalSet::with).0,
                minimum_samples,
                slow_connect_us: slow.0 * 1_000,
                slow_answer_us: slow.0 * 2_000,
                answer_timeout_us: slow.0 * 1_000 + 10_000,
                bucket_ticks: slow.1,
                open_base_ticks: times.0.min(times.1),
                open_cap_ticks: times.0.max(times.1),
                half_open_ticks: times.2,
                slow_start_ticks,
                decay_ticks,
                jitter_percent,
                probes: one.max(other),
                successes_to_close: one.min(other),
                slow_start_min_percent,
                ejection_cap_percent,
                panic_percent,
                avoidance_ticks: u16::from(panic_percent) * 400,
            }
        },
    )
}

fn any_limits() -> impl Strategy<Value = Limits> + Clone {
    let number = || prop_oneof![Just(0), 1..=1_000_000_u32];
    (number(), number(), number(), number()).prop_map(|(connections, pending, rate, burst)| Limits {
        max_connections: connections,
        max_pending: pending,
        rate_per_second: rate,
        rate_burst: if rate == 0 { 0 } else { burst },
    })
}

fn any_draining() -> impl Strategy<Value = DrainingSpec> + Clone {
    let on = proptest::sample::subsequence(Departure::ALL, 1..=Departure::ALL.len());
    (on, 0..=43_200_000_u64).prop_map(|(on, ms)| DrainingSpec { on, reset_after: Duration::from_millis(ms) })
}

fn any_service() -> impl Strategy<Value = ServiceSpec> {
    let policy = (
        proptest::sample::select(Algorithm::ALL),
        proptest::option::of((1_000..=86_400_000_u64).prop_map(Duration::from_millis)),
        proptest::sample::select(RefuseWith::ALL),
        proptest::option::of(1..=1_000_000_u32),
        proptest::option::of(any_breaker()),
        proptest::option::of((100..=120_000_u64).prop_map(Duration::from_millis)),
        proptest::option::of(any_draining()),
        (any_limits(), any_limits(), any_limits()).prop_map(|(backend, service, client)| ServiceLimits {
            backend,
            service,
            client,
        }),
    );
    any::<bool>().prop_flat_map(move |ipv6| {
        let frontends = proptest::collection::btree_set(any_address(ipv6, 2), 1..4);
        let backends = proptest::collection::vec(any_backend(ipv6), 0..6);
        let protocol = proptest::sample::select(Protocol::ALL);
        ("[a-z0-9]{1,8}(/[a-z0-9]{1,8})?", protocol, frontends, backends, policy.clone()).prop_map(
            |(name, protocol, frontends, mut backends, policy)| {
                let (algorithm, affinity_timeout, refuse, share, breaker, connect_timeout, draining, limits) =
                    policy;
                backends.sort_by_key(|backend| backend.address);
                backends.dedup_by_key(|backend| backend.address);
                let version = backends.iter().find_map(|backend| backend.version.clone());
                let split = version.zip(share).map(|(version, share)| VersionShare { version, share });
                let policy = PolicySpec {
                    algorithm,
                    affinity_timeout,
                    split: split.into_iter().collect(),
                    refuse_errno: refuse.errno(),
                    breaker,
                    prefers_zone: share.is_some_and(|share| share % 2 == 0),
                    slow_start: affinity_timeout
                        .map(|time| Duration::from_millis(u64::from(time.subsec_millis()))),
                    fallback: None,
                    connect_timeout,
                    limits,
                    draining,
                    canary: None,
                };
                let frontends = frontends.into_iter().collect();
                ServiceSpec { name: name.into(), protocol, frontends, backends, policy }
            },
        )
    })
}

/// Whether one service may have the other as its fallback, as far as these two are concerned.
fn may_fall_back(service: &ServiceSpec, other: &ServiceSpec) -> bool {
    let is_v4 = |spec: &ServiceSpec| spec.frontends[0].is_ipv4();
    service.protocol == other.protocol && is_v4(service) == is_v4(other) && !other.backends.is_empty()
}

/// Gives services a fallback among those before them, where one fits and the chain is short enough.
fn with_fallbacks(mut services: Vec<ServiceSpec>, wanted: &[prop::sample::Index]) -> Vec<ServiceSpec> {
    let mut chain = vec![1; services.len()];
    for (place, wanted) in (1..services.len()).zip(wanted) {
        let to = wanted.index(place);
        if chain[to] < MAX_FALLBACKS && may_fall_back(&services[place], &services[to]) {
            services[place].policy.fallback = Some(Arc::clone(&services[to].name));
            chain[place] = chain[to] + 1;
        }
    }
    services
}

/// Services with names and frontends of their own, in either order with regard to their fallbacks.
fn any_services() -> impl Strategy<Value = Vec<ServiceSpec>> {
    let wanted = proptest::collection::vec(any::<prop::sample::Index>(), 6);
    (distinct_services(), wanted, any::<bool>()).prop_map(|(services, wanted, reversed)| {
        let mut services = with_fallbacks(services, &wanted);
        if reversed {
            services.reverse();
        }
        services
    })
}

fn distinct_services() -> impl Strategy<Value = Vec<ServiceSpec>> {
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

/// A breaker as lines of a file; without what is the default where not `long`.
fn written_breaker(policy: &BreakerPolicy, has_fallback: bool, long: bool) -> String {
    let ms = |ticks: u32| format!("{}ms", duration_of(ticks).as_millis());
    let percent = |value: u8| format!("{value}%");
    let signals = known_signals().filter(|signal| SignalSet(policy.signals).contains(*signal));
    let signals = signals.map(|signal| signal.name()).collect::<Vec<_>>().join(", ");
    let default_cap = if has_fallback { 100 } else { BreakerPolicy::DEFAULT.ejection_cap_percent };
    let mut lines = vec![
        ("mode", policy.mode().name().to_owned()),
        ("consecutive_failures", policy.consecutive_failures.to_string()),
        ("failure_ratio", percent(policy.failure_percent)),
        ("minimum_samples", policy.minimum_samples.to_string()),
        ("window", format!("{}ms", window_of(policy.bucket_ticks).as_millis())),
        ("slow_ratio", policy.slow_percent.to_string()),
        ("slow_connect", format!("{}ms", policy.slow_connect_us / 1_000)),
        ("slow_answer", format!("{}ms", policy.slow_answer_us / 1_000)),
        ("answer_timeout", format!("{}ms", policy.answer_timeout_us / 1_000)),
        ("open", ms(policy.open_base_ticks)),
        ("open_max", ms(policy.open_cap_ticks)),
        ("jitter", percent(policy.jitter_percent)),
        ("probes", policy.probes.to_string()),
        ("successes_to_close", policy.successes_to_close.to_string()),
        ("half_open", ms(policy.half_open_ticks)),
        ("slow_start", ms(policy.slow_start_ticks)),
        ("slow_start_minimum", percent(policy.slow_start_min_percent)),
        ("decay", ms(policy.decay_ticks)),
        ("panic", percent(policy.panic_percent)),
        ("negative_affinity", ms(u32::from(policy.avoidance_ticks))),
        ("signals", format!("[{signals}]")),
    ];
    if long || policy.ejection_cap_percent != default_cap {
        lines.push(("max_ejection", percent(policy.ejection_cap_percent)));
    }
    lines
        .iter()
        .fold("    breaker:\n".to_owned(), |text, (name, value)| text + &format!("      {name}: {value}\n"))
}

/// The limits as lines of a file; what is not limited is not written.
fn written_limits(limits: &ServiceLimits) -> String {
    let scopes = [("backend", limits.backend), ("service", limits.service), ("client", limits.client)];
    let scopes = scopes.iter().filter(|(_, limits)| *limits != Limits::default());
    let lines: String = scopes
        .map(|(scope, limits)| {
            let fields = [
                ("connections", limits.max_connections, ""),
                ("pending", limits.max_pending, ""),
                ("rate", limits.rate_per_second, "/s"),
                ("burst", limits.rate_burst, ""),
            ];
            let fields = fields.iter().filter(|(_, number, _)| *number != 0);
            let fields: Vec<String> =
                fields.map(|(name, number, unit)| format!("{name}: {number}{unit}")).collect();
            format!("      {scope}: {{ {} }}\n", fields.join(", "))
        })
        .collect();
    if lines.is_empty() { lines } else { format!("    limits:\n{lines}") }
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
        if let Some(timeout) = policy.connect_timeout {
            let _ = writeln!(yaml, "    connect_timeout: {}ms", timeout.as_millis());
        }
        yaml += &written_limits(&policy.limits);
        if let Some(draining) = &policy.draining {
            let on: Vec<&str> = draining.on.iter().map(|departure| departure.name()).collect();
            let after_ms = draining.reset_after.as_millis();
            let _ = writeln!(yaml, "    draining: {{ on: [{}], reset_after: {after_ms}ms }}", on.join(", "));
        }
        if long || policy.prefers_zone {
            let locality = if policy.prefers_zone { "prefer_zone" } else { "any" };
            let _ = writeln!(yaml, "    locality: {locality}");
        }
        if let Some(time) = policy.slow_start {
            let _ = writeln!(yaml, "    slow_start: {}ms", time.as_millis());
        }
        if let Some(breaker) = &policy.breaker {
            yaml += &written_breaker(breaker, policy.fallback.is_some(), long);
        }
        if let Some(fallback) = &policy.fallback {
            let _ = writeln!(yaml, "    fallback: \"{fallback}\"");
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
