//! Each map filled to its maximum, by a configuration or with entries of nobody: connections go on, it is told, and where
//! the agent is the one that tidies up, it does.
//!
//! Of the 18 maps, six are full from the start because they are arrays whose entries always are there (`SERVICE_STATE`,
//! `BACKEND_STATE`, `OUTCOMES`, `LOSSES`, `SETTINGS`, and what the configuration does not use of the others), and two are
//! storage that belongs to sockets and has no maximum (`CONNECTIONS`, `DATAGRAMS`). `EVENTS` is in `node_resources`.

use std::fmt::Write as _;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::tally;
use segue_tests::counters::service_state;
use segue_tests::pinned::PinnedMap;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const CART: &str = "198.18.0.11:80";

/// No cgroup has such an id.
const NOBODY: u64 = 1 << 40;

fn servers(world: &World) -> Vec<Server> {
    vec![world.tcp("n1", "127.0.0.1:8081"), world.tcp("n2", "127.0.0.1:8082")]
}

fn service(name: &str, at: &str, servers: &[Server], policy: &str) -> Service {
    let service = Service::tcp(name).at(at).policy("algorithm: round_robin").policy(policy);
    servers.iter().fold(service, Service::to)
}

fn lost(agent: &Agent<'_>, what: &str) -> f64 {
    agent.metrics().sum("segue_events_lost_total", &[("source", what)])
}

/// Asks for one more frontend, service, slot or backend than there is room for.
fn too_much(map: &str) -> String {
    let mut text = String::from("services:\n");
    let mut add = |number: u32, frontends: u32, backends: &str, policy: &str| {
        let (high, low) = (number / 200, number % 200 + 1);
        let frontends: Vec<String> =
            (0..frontends).map(|port| format!("\"198.18.{}.{low}:{}\"", high + 10, port + 1)).collect();
        let frontends = frontends.join(", ");
        writeln!(text, "  - {{ name: a/s{number}, protocol: tcp, frontends: [{frontends}], policy: {{ {policy} }}, backends: [{backends}] }}")
            .expect("writing to a String");
    };
    let backend = |number: u32| {
        format!("{{ address: \"10.{}.{}.{}:80\" }}", number >> 16, number >> 8 & 255, number & 255)
    };
    match map {
        "FRONTENDS" => (0..1_025).for_each(|number| add(number, 20, "", "algorithm: random")),
        "SERVICES" => (0..16_384).for_each(|number| add(number, 1, "", "algorithm: random")),
        "BACKENDS" => {
            let all: Vec<String> = (0..1_000).map(backend).collect();
            let all = all.join(", ");
            (0..115).for_each(|number| add(number, 1, &all, "algorithm: random"));
        }
        "SLOTS" => {
            let all: Vec<String> = (0..655).map(backend).collect();
            let all = all.join(", ");
            (0..5).for_each(|number| add(number, 1, &all, "algorithm: maglev"));
        }
        other => panic!("no configuration fills {other}"),
    }
    text
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_configuration_that_does_not_fit_a_map_changes_nothing_and_is_told() {
    let world = World::new();
    let servers = servers(&world);
    let payment = service("shop/payment", PAYMENT, &servers, "refuse_with: ECONNREFUSED");
    let agent = world.agent(std::slice::from_ref(&payment));
    let mut client = world.client();
    // What can be told from the file alone is told with the line, before any map is looked at.
    let reasons = [
        ("FRONTENDS", "more than 20479 frontends"),
        ("SERVICES", "more than 16382 services"),
        ("BACKENDS", "more than 112638 backends"),
        ("SLOTS", "SLOTS"),
    ];
    for (map, reason) in reasons {
        agent.edit(&too_much(map));
        eventually(&format!("the agent to refuse what does not fit {map}"), SOON * 8, || {
            let error = agent.status()["config"]["error"].to_string();
            if error.contains(reason) { Ok(()) } else { Err(error) }
        });
        assert_eq!(tally(&client.greetings(PAYMENT, 6)), [("n1", 3), ("n2", 3)].into(), "{map}");
    }
    agent.edit(&config(&[payment, service("shop/cart", CART, &servers, "refuse_with: ECONNREFUSED")]));
    eventually_equal("what fits again", SOON, &true, || client.attempts(CART, 1).iter().all(Result::is_ok));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn frontends_full_of_somebody_elses_entries_are_cleared_and_what_was_waiting_is_written() {
    let world = World::new();
    let servers = servers(&world);
    let payment = service("shop/payment", PAYMENT, &servers, "refuse_with: ECONNREFUSED");
    let agent = world.agent(std::slice::from_ref(&payment));
    let mut client = world.client();
    let frontends = PinnedMap::open(&world, "FRONTENDS");
    let taken = frontends.fill(NOBODY);
    assert!(taken > 20_000 && taken < frontends.max_entries(), "{taken}");
    assert_eq!(tally(&client.greetings(PAYMENT, 6)), [("n1", 3), ("n2", 3)].into());
    agent.edit(&config(&[payment, service("shop/cart", CART, &servers, "refuse_with: ECONNREFUSED")]));
    eventually_equal("the service that found no room", SOON, &true, || {
        client.attempts(CART, 1).iter().all(Result::is_ok)
    });
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("segue_repairs_total", &[("target", "FRONTENDS")]), f64::from(taken));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn affinity_and_avoidance_full_of_others_forget_the_others() {
    let world = World::new();
    let servers = servers(&world);
    let affine = service("shop/payment", PAYMENT, &servers, "affinity: { timeout: 1h }");
    let avoiding = "breaker: { consecutive_failures: 5, negative_affinity: 1m }";
    let avoiding = service("shop/cart", CART, &servers[..1], avoiding).to_address("127.0.0.1:8089");
    let _agent = world.agent(&[affine, avoiding]);
    let mut client = world.client();
    for map in ["AFFINITY", "AVOIDANCES"] {
        let map = PinnedMap::open(&world, map);
        assert_eq!(map.fill(NOBODY), 2 * map.max_entries(), "it forgets the oldest");
    }
    assert_eq!(tally(&client.greetings(PAYMENT, 10)).len(), 1, "the client keeps its backend");
    let failed = client.attempts(CART, 10).iter().filter(|attempt| attempt.is_err()).count();
    assert_eq!(failed, 1, "the client stays away from what failed");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn clients_full_of_others_are_let_through_uncounted_until_the_agent_has_tidied_up() {
    let world = World::new();
    let servers = servers(&world);
    let agent =
        world.agent(&[service("shop/payment", PAYMENT, &servers, "limits: { client: { connections: 2 } }")]);
    let mut client = world.client();
    assert_eq!(PinnedMap::open(&world, "CLIENTS").fill(NOBODY), 16_384);
    let held: Vec<_> = (0..4).map_while(|_| client.connect_tcp(PAYMENT).ok()).collect();
    assert_eq!(held.len(), 4, "the limit cannot be kept, and the connections are let through");
    assert!(lost(&agent, "clients") >= 4.0);
    held.into_iter().for_each(|socket| client.close(socket));
    eventually("room for the client", SOON * 8, || {
        let held: Vec<_> = (0..4).map_while(|_| client.connect_tcp(PAYMENT).ok()).collect();
        let count = held.len();
        held.into_iter().for_each(|socket| client.close(socket));
        if count == 2 { Ok(()) } else { Err(format!("{count} connections under a limit of 2")) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn workloads_full_of_others_are_put_right_within_a_tick() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[service("shop/payment", PAYMENT, &servers, "affinity: { timeout: 1h }")]);
    let workloads = PinnedMap::open(&world, "WORKLOADS");
    let taken = workloads.fill(NOBODY);
    assert!(taken > 8_000 && taken <= workloads.max_entries(), "{taken}");
    let mut client = world.client_in("system.slice/late.service");
    assert_eq!(tally(&client.greetings(PAYMENT, 10)).len(), 1, "the client keeps its backend all the same");
    eventually_equal("room in the map", SOON, &true, || {
        // As many as there were before, and one more for the unit that came late.
        workloads.lookup(&NOBODY.to_ne_bytes()).is_none()
    });
    assert_eq!(agent.status()["readiness"]["ready"], true);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn edges_full_of_others_cost_what_is_counted_of_new_clients_and_no_connection() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[service("shop/payment", PAYMENT, &servers, "refuse_with: ECONNREFUSED")]);
    let mut known = world.client();
    assert_eq!(tally(&known.greetings(PAYMENT, 4)), [("n1", 2), ("n2", 2)].into());
    assert!(PinnedMap::open(&world, "EDGES").fill(NOBODY) > 8_000);
    let mut late = world.client_in("system.slice/late.service");
    assert_eq!(tally(&late.greetings(PAYMENT, 4)), [("n1", 2), ("n2", 2)].into());
    assert_eq!(tally(&known.greetings(PAYMENT, 4)), [("n1", 2), ("n2", 2)].into());
    assert!(lost(&agent, "edges") >= 4.0);
    assert_eq!(service_state(&world, PAYMENT).selected, 12, "what is counted of the service is exact");
    let opened = |unit: &str| {
        agent
            .metrics()
            .sum("segue_tcp_connections_opened_total", &[("src_workload", unit), ("dst_service", "payment")])
    };
    eventually_equal("connections of the client that was known", SOON, &8.0, || opened("checkout"));
}
