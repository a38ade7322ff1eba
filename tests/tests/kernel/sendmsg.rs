//! `cgroup/sendmsg4` and `sendmsg6`: datagrams of unconnected sockets.

use std::collections::BTreeSet;

use segue_tests::agent::SOON;
use segue_tests::client::protocol::{Family, Kind};
use segue_tests::client::{Client, Errno, Socket};
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually;
use segue_tests::world::World;

const NAMES: &str = "198.18.0.53:53";

fn ask(client: &mut Client, socket: &Socket, to: &str) -> String {
    client.send_to(socket, "?", to).expect("the service has a backend");
    client.receive(socket).expect("an answer").trim_end_matches(":?").to_owned()
}

fn four_servers(world: &World) -> Vec<Server> {
    (1..=4).map(|number| world.udp(&format!("n{number}"), &format!("127.0.0.1:530{number}"))).collect()
}

fn names(servers: &[Server]) -> Service {
    servers.iter().fold(Service::udp("shop/names").at(NAMES), Service::to)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_datagrams_of_one_socket_follow_its_first_choice() {
    let world = World::new();
    let servers = four_servers(&world);
    let _agent = world.agent(&[names(&servers)]);
    let mut client = world.client();
    let mut chosen = BTreeSet::new();
    for _ in 0..32 {
        let socket = client.open(Family::V4, Kind::Datagram);
        let first = ask(&mut client, &socket, NAMES);
        for _ in 0..5 {
            assert_eq!(ask(&mut client, &socket, NAMES), first);
        }
        chosen.insert(first);
        client.close(socket);
    }
    // 32 sockets on 4 backends by chance: all of them but once in 10^3.9.
    assert!(chosen.len() > 2, "32 sockets only chose {chosen:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn one_socket_talks_to_two_services() {
    let world = World::new();
    let (one, two) = (world.udp("one", "127.0.0.1:5301"), world.udp("two", "127.0.0.1:5302"));
    let first = Service::udp("shop/one").at("198.18.0.1:53").to(&one);
    let second = Service::udp("shop/two").at("198.18.0.2:53").to(&two);
    let _agent = world.agent(&[first, second]);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Datagram);
    for _ in 0..3 {
        assert_eq!(ask(&mut client, &socket, "198.18.0.1:53"), "one");
        assert_eq!(ask(&mut client, &socket, "198.18.0.2:53"), "two");
        assert_eq!(ask(&mut client, &socket, "127.0.0.1:5301"), "one");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connected_socket_may_still_send_elsewhere() {
    let world = World::new();
    let (one, two) = (world.udp("one", "127.0.0.1:5301"), world.udp("two", "127.0.0.1:5302"));
    let first = Service::udp("shop/one").at("198.18.0.1:53").to(&one);
    let second = Service::udp("shop/two").at("198.18.0.2:53").to(&two);
    let _agent = world.agent(&[first, second]);
    let mut client = world.client();
    let socket = client.connect_udp("198.18.0.1:53").expect("the service has a backend");
    client.send_to(&socket, "?", "198.18.0.2:53").expect("the service has a backend");
    // The kernel drops what does not come from the connected peer; that the server got it is what counts.
    eventually("the other service to get the datagram", SOON, || match two.accepted() {
        1 => Ok(()),
        count => Err(format!("{count} datagrams")),
    });
    client.send(&socket, "!").expect("the service has a backend");
    assert_eq!(client.receive(&socket).as_deref(), Ok("one:!"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn datagrams_go_elsewhere_once_the_backend_they_followed_is_gone() {
    let world = World::new();
    let servers = four_servers(&world);
    let agent = world.agent(&[names(&servers)]);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Datagram);
    let first = ask(&mut client, &socket, NAMES);
    let rest = servers.iter().filter(|server| server.name() != first);
    let service = rest.fold(Service::udp("shop/names").at(NAMES), Service::to);
    agent.replace(&config(&[service]));
    eventually("datagrams to leave the backend that is gone", SOON, || {
        match ask(&mut client, &socket, NAMES) {
            name if name == first => Err(name),
            _ => Ok(()),
        }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_datagram_to_a_service_without_backends_is_refused_with_the_errno_of_its_policy() {
    let world = World::new();
    let empty = Service::udp("shop/empty").at("198.18.0.20:53").at("[fd00:5e::20]:53");
    let _agent = world.agent(&[empty.policy("refuse_with: ECONNREFUSED")]);
    let mut client = world.client();
    for (family, to) in
        [(Family::V4, "198.18.0.20:53"), (Family::V6, "[fd00:5e::20]:53"), (Family::V6, "198.18.0.20:53")]
    {
        let socket = client.open(family, Kind::Datagram);
        assert_eq!(
            client.send_to(&socket, "?", to),
            Err(refused_with(libc::ECONNREFUSED)),
            "{family:?} to {to}"
        );
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_datagram_to_an_address_of_no_service_is_left_alone() {
    let world = World::new();
    let servers = four_servers(&world);
    let _agent = world.agent(&[names(&servers)]);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Datagram);
    assert_eq!(client.send_to(&socket, "?", "198.18.0.53:54"), Err(Errno(libc::ENETUNREACH)));
    assert_eq!(ask(&mut client, &socket, "127.0.0.1:5303"), "n3");
}
