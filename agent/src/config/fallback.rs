//! Whether fallbacks lead somewhere: each to a service that can answer, in a chain that ends and is tried whole.
//! Reads no text.

use std::collections::HashMap;

use agent_ebpf::abi::limits::MAX_FALLBACKS;

use super::check::family;
use super::problem::Findings;
use super::service::Service;

/// Services of a circle that a message names.
const MAX_NAMED: usize = 8;

/// Checks the fallbacks of all services.
pub(super) fn all(findings: &mut Findings, services: &[Service]) {
    if services.iter().all(|service| service.spec.policy.fallback.is_none()) {
        return;
    }
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(services.len());
    for (place, service) in services.iter().enumerate().filter(|(_, service)| !service.spec.name.is_empty()) {
        places.entry(&service.spec.name).or_insert(place);
    }
    // A name that could not be read may be the one that is missing.
    let all_named = services.iter().all(|service| !service.spec.name.is_empty());
    let next: Vec<Option<usize>> = services
        .iter()
        .enumerate()
        .map(|(place, service)| {
            let name = service.spec.policy.fallback.as_ref()?;
            match places.get(name.as_ref()) {
                Some(&to) if to == place => {
                    problem(findings, service, "is this service itself; name another one, or remove it");
                    None
                }
                Some(&to) => {
                    fits(findings, service, &services[to]);
                    Some(to)
                }
                None => {
                    if all_named {
                        let message =
                            format_args!("{name} is no service of this file; correct it, or add the service");
                        problem(findings, service, message);
                    }
                    None
                }
            }
        })
        .collect();
    chains(findings, services, &next);
}

fn problem(findings: &mut Findings, service: &Service, message: impl std::fmt::Display) {
    let field = format_args!("services[{}].policy.fallback", service.index);
    findings.problems.add(service.fallback_at, field, message);
}

/// Whether a fallback can answer for a service: the same protocol, and each family the service is asked in.
fn fits(findings: &mut Findings, service: &Service, fallback: &Service) {
    let (spec, other) = (&service.spec, &fallback.spec);
    let name = &other.name;
    if spec.protocol != other.protocol {
        let (this, that) = (spec.protocol.name(), other.protocol.name());
        let message =
            format_args!("{name} is a {that} service and this one is {this}; name a {this} service");
        return problem(findings, service, message);
    }
    for is_v4 in [true, false] {
        if !spec.frontends.iter().any(|frontend| frontend.is_ipv4() == is_v4) {
            continue;
        }
        // What could not be read is not what is missing.
        let has_frontend = other.frontends.is_empty() || other.frontends.iter().any(|a| a.is_ipv4() == is_v4);
        let has_backend = !fallback.backends_whole
            || other.backends.iter().any(|backend| backend.address.is_ipv4() == is_v4);
        let missing = match (has_frontend, has_backend) {
            (true, true) => continue,
            (false, _) => "frontend",
            (true, false) => "backend",
        };
        let family = family(is_v4);
        problem(
            findings,
            service,
            format_args!(
                "{name} has no {family} {missing}, but this service has an {family} frontend; add one to {name}, \
                 or name another service"
            ),
        );
    }
}

/// Follows every chain once: refuses circles, and chains of which the kernel would not try the end.
fn chains(findings: &mut Findings, services: &[Service], next: &[Option<usize>]) {
    /// What is known of a service's chain.
    #[derive(Clone, Copy, PartialEq)]
    enum Chain {
        Unknown,
        /// On the walk at hand.
        Walked,
        /// It ends after so many services.
        Ends(usize),
        /// It leads into a circle.
        Circle,
    }
    let mut chain = vec![Chain::Unknown; services.len()];
    for start in 0..services.len() {
        let mut walk = Vec::new();
        let mut at = Some(start);
        let mut beyond = Chain::Ends(0);
        while let Some(place) = at {
            match chain[place] {
                Chain::Unknown => {}
                Chain::Walked => {
                    let begin = walk.iter().position(|walked| *walked == place).unwrap_or_default();
                    circle(findings, services, &walk[begin..]);
                    beyond = Chain::Circle;
                    break;
                }
                known => {
                    beyond = known;
                    break;
                }
            }
            chain[place] = Chain::Walked;
            walk.push(place);
            at = next[place];
        }
        for &place in walk.iter().rev() {
            if let Chain::Ends(count) = beyond {
                beyond = Chain::Ends(count + 1);
                if count + 1 > MAX_FALLBACKS as usize {
                    let message = format_args!(
                        "begins a chain of {} services, of which at most {MAX_FALLBACKS} are tried; remove one \
                         of their fallbacks",
                        count + 1
                    );
                    problem(findings, &services[place], message);
                }
            }
            chain[place] = beyond;
        }
    }
}

/// Reports a circle once, at the service of it that comes first in the file.
fn circle(findings: &mut Findings, services: &[Service], circle: &[usize]) {
    let first = circle.iter().enumerate().min_by_key(|(_, place)| **place).map_or(0, |(turn, _)| turn);
    let turned =
        circle[first..].iter().chain(&circle[..first]).map(|&place| services[place].spec.name.as_ref());
    let mut names: Vec<&str> = turned.collect();
    let back = names[0];
    let more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    let more = if more > 0 { format!("{more} more -> ") } else { String::new() };
    let message = format!(
        "goes round in a circle, {} -> {more}{back}; remove one of these fallbacks",
        names.join(" -> ")
    );
    problem(findings, &services[circle[first]], message);
}
