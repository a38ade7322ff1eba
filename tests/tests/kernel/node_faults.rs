//! What goes wrong on the node beside backends: the agent is stopped or starved, its pins and links are tampered with,
//! its cgroup goes. One test per line of the table "On the node" in docs/faults.md.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::Attempt;
use segue_tests::client::{Client, tally};
use segue_tests::counters::service_state;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const CART: &str = "198.18.0.11:80";
const N1: &str = "127.0.0.1:8081";

fn payment(servers: &[Server]) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    let breaker = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 5m, negative_affinity: 0s }";
    servers.iter().fold(service.policy(breaker), Service::to)
}

fn servers(world: &World) -> Vec<Server> {
    vec![world.tcp("n1", N1), world.tcp("n2", "127.0.0.1:8082")]
}

fn failed(attempts: &[Attempt]) -> usize {
    attempts.iter().filter(|attempt| attempt.is_err()).count()
}

/// The agent takes a changed file and answers for itself.
fn works(agent: &Agent<'_>, client: &mut Client, servers: &[Server]) {
    let cart = Service::tcp("shop/cart").at(CART).to(&servers[1]);
    agent.edit(&config(&[payment(servers), cart]));
    eventually("the new service", SOON, || match client.attempts(CART, 1).pop() {
        Some(Ok(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(agent.status()["readiness"]["ready"], true);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn while_the_agent_is_stopped_breakers_open_and_connections_go_on() {
    let world = World::new();
    let mut servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    client.greetings(PAYMENT, 4);
    agent.process().signal(libc::SIGSTOP);
    // As `cargo xtask faults --long` asks.
    if std::env::var_os("SEGUE_LONG_FAULTS").is_some() {
        segue_tests::wait::let_pass(std::time::Duration::from_secs(60));
    }
    drop(servers.remove(0));
    assert_eq!(failed(&client.attempts(PAYMENT, 20)), 1);
    assert_eq!(service_state(&world, PAYMENT).opened, 1);
    agent.process().signal(libc::SIGCONT);
    servers.insert(0, world.tcp("n1", N1));
    works(&agent, &mut client, &servers);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_without_file_descriptors_goes_on_and_answers_again_when_it_has_some() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let pid = agent.process().pid().to_string();
    let limit =
        |limit: &str| world.run_outside("prlimit", &["--pid", &pid, &format!("--nofile={limit}:4096")]);
    limit("3");
    assert_eq!(failed(&client.attempts(PAYMENT, 20)), 0);
    // What it does every second it now does without.
    segue_tests::wait::let_pass(std::time::Duration::from_secs(3));
    assert_eq!(failed(&client.attempts(PAYMENT, 20)), 0);
    limit("4096");
    works(&agent, &mut client, &servers);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_link_that_somebody_detaches_is_made_anew() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let pin = format!("{}/segue/abi{}/links/connect4", world.bpffs().display(), agent_ebpf::abi::ABI_VERSION);
    world.run_outside("bpftool", &["link", "detach", "pinned", &pin]);
    assert_eq!(failed(&client.attempts(PAYMENT, 1)), 1, "nobody redirects");
    eventually_equal("connections that fail", SOON, &0, || failed(&client.attempts(PAYMENT, 2)));
    works(&agent, &mut client, &servers);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_pin_that_somebody_replaced_is_put_right() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let pins = format!("{}/segue/abi{}", world.bpffs().display(), agent_ebpf::abi::ABI_VERSION);
    let links = || world.run_outside("ls", &[&format!("{pins}/links")]).lines().count();
    let before = links();
    world.run_outside("mv", &["-f", &format!("{pins}/links/sendmsg4"), &format!("{pins}/links/connect4")]);
    eventually_equal("connections that fail", SOON, &0, || failed(&client.attempts(PAYMENT, 2)));
    eventually_equal("links pinned", SOON, &before, links);
    works(&agent, &mut client, &servers);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn pins_that_somebody_wiped_come_back() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let pins = world.bpffs().join("segue").to_string_lossy().into_owned();
    world.run_outside("rm", &["-rf", &pins]);
    eventually_equal("connections that fail", SOON, &0, || failed(&client.attempts(PAYMENT, 2)));
    works(&agent, &mut client, &servers);
    // And what came back is what a new agent takes over.
    agent.kill();
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("n1", 2), ("n2", 2)].into());
    agent.restart();
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("n1", 2), ("n2", 2)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_map_pin_that_somebody_replaced_is_put_right_and_an_agent_that_starts_on_it_refuses() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    client.greetings(PAYMENT, 4);
    let pin = format!("{}/segue/abi{}/maps/BACKENDS", world.bpffs().display(), agent_ebpf::abi::ABI_VERSION);
    let replace = || {
        world.run_outside("rm", &[&pin]);
        let shape = ["type", "hash", "key", "4", "value", "4", "entries", "1", "name", "foreign"];
        world.run_outside("bpftool", &[&["map", "create", &pin][..], &shape[..]].concat());
    };
    replace();
    assert_eq!(failed(&client.attempts(PAYMENT, 4)), 0);
    eventually("the pin to be the agent's again", SOON, || {
        let shown = world.run_outside("bpftool", &["map", "show", "pinned", &pin]);
        if shown.contains("foreign") { Err(shown) } else { Ok(()) }
    });
    agent.kill();
    agent.restart();
    assert_eq!(agent.backend("shop/payment", N1, "selections"), 4, "what was counted is still there");
    // Without an agent that looks after it, the next one says what to do and leaves everything as it is.
    agent.kill();
    replace();
    let refused = agent.run_to_its_end();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("segue unload"), "{}", refused.stderr);
    assert_eq!(failed(&client.attempts(PAYMENT, 4)), 0);
    agent.unload().expect_success();
    agent.restart();
    works(&agent, &mut client, &servers);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_managed_cgroup_that_was_removed_and_made_anew_is_served_again() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let held = client.connect_tcp(PAYMENT);
    assert!(held.is_ok(), "{held:?}");
    client.kill();
    world.remake_managed_cgroup();
    let mut client = world.client();
    eventually_equal("connections that fail", SOON, &0, || failed(&client.attempts(PAYMENT, 2)));
    assert!(agent.log().contains("the managed cgroup was made anew"), "{}", agent.log());
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    works(&agent, &mut client, &servers);
}
