//! Limits on connections: never passed, given back however a connection ends, and named where they refuse.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::{Attempt, Family, Kind};
use segue_tests::client::{Client, Errno, errors};
use segue_tests::counters::{service_state, service_state_of};
use segue_tests::kernel::{let_in_beyond_limits, refused_with};
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

use agent_ebpf::abi::{Limit, Protocol};

const PAYMENT: &str = "198.18.0.10:80";
const STANDBY: &str = "198.18.0.11:80";
const DATAGRAMS: &str = "198.18.0.12:53";
const N1: &str = "127.0.0.1:8081";
const N2: &str = "127.0.0.1:8082";
const N3: &str = "127.0.0.1:8083";

/// `shop/payment` over these addresses, refusing with EAGAIN.
fn payment(addresses: &[&str], limits: &str) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("refuse_with: EAGAIN");
    let service = service.policy(&format!("limits: {{ {limits} }}"));
    addresses.iter().fold(service, |service, address| service.to_address(address))
}

/// How many of these connected; all others were refused as the policy says.
fn connected(attempts: &[Attempt]) -> usize {
    let failed = errors(attempts);
    let refusal = refused_with(libc::EAGAIN);
    assert!(failed.iter().all(|errno| *errno == refusal), "{failed:?}");
    attempts.len() - failed.len()
}

/// Waits until nothing is in use of the service's limits.
fn comes_to_rest(world: &World, agent: &Agent<'_>) {
    eventually_equal("what is in use of the limits", SOON, &(0, 0, 0), || {
        let usage = service_state(world, PAYMENT).usage;
        (usage.active, usage.pending, agent.active("shop/payment"))
    });
}

fn reached(world: &World, limit: Limit) -> u64 {
    service_state(world, PAYMENT).limited[limit as usize]
}

/// Connections that are held one after the other until one is refused; how many.
fn fill(client: &mut Client, to: &str) -> usize {
    (0..100).take_while(|_| client.connect_tcp(to).is_ok()).count()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn of_64_at_once_a_service_takes_exactly_its_limit() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    let agent = world.agent(&[payment(&[N1, N2], "service: { connections: 10 }")]);
    let beyond = let_in_beyond_limits();
    let mut client = world.client();
    let mut refused: u64 = 0;
    for _ in 0..5 {
        let taken = connected(&client.connect_together(PAYMENT, 64)) as u64;
        assert!((10..=10 + beyond).contains(&taken), "{taken} of at most 10, or {beyond} more");
        assert_eq!(service_state(&world, PAYMENT).usage.active, taken);
        refused += 64 - taken;
        client.release_together();
        comes_to_rest(&world, &agent);
    }
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.refused_by_limit, state.no_backend), (refused, 0), "{state:?}");
    assert_eq!(reached(&world, Limit::ServiceConnections), refused);
    let metric = "segue_tcp_connect_failures_total";
    eventually("the failures by their reason", SOON, || {
        let metrics = agent.metrics();
        let (limited, none) = (
            metrics.sum(metric, &[("reason", "service_limit")]),
            metrics.sum(metric, &[("reason", "no_backend")]),
        );
        if limited == refused as f64 && none == 0.0 { Ok(()) } else { Err(format!("{limited} and {none}")) }
    });
    let metrics = agent.metrics();
    let of = [("dst_service", "payment"), ("limit", "service_connections")];
    assert_eq!(metrics.sum("segue_limit_allowed", &of), 10.0);
    assert_eq!(metrics.sum("segue_limit_used", &of), 0.0);
    assert_eq!(metrics.sum("segue_limit_reached_total", &of), refused as f64);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn of_64_at_once_each_backend_takes_exactly_its_limit_and_hands_on_the_rest() {
    let world = World::new();
    let servers = [world.tcp("n1", N1), world.tcp("n2", N2), world.tcp("n3", N3)];
    let agent = world.agent(&[payment(&[N1, N2, N3], "backend: { connections: 5 }")]);
    let mut client = world.client();
    assert_eq!(connected(&client.connect_together(PAYMENT, 64)), 15);
    for address in [N1, N2, N3] {
        assert_eq!(agent.backend("shop/payment", address, "active"), 5, "{address}");
    }
    assert!(reached(&world, Limit::BackendConnections) >= 49);
    let explained = agent.explain("shop/payment").to_string();
    assert!(explained.contains("it is full: 5 connections, the limit is 5"), "{explained}");
    assert!(explained.contains("backend_connections 5 of 5 and there is no further fallback"), "{explained}");
    client.release_together();
    comes_to_rest(&world, &agent);
    for server in &servers {
        eventually_equal("connections accepted", SOON, &5, || server.accepted());
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_a_full_service_does_not_take_goes_to_its_fallback_but_not_a_clients_excess() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    for (limits, taken, standby) in [
        ("service: { connections: 3 }", 3, 5),
        ("backend: { connections: 3 }", 3, 5),
        ("client: { connections: 3 }", 3, 0),
    ] {
        let agent = world.agent(&[
            payment(&[N1], limits).policy("fallback: shop/standby"),
            Service::tcp("shop/standby").at(STANDBY).to_address(N2),
        ]);
        let mut client = world.client();
        let attempts: Vec<_> = (0..8).map(|_| client.connect_tcp(PAYMENT)).collect();
        assert_eq!(attempts.iter().filter(|attempt| attempt.is_ok()).count(), taken + standby, "{limits}");
        assert_eq!(agent.active("shop/payment"), taken as u64, "{limits}");
        assert_eq!(agent.active("shop/standby"), standby as u64, "{limits}");
        client.kill();
        eventually_equal("connections", SOON, &0, || agent.active("shop/standby"));
        drop(agent);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn each_client_has_its_own_share_and_a_cgroup_below_is_no_other_client() {
    let world = World::new();
    let _n1 = world.tcp("n1", N1);
    let agent = world.agent(&[payment(&[N1], "client: { connections: 4 }")]);
    let (mut one, mut other) = (world.client_in("checkout.service"), world.client_in("batch.service"));
    let mut below = world.client_in("checkout.service/worker");
    // The agent learns of new cgroups by and by; until then each cgroup is a client.
    eventually("the units to be one client each", SOON, || {
        assert_eq!(connected(&one.connect_together(PAYMENT, 64)), 4);
        let beyond = connected(&below.connect_together(PAYMENT, 1));
        below.release_together();
        let result = if beyond == 0 { Ok(()) } else { Err("the cgroup below had a share".to_owned()) };
        if result.is_err() {
            one.release_together();
            comes_to_rest(&world, &agent);
        }
        result
    });
    assert_eq!(connected(&other.connect_together(PAYMENT, 64)), 4);
    one.release_together();
    eventually_equal("connections", SOON, &4, || agent.active("shop/payment"));
    assert_eq!(connected(&below.connect_together(PAYMENT, 64)), 4);
    assert!(reached(&world, Limit::ClientConnections) >= 60);
}

/// Every limit at one connection: whatever is not given back shows in the next connect.
const ONE: &str = "backend: { connections: 1, pending: 1 }, service: { connections: 1, pending: 1 }, \
                   client: { connections: 1, pending: 1 }";

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_place_is_given_back_however_a_connection_ends() {
    let world = World::new();
    let n1 = world.tcp("n1", N1);
    let agent = world.agent(&[payment(&[N1], ONE)]);
    let mut client = world.client();
    let socket = client.connect_tcp(PAYMENT).expect("the first place");
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(refused_with(libc::EAGAIN)));
    client.close(socket);
    comes_to_rest(&world, &agent);

    let socket = client.connect_tcp(PAYMENT).expect("a place after a close");
    client.disconnect(&socket).expect("a connected socket");
    comes_to_rest(&world, &agent);
    client.connect(&socket, PAYMENT).expect("a place for the same socket");
    client.close(socket);
    comes_to_rest(&world, &agent);

    let socket = client.connect_tcp(PAYMENT).expect("a place after a reconnect");
    eventually_equal("connections accepted", SOON, &1, || n1.open());
    n1.reset_connections();
    comes_to_rest(&world, &agent);
    client.close(socket);

    let _held = client.connect_tcp(PAYMENT).expect("a place after a reset");
    client.kill();
    comes_to_rest(&world, &agent);
    assert_eq!(connected(&world.client().attempts(PAYMENT, 1)), 1);
    comes_to_rest(&world, &agent);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_place_is_given_back_when_the_handshake_fails() {
    for (address, errno) in [("127.0.0.1:9", libc::ECONNREFUSED), ("203.0.113.1:80", libc::ENETUNREACH)] {
        let world = World::new();
        let agent = world.agent(&[payment(&[address], ONE)]);
        let mut client = world.client();
        let socket = client.open(Family::V4, Kind::Stream);
        for _ in 0..3 {
            assert_eq!(client.connect(&socket, PAYMENT), Err(Errno(errno)), "{address}");
        }
        client.close(socket);
        for _ in 0..3 {
            assert_eq!(client.attempts(PAYMENT, 1), [Err(errno)], "{address}");
        }
        comes_to_rest(&world, &agent);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn handshakes_under_way_are_limited_until_they_are_done_or_abandoned() {
    let world = World::new();
    let hole = world.black_hole(N1);
    let agent = world.agent(&[payment(&[N1], "service: { pending: 3 }")]);
    let mut client = world.client();
    let mut sockets: Vec<_> = (0..4).map(|_| client.open(Family::V4, Kind::Stream)).collect();
    let last = sockets.pop().expect("four");
    for socket in &sockets {
        assert_eq!(client.connect_nonblocking(socket, PAYMENT), Err(Errno(libc::EINPROGRESS)));
    }
    assert_eq!(client.connect_nonblocking(&last, PAYMENT), Err(refused_with(libc::EAGAIN)));
    assert_eq!(reached(&world, Limit::ServicePending), 1);
    client.close(sockets.pop().expect("three"));
    eventually_equal("handshakes", SOON, &2, || service_state(&world, PAYMENT).usage.pending);
    assert_eq!(client.connect_nonblocking(&last, PAYMENT), Err(Errno(libc::EINPROGRESS)));
    let _n1 = hole.answer("n1");
    for socket in [&sockets[0], &sockets[1], &last] {
        client.finish_connect(socket).expect("the server answers now");
    }
    let usage = service_state(&world, PAYMENT).usage;
    assert_eq!((usage.active, usage.pending), (3, 0));
    drop(client);
    comes_to_rest(&world, &agent);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_rate_lets_its_burst_through_and_no_more() {
    let world = World::new();
    let _n1 = world.tcp("n1", N1);
    for scope in ["backend", "service", "client"] {
        let agent = world.agent(&[payment(&[N1], &format!("{scope}: {{ rate: 1/s, burst: 7 }}"))]);
        let mut client = world.client();
        let started = std::time::Instant::now();
        let passed = connected(&client.crowd(PAYMENT, 64, 1));
        let most = 7 + usize::try_from(started.elapsed().as_secs()).expect("seconds") + 1;
        assert!((7..=most).contains(&passed), "{scope}: {passed} passed");
        drop(client);
        comes_to_rest(&world, &agent);
        drop(agent);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_that_one_limit_refuses_takes_nothing_of_the_others() {
    let world = World::new();
    let _n1 = world.tcp("n1", N1);
    let limits = "backend: { connections: 2 }, service: { connections: 50, rate: 1/s, burst: 50 }, \
                  client: { connections: 50, rate: 1/s, burst: 50 }";
    let agent = world.agent(&[payment(&[N1], limits)]);
    let mut client = world.client();
    assert_eq!(connected(&client.connect_together(PAYMENT, 64)), 2);
    assert_eq!(connected(&client.connect_together(PAYMENT, 64)), 0);
    assert_eq!(service_state(&world, PAYMENT).usage.active, 2);
    // Were tokens spent on what the backend refused, 50 would not have been enough.
    assert_eq!((reached(&world, Limit::ServiceRate), reached(&world, Limit::ClientRate)), (0, 0));
    assert!(reached(&world, Limit::BackendConnections) >= 126);
    client.release_together();
    comes_to_rest(&world, &agent);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_full_backend_spends_no_probe_and_a_limit_can_be_lowered_below_what_is_in_use() {
    let world = World::new();
    let n1 = world.tcp("n1", N1);
    let breaker = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 12s, open_max: 12s, jitter: 0%, \
                   slow_start: 0s, probes: 1, successes_to_close: 1, half_open: 1h, max_ejection: 100%, panic: 0% }";
    let with = |most: u32| payment(&[N1], &format!("backend: {{ connections: {most} }}")).policy(breaker);
    let agent = world.agent(&[with(3)]);
    let mut client = world.client();
    assert_eq!(connected(&client.connect_together(PAYMENT, 2)), 2);
    // What is not accepted yet would be reset with the new ones.
    eventually_equal("accepted connections", SOON, &2, || n1.open());
    n1.reset_new_connections(true);
    let _reset = client.attempts(PAYMENT, 1);
    eventually_equal("breakers that opened", SOON, &1, || service_state(&world, PAYMENT).opened);
    agent.replace(&config(&[with(1)]));
    eventually("the lower limit", SOON, || {
        let attempts = client.attempts(PAYMENT, 1);
        assert_eq!(connected(&attempts), 0);
        if reached(&world, Limit::BackendConnections) > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    // The open time is over by now or soon; what is full is not asked. It is as long as the new limit may need to come
    // into force on a busy machine.
    let since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_millis(12_500) {
        assert_eq!(connected(&client.attempts(PAYMENT, 5)), 0);
    }
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.half_opened, state.probes), (0, 0), "{state:?}");
    n1.reset_new_connections(false);
    client.release_together();
    eventually("the one probe to close the breaker", SOON, || {
        let _refused_or_not = client.attempts(PAYMENT, 1);
        let state = service_state(&world, PAYMENT);
        if state.closed == 1 { Ok(()) } else { Err(format!("{state:?}")) }
    });
    assert_eq!(service_state(&world, PAYMENT).probes, 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn counts_outlive_the_agent() {
    let world = World::new();
    let _n1 = world.tcp("n1", N1);
    let mut agent = world.agent(&[payment(&[N1], "service: { connections: 5 }, client: { connections: 4 }")]);
    let mut client = world.client_in("checkout.service");
    let held = client.connect_tcp(PAYMENT).expect("a place");
    agent.kill();
    assert_eq!(fill(&mut client, PAYMENT), 3);
    client.close(held);
    eventually_equal("places in use", SOON, &3, || service_state(&world, PAYMENT).usage.active);
    agent.restart();
    assert_eq!(service_state(&world, PAYMENT).usage.active, 3);
    assert_eq!(fill(&mut client, PAYMENT), 1);
    let mut other = world.client_in("batch.service");
    assert_eq!(fill(&mut other, PAYMENT), 1);
    drop((client, other));
    comes_to_rest(&world, &agent);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connected_datagram_socket_counts_and_one_that_is_not_does_not() {
    let world = World::new();
    let server = world.udp("datagrams", N1);
    let limits =
        "limits: { service: { connections: 2 }, backend: { connections: 2 }, client: { connections: 2 } }";
    let agent = world.agent(&[Service::udp("dns").at(DATAGRAMS).policy(limits).to(&server)]);
    let mut client = world.client();
    let first = client.connect_udp(DATAGRAMS).expect("a place");
    let _second = client.connect_udp(DATAGRAMS).expect("a place");
    assert_eq!(client.connect_udp(DATAGRAMS).err(), Some(Errno(libc::EHOSTUNREACH)));
    for _ in 0..5 {
        let socket = client.open(Family::V4, Kind::Datagram);
        client.send_to(&socket, "?", DATAGRAMS).expect("no limit holds for a single datagram");
        client.receive(&socket).expect("an answer");
    }
    client.close(first);
    eventually_equal("connections", SOON, &1, || agent.active("dns"));
    let state = service_state_of(&world, DATAGRAMS, Protocol::Udp);
    assert_eq!((state.usage.active, state.usage.pending), (1, 0));
    client.connect_udp(DATAGRAMS).expect("the place that was given back");
}
