//! The configuration file while the agent runs: what is written takes effect by itself, what is wrong does not.

use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::{Client, Errno, errors, tally};
use segue_tests::config_map::ConfigMapMount;
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";

fn servers(world: &World) -> Vec<Server> {
    ["n1", "n2", "n3"]
        .iter()
        .zip(8081..)
        .map(|(name, port)| world.tcp(name, &format!("127.0.0.1:{port}")))
        .collect()
}

fn payment(servers: &[Server]) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    servers.iter().fold(service, Service::to)
}

/// Waits until new connections go to exactly these backends.
fn served_by(client: &mut Client, names: &[&str]) {
    let expected: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    eventually_equal("the backends that take connections", SOON, &expected, || {
        let answers =
            client.attempts(PAYMENT, 6).into_iter().map(|attempt| attempt.unwrap_or_else(|e| e.to_string()));
        let answers: Vec<String> = answers.collect();
        tally(&answers).into_keys().map(str::to_owned).collect()
    });
}

fn rejected(agent: &Agent<'_>) -> f64 {
    agent.metrics().sum("segue_config_apply_failures_total", &[])
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_edit_in_place_takes_effect() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers[..1])]);
    let mut client = world.client();
    served_by(&mut client, &["n1"]);
    agent.edit(&config(&[payment(&servers)]));
    served_by(&mut client, &["n1", "n2", "n3"]);
    agent.edit(&config(&[payment(&servers[1..2])]));
    served_by(&mut client, &["n2"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_file_renamed_over_the_old_one_takes_effect_every_time() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers[..1])]);
    let mut client = world.client();
    for (count, names) in [(2, &["n1", "n2"][..]), (1, &["n1"]), (3, &["n1", "n2", "n3"])] {
        agent.replace(&config(&[payment(&servers[..count])]));
        served_by(&mut client, names);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_swapped_configmap_link_takes_effect_every_time() {
    let world = World::new();
    let servers = servers(&world);
    let mut mount =
        ConfigMapMount::new(&world.directory().join("configmap"), &config(&[payment(&servers[..1])]));
    let _agent = world.agent_on(&mount.file());
    let mut client = world.client();
    served_by(&mut client, &["n1"]);
    mount.swap(&config(&[payment(&servers[..2])]));
    served_by(&mut client, &["n1", "n2"]);
    mount.swap(&config(&[payment(&servers[2..])]));
    served_by(&mut client, &["n3"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_file_that_is_deleted_and_comes_back_takes_effect() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers[..1])]);
    let mut client = world.client();
    std::fs::remove_file(agent.config_path()).expect("the file is there");
    eventually("the agent to say that the file is gone", SOON, || {
        let status = agent.status();
        if status["config"]["error"].is_string() { Ok(()) } else { Err(status["config"].to_string()) }
    });
    served_by(&mut client, &["n1"]);
    agent.edit(&config(&[payment(&servers[..2])]));
    served_by(&mut client, &["n1", "n2"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_invalid_file_changes_nothing_and_is_reported_until_it_is_mended() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers[..1])]);
    let mut client = world.client();
    let before = rejected(&agent);
    // The second service is wrong; the first, which is right and different, must not be applied either.
    let wrong = Service::tcp("shop/wrong").at("198.18.0.99:80").policy("algorithm: no_such_thing");
    agent.replace(&config(&[payment(&servers), wrong]));
    let error = eventually("the error to show", SOON, || {
        let status = agent.status();
        status["config"]["error"].as_str().map(str::to_owned).ok_or(status["config"].to_string())
    });
    assert!(error.contains("no_such_thing") && error.contains("segue.yaml:"), "{error}");
    assert!(rejected(&agent) > before, "no failure was counted");
    assert_eq!(tally(&client.greetings(PAYMENT, 6)), [("n1", 6)].into());

    agent.replace(&config(&[payment(&servers[..2])]));
    served_by(&mut client, &["n1", "n2"]);
    eventually_equal("the error", SOON, &true, || agent.status()["config"]["error"].is_null());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_removed_service_is_left_alone_and_its_open_connections_live_on() {
    let world = World::new();
    let servers = servers(&world);
    let other = Service::tcp("shop/other").at("198.18.0.20:80").to(&servers[2]);
    let agent = world.agent(&[payment(&servers[..1]), other.clone()]);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    agent.replace(&config(&[other]));
    eventually_equal("the errno of a connect", SOON, &Some(Errno(libc::ENETUNREACH)), || {
        client.connect_tcp(PAYMENT).err()
    });
    assert_eq!(client.read_line(&socket).as_deref(), Ok("n1"));
    assert_eq!(client.peer(&socket).as_deref(), Ok(PAYMENT));
    assert_eq!(tally(&client.greetings("198.18.0.20:80", 3)), [("n3", 3)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_service_scaled_to_zero_is_refused_and_back_again_served() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    agent.replace(&config(&[payment(&[])]));
    eventually_equal("the errno of a connect", SOON, &Some(refused_with(libc::EHOSTUNREACH)), || {
        client.connect_tcp(PAYMENT).err()
    });
    agent.replace(&config(&[payment(&servers[..1])]));
    served_by(&mut client, &["n1"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_leaves_and_comes_back_starts_its_counts_anew_and_never_goes_below_zero() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers[..1])]);
    let mut client = world.client();
    let old = client.connect_tcp(PAYMENT).expect("the service has a backend");
    agent.replace(&config(&[payment(&servers[1..2])]));
    served_by(&mut client, &["n2"]);
    agent.replace(&config(&[payment(&servers[..2])]));
    served_by(&mut client, &["n1", "n2"]);
    client.close(old);
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn no_connection_fails_while_fifty_edits_are_applied() {
    let world = World::new();
    let servers = servers(&world);
    let agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    let generation = || agent.metrics().sum("segue_config_generation", &[]);
    client.start_load(PAYMENT, 20_000, Duration::from_micros(500));
    client.await_load(50);
    let before = generation();
    for edit in 0..50 {
        let kept: Vec<_> = servers.iter().enumerate().filter(|(index, _)| *index != edit % 3).collect();
        let algorithm = ["algorithm: random", "algorithm: round_robin", "algorithm: maglev"][edit % 3];
        let service = Service::tcp("shop/payment").at(PAYMENT).policy(algorithm);
        let weight = format!("weight: {}", edit + 1);
        let service = kept.iter().fold(service, |service, (_, server)| service.to_with(server, &weight));
        let applied = generation();
        agent.replace(&config(&[service]));
        eventually("the edit to be applied", SOON, || {
            let now = generation();
            if now > applied { Ok(()) } else { Err(format!("still generation {now}")) }
        });
    }
    assert!(generation() >= before + 50.0);
    client.await_load(50);
    let attempts = client.stop_load();
    let failed = errors(&attempts);
    assert!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), attempts.len());
    assert!(attempts.len() > 100 && attempts.len() < 20_000, "{} connections in all", attempts.len());
}
