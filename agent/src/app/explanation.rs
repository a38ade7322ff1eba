//! What the next connections would do and why: asks `decide` what the kernel's programs ask it, with the same
//! words, and changes nothing. Knows the kernel only through [`Readings`].

mod asker;

use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::breaker::{TICK_SHIFT, remaining_ticks, ticks};
use agent_ebpf::abi::limits::{MAX_CENSUS, MAX_FALLBACKS};
use agent_ebpf::abi::{Backend, BackendStatus, BreakerMode, BreakerState, Limit, Policy};
use agent_ebpf::decide::breaker::cell::{self, Decision};
use agent_ebpf::decide::breaker::{ejection, slow_start};
use agent_ebpf::decide::census::{self, Census};
use agent_ebpf::decide::limits::{take, take_token};
use agent_ebpf::decide::locality::{self, Zone};

use super::limits::{self, Busiest};
use super::services::{Out, Readings};
use crate::admin::view::{Candidate, Chain, Explanation, LimitView, Step};
use crate::compile::{Family, name_id};
use crate::desired::ServiceSpec;
use crate::reconcile::ServiceEntry;

pub(super) use asker::Asker;

/// Explains a service by its name, or the service behind an address and port; to one client, where one is named.
pub(super) fn explain(
    target: &str,
    asker: Option<&Asker>,
    entries: &[ServiceEntry],
    readings: &impl Readings,
    leaving: &Out,
    now_ns: u64,
) -> Explanation {
    let address: Option<SocketAddr> = target.parse().ok();
    let is_meant = |entry: &&ServiceEntry| match address {
        Some(address) => entry.family == family_of(address) && entry.spec.frontends.contains(&address),
        None => *entry.spec.name == *target,
    };
    let clients = match asker {
        Some(asker) => limits::clients_only(entries, readings, |key| key.client == asker.workload),
        None => limits::clients(entries, readings),
    };
    let at = At { entries, leaving, clients: &clients, asker, now_ns };
    let chains = entries.iter().filter(is_meant).map(|entry| chain(entry, &at, readings)).collect();
    let asker = asker.map(|asker| asker.view.clone());
    Explanation { target: target.to_owned(), asker, chains }
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Follows a connection from the service it asks for through the fallbacks, as `select` does in the kernel.
fn chain(asked: &ServiceEntry, at: &At<'_>, readings: &impl Readings) -> Chain {
    let At { entries, now_ns, .. } = *at;
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
        let census = census(entry, &policy, readings, now_ns);
        let in_panic = panic(&policy, census);
        let mut step = step(entry, &policy, readings, at, in_panic.is_some());
        step.locality = locality(entry, &policy, census, in_panic.is_some());
        if let Some(result) = usable(&step, in_panic, at.asker.is_some()) {
            step.result = kept(entry, &step, &policy, at, readings).unwrap_or(result);
            chain.services.push(step);
            return chain;
        }
        let fallback = (policy.fallback != 0 && hop + 1 < MAX_FALLBACKS)
            .then(|| entries.iter().find(|other| other.id == policy.fallback))
            .flatten();
        let why = if let Some(limit) = reached(&step, at.asker.is_some()).or_else(|| full(&step)) {
            format!("a limit is reached, {}", limit.sentence())
        } else if is_ordered_away(entry, readings, now_ns) {
            "an operator's order keeps connections away from every backend".to_owned()
        } else {
            "nothing is usable".to_owned()
        };
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

/// The limit of the service itself, or of the client that asks, that is used up. Where nobody in particular asks, a client's
/// may be used up for one and not for another.
fn reached(step: &Step, is_asked_for_one: bool) -> Option<&LimitView> {
    let counts = |limit: Limit| match limit {
        Limit::ServiceConnections | Limit::ServicePending => true,
        Limit::ClientConnections | Limit::ClientPending => is_asked_for_one,
        _ => false,
    };
    step.limits.iter().find(|limit| counts(limit.limit) && limit.is_used_up())
}

/// Where the client that asks keeps the backend it was given last.
fn kept(
    entry: &ServiceEntry,
    step: &Step,
    policy: &Policy,
    at: &At<'_>,
    readings: &impl Readings,
) -> Option<String> {
    let value = at.asker?.keeps(entry.id, policy, readings, at.now_ns)?;
    let address = entry.backends.iter().find(|backend| backend.id == value.backend)?.address();
    step.candidates.iter().find(|candidate| candidate.address == address && candidate.takes)?;
    let since_ms = at.now_ns.saturating_sub(value.used_at_ns) / 1_000_000;
    let left_s = u64::from(policy.affinity_timeout_ms).saturating_sub(since_ms).div_ceil(1_000);
    Some(format!(
        "the connection goes to {address}, which this client keeps for another {left_s} s (affinity)"
    ))
}

/// A limit of backends that one of them has used up.
fn full(step: &Step) -> Option<&LimitView> {
    let of_backend = |limit: &&LimitView| {
        matches!(limit.limit, Limit::BackendConnections | Limit::BackendPending) && limit.is_used_up()
    };
    step.limits.iter().find(of_backend)
}

/// What happens where a service has something usable.
fn usable(step: &Step, in_panic: Option<Zone>, is_asked_for_one: bool) -> Option<String> {
    if reached(step, is_asked_for_one).is_some() {
        return None;
    }
    let takers = step.candidates.iter().filter(|candidate| candidate.takes).count();
    if takers == 0 {
        return None;
    }
    let goes = format!("the connection goes to one of {takers}, by {}", step.algorithm.name());
    Some(match in_panic {
        Some(Zone { healthy, total }) => {
            format!("panic: with {healthy} of {total} healthy the breakers are not believed, {goes}")
        }
        None => goes,
    })
}

/// What the kernel counts where it looks how a service's backends are doing.
fn census(entry: &ServiceEntry, policy: &Policy, readings: &impl Readings, now_ns: u64) -> Census {
    let ready = entry.backends.iter().map(|backend| (backend.id, readings.backend(backend.id)));
    let ready = ready.filter(|(_, backend)| backend.status == BackendStatus::Ready as u16);
    ready.take(MAX_CENSUS as usize).fold(Census::EMPTY, |census, (id, backend)| {
        let near = census::is_near(backend.zone, policy.zone);
        census.with(near, readings.backend_state(id).cell, backend.verdict, now_ns)
    })
}

/// How few are healthy, where that is too few to believe breakers.
fn panic(policy: &Policy, census: Census) -> Option<Zone> {
    let breaker = &policy.breaker;
    let Zone { healthy, total } = census.in_question();
    let panics = breaker.mode() == BreakerMode::Enforce
        && policy.fallback == 0
        && ejection::panic(total, healthy, breaker.panic_percent);
    panics.then_some(Zone { healthy, total })
}

/// What the node's own zone gets, where the service prefers it.
fn locality(entry: &ServiceEntry, policy: &Policy, census: Census, in_panic: bool) -> Option<String> {
    if !entry.spec.policy.prefers_zone {
        return None;
    }
    let zones = entry.spec.backends.iter().filter_map(|backend| backend.zone.as_ref());
    let Some(zone) = zones.into_iter().find(|zone| policy.zone != 0 && name_id(zone) == policy.zone) else {
        return Some("would prefer the node's zone, but none is known, or no backend is in it".to_owned());
    };
    let (near, elsewhere) = (census.near(), census.elsewhere());
    let believes = policy.breaker.mode() == BreakerMode::Enforce && census.ejected() > 0 && !in_panic;
    let permille = if believes { locality::local_share_permille(near, elsewhere) } else { 1_000 };
    Some(format!(
        "prefers zone {zone}, where {} of {} are healthy: {} % stay",
        near.healthy,
        near.total,
        permille / 10
    ))
}

/// Whether an order alone keeps connections away from every backend that would take them.
fn is_ordered_away(entry: &ServiceEntry, readings: &impl Readings, now_ns: u64) -> bool {
    let records = entry.backends.iter().map(|backend| readings.backend(backend.id));
    let mut ready = records.filter(|record| record.status == BackendStatus::Ready as u16).peekable();
    let away = |record: Backend| record.verdict.mode(now_ns) == Some(BreakerMode::ForcedOpen);
    ready.peek().is_some() && ready.all(away)
}

/// What a decision is explained by, beside the kernel's readings.
struct At<'a> {
    entries: &'a [ServiceEntry],
    leaving: &'a Out,
    /// What the client that asks uses of limits; else the busiest one.
    clients: &'a Busiest,
    asker: Option<&'a Asker>,
    now_ns: u64,
}

fn step(
    entry: &ServiceEntry,
    policy: &Policy,
    readings: &impl Readings,
    at: &At<'_>,
    in_panic: bool,
) -> Step {
    let At { leaving, clients, now_ns, .. } = *at;
    let spec = &entry.spec;
    let avoided = at.asker.and_then(|asker| asker.avoids(entry.id, policy, readings, now_ns));
    let candidates = entry.backends.iter().filter_map(|backend| {
        let (id, address) = (backend.id, backend.address());
        let asked_for = spec.backends.iter().find(|backend| backend.address == address)?;
        let (takes, why) = match judge(id, policy, readings, now_ns) {
            (Taken::ByBreaker, why) if in_panic => (true, format!("{why}; in panic that is not believed")),
            (taken, why) => (taken == Taken::Yes, why),
        };
        let (takes, why) = match avoided {
            Some((avoided, left_s)) if takes && avoided == id => (false, failed_on(left_s)),
            _ => (takes, why),
        };
        let version = asked_for.version.clone();
        let mut why = without_share(spec, version.as_ref()).filter(|_| takes).unwrap_or(why);
        if let Some(resets_in_ms) = leaving.get(&id).and_then(|backend| backend.resets_in_ms(now_ns)) {
            why += &open_connections(readings.backend_state(id).active, resets_in_ms);
        }
        let (zone, weight) = (asked_for.zone.clone(), asked_for.weight);
        Some(Candidate { address, version, zone, weight, takes, why })
    });
    let mut candidates: Vec<_> = candidates.collect();
    believe_a_failure_only_where_another_takes(&mut candidates, avoided);
    Step {
        service: Arc::clone(&spec.name),
        algorithm: spec.policy.algorithm,
        breaker_mode: policy.breaker.mode(),
        limits: limits::views(std::slice::from_ref(entry), &policy.limits, readings, clients),
        locality: None,
        rollout: None,
        candidates,
        result: String::new(),
    }
}

/// Why a client is kept away from a backend that takes others.
fn failed_on(left_s: u64) -> String {
    format!("this client just failed on it and is sent to others for another {left_s} s, where one takes it")
}

/// A client goes back to where it failed if nobody else takes it.
fn believe_a_failure_only_where_another_takes(candidates: &mut [Candidate], avoided: Option<(u32, u64)>) {
    let Some((_, left_s)) = avoided else { return };
    if candidates.iter().any(|candidate| candidate.takes) {
        return;
    }
    let why = failed_on(left_s);
    for candidate in candidates.iter_mut().filter(|candidate| candidate.why == why) {
        candidate.takes = true;
        "this client just failed on it, and nobody else takes it".clone_into(&mut candidate.why);
    }
}

/// What becomes of the open connections of a backend that is out.
fn open_connections(active: u64, resets_in_ms: u64) -> String {
    match resets_in_ms.div_ceil(1_000) {
        0 => format!("; {active} connections open, those from before are reset now"),
        left_s => format!("; {active} connections open, those from before are reset in {left_s} s"),
    }
}

/// A version outside the split gets only what the others refuse.
fn without_share(spec: &ServiceSpec, version: Option<&Arc<str>>) -> Option<String> {
    let split = &spec.policy.split;
    let has_share = split.iter().any(|share| Some(&share.version) == version && share.share > 0);
    (!split.is_empty() && !has_share)
        .then(|| "only where all others refuse: its version has no share of the split".to_owned())
}

/// Whether a backend takes the next connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
    /// No, by its breaker, which panic would not believe.
    ByBreaker,
}

/// Whether a backend takes the next connection, and by which rule. The rules stand in the order in which the
/// kernel's programs ask them.
fn judge(id: u32, policy: &Policy, readings: &impl Readings, now_ns: u64) -> (Taken, String) {
    let backend = readings.backend(id);
    if backend.status != BackendStatus::Ready as u16 {
        return (Taken::No, "takes no new connections: it is draining, or its weight is 0".to_owned());
    }
    let (limits, state) = (&policy.limits.backend, readings.backend_state(id));
    for (what, count, most) in [
        ("connections", state.active, limits.max_connections),
        ("connections in their handshake", state.pending, limits.max_pending),
    ] {
        if take(count, most).is_none() {
            return (Taken::No, format!("it is full: {count} {what}, the limit is {most}"));
        }
    }
    if take_token(state.rate, limits, now_ns).is_none() {
        let per_second = limits.rate_per_second;
        return (Taken::No, format!("it took its {per_second} new connections per second"));
    }
    let left_s = backend.verdict.until_ns().saturating_sub(now_ns).div_ceil(1_000_000_000);
    match backend.verdict.mode(now_ns) {
        Some(BreakerMode::ForcedOpen) => {
            return (Taken::No, format!("an operator's order keeps it out for another {left_s} s"));
        }
        Some(BreakerMode::ForcedClosed) => {
            return (Taken::Yes, format!("an operator's order keeps it in for another {left_s} s"));
        }
        _ => {}
    }
    let breaker = &policy.breaker;
    let now_ticks = ticks(now_ns);
    let joined = slow_start::joining_permille(backend.joined_ticks, policy.join_ticks, breaker, now_ticks);
    if breaker.mode() == BreakerMode::Off {
        return (Taken::Yes, growing("ready", joined));
    }
    let word = readings.backend_state(id).cell;
    let (next, admission, _) = cell::admit(word, breaker, now_ticks);
    match admission.decision {
        Decision::Admit => {
            let returned = slow_start::weight_permille(next, breaker, now_ticks);
            (Taken::Yes, growing("closed", joined.min(returned)))
        }
        Decision::AdmitProbe => (Taken::Yes, "it takes the next connection as a probe".to_owned()),
        Decision::RefuseForced => (Taken::No, "the policy's breaker mode is forced_open".to_owned()),
        Decision::Refuse => {
            let why = if next.state() == BreakerState::Open {
                let wait = remaining_ticks(admission.deadline_ticks, now_ticks, u32::MAX >> 1);
                let wait_s = (u64::from(wait) << TICK_SHIFT).div_ceil(1_000_000_000);
                format!("its breaker is open, next probe in {wait_s} s")
            } else {
                "its breaker is half-open and all probes are on their way".to_owned()
            };
            let observes = !breaker.binds();
            (
                if observes { Taken::Yes } else { Taken::ByBreaker },
                if observes { format!("{why}; the breaker only observes") } else { why },
            )
        }
    }
}

/// A state, and the growing share where it is not the whole.
fn growing(state: &str, permille: u32) -> String {
    if permille < 1_000 { format!("{state}, in slow start at {} %", permille / 10) } else { state.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agent_ebpf::abi::breaker::period_ticks;
    use agent_ebpf::abi::{
        AffinityKey, AffinityValue, BackendState, BreakerPolicy, CellWord, ClientKey, FailedOn, Limits,
        Protocol, ServiceLimits, ServiceState, Usage, Verdict,
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
        leaving: Out,
        failed: FailedOn,
        affinity: Option<AffinityValue>,
        usage: Usage,
    }

    /// The cgroup of the client that asks, and that of its workload.
    const LEAF: u64 = 4;
    const WORKLOAD: u64 = 3;

    impl Kernel {
        fn new(mode: BreakerMode, fallback: u32, panic_percent: u8) -> Self {
            let breaker = BreakerPolicy { mode: mode as u8, panic_percent, ..BreakerPolicy::default() };
            let policy = Policy { ready_backends: 2, refuse_errno: 111, breaker, ..Policy::default() };
            let policies = [(1, Policy { fallback, ..policy }), (2, Policy { refuse_errno: 99, ..policy })];
            Self {
                policies: policies.into(),
                cells: BTreeMap::new(),
                orders: BTreeMap::new(),
                leaving: Out::new(),
                failed: FailedOn::NONE,
                affinity: None,
                usage: Usage::default(),
            }
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
            vec![
                (ClientKey::new(WORKLOAD, 1), self.usage),
                (ClientKey::new(77, 1), Usage { active: 9, ..self.usage }),
            ]
        }

        fn service_state(&self, _service: u32) -> ServiceState {
            ServiceState { failed_ticks: self.failed.0 & u64::from(u32::MAX), ..ServiceState::default() }
        }

        fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
            (key.client == WORKLOAD).then_some(self.affinity).flatten()
        }

        fn failed_on(&self, key: &AffinityKey) -> FailedOn {
            if key.client == LEAF { self.failed } else { FailedOn::NONE }
        }

        fn backend(&self, id: u32) -> Backend {
            let verdict = self.orders.get(&id).copied().unwrap_or_default();
            Backend { status: BackendStatus::Ready as u16, verdict, ..Backend::default() }
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
        explained_to(None, target, kernel)
    }

    fn explained_to(asker: Option<&Asker>, target: &str, kernel: &Kernel) -> Explanation {
        let limits = Limits {
            max_connections: kernel.policies[&1].limits.client.max_connections,
            ..Limits::default()
        };
        let entries = [
            entry(1, "shop/cart", "10.96.0.1:80", &[(11, "10.1.0.5:80"), (12, "10.1.0.6:80")]),
            entry(2, "shop/standby", "10.96.0.2:80", &[(21, "10.1.0.9:80")]),
        ];
        let entries = entries.map(|entry| {
            let mut spec = (*entry.spec).clone();
            spec.policy.limits.client = limits;
            ServiceEntry { spec: Arc::new(spec), ..entry }
        });
        explain(target, asker, &entries, kernel, &kernel.leaving, NOW_NS)
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
        let panic = "panic: with 0 of 2 healthy the breakers are not believed, \
                     the connection goes to one of 2, by random";
        assert_eq!((chain.services[0].result.as_str(), chain.errno), (panic, None));
    }

    fn client() -> Asker {
        let said = |id| u32::from(id == WORKLOAD);
        let workload = Arc::new(crate::flows::Workload::unknown());
        Asker::in_cgroup("/pod/main".as_ref(), &[WORKLOAD, LEAF], 0, workload, said).expect("a client")
    }

    #[test]
    fn a_client_is_sent_to_others_than_the_one_it_failed_on_where_one_takes_it() {
        let mut kernel = Kernel::new(BreakerMode::Enforce, 0, 0);
        kernel.failed = FailedOn::new(11, ticks(NOW_NS));
        let asker = client();
        let takes = |asker, kernel: &Kernel| {
            let chain = explained_to(asker, "shop/cart", kernel).chains.remove(0);
            let of = |one: &Candidate| (one.takes, one.why.clone());
            (chain.services[0].candidates.iter().map(of).collect::<Vec<_>>(), chain.errno)
        };
        let (candidates, _) = takes(Some(&asker), &kernel);
        assert_eq!(
            candidates[0],
            (
                false,
                "this client just failed on it and is sent to others for another 3 s, where one takes it"
                    .into()
            )
        );
        assert!(candidates[1].0);
        assert!(takes(None, &kernel).0[0].0, "another client may go there");
        let kernel = kernel.open(&[12]);
        let (candidates, errno) = takes(Some(&asker), &kernel);
        assert_eq!(
            (&*candidates[0].1, errno),
            ("this client just failed on it, and nobody else takes it", None)
        );
    }

    #[test]
    fn a_client_keeps_its_backend_and_meets_its_own_limit() {
        let mut kernel = Kernel::new(BreakerMode::Enforce, 0, 0);
        kernel.affinity =
            Some(AffinityValue { used_at_ns: NOW_NS - 1_000_000_000, backend: 12, generation: 0 });
        let policy = kernel.policies.get_mut(&1).expect("a policy");
        policy.affinity_timeout_ms = 5_000;
        policy.subset_count = 1;
        let asker = client();
        let result = |asker, kernel: &Kernel| {
            explained_to(asker, "shop/cart", kernel).chains.remove(0).services.remove(0).result
        };
        let kept = "the connection goes to 10.1.0.6:80, which this client keeps for another 4 s (affinity)";
        assert_eq!(result(Some(&asker), &kernel), kept);
        assert_eq!(result(None, &kernel), "the connection goes to one of 2, by random");
        let client = Limits { max_connections: 5, ..Limits::default() };
        let policy = kernel.policies.get_mut(&1).expect("a policy");
        policy.limits = ServiceLimits { client, ..ServiceLimits::default() };
        assert_eq!(result(Some(&asker), &kernel), kept, "another client has used up its own");
        kernel.usage.active = 5;
        assert!(result(Some(&asker), &kernel).starts_with("a limit is reached, client_connections 5 of 5"));
    }

    #[test]
    fn half_of_the_backends_are_no_panic_and_an_order_is_none_either() {
        let half = Kernel::new(BreakerMode::Enforce, 0, 50).open(&[11]);
        let chain = explained("shop/cart", &half).chains.remove(0);
        assert_eq!(chain.services[0].result, "the connection goes to one of 1, by random");
        let mut ordered = Kernel::new(BreakerMode::Enforce, 0, 50);
        let order = Order::Open.verdict(NOW_NS + 60_000_000_000);
        ordered.orders.extend([(11, order), (12, order)]);
        let chain = explained("shop/cart", &ordered).chains.remove(0);
        assert_eq!(
            chain.services[0].result,
            "an operator's order keeps connections away from every backend and there is no further fallback: \
             the connection is refused"
        );
        assert_eq!(chain.errno, Some(111));
    }
}
