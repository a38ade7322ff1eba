//! What policies make of requests inside TLS: answers that are late or never come open a breaker, and a service whose requests
//! are off is not read. By counts, on servers and clients nobody here wrote.

use std::collections::BTreeMap;
use std::fs;

use segue_tests::agent::{Agent, SOON};
use segue_tests::nginx::{Nginx, PAGES};
use segue_tests::program::Program;
use segue_tests::server::BlackHole;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually;
use segue_tests::world::World;

use crate::request_signals::{breaker_of, count};
use crate::tls::{CLIENT, SERVER, STATUS, agent, await_counts};

const GOOD: &str = "127.0.0.1:8443";
/// Takes requests and never answers.
const SILENT: &str = "127.0.0.1:8444";
/// Answers well after 300 ms.
const LATE: &str = "127.0.0.1:8445";
/// Where those two look for their answers.
const NOBODY: &str = "127.0.0.1:8449";

/// Opens at the third failure in a row, for longer than a test runs.
const LONG: &str =
    "consecutive_failures: 3, failure_ratio: 0%, open: 5m, open_max: 5m, negative_affinity: 0s";

/// nginx at the three addresses, each with TLS.
fn nginx(world: &World) -> (BlackHole, Program) {
    let nobody = world.black_hole(NOBODY);
    let silent = format!("location / {{ proxy_pass http://{NOBODY}; }}");
    let late = format!(
        "location / {{ proxy_pass http://{NOBODY}; proxy_connect_timeout 300ms; error_page 504 =200 /late; }} \
         location /late {{ return 200 \"late\\n\"; }}"
    );
    let nginx = Nginx::new(world).serve_tls(GOOD, PAGES).serve_tls(SILENT, &silent).serve_tls(LATE, &late);
    (nobody, nginx.start())
}

fn web() -> Service {
    Service::tcp("shop/web").at("198.18.0.10:443").to_address(GOOD)
}

/// The service with another backend, by turns, and this breaker.
fn web_with(backend: &str, breaker: &str) -> Service {
    web().to_address(backend).policy(&format!("algorithm: round_robin, breaker: {{ {breaker} }}"))
}

/// How a client lets go of a connection it has waited on in vain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// As Python's library does by itself: OpenSSL's end of it first, then the socket.
    SslFirst,
    /// As where memory is collected: the socket at once, OpenSSL's end of it when the collector comes.
    SocketFirst,
}

/// Asks this many times, on a connection each, and gives up on each after so many seconds. What came back, a line each: a page,
/// or what went wrong. What it still holds of OpenSSL's it lets go of before it asks again, or `linger_s` seconds after the last
/// time, if those are any.
fn ask(world: &World, times: u32, patience_s: f64, leaves: Leaves, linger_s: f64) -> Vec<String> {
    let leave = match leaves {
        Leaves::SslFirst => "connection.close()",
        Leaves::SocketFirst => "os.close(connection.sock.detach())",
    };
    let script = format!(
        "
import http.client, os, ssl, time
context = ssl._create_unverified_context()
kept = []
for n in range({times}):
    connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=20, context=context)
    connection.request('GET', '/')
    connection.sock.settimeout({patience_s})
    try:
        # Not by the connection's own method, which closes it.
        print(connection.sock.recv(65536).decode().splitlines()[-1])
    except OSError as error:
        print(type(error).__name__)
    {leave}
    if {linger_s}: kept.append(connection)
time.sleep({linger_s})
"
    );
    world.run("python3", &["-c", &script]).expect_success().lines().map(str::to_owned).collect()
}

fn given_up(answers: &[String]) -> usize {
    answers.iter().filter(|answer| answer.starts_with("Timeout")).count()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_never_answers_inside_tls_is_taken_out_however_its_clients_leave() {
    for leaves in [Leaves::SslFirst, Leaves::SocketFirst] {
        let world = World::new();
        let _nginx = nginx(&world);
        let breaker = format!("signals: [no_answer], answer_timeout: 200ms, {LONG}");
        let agent = agent(&world, &[web_with(SILENT, &breaker)]);
        let answers = ask(&world, 20, 0.5, leaves, 0.0);
        assert_eq!(given_up(&answers), 3, "the threshold, and not one more or less: {answers:?}");
        assert_eq!(count(&answers, "fine"), 17);
        assert_eq!(breaker_of(&agent, SILENT)["state"], "open");
        assert_eq!(breaker_of(&agent, GOOD)["state"], "closed");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_nobody_here_wrote_that_gives_up_inside_tls_has_a_silent_backend_taken_out() {
    let world = World::new();
    let _nginx = nginx(&world);
    let breaker = format!("signals: [no_answer], answer_timeout: 200ms, {LONG}");
    let agent = agent(&world, &[web_with(SILENT, &breaker)]);
    let mut in_vain = 0;
    for _ in 0..12 {
        let curl = ["-ksS", "--http1.1", "--max-time", "2", "https://198.18.0.10/"];
        let output = world.run("curl", &curl);
        // 28: the time is over.
        match output.status.code() {
            Some(0) => assert_eq!(output.expect_success(), "fine\n"),
            Some(28) => in_vain += 1,
            other => panic!("curl ended with {other:?}"),
        }
    }
    assert_eq!(in_vain, 3, "the threshold, and not one more or less");
    assert_eq!(breaker_of(&agent, SILENT)["state"], "open");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn who_gives_up_inside_tls_before_the_deadline_holds_nothing_against_the_backend() {
    let world = World::new();
    let _nginx = nginx(&world);
    let breaker = format!("signals: [no_answer], answer_timeout: 1s, {LONG}");
    let agent = agent(&world, &[web_with(SILENT, &breaker)]);
    for leaves in [Leaves::SslFirst, Leaves::SocketFirst] {
        // What is left of it in memory after the deadline waits for nothing.
        let answers = ask(&world, 12, 0.1, leaves, 1.2);
        assert_eq!(given_up(&answers), 6, "{answers:?}");
        assert_eq!(breaker_of(&agent, SILENT)["state"], "closed");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn answers_inside_tls_that_come_after_their_time_count_as_none() {
    let world = World::new();
    let _nginx = nginx(&world);
    let breaker = format!("signals: [no_answer], answer_timeout: 200ms, {LONG}");
    let agent = agent(&world, &[web_with(LATE, &breaker)]);
    let answers = ask(&world, 20, 20.0, Leaves::SslFirst, 0.0);
    assert_eq!((count(&answers, "late"), count(&answers, "fine")), (3, 17), "{answers:?}");
    assert_eq!(breaker_of(&agent, LATE)["state"], "open");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn slow_answers_inside_tls_count_in_the_slow_ratio() {
    let world = World::new();
    let _nginx = nginx(&world);
    let breaker = "slow_ratio: 100%, slow_answer: 200ms, minimum_samples: 4, consecutive_failures: 0, \
                   open: 5m, open_max: 5m";
    let agent = agent(&world, &[web_with(LATE, breaker)]);
    let answers = ask(&world, 24, 20.0, Leaves::SslFirst, 0.0);
    assert_eq!((count(&answers, "late"), count(&answers, "fine")), (4, 20), "{answers:?}");
    assert_eq!(breaker_of(&agent, LATE)["state"], "open");
    assert_eq!(breaker_of(&agent, GOOD)["state"], "closed");
}

/// Waits until this many requests were answered well, as a side counts them.
fn await_fine(agent: &Agent<'_>, metric: &str, count: u64) {
    await_counts(agent, metric, STATUS, &BTreeMap::from([("200".to_owned(), count)]));
}

/// A client that asks ten times in each of its turns, always on the same connection.
struct Asker<'w> {
    world: &'w World,
    name: &'static str,
    program: Program,
    turn: u32,
}

impl<'w> Asker<'w> {
    fn start(world: &'w World, name: &'static str) -> Self {
        let script = format!(
            "
import http.client, os, ssl, time
context = ssl._create_unverified_context()
connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=60, context=context)
turn = 0
while True:
    while not os.path.exists({go:?} + str(turn)): time.sleep(0.02)
    for n in range(10):
        connection.request('GET', '/')
        assert connection.getresponse().read() == b'fine\\n'
    open({go:?} + 'done' + str(turn), 'w').close()
    turn += 1
",
            go = world.directory().join(name).display().to_string()
        );
        let program = world.start("python3", &["-c".to_owned(), script]);
        Self { world, name, program, turn: 0 }
    }

    /// Has it ask ten times, and waits until it was answered.
    fn ask(&mut self) {
        let file = |what: &str| self.world.directory().join(format!("{}{what}{}", self.name, self.turn));
        fs::write(file(""), "").expect("a file");
        eventually("ten answers", SOON, || match file("done").exists() {
            true => Ok(()),
            false => Err(self.program.output()),
        });
        self.turn += 1;
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn requests_that_are_off_are_not_read_inside_tls_until_they_are_on_again() {
    let world = World::new();
    let agent = agent(&world, &[web()]);
    let _nginx = nginx(&world);
    let generation = || agent.status()["config"]["generation"].as_u64();
    let replace = |service: Service| {
        let before = generation();
        agent.replace(&config(&[service]));
        eventually("the edit to be in force", SOON, || {
            if generation() > before { Ok(()) } else { Err("not yet") }
        });
    };
    let mut first = Asker::start(&world, "first");
    first.ask();
    await_fine(&agent, CLIENT, 10);

    replace(web().policy("requests: \"off\""));
    first.ask();
    let mut second = Asker::start(&world, "second");
    second.ask();
    // The server's side is nobody's service: it is read all the same, and shows when all is counted.
    await_fine(&agent, SERVER, 30);
    await_fine(&agent, CLIENT, 10);

    replace(web());
    let mut third = Asker::start(&world, "third");
    third.ask();
    await_fine(&agent, CLIENT, 20);
    // What was opened meanwhile is joined with its first answer; what was given up stays so.
    second.ask();
    await_fine(&agent, CLIENT, 29);
    first.ask();
    await_fine(&agent, SERVER, 60);
    await_fine(&agent, CLIENT, 29);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_service_whose_requests_are_off_is_read_inside_tls_by_none_of_its_clients() {
    let world = World::new();
    let agent = agent(&world, &[web().policy("requests: \"off\"")]);
    let _nginx = nginx(&world);
    let said = world.run("h2load", &["--h1", "-n200", "-c4", "https://198.18.0.10/"]).expect_success();
    assert!(said.contains("200 succeeded"), "{said}");
    let curl = ["-sk", "--http1.1", "https://198.18.0.10/"];
    assert_eq!(world.run("curl", &curl).expect_success(), "fine\n");
    await_fine(&agent, SERVER, 201);
    assert_eq!(agent.counted_by(CLIENT, STATUS), BTreeMap::new());
    assert_eq!(agent.unparsed(), BTreeMap::new());
}
