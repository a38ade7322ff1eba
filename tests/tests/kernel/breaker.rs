//! The breaker in the kernel: when it opens, whom it admits, when it closes, and that it needs no agent for that.
//! By counts: a breaker that must stay open stays open for minutes, one that must come back does so in a second.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::{Attempt, Family, Kind};
use segue_tests::client::{Client, Errno, errors, tally};
use segue_tests::counters::service_state;
use segue_tests::kernel::refused_with;
use segue_tests::server::{BlackHole, Server};
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::{NEIGHBOUR, World};

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";
const N2: &str = "127.0.0.1:8082";
const N3: &str = "127.0.0.1:8083";

/// Opens at the fifth failure in a row, and for longer than a test runs. A client alone gets to five sooner where it is
/// not kept away after the first, here and below.
const LONG: &str =
    "consecutive_failures: 5, failure_ratio: 0%, open: 5m, open_max: 5m, negative_affinity: 0s";

/// Opens at the first failure, is back after a second at the latest, and takes its whole share then.
const SHORT: &str = "consecutive_failures: 1, failure_ratio: 0%, open: 1s, open_max: 1s, jitter: 0%, \
                     slow_start: 0s, probes: 3, successes_to_close: 2, negative_affinity: 0s";

/// All may be ejected, and then nothing is usable.
const ALL: &str = "max_ejection: 100%, panic: 0%";

/// `shop/payment` over these addresses.
fn payment(addresses: &[&str], algorithm: &str, breaker: &str) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy(&format!("algorithm: {algorithm}"));
    let service = service.policy(&format!("breaker: {{ {breaker} }}"));
    addresses.iter().fold(service, |service, address| service.to_address(address))
}

fn names(attempts: &[Attempt]) -> Vec<String> {
    attempts.iter().filter_map(|attempt| attempt.as_ref().ok()).cloned().collect()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Connects until the service has answered once with this name.
fn until_it_answers(client: &mut Client, name: &str) {
    eventually(&format!("an answer of {name}"), SOON, || {
        let attempts = client.attempts(PAYMENT, 1);
        if names(&attempts) == [name] { Ok(()) } else { Err(format!("{attempts:?}")) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_crowd_meets_a_backend_that_refuses_only_until_its_breaker_opens() {
    let world = World::new();
    let servers = [world.tcp("n2", N2), world.tcp("n3", N3)];
    let agent = world.agent(&[payment(&[N1, N2, N3], "random", LONG)]);
    let attempts = world.client().crowd(PAYMENT, 64, 20);
    let failed = errors(&attempts);
    assert!((5..=5 + cpus()).contains(&failed.len()), "{} of {} failed", failed.len(), attempts.len());
    assert!(failed.iter().all(|errno| *errno == Errno(libc::ECONNREFUSED)), "{failed:?}");
    let reached = agent.backend("shop/payment", N1, "selections");
    assert_eq!(usize::try_from(reached), Ok(failed.len()));
    let answered: u64 = servers.iter().map(Server::accepted).sum();
    assert_eq!(usize::try_from(answered), Ok(attempts.len() - failed.len()));
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.half_opened, state.closed), (1, 0, 0), "{state:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_crowd_meets_a_backend_that_resets_at_most_once_each_beyond_the_threshold() {
    let world = World::new();
    let servers = [world.tcp("n1", N1), world.tcp("n2", N2), world.tcp("n3", N3)];
    let _agent = world.agent(&[payment(&[N1, N2, N3], "random", LONG)]);
    servers[0].reset_new_connections(true);
    let mut client = world.client();
    let failed = errors(&client.crowd(PAYMENT, 64, 20)).len();
    // Unlike a refusal, which its connect() waits for, a reset comes later: whoever is on the way then still meets it.
    assert!((5..=5 + 64).contains(&failed), "{failed} failed");
    let reached = servers[0].accepted();
    assert_eq!(usize::try_from(reached), Ok(failed));
    // And then nobody.
    assert_eq!(errors(&client.crowd(PAYMENT, 64, 5)), []);
    assert_eq!(servers[0].accepted(), reached);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_breaker_opens_probes_and_closes_while_no_agent_lives() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let mut agent = world.agent(&[payment(&[N1, N2], "round_robin", SHORT)]);
    let mut client = world.client();
    agent.kill();
    assert_eq!(errors(&client.attempts(PAYMENT, 10)).len(), 1);
    assert_eq!(service_state(&world, PAYMENT).opened, 1);
    let _n1 = world.tcp("n1", N1);
    eventually("the breaker to close", SOON, || {
        assert_eq!(errors(&client.attempts(PAYMENT, 2)), []);
        let state = service_state(&world, PAYMENT);
        if state.closed == 1 { Ok(()) } else { Err(format!("{state:?}")) }
    });
    assert_eq!(service_state(&world, PAYMENT).half_opened, 1);
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 5), ("n2", 5)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn of_64_at_once_a_half_open_breaker_admits_exactly_its_probes() {
    let world = World::new();
    let mut agent = world.agent(&[payment(&[N1], "random", &format!("{SHORT}, {ALL}"))]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 1)), [Errno(libc::ECONNREFUSED)]);
    assert_eq!(errors(&client.attempts(PAYMENT, 1)), [refused_with(libc::EHOSTUNREACH)]);
    let n1 = world.tcp("n1", N1);
    agent.kill();
    eventually("the open time to be over", SOON, || {
        let attempts = client.connect_together(PAYMENT, 64);
        let (admitted, refused) = (names(&attempts).len(), errors(&attempts));
        assert!(refused.iter().all(|errno| *errno == refused_with(libc::EHOSTUNREACH)), "{refused:?}");
        match admitted {
            0 => Err("nobody is admitted"),
            3 => Ok(()),
            other => panic!("{other} of 64 were admitted"),
        }
    });
    // Until they have an answer to tell of, nobody else goes.
    assert_eq!(names(&client.connect_together(PAYMENT, 64)).len(), 0);
    assert_eq!(service_state(&world, PAYMENT).probes, 3);
    eventually_equal("probes accepted", SOON, &3, || n1.accepted());
    client.release_together();
    until_it_answers(&mut client, "n1");
    assert_eq!(service_state(&world, PAYMENT).closed, 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_probe_that_fails_opens_the_breaker_again() {
    let world = World::new();
    let agent = world.agent(&[payment(&[N1], "random", &format!("{SHORT}, {ALL}"))]);
    let mut client = world.client();
    for failures in 1..=3 {
        eventually("a connection to reach the backend", SOON, || {
            match errors(&client.attempts(PAYMENT, 1))[..] {
                [Errno(libc::ECONNREFUSED)] => Ok(()),
                ref other => Err(format!("{other:?}")),
            }
        });
        assert_eq!(agent.backend("shop/payment", N1, "failures"), failures);
        assert_eq!(errors(&client.attempts(PAYMENT, 1)), [refused_with(libc::EHOSTUNREACH)]);
    }
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.half_opened, state.probes, state.closed), (3, 2, 2, 0));
}

/// An agent whose one backend was refused once, comes back as a black hole and is asked for one probe.
fn black_hole_to_probe(world: &World) -> (BlackHole, Client) {
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 1)), [Errno(libc::ECONNREFUSED)]);
    (world.black_hole(N1), client)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_probe_the_application_abandons_gives_its_admission_back() {
    let world = World::new();
    let breaker = format!("{SHORT}, {ALL}")
        .replace("probes: 3, successes_to_close: 2", "probes: 1, successes_to_close: 1");
    let _agent = world.agent(&[payment(&[N1], "random", &breaker)]);
    let (_hole, mut client) = black_hole_to_probe(&world);
    for _ in 0..3 {
        let socket = client.open(Family::V4, Kind::Stream);
        eventually_equal("a probe on its way", SOON, &Err(Errno(libc::EINPROGRESS)), || {
            client.connect_nonblocking(&socket, PAYMENT)
        });
        assert_eq!(errors(&client.attempts(PAYMENT, 1)), [refused_with(libc::EHOSTUNREACH)]);
        client.close(socket);
    }
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.half_opened, state.probes), (1, 1, 3));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_probe_that_never_left_gives_its_admission_back_when_its_socket_connects_again() {
    let world = World::new();
    let _neighbour = world.neighbour();
    let far = format!("{NEIGHBOUR}:8081");
    let breaker = format!("{SHORT}, {ALL}")
        .replace("probes: 3, successes_to_close: 2", "probes: 1, successes_to_close: 1");
    let _agent = world.agent(&[payment(&[&far], "random", &breaker)]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 1)), [Errno(libc::ECONNREFUSED)]);
    world.run_outside("ip", &["address", "del", "10.77.0.1/24", "dev", "wire"]);
    let socket = client.open(Family::V4, Kind::Stream);
    let unroutable = Err(Errno(libc::ENETUNREACH));
    eventually_equal("a probe without a route", SOON, &unroutable, || client.connect(&socket, PAYMENT));
    for _ in 0..3 {
        assert_eq!(client.connect(&socket, PAYMENT), unroutable, "admitted again");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn observing_changes_nothing_and_counts_what_it_would_have_done() {
    let world = World::new();
    let _servers = [world.tcp("n2", N2), world.tcp("n3", N3)];
    let _agent = world.agent(&[payment(&[N1, N2, N3], "round_robin", &format!("mode: observe, {LONG}"))]);
    let attempts = world.client().attempts(PAYMENT, 30);
    assert_eq!(errors(&attempts).len(), 10);
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.would_avoid, state.avoided), (1, 5, 0), "{state:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn forced_open_refuses_every_connection() {
    let world = World::new();
    let n1 = world.tcp("n1", N1);
    let _agent = world.agent(&[payment(&[N1], "random", "mode: forced_open")]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 10)), [refused_with(libc::EHOSTUNREACH); 10]);
    assert_eq!(n1.accepted(), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn forced_closed_refuses_none() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let breaker = format!("mode: forced_closed, {LONG}");
    let _agent = world.agent(&[payment(&[N1, N2], "round_robin", &breaker)]);
    assert_eq!(errors(&world.client().attempts(PAYMENT, 30)).len(), 15);
    assert_eq!(service_state(&world, PAYMENT).opened, 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_returns_gets_a_growing_share() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let breaker = SHORT.replace("slow_start: 0s", "slow_start: 8s, slow_start_minimum: 10%");
    let _agent = world.agent(&[payment(&[N1, N2], "random", &breaker)]);
    let mut client = world.client();
    eventually("the breaker to open", SOON, || match service_state(&world, PAYMENT).opened {
        0 => Err(format!("{:?}", client.attempts(PAYMENT, 1))),
        _ => Ok(()),
    });
    let _n1 = world.tcp("n1", N1);
    eventually("the breaker to close", SOON, || match service_state(&world, PAYMENT).closed {
        0 => Err(format!("{:?}", client.attempts(PAYMENT, 1))),
        _ => Ok(()),
    });
    let mut share = || tally(&client.greetings(PAYMENT, 200)).get("n1").copied().unwrap_or_default();
    let first = share();
    assert!(first < 70, "{first} of 200 at once");
    eventually("its whole share", SOON, || match share() {
        share @ 0..80 => Err(format!("{share} of 200")),
        _ => Ok(()),
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_breaker_stays_open_through_a_new_policy_and_a_new_agent() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let mut agent = world.agent(&[payment(&[N1, N2], "round_robin", LONG)]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 20)).len(), 5);
    let next =
        payment(&[N1, N2], "random", &LONG.replace("consecutive_failures: 5", "consecutive_failures: 9"));
    let fresh = Service::tcp("shop/fresh").at("198.18.0.11:80").to_address(N2);
    agent.edit(&config(&[next, fresh]));
    eventually("the new policy", SOON, || {
        client.connect_tcp("198.18.0.11:80").map_err(|errno| format!("{errno:?}"))
    });
    assert_eq!(errors(&client.attempts(PAYMENT, 20)), []);
    for end in [Agent::kill, Agent::terminate] {
        end(&mut agent);
        agent.restart();
        assert_eq!(errors(&client.attempts(PAYMENT, 20)), []);
    }
    assert_eq!(agent.backend("shop/payment", N1, "selections"), 5);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_was_removed_and_added_again_begins_anew() {
    let world = World::new();
    let _n2 = world.tcp("n2", N2);
    let agent = world.agent(&[payment(&[N1, N2], "round_robin", LONG)]);
    let mut client = world.client();
    assert_eq!(errors(&client.attempts(PAYMENT, 20)).len(), 5);
    let backends_in_use = || -> Option<u64> {
        let status = agent.status();
        let maps = status["maps"].as_array()?;
        maps.iter().find(|map| map["name"] == "BACKENDS")?["entries"].as_u64()
    };
    let before = backends_in_use().expect("the status has the map");
    agent.edit(&config(&[payment(&[N2], "round_robin", LONG)]));
    // Its entry is vacated once nobody can still hold it; coming back before that would be no new beginning.
    eventually_equal("entries in use", SOON, &Some(before - 1), backends_in_use);
    let _n1 = world.tcp("n1", N1);
    agent.edit(&config(&[payment(&[N1, N2], "round_robin", LONG)]));
    eventually_equal("both to answer", SOON, &2, || tally(&client.greetings(PAYMENT, 2)).len());
}
