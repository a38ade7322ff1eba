//! `cgroup/sock_release` and the counts of connections: reserved at `connect()`, given back exactly once.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::Errno;
use segue_tests::client::protocol::{Command, Family, Kind};
use segue_tests::server::{BlackHole, Server};
use segue_tests::service::Service;
use segue_tests::wait::eventually_equal;
use segue_tests::world::World;

const ALIVE: &str = "198.18.0.10:80";
const CLOSED: &str = "198.18.0.11:80";
const NO_ROUTE: &str = "198.18.0.12:80";
const HOLE: &str = "198.18.0.13:80";
const DATAGRAMS: &str = "198.18.0.14:53";

/// Services that end connections in different ways, each named after what its backend does.
fn services(world: &World) -> (Vec<Server>, BlackHole, Agent<'_>) {
    let servers = vec![world.tcp("alive", "127.0.0.1:8081"), world.udp("datagrams", "127.0.0.1:8081")];
    let hole = world.black_hole("127.0.0.1:8089");
    let agent = world.agent(&[
        Service::tcp("alive").at(ALIVE).to(&servers[0]),
        Service::tcp("closed").at(CLOSED).to_address("127.0.0.1:9"),
        Service::tcp("no-route").at(NO_ROUTE).to_address("203.0.113.1:80"),
        Service::tcp("hole").at(HOLE).to_address("127.0.0.1:8089"),
        Service::udp("datagrams").at(DATAGRAMS).to(&servers[1]),
    ]);
    (servers, hole, agent)
}

fn settles_at(agent: &Agent<'_>, service: &str, active: u64) {
    eventually_equal(&format!("connections counted for {service}"), SOON, &active, || agent.active(service));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_counts_from_connect_until_it_is_closed() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let first = client.connect_tcp(ALIVE).expect("the service has a backend");
    let second = client.connect_tcp(ALIVE).expect("the service has a backend");
    assert_eq!(agent.active("alive"), 2);
    client.close(first);
    settles_at(&agent, "alive", 1);
    client.close(second);
    settles_at(&agent, "alive", 0);
    assert_eq!(agent.backend("alive", "127.0.0.1:8081", "selections"), 2);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_counts_until_its_last_holder_lets_go() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(ALIVE).expect("the service has a backend");
    let datagrams = client.connect_udp(DATAGRAMS).expect("the service has a backend");
    client.ask::<()>(&Command::Duplicate { socket: socket.name(), copy: "copy".into() }).expect("a copy");
    client.ask::<()>(&Command::StartHolder).expect("a child");
    client.close(socket);
    client.close(datagrams);
    assert_eq!((agent.active("alive"), agent.active("datagrams")), (1, 1));
    client.ask::<()>(&Command::Close { socket: "copy".into() }).expect("the copy is open");
    assert_eq!((agent.active("alive"), agent.active("datagrams")), (1, 1));
    client.ask::<()>(&Command::EndHolder).expect("the child runs");
    settles_at(&agent, "alive", 0);
    settles_at(&agent, "datagrams", 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_refused_connection_is_given_back_while_its_socket_lives() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect(&socket, CLOSED), Err(Errno(libc::ECONNREFUSED)));
    assert_eq!(agent.active("closed"), 0);
    assert_eq!(agent.backend("closed", "127.0.0.1:9", "failures"), 1);
    client.close(socket);
    // Not a second time: an unsigned count below zero would be huge.
    assert_eq!(agent.active("closed"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_without_a_route_is_given_back_with_its_socket() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect(&socket, NO_ROUTE), Err(Errno(libc::ENETUNREACH)));
    // Trying the same socket again must not count it twice.
    assert_eq!(client.connect(&socket, NO_ROUTE), Err(Errno(libc::ENETUNREACH)));
    assert!(agent.active("no-route") <= 1, "one socket counts {} times", agent.active("no-route"));
    client.close(socket);
    settles_at(&agent, "no-route", 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_abandoned_while_connecting_is_given_back() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect_nonblocking(&socket, HOLE), Err(Errno(libc::EINPROGRESS)));
    assert_eq!(agent.active("hole"), 1);
    client.close(socket);
    settles_at(&agent, "hole", 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_udp_socket_that_connects_elsewhere_moves_its_count() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.connect_udp(DATAGRAMS).expect("the service has a backend");
    for _ in 0..3 {
        client.connect(&socket, DATAGRAMS).expect("the service has a backend");
    }
    assert_eq!(agent.active("datagrams"), 1);
    client.connect(&socket, "127.0.0.1:8081").expect("a route to lo");
    assert_eq!(agent.active("datagrams"), 0);
    client.close(socket);
    assert_eq!(agent.active("datagrams"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_datagram_socket_that_was_never_connected_counts_nothing() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Datagram);
    client.send_to(&socket, "?", DATAGRAMS).expect("the service has a backend");
    assert_eq!(client.receive(&socket).as_deref(), Ok("datagrams:?"));
    assert_eq!(agent.active("datagrams"), 0);
    client.close(socket);
    assert_eq!(agent.active("datagrams"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_killed_process_gives_back_everything_it_held() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    for _ in 0..3 {
        client.connect_tcp(ALIVE).expect("the service has a backend");
        client.connect_udp(DATAGRAMS).expect("the service has a backend");
    }
    let half_open = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect_nonblocking(&half_open, HOLE), Err(Errno(libc::EINPROGRESS)));
    let unrouted = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect(&unrouted, NO_ROUTE), Err(Errno(libc::ENETUNREACH)));
    assert_eq!((agent.active("alive"), agent.active("datagrams"), agent.active("hole")), (3, 3, 1));
    client.kill();
    for service in ["alive", "datagrams", "hole", "no-route", "closed"] {
        settles_at(&agent, service, 0);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn connections_the_server_ended_are_given_back() {
    let world = World::new();
    let (servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(ALIVE).expect("the service has a backend");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("alive"));
    servers[0].reset_connections();
    settles_at(&agent, "alive", 0);
    assert_eq!(client.receive(&socket), Err(Errno(libc::ECONNRESET)));
    client.close(socket);
    assert_eq!(agent.active("alive"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_thousand_connections_of_every_fate_leave_nothing_counted() {
    let world = World::new();
    let (_servers, _hole, agent) = services(&world);
    let mut client = world.client();
    let mut other = world.client_in("system.slice/other.service");
    other.start_load(ALIVE, 500, std::time::Duration::ZERO);
    assert!(client.attempts(CLOSED, 300).iter().all(Result::is_err));
    assert!(client.attempts(NO_ROUTE, 300).iter().all(Result::is_err));
    assert_eq!(client.greetings(ALIVE, 300).len(), 300);
    assert_eq!(client.questions(DATAGRAMS, 300).len(), 300);
    assert!(other.stop_load().iter().all(Result::is_ok));
    for service in ["alive", "closed", "no-route", "datagrams"] {
        settles_at(&agent, service, 0);
    }
    assert_eq!(agent.backend("closed", "127.0.0.1:9", "failures"), 300);
}
