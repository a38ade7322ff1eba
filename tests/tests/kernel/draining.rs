//! What becomes of the open connections of backends that are removed, draining or ejected: kept, or reset after a while,
//! those and no others. Where nothing may happen, the end of another connection says that enough time has passed.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::{Family, Kind};
use segue_tests::client::{Client, Errno, Outcome, Socket};
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";
const CLOCK: &str = "198.18.0.20:80";
const NAMES: &str = "198.18.0.53:53";
const N1: &str = "127.0.0.1:8081";
const N2: &str = "127.0.0.1:8082";

const AT_ONCE: &str = "draining: { on: [removed, draining, ejected], reset_after: 0s }";

/// `shop/payment` over these backends, with a field of its policy.
fn payment(backends: &[&str], field: &str) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    let service = if field.is_empty() { service } else { service.policy(field) };
    backends.iter().fold(service, |service, address| service.to_address(address))
}

/// A service whose connections are reset as soon as its backend is gone.
fn clock(backends: &[&str]) -> Service {
    let service = Service::tcp("shop/clock").at(CLOCK).policy(AT_ONCE);
    backends.iter().fold(service, |service, address| service.to_address(address))
}

/// A connection, and the name of the server it is to.
fn open(client: &mut Client, to: &str) -> (Socket, String) {
    let socket = client.connect_tcp(to).expect("the service has a backend");
    let name = client.read_line(&socket).expect("a server says its name");
    (socket, name)
}

/// One connection to each of `n1` and `n2`.
fn open_both(client: &mut Client) -> [Socket; 2] {
    let mut both = [open(client, PAYMENT), open(client, PAYMENT)];
    both.sort_by(|one, other| one.1.cmp(&other.1));
    assert_eq!([&both[0].1, &both[1].1], ["n1", "n2"]);
    both.map(|(socket, _)| socket)
}

/// Says something and hears it back.
fn echo(client: &mut Client, socket: &Socket) -> Outcome<()> {
    client.send(socket, "still here\n")?;
    client.read_line(socket).map(|line| assert_eq!(line, "still here"))
}

/// Waits until a connection is reset by this host, and not by its peer.
fn until_reset(client: &mut Client, socket: &Socket) {
    eventually_equal("the end of a connection", SOON, &Err(Errno(libc::ECONNABORTED)), || {
        echo(client, socket)
    });
}

fn resets(agent: &Agent<'_>, reason: &str) -> f64 {
    agent.metrics().sum("segue_connections_reset_total", &[("reason", reason)])
}

/// What `segue services` says of the backends that left.
fn left(agent: &Agent<'_>) -> Vec<Value> {
    let services = agent.services();
    let payment = services.iter().find(|service| service["name"] == "shop/payment");
    payment.and_then(|service| service["left"].as_array().cloned()).unwrap_or_default()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_connections_of_a_removed_backend_are_reset_and_all_others_live_on() {
    let world = World::new();
    let (_n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let agent = world.agent(&[payment(&[N1, N2], AT_ONCE)]);
    let (mut client, mut outside) = (world.client(), world.client_outside());
    let [removed, kept] = open_both(&mut client);
    // To the same address, but not by way of the service.
    let (unmanaged, _) = open(&mut outside, N1);
    let (direct, _) = open(&mut client, N1);
    agent.replace(&config(&[payment(&[N2], AT_ONCE)]));
    until_reset(&mut client, &removed);
    assert_eq!(echo(&mut client, &kept), Ok(()));
    assert_eq!(echo(&mut client, &direct), Ok(()));
    assert_eq!(echo(&mut outside, &unmanaged), Ok(()));
    eventually_equal("connections reset", SOON, &1.0, || resets(&agent, "removed"));
    // How it ended is the policy's doing, and not the peer's or the backend's.
    let closed = agent.metrics().sum("segue_tcp_connections_closed_total", &[("reason", "drained")]);
    assert_eq!(closed, 1.0);
    eventually_equal("backends that left", SOON, &Vec::<Value>::new(), || left(&agent));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn without_a_policy_open_connections_are_kept() {
    let world = World::new();
    let (_n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let agent = world.agent(&[payment(&[N1, N2], ""), clock(&[N1])]);
    let mut client = world.client();
    let [removed, kept] = open_both(&mut client);
    let (ticking, _) = open(&mut client, CLOCK);
    agent.replace(&config(&[payment(&[N2], ""), clock(&[N2])]));
    until_reset(&mut client, &ticking);
    assert_eq!(echo(&mut client, &removed), Ok(()));
    assert_eq!(echo(&mut client, &kept), Ok(()));
    let [gone] = &left(&agent)[..] else { panic!("{:?}", left(&agent)) };
    assert_eq!(
        (&gone["address"], &gone["active"], &gone["resets_in_ms"]),
        (&N1.into(), &1.into(), &Value::Null)
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_draining_backend_loses_its_connections_where_the_policy_names_it_and_keeps_them_where_not() {
    let world = World::new();
    let (_n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let service = |draining: bool, on: &str| {
        let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
        let service = service.policy(&format!("draining: {{ on: [{on}], reset_after: 1s }}"));
        service.to_address_with(N1, &format!("draining: {draining}")).to_address(N2)
    };
    let agent = world.agent(&[service(false, "removed"), clock(&[N1])]);
    let mut client = world.client();
    let [draining, kept] = open_both(&mut client);
    let (ticking, _) = open(&mut client, CLOCK);
    agent.replace(&config(&[service(true, "removed"), clock(&[N2])]));
    until_reset(&mut client, &ticking);
    assert_eq!(echo(&mut client, &draining), Ok(()));
    agent.replace(&config(&[service(true, "draining"), clock(&[N2])]));
    until_reset(&mut client, &draining);
    assert_eq!(echo(&mut client, &kept), Ok(()));
    assert_eq!(resets(&agent, "draining"), 1.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_comes_back_before_its_deadline_keeps_its_connections() {
    let world = World::new();
    let (_n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let later = "draining: { reset_after: 10m }";
    let agent = world.agent(&[payment(&[N1, N2], later), clock(&[N1])]);
    let mut client = world.client();
    let [removed, _] = open_both(&mut client);
    agent.replace(&config(&[payment(&[N2], later), clock(&[N1])]));
    eventually("a deadline to show", SOON, || match left(&agent)[..] {
        [ref backend] if backend["resets_in_ms"].as_u64().is_some_and(|ms| ms > 500_000) => Ok(()),
        ref other => Err(format!("{other:?}")),
    });
    let (ticking, _) = open(&mut client, CLOCK);
    // Now the deadline would be over at once, but the backend is back.
    agent.replace(&config(&[payment(&[N1, N2], AT_ONCE), clock(&[N2])]));
    until_reset(&mut client, &ticking);
    assert_eq!(echo(&mut client, &removed), Ok(()));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_ejected_backend_loses_the_connections_it_had_before() {
    let world = World::new();
    let (n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let breaker = "breaker: { consecutive_failures: 3, failure_ratio: 0%, open: 5m, open_max: 5m }";
    let service = payment(&[N1, N2], breaker).policy(AT_ONCE);
    let agent = world.agent(&[service]);
    let mut client = world.client();
    let [ejected, kept] = open_both(&mut client);
    n1.reset_new_connections(true);
    eventually("the breaker to open", SOON, || {
        client.attempts(PAYMENT, 4);
        match agent.metrics().sum("segue_breaker_backends", &[("state", "open")]) {
            1.0 => Ok(()),
            other => Err(format!("{other} open")),
        }
    });
    until_reset(&mut client, &ejected);
    assert_eq!(echo(&mut client, &kept), Ok(()));
    assert_eq!(resets(&agent, "ejected"), 1.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_in_another_network_namespace_is_found_there() {
    let world = World::new();
    let neighbour = world.neighbour();
    let (_n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let (_f1, _f2) =
        (Server::tcp(neighbour.namespace(), "n1", N1), Server::tcp(neighbour.namespace(), "n2", N2));
    let agent = world.agent(&[payment(&[N1, N2], AT_ONCE)]);
    let mut near = world.client();
    let mut far = Client::start(neighbour.namespace().handle(), world.managed_cgroup());
    let ([removed_near, kept_near], [removed_far, kept_far]) = (open_both(&mut near), open_both(&mut far));
    agent.replace(&config(&[payment(&[N2], AT_ONCE)]));
    until_reset(&mut near, &removed_near);
    until_reset(&mut far, &removed_far);
    assert_eq!(echo(&mut near, &kept_near), Ok(()));
    assert_eq!(echo(&mut far, &kept_far), Ok(()));
    eventually_equal("connections reset", SOON, &2.0, || resets(&agent, "removed"));
}

/// Asks on a connected UDP socket; the name of the server that answered.
fn ask(client: &mut Client, socket: &Socket) -> Outcome<String> {
    client.send(socket, "who")?;
    client.receive(socket).map(|answer| answer.split(':').next().unwrap_or_default().to_owned())
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connected_udp_client_is_told_and_moves_on_and_an_unconnected_one_is_never_touched() {
    let world = World::new();
    let (u1, u2) = (world.udp("u1", "127.0.0.1:5301"), world.udp("u2", "127.0.0.1:5302"));
    let names = |server: &Server| Service::udp("shop/names").at(NAMES).policy(AT_ONCE).to(server);
    let agent = world.agent(&[names(&u1)]);
    let mut client = world.client();
    let connected = client.connect_udp(NAMES).expect("the service has a backend");
    assert_eq!(ask(&mut client, &connected).as_deref(), Ok("u1"));
    // One that connected and then thought better of it.
    let disconnected = client.connect_udp(NAMES).expect("the service has a backend");
    client.disconnect(&disconnected).expect("a socket can be disconnected");
    let unconnected = client.open(Family::V4, Kind::Datagram);
    client.send_to(&unconnected, "who", NAMES).expect("a datagram");
    assert!(client.receive_from(&unconnected).expect("an answer").text.starts_with("u1:"));
    let place = client.local(&unconnected).expect("a socket has an address");

    agent.replace(&config(&[names(&u2)]));
    let told = eventually("the end of a connection", SOON, || match ask(&mut client, &connected) {
        Ok(name) => Err(format!("{name} answers")),
        Err(errno) => Ok(errno),
    });
    // Whoever waits for an answer is told why; whoever sends is told that it is connected no more.
    if told == Errno(libc::EDESTADDRREQ) {
        assert_eq!(client.receive(&connected), Err(Errno(libc::ECONNABORTED)));
    } else {
        assert_eq!(told, Errno(libc::ECONNABORTED));
    }
    client.connect(&connected, NAMES).expect("the service has a backend");
    // What the old one answered to a question before its end may still lie in the socket.
    eventually("the other backend to answer", SOON, || match ask(&mut client, &connected).as_deref() {
        Ok("u2") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for socket in [&unconnected, &disconnected] {
        client.send_to(socket, "who", NAMES).expect("a datagram");
        assert!(client.receive_from(socket).expect("an answer").text.starts_with("u2:"));
    }
    assert_eq!(client.local(&unconnected), Ok(place));
    assert_eq!(resets(&agent, "removed"), 1.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_new_agent_goes_on_with_the_deadline_of_the_one_before() {
    let world = World::new();
    let (_n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let later = "draining: { reset_after: 10m }";
    let mut agent = world.agent(&[payment(&[N1, N2], later)]);
    let mut client = world.client();
    let [removed, kept] = open_both(&mut client);
    agent.replace(&config(&[payment(&[N2], later)]));
    let deadline = |agent: &Agent<'_>| {
        eventually("a deadline to show", SOON, || match left(agent)[..] {
            [ref backend] => backend["resets_in_ms"].as_u64().ok_or(format!("{backend}")),
            ref other => Err(format!("{other:?}")),
        })
    };
    let before = deadline(&agent);
    agent.kill();
    agent.restart();
    let after = deadline(&agent);
    assert!(after < before, "{after} ms left, before the restart it was {before}");
    // The service goes too, and with it who knows the policy; the deadline is shortened before.
    let short = "draining: { reset_after: 3s }";
    agent.replace(&config(&[payment(&[N2], short)]));
    until_reset(&mut client, &removed);
    agent.replace(&config(&[]));
    until_reset(&mut client, &kept);
}
