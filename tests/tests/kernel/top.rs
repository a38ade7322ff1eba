//! `segue top` in a real terminal (tmux), against an agent with real traffic, and once, for scripts.

use std::process::Command;

use segue_tests::agent::{Agent, SOON};
use segue_tests::program::{Finished, Program};
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::{World, beside_test};
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";
const CART: &str = "198.18.0.11:80";
const ALIVE: &str = "127.0.0.1:8081";
const DEAD: &str = "127.0.0.1:8082";

/// Asks over one kept connection, every few milliseconds, for as long as it lives.
const LOAD: &str = "
import http.client, time
connection = http.client.HTTPConnection('198.18.0.10', 80, timeout=20)
while True:
    connection.request('GET', '/')
    connection.getresponse().read()
    time.sleep(0.005)
";

/// Answers every request of a kept connection.
const SERVER: &str = "
import http.server
class Fine(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'fine\\n')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8081), Fine).serve_forever()
";

/// `shop/payment`, which answers, and `shop/cart`, whose only backend is held back as soon as it is asked.
struct Shop<'w> {
    agent: Agent<'w>,
    _server: Program,
    _load: Program,
}

fn shop(world: &World) -> Shop<'_> {
    let breaker = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 5m, open_max: 5m, \
                   max_ejection: 100%, panic: 0%, negative_affinity: 0s }";
    let agent = world.agent(&[
        Service::tcp("shop/payment").at(PAYMENT).to_address(ALIVE),
        Service::tcp("shop/cart").at(CART).policy(breaker).to_address(DEAD),
    ]);
    let server = world.start("python3", &["-c", SERVER]);
    world.await_listener(ALIVE, &server);
    let load = world.start("python3", &["-c", LOAD]);
    assert!(world.client().attempts(CART, 2).iter().all(Result::is_err));
    Shop { agent, _server: server, _load: load }
}

/// A terminal of 80 by 24 in which `segue top` runs. Ends when dropped.
struct Terminal<'w> {
    world: &'w World,
    _server: Program,
}

impl<'w> Terminal<'w> {
    fn start(world: &'w World, agent: &Agent<'_>) -> Self {
        let mut server = Command::new("tmux");
        server.env("LC_ALL", "C.UTF-8").args(["-u", "-D", "-f", "/dev/null", "-S"]);
        server.arg(world.directory().join("tmux.sock"));
        let terminal = Self { world, _server: world.start_outside(server) };
        let top = format!(
            "{} top --interval 0.5 --socket {}; echo it ended with $?; sleep 600",
            beside_test("segue").display(),
            agent.socket().display()
        );
        eventually("tmux to open a terminal", SOON, || {
            let opened = terminal.tmux(&["new-session", "-d", "-s", "top", "-x", "80", "-y", "24", &top]);
            if opened.status.success() { Ok(()) } else { Err(opened.stderr) }
        });
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").args(["-u", "-S"]).arg(self.world.directory().join("tmux.sock"));
        command.args(arguments);
        self.world.start_outside(command).finish()
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "top", key]).expect_success();
    }

    /// Waits until all of this is to be seen, and gives the lines.
    fn shows(&self, parts: &[&str]) -> Vec<String> {
        eventually(&format!("the terminal to show {parts:?}"), SOON, || {
            let picture = self.tmux(&["capture-pane", "-p", "-t", "top"]).expect_success();
            match parts.iter().all(|part| picture.contains(part)) {
                true => Ok(picture.lines().map(str::to_owned).collect()),
                false => Err(picture),
            }
        })
    }
}

fn line<'a>(lines: &'a [String], of: &str) -> Vec<&'a str> {
    let line = lines.iter().find(|line| line.contains(of)).unwrap_or_else(|| panic!("no {of} in {lines:#?}"));
    line.split_whitespace().collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_terminal_shows_what_happens_now_and_leads_to_clients_and_backends() {
    let world = World::new();
    let shop = shop(&world);
    let terminal = Terminal::start(&world, &shop.agent);
    let lines = terminal.shows(&["shop/payment", "http1", "100%", "1/1 open", "1 held back", "q quit"]);
    let payment = line(&lines, "shop/payment");
    // Name, protocol, rate, success, and three times with their units.
    assert_eq!((payment[1], payment[3]), ("http1", "100%"), "{payment:?}");
    let rate: f64 = payment[2].parse().expect("a rate below a thousand");
    assert!((1.0..=200.0).contains(&rate), "{payment:?}");
    assert_eq!(payment.last(), Some(&"off"));

    terminal.press("Enter");
    let lines = terminal.shows(&["clients (1)", "backends (1)", ALIVE, "198.18.0.10:80", "Esc back"]);
    assert_eq!(line(&lines, ALIVE)[4], "ready");
    terminal.press("Escape");
    terminal.press("/");
    terminal.shows(&["/_"]);
    terminal.press("c");
    terminal.press("a");
    terminal.press("Enter");
    let lines = terminal.shows(&["only names with \"ca\"", "shop/cart"]);
    assert!(!lines.iter().any(|line| line.contains("shop/payment")), "{lines:#?}");
    terminal.press("Enter");
    terminal.shows(&["breaker enforce: 1/1 open", "open, "]);
    terminal.press("?");
    terminal.shows(&["any key closes this"]);
    terminal.press("x");
    terminal.press("q");
    let lines = terminal.shows(&["it ended with 0"]);
    assert!(!lines.iter().any(|line| line.contains("shop/")), "the terminal is as before: {lines:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_terminal_tells_when_the_agent_goes_and_shows_on_when_it_is_back() {
    let world = World::new();
    let mut shop = shop(&world);
    let terminal = Terminal::start(&world, &shop.agent);
    terminal.shows(&["shop/payment", "http1"]);
    shop.agent.terminate();
    terminal.shows(&["cannot reach the agent", "shop/payment"]);
    shop.agent.restart();
    eventually("the trouble to be over", SOON, || {
        let picture = terminal.tmux(&["capture-pane", "-p", "-t", "top"]).expect_success();
        if picture.contains("cannot reach") { Err(picture) } else { Ok(()) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_script_gets_one_sample_and_no_pictures() {
    let world = World::new();
    let shop = shop(&world);
    let refused = shop.agent.start_command(&["top"]).finish();
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("segue top --once"), "{}", refused.stderr);
    let table = shop.agent.start_command(&["top", "--once", "--interval", "1"]).finish().expect_success();
    assert!(table.contains("shop/payment") && !table.contains('\u{1b}'), "{table}");
    let json = shop
        .agent
        .start_command(&["top", "-o", "json", "--interval", "1", "--sort", "name"])
        .finish()
        .expect_success();
    let rates: Value = serde_json::from_str(&json).expect("JSON");
    let names: Vec<_> =
        rates["services"].as_array().expect("services").iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["shop/cart", "shop/payment"]);
    let payment = &rates["services"][1];
    assert_eq!((&payment["unit"], &payment["success"]), (&"request".into(), &1.0.into()));
    let requests =
        payment["requests_per_s"].as_f64().expect("a rate") * rates["seconds"].as_f64().expect("seconds");
    assert!(requests > 10.0 && (requests - requests.round()).abs() < 1e-6, "whole requests: {requests}");
    assert!(payment["p99_ns"].as_u64() >= payment["p50_ns"].as_u64() && payment["p50_ns"].is_u64());
    assert_eq!(payment["clients"].as_array().map(Vec::len), Some(1));
    let cart = &rates["services"][0];
    assert_eq!(
        (&cart["backends"][0]["breaker"], &cart["backends"][0]["held_back"]),
        (&"open".into(), &true.into())
    );
}
