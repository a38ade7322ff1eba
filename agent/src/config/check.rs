//! What fields mean together: within one service, and over all services of a file. Reads no text.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use agent_ebpf::abi::Protocol;
use agent_ebpf::abi::limits::{MAX_BACKENDS, MAX_FRONTENDS, MAX_SERVICES, MAX_SUBSETS};
use agent_ebpf::decide::breaker::answer;

use super::problem::{Findings, Position};
use super::service::{Mark, Service};
use super::{canary, fallback};

/// Services a file may hold: id 0 is none, and one id is the test connection's. A service with frontends of both address
/// families takes two.
pub(super) const SERVICES: u32 = MAX_SERVICES - 2;
/// Frontends a file may hold: one is the test connection's.
pub(super) const FRONTENDS: u32 = MAX_FRONTENDS - 1;
/// Backends a file may hold: id 0 is none, and one is the test connection's.
pub(super) const BACKENDS: u32 = MAX_BACKENDS - 2;

/// Checks one service by itself.
pub(super) fn service(findings: &mut Findings, service: &Service) {
    repeated_backends(findings, service);
    split_shape(findings, service);
    without_effect(findings, service);
    canary::check(findings, service);
    if service.backends_whole {
        usable_backends(findings, service);
        families(findings, service);
        split_versions(findings, service);
    }
    for (frontend, mark) in service.spec.frontends.iter().zip(&service.frontends) {
        if frontend.ip().is_loopback() {
            findings.warnings.add(
                mark.at,
                format_args!("services[{}].frontends[{}]", service.index, mark.index),
                format_args!(
                    "{frontend} is a loopback address; programs on this host that use it for something else \
                     are sent to the backends too, choose an address nobody has"
                ),
            );
        }
    }
}

/// Checks rules without the service they are for.
pub(super) fn policy(findings: &mut Findings, service: &Service) {
    split_shape(findings, service);
    without_effect(findings, service);
    canary::check(findings, service);
}

fn repeated_backends(findings: &mut Findings, service: &Service) {
    let mut first: HashMap<SocketAddr, usize> = HashMap::with_capacity(service.spec.backends.len());
    for (place, backend) in service.spec.backends.iter().enumerate() {
        let Some(earlier) = first.insert(backend.address, place) else { continue };
        first.insert(backend.address, earlier);
        let (mark, earlier) = (service.backends[place], service.backends[earlier]);
        findings.problems.add(
            mark.at,
            format_args!("services[{}].backends[{}]", service.index, mark.index),
            format_args!(
                "{} is already backends[{}] on line {}; remove one of the two, a weight gives a larger share",
                backend.address, earlier.index, earlier.at.line
            ),
        );
    }
}

fn usable_backends(findings: &mut Findings, service: &Service) {
    let backends = &service.spec.backends;
    let field = format_args!("services[{}].backends", service.index);
    let Some(first) = service.backends.first() else {
        let message = "is empty; every connect to this service is refused until there are backends";
        return findings.warnings.add(service.at, field, message);
    };
    if backends.iter().all(|backend| backend.weight == 0) {
        let message =
            "have weight 0, all of them; give one a weight, or use `draining: true`, or remove them";
        findings.problems.add(first.at, field, message);
    } else if backends.iter().all(|backend| backend.weight == 0 || backend.draining) {
        let message = "are draining or have weight 0, all of them; every new connect is refused";
        findings.warnings.add(first.at, field, message);
    }
}

fn families(findings: &mut Findings, service: &Service) {
    if service.spec.backends.is_empty() {
        return;
    }
    for is_v4 in [true, false] {
        if service.spec.backends.iter().any(|backend| backend.address.is_ipv4() == is_v4) {
            continue;
        }
        let lonely = service.spec.frontends.iter().zip(&service.frontends);
        for (frontend, mark) in lonely.filter(|(frontend, _)| frontend.is_ipv4() == is_v4) {
            let family = family(is_v4);
            findings.problems.add(
                mark.at,
                format_args!("services[{}].frontends[{}]", service.index, mark.index),
                format_args!(
                    "{frontend} is {family} and no backend is; add an {family} backend or remove it"
                ),
            );
        }
    }
}

/// What is written and does nothing here.
fn without_effect(findings: &mut Findings, service: &Service) {
    let policy = &service.spec.policy;
    let is_udp = service.spec.protocol == Protocol::Udp;
    let mut warn = |at: Position, field: &str, message: &str| {
        findings.warnings.add(at, format_args!("services[{}].policy.{field}", service.index), message);
    };
    if is_udp && policy.connect_timeout.is_some() {
        let message = "does nothing for udp, which has no handshake; remove it";
        warn(service.connect_timeout_at, "connect_timeout", message);
    }
    let scopes = [policy.limits.backend, policy.limits.service, policy.limits.client];
    if is_udp && scopes.iter().any(|limits| limits.max_pending != 0) {
        let message = "has `pending`, which does nothing for udp, which has no handshake; remove it";
        warn(service.limits_at, "limits", message);
    }
    if let Some(at) = service.ejected_at.filter(|_| service.breaker.is_none()) {
        let message = "names ejected, and without a breaker only an operator's order ejects; add a `breaker`, or \
                       remove it";
        warn(at, "draining.on", message);
    }
    let judges = policy.breaker.is_some_and(|breaker| answer::is_judged(&breaker));
    if judges && !policy.reads_requests {
        let message = "keeps the breaker from seeing the answers it is to judge; it looks at connections only: remove it, \
                       or the signals and times of answers";
        warn(service.requests_at, "requests", message);
    }
    let Some((breaker, at)) = &service.breaker else { return };
    if is_udp && breaker.decides() {
        let message = "does nothing for udp by itself, what becomes of datagrams is not seen; remove it";
        warn(*at, "breaker", message);
    } else if breaker.is_idle() {
        let message = "never takes a backend out: what would is switched off; give `consecutive_failures`, \
                       `failure_ratio` or `slow_ratio` a value and name `signals`, or remove it";
        warn(*at, "breaker", message);
    }
    if let Some(at) = breaker.keeps_the_last().filter(|_| policy.fallback.is_some()) {
        let message = "keeps the last backend in however it does, so that the breaker never sends a connection to \
                       the fallback; remove it, or write 100%";
        warn(at, "breaker.max_ejection", message);
    }
}

pub(super) fn family(is_v4: bool) -> &'static str {
    match is_v4 {
        true => "IPv4",
        false => "IPv6",
    }
}

fn split_shape(findings: &mut Findings, service: &Service) {
    let split = &service.spec.policy.split;
    let field = format_args!("services[{}].policy.split", service.index);
    if let Some(beyond) = service.shares.get(MAX_SUBSETS) {
        let message = format_args!("has more than {MAX_SUBSETS} versions; remove some");
        findings.problems.add(*beyond, field, message);
    }
    if !split.is_empty() && split.iter().all(|entry| entry.share == 0) {
        let message = "gives every version 0; give one a share, or remove the split";
        findings.problems.add(service.split_at, field, message);
    }
}

fn split_versions(findings: &mut Findings, service: &Service) {
    let (policy, backends) = (&service.spec.policy, &service.spec.backends);
    let field = |name: &str| format!("services[{}].policy.split{name}", service.index);
    for (entry, at) in policy.split.iter().zip(&service.shares).take(MAX_SUBSETS) {
        let version = &entry.version;
        let mut of_version = backends.iter().filter(|backend| backend.version.as_ref() == Some(version));
        if of_version.clone().next().is_none() {
            let message = "is the version of no backend; correct it, or give it to a backend";
            findings.problems.add(*at, field(&format!(".{version}")), message);
        } else if let Some(is_v4) = [true, false].into_iter().find(|is_v4| {
            service.spec.frontends.iter().any(|frontend| frontend.is_ipv4() == *is_v4)
                && backends.iter().any(|backend| backend.address.is_ipv4() == *is_v4)
                && !of_version.clone().any(|backend| backend.address.is_ipv4() == *is_v4)
        }) {
            let family = family(is_v4);
            findings.problems.add(
                *at,
                field(&format!(".{version}")),
                format_args!(
                    "has no {family} backend, but the service has an {family} frontend; \
                     add one, or remove the {family} frontends"
                ),
            );
        } else if entry.share > 0 && of_version.all(|backend| backend.weight == 0 || backend.draining) {
            let message = "has a share, but its backends are all draining or have weight 0; lower the share";
            findings.warnings.add(*at, field(&format!(".{version}")), message);
        }
    }
    if policy.split.is_empty() {
        return;
    }
    let named: BTreeSet<_> = policy.split.iter().map(|entry| &entry.version).collect();
    let idle: BTreeSet<_> = backends
        .iter()
        .map(|backend| &backend.version)
        .filter(|v| !v.as_ref().is_some_and(|v| named.contains(v)))
        .collect();
    for version in idle {
        let message = match version {
            Some(version) => format!(
                "says nothing of version {version}, whose backends get no connections; add a share, 0 if that is meant"
            ),
            None => {
                "gives no connections to backends without a version; give them one of the versions".into()
            }
        };
        findings.warnings.add(service.split_at, field(""), message);
    }
}

/// Checks what only all services together show.
pub(super) fn all(findings: &mut Findings, services: &[Service]) {
    repeated_names(findings, services);
    let owners = frontend_owners(findings, services);
    backends_that_are_frontends(findings, services, &owners);
    fallback::all(findings, services);
    limits(findings, services);
}

fn repeated_names(findings: &mut Findings, services: &[Service]) {
    let mut first: HashMap<&str, &Service> = HashMap::with_capacity(services.len());
    for service in services.iter().filter(|service| !service.spec.name.is_empty()) {
        let earlier = *first.entry(&service.spec.name).or_insert(service);
        if !std::ptr::eq(earlier, service) {
            findings.problems.add(
                service.at,
                format_args!("services[{}].name", service.index),
                format_args!(
                    "{} is already the name of services[{}] on line {}; rename one of the two",
                    service.spec.name, earlier.index, earlier.at.line
                ),
            );
        }
    }
}

/// A frontend under a protocol number, and the service (by place) that has it.
type Owners = HashMap<(u8, SocketAddr), usize>;

fn frontend_owners(findings: &mut Findings, services: &[Service]) -> Owners {
    let mut owners: HashMap<(u8, SocketAddr), (usize, Position)> = HashMap::with_capacity(services.len());
    for (place, service) in services.iter().enumerate() {
        for (frontend, mark) in service.spec.frontends.iter().zip(&service.frontends) {
            let key = (service.spec.protocol as u8, *frontend);
            let Some(&(owner, at)) = owners.get(&key) else {
                owners.insert(key, (place, mark.at));
                continue;
            };
            let whose = match (owner == place, services[owner].spec.name.as_ref()) {
                (true, _) => "this service".into(),
                (false, "") => format!("services[{}]", services[owner].index),
                (false, name) => format!("service {name}"),
            };
            findings.problems.add(
                mark.at,
                format_args!("services[{}].frontends[{}]", service.index, mark.index),
                format_args!(
                    "{frontend} ({}) is already a frontend of {whose} on line {}; remove one of the two",
                    service.spec.protocol.name(),
                    at.line
                ),
            );
        }
    }
    owners.into_iter().map(|(key, (place, _))| (key, place)).collect()
}

fn backends_that_are_frontends(findings: &mut Findings, services: &[Service], owners: &Owners) {
    for (place, service) in services.iter().enumerate() {
        for (backend, mark) in service.spec.backends.iter().zip(&service.backends) {
            let address = backend.address;
            let Some(&owner) = owners.get(&(service.spec.protocol as u8, address)) else { continue };
            let field = format_args!("services[{}].backends[{}]", service.index, mark.index);
            if owner == place {
                let message = format_args!(
                    "{address} is a frontend of this service; write the address the server listens on"
                );
                findings.problems.add(mark.at, field, message);
            } else {
                findings.warnings.add(
                    mark.at,
                    field,
                    format_args!(
                        "{address} is a frontend of services[{}]; an address is translated once, so connections \
                         go to {address} itself",
                        services[owner].index
                    ),
                );
            }
        }
    }
}

fn limits(findings: &mut Findings, services: &[Service]) {
    let mut taken = 0;
    let beyond = services.iter().find(|service| {
        let has = |is_v4: bool| service.spec.frontends.iter().any(|frontend| frontend.is_ipv4() == is_v4);
        taken += u32::from(has(true) && has(false)) + 1;
        taken > SERVICES
    });
    if let Some(beyond) = beyond {
        let message = format_args!(
            "holds more than {SERVICES} services, where one with IPv4 and IPv6 frontends counts twice; remove some"
        );
        findings.problems.add(beyond.at, "services", message);
    }
    total(findings, "frontends", FRONTENDS, services.iter().flat_map(|service| &service.frontends));
    total(findings, "backends", BACKENDS, services.iter().flat_map(|service| &service.backends));
}

fn total<'a>(findings: &mut Findings, what: &str, limit: u32, mut marks: impl Iterator<Item = &'a Mark>) {
    let Some(beyond) = marks.nth(limit as usize) else { return };
    findings.problems.add(beyond.at, "services", format_args!("hold more than {limit} {what}; remove some"));
}
