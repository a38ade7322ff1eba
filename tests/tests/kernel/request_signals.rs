//! Answers in the closed loop: a backend that answers with errors, slowly or not at all loses its share, and gets it back;
//! a canary that does is rolled back. By counts, on a server nobody here wrote.

use std::fs;
use std::path::PathBuf;

use segue_tests::agent::{Agent, SOON};
use segue_tests::program::Program;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;
use serde_json::Value;

const GOOD: &str = "127.0.0.1:8081";
const BAD: &str = "127.0.0.1:8082";

/// Opens at the third failure in a row, for longer than a test runs.
const LONG: &str =
    "consecutive_failures: 3, failure_ratio: 0%, open: 5m, open_max: 5m, negative_affinity: 0s";

/// Servers of Python's, a port each, that read what to do from a file: a status, and how long to wait before they answer.
const SERVERS: &str = "
import http.server, socketserver, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        port = str(self.server.server_address[1])
        status, wait = open(sys.argv[1] + '/' + port).read().split()
        time.sleep(float(wait))
        self.send_response(int(status))
        self.send_header('content-length', str(len(port)))
        self.end_headers()
        self.wfile.write(port.encode())
    def log_message(self, *_): pass
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer.daemon_threads = True
for port in sys.argv[2:]:
    server = socketserver.ThreadingTCPServer(('127.0.0.1', int(port)), Handler)
    threading.Thread(target=server.serve_forever).start()
";

/// A good and a bad server, and what they are told to do.
struct Web {
    orders: PathBuf,
    _program: Program,
}

impl Web {
    /// The two, each with its orders.
    fn new(world: &World, good: &str, bad: &str) -> Self {
        let orders = world.directory().join("orders");
        fs::create_dir_all(&orders).expect("a directory");
        let mut arguments = vec!["-c".to_owned(), SERVERS.to_owned(), orders.display().to_string()];
        arguments.extend([GOOD, BAD].map(|at| port_of(at).to_owned()));
        fs::write(orders.join(port_of(GOOD)), good).expect("a file");
        fs::write(orders.join(port_of(BAD)), bad).expect("a file");
        let program = world.start("python3", &arguments);
        world.await_listener(GOOD, &program);
        world.await_listener(BAD, &program);
        Self { orders, _program: program }
    }

    /// From now on this one does that.
    fn order(&self, at: &str, orders: &str) {
        let new = self.orders.join("new");
        fs::write(&new, orders).expect("a file");
        fs::rename(&new, self.orders.join(port_of(at))).expect("a file in its place");
    }
}

fn port_of(at: &str) -> &str {
    at.rsplit_once(':').map_or(at, |(_, port)| port)
}

fn web(breaker: &str) -> Service {
    Service::tcp("shop/web")
        .at("198.18.0.10:80")
        .policy(&format!("algorithm: round_robin, breaker: {{ {breaker} }}"))
        .to_address(GOOD)
        .to_address(BAD)
}

/// Asks this many times, on a connection each, and gives up on each after so many seconds. What came back, a line each:
/// a status and the port of the server, or what went wrong.
fn ask(world: &World, times: u32, patience_s: f64) -> Vec<String> {
    let script = format!(
        "
import http.client
for n in range({times}):
    connection = http.client.HTTPConnection('198.18.0.10', 80, timeout={patience_s})
    try:
        connection.request('GET', '/')
        answer = connection.getresponse()
        print(answer.status, answer.read().decode())
    except OSError as error:
        print(type(error).__name__)
    connection.close()
"
    );
    world.run("python3", &["-c", &script]).expect_success().lines().map(str::to_owned).collect()
}

pub(super) fn count(answers: &[String], wanted: &str) -> usize {
    answers.iter().filter(|answer| *answer == wanted).count()
}

/// A backend's breaker, as `segue breaker` shows it.
pub(super) fn breaker_of(agent: &Agent<'_>, backend: &str) -> Value {
    let text = agent.breaker(&["-o", "json"]).expect_success();
    let cells: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let cell = cells.iter().find(|cell| cell["backend"] == backend);
    cell.unwrap_or_else(|| panic!("no cell of {backend} in {cells:#?}")).clone()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_answers_with_errors_is_taken_out_after_so_many() {
    let world = World::new();
    let _web = Web::new(&world, "200 0", "503 0");
    let agent = world.agent(&[web(&format!("signals: [http_5xx], {LONG}"))]);
    let answers = ask(&world, 40, 20.0);
    assert_eq!(count(&answers, "503 8082"), 3, "the threshold, and not one more: {answers:?}");
    assert_eq!(count(&answers, "200 8081"), 37);
    assert_eq!(breaker_of(&agent, BAD)["state"], "open");
    // The good one was never suspected: its answers counted for it.
    assert_eq!(breaker_of(&agent, GOOD)["state"], "closed");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn without_the_signal_errors_are_the_applications_business() {
    let world = World::new();
    let _web = Web::new(&world, "200 0", "503 0");
    let _agent = world.agent(&[web(LONG)]);
    let answers = ask(&world, 40, 20.0);
    assert_eq!(count(&answers, "503 8082"), 20, "{answers:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_error_among_good_answers_of_one_connection_counts_for_itself() {
    let world = World::new();
    let servers = Web::new(&world, "503 0", "200 0");
    let service = Service::tcp("shop/web")
        .at("198.18.0.10:80")
        .policy(&format!("breaker: {{ signals: [http_5xx], max_ejection: 100%, panic: 0%, {LONG} }}"))
        .to_address(GOOD);
    let agent = world.agent(&[service]);
    let script = |requests: u32| {
        format!(
            "
import http.client
connection = http.client.HTTPConnection('198.18.0.10', 80, timeout=20)
for n in range({requests}):
    connection.request('GET', '/')
    connection.getresponse().read()
"
        )
    };
    // Two errors on one connection, then a good answer on another: three in a row were never.
    world.run("python3", &["-c", &script(2)]).expect_success();
    servers.order(GOOD, "200 0");
    world.run("python3", &["-c", &script(1)]).expect_success();
    servers.order(GOOD, "503 0");
    world.run("python3", &["-c", &script(2)]).expect_success();
    assert_eq!(breaker_of(&agent, GOOD)["state"], "closed");
    world.run("python3", &["-c", &script(1)]).expect_success();
    assert_eq!(breaker_of(&agent, GOOD)["state"], "open");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_takes_requests_and_never_answers_is_taken_out() {
    let world = World::new();
    let _web = Web::new(&world, "200 0", "200 60");
    let agent = world.agent(&[web(&format!("signals: [no_answer], answer_timeout: 200ms, {LONG}"))]);
    let answers = ask(&world, 20, 0.5);
    let given_up = answers.iter().filter(|answer| answer.starts_with("Timeout")).count();
    assert_eq!(given_up, 3, "{answers:?}");
    assert_eq!(count(&answers, "200 8081"), 17);
    assert_eq!(breaker_of(&agent, BAD)["state"], "open");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn who_gives_up_before_the_deadline_holds_nothing_against_the_backend() {
    let world = World::new();
    let _web = Web::new(&world, "200 0", "200 60");
    let agent = world.agent(&[web(&format!("signals: [no_answer], answer_timeout: 1h, {LONG}"))]);
    let answers = ask(&world, 12, 0.2);
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("Timeout")).count(), 6, "{answers:?}");
    assert_eq!(breaker_of(&agent, BAD)["state"], "closed");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn slow_answers_count_in_the_slow_ratio() {
    let world = World::new();
    let _web = Web::new(&world, "200 0", "200 0.3");
    let policy = "slow_ratio: 100%, slow_answer: 200ms, minimum_samples: 4, consecutive_failures: 0, \
                  open: 5m, open_max: 5m";
    let agent = world.agent(&[web(policy)]);
    let answers = ask(&world, 24, 20.0);
    assert_eq!(count(&answers, "200 8082"), 4, "{answers:?}");
    assert_eq!(breaker_of(&agent, BAD)["state"], "open");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn probes_are_judged_by_their_answers_with_the_agent_dead() {
    let world = World::new();
    let servers = Web::new(&world, "200 0", "503 0");
    let short = "consecutive_failures: 1, failure_ratio: 0%, open: 1s, open_max: 1s, jitter: 0%, slow_start: 0s, \
                 probes: 1, successes_to_close: 1, negative_affinity: 0s";
    let mut agent = world.agent(&[web(&format!("signals: [http_5xx], {short}"))]);
    agent.kill();
    // One error opens it; then each second one probe finds that it still is ill.
    let asked = std::time::Instant::now();
    let mut errors = 0;
    eventually("some probes", SOON, || {
        errors += count(&ask(&world, 4, 20.0), "503 8082");
        if errors >= 3 { Ok(()) } else { Err(errors) }
    });
    assert!(errors as u64 <= 2 + asked.elapsed().as_secs(), "{errors} errors in {:?}", asked.elapsed());
    servers.order(BAD, "200 0");
    eventually("it to be back", SOON, || {
        let answers = ask(&world, 8, 20.0);
        if count(&answers, "200 8082") == 4 { Ok(()) } else { Err(format!("{answers:?}")) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_canary_that_answers_with_errors_is_rolled_back() {
    let world = World::new();
    let _web = Web::new(&world, "200 0", "500 0");
    let service = Service::tcp("shop/web")
        .at("198.18.0.10:80")
        .policy("split: { v1: 1, v2: 1 }")
        .policy("canary: { version: v2, guard: { minimum_samples: 20 } }")
        .to_address_with(GOOD, "version: v1")
        .to_address_with(BAD, "version: v2");
    let agent = world.agent(&[service]);
    let rollout = eventually("the canary to be rolled back", SOON, || {
        ask(&world, 20, 20.0);
        let text = agent.rollout(&["shop/web", "-o", "json"]).expect_success();
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let rollout = answer["rollouts"][0].clone();
        if rollout["phase"] == "rolled_back" { Ok(rollout) } else { Err(rollout.to_string()) }
    });
    assert_eq!(rollout["cause"], "request_error_ratio", "{rollout:#}");
    let answers = ask(&world, 20, 20.0);
    assert_eq!(count(&answers, "200 8081"), 20, "{answers:?}");
}
