//! An operator's orders: they take effect at the next connection, hold without an agent, and end by themselves.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::tally;
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";
const ONE: &str = "127.0.0.1:8081";

fn servers(world: &World) -> Vec<Server> {
    vec![world.tcp("n1", ONE), world.tcp("n2", "127.0.0.1:8082")]
}

fn payment(servers: &[Server]) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    servers.iter().fold(service, Service::to)
}

/// What holds for each backend of the only service, as `segue breaker` shows it.
fn in_force(agent: &Agent<'_>) -> Vec<String> {
    let json = agent.breaker(&["-o", "json"]).expect_success();
    let cells: Vec<Value> = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    cells.iter().map(|cell| cell["in_force"].as_str().expect("a name").to_owned()).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_ordered_out_gets_no_connection_until_the_order_is_taken_back() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    agent.breaker(&["open", "shop/payment", ONE]).expect_success();
    assert_eq!(in_force(&agent), ["forced_open", "closed"]);
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n2", 10)].into());
    agent.breaker(&["open", "shop/payment"]).expect_success();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(refused_with(libc::EHOSTUNREACH)));
    let explanation = agent.explain(PAYMENT);
    assert_eq!(explanation["chains"][0]["errno"], libc::EHOSTUNREACH, "{explanation}");
    agent.breaker(&["auto", "shop/payment"]).expect_success();
    assert_eq!(in_force(&agent), ["closed", "closed"]);
    let explanation = agent.explain("shop/payment");
    assert!(explanation["chains"][0]["errno"].is_null(), "{explanation}");
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_order_holds_while_no_agent_lives_and_after_a_restart_and_a_reload() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    agent.breaker(&["open", "shop/payment", ONE, "--for", "1h"]).expect_success();
    agent.kill();
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("n2", 4)].into());
    agent.restart();
    assert_eq!(in_force(&agent), ["forced_open", "closed"]);
    let third = world.tcp("n3", "127.0.0.1:8083");
    agent.edit(&config(&[payment(&servers).to(&third)]));
    eventually_equal("the backends in order", SOON, &3, || in_force(&agent).len());
    assert_eq!(in_force(&agent)[0], "forced_open");
    // Twice round: the turn of the one that is out falls to its neighbour.
    let greetings = client.greetings(PAYMENT, 6);
    assert_eq!(tally(&greetings).into_keys().collect::<Vec<_>>(), ["n2", "n3"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_order_ends_by_itself_without_an_agent() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    agent.breaker(&["open", "shop/payment", "--for", "3s"]).expect_success();
    agent.kill();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(refused_with(libc::EHOSTUNREACH)));
    eventually("the order to end", SOON, || {
        client.connect_tcp(PAYMENT).map_err(|error| format!("{error:?}"))
    });
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_order_about_what_is_not_there_fails_and_says_so() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    for wrong in [&["open", "shop/nothing"][..], &["open", "shop/payment", "127.0.0.9:80"][..]] {
        let finished = agent.breaker(wrong);
        assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains("segue services"), "{}", finished.stderr);
    }
    assert_eq!(in_force(&agent), ["closed", "closed"]);
}
