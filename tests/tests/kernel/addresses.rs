//! Addresses that are not what they look like: one that moves to another service, a backend that is its own client, the
//! same address in two network namespaces, a network namespace that goes.

use segue_tests::agent::SOON;
use segue_tests::client::{Client, tally};
use segue_tests::counters::service_state;
use segue_tests::namespace::Namespace;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const CART: &str = "198.18.0.11:80";
const N1: &str = "127.0.0.1:8081";
const DEAD: &str = "127.0.0.1:8089";

const BREAKER: &str =
    "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 30m, negative_affinity: 0s }";

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_address_that_moves_to_another_service_begins_there_anew_and_old_connections_stay_with_the_old() {
    let world = World::new();
    let servers = [world.tcp("n1", N1), world.tcp("n2", "127.0.0.1:8082")];
    let payment = |backends: &[&str]| {
        let service =
            Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin").policy(BREAKER);
        backends.iter().fold(service, |service, backend| service.to_address(backend))
    };
    let agent = world.agent(&[payment(&[N1, "127.0.0.1:8082", DEAD])]);
    let mut client = world.client();
    let held: Vec<_> = (0..6).filter_map(|_| client.connect_tcp(PAYMENT).ok()).collect();
    assert_eq!((held.len(), service_state(&world, PAYMENT).opened), (5, 1), "the dead address is out");
    let on_n1 = agent.backend("shop/payment", N1, "active");
    assert!(on_n1 >= 2, "{on_n1}");
    // Somebody else starts there, and is another service's.
    let newcomer = world.tcp("new", DEAD);
    let cart = Service::tcp("shop/cart").at(CART).policy("algorithm: round_robin").policy(BREAKER);
    agent.edit(&config(&[payment(&["127.0.0.1:8082"]), cart.to(&newcomer).to(&servers[0])]));
    eventually("the new service", SOON, || {
        client.connect_tcp(CART).map(|socket| client.close(socket)).map_err(|error| format!("{error:?}"))
    });
    assert_eq!(tally(&client.greetings(CART, 8)), [("n1", 4), ("new", 4)].into(), "no breaker came along");
    assert_eq!(agent.backend("shop/cart", DEAD, "failures"), 0);
    eventually_equal("connections to the new service", SOON, &0, || agent.active("shop/cart"));
    let left = || {
        let services = agent.services();
        let payment =
            services.iter().find(|service| service["name"] == "shop/payment").cloned().unwrap_or_default();
        payment["left"][0]["active"].as_u64().unwrap_or_default()
    };
    eventually_equal("connections of the old service", SOON, &on_n1, left);
    for socket in held {
        client.close(socket);
    }
    eventually_equal("connections to the old service", SOON, &0, || {
        service_state(&world, PAYMENT).usage.active
    });
}

/// Serves, and is a client of the service whose only backend it is, over TCP and UDP.
const OWN_CLIENT: &str = r#"
import socket, threading
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", 8081))
listener.listen()
peers = []
def serve():
    while True:
        connection, peer = listener.accept()
        peers.append((peer, connection.getpeername()))
        connection.sendall(b"me")
        connection.close()
threading.Thread(target=serve, daemon=True).start()
for _ in range(20):
    with socket.create_connection(("198.18.0.10", 80), timeout=10) as own:
        assert own.getpeername() == ("198.18.0.10", 80), own.getpeername()
        assert own.recv(10) == b"me"
        here = own.getsockname()
    assert peers.pop() == (here, here), "the accepted end sees who connected"
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(10)
datagrams.bind(("127.0.0.1", 8053))
datagrams.sendto(b"to myself", ("198.18.0.10", 53))
print(datagrams.recvfrom(100)[0].decode(), "ok")
"#;

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_is_its_own_client_reaches_itself() {
    let world = World::new();
    let services = [
        Service::tcp("shop/payment").at(PAYMENT).to_address(N1),
        Service::udp("shop/names").at("198.18.0.10:53").to_address("127.0.0.1:8053"),
    ];
    let agent = world.agent(&services);
    let said = world.run("python3", &["-c", OWN_CLIENT]).expect_success();
    assert_eq!(said.trim(), "to myself ok");
    assert_eq!(agent.backend("shop/payment", N1, "selections"), 20);
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_same_address_in_two_network_namespaces_is_two_servers_and_one_breaker() {
    let world = World::new();
    let elsewhere = Namespace::new(None);
    let _here = world.tcp("here", N1);
    let there = Server::tcp(&elsewhere, "there", N1);
    let service = Service::tcp("shop/payment").at(PAYMENT).policy(BREAKER).to_address(N1);
    let agent = world.agent(&[service]);
    let (mut client, mut other) = (world.client(), world.client_within(&elsewhere));
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("here", 10)].into());
    assert_eq!(tally(&other.greetings(PAYMENT, 10)), [("there", 10)].into());
    let (own, others) = (client.connect_tcp(PAYMENT), other.connect_tcp(PAYMENT));
    assert!(own.is_ok() && others.is_ok());
    assert_eq!(agent.active("shop/payment"), 2);
    // To Segue an address is one backend: what one namespace meets there counts for both. The last is never ejected.
    drop(there);
    assert!(other.attempts(PAYMENT, 3).iter().all(Result::is_err));
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("here", 10)].into());
    assert!(agent.backend("shop/payment", N1, "failures") >= 3);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_network_namespace_that_goes_with_its_sockets_open_gives_every_count_back() {
    let world = World::new();
    let (_here, service) = (world.tcp("here", N1), Service::tcp("shop/payment").at(PAYMENT).to_address(N1));
    let agent = world.agent(&[service]);
    let elsewhere = Namespace::new(None);
    let there = Server::tcp(&elsewhere, "there", N1);
    let mut other = world.client_within(&elsewhere);
    assert!(other.connect_together(PAYMENT, 20).iter().all(Result::is_ok));
    // From here on only sockets hold the namespace.
    drop(elsewhere);
    assert_eq!(agent.active("shop/payment"), 20);
    other.kill();
    drop(there);
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    let mut client: Client = world.client();
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("here", 4)].into());
}
