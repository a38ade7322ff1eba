//! The harness itself, without an agent: what the other tests stand on must hold before they mean anything.

use std::time::Duration;

use segue_tests::client::Errno;
use segue_tests::client::protocol::{Command, Datagram, Family, Kind};
use segue_tests::server::Server;
use segue_tests::wait::eventually_equal;
use segue_tests::world::{NEIGHBOUR, World};

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn without_an_agent_a_service_address_goes_nowhere() {
    let world = World::new();
    let mut client = world.client();
    assert_eq!(client.connect_tcp("198.18.0.10:80").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(client.connect_tcp("[fd00:5e::10]:80").err(), Some(Errno(libc::ENETUNREACH)));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn servers_say_their_name_and_echo() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let _datagrams = world.udp("two", "[::1]:5353");
    let mut client = world.client();
    let socket = client.connect_tcp("127.0.0.1:8081").expect("a listener");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("one"));
    client.ask::<()>(&Command::Exchange { socket: socket.name(), bytes: 100_000 }).expect("an echo");
    assert_eq!(server.received(), 100_000);
    assert_eq!(server.open(), 1);
    client.close(socket);
    eventually_equal("the server's open connections", Duration::from_secs(5), &0, || server.open());

    let socket = client.open(Family::V6, Kind::Datagram);
    client.send_to(&socket, "hello", "[::1]:5353").expect("a route to lo");
    let expected = Datagram { text: "two:hello".into(), from: "[::1]:5353".into() };
    assert_eq!(client.receive_from(&socket), Ok(expected));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_server_can_reset_its_connections() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let mut client = world.client();
    let socket = client.connect_tcp("127.0.0.1:8081").expect("a listener");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("one"));
    server.reset_connections();
    assert_eq!(client.receive(&socket), Err(Errno(libc::ECONNRESET)));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_black_hole_never_answers_a_syn() {
    let world = World::new();
    world.namespace().retry_syn_once();
    let _hole = world.black_hole("127.0.0.1:8089");
    let mut client = world.client();
    assert_eq!(client.connect_tcp("127.0.0.1:8089").err(), Some(Errno(libc::ETIMEDOUT)));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_socket_is_seen_from_a_child_and_from_a_process_it_was_passed_to() {
    let world = World::new();
    let _server = world.tcp("one", "127.0.0.1:8081");
    let mut client = world.client();
    let socket = client.connect_tcp("127.0.0.1:8081").expect("a listener");
    let peer = Command::Peer { socket: socket.name() };
    let in_child = client.ask::<String>(&Command::InChild { then: Box::new(peer.clone()) });
    assert_eq!(in_child.as_deref(), Ok("127.0.0.1:8081"));
    let passed = client.ask::<String>(&Command::InReceiver { socket: socket.name(), then: Box::new(peer) });
    assert_eq!(passed.as_deref(), Ok("127.0.0.1:8081"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_world_takes_its_cgroup_and_its_processes_with_it() {
    let world = World::new();
    let cgroup = world.managed_cgroup().to_owned();
    let program = world.start("sleep", &["60"]);
    let pid = program.pid();
    let procs = std::fs::read_to_string(cgroup.join("system.slice/checkout.service/cgroup.procs"));
    assert!(procs.expect("the client's cgroup").lines().any(|line| line == pid.to_string()));
    drop(program);
    drop(world);
    assert!(!cgroup.exists(), "{} stays behind", cgroup.display());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} stays behind");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_neighbour_answers_until_it_falls_silent() {
    let world = World::new();
    world.namespace().sysctl("net/ipv4/tcp_retries2", "2");
    let neighbour = world.neighbour();
    let address = format!("{NEIGHBOUR}:8081");
    let _server = Server::tcp(neighbour.namespace(), "far", &address);
    let mut client = world.client();
    let socket = client.connect_tcp(&address).expect("a listener");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("far"));
    assert_eq!(client.connect_tcp("10.77.0.99:80").err(), Some(Errno(libc::EHOSTUNREACH)));
    neighbour.fall_silent();
    client.send(&socket, "anyone there?").expect("room in the send buffer");
    assert_eq!(client.receive(&socket), Err(Errno(libc::ETIMEDOUT)));
}
