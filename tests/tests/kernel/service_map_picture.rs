//! The picture in the README: what the page saves of a small shop on a real agent. `SEGUE_UPDATE_PICTURE=1` writes it anew.

use std::path::Path;
use std::time::Duration;

use segue_tests::agent::SOON;
use segue_tests::browser::{self, Browser};
use segue_tests::program::Program;
use segue_tests::service::Service;
use segue_tests::wait::{eventually, let_pass};
use segue_tests::world::World;

const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/service-map.svg");

/// The largest the picture may be, in bytes: it is loaded with the README.
const MOST_BYTES: usize = 200_000;

/// Answers after a while, every so often with 503. Arguments: port, milliseconds, one in so many that fails (0: none).
const SERVER: &str = r"
import http.server, itertools, socketserver, sys, time
port, pause, bad = int(sys.argv[1]), int(sys.argv[2]) / 1000, int(sys.argv[3])
turn = itertools.count(1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *rest): pass
    def do_GET(self):
        now = next(turn)
        time.sleep(pause)
        self.send_response(503 if bad and now % bad == 0 else 200)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'fine\n')
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
Server(('127.0.0.1', port), Handler).serve_forever()
";

/// Asks an address again and again, ten times on each connection. Arguments: address, milliseconds between requests.
const CLIENT: &str = r"
import http.client, sys, time
address, pause = sys.argv[1], int(sys.argv[2]) / 1000
while True:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        for _ in range(10):
            connection.request('GET', '/')
            connection.getresponse().read()
            time.sleep(pause)
    except OSError:
        time.sleep(pause)
    connection.close()
";

fn server(world: &World, unit: &str, port: u16, pause_ms: u16, bad: u16) -> Program {
    let arguments = [port, pause_ms, bad].map(|number| number.to_string());
    let arguments = [&["-c".to_owned(), SERVER.to_owned()], &arguments[..]].concat();
    let program = world.start_in(&format!("system.slice/{unit}.service"), "python3", &arguments);
    world.await_listener(&format!("127.0.0.1:{port}"), &program);
    program
}

fn client(world: &World, unit: &str, address: &str, pause_ms: u16) -> Program {
    let arguments = ["-c", CLIENT, address, &pause_ms.to_string()];
    world.start_in(&format!("system.slice/{unit}.service"), "python3", &arguments)
}

fn shop() -> Vec<Service> {
    let service = |name: &str, number| Service::tcp(name).at(&format!("198.18.0.{number}:80"));
    let breaker = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 5m, open_max: 5m, negative_affinity: 0s }";
    vec![
        service("shop/cart", 10).to_address("127.0.0.1:8101").to_address("127.0.0.1:8102"),
        service("shop/search", 11)
            .to_address("127.0.0.1:8111")
            .to_address("127.0.0.1:8112")
            .to_address("127.0.0.1:8113"),
        service("shop/payment", 12)
            .policy("split: { v1: 4, v2: 1 }")
            .policy(breaker)
            .policy("fallback: shop/payment-standby")
            .to_address_with("127.0.0.1:8121", "version: v1")
            .to_address_with("127.0.0.1:8122", "version: v2")
            .to_address_with("127.0.0.1:8123", "version: v2"),
        service("shop/payment-standby", 13).to_address("127.0.0.1:8131"),
        service("data/ledger", 14).to_address("127.0.0.1:8141"),
    ]
}

/// What the page would save, with the numbers of the last seconds.
const SAVED: &str =
    "return import('/map/export.js').then(({ asFile }) => asFile(document.getElementById('graph')))";

#[test]
#[ignore = "kernel tier: needs root, eBPF and Chromium; run by cargo xtask test"]
fn the_page_saves_what_it_shows_as_a_picture_of_its_own() {
    if !browser::is_installed() {
        return;
    }
    let world = World::new();
    let _agent = world.agent(&shop());
    let _servers = [
        server(&world, "cart", 8101, 1, 300),
        server(&world, "cart", 8102, 1, 0),
        server(&world, "search", 8111, 9, 0),
        server(&world, "search", 8112, 11, 0),
        server(&world, "search", 8113, 10, 0),
        server(&world, "payment", 8121, 3, 0),
        server(&world, "payment", 8122, 6, 5),
        server(&world, "standby", 8131, 3, 0),
        server(&world, "ledger", 8141, 2, 0),
    ];
    let asked = [
        ("storefront", "198.18.0.10:80", 5),
        ("storefront", "198.18.0.11:80", 3),
        ("mobile", "198.18.0.10:80", 40),
        ("mobile", "198.18.0.11:80", 60),
        ("checkout", "198.18.0.12:80", 9),
        ("reports", "198.18.0.14:80", 150),
    ];
    let _clients = asked.map(|(unit, address, pause_ms)| client(&world, unit, address, pause_ms));
    let browser = Browser::start(&world, (1500, 980));
    browser.open("http://127.0.0.1:9464/");
    let held =
        "return [...document.querySelectorAll('.node')].map((one) => one.getAttribute('aria-label')).join()";
    eventually("the breaker of the backend that is not there", 4 * SOON, || {
        let text = browser.text(held);
        if text.contains("2, 1 held back") { Ok(()) } else { Err(text) }
    });
    // What the rates are of, and the failures before are past.
    let_pass(Duration::from_secs(14));
    let picture = browser.text(SAVED);
    for part in
        ["shop/payment", "data/ledger", "checkout", ">cart<", "fallback", "req/s", "prefers-color-scheme"]
    {
        assert!(picture.contains(part), "no {part} in {picture}");
    }
    assert!(picture.len() < MOST_BYTES, "{} bytes", picture.len());
    assert!(!picture.contains("<script") && !picture.contains("href"), "{picture}");
    browser.screenshot("shop");
    if std::env::var_os("SEGUE_UPDATE_PICTURE").is_some() {
        let path = Path::new(PICTURE);
        std::fs::create_dir_all(path.parent().expect("docs/images")).expect("a directory");
        std::fs::write(path, picture + "\n").expect("a picture is written");
    }
}
