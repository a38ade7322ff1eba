//! A source that suddenly names hardly anything: what it takes away stays until somebody accepts, also over a restart.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::{Client, Errno, tally};
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually_equal;
use segue_tests::world::World;
use serde_json::Value;

const COUNT: usize = 20;

fn frontend(number: usize) -> String {
    format!("198.18.2.{number}:80")
}

fn services(server: &Server, numbers: std::ops::Range<usize>) -> Vec<Service> {
    numbers
        .map(|number| Service::tcp(&format!("shop/{number:02}")).at(&frontend(number)).to(server))
        .collect()
}

/// How many of the services can be reached; a miss goes nowhere.
fn reachable(client: &mut Client, numbers: std::ops::Range<usize>) -> usize {
    numbers.filter(|&number| client.attempts(&frontend(number), 1).iter().all(Result::is_ok)).count()
}

fn held(agent: &Agent<'_>) -> Vec<Value> {
    agent.status()["held"].as_array().cloned().unwrap_or_default()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_file_that_suddenly_names_hardly_anything_takes_nothing_away_until_somebody_accepts() {
    let world = World::new();
    let server = world.tcp("n1", "127.0.0.1:8081");
    let agent = world.agent(&services(&server, 1..COUNT + 1));
    let mut client = world.client();
    assert_eq!(reachable(&mut client, 1..COUNT + 1), COUNT);
    // One stays, one is new, nineteen go.
    let mut left = services(&server, 1..2);
    left.extend(services(&server, 100..101));
    agent.edit(&config(&left));
    eventually_equal("the new service", SOON, &1, || reachable(&mut client, 100..101));
    assert_eq!(reachable(&mut client, 1..COUNT + 1), COUNT, "nothing went");
    assert_eq!(held(&agent).len(), COUNT - 1);
    assert_eq!(agent.metrics().sum("segue_deletions_held", &[("source", "file"), ("loss", "service")]), 19.0);
    assert!(agent.log().contains("mass deletion held back"), "{}", agent.log());
    let shown = agent.accept(&["--dry-run"]).expect_success();
    assert!(shown.contains("shop/02") && shown.contains("shop/20") && !shown.contains("shop/01"), "{shown}");
    assert_eq!(held(&agent).len(), COUNT - 1, "showing accepts nothing");
    agent.accept(&["shop/02"]).expect_success();
    eventually_equal("what is held", SOON, &(COUNT - 2), || held(&agent).len());
    eventually_equal("the service that was accepted", SOON, &0, || reachable(&mut client, 2..3));
    agent.accept(&[]).expect_success();
    eventually_equal("services that go", SOON, &1, || reachable(&mut client, 1..COUNT + 1));
    assert_eq!(client.connect_tcp(&frontend(9)).err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(held(&agent), Vec::<Value>::new());
    assert!(!agent.accept(&["shop/09"]).status.success(), "nothing of that name is held");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_that_starts_on_a_file_that_lost_its_services_keeps_what_it_finds_until_somebody_accepts() {
    let world = World::new();
    let server = world.tcp("n1", "127.0.0.1:8081");
    let mut agent = world.agent(&services(&server, 1..COUNT + 1));
    let mut client = world.client();
    agent.kill();
    agent.edit(&config(&services(&server, 1..2)));
    agent.restart();
    assert_eq!(reachable(&mut client, 1..COUNT + 1), COUNT, "nothing went");
    let views = held(&agent);
    assert_eq!(views.len(), COUNT - 1, "{views:#?}");
    assert!(views.iter().all(|view| view["source"].is_null()), "{views:#?}");
    // A second one holds the same, whatever the first had in mind.
    agent.terminate();
    agent.restart();
    assert_eq!((held(&agent).len(), reachable(&mut client, 1..COUNT + 1)), (COUNT - 1, COUNT));
    // Half of it comes back by its name and is an ordinary service again.
    agent.edit(&config(&services(&server, 1..COUNT / 2)));
    eventually_equal("what is held", SOON, &(COUNT / 2 + 1), || held(&agent).len());
    agent.accept(&[]).expect_success();
    eventually_equal("services that go", SOON, &(COUNT / 2 - 1), || reachable(&mut client, 1..COUNT + 1));
    assert_eq!(tally(&client.greetings(&frontend(1), 2)), [("n1", 2)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_service_whose_file_loses_most_of_its_backends_keeps_them_until_they_are_accepted() {
    let world = World::new();
    let servers: Vec<Server> = (0..12)
        .map(|number| world.tcp(&format!("n{number}"), &format!("127.0.0.1:{}", 8081 + number)))
        .collect();
    let service = |servers: &[Server]| {
        let service = Service::tcp("shop/payment").at("198.18.0.10:80").policy("algorithm: round_robin");
        servers.iter().fold(service, Service::to)
    };
    let agent = world.agent(&[service(&servers)]);
    let mut client = world.client();
    agent.edit(&config(&[service(&servers[..1])]));
    eventually_equal("what is held", SOON, &1, || held(&agent).len());
    assert_eq!(held(&agent)[0]["backends"], 11);
    assert_eq!(tally(&client.greetings("198.18.0.10:80", 12)).len(), 12, "all of them answer");
    agent.accept(&["shop/payment"]).expect_success();
    eventually_equal("backends that answer", SOON, &1, || {
        tally(&client.greetings("198.18.0.10:80", 12)).len()
    });
}
