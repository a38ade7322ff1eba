//! `cgroup/recvmsg4` and `recvmsg6`: the answer of a backend comes from the service address.

use segue_tests::client::protocol::{Datagram, Family, Kind};
use segue_tests::client::{Client, Outcome, Socket};
use segue_tests::service::Service;
use segue_tests::world::World;

const NAMES: &str = "198.18.0.53:53";
const NAMES_V6: &str = "[fd00:5e::53]:53";

fn ask(client: &mut Client, socket: &Socket, to: &str) -> Outcome<Datagram> {
    client.send_to(socket, "?", to)?;
    client.receive_from(socket)
}

fn datagram(text: &str, from: &str) -> Datagram {
    Datagram { text: text.into(), from: from.into() }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_answer_to_an_unconnected_socket_comes_from_the_service_address() {
    let world = World::new();
    let servers = [world.udp("four", "127.0.0.1:5301"), world.udp("six", "[::1]:5301")];
    let service = Service::udp("shop/names").at(NAMES).at(NAMES_V6);
    let _agent = world.agent(&[servers.iter().fold(service, Service::to)]);
    let mut client = world.client();
    for (family, to, answer) in [
        (Family::V4, NAMES, datagram("four:?", NAMES)),
        (Family::V6, NAMES_V6, datagram("six:?", NAMES_V6)),
        (Family::V6, NAMES, datagram("four:?", "[::ffff:198.18.0.53]:53")),
    ] {
        let socket = client.open(family, Kind::Datagram);
        assert_eq!(ask(&mut client, &socket, to), Ok(answer), "{family:?} to {to}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn answers_of_two_services_come_from_the_address_each_was_asked_at() {
    let world = World::new();
    let (one, two) = (world.udp("one", "127.0.0.1:5301"), world.udp("two", "127.0.0.1:5302"));
    let first = Service::udp("shop/one").at("198.18.0.1:53").to(&one);
    let second = Service::udp("shop/two").at("198.18.0.2:53").to(&two);
    let _agent = world.agent(&[first, second]);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Datagram);
    client.send_to(&socket, "a", "198.18.0.1:53").expect("the service has a backend");
    client.send_to(&socket, "b", "198.18.0.2:53").expect("the service has a backend");
    let mut answers = [client.receive_from(&socket), client.receive_from(&socket)];
    answers.sort_by_key(|answer| answer.as_ref().map(|datagram| datagram.from.clone()).ok());
    assert_eq!(answers, [Ok(datagram("one:a", "198.18.0.1:53")), Ok(datagram("two:b", "198.18.0.2:53"))]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_answer_to_a_connected_socket_comes_from_the_service_address() {
    let world = World::new();
    let server = world.udp("four", "127.0.0.1:5301");
    let _agent = world.agent(&[Service::udp("shop/names").at(NAMES).to(&server)]);
    let mut client = world.client();
    for (family, from) in [(Family::V4, NAMES), (Family::V6, "[::ffff:198.18.0.53]:53")] {
        let socket = client.open(family, Kind::Datagram);
        client.connect(&socket, NAMES).expect("the service has a backend");
        client.send(&socket, "?").expect("a route to the backend");
        assert_eq!(client.receive_from(&socket), Ok(datagram("four:?", from)));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_datagram_from_somewhere_else_keeps_its_source() {
    let world = World::new();
    let server = world.udp("four", "127.0.0.1:5301");
    let _agent = world.agent(&[Service::udp("shop/names").at(NAMES).to(&server)]);
    let mut client = world.client();
    // A socket that never talked to the service: the backend's own address is what it asked for.
    let fresh = client.open(Family::V4, Kind::Datagram);
    assert_eq!(ask(&mut client, &fresh, "127.0.0.1:5301"), Ok(datagram("four:?", "127.0.0.1:5301")));
    // A socket that did: another server's datagrams are still that server's.
    let _other = world.udp("other", "127.0.0.1:5302");
    assert_eq!(ask(&mut client, &fresh, NAMES), Ok(datagram("four:?", NAMES)));
    assert_eq!(ask(&mut client, &fresh, "127.0.0.1:5302"), Ok(datagram("other:?", "127.0.0.1:5302")));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_socket_that_was_connected_gets_answers_from_the_service_address_when_it_no_longer_is() {
    let world = World::new();
    let server = world.udp("four", "127.0.0.1:5301");
    let _agent = world.agent(&[Service::udp("shop/names").at(NAMES).to(&server)]);
    let mut client = world.client();
    let socket = client.connect_udp(NAMES).expect("the service has a backend");
    client.disconnect(&socket).expect("AF_UNSPEC dissolves the association");
    assert_eq!(ask(&mut client, &socket, NAMES), Ok(datagram("four:?", NAMES)));
}
