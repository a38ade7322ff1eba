//! `cgroup/connect4` and `connect6`: a service address is taken, everything else is left alone.

use segue_tests::client::Errno;
use segue_tests::service::Service;
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_tcp_connection_to_a_service_address_reaches_its_backend() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let _agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to(&server)]);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("one"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_address_of_no_service_is_left_alone() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let _agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to(&server)]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp("198.18.0.10:81").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(client.connect_tcp("127.0.0.1:9").err(), Some(Errno(libc::ECONNREFUSED)));
    let direct = client.connect_tcp("127.0.0.1:8081").expect("a listener");
    assert_eq!(client.peer(&direct).as_deref(), Ok("127.0.0.1:8081"));
}
