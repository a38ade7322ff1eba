//! Who is chosen where backends differ: a client that just failed, the node's own zone, a backend that joins, and
//! when breakers are not believed. Shares are checked within five standard deviations.

use segue_tests::agent::SOON;
use segue_tests::client::{Client, Errno, errors, tally};
use segue_tests::counters::service_state;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually;
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";
const N2: &str = "127.0.0.1:8082";

const REFUSED: Errno = Errno(libc::ECONNREFUSED);

/// Out at the first failure, for longer than a test runs, and all of them may be.
const AT_ONCE: &str = "consecutive_failures: 1, failure_ratio: 0%, open: 5m, open_max: 5m, \
                       max_ejection: 100%, negative_affinity: 0s";

fn servers(world: &World, count: u32) -> Vec<Server> {
    (1..=count).map(|number| world.tcp(&format!("n{number}"), &format!("127.0.0.1:808{number}"))).collect()
}

fn payment(policy: &str) -> Service {
    Service::tcp("shop/payment").at(PAYMENT).policy(policy)
}

/// How many of so many connections went to servers of these names.
fn share(client: &mut Client, count: u32, names: &[&str]) -> u32 {
    let greetings = client.greetings(PAYMENT, count);
    let tally = tally(&greetings);
    names.iter().filter_map(|name| tally.get(name)).sum()
}

/// Ends a server and connects until so many breakers opened.
fn lose(world: &World, client: &mut Client, server: Server, opened: u64) {
    drop(server);
    eventually("the breaker to open", SOON, || match service_state(world, PAYMENT).opened {
        now if now == opened => Ok(()),
        now => Err(format!("{now} opened; {:?}", client.attempts(PAYMENT, 1))),
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_that_failed_on_a_backend_is_sent_elsewhere_on_its_retry_before_any_breaker_opens() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let breaker = "breaker: { consecutive_failures: 100, failure_ratio: 0%, negative_affinity: 1m }";
    let service = payment("algorithm: round_robin").policy(breaker).to_address(N1).to_address(N2);
    let agent = world.agent(&[service]);
    for unit in ["one", "two"] {
        // The failure of one client says nothing of another.
        let mut client = world.client_in(&format!("system.slice/{unit}.service"));
        assert_eq!(errors(&client.attempts(PAYMENT, 20)), [REFUSED], "{unit}");
    }
    let state = service_state(&world, PAYMENT);
    // Half of each client's 20 fell to n1, the first of these failed there.
    assert_eq!((state.kept_away, state.opened, state.selected), (18, 0, 40), "{state:?}");
    // And the agent tells who is kept away from whom.
    for (unit, takes) in [("one", false), ("three", true)] {
        let cgroup = world.managed_child(&format!("system.slice/{unit}.service"));
        let explained = agent.explain_to(&cgroup, "shop/payment");
        assert_eq!(explained["asker"]["managed"], true, "{explained}");
        let candidate = &explained["chains"][0]["services"][0]["candidates"][0];
        assert_eq!(candidate["takes"], takes, "{unit}: {explained}");
        let why = candidate["why"].as_str().unwrap_or_default();
        assert_eq!(why.starts_with("this client just failed on it"), !takes, "{unit}: {why}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_goes_back_to_the_backend_it_failed_on_where_there_is_no_other_and_when_its_time_is_over() {
    let world = World::new();
    let breaker = "breaker: { consecutive_failures: 100, failure_ratio: 0%, negative_affinity: 1s }";
    let agent = world.agent(&[payment(breaker).to_address(N1)]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 5)), [REFUSED; 5]);
    let _n2 = world.tcp("n2", N2);
    agent.edit(&config(&[payment(breaker).to_address(N1).to_address(N2)]));
    eventually("the other backend", SOON, || match errors(&client.attempts(PAYMENT, 1)).as_slice() {
        [] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let failures = agent.backend("shop/payment", N1, "failures");
    eventually("another try", SOON, || match client.attempts(PAYMENT, 1) {
        attempts if attempts[0].is_err() => Ok(()),
        attempts => Err(format!("{attempts:?}")),
    });
    assert!(agent.backend("shop/payment", N1, "failures") > failures);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_own_zone_keeps_all_while_it_can_carry_it_then_overflows_in_proportion_then_loses_all() {
    let world = World::new();
    let mut servers = servers(&world, 6);
    let breaker = format!("breaker: {{ {AT_ONCE}, panic: 0% }}");
    let service = payment("algorithm: random, locality: prefer_zone").policy(&breaker);
    let service = servers.iter().zip(1..).fold(service, |service, (server, number)| {
        service.to_with(server, if number <= 4 { "zone: here" } else { "zone: there" })
    });
    let agent = world.agent(&[service]);
    let mut client = world.client();
    let near = ["n1", "n2", "n3", "n4"];
    assert_eq!(share(&mut client, 100, &near), 100, "all healthy");
    lose(&world, &mut client, servers.remove(0), 1);
    assert_eq!(share(&mut client, 100, &near), 100, "three of four are healthy");
    lose(&world, &mut client, servers.remove(0), 2);
    // Two of four, by 1.4: 280 of 400, with a deviation of 9.2.
    let half = share(&mut client, 400, &near);
    assert!((234..=326).contains(&half), "{half} of 400");
    let explanation = agent.explain("shop/payment").to_string();
    assert!(explanation.contains("prefers zone here, where 2 of 4 are healthy: 70 % stay"), "{explanation}");
    lose(&world, &mut client, servers.remove(0), 3);
    lose(&world, &mut client, servers.remove(0), 4);
    let before = service_state(&world, PAYMENT);
    assert_eq!(share(&mut client, 100, &["n5", "n6"]), 100, "none is healthy");
    let after = service_state(&world, PAYMENT);
    assert_eq!((after.near - before.near, after.overflowed - before.overflowed), (0, 100));
    assert_eq!(after.ejected, 4);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn every_algorithm_splits_and_affinity_keep_to_the_zone_and_a_zone_without_backends_changes_nothing() {
    let world = World::new();
    let servers = servers(&world, 4);
    let policies = [
        "algorithm: random",
        "algorithm: round_robin",
        "algorithm: maglev",
        "algorithm: least_connections",
        "algorithm: peak_ewma",
        "split: { v1: 1, v2: 1 }",
        "affinity: { timeout: 1m }",
    ];
    let over = |name: &str, at: &str, policy: &str, zones: [&str; 4]| {
        let service = Service::tcp(name).at(at).policy(policy).policy("locality: prefer_zone");
        servers.iter().zip(zones).zip(["v1", "v2", "v1", "v2"]).fold(
            service,
            |service, ((server, zone), version)| {
                service.to_with(server, &format!("zone: {zone}, version: {version}"))
            },
        )
    };
    let mut services: Vec<Service> = policies
        .iter()
        .enumerate()
        .map(|(index, policy)| {
            let (name, at) = (format!("shop/s{index}"), format!("198.18.1.{index}:80"));
            over(&name, &at, policy, ["here", "here", "there", "there"])
        })
        .collect();
    services.push(over("shop/payment", PAYMENT, "algorithm: round_robin", ["there"; 4]));
    let _agent = world.agent(&services);
    let mut client = world.client();
    for (index, policy) in policies.iter().enumerate() {
        let names = client.greetings(&format!("198.18.1.{index}:80"), 40);
        assert!(names.iter().all(|name| ["n1", "n2"].contains(&name.as_str())), "{policy}: {names:?}");
    }
    assert_eq!(tally(&client.greetings("198.18.1.1:80", 40)), [("n1", 20), ("n2", 20)].into());
    assert_eq!(tally(&client.greetings(PAYMENT, 40)).len(), 4, "no backend is in the zone");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_joins_a_running_service_gets_a_growing_share_and_the_first_ones_all_at_once() {
    let world = World::new();
    let servers = servers(&world, 3);
    let policy = "algorithm: random, slow_start: 8s";
    let first = payment(policy).to(&servers[0]).to(&servers[1]);
    let mut agent = world.agent(std::slice::from_ref(&first));
    let mut client = world.client();
    let both = share(&mut client, 200, &["n2"]);
    assert!((65..=135).contains(&both), "{both} of 200 at the first start");
    agent.edit(&config(&[first.to(&servers[2])]));
    eventually("the backend to be there", SOON, || match share(&mut client, 5, &["n3"]) {
        0 => Err("nothing yet"),
        _ => Ok(()),
    });
    let joined = share(&mut client, 200, &["n3"]);
    assert!(joined < 40, "{joined} of 200 at once");
    // A third of 200 is 67, with a deviation of 6.7.
    eventually("its whole share", SOON, || match share(&mut client, 200, &["n3"]) {
        share @ 0..50 => Err(format!("{share} of 200")),
        _ => Ok(()),
    });
    agent.kill();
    agent.restart();
    let adopted = share(&mut client, 200, &["n3"]);
    assert!(adopted >= 33, "{adopted} of 200 after a restart");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn breakers_are_believed_down_to_the_panic_threshold_and_an_order_always() {
    let world = World::new();
    let mut servers = servers(&world, 4);
    let breaker = format!("breaker: {{ {AT_ONCE}, panic: 50% }}");
    let service = payment("algorithm: round_robin").policy(&breaker);
    let agent = world.agent(&[servers.iter().fold(service, Service::to)]);
    let mut client = world.client();
    lose(&world, &mut client, servers.remove(0), 1);
    lose(&world, &mut client, servers.remove(0), 2);
    assert_eq!(errors(&client.attempts(PAYMENT, 40)), [], "half of them is not too few");
    assert_eq!(service_state(&world, PAYMENT).panicked, 0);
    lose(&world, &mut client, servers.remove(0), 3);
    let before = service_state(&world, PAYMENT).panicked;
    assert_eq!(errors(&client.attempts(PAYMENT, 40)), [REFUSED; 30], "a quarter is: each gets its part");
    assert_eq!(service_state(&world, PAYMENT).panicked - before, 30);
    let explanation = agent.explain("shop/payment").to_string();
    assert!(explanation.contains("panic: with 1 of 4 healthy"), "{explanation}");
    agent.breaker(&["open", "shop/payment", N1]).expect_success();
    let reached = agent.backend("shop/payment", N1, "selections");
    // What falls to n1 goes on to n2, which is down too.
    assert_eq!(errors(&client.attempts(PAYMENT, 40)), [REFUSED; 30]);
    assert_eq!(agent.backend("shop/payment", N1, "selections"), reached);
}
