//! Programs of somebody else on the same hooks, attached before the agent's and after them: each does its own work.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::{Client, Errno, tally};
use segue_tests::foreign;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";
/// Where only the neighbour leads.
const THEIRS: &str = "198.18.9.9:8081";

fn redirect(world: &World) {
    foreign::redirect(world.managed_cgroup(), [198, 18, 9, 9].into(), [127, 0, 0, 1].into());
}

fn payment(servers: &[Server]) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    servers.iter().fold(service, Service::to)
}

/// Of each program of somebody else at `connect4`, the last part of its cgroup's path and when it runs.
fn orders(agent: &Agent<'_>) -> Vec<(String, String)> {
    let neighbours = agent.status()["neighbours"].as_array().cloned().unwrap_or_default();
    let at_connect = neighbours.into_iter().filter(|neighbour| neighbour["hook"] == "connect4");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let last = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
    at_connect.map(|neighbour| (last(text(&neighbour["cgroup"])), text(&neighbour["order"]))).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn of_two_that_translate_the_same_address_the_first_wins_and_status_says_who_that_is() {
    let world = World::new();
    let server = world.tcp("n1", N1);
    let theirs = world.tcp("theirs", "127.0.0.1:80");
    let take = |cgroup: &std::path::Path| {
        foreign::redirect(cgroup, [198, 18, 0, 10].into(), [127, 0, 0, 1].into());
    };
    let above = world.managed_cgroup().parent().expect("the scratch cgroup").to_owned();
    let name = above.file_name().expect("a name").to_string_lossy().into_owned();
    // Above the managed cgroup it comes after Segue, whenever it was attached.
    take(&above);
    let agent = world.agent(&[payment(std::slice::from_ref(&server))]);
    let mut client = world.client();
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("n1", 4)].into());
    let after = (name, "after".to_owned());
    eventually_equal("who is there", SOON, &vec![after.clone()], || orders(&agent));
    // In the same cgroup, but later: after Segue too.
    take(world.managed_cgroup());
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("n1", 4)].into());
    let second = ("managed".to_owned(), "after".to_owned());
    eventually_equal("who is there", SOON, &vec![second, after], || orders(&agent));
    // Below, it comes first.
    let mut below = world.client_in("system.slice/theirs.service");
    take(&world.managed_cgroup().join("system.slice/theirs.service"));
    assert_eq!(tally(&below.greetings(PAYMENT, 4)), [("theirs", 4)].into());
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("n1", 4)].into());
    let first = ("theirs.service".to_owned(), "before".to_owned());
    eventually("what is below to be seen", std::time::Duration::from_secs(90), || {
        let orders = orders(&agent);
        if orders.contains(&first) { Ok(()) } else { Err(format!("{orders:?}")) }
    });
    assert!(agent.log().contains("may translate addresses"), "{}", agent.log());
    drop(theirs);
}

/// Each of the two leads where it should, and what Segue counts is exact, however connections end.
fn each_does_its_own_work(agent: &Agent<'_>, client: &mut Client, before: u64) {
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
    assert_eq!(tally(&client.greetings(THEIRS, 4)), [("n1", 4)].into());
    let socket = client.connect_tcp(PAYMENT).expect("the service has backends");
    assert_eq!(client.peer(&socket).as_deref(), Ok(PAYMENT));
    assert_eq!(agent.active("shop/payment"), 1);
    client.close(socket);
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    let closed = || agent.metrics().sum("segue_tcp_connections_closed_total", &[("dst_service", "payment")]);
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let expected = (before + 11) as f64;
    eventually_equal("connections closed", SOON, &expected, closed);
    let named = agent.status()["neighbours"].to_string();
    assert!(named.contains("neighbour"), "{named}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn neighbours_that_were_there_before_and_that_come_after_go_on_beside_the_agent() {
    let world = World::new();
    let servers = [world.tcp("n1", N1), world.tcp("n2", "127.0.0.1:8082")];
    redirect(&world);
    foreign::listen_to_round_trips(world.managed_cgroup());
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    each_does_its_own_work(&agent, &mut client, 0);
    // The same again, behind ours.
    redirect(&world);
    foreign::listen_to_round_trips(world.managed_cgroup());
    each_does_its_own_work(&agent, &mut client, 11);
    // An agent that goes takes nothing of theirs along.
    agent.terminate();
    agent.unload().expect_success();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(tally(&client.greetings(THEIRS, 4)), [("n1", 4)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_failure_is_seen_also_where_a_neighbour_sets_the_flags_of_the_socket_after_us() {
    let world = World::new();
    let server = world.tcp("n1", N1);
    let breaker = "breaker: { consecutive_failures: 2, failure_ratio: 0%, open: 30m, negative_affinity: 0s }";
    let service = payment(&[]).policy(breaker).to(&server).to_address("127.0.0.1:8089");
    let agent = world.agent(std::slice::from_ref(&service));
    foreign::listen_to_round_trips(world.managed_cgroup());
    let mut client = world.client();
    let failed = client.attempts(PAYMENT, 20).iter().filter(|attempt| attempt.is_err()).count();
    assert_eq!(failed, 2, "the breaker opened");
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    agent.edit(&config(&[service]));
}
