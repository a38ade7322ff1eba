//! `cgroup/getpeername4` and `getpeername6`: the application sees the address it asked for, from everywhere.

use segue_tests::agent::Agent;
use segue_tests::client::protocol::{Command, Family, Kind};
use segue_tests::client::{Client, Socket};
use segue_tests::server::Server;
use segue_tests::service::Service;
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const PAYMENT_V6: &str = "[fd00:5e::10]:80";

fn payment(world: &World) -> (Vec<Server>, Agent<'_>) {
    let servers = vec![
        world.tcp("four", "127.0.0.1:8081"),
        world.tcp("six", "[::1]:8081"),
        world.udp("four", "127.0.0.1:8081"),
    ];
    let tcp = Service::tcp("shop/payment").at(PAYMENT).at(PAYMENT_V6).to(&servers[0]).to(&servers[1]);
    let udp = Service::udp("shop/payment-udp").at(PAYMENT).to(&servers[2]);
    let agent = world.agent(&[tcp, udp]);
    (servers, agent)
}

fn connected(client: &mut Client, family: Family, kind: Kind, to: &str) -> Socket {
    let socket = client.open(family, kind);
    client.connect(&socket, to).expect("the service has a backend");
    socket
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_peer_of_a_connection_to_a_service_is_the_service_address() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    for (family, kind, to, peer) in [
        (Family::V4, Kind::Stream, PAYMENT, PAYMENT),
        (Family::V6, Kind::Stream, PAYMENT_V6, PAYMENT_V6),
        (Family::V6, Kind::Stream, PAYMENT, "[::ffff:198.18.0.10]:80"),
        (Family::V4, Kind::Datagram, PAYMENT, PAYMENT),
        (Family::V6, Kind::Datagram, PAYMENT, "[::ffff:198.18.0.10]:80"),
    ] {
        let socket = connected(&mut client, family, kind, to);
        assert_eq!(client.peer(&socket).as_deref(), Ok(peer), "{family:?} {kind:?} to {to}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_local_address_is_the_kernels_own() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    let socket = connected(&mut client, Family::V4, Kind::Stream, PAYMENT);
    let local = client.local(&socket).expect("a connected socket has a local address");
    assert!(local.starts_with("127.0.0.1:"), "{local}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_peer_is_the_same_through_a_duplicate_in_a_child_and_in_another_process() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    for to in [PAYMENT, PAYMENT_V6] {
        let family = if to == PAYMENT { Family::V4 } else { Family::V6 };
        let socket = connected(&mut client, family, Kind::Stream, to);
        let peer = Command::Peer { socket: socket.name() };
        let child: Result<String, _> = client.ask(&Command::InChild { then: Box::new(peer.clone()) });
        assert_eq!(child.as_deref(), Ok(to));
        let passed: Result<String, _> =
            client.ask(&Command::InReceiver { socket: socket.name(), then: Box::new(peer) });
        assert_eq!(passed.as_deref(), Ok(to));
        let copy = format!("copy of {}", socket.name());
        client.ask::<()>(&Command::Duplicate { socket: socket.name(), copy: copy.clone() }).expect("a copy");
        client.close(socket);
        let kept: Result<String, _> = client.ask(&Command::Peer { socket: copy });
        assert_eq!(kept.as_deref(), Ok(to));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_made_to_a_backend_itself_shows_the_backend() {
    let world = World::new();
    let (_servers, _agent) = payment(&world);
    let mut client = world.client();
    // On the same sockets' family and port as the service's backends, so that only memory could mix them up.
    let _service = connected(&mut client, Family::V4, Kind::Stream, PAYMENT);
    let direct = connected(&mut client, Family::V4, Kind::Stream, "127.0.0.1:8081");
    assert_eq!(client.peer(&direct).as_deref(), Ok("127.0.0.1:8081"));
}
