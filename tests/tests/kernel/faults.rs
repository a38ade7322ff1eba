//! What goes wrong with backends, and what a client sees of it: one test per line of the table in docs/faults.md.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use segue_tests::agent::SOON;
use segue_tests::client::protocol::{Family, Kind};
use segue_tests::client::{Errno, errors, tally};
use segue_tests::counters::service_state;
use segue_tests::kernel::refused_with;
use segue_tests::nginx::Nginx;
use segue_tests::program::Program;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal, let_pass};
use segue_tests::world::{NEIGHBOUR, World};

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";
const N2: &str = "127.0.0.1:8082";
const FALLBACK: &str = "127.0.0.1:8089";

/// Open for longer than a test runs. A client alone is what fails so often here: it is not kept away.
const LONG: &str = "failure_ratio: 0%, open: 5m, open_max: 5m, negative_affinity: 0s";

/// Back after a second.
const SHORT: &str = "consecutive_failures: 1, failure_ratio: 0%, open: 1s, open_max: 1s, jitter: 0%, \
                     slow_start: 0s, negative_affinity: 0s";

const REFUSED: Errno = Errno(libc::ECONNREFUSED);
fn nothing_usable() -> Errno {
    refused_with(libc::EHOSTUNREACH)
}

/// `shop/payment` over two addresses in turn.
fn payment(addresses: [&str; 2], breaker: &str) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    let service = service.policy(&format!("breaker: {{ {breaker} }}"));
    addresses.iter().fold(service, |service, address| service.to_address(address))
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_refuses_costs_as_many_errors_as_the_threshold_says() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let _agent = world.agent(&[payment([N1, N2], &format!("consecutive_failures: 3, {LONG}"))]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 20)), [REFUSED; 3]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_accepts_and_resets_costs_as_many_errors_as_the_threshold_says() {
    let world = World::new();
    let (n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let _agent = world.agent(&[payment([N1, N2], &format!("consecutive_failures: 3, {LONG}"))]);
    n1.reset_new_connections(true);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 20)), [Errno(libc::ECONNRESET); 3]);
    assert_eq!(n1.accepted(), 3);
}

/// Two connections held on n1 are reset after its first bytes; how often n1 answers 10 connections after that.
fn answers_after_resets(breaker: &str) -> Option<u32> {
    let world = World::new();
    let (n1, _n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let _agent = world.agent(&[payment([N1, N2], breaker)]);
    let mut client = world.client();
    let mut held = Vec::new();
    for _ in 0..4 {
        let socket = client.connect_tcp(PAYMENT).expect("the service has backends");
        if client.read_line(&socket).expect("a greeting") == "n1" {
            held.push(socket);
        }
    }
    assert_eq!(held.len(), 2);
    n1.reset_connections();
    for socket in &held {
        assert_eq!(client.receive(socket), Err(Errno(libc::ECONNRESET)));
    }
    tally(&client.greetings(PAYMENT, 10)).get("n1").copied()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn resets_in_the_middle_count_where_the_policy_names_them() {
    let breaker = format!("consecutive_failures: 2, {LONG}");
    assert_eq!(answers_after_resets(&format!("{breaker}, signals: [reset]")), None);
    assert_eq!(answers_after_resets(&breaker), Some(5));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_black_hole_costs_one_connect_timeout() {
    let world = World::new();
    let _hole = world.black_hole(N1);
    let _n2 = world.tcp("n2", N2);
    let breaker = format!("consecutive_failures: 1, {LONG}");
    let _agent = world.agent(&[payment([N1, N2], &breaker).policy("connect_timeout: 1s")]);
    // Without the timeout the kernel alone would try for more than two minutes, which the harness does not wait for.
    assert_eq!(errors(&world.client().attempts(PAYMENT, 20)), [Errno(libc::ETIMEDOUT)]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_black_hole_is_noticed_also_where_applications_give_up_first() {
    let world = World::new();
    let _hole = world.black_hole(N1);
    let _n2 = world.tcp("n2", N2);
    let breaker = format!("consecutive_failures: 1, slow_connect: 200ms, {LONG}");
    let _agent = world.agent(&[payment([N1, N2], &breaker)]);
    let mut client = world.client();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let socket = client.open(Family::V4, Kind::Stream);
        assert_eq!(client.connect_nonblocking(&socket, PAYMENT), Err(Errno(libc::EINPROGRESS)));
        waiting.push(socket);
    }
    let_pass(Duration::from_millis(300));
    waiting.into_iter().for_each(|socket| client.close(socket));
    assert_eq!(service_state(&world, PAYMENT).opened, 1);
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n2", 10)].into());
}

/// An nginx of one process, and its queue as short as can be.
fn nginx(world: &World) -> Program {
    let nginx = Nginx::new(world).outside().of_one_process();
    let program = nginx.serve(&[&format!("{N1} backlog=1")], "return 200 n1;").start();
    // Whoever was in its queue before this request has been accepted: the queue is empty.
    world.run_outside("curl", &["-sS", "--noproxy", "*", "--max-time", "10", &format!("http://{N1}/")]);
    program
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_process_that_is_stopped_is_left_when_its_queue_is_full_and_returned_to_when_it_goes_on() {
    let world = World::new();
    let nginx = nginx(&world);
    let n2 = world.http("n2", N2);
    let _agent = world.agent(&[payment([N1, N2], SHORT).policy("connect_timeout: 1s")]);
    let mut client = world.client();
    nginx.signal(libc::SIGSTOP);
    // In turn: eight each. One after the other, as two CPUs in the same instant may be given the same one.
    let begun: Vec<_> = (0..16)
        .map(|_| {
            let socket = client.open(Family::V4, Kind::Stream);
            assert_eq!(client.connect_nonblocking(&socket, PAYMENT), Err(Errno(libc::EINPROGRESS)));
            socket
        })
        .collect();
    // The kernel still shakes hands for the stopped one while there is room in its queue, which is for one more than
    // the backlog says; no handshake tells that nobody will answer.
    let failed: Vec<_> = begun.iter().filter_map(|socket| client.finish_connect(socket).err()).collect();
    assert_eq!(failed, [Errno(libc::ETIMEDOUT); 6]);
    assert_eq!((n2.accepted(), service_state(&world, PAYMENT).opened), (8, 1));
    assert_eq!(errors(&client.connect_together(PAYMENT, 8)), []);
    nginx.signal(libc::SIGCONT);
    eventually("the breaker to close", SOON, || {
        let answer = world.run("curl", &["-sS", "--noproxy", "*", "--max-time", "10", "http://198.18.0.10/"]);
        match service_state(&world, PAYMENT).closed {
            1 => Ok(()),
            closed => Err(format!("{closed}; {}", answer.expect_success())),
        }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_flaps_ten_times_a_second_costs_one_error_per_opening() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let _agent = world.agent(&[payment([N1, N2], SHORT)]);
    let mut client = world.client();
    let (namespace, flapping) = (world.namespace(), AtomicBool::new(true));
    let (begin, mut attempts) = (Instant::now(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while flapping.load(Ordering::Relaxed) {
                let n1 = Server::tcp(namespace, "n1", N1);
                let_pass(Duration::from_millis(50));
                drop(n1);
                let_pass(Duration::from_millis(50));
            }
        });
        while begin.elapsed() < Duration::from_secs(4) {
            attempts.extend(client.attempts(PAYMENT, 50));
        }
        flapping.store(false, Ordering::Relaxed);
    });
    let failed = u64::try_from(errors(&attempts).len()).expect("a number of attempts");
    let state = service_state(&world, PAYMENT);
    // It may be gone between its handshake and its first byte; that is an error, too, and opens as a refusal does.
    assert_eq!(failed, state.opened, "{state:?}");
    // Open for a second each time.
    assert!((1..=begin.elapsed().as_secs() + 1).contains(&failed), "{failed} of {}", attempts.len());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn when_all_are_back_at_once_all_get_connections_again_and_the_fallback_none() {
    let world = World::new();
    let fixed = world.tcp("static", FALLBACK);
    let payment = payment([N1, N2], SHORT).policy("fallback: shop/payment-static");
    let _agent = world.agent(&[payment, Service::tcp("shop/payment-static").at("198.18.0.11:80").to(&fixed)]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 4)), [REFUSED; 2]);
    assert_eq!(tally(&client.greetings(PAYMENT, 4)), [("static", 4)].into());
    let _back = [world.tcp("n1", N1), world.tcp("n2", N2)];
    eventually("both breakers to close", SOON, || {
        assert_eq!(errors(&client.attempts(PAYMENT, 2)), []);
        match service_state(&world, PAYMENT).closed {
            2 => Ok(()),
            closed => Err(format!("{closed} closed")),
        }
    });
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_with_slow_handshakes_is_ejected_by_the_slow_ratio() {
    let world = World::new();
    let hole = world.black_hole(N1);
    let _n2 = world.tcp("n2", N2);
    let breaker = "slow_ratio: 50%, slow_connect: 500ms, minimum_samples: 1, open: 5m, open_max: 5m";
    let _agent = world.agent(&[payment([N1, N2], breaker)]);
    let mut client = world.client();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let socket = client.open(Family::V4, Kind::Stream);
        assert_eq!(client.connect_nonblocking(&socket, PAYMENT), Err(Errno(libc::EINPROGRESS)));
        waiting.push(socket);
    }
    let _n1 = hole.answer("n1");
    for socket in &waiting {
        client.finish_connect(socket).expect("both answer in the end");
    }
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n2", 10)].into());
    assert_eq!(service_state(&world, PAYMENT).opened, 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_host_that_falls_silent_counts_where_the_policy_names_it() {
    let world = World::new();
    world.namespace().sysctl("net/ipv4/tcp_retries2", "2");
    let neighbour = world.neighbour();
    let far = format!("{NEIGHBOUR}:8081");
    let _n1 = Server::tcp(neighbour.namespace(), "n1", &far);
    let _n2 = world.tcp("n2", N2);
    let breaker = format!("consecutive_failures: 1, signals: [retransmission_timeout], {LONG}");
    let _agent = world.agent(&[payment([&far, N2], &breaker)]);
    let mut client = world.client();
    let mut held = Vec::new();
    for _ in 0..2 {
        let socket = client.connect_tcp(PAYMENT).expect("the service has backends");
        if client.read_line(&socket).expect("a greeting") == "n1" {
            held.push(socket);
        }
    }
    neighbour.fall_silent();
    let socket = held.pop().expect("one of two in turn");
    client.send(&socket, "anyone there?").expect("room in the send buffer");
    assert_eq!(client.receive(&socket), Err(Errno(libc::ETIMEDOUT)));
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n2", 10)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_with_affinity_leaves_a_backend_that_fails() {
    let world = World::new();
    let (n1, n2) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let breaker = format!("consecutive_failures: 2, {LONG}");
    let _agent = world.agent(&[payment([N1, N2], &breaker).policy("affinity: { timeout: 10m }")]);
    let mut client = world.client();
    let home = client.greetings(PAYMENT, 4);
    assert!(home.iter().all(|name| *name == home[0]), "{home:?}");
    let (gone, other) = if home[0] == "n1" { (n1, n2) } else { (n2, n1) };
    drop(gone);
    let attempts = client.attempts(PAYMENT, 10);
    assert_eq!(errors(&attempts), [REFUSED; 2]);
    assert!(attempts[2..].iter().all(|attempt| attempt.as_deref() == Ok(other.name())), "{attempts:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_version_that_is_down_gives_its_share_to_the_other() {
    let world = World::new();
    let n2 = world.tcp("n2", N2);
    let breaker = format!("breaker: {{ consecutive_failures: 2, {LONG} }}");
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("split: { v1: 50, v2: 50 }");
    let service = service.policy(&breaker).to_address_with(N1, "version: v1").to_with(&n2, "version: v2");
    let _agent = world.agent(&[service]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 50)), [REFUSED; 2]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn connections_over_ipv6_open_breakers_too() {
    let world = World::new();
    let n2 = world.tcp("n2", "[::1]:8082");
    let frontend = "[fd00:5e::10]:80";
    let breaker = format!("breaker: {{ consecutive_failures: 2, {LONG} }}");
    let service = Service::tcp("shop/payment").at(frontend).policy("algorithm: round_robin").policy(&breaker);
    let _agent = world.agent(&[service.to_address("[::1]:8081").to(&n2)]);
    assert_eq!(errors(&world.client().attempts(frontend, 20)), [REFUSED; 2]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_host_that_is_gone_costs_as_many_errors_as_the_threshold_says() {
    let world = World::new();
    let _neighbour = world.neighbour();
    let _n2 = world.tcp("n2", N2);
    let breaker = format!("consecutive_failures: 1, {LONG}");
    let agent = world.agent(&[payment(["10.77.0.99:80", N2], &breaker)]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 20)), [Errno(libc::EHOSTUNREACH)]);
    assert_eq!(agent.backend("shop/payment", "10.77.0.99:80", "failures"), 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_flaps_is_left_and_returned_to_every_time() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let breaker = format!("{SHORT}, probes: 1, successes_to_close: 1");
    let _agent = world.agent(&[payment([N1, N2], &breaker)]);
    let mut client = world.client();
    for round in 1..=3 {
        assert_eq!(errors(&client.attempts(PAYMENT, 4)), [REFUSED], "round {round}");
        let n1 = world.tcp("n1", N1);
        eventually_equal("both to answer", SOON, &2, || tally(&client.greetings(PAYMENT, 2)).len());
        let state = service_state(&world, PAYMENT);
        assert_eq!((state.opened, state.closed), (round, round));
        drop(n1);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn when_all_are_down_the_fallback_answers() {
    let world = World::new();
    let fixed = world.tcp("static", FALLBACK);
    let breaker = format!("consecutive_failures: 2, {LONG}");
    let payment = payment([N1, N2], &breaker).policy("fallback: shop/payment-static");
    let _agent = world.agent(&[payment, Service::tcp("shop/payment-static").at("198.18.0.11:80").to(&fixed)]);
    let attempts = world.client().attempts(PAYMENT, 20);
    assert_eq!(errors(&attempts), [REFUSED; 4]);
    assert!(attempts[4..].iter().all(|attempt| attempt.as_deref() == Ok("static")), "{attempts:?}");
    assert_eq!(service_state(&world, PAYMENT).fallback, 16);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn without_a_fallback_the_last_backend_is_never_ejected() {
    let world = World::new();
    let agent = world.agent(&[payment([N1, N2], &format!("consecutive_failures: 2, {LONG}"))]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 20)), [REFUSED; 20]);
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.no_backend), (1, 0), "{state:?}");
    assert!(state.capped > 0, "{state:?}");
    let mut failures = [N1, N2].map(|address| agent.backend("shop/payment", address, "failures"));
    failures.sort_unstable();
    assert_eq!(failures, [2, 18]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn where_all_may_be_ejected_connections_are_refused_at_once_and_come_back_with_the_backends() {
    let world = World::new();
    let _agent = world.agent(&[payment([N1, N2], &format!("{SHORT}, max_ejection: 100%, panic: 0%"))]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 6)), [&[REFUSED; 2][..], &[nothing_usable(); 4]].concat());
    assert_eq!(service_state(&world, PAYMENT).no_backend, 4);
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    eventually("both breakers to close", SOON, || {
        let attempts = client.attempts(PAYMENT, 2);
        assert!(errors(&attempts).iter().all(|errno| *errno == nothing_usable()), "{attempts:?}");
        match service_state(&world, PAYMENT).closed {
            2 => Ok(()),
            closed => Err(format!("{closed} closed; {attempts:?}")),
        }
    });
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn when_too_few_are_healthy_to_be_believed_connections_go_to_the_ejected() {
    let world = World::new();
    let _agent = world.agent(&[payment(
        [N1, N2],
        &format!("consecutive_failures: 1, {LONG}, max_ejection: 100%, panic: 50%"),
    )]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 10)), [REFUSED; 10]);
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.panicked, state.no_backend), (2, 8, 0), "{state:?}");
}

/// Two servers under an algorithm that compares, of which n1 is there first.
fn compared(algorithm: &str, addresses: &[&str]) -> String {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy(&format!("algorithm: {algorithm}"));
    config(&[addresses.iter().fold(service, |service, address| service.to_address(address))])
}

/// Both draws fall on the loaded backend in a quarter of all cases: 100 of 400, with a deviation of 8.7.
const AT_MOST: u32 = 144;

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_with_many_long_connections_gets_few_new_ones() {
    let world = World::new();
    let (n1, _n2): (Server, Server) = (world.tcp("n1", N1), world.tcp("n2", N2));
    let file = world.directory().join("segue.yaml");
    std::fs::write(&file, compared("least_connections", &[N1])).expect("a configuration file can be written");
    let agent = world.agent_on(&file);
    let mut client = world.client();
    assert_eq!(errors(&client.connect_together(PAYMENT, 32)), []);
    agent.edit(&compared("least_connections", &[N1, N2]));
    eventually_equal("n2 to answer", SOON, &vec!["n2".to_owned()], || client.greetings(PAYMENT, 1));
    eventually_equal("connections held", SOON, &32, || n1.open());
    let names = client.greetings(PAYMENT, 400);
    let n1 = tally(&names).get("n1").copied().unwrap_or_default();
    assert!(n1 <= AT_MOST, "{:?}", tally(&names));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_whose_handshake_was_slow_gets_few_connections() {
    let world = World::new();
    let hole = world.black_hole(N1);
    let file = world.directory().join("segue.yaml");
    std::fs::write(&file, compared("peak_ewma", &[N1])).expect("a configuration file can be written");
    let agent = world.agent_on(&file);
    let mut client = world.client();
    let socket = client.open(Family::V4, Kind::Stream);
    assert_eq!(client.connect_nonblocking(&socket, PAYMENT), Err(Errno(libc::EINPROGRESS)));
    let (_n1, _n2) = (hole.answer("n1"), world.tcp("n2", N2));
    // Its second SYN leaves after a second, and that is what the handshake took.
    client.finish_connect(&socket).expect("the backend answers now");
    agent.edit(&compared("peak_ewma", &[N1, N2]));
    eventually_equal("both to answer", SOON, &2, || tally(&client.greetings(PAYMENT, 20)).len());
    let names = client.greetings(PAYMENT, 400);
    assert!(tally(&names)["n1"] <= AT_MOST, "{:?}", tally(&names));
}
