//! What the next connections would do and why: asks `decide` what the kernel's programs ask it, with the same
//! words, and changes nothing. Knows the kernel only through [`Readings`].

use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::breaker::{TICK_SHIFT, remaining_ticks, ticks};
use agent_ebpf::abi::limits::MAX_FALLBACKS;
use agent_ebpf::abi::{BackendStatus, BreakerMode, BreakerState, Limit, Policy};
use agent_ebpf::decide::breaker::cell::{self, Decision};
use agent_ebpf::decide::breaker::{ejection, slow_start};
use agent_ebpf::decide::limits::{take, take_token};

use super::limits::{self, Busiest};
use super::services::Readings;
use crate::admin::view::{Candidate, Chain, Explanation, LimitView, Step};
use crate::compile::Family;
use crate::desired::ServiceSpec;
use crate::reconcile::ServiceEntry;

/// Explains a service by its name, or the service behind an address and port.
pub(super) fn explain(
    target: &str,
    entries: &[ServiceEntry],
    readings: &impl Readings,
    now_ns: u64,
) -> Explanation {
    let address: Option<SocketAddr> = target.parse().ok();
    let is_meant = |entry: &&ServiceEntry| match address {
        Some(address) => entry.family == family_of(address) && entry.spec.frontends.contains(&address),
        None => *entry.spec.name == *target,
    };
    let clients = limits::clients(entries, readings);
    let chains = entries.iter().filter(is_meant);
    let chains = chains.map(|entry| chain(entry, entries, readings, &clients, now_ns)).collect();
    Explanation { target: target.to_owned(), chains }
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Follows a connection from the service it asks for through the fallbacks, as `select` does in the kernel.
fn chain(
    asked: &ServiceEntry,
    entries: &[ServiceEntry],
    readings: &impl Readings,
    clients: &Busiest,
    now_ns: u64,
) -> Chain {
    let ip = if asked.family == Family::V4 { "ipv4" } else { "ipv6" };
    let family = format!("{} {ip}", asked.spec.protocol.name());
    let mut chain = Chain { family, services: Vec::new(), errno: None };
    let mut next = Some(asked);
    let mut errno = asked.spec.policy.refuse_errno;
    for hop in 0..MAX_FALLBACKS {
        let Some(entry) = next else { break };
        // The tables change this moment; the programs let such a connection through.
        let Some(policy) = readings.policy(entry.id) else { return chain };
        if hop == 0 {
            errno = policy.refuse_errno;
        }
        let mut step = step(entry, &policy, readings, clients, now_ns);
        if let Some(result) = usable(&step, &policy) {
            step.result = result;
            chain.services.push(step);
            return chain;
        }
        let fallback = (policy.fallback != 0 && hop + 1 < MAX_FALLBACKS)
            .then(|| entries.iter().find(|other| other.id == policy.fallback))
            .flatten();
        let why = reached(&step).or_else(|| full(&step)).map_or_else(
            || "nothing is usable".to_owned(),
            |limit| format!("a limit is reached, {}", limit.sentence()),
        );
        step.result = match fallback {
            Some(fallback) => format!("{why}: the connection goes to {}", fallback.spec.name),
            None => format!("{why} and there is no further fallback: the connection is refused"),
        };
        chain.services.push(step);
        next = fallback;
    }
    chain.errno = Some(errno);
    chain
}

/// The limit of the service itself that is used up. A client's may be used up for one and not for another.
fn reached(step: &Step) -> Option<&LimitView> {
    let of_service = |limit: &&LimitView| {
        matches!(limit.limit, Limit::ServiceConnections | Limit::ServicePending) && limit.is_used_up()
    };
    step.limits.iter().find(of_service)
}

/// A limit of backends that one of them has used up.
fn full(step: &Step) -> Option<&LimitView> {
    let of_backend = |limit: &&LimitView| {
        matches!(limit.limit, Limit::BackendConnections | Limit::BackendPending) && limit.is_used_up()
    };
    step.limits.iter().find(of_backend)
}

/// What happens where a service has something usable.
fn usable(step: &Step, policy: &Policy) -> Option<String> {
    if reached(step).is_some() {
        return None;
    }
    let takers = step.candidates.iter().filter(|candidate| candidate.takes).count();
    if takers > 0 {
        return Some(format!("the connection goes to one of {takers}, by {}", step.algorithm.name()));
    }
    let breaker = &policy.breaker;
    let panics = policy.fallback == 0
        && full(step).is_none()
        && breaker.binds()
        && breaker.mode() != BreakerMode::ForcedOpen
        && ejection::panic(policy.ready_backends, 0, breaker.panic_percent);
    panics.then(|| {
        "panic: too few are healthy to believe their breakers, the connection goes to the algorithm's choice"
            .to_owned()
    })
}

fn step(
    entry: &ServiceEntry,
    policy: &Policy,
    readings: &impl Readings,
    clients: &Busiest,
    now_ns: u64,
) -> Step {
    let spec = &entry.spec;
    let candidates = entry.backends.iter().filter_map(|backend| {
        let (id, address) = (backend.id, backend.address());
        let asked_for = spec.backends.iter().find(|backend| backend.address == address)?;
        let (takes, why) = judge(id, policy, readings, now_ns);
        let version = asked_for.version.clone();
        let why = without_share(spec, version.as_ref()).filter(|_| takes).unwrap_or(why);
        Some(Candidate { address, version, weight: asked_for.weight, takes, why })
    });
    Step {
        service: Arc::clone(&spec.name),
        algorithm: spec.policy.algorithm,
        breaker_mode: policy.breaker.mode(),
        limits: limits::views(std::slice::from_ref(entry), &policy.limits, readings, clients),
        candidates: candidates.collect(),
        result: String::new(),
    }
}

/// A version outside the split gets only what the others refuse.
fn without_share(spec: &ServiceSpec, version: Option<&Arc<str>>) -> Option<String> {
    let split = &spec.policy.split;
    let has_share = split.iter().any(|share| Some(&share.version) == version && share.share > 0);
    (!split.is_empty() && !has_share)
        .then(|| "only where all others refuse: its version has no share of the split".to_owned())
}

/// Whether a backend takes the next connection, and by which rule. The rules stand in the order in which the
/// kernel's programs ask them.
fn judge(id: u32, policy: &Policy, readings: &impl Readings, now_ns: u64) -> (bool, String) {
    let backend = readings.backend(id);
    if backend.status != BackendStatus::Ready as u32 {
        return (false, "takes no new connections: it is draining, or its weight is 0".to_owned());
    }
    let (limits, state) = (&policy.limits.backend, readings.backend_state(id));
    for (what, count, most) in [
        ("connections", state.active, limits.max_connections),
        ("connections in their handshake", state.pending, limits.max_pending),
    ] {
        if take(count, most).is_none() {
            return (false, format!("it is full: {count} {what}, the limit is {most}"));
        }
    }
    if take_token(state.rate, limits, now_ns).is_none() {
        let per_second = limits.rate_per_second;
        return (false, format!("it took its {per_second} new connections per second"));
    }
    let left_s = backend.verdict.until_ns().saturating_sub(now_ns).div_ceil(1_000_000_000);
    match backend.verdict.mode(now_ns) {
        Some(BreakerMode::ForcedOpen) => {
            return (false, format!("an operator's order keeps it out for another {left_s} s"));
        }
        Some(BreakerMode::ForcedClosed) => {
            return (true, format!("an operator's order keeps it in for another {left_s} s"));
        }
        _ => {}
    }
    let breaker = &policy.breaker;
    if breaker.mode() == BreakerMode::Off {
        return (true, "ready".to_owned());
    }
    let now_ticks = ticks(now_ns);
    let word = readings.backend_state(id).cell;
    let (next, admission, _) = cell::admit(word, breaker, now_ticks);
    match admission.decision {
        Decision::Admit => {
            let permille = slow_start::weight_permille(next, breaker, now_ticks);
            let slow = permille < 1_000;
            (
                true,
                if slow { format!("closed, in slow start at {} %", permille / 10) } else { "closed".into() },
            )
        }
        Decision::AdmitProbe => (true, "it takes the next connection as a probe".to_owned()),
        Decision::RefuseForced => (false, "the policy's breaker mode is forced_open".to_owned()),
        Decision::Refuse => {
            let why = if next.state() == BreakerState::Open {
                let wait = remaining_ticks(admission.deadline_ticks, now_ticks, u32::MAX >> 1);
                let wait_s = (u64::from(wait) << TICK_SHIFT).div_ceil(1_000_000_000);
                format!("its breaker is open, next probe in {wait_s} s")
            } else {
                "its breaker is half-open and all probes are on their way".to_owned()
            };
            let observes = !breaker.binds();
            (observes, if observes { format!("{why}; the breaker only observes") } else { why })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agent_ebpf::abi::breaker::period_ticks;
    use agent_ebpf::abi::{
        Backend, BackendState, BreakerPolicy, CellWord, ClientKey, Protocol, ServiceState, Usage, Verdict,
    };

    use super::*;
    use crate::admin::view::Order;
    use crate::compile::CompiledBackend;
    use crate::desired::{BackendSpec, PolicySpec};

    const NOW_NS: u64 = 1 << 40;

    /// Service 1 has backends 11 and 12 and falls back to service 2 with backend 21.
    struct Kernel {
        policies: BTreeMap<u32, Policy>,
        cells: BTreeMap<u32, CellWord>,
        orders: BTreeMap<u32, Verdict>,
    }

    impl Kernel {
        fn new(mode: BreakerMode, fallback: u32, panic_percent: u8) -> Self {
            let breaker = BreakerPolicy { mode: mode as u8, panic_percent, ..BreakerPolicy::default() };
            let policy = Policy { ready_backends: 2, refuse_errno: 111, breaker, ..Policy::default() };
            let policies = [(1, Policy { fallback, ..policy }), (2, Policy { refuse_errno: 99, ..policy })];
            Self { policies: policies.into(), cells: BTreeMap::new(), orders: BTreeMap::new() }
        }

        fn open(mut self, backends: &[u32]) -> Self {
            let word = CellWord::open(1, ticks(NOW_NS) + period_ticks(7_000));
            self.cells.extend(backends.iter().map(|&id| (id, word)));
            self
        }
    }

    impl Readings for Kernel {
        fn policy(&self, service: u32) -> Option<Policy> {
            self.policies.get(&service).copied()
        }

        fn clients(&self) -> Vec<(ClientKey, Usage)> {
            Vec::new()
        }

        fn service_state(&self, _service: u32) -> ServiceState {
            ServiceState::default()
        }

        fn backend(&self, id: u32) -> Backend {
            let verdict = self.orders.get(&id).copied().unwrap_or_default();
            Backend { status: BackendStatus::Ready as u32, verdict, ..Backend::default() }
        }

        fn backend_state(&self, id: u32) -> BackendState {
            let cell = self.cells.get(&id).copied().unwrap_or_default();
            BackendState { cell, ..BackendState::default() }
        }
    }

    fn entry(id: u32, name: &str, frontend: &str, backends: &[(u32, &str)]) -> ServiceEntry {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let servers = backends.iter().map(|(_, text)| BackendSpec {
            address: address(text),
            weight: 1,
            zone: None,
            version: None,
            draining: false,
        });
        let spec = ServiceSpec {
            name: name.into(),
            protocol: Protocol::Tcp,
            frontends: vec![address(frontend)],
            backends: servers.collect(),
            policy: PolicySpec::default(),
        };
        let backends = backends
            .iter()
            .map(|&(id, text)| CompiledBackend {
                id,
                record: Backend { endpoint: address(text).into(), ..Backend::default() },
            })
            .collect();
        ServiceEntry { id, family: Family::V4, spec: Arc::new(spec), backends }
    }

    fn explained(target: &str, kernel: &Kernel) -> Explanation {
        let entries = [
            entry(1, "shop/cart", "10.96.0.1:80", &[(11, "10.1.0.5:80"), (12, "10.1.0.6:80")]),
            entry(2, "shop/standby", "10.96.0.2:80", &[(21, "10.1.0.9:80")]),
        ];
        explain(target, &entries, kernel, NOW_NS)
    }

    #[test]
    fn an_address_and_a_name_are_the_same_question() {
        let kernel = Kernel::new(BreakerMode::Enforce, 0, 0);
        let by_name = explained("shop/cart", &kernel);
        assert_eq!(by_name.chains, explained("10.96.0.1:80", &kernel).chains);
        assert_eq!(by_name.chains[0].services[0].result, "the connection goes to one of 2, by random");
        assert_eq!(explained("10.96.0.1:81", &kernel).chains, []);
    }

    #[test]
    fn a_backend_that_is_left_out_has_its_rule() {
        let mut kernel = Kernel::new(BreakerMode::Enforce, 0, 0).open(&[11]);
        kernel.orders.insert(12, Order::Open.verdict(NOW_NS + 60_000_000_000));
        let chain = explained("shop/cart", &kernel).chains.remove(0);
        let whys: Vec<&str> = chain.services[0].candidates.iter().map(|one| one.why.as_str()).collect();
        assert_eq!(
            whys,
            ["its breaker is open, next probe in 8 s", "an operator's order keeps it out for another 60 s"]
        );
        assert_eq!(chain.errno, Some(111));
    }

    #[test]
    fn a_chain_follows_fallbacks_and_refuses_with_the_errno_of_the_first() {
        let kernel = Kernel::new(BreakerMode::Enforce, 2, 0).open(&[11, 12]);
        let chain = explained("shop/cart", &kernel).chains.remove(0);
        let names: Vec<&str> = chain.services.iter().map(|step| &*step.service).collect();
        assert_eq!((names, chain.errno), (vec!["shop/cart", "shop/standby"], None));
        let chain = explained("shop/cart", &kernel.open(&[21])).chains.remove(0);
        assert_eq!((chain.services.len(), chain.errno), (2, Some(111)));
    }

    #[test]
    fn a_breaker_that_observes_leaves_nobody_out_and_panic_believes_nobody() {
        let observing = Kernel::new(BreakerMode::Observe, 0, 0).open(&[11]);
        let chain = explained("shop/cart", &observing).chains.remove(0);
        assert!(chain.services[0].candidates[0].takes);
        assert!(chain.services[0].candidates[0].why.ends_with("the breaker only observes"));
        let panicking = Kernel::new(BreakerMode::Enforce, 0, 50).open(&[11, 12]);
        let chain = explained("shop/cart", &panicking).chains.remove(0);
        assert!(chain.services[0].result.starts_with("panic:") && chain.errno.is_none());
    }
}
