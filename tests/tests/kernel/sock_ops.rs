//! `sock_ops`: what is counted of a TCP connection's life, as the metrics of its edge show it.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::Errno;
use segue_tests::client::protocol::{Command, Family, Kind};
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::Service;
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::{NEIGHBOUR, World};

const PAYMENT: &str = "198.18.0.10:80";
const CLOSED: &str = "segue_tcp_connections_closed_total";
const OPENED: &str = "segue_tcp_connections_opened_total";
const FAILED: &str = "segue_tcp_connect_failures_total";

fn payment(world: &World) -> (Server, Agent<'_>) {
    let server = world.tcp("one", "127.0.0.1:8081");
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to(&server)]);
    (server, agent)
}

/// The sum of a counter over all edges to `shop/payment`.
fn count(agent: &Agent<'_>, metric: &str) -> f64 {
    agent.metrics().sum(metric, &[("dst_namespace", "shop"), ("dst_service", "payment")])
}

/// A counter of `shop/payment` by reason; only those that are not zero.
fn by_reason(agent: &Agent<'_>, metric: &str) -> Vec<(String, f64)> {
    let metrics = agent.metrics();
    let labels = [("dst_namespace", "shop"), ("dst_service", "payment")];
    let samples = metrics.matching(metric, &labels).filter(|sample| sample.value != 0.0);
    samples.map(|sample| (sample.labels["reason"].clone(), sample.value)).collect()
}

fn settles_at(agent: &Agent<'_>, metric: &str, reason: &str) {
    let expected = vec![(reason.to_owned(), 1.0)];
    eventually_equal(&format!("{metric} by reason"), SOON, &expected, || by_reason(agent, metric));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_the_client_ends_is_closed_by_fin() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.read_line(&socket).expect("a greeting");
    eventually_equal("connections opened", SOON, &1.0, || count(&agent, OPENED));
    assert_eq!(by_reason(&agent, CLOSED), []);
    client.close(socket);
    settles_at(&agent, CLOSED, "fin");
    assert_eq!(count(&agent, OPENED), 1.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_the_server_ends_first_is_closed_by_fin() {
    let world = World::new();
    let (server, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.read_line(&socket).expect("a greeting");
    server.finish_connections();
    assert_eq!(client.ask(&Command::Drain { socket: socket.name() }), Ok(0_u64));
    client.close(socket);
    settles_at(&agent, CLOSED, "fin");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_the_client_resets_is_closed_by_a_local_reset() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.read_line(&socket).expect("a greeting");
    client.ask::<()>(&Command::ResetOnClose { socket: socket.name() }).expect("an option of the socket");
    client.close(socket);
    settles_at(&agent, CLOSED, "rst_local");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_the_client_dissolves_is_closed_once() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.read_line(&socket).expect("a greeting");
    client.disconnect(&socket).expect("AF_UNSPEC resets a connection");
    settles_at(&agent, CLOSED, "rst_local");
    client.close(socket);
    eventually_equal("open connections", SOON, &0.0, || count(&agent, "segue_tcp_connections_active"));
    assert_eq!(count(&agent, CLOSED), 1.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_the_server_resets_is_closed_by_a_remote_reset() {
    let world = World::new();
    let (server, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.read_line(&socket).expect("a greeting");
    server.reset_connections();
    settles_at(&agent, CLOSED, "rst_remote");
    assert_eq!(client.receive(&socket), Err(Errno(libc::ECONNRESET)));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_whose_peer_falls_silent_is_closed_by_timeout() {
    let world = World::new();
    world.namespace().sysctl("net/ipv4/tcp_retries2", "2");
    let neighbour = world.neighbour();
    let server = Server::tcp(neighbour.namespace(), "far", &format!("{NEIGHBOUR}:8081"));
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to(&server)]);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    assert_eq!(client.read_line(&socket).as_deref(), Ok("far"));
    neighbour.fall_silent();
    client.send(&socket, "anyone there?").expect("room in the send buffer");
    assert_eq!(client.receive(&socket), Err(Errno(libc::ETIMEDOUT)));
    settles_at(&agent, CLOSED, "timeout");
    assert!(count(&agent, "segue_tcp_retransmits_total") >= 1.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_closed_port_is_a_failure_by_refusal() {
    let world = World::new();
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to_address("127.0.0.1:9")]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(Errno(libc::ECONNREFUSED)));
    settles_at(&agent, FAILED, "refused");
    assert_eq!(count(&agent, OPENED), 0.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_port_that_never_answers_is_a_failure_by_timeout() {
    let world = World::new();
    world.namespace().retry_syn_once();
    let _hole = world.black_hole("127.0.0.1:8089");
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to_address("127.0.0.1:8089")]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(Errno(libc::ETIMEDOUT)));
    settles_at(&agent, FAILED, "timeout");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_host_that_is_not_there_is_a_failure_by_unreachability() {
    let world = World::new();
    let _neighbour = world.neighbour();
    let absent = "10.77.0.99:80";
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to_address(absent)]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(Errno(libc::EHOSTUNREACH)));
    settles_at(&agent, FAILED, "unreachable");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_service_without_backends_is_a_failure_by_no_backend() {
    let world = World::new();
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT)]);
    let mut client = world.client();
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(refused_with(libc::EHOSTUNREACH)));
    settles_at(&agent, FAILED, "no_backend");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_that_gives_up_is_a_local_failure() {
    let world = World::new();
    let _hole = world.black_hole("127.0.0.1:8089");
    let agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to_address("127.0.0.1:8089")]);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect_nonblocking(&socket, PAYMENT), Err(Errno(libc::EINPROGRESS)));
    client.close(socket);
    settles_at(&agent, FAILED, "local");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn bytes_of_closed_connections_are_counted_exactly() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    for bytes in [1, 1_000, 1_000_000] {
        let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
        client.read_line(&socket).expect("a greeting");
        client.ask::<()>(&Command::Exchange { socket: socket.name(), bytes }).expect("an echo");
        client.ask::<()>(&Command::ShutdownWrite { socket: socket.name() }).expect("an open socket");
        assert_eq!(client.ask(&Command::Drain { socket: socket.name() }), Ok(0_u64));
        client.close(socket);
    }
    eventually_equal("connections closed", SOON, &3.0, || count(&agent, CLOSED));
    let greetings = 3.0 * "one\n".len() as f64;
    assert_eq!(count(&agent, "segue_tcp_sent_bytes_total"), 1_001_001.0);
    assert_eq!(count(&agent, "segue_tcp_received_bytes_total"), 1_001_001.0 + greetings);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn bytes_of_a_connection_that_stays_open_are_counted_while_it_is_open() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the service has a backend");
    client.read_line(&socket).expect("a greeting");
    let bytes =
        || (count(&agent, "segue_tcp_sent_bytes_total"), count(&agent, "segue_tcp_received_bytes_total"));
    for total in [1_000_000.0, 2_000_000.0] {
        let exchange = Command::Exchange { socket: socket.name(), bytes: 1_000_000 };
        client.ask::<()>(&exchange).expect("an echo");
        eventually_equal("bytes sent and received", SOON, &(total, total + 4.0), bytes);
    }
    assert_eq!(count(&agent, CLOSED), 0.0);
    // What was counted while it was open is not counted again when it closes.
    client.close(socket);
    eventually_equal("connections closed", SOON, &1.0, || count(&agent, CLOSED));
    assert_eq!(bytes(), (2_000_000.0, 2_000_004.0));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn every_handshake_is_in_the_histogram_of_its_duration() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    client.greetings(PAYMENT, 25);
    let metrics = eventually("25 handshakes", SOON, || {
        let metrics = agent.metrics();
        match metrics.sum(OPENED, &[("dst_service", "payment")]) {
            25.0 => Ok(metrics),
            other => Err(format!("{other} opened")),
        }
    });
    let labels = [("dst_service", "payment"), ("outcome", "ok")];
    assert_eq!(metrics.sum("segue_tcp_connect_duration_seconds_count", &labels), 25.0);
    let seconds = metrics.sum("segue_tcp_connect_duration_seconds_sum", &labels);
    assert!(seconds > 0.0 && seconds < 25.0, "25 handshakes over lo took {seconds} s");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn open_connections_are_a_gauge_of_the_edge() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut client = world.client();
    let sockets: Vec<_> =
        (0..3).map(|_| client.connect_tcp(PAYMENT).expect("the service has a backend")).collect();
    let active = || count(&agent, "segue_tcp_connections_active");
    eventually_equal("open connections", SOON, &3.0, active);
    for socket in sockets {
        client.close(socket);
    }
    eventually_equal("open connections", SOON, &0.0, active);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn two_clients_of_one_service_are_two_edges() {
    let world = World::new();
    let (_server, agent) = payment(&world);
    let mut checkout = world.client_in("system.slice/checkout.service");
    let mut search = world.client_in("system.slice/search.service");
    checkout.greetings(PAYMENT, 3);
    search.greetings(PAYMENT, 2);
    let opened =
        |workload| agent.metrics().sum(OPENED, &[("src_workload", workload), ("dst_service", "payment")]);
    eventually_equal("connections of each client", SOON, &(3.0, 2.0), || {
        (opened("checkout"), opened("search"))
    });
}
