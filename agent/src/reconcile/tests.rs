//! What the reconciler promises, by example; `properties` has the same for arbitrary histories.

mod cost;
mod properties;
mod reader;

use std::net::SocketAddr;

use agent_ebpf::abi::{Algorithm, Backend, BackendStatus, Endpoint, Protocol, ServiceWord, Subset};

use super::*;
use crate::desired::{BackendSpec, Change, PolicySpec, VersionShare};
use crate::kernel::Readers;
use crate::kernel::fake::{FakeTables, Faults, Write};

const CAPACITY: Capacity = Capacity { frontends: 32, services: 16, policies: 24, slots: 8_192, backends: 64 };

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn spec(name: &str, frontends: &[&str], backends: &[&str]) -> ServiceSpec {
    let backend = |&text: &&str| BackendSpec {
        address: address(text),
        weight: 1,
        zone: None,
        version: None,
        draining: false,
    };
    ServiceSpec {
        name: name.into(),
        protocol: Protocol::Tcp,
        frontends: frontends.iter().map(|&text| address(text)).collect(),
        backends: backends.iter().map(backend).collect(),
        policy: PolicySpec::default(),
    }
}

fn desired(specs: &[ServiceSpec]) -> Desired {
    let mut desired = Desired::default();
    desired.apply(Change::Reset(specs.iter().cloned().map(Arc::new).collect()));
    desired
}

fn web() -> ServiceSpec {
    spec("web", &["10.0.0.1:80"], &["10.1.0.1:80", "10.1.0.2:80"])
}

fn api() -> ServiceSpec {
    spec("api", &["10.0.0.2:80", "[fd00::2]:80"], &["10.1.0.3:80", "[fd01::3]:80"])
}

fn fresh() -> Reconciler<FakeTables> {
    let mut tables = FakeTables::new(CAPACITY);
    tables.start_log();
    Reconciler::new(tables)
}

/// A reconciler whose maps hold these services.
fn holding(specs: &[ServiceSpec]) -> Reconciler<FakeTables> {
    let mut reconciler = fresh();
    let report = reconciler.apply(&desired(specs)).unwrap();
    assert!(report.failed.is_empty() && report.refused.is_empty(), "{report:?}");
    reconciler.tables_mut().take_log();
    reconciler
}

/// The next agent on the same maps.
fn restarted(reconciler: Reconciler<FakeTables>) -> Reconciler<FakeTables> {
    let mut tables = reconciler.into_tables();
    tables.set_faults(Faults::Never);
    let mut next = Reconciler::new(tables);
    next.adopt().unwrap();
    next
}

fn text(reconciler: &Reconciler<FakeTables>) -> String {
    dump(reconciler.tables(), &reconciler.directory()).unwrap()
}

/// What is used of each map.
fn used(reconciler: &Reconciler<FakeTables>) -> [u32; 5] {
    reconciler.fill().map(|fill| fill.used)
}

fn id_of(reconciler: &Reconciler<FakeTables>, backend: &str) -> u32 {
    let endpoint = Endpoint::from(address(backend));
    let backends = reconciler.tables().image().backends.iter();
    let place = backends.clone().position(|it| it.endpoint == endpoint && it.status != 0).unwrap();
    u32::try_from(place).unwrap()
}

#[test]
fn a_service_is_written_from_its_backends_to_its_frontends() {
    let mut reconciler = fresh();
    reconciler.apply(&desired(&[web()])).unwrap();
    let kinds: Vec<&str> = reconciler.tables_mut().take_log().iter().map(kind).collect();
    assert_eq!(kinds, ["backend", "backend", "slots", "policy", "service", "frontend"]);
}

fn kind(write: &Write) -> &'static str {
    match write {
        Write::InsertFrontend(..) => "frontend",
        Write::RemoveFrontend(..) => "no frontend",
        Write::SetService(_, word) if *word == ServiceWord::NONE => "no service",
        Write::SetService(..) => "service",
        Write::SetPolicy(..) => "policy",
        Write::SetSlots(..) => "slots",
        Write::SetBackend(_, backend) if backend.status == BackendStatus::Vacant as u16 => "no backend",
        Write::SetBackend(_, backend) if backend.status == BackendStatus::Draining as u16 => {
            "draining backend"
        }
        Write::SetBackend(..) => "backend",
        Write::Wait => "wait",
    }
}

#[test]
fn a_service_is_removed_from_its_frontends_to_its_backends_and_vacated_after_readers() {
    let mut reconciler = holding(&[web()]);
    reconciler.apply(&desired(&[])).unwrap();
    reconciler.idle();
    let kinds: Vec<&str> = reconciler.tables_mut().take_log().iter().map(kind).collect();
    assert_eq!(
        kinds,
        [
            "no frontend",
            "no service",
            "draining backend",
            "draining backend",
            "wait",
            "no backend",
            "no backend"
        ]
    );
    assert_eq!(text(&reconciler), "");
    assert_eq!(used(&reconciler), [0; 5]);
}

#[test]
fn applying_the_same_again_writes_nothing_and_waits_for_nobody() {
    let mut reconciler = holding(&[web(), api()]);
    let report = reconciler.apply(&desired(&[web(), api()])).unwrap();
    assert_eq!((report.written.total(), report.removed.total()), (0, 0));
    reconciler.idle();
    assert_eq!(reconciler.tables_mut().take_log(), []);
}

#[test]
fn a_small_change_waits_for_no_reader() {
    let mut reconciler = holding(&[web(), api()]);
    let mut changed = web();
    changed.backends.pop();
    reconciler.apply(&desired(&[changed, api()])).unwrap();
    let log = reconciler.tables_mut().take_log();
    assert!(!log.is_empty() && !log.contains(&Write::Wait), "{log:?}");
}

#[test]
fn a_tick_does_not_wait_for_readers_and_gives_back_only_what_those_who_left_held() {
    let [one, two] = [&["10.1.0.1:80"][..], &["10.1.0.2:80"]].map(|it| [spec("web", &["10.0.0.1:80"], it)]);
    let mut reconciler = holding(&one);
    let backends = |reconciler: &Reconciler<FakeTables>| used(reconciler)[4];
    let first = Readers::staying();
    reconciler.tables_mut().set_readers(Some(first.clone()));
    reconciler.apply(&desired(&two)).unwrap();
    reconciler.idle();
    assert_eq!(backends(&reconciler), 2, "a reader may still choose the first backend");
    // Back and forth: the first is wanted again, the second leaves after the first wait began.
    reconciler.apply(&desired(&one)).unwrap();
    reconciler.idle();
    let second = Readers::staying();
    reconciler.tables_mut().set_readers(Some(second.clone()));
    first.leave();
    reconciler.idle();
    assert_eq!((backends(&reconciler), id_of(&reconciler, "10.1.0.1:80")), (2, 1));
    second.leave();
    reconciler.idle();
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&holding(&one)), used(&holding(&one))));
    let log = reconciler.tables_mut().take_log();
    assert!(!log.contains(&Write::Wait), "{log:?}");
}

#[test]
fn the_id_of_a_backend_that_could_not_be_written_before_it_left_is_given_back() {
    let mut reconciler = fresh();
    reconciler.tables_mut().set_faults(Faults::Dead { after: 0 });
    assert_eq!(reconciler.apply(&desired(&[web()])).unwrap().pending, 1);
    reconciler.tables_mut().set_faults(Faults::Never);
    let next = spec("web", &["10.0.0.1:80"], &["10.1.0.9:80"]);
    reconciler.apply(&desired(std::slice::from_ref(&next))).unwrap();
    reconciler.idle();
    assert_eq!(used(&reconciler), used(&holding(&[next])));
    assert!(reconciler.directory().backend(1).is_none());
}

#[test]
fn a_restart_keeps_ids_and_writes_nothing() {
    let reconciler = holding(&[web(), api()]);
    let before = reconciler.tables().image().clone();
    let mut next = restarted(reconciler);
    next.apply(&desired(&[web(), api()])).unwrap();
    next.idle();
    assert_eq!(next.tables().image(), &before);
    let log = next.tables_mut().take_log();
    assert!(log.iter().all(|write| *write == Write::Wait), "{log:?}");
}

#[test]
fn the_generation_of_a_service_counts_on_after_a_restart() {
    let reconciler = holding(&[web()]);
    let id = reconciler.directory().services()[0].id;
    let generation = reconciler.tables().service(id).generation();
    let mut next = restarted(reconciler);
    next.apply(&desired(&[spec("web", &["10.0.0.1:80"], &["10.1.0.9:80"])])).unwrap();
    assert_eq!(next.tables().service(id).generation(), generation + 1);
}

#[test]
fn a_restart_shrinks_nothing_before_the_first_apply() {
    let reconciler = holding(&[web(), api()]);
    let before = reconciler.tables().image().clone();
    let mut next = restarted(reconciler);
    next.idle();
    next.repair();
    assert_eq!(next.tables().image(), &before);
}

#[test]
fn after_a_restart_services_that_nobody_wants_go() {
    let mut next = restarted(holding(&[web(), api()]));
    next.apply(&desired(&[api()])).unwrap();
    next.idle();
    let expected = holding(&[api()]);
    assert_eq!((text(&next), used(&next)), (text(&expected), used(&expected)));
}

#[test]
fn after_a_restart_a_service_that_is_refused_keeps_what_it_had() {
    let reconciler = holding(&[web(), api()]);
    let before = reconciler.tables().image().clone();
    let mut next = restarted(reconciler);
    let mut broken = web();
    broken.backends.push(broken.backends[0].clone());
    let report = next.apply(&desired(&[broken, api()])).unwrap();
    assert_eq!(report.refused.len(), 1);
    assert_eq!(next.tables().image(), &before);
    next.apply(&desired(&[web(), api()])).unwrap();
    assert_eq!(next.tables().image(), &before, "and its ids");
}

#[test]
fn a_backend_with_connections_keeps_its_id_until_they_are_gone() {
    let mut reconciler = holding(&[web()]);
    let id = id_of(&reconciler, "10.1.0.1:80");
    reconciler.tables_mut().set_active(id, 1);
    reconciler.apply(&desired(&[spec("web", &["10.0.0.1:80"], &["10.1.0.2:80"])])).unwrap();
    reconciler.idle();
    let status = reconciler.tables().backend(id).status;
    assert_eq!(status, BackendStatus::Draining as u16);
    assert!(reconciler.directory().backend(id).is_some(), "its connections still have a name");
    reconciler.tables_mut().set_active(id, 0);
    reconciler.idle();
    let vacant = reconciler.tables().backend(id);
    assert_eq!(vacant, Backend { generation: 1, ..Backend::default() });
    assert!(reconciler.directory().backend(id).is_none());
}

#[test]
fn a_backend_that_comes_back_while_it_has_connections_is_the_same_backend() {
    let mut reconciler = holding(&[web()]);
    let id = id_of(&reconciler, "10.1.0.1:80");
    let before = reconciler.tables().backend(id);
    reconciler.tables_mut().set_active(id, 1);
    reconciler.apply(&desired(&[spec("web", &["10.0.0.1:80"], &["10.1.0.2:80"])])).unwrap();
    reconciler.idle();
    reconciler.apply(&desired(&[web()])).unwrap();
    assert_eq!(reconciler.tables().backend(id), before);
    reconciler.tables_mut().set_active(id, 0);
    reconciler.idle();
    assert_eq!(reconciler.tables().backend(id), before, "nobody vacates it any more");
}

#[test]
fn a_service_that_comes_back_while_it_goes_keeps_its_id() {
    let mut reconciler = holding(&[web()]);
    let id = reconciler.directory().services()[0].id;
    reconciler.apply(&desired(&[])).unwrap();
    reconciler.apply(&desired(&[web()])).unwrap();
    reconciler.idle();
    assert_eq!(reconciler.directory().services()[0].id, id);
    let expected = holding(&[web()]);
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
}

#[test]
fn what_does_not_fit_is_refused_whole_with_what_is_needed() {
    let mut reconciler = holding(&[web()]);
    let many: Vec<String> = (0..70).map(|host| format!("10.1.1.{host}:80")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let before = reconciler.tables().image().clone();
    let error =
        reconciler.apply(&desired(&[api(), spec("web", &["10.0.0.1:80"], &many)])).unwrap_err().to_string();
    assert_eq!(
        error,
        "the services do not fit, nothing was changed: BACKENDS needs 72 of 63 entries; remove services or backends"
    );
    assert_eq!(reconciler.tables().image(), &before);
    assert_eq!(reconciler.tables_mut().take_log(), []);
    reconciler.apply(&desired(&[web(), api()])).unwrap();
    let expected = holding(&[web(), api()]);
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
}

#[test]
fn everything_can_be_replaced_by_as_much_at_once() {
    let services = |net: u8| -> Vec<ServiceSpec> {
        let service = |number: u8| {
            let backends: Vec<String> = (0..4).map(|host| format!("10.{net}.{number}.{host}:80")).collect();
            let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
            let (first, second) = (format!("10.{net}.{number}.80:80"), format!("10.{net}.{number}.81:80"));
            spec(&format!("s{net}-{number}"), &[&first, &second], &backends)
        };
        (0..15).map(service).collect()
    };
    let mut reconciler = holding(&services(1));
    let report = reconciler.apply(&desired(&services(2))).unwrap();
    assert!(report.failed.is_empty() && report.refused.is_empty(), "{report:?}");
    reconciler.idle();
    let expected = holding(&services(2));
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
}

/// A service with so many backends in a network of its own.
fn crowd(net: u8, count: u8) -> ServiceSpec {
    let backends: Vec<String> = (0..count).map(|host| format!("10.1.{net}.{host}:80")).collect();
    spec("crowd", &["10.0.0.1:80"], &backends.iter().map(String::as_str).collect::<Vec<_>>())
}

fn takes_connections(reconciler: &Reconciler<FakeTables>) -> bool {
    let image = reconciler.tables().image();
    let policies = image.services.iter().filter_map(|word| image.policies.get(word.policy()? as usize));
    policies.flat_map(|policy| policy.subsets).any(|subset| subset.slot_count > 0)
}

#[test]
fn backends_that_fill_the_map_are_replaced_in_parts_and_the_service_never_stops() {
    let mut reconciler = holding(&[crowd(1, 63)]);
    let report = reconciler.apply(&desired(&[crowd(2, 63)])).unwrap();
    assert_eq!((report.refused.len(), report.pending), (1, 1));
    assert!(takes_connections(&reconciler));
    let mut ticks = 0;
    while reconciler.idle().pending > 0 {
        assert!(takes_connections(&reconciler));
        ticks += 1;
        assert!(ticks < 5, "{}", text(&reconciler));
    }
    reconciler.idle();
    let expected = holding(&[crowd(2, 63)]);
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
}

#[test]
fn a_service_whose_ids_are_held_by_connections_follows_when_they_end() {
    let mut reconciler = holding(&[crowd(1, 60)]);
    (1..64).for_each(|id| reconciler.tables_mut().set_active(id, 1));
    let next = [api(), crowd(2, 60)];
    let report = reconciler.apply(&desired(&next)).unwrap();
    let refused: Vec<&str> = report.refused.iter().map(|refusal| &*refusal.service).collect();
    assert_eq!(refused, ["crowd"], "api has found its two ids");
    for _ in 0..3 {
        assert_eq!(reconciler.idle().pending, 1);
        assert!(takes_connections(&reconciler));
    }
    (1..64).for_each(|id| reconciler.tables_mut().set_active(id, 0));
    while reconciler.idle().pending > 0 {}
    reconciler.idle();
    let expected = holding(&next);
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
}

#[test]
fn windows_move_together_when_the_free_slots_are_not_in_a_row() {
    let capacity = Capacity { slots: 12, ..CAPACITY };
    let mut reconciler = Reconciler::new(FakeTables::new(capacity));
    let size = |name: &str, front: &str, count: u8| {
        let backends: Vec<String> = (0..count).map(|host| format!("10.1.0.{host}:80")).collect();
        spec(name, &[front], &backends.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let small = |count: u8| -> Vec<ServiceSpec> {
        (0..count).map(|number| size(&format!("s{number}"), &format!("10.0.0.{number}:80"), 1)).collect()
    };
    reconciler.apply(&desired(&small(11))).unwrap();
    let odd: Vec<ServiceSpec> = small(11).into_iter().step_by(2).collect();
    reconciler.apply(&desired(&odd)).unwrap();
    reconciler.tables_mut().start_log();
    let start = reconciler.tables().image().clone();
    let mut next = odd.clone();
    next.push(size("wide", "10.0.1.1:80", 3));
    let report = reconciler.apply(&desired(&next)).unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    let log = reconciler.tables_mut().take_log();
    reader::check_between_writes(&start, &log, &reader::Allowed::by(&[&odd, &next])).unwrap();
    reconciler.idle();
    assert_eq!(text(&reconciler), text(&holding(&next)));
    assert_eq!(used(&reconciler), used(&holding(&next)));
}

#[test]
fn a_frontend_belongs_to_one_service_and_passes_on_when_it_is_let_go() {
    let mut reconciler = holding(&[web()]);
    let thief = spec("thief", &["10.0.0.1:80", "10.0.0.9:80"], &["10.1.0.9:80"]);
    let report = reconciler.apply(&desired(&[thief.clone(), web()])).unwrap();
    let reasons: Vec<&str> = report.refused.iter().map(|refusal| refusal.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["service thief: frontend 10.0.0.1:80/tcp belongs to web; give each service its own address"]
    );
    let ours = text(&reconciler);
    assert!(ours.contains("10.0.0.1:80/tcp -> web ipv4") && ours.contains("10.0.0.9:80/tcp -> thief ipv4"));
    let report = reconciler.apply(&desired(std::slice::from_ref(&thief))).unwrap();
    assert!(report.refused.is_empty());
    reconciler.idle();
    let expected = holding(&[thief]);
    assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
}

#[test]
fn a_renamed_service_never_loses_its_frontend() {
    let mut reconciler = holding(&[web()]);
    reconciler.apply(&desired(&[ServiceSpec { name: "site".into(), ..web() }])).unwrap();
    let log = reconciler.tables_mut().take_log();
    assert!(!log.iter().any(|write| matches!(write, Write::RemoveFrontend(_))), "{log:?}");
    assert!(text(&reconciler).contains("10.0.0.1:80/tcp -> site ipv4"));
}

#[test]
fn one_failure_stops_no_other_service_and_is_tried_again() {
    for after in 0..14 {
        let mut reconciler = fresh();
        reconciler.tables_mut().set_faults(Faults::Once { after });
        let report = reconciler.apply(&desired(&[web(), api()])).unwrap();
        assert_eq!((report.failed.len(), report.pending), (1, 1), "after {after} writes");
        let first = report.failed[0].to_string();
        assert!(first.contains("injected fault") && first.starts_with("service "), "{first}");
        let report = reconciler.idle();
        assert_eq!((report.failed.len(), report.pending), (0, 0));
        let expected = holding(&[web(), api()]);
        assert_eq!((text(&reconciler), used(&reconciler)), (text(&expected), used(&expected)));
    }
}

#[test]
fn a_split_shows_in_the_dump_by_version() {
    let mut split = web();
    split.backends[0].version = Some("v1".into());
    split.backends[1].version = Some("v2".into());
    split.policy.split = vec![
        VersionShare { version: "v1".into(), share: 9 },
        VersionShare { version: "v2".into(), share: 1 },
    ];
    split.policy.algorithm = Algorithm::RoundRobin;
    let expected = "\
frontends
  10.0.0.1:80/tcp -> web ipv4
services
  web ipv4: round_robin, errno 113
    90.00% version v1: 1 slot
      100.00% 10.1.0.1:80 ready
    10.00% version v2: 1 slot
      100.00% 10.1.0.2:80 ready
backends
  web ipv4 10.1.0.1:80 ready, version v1
  web ipv4 10.1.0.2:80 ready, version v2
";
    assert_eq!(text(&holding(&[split])), expected);
}

#[test]
fn the_directory_knows_what_ids_stand_for() {
    let mut named = api();
    named.backends[0].version = Some("v7".into());
    named.backends[0].zone = Some("west".into());
    let reconciler = holding(&[web(), named]);
    let directory = reconciler.directory();
    let services = directory.services();
    let names: Vec<(&str, Family)> =
        services.iter().map(|service| (&*service.spec.name, service.family)).collect();
    assert_eq!(names, [("api", Family::V4), ("api", Family::V6), ("web", Family::V4)]);
    let (id, listed) = (services[0].backends[0].id, address("10.1.0.3:80"));
    let entry = directory.backend(id).unwrap();
    assert_eq!((&*entry.service_name, entry.address, entry.service), ("api", listed, services[0].id));
    assert_eq!((entry.version.as_deref(), entry.zone.as_deref()), (Some("v7"), Some("west")));
    let version = reconciler.tables().backend(id).version;
    assert_eq!(directory.version(services[0].id, version).as_deref(), Some("v7"));
    assert!(directory.version(services[0].id, version + 1).is_none());
}

#[test]
fn the_directory_knows_a_backend_that_left_until_its_id_is_given_back() {
    let mut named = [web()];
    named[0].backends[0].version = Some("v7".into());
    named[0].backends[0].zone = Some("west".into());
    let mut reconciler = holding(&named);
    let (directory, id) = (reconciler.directory(), id_of(&reconciler, "10.1.0.1:80"));
    let known =
        |id| directory.backend(id).map(|entry| (entry.address.to_string(), entry.version, entry.zone));
    let listed = || {
        let mut ids = Vec::new();
        directory.each_backend(|id| ids.push(id));
        ids.sort_unstable();
        ids
    };
    reconciler.tables_mut().set_active(id, 1);
    named[0].backends.remove(0);
    reconciler.apply(&desired(&named)).unwrap();
    reconciler.idle();
    assert_eq!(known(id), Some(("10.1.0.1:80".into(), Some("v7".into()), Some("west".into()))));
    assert_eq!((known(2).unwrap().0.as_str(), listed()), ("10.1.0.2:80", vec![1, 2]));
    reconciler.tables_mut().set_active(id, 0);
    reconciler.idle();
    assert_eq!((known(id), listed()), (None, vec![2]));
    assert_eq!((directory.ids_of("web"), directory.ids_of("api")), (vec![1], vec![]));
    reconciler.apply(&Desired::default()).unwrap();
    reconciler.idle();
    assert_eq!((listed(), directory.ids_of("web")), (vec![], vec![]));
}

#[test]
fn repair_puts_back_what_others_changed_and_counts_it_by_map() {
    let mut reconciler = holding(&[web(), api()]);
    let expected = text(&reconciler);
    let (web_id, backend) = (reconciler.directory().services()[2].id, id_of(&reconciler, "10.1.0.1:80"));
    let word = reconciler.tables().service(web_id);
    let policy = reconciler.tables().policy(word.policy().unwrap());
    let image = reconciler.tables_mut().image_mut();
    let (&first, _) = image.frontends.first_key_value().unwrap();
    image.frontends.remove(&first);
    let foreign = FrontendKey::new(address("10.9.9.9:9").into(), 6);
    image.frontends.insert(foreign, 3);
    image.slots[policy.subsets[0].first_slot as usize].backend = 60;
    image.backends[backend as usize].endpoint = address("10.9.9.9:9").into();
    image.backends[50].status = BackendStatus::Ready as u16;
    image.services[12] = ServiceWord::new(3, 1);
    let report = reconciler.repair();
    assert_eq!(text(&reconciler), expected);
    let repaired = Counts { frontends: 2, services: 1, policies: 0, slots: 1, backends: 2 };
    assert_eq!(report.repaired, repaired);
    assert_eq!(reconciler.repair().repaired, Counts::default());
}

#[test]
fn tables_that_cannot_be_right_are_replaced_by_the_first_apply() {
    let mut reconciler = holding(&[web(), api()]);
    let expected = (text(&reconciler), used(&reconciler));
    let services = reconciler.directory().services();
    let image = reconciler.tables_mut().image_mut();
    // Two services that share a record, of which neither can be told to be right, and one with a window outside the map.
    image.services[services[0].id as usize] = image.services[services[2].id as usize];
    let index = image.services[services[1].id as usize].policy().unwrap() as usize;
    image.policies[index].subsets[0].first_slot = CAPACITY.slots;
    let mut tables = reconciler.into_tables();
    tables.take_log();
    let mut next = Reconciler::new(tables);
    assert_eq!(next.adopt().unwrap().unsound, 3);
    next.apply(&desired(&[web(), api()])).unwrap();
    next.idle();
    assert_eq!((text(&next), used(&next)), expected);
}

#[test]
fn what_somebody_wrote_at_the_id_of_nobody_is_cleared() {
    let mut reconciler = holding(&[web()]);
    let image = reconciler.tables_mut().image_mut();
    image.services[0] = ServiceWord::new(1, 0);
    image.backends[0] = Backend { status: BackendStatus::Ready as u16, ..image.backends[1] };
    let repaired = reconciler.repair().repaired;
    assert_eq!(repaired, Counts { services: 1, backends: 1, ..Counts::default() });
    let image = reconciler.tables().image();
    assert_eq!(image.services[0], ServiceWord::NONE);
    assert_eq!(image.backends[0].status, BackendStatus::Vacant as u16);
}

#[test]
fn a_dump_of_maps_somebody_else_wrote_says_what_is_wrong_with_them() {
    let mut reconciler = holding(&[web()]);
    let image = reconciler.tables_mut().image_mut();
    let policy = image.services[1].policy().unwrap() as usize;
    let policy = &mut image.policies[policy];
    policy.subset_count = 2;
    policy.subsets[1] = Subset { share_end: policy.subsets[0].share_end - 1, ..policy.subsets[0] };
    image.slots[policy.subsets[0].first_slot as usize].backend = u32::MAX;
    let text = text(&reconciler);
    assert!(text.contains("a slot with a backend outside the map"), "{text}");
}
