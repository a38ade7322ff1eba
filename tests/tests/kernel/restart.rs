//! The agent dies and comes back: the data plane does not notice, and what it counted stays.

use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::{Errno, errors, tally};
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually_equal;
use segue_tests::world::World;
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";

fn servers(world: &World) -> Vec<Server> {
    vec![world.tcp("n1", "127.0.0.1:8081"), world.tcp("n2", "127.0.0.1:8082")]
}

fn payment(servers: &[Server]) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    servers.iter().fold(service, Service::to)
}

/// The ids of the programs on the managed cgroup, as the kernel lists them.
fn attached(world: &World) -> Vec<u64> {
    let cgroup = world.managed_cgroup().to_string_lossy().into_owned();
    let text = world.run_outside("bpftool", &["-j", "cgroup", "show", &cgroup]);
    if text.trim().is_empty() {
        // What bpftool says of a cgroup without programs.
        return Vec::new();
    }
    let programs: Vec<Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    programs.iter().map(|program| program["id"].as_u64().expect("a program has an id")).collect()
}

/// Everything pinned in the world's bpffs.
fn pins(world: &World) -> Vec<String> {
    let bpffs = world.bpffs().to_string_lossy().into_owned();
    let files = world.run_outside("find", &[&bpffs, "-mindepth", "1", "-not", "-name", "*.debug"]);
    files.lines().map(str::to_owned).collect()
}

fn opened(agent: &Agent<'_>) -> f64 {
    agent.metrics().sum("segue_tcp_connections_opened_total", &[("dst_service", "payment")])
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_data_plane_works_while_no_agent_lives() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    for end in [Agent::kill, Agent::terminate] {
        end(&mut agent);
        assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
        let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
        assert_eq!(client.peer(&socket).as_deref(), Ok(PAYMENT));
        client.close(socket);
        agent.restart();
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_new_agent_adopts_connections_and_counts() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    for end in [Agent::kill, Agent::terminate] {
        let before = opened(&agent);
        let selections = |agent: &Agent<'_>| {
            ["127.0.0.1:8081", "127.0.0.1:8082"]
                .map(|address| agent.backend("shop/payment", address, "selections"))
        };
        let selected = selections(&agent);
        let held: Vec<_> =
            (0..2).map(|_| client.connect_tcp(PAYMENT).expect("the service has a backend")).collect();
        end(&mut agent);
        client.greetings(PAYMENT, 4);
        agent.restart();
        assert_eq!(agent.active("shop/payment"), 2);
        assert_eq!(selections(&agent), selected.map(|count| count + 3));
        eventually_equal("connections opened", SOON, &(before + 6.0), || opened(&agent));
        for socket in held {
            client.close(socket);
        }
        eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_closed_while_no_agent_lives_is_given_back() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    agent.kill();
    client.close(socket);
    agent.restart();
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn no_connection_fails_while_the_agent_is_killed_and_restarted() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    client.start_load(PAYMENT, 20_000, Duration::from_micros(500));
    client.await_load(50);
    for end in [Agent::kill, Agent::terminate, Agent::kill] {
        end(&mut agent);
        client.await_load(50);
        agent.restart();
        client.await_load(50);
    }
    let attempts = client.stop_load();
    let failed = errors(&attempts);
    assert!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), attempts.len());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_was_configured_while_no_agent_lived_takes_effect_at_the_start() {
    let world = World::new();
    let servers = servers(&world);
    let moved = Service::tcp("shop/moved").at("198.18.0.20:80").to(&servers[0]);
    let mut agent = world.agent(&[payment(&servers), moved]);
    let mut client = world.client();
    agent.kill();
    let moved = Service::tcp("shop/moved").at("198.18.0.21:80").to(&servers[0]);
    agent.edit(&config(&[payment(&servers[1..]), moved]));
    agent.restart();
    assert_eq!(tally(&client.greetings(PAYMENT, 6)), [("n2", 6)].into());
    assert_eq!(client.connect_tcp("198.18.0.20:80").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(tally(&client.greetings("198.18.0.21:80", 1)), [("n1", 1)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_invalid_file_at_a_restart_leaves_what_works() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    agent.kill();
    agent.edit("services: [ this is no list of services");
    agent.restart_unready();
    assert_eq!(tally(&client.greetings(PAYMENT, 6)), [("n1", 3), ("n2", 3)].into());
    agent.edit(&config(&[payment(&servers[..1])]));
    eventually_equal("the backends that take connections", SOON, &vec!["n1".to_owned()], || {
        tally(&client.greetings(PAYMENT, 6)).into_keys().map(str::to_owned).collect()
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_second_agent_refuses_to_start_and_disturbs_nothing() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let before = attached(&world);
    let second = agent.run_second();
    assert!(!second.status.success(), "a second agent ran: {}", second.stderr);
    assert!(!second.stderr.contains("panicked"), "{}", second.stderr);
    assert_eq!(attached(&world), before);
    assert_eq!(tally(&client.greetings(PAYMENT, 6)), [("n1", 3), ("n2", 3)].into());
    assert_eq!(agent.active("shop/payment"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_restart_leaves_as_many_programs_and_pins_as_there_were() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let (programs, pinned) = (attached(&world).len(), pins(&world));
    assert!(programs >= 8, "{programs} programs attached");
    for _ in 0..3 {
        agent.kill();
        agent.restart();
    }
    assert_eq!(attached(&world).len(), programs);
    assert_eq!(pins(&world), pinned);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn unload_leaves_nothing() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    assert!(!pins(&world).is_empty());
    agent.terminate();
    agent.unload().expect_success();
    assert_eq!(attached(&world), Vec::<u64>::new());
    assert_eq!(pins(&world), Vec::<String>::new());
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(Errno(libc::ENETUNREACH)));
    // And it can begin anew.
    agent.restart();
    assert_eq!(tally(&client.greetings(PAYMENT, 2)), [("n1", 1), ("n2", 1)].into());
}
