//! `cgroup/connect4` and `connect6`: a service address is taken, everything else is left alone.

use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::{Command, Family, Kind};
use segue_tests::client::{Errno, tally};
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::Service;
use segue_tests::wait::eventually_equal;
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const PAYMENT_V6: &str = "[fd00:5e::10]:80";
const NAMES: &str = "198.18.0.53:53";
const NAMES_V6: &str = "[fd00:5e::53]:53";

/// A dual-stack TCP service `shop/payment` with one backend per family: `four` and `six`.
fn payment(world: &World) -> (Vec<Server>, Agent<'_>) {
    let servers = vec![world.tcp("four", "127.0.0.1:8081"), world.tcp("six", "[::1]:8081")];
    let service = Service::tcp("shop/payment").at(PAYMENT).at(PAYMENT_V6);
    let service = servers.iter().fold(service, Service::to);
    let agent = world.agent(&[service]);
    (servers, agent)
}

/// A dual-stack UDP service `shop/names` with one backend per family, and a second one for reconnecting.
fn names(world: &World) -> (Vec<Server>, Agent<'_>) {
    let servers = vec![
        world.udp("four", "127.0.0.1:5301"),
        world.udp("six", "[::1]:5301"),
        world.udp("other", "127.0.0.1:5302"),
    ];
    let names = Service::udp("shop/names").at(NAMES).at(NAMES_V6).to(&servers[0]).to(&servers[1]);
    let other = Service::udp("shop/other").at("198.18.0.54:53").to(&servers[2]);
    let agent = world.agent(&[names, other]);
    (servers, agent)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_tcp_connection_to_a_service_address_reaches_its_backend() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    for (to, name) in [(PAYMENT, "four"), (PAYMENT_V6, "six")] {
        let socket = client.connect_tcp(to).expect("the service has a backend");
        assert_eq!(client.read_line(&socket).as_deref(), Ok(name));
        assert_eq!(client.ask(&Command::Exchange { socket: socket.name(), bytes: 100_000 }), Ok(()));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_ipv4_service_is_reached_from_an_ipv6_socket_by_its_mapped_address() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    let socket = client.open(Family::V6, Kind::Stream);
    client.connect(&socket, PAYMENT).expect("the service has a backend");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("four"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_nonblocking_connect_reaches_the_backend() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    for (family, to) in [(Family::V4, PAYMENT), (Family::V6, PAYMENT_V6)] {
        let socket = client.open(family, Kind::Stream);
        assert_eq!(client.connect_nonblocking(&socket, to), Err(Errno(libc::EINPROGRESS)));
        assert_eq!(client.finish_connect(&socket), Ok(()));
        assert_eq!(client.peer(&socket).as_deref(), Ok(to));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn tcp_fast_open_reaches_the_backend_with_and_without_a_cookie() {
    let world = World::new();
    world.namespace().sysctl("net/ipv4/tcp_fastopen", "3");
    let (servers, agent) = payment(&world);
    let mut client = world.client();
    for round in 1..=2 {
        let socket = client.open(Family::V4, Kind::Stream);
        let call = Command::FastOpen {
            socket: socket.name(),
            text: "hello\n".into(),
            to: PAYMENT.parse().expect("an address"),
        };
        client.ask::<()>(&call).expect("the service has a backend");
        assert_eq!(client.read_line(&socket).as_deref(), Ok("four"));
        assert_eq!(client.read_line(&socket).as_deref(), Ok("hello"));
        assert_eq!(client.peer(&socket).as_deref(), Ok(PAYMENT));
        assert_eq!(servers[0].accepted(), round);
        client.close(socket);
    }
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_address_of_no_service_is_left_alone() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    // The service's address under another port, and under another protocol.
    assert_eq!(client.connect_tcp("198.18.0.10:81").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(client.connect_udp(PAYMENT).err(), Some(Errno(libc::ENETUNREACH)));
    // Addresses nobody configured.
    assert_eq!(client.connect_tcp("198.18.0.11:80").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(client.connect_tcp("[fd00:5e::11]:80").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(client.connect_tcp("127.0.0.1:9").err(), Some(Errno(libc::ECONNREFUSED)));
    // A backend asked for by its own address.
    let direct = client.connect_tcp("127.0.0.1:8081").expect("a listener");
    assert_eq!(client.peer(&direct).as_deref(), Ok("127.0.0.1:8081"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_process_outside_the_managed_cgroup_is_left_alone() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut outside = world.client_outside();
    assert_eq!(outside.connect_tcp(PAYMENT).err(), Some(Errno(libc::ENETUNREACH)));
    let mut inside = world.client();
    assert_eq!(tally(&inside.greetings(PAYMENT, 1)), [("four", 1)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_service_without_backends_is_refused_at_once_with_the_errno_of_its_policy() {
    let world = World::new();
    let by_default = Service::tcp("shop/empty").at("198.18.0.20:80").at("[fd00:5e::20]:80");
    let refused = Service::tcp("shop/refused").at("198.18.0.21:80").policy("refuse_with: ECONNREFUSED");
    let datagrams = Service::udp("shop/mute").at("198.18.0.22:53").policy("refuse_with: ENETUNREACH");
    let agent = world.agent(&[by_default, refused, datagrams]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp("198.18.0.20:80").err(), Some(refused_with(libc::EHOSTUNREACH)));
    assert_eq!(client.connect_tcp("[fd00:5e::20]:80").err(), Some(refused_with(libc::EHOSTUNREACH)));
    assert_eq!(client.connect_tcp("198.18.0.21:80").err(), Some(refused_with(libc::ECONNREFUSED)));
    assert_eq!(client.connect_udp("198.18.0.22:53").err(), Some(refused_with(libc::ENETUNREACH)));
    assert_eq!(agent.active("shop/empty"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn connecting_a_connected_socket_again_changes_nothing() {
    let world = World::new();
    let (_servers, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    assert_eq!(client.connect(&socket, PAYMENT), Err(Errno(libc::EISCONN)));
    assert_eq!(client.connect(&socket, "127.0.0.1:8081"), Err(Errno(libc::EISCONN)));
    assert_eq!(client.peer(&socket).as_deref(), Ok(PAYMENT));
    assert_eq!(agent.active("shop/payment"), 1);
    assert_eq!(agent.backend("shop/payment", "127.0.0.1:8081", "selections"), 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_socket_whose_connect_failed_may_connect_elsewhere() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let dead = Service::tcp("shop/dead").at("198.18.0.30:80").to_address("127.0.0.1:9");
    let alive = Service::tcp("shop/alive").at("198.18.0.31:80").to(&server);
    let agent = world.agent(&[dead, alive]);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect(&socket, "198.18.0.30:80"), Err(Errno(libc::ECONNREFUSED)));
    assert_eq!(client.connect(&socket, "198.18.0.31:80"), Ok(()));
    assert_eq!(client.read_line(&socket).as_deref(), Ok("one"));
    assert_eq!(client.peer(&socket).as_deref(), Ok("198.18.0.31:80"));
    assert_eq!((agent.active("shop/dead"), agent.active("shop/alive")), (0, 1));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_tcp_socket_that_was_disconnected_may_connect_to_another_service() {
    let world = World::new();
    let (_servers, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.disconnect(&socket).expect("AF_UNSPEC resets a connection");
    assert_eq!(client.peer(&socket), Err(Errno(libc::ENOTCONN)));
    assert_eq!(agent.active("shop/payment"), 0);
    client.connect(&socket, PAYMENT).expect("the service has a backend");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("four"));
    assert_eq!(agent.active("shop/payment"), 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connected_udp_socket_talks_to_one_backend() {
    let world = World::new();
    let (_servers, _agent) = names(&world);
    let mut client = world.client();
    for (to, family, answer) in [
        (NAMES, Family::V4, "four:hello"),
        (NAMES_V6, Family::V6, "six:hello"),
        (NAMES, Family::V6, "four:hello"),
    ] {
        let socket = client.open(family, Kind::Datagram);
        client.connect(&socket, to).expect("the service has a backend");
        client.send(&socket, "hello").expect("a route to the backend");
        assert_eq!(client.receive(&socket).as_deref(), Ok(answer));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_udp_socket_may_connect_again_to_another_service_to_none_and_to_nothing() {
    let world = World::new();
    let (_servers, agent) = names(&world);
    let mut client = world.client();
    let socket = client.connect_udp(NAMES).expect("the service has a backend");
    assert_eq!((agent.active("shop/names"), agent.active("shop/other")), (1, 0));

    client.connect(&socket, "198.18.0.54:53").expect("the service has a backend");
    client.send(&socket, "a").expect("a route to the backend");
    assert_eq!(client.receive(&socket).as_deref(), Ok("other:a"));
    assert_eq!(client.peer(&socket).as_deref(), Ok("198.18.0.54:53"));
    assert_eq!((agent.active("shop/names"), agent.active("shop/other")), (0, 1));

    client.connect(&socket, "127.0.0.1:5301").expect("a route to lo");
    client.send(&socket, "b").expect("a route to lo");
    assert_eq!(client.receive(&socket).as_deref(), Ok("four:b"));
    assert_eq!(client.peer(&socket).as_deref(), Ok("127.0.0.1:5301"));
    assert_eq!((agent.active("shop/names"), agent.active("shop/other")), (0, 0));

    client.connect(&socket, NAMES).expect("the service has a backend");
    client.disconnect(&socket).expect("AF_UNSPEC dissolves the association");
    assert_eq!(client.peer(&socket), Err(Errno(libc::ENOTCONN)));
    client.connect(&socket, NAMES).expect("the service has a backend");
    client.send(&socket, "c").expect("a route to the backend");
    assert_eq!(client.receive(&socket).as_deref(), Ok("four:c"));
    client.close(socket);
    eventually_equal("connections counted", SOON, &(0, 0), || {
        (agent.active("shop/names"), agent.active("shop/other"))
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_blocking_connect_into_a_black_hole_ends_as_without_segue() {
    let world = World::new();
    world.namespace().retry_syn_once();
    let _hole = world.black_hole("127.0.0.1:8089");
    let agent = world.agent(&[Service::tcp("shop/hole").at("198.18.0.40:80").to_address("127.0.0.1:8089")]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp("198.18.0.40:80").err(), Some(Errno(libc::ETIMEDOUT)));
    eventually_equal("connections counted", Duration::from_secs(5), &0, || agent.active("shop/hole"));
}
