//! Where connections go: algorithms, weights, splits, affinity, draining. Shares are checked within five standard
//! deviations, so that a run fails by chance less than once in a million.

use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::Command;
use segue_tests::client::{Client, tally};
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal, let_pass};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";

fn servers(world: &World, count: u32) -> Vec<Server> {
    (1..=count).map(|number| world.tcp(&format!("n{number}"), &format!("127.0.0.1:808{number}"))).collect()
}

/// `shop/payment` over these servers under one policy.
fn payment(servers: &[Server], policy: &str) -> Service {
    servers.iter().fold(Service::tcp("shop/payment").at(PAYMENT).policy(policy), Service::to)
}

/// Asserts that `name` was given `probability` of all draws.
#[track_caller]
fn assert_share(names: &[String], name: &str, probability: f64) {
    let draws = f64::from(u32::try_from(names.len()).expect("few draws"));
    let seen = f64::from(tally(names).get(name).copied().unwrap_or_default());
    let deviation = (draws * probability * (1.0 - probability)).sqrt();
    let expected = draws * probability;
    assert!(
        (seen - expected).abs() <= 5.0 * deviation,
        "{name} got {seen} of {draws}, expected {expected} ± {}: {:?}",
        5.0 * deviation,
        tally(names)
    );
}

/// One pod or unit each, as clients.
fn clients(world: &World, count: u32) -> Vec<Client> {
    (1..=count).map(|number| world.client_in(&format!("system.slice/client{number}.service"))).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn random_gives_every_backend_its_share() {
    let world = World::new();
    let servers = servers(&world, 4);
    let _agent = world.agent(&[payment(&servers, "algorithm: random")]);
    let names = world.client().greetings(PAYMENT, 1_000);
    for server in &servers {
        assert_share(&names, server.name(), 0.25);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn random_gives_weighted_backends_their_weights() {
    let world = World::new();
    let servers = servers(&world, 3);
    let service = Service::tcp("shop/payment").at(PAYMENT);
    let service = service.to_with(&servers[0], "weight: 1").to_with(&servers[1], "weight: 3");
    let _agent = world.agent(&[service.to_with(&servers[2], "weight: 0")]);
    let names = world.client().greetings(PAYMENT, 1_000);
    assert_share(&names, "n1", 0.25);
    assert_share(&names, "n2", 0.75);
    assert_eq!(tally(&names).get("n3"), None);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn datagram_sockets_are_balanced_as_connections_are() {
    let world = World::new();
    let servers = [world.udp("n1", "127.0.0.1:5301"), world.udp("n2", "127.0.0.1:5302")];
    let service = Service::udp("shop/names").at("198.18.0.53:53");
    let service = service.to_with(&servers[0], "weight: 1").to_with(&servers[1], "weight: 4");
    let _agent = world.agent(&[service]);
    let names = world.client().questions("198.18.0.53:53", 1_000);
    assert_share(&names, "n1", 0.2);
    assert_share(&names, "n2", 0.8);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn round_robin_goes_round() {
    let world = World::new();
    let servers = servers(&world, 3);
    let _agent = world.agent(&[payment(&servers, "algorithm: round_robin")]);
    let names = world.client().greetings(PAYMENT, 30);
    let cycle = &names[..3];
    assert_eq!(tally(cycle).len(), 3, "{names:?}");
    assert!(names.chunks(3).all(|round| round == cycle), "{names:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn round_robin_interleaves_weights() {
    let world = World::new();
    let servers = servers(&world, 2);
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    let service = service.to_with(&servers[0], "weight: 3").to_with(&servers[1], "weight: 1");
    let _agent = world.agent(&[service]);
    let names = world.client().greetings(PAYMENT, 40);
    for round in names.chunks(4) {
        assert_eq!(tally(round), [("n1", 3), ("n2", 1)].into(), "{names:?}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn maglev_keeps_every_client_on_its_backend_and_moves_few_when_one_is_lost() {
    let world = World::new();
    let servers = servers(&world, 4);
    let agent = world.agent(&[payment(&servers, "algorithm: maglev")]);
    let mut clients = clients(&world, 16);
    let mut homes: Vec<String> = Vec::new();
    for client in &mut clients {
        // The agent learns of a new unit a moment after its first connection.
        homes.push(eventually("a client to stay on one backend", SOON, || {
            let names = client.greetings(PAYMENT, 20);
            if tally(&names).len() == 1 { Ok(names[0].clone()) } else { Err(format!("{names:?}")) }
        }));
    }
    assert!(tally(&homes).len() > 1, "16 clients all went to {}", homes[0]);

    let lost = homes[0].clone();
    let left = servers.iter().filter(|server| server.name() != lost);
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: maglev");
    agent.replace(&config(&[left.fold(service, Service::to)]));
    eventually("the lost backend to be left", SOON, || match clients[0].greetings(PAYMENT, 1).remove(0) {
        name if name == lost => Err(name),
        _ => Ok(()),
    });
    let now: Vec<String> = clients.iter_mut().map(|client| client.greetings(PAYMENT, 1).remove(0)).collect();
    let moved = homes.iter().zip(&now).filter(|(home, now)| **home != lost && home != now).count();
    assert!(moved <= 2, "{moved} of 16 clients moved without need: {homes:?} became {now:?}");
    assert!(!now.contains(&lost), "{now:?} with {lost} gone");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_containers_of_one_pod_are_one_client() {
    let world = World::new();
    let servers = servers(&world, 4);
    let _agent = world.agent(&[payment(&servers, "algorithm: maglev")]);
    let mut pods: Vec<[Client; 2]> =
        (0..8).map(|pod| [0, 1].map(|container| container_of(&world, pod, container))).collect();
    // By chance, 8 pairs agree once in 4^8.
    eventually("both containers of every pod to have one backend", SOON, || {
        let homes =
            pods.iter_mut().map(|pod| pod.each_mut().map(|client| client.greetings(PAYMENT, 1).remove(0)));
        let split: Vec<_> = homes.filter(|[first, second]| first != second).collect();
        if split.is_empty() { Ok(()) } else { Err(format!("{split:?}")) }
    });
}

/// A client in a container's cgroup, as kubelet and containerd name them.
fn container_of(world: &World, pod: u32, container: u32) -> Client {
    let uid = format!("0a1b2c3d_4e5f_4a6b_8c7d_{pod:012x}");
    let id = format!("{:064x}", u64::from(pod) * 16 + u64::from(container) + 1);
    world.client_in(&format!("kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-{id}.scope"))
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_split_gives_every_version_its_share() {
    let world = World::new();
    let servers = servers(&world, 3);
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("split: { v1: 80, v2: 20 }");
    // Two servers of v2 and one of v1: without the split v2 would get two thirds.
    let service = service.to_with(&servers[0], "version: v1");
    let service = service.to_with(&servers[1], "version: v2").to_with(&servers[2], "version: v2");
    let _agent = world.agent(&[service]);
    let names = world.client().greetings(PAYMENT, 1_000);
    assert_share(&names, "n1", 0.8);
    assert_share(&names, "n2", 0.1);
    assert_share(&names, "n3", 0.1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn affinity_keeps_a_client_on_its_backend_until_the_timeout() {
    let world = World::new();
    let servers = servers(&world, 8);
    let _agent = world.agent(&[payment(&servers, "affinity: { timeout: 1s }")]);
    let mut clients = clients(&world, 8);
    let mut before = Vec::new();
    for client in &mut clients {
        before.push(eventually("a client to stay on one backend", SOON, || {
            let names = client.greetings(PAYMENT, 20);
            if tally(&names).len() == 1 { Ok(names[0].clone()) } else { Err(format!("{names:?}")) }
        }));
    }
    assert!(tally(&before).len() > 1, "8 clients all went to {}", before[0]);
    let_pass(Duration::from_millis(1_200));
    let after: Vec<String> =
        clients.iter_mut().map(|client| client.greetings(PAYMENT, 1).remove(0)).collect();
    // By chance, 8 clients are all given the same backend again once in 8^8.
    assert_ne!(before, after, "the choices outlived their timeout");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn affinity_ends_with_its_backend() {
    let world = World::new();
    let servers = servers(&world, 2);
    let agent = world.agent(&[payment(&servers, "affinity: { timeout: 10m }")]);
    let mut client = world.client();
    let home = client.greetings(PAYMENT, 1).remove(0);
    let other: Vec<&Server> = servers.iter().filter(|server| server.name() != home).collect();
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("affinity: { timeout: 10m }");
    agent.replace(&config(&[service.to(other[0])]));
    eventually_equal("the client's backend", SOON, &other[0].name().to_owned(), || {
        client.greetings(PAYMENT, 1).remove(0)
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_draining_backend_keeps_its_connections_and_takes_no_new_ones() {
    let world = World::new();
    let servers = servers(&world, 2);
    let agent = world.agent(&[payment(&servers, "algorithm: round_robin")]);
    let mut client = world.client();
    let sockets: Vec<_> =
        (0..2).map(|_| client.connect_tcp(PAYMENT).expect("the service has a backend")).collect();
    let drained = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    agent.replace(&config(&[drained.to_with(&servers[0], "draining: true").to(&servers[1])]));
    let first = servers[0].address().to_string();
    eventually_equal("the backend's status", SOON, &"draining".to_owned(), || status_of(&agent, &first));

    assert_eq!(tally(&client.greetings(PAYMENT, 20)), [("n2", 20)].into());
    assert_eq!(agent.backend("shop/payment", &first, "active"), 1);
    for socket in sockets {
        client.read_line(&socket).expect("a greeting");
        client.ask::<()>(&Command::Exchange { socket: socket.name(), bytes: 1_000 }).expect("an echo");
        client.close(socket);
    }
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

fn status_of(agent: &Agent<'_>, address: &str) -> String {
    let services = agent.services();
    let backends = services.iter().flat_map(|view| view["backends"].as_array().into_iter().flatten());
    let found = backends.clone().find(|backend| backend["address"] == address);
    found.and_then(|backend| backend["status"].as_str()).unwrap_or("absent").to_owned()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn each_family_is_balanced_among_its_own_backends() {
    let world = World::new();
    let servers = [
        world.tcp("four1", "127.0.0.1:8081"),
        world.tcp("four2", "127.0.0.1:8082"),
        world.tcp("six1", "[::1]:8081"),
        world.tcp("six2", "[::1]:8082"),
    ];
    let service = Service::tcp("shop/payment").at(PAYMENT).at("[fd00:5e::10]:80");
    let service = servers.iter().fold(service.policy("algorithm: round_robin"), Service::to);
    let _agent = world.agent(&[service]);
    let mut client = world.client();
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("four1", 5), ("four2", 5)].into());
    assert_eq!(tally(&client.greetings("[fd00:5e::10]:80", 10)), [("six1", 5), ("six2", 5)].into());
}
