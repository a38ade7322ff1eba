//! What compiling promises to the maps and to a service's clients.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::desired::{PolicySpec, VersionShare};

fn backend(address: &str) -> BackendSpec {
    BackendSpec { address: address.parse().unwrap(), weight: 1, zone: None, version: None, draining: false }
}

fn of_version(address: &str, version: &str) -> BackendSpec {
    BackendSpec { version: Some(version.into()), ..backend(address) }
}

fn service(frontends: &[&str], backends: Vec<BackendSpec>) -> ServiceSpec {
    ServiceSpec {
        name: "shop/web".into(),
        protocol: agent_ebpf::abi::Protocol::Tcp,
        frontends: frontends.iter().map(|address| address.parse().unwrap()).collect(),
        backends,
        policy: PolicySpec::default(),
    }
}

fn ids() -> Ids {
    Ids::new(100, 1_000)
}

fn only(spec: &ServiceSpec, ids: &mut Ids) -> CompiledService {
    let compiled = compile(spec, ids).unwrap();
    assert_eq!(compiled.len(), 1);
    compiled.into_iter().next().unwrap()
}

/// The slots of one subset.
fn window(compiled: &CompiledService, number: usize) -> &[Slot] {
    let counts = compiled.policy.subsets.map(|subset| subset.slot_count as usize);
    let first: usize = counts[..number].iter().sum();
    &compiled.slots[first..][..counts[number]]
}

/// The addresses that slots of a window name.
fn reached(compiled: &CompiledService, window: usize) -> BTreeSet<String> {
    let slots = self::window(compiled, window).iter();
    let named: BTreeSet<u32> = slots.flat_map(|slot| [slot.backend, slot.alias]).collect();
    let backends = compiled.backends.iter().filter(|backend| named.contains(&backend.id));
    backends.map(|backend| SocketAddr::from(backend.record.endpoint).to_string()).collect()
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|&address| address.to_owned()).collect()
}

#[test]
fn each_family_becomes_a_service_of_its_own_with_its_own_backends() {
    let spec =
        service(&["10.0.0.1:80", "[fd00::1]:80"], vec![backend("10.1.0.1:80"), backend("[fd01::1]:80")]);
    let compiled = compile(&spec, &mut ids()).unwrap();
    let families: Vec<Family> = compiled.iter().map(|service| service.family).collect();
    assert_eq!(families, Family::ALL);
    assert_ne!(compiled[0].id, compiled[1].id);
    assert_eq!(reached(&compiled[0], 0), set(&["10.1.0.1:80"]));
    assert_eq!(reached(&compiled[1], 0), set(&["[fd01::1]:80"]));
    assert!(compiled.iter().all(|service| service.backends.len() == 1 && service.frontends.len() == 1));
}

#[test]
fn a_family_without_frontends_is_left_out() {
    let spec = service(&["[fd00::1]:80"], vec![backend("10.1.0.1:80"), backend("[fd01::1]:80")]);
    let compiled = only(&spec, &mut ids());
    assert_eq!(compiled.family, Family::V6);
    assert_eq!(compiled.backends.len(), 1);
}

#[test]
fn a_mapped_address_is_an_ipv4_address() {
    let spec = service(&["[::ffff:10.0.0.1]:80", "10.0.0.1:80"], vec![backend("10.1.0.1:80")]);
    let compiled = only(&spec, &mut ids());
    assert_eq!((compiled.family, compiled.frontends.len()), (Family::V4, 1));
}

#[test]
fn draining_and_weightless_backends_keep_their_id_and_get_no_slot() {
    let mut ids = ids();
    let mut spec = service(
        &["10.0.0.1:80"],
        vec![backend("10.1.0.1:80"), backend("10.1.0.2:80"), backend("10.1.0.3:80")],
    );
    let before = only(&spec, &mut ids);
    spec.backends[0].draining = true;
    spec.backends[1].weight = 0;
    for &algorithm in Algorithm::ALL {
        spec.policy.algorithm = algorithm;
        let after = only(&spec, &mut ids);
        assert_eq!(reached(&after, 0), set(&["10.1.0.3:80"]));
        for (old, new) in before.backends.iter().zip(after.backends.iter()) {
            assert_eq!((old.id, old.record.generation), (new.id, new.record.generation));
        }
        let statuses: Vec<u16> = after.backends.iter().map(|backend| backend.record.status).collect();
        let (draining, ready) = (BackendStatus::Draining as u16, BackendStatus::Ready as u16);
        assert_eq!(statuses, [draining, draining, ready]);
    }
}

#[test]
fn nothing_usable_is_one_subset_without_slots() {
    let mut spec = service(&["10.0.0.1:80"], vec![BackendSpec { weight: 0, ..backend("10.1.0.1:80") }]);
    for split in [vec![], vec![VersionShare { version: "v1".into(), share: 1 }]] {
        spec.policy.split = split;
        let policy = only(&spec, &mut ids()).policy;
        assert_eq!(policy.subset_count, 1);
        assert_eq!((policy.subsets[0].share_end, policy.subsets[0].slot_count), (u32::MAX, 0));
    }
}

fn split(shares: &[(&str, u32)]) -> Vec<VersionShare> {
    shares.iter().map(|&(version, share)| VersionShare { version: version.into(), share }).collect()
}

#[test]
fn a_split_gives_each_version_its_share_and_its_own_slots() {
    let mut spec = service(
        &["10.0.0.1:80"],
        vec![of_version("10.1.0.1:80", "v1"), of_version("10.1.0.2:80", "v2"), backend("10.1.0.3:80")],
    );
    spec.policy.split = split(&[("v1", 3), ("v2", 1)]);
    let compiled = only(&spec, &mut ids());
    assert_eq!(compiled.policy.subset_count, 2);
    assert_eq!(compiled.policy.subsets[0].share_end, 0xbfff_ffff);
    assert_eq!(compiled.policy.subsets[0].version, name_id("v1"));
    assert_eq!(compiled.policy.subsets[1].share_end, u32::MAX);
    assert_eq!(reached(&compiled, 0), set(&["10.1.0.1:80"]));
    assert_eq!(reached(&compiled, 1), set(&["10.1.0.2:80"]));
}

#[test]
fn the_share_of_a_version_without_usable_backends_goes_to_the_others() {
    let mut spec = service(
        &["10.0.0.1:80"],
        vec![
            of_version("10.1.0.1:80", "v1"),
            of_version("10.1.0.2:80", "v2"),
            of_version("10.1.0.3:80", "v3"),
        ],
    );
    spec.backends[2].draining = true;
    spec.policy.split = split(&[("v3", 50), ("v1", 30), ("gone", 5), ("v2", 10)]);
    let compiled = only(&spec, &mut ids());
    assert_eq!(compiled.policy.subset_count, 2);
    assert_eq!(compiled.policy.subsets[0].share_end, 0xbfff_ffff);
    assert_eq!(reached(&compiled, 0), set(&["10.1.0.1:80"]));
    assert_eq!(compiled.policy.subsets[2], Subset::default());
}

#[test]
fn a_version_with_share_zero_gets_nothing_even_when_it_is_the_only_one_left() {
    let mut spec = service(&["10.0.0.1:80"], vec![of_version("10.1.0.1:80", "v1")]);
    spec.policy.split = split(&[("v1", 0), ("v2", 1)]);
    assert_eq!(only(&spec, &mut ids()).slot_count(), 0);
}

#[test]
fn the_policy_record_carries_the_rules() {
    let mut spec = service(&["10.0.0.1:80"], vec![backend("10.1.0.1:80")]);
    spec.policy = PolicySpec {
        algorithm: Algorithm::RoundRobin,
        affinity_timeout: Some(Duration::from_secs(3)),
        refuse_errno: 111,
        ..PolicySpec::default()
    };
    let compiled = only(&spec, &mut ids());
    let policy = compiled.policy;
    assert_eq!(policy.service, compiled.id);
    assert_eq!(policy.algorithm(), Some(Algorithm::RoundRobin));
    assert_eq!((policy.affinity_timeout_ms, policy.refuse_errno), (3_000, 111));
    spec.policy.affinity_timeout = Some(Duration::MAX);
    assert_eq!(only(&spec, &mut ids()).policy.affinity_timeout_ms, u32::MAX);
}

#[test]
fn the_policy_record_carries_the_breaker_and_the_connect_timeout() {
    let mut spec = service(&["10.0.0.1:80"], vec![backend("10.1.0.1:80")]);
    let policy = only(&spec, &mut ids()).policy;
    assert_eq!((policy.breaker.mode(), policy.connect_timeout_ms), (BreakerMode::Off, 0));
    let breaker = BreakerPolicy { consecutive_failures: 9, probes: 7, ..BreakerPolicy::DEFAULT };
    spec.policy.breaker = Some(breaker);
    spec.policy.connect_timeout = Some(Duration::from_millis(1_500));
    let policy = only(&spec, &mut ids()).policy;
    assert_eq!((policy.breaker, policy.connect_timeout_ms), (breaker, 1_500));
}

#[test]
fn the_policy_record_says_whether_requests_are_read_beside_which_limits_there_are() {
    let mut spec = service(&["10.0.0.1:80"], vec![backend("10.1.0.1:80")]);
    spec.policy.limits.client.max_connections = 5;
    let limits = spec.policy.limits.scopes();
    let policy = only(&spec, &mut ids()).policy;
    assert!(policy.reads_requests() && policy.marks == limits);
    spec.policy.reads_requests = false;
    let policy = only(&spec, &mut ids()).policy;
    assert!(!policy.reads_requests() && policy.marks & !REQUESTS_UNREAD == limits);
}

/// The endpoints from this one on, each by the `next` of the one before, until one comes again.
fn ring(compiled: &CompiledService, from: &str) -> Vec<String> {
    let address = |backend: &CompiledBackend| SocketAddr::from(backend.record.endpoint).to_string();
    let mut at = compiled.backends.iter().find(|backend| address(backend) == from).unwrap();
    let mut seen = Vec::new();
    while !seen.contains(&address(at)) {
        seen.push(address(at));
        at = compiled.backends.iter().find(|backend| backend.id == at.record.next).unwrap();
    }
    seen.push(address(at));
    seen
}

#[test]
fn the_backends_that_take_connections_form_a_ring_in_which_versions_stay_together() {
    let mut spec = service(
        &["10.0.0.1:80"],
        vec![
            of_version("10.1.0.1:80", "v1"),
            of_version("10.1.0.2:80", "v2"),
            of_version("10.1.0.3:80", "v1"),
            of_version("10.1.0.4:80", "v2"),
            of_version("10.1.0.5:80", "v1"),
        ],
    );
    spec.backends[4].draining = true;
    let compiled = only(&spec, &mut ids());
    let round = ring(&compiled, "10.1.0.1:80");
    assert_eq!((round.len(), round.first()), (5, round.last()), "all four, and back: {round:?}");
    let place = |address: &str| round.iter().position(|known| known == address).unwrap();
    assert_eq!(place("10.1.0.3:80"), 1, "the other one of v1 comes next: {round:?}");
    assert_eq!(place("10.1.0.2:80") + 1, place("10.1.0.4:80"), "{round:?}");
    let from_outside = ring(&compiled, "10.1.0.5:80");
    assert_eq!(from_outside.len(), 6, "the draining one leads into the ring: {from_outside:?}");
    assert_ne!(from_outside.last().unwrap(), "10.1.0.5:80", "and none leads to it");
}

#[test]
fn a_backend_alone_is_its_own_next_and_without_a_ready_one_there_is_none() {
    let mut spec = service(&["10.0.0.1:80"], vec![backend("10.1.0.1:80")]);
    let alone = only(&spec, &mut ids());
    assert_eq!(alone.backends[0].record.next, alone.backends[0].id);
    spec.backends[0].weight = 0;
    let compiled = only(&spec, &mut ids());
    assert_eq!((compiled.backends[0].record.next, compiled.policy.ready_backends), (0, 0));
}

#[test]
fn ready_backends_are_those_of_the_family_that_take_connections() {
    let mut spec = service(
        &["10.0.0.1:80", "[fd00::1]:80"],
        vec![
            backend("10.1.0.1:80"),
            backend("10.1.0.2:80"),
            backend("10.1.0.3:80"),
            backend("10.1.0.4:80"),
            backend("[fd01::1]:80"),
        ],
    );
    spec.backends[1].draining = true;
    spec.backends[2].weight = 0;
    let ready: Vec<u32> =
        compile(&spec, &mut ids()).unwrap().iter().map(|compiled| compiled.policy.ready_backends).collect();
    assert_eq!(ready, [2, 1]);
}

#[test]
fn a_fallback_that_comes_later_is_known_in_the_second_pass_in_each_family_it_has() {
    let mut ids = ids();
    let both = &["10.0.0.1:80", "[fd00::1]:80"];
    let mut first = service(both, vec![backend("10.1.0.1:80"), backend("[fd01::1]:80")]);
    first.policy.fallback = Some("shop/later".into());
    let later = ServiceSpec {
        name: "shop/later".into(),
        ..service(&["10.0.0.2:80"], vec![backend("10.1.0.2:80"), backend("[fd01::2]:80")])
    };
    let fallbacks = |ids: &mut Ids| -> Vec<u32> {
        compile(&first, ids).unwrap().iter().map(|compiled| compiled.policy.fallback).collect()
    };
    assert_eq!(fallbacks(&mut ids), [0, 0], "not compiled yet");
    let id = only(&later, &mut ids).id;
    assert_ne!(id, 0);
    assert_eq!(fallbacks(&mut ids), [id, 0], "it has no IPv6 frontend");
}

#[test]
fn an_endpoint_listed_twice_is_refused() {
    let spec = service(&["10.0.0.1:80"], vec![backend("10.1.0.1:80"), backend("10.1.0.1:80")]);
    let error = compile(&spec, &mut ids()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service shop/web: backend 10.1.0.1:80 is listed twice; list each address and port once"
    );
}

#[test]
fn names_that_could_not_be_told_apart_are_refused() {
    // These two words have the same FNV-1a hash.
    assert_eq!(name_id("costarring"), name_id("liquid"));
    let versions = vec![of_version("10.1.0.1:80", "costarring"), of_version("10.1.0.2:80", "liquid")];
    let error = compile(&service(&["10.0.0.1:80"], versions), &mut ids()).unwrap_err();
    assert!(matches!(error, CompileError::NameCollision { .. }), "{error}");
    let zone = |address, zone: &str| BackendSpec { zone: Some(zone.into()), ..backend(address) };
    let zones = vec![zone("10.1.0.1:80", "costarring"), zone("10.1.0.2:80", "liquid")];
    let error = compile(&service(&["10.0.0.1:80"], zones), &mut ids()).unwrap_err();
    assert!(matches!(error, CompileError::NameCollision { .. }), "{error}");
}

#[test]
fn a_split_over_too_many_versions_is_refused() {
    let mut spec = service(&["10.0.0.1:80"], vec![]);
    spec.policy.split = vec![VersionShare { version: "v".into(), share: 1 }; MAX_SUBSETS + 1];
    assert!(matches!(compile(&spec, &mut ids()), Err(CompileError::TooManyVersions { count: 5, .. })));
}

#[test]
fn a_maglev_table_keeps_its_size_when_the_service_shrinks_a_little() {
    let mut ids = ids();
    let backends = (1..=11).map(|host| backend(&format!("10.1.0.{host}:80"))).collect();
    let mut spec = service(&["10.0.0.1:80"], backends);
    spec.policy.algorithm = Algorithm::Maglev;
    let before = only(&spec, &mut ids);
    spec.backends.pop();
    let after = only(&spec, &mut ids);
    assert_eq!(window(&before, 0).len(), window(&after, 0).len());
    let lost =
        before.backends.iter().find(|old| !after.backends.iter().any(|new| new.id == old.id)).unwrap().id;
    let moved = window(&before, 0).iter().zip(window(&after, 0)).filter(|(old, new)| old != new).count();
    let ideal = window(&before, 0).iter().filter(|slot| slot.backend == lost).count();
    assert!(moved <= 2 * ideal, "{moved} slots moved, {ideal} had to");
}

#[test]
fn an_id_is_used_again_only_when_no_other_is_left_and_with_a_new_generation() {
    let mut ids = Ids::new(4, 4);
    let endpoint = |host: u8| Endpoint::from(SocketAddr::from(([10, 1, 0, host], 80)));
    assert_eq!(ids.backend(1, endpoint(1)), (1, 1));
    ids.release_backend(1, endpoint(1));
    assert_eq!(ids.backend(1, endpoint(2)), (2, 1));
    assert_eq!(ids.backend(1, endpoint(3)), (3, 1));
    assert_eq!(ids.backend(1, endpoint(4)), (1, 2));
    assert_eq!(ids.backend(1, endpoint(5)), (4, 1), "beyond the capacity: the caller has to see it");
}

#[test]
fn an_id_from_the_maps_is_claimed_by_the_service_that_has_the_frontend() {
    let spec = service(&["10.0.0.1:80", "10.0.0.2:80"], vec![backend("10.1.0.1:80")]);
    let key = frontends(&spec, Family::V4)[1];
    let found = Restored {
        frontends: vec![(key, 42)],
        services: BTreeSet::from([42]),
        backends: vec![(7, 3, 42, Endpoint::from(spec.backends[0].address))],
        vacant: vec![(9, 5)],
        table_slots: vec![],
    };
    let mut ids = Ids::restore(100, 1_000, &found);
    let mark = ids.mark();
    let compiled = only(&spec, &mut ids);
    assert_eq!((compiled.id, compiled.backends[0].id, compiled.backends[0].record.generation), (42, 7, 3));
    assert!(ids.unclaimed().is_empty());
    ids.rollback(mark);
    assert_eq!(ids.unclaimed(), &BTreeSet::from([42]));
    let other = ServiceSpec { name: "shop/other".into(), ..spec.clone() };
    assert_eq!(only(&other, &mut ids).id, 42, "what is rolled back can be claimed by another");
    assert_eq!(only(&spec, &mut ids).id, 43);
}

proptest! {
    #[test]
    fn the_order_of_a_list_changes_nothing(
        order in Just((0u16..12).collect::<Vec<_>>()).prop_shuffle(),
        algorithm in prop::sample::select(Algorithm::ALL),
    ) {
        let backends: Vec<BackendSpec> = (0..12)
            .map(|place| BackendSpec { weight: place % 4, ..of_version(&format!("10.1.0.{place}:80"), "v") })
            .collect();
        let mut spec = service(&["10.0.0.1:80", "10.0.0.2:80"], backends.clone());
        spec.policy.algorithm = algorithm;
        let expected = compile(&spec, &mut ids()).unwrap();
        spec.backends = order.iter().map(|&place| backends[usize::from(place)].clone()).collect();
        spec.frontends.reverse();
        prop_assert_eq!(compile(&spec, &mut ids()).unwrap(), expected);
    }

    #[test]
    fn what_is_rolled_back_leaves_no_trace(
        kept in prop::collection::vec(0u8..20, 0..10),
        released in prop::collection::vec(0u8..20, 0..5),
        undone in prop::collection::vec(0u8..40, 0..20),
        after in prop::collection::vec(0u8..40, 0..20),
    ) {
        let endpoint = |host: u8| Endpoint::from(SocketAddr::from(([10, 1, 0, host], 80)));
        let start = || {
            let mut ids = Ids::new(8, 16);
            for &host in &kept {
                let service = ids.service(&format!("s{}", host % 4).into(), Family::V4, &[]);
                ids.backend(service, endpoint(host));
                ids.set_table_slots(service, 0, u32::from(host));
            }
            for &host in &released {
                ids.release_backend(1, endpoint(host));
            }
            ids.settle();
            ids
        };
        let run = |ids: &mut Ids, hosts: &[u8]| -> Vec<(u32, u32, u32, u32)> {
            hosts.iter().map(|&host| {
                let service = ids.service(&format!("s{}", host % 8).into(), Family::V4, &[]);
                let before = ids.table_slots(service, 0);
                ids.set_table_slots(service, 0, u32::from(host) + 100);
                let (id, generation) = ids.backend(service, endpoint(host));
                (service, before, id, generation)
            }).collect()
        };
        let (mut with, mut without) = (start(), start());
        let mark = with.mark();
        run(&mut with, &undone);
        with.rollback(mark);
        prop_assert_eq!(run(&mut with, &after), run(&mut without, &after));
    }
}
