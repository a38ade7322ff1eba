//! The dashboards of `deploy/grafana` on a real Prometheus that scrapes a real agent: every query of every panel gives
//! data. Where there is only data in a fault, the fault is made.

use std::fs;
use std::path::Path;
use std::time::Duration;

use segue_tests::agent::Agent;
use segue_tests::client::Client;
use segue_tests::client::protocol::{Family, Kind};
use segue_tests::prometheus::Prometheus;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually;
use segue_tests::world::World;
use serde_json::Value;

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:9";
/// A web server.
const HTTP: &str = "127.0.0.1:8090";
/// A cache.
const REDIS: &str = "127.0.0.1:6379";
/// What answers as a broker does.
const BROKER: &str = "127.0.0.1:9092";
/// A server of HTTP/2.
const HTTP2: &str = "127.0.0.1:8091";

/// What would have to break in a way that no test brings about at will, or what a loopback does not do: these queries give
/// data, but nothing other than 0.
const ALWAYS_ZERO: [&str; 11] = [
    "segue_repairs_total",
    "segue_tcp_retransmits_total",
    "segue_deletions_held",
    "segue_events_lost_total",
    "segue_identity_unresolved_total",
    "segue_identity_pods_unnamed",
    "segue_identity_pods_left_alone",
    "segue_series_limit_overflow_total",
    "segue_scrape_errors_total",
    "segue_connection_resets_failed_total",
    "segue_bpf_map_update_errors_total",
];

/// One query of a panel.
#[derive(Debug)]
struct Query {
    place: String,
    expression: String,
}

/// Every query of every dashboard, with the reader's choices made: everything, and rates over a few seconds.
fn queries() -> Vec<Query> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana");
    let mut files: Vec<_> =
        fs::read_dir(directory).expect("dashboards").map(|entry| entry.expect("a file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut queries = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a dashboard can be read");
        let dashboard: Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            for target in panel["targets"].as_array().expect("targets") {
                let place = format!("{}: {} {}", dashboard["title"], panel["title"], target["refId"]);
                let mut expression = target["expr"].as_str().expect("an expression").to_owned();
                for variable in ["$instance", "$namespace", "$service", "$workload"] {
                    expression = expression.replace(variable, ".*");
                }
                expression = expression.replace("$__rate_interval", "5s");
                // What `label_replace` puts in by number stays.
                let unknown = expression.replace("$1", "");
                assert!(!unknown.contains('$'), "a variable that is not known here: {expression}");
                queries.push(Query { place, expression });
            }
        }
    }
    assert!(queries.len() > 60, "the dashboards were read");
    queries
}

/// Why a query has not shown enough yet.
fn lacks(prometheus: &Prometheus<'_>, query: &Query) -> Option<String> {
    let series = match prometheus.range(&query.expression) {
        Ok(series) => series,
        Err(error) => return Some(error),
    };
    let mut values = series.iter().flatten().filter(|value| value.is_finite()).peekable();
    if values.peek().is_none() {
        return Some("no data".into());
    }
    let may_be_zero = ALWAYS_ZERO.iter().any(|metric| query.expression.contains(metric));
    (!may_be_zero && values.all(|value| *value == 0.0)).then(|| "nothing but 0".into())
}

fn address(number: usize) -> String {
    format!("198.18.0.{number}:80")
}

/// A node on which everything goes wrong that can.
struct Node {
    servers: Vec<Server>,
    resetting: Server,
}

const PAYMENT: usize = 10;
const STEPS: usize = 11;
const CART: usize = 12;
const OBSERVED: usize = 13;
const KEPT: usize = 14;
const CAPPED: usize = 15;
const LIMITED: usize = 16;
const ZONED: usize = 17;
const HANDED: usize = 18;
const EMPTY: usize = 19;
const DRAINED: usize = 20;
const RESET: usize = 21;
const WEB: usize = 22;
const CACHE: usize = 23;
const EVENTS: usize = 24;
const CALLS: usize = 25;

/// Out at the first failure and back within a second.
const QUICK: &str = "consecutive_failures: 1, failure_ratio: 0%, open: 1s, open_max: 1s, jitter: 0%, slow_start: 0s, \
                     negative_affinity: 0s";

impl Node {
    fn new(world: &World) -> Self {
        let servers = (1..=2)
            .map(|number| world.tcp(&format!("n{number}"), &format!("127.0.0.1:808{number}")))
            .collect();
        let resetting = world.tcp("resetting", "127.0.0.1:8083");
        resetting.reset_new_connections(true);
        Self { servers, resetting }
    }

    /// Its services; the drained one has lost a backend or not.
    fn services(&self, lost: bool) -> Vec<Service> {
        let [one, two] = &self.servers[..] else { panic!("two servers") };
        let service = |name: &str, number| Service::tcp(&format!("shop/{name}")).at(&address(number));
        let with_breaker =
            |name, number, breaker: &str| service(name, number).policy(&format!("breaker: {{ {breaker} }}"));
        let drained =
            service("drained", DRAINED).policy("draining: { on: [removed], reset_after: 0s }").to(one);
        vec![
            service("payment", PAYMENT)
                .policy("split: { v1: 1, v2: 1 }")
                .policy("canary: { version: v2, guard: { minimum_samples: 20 } }")
                .to_with(one, "version: v1")
                .to_address_with(DEAD, "version: v2"),
            service("steps", STEPS)
                .policy("split: { v1: 9, v2: 1 }")
                .policy("canary: { version: v2, steps: [20%, 100%], every: 1s, guard: { minimum_samples: 10, window: 1s } }")
                .to_with(one, "version: v1")
                .to_with(two, "version: v2"),
            with_breaker("cart", CART, QUICK).policy("algorithm: round_robin").to(one).to_address(DEAD),
            with_breaker("observed", OBSERVED, &format!("mode: observe, {QUICK}")).to(one).to_address(DEAD),
            with_breaker("kept", KEPT, "consecutive_failures: 255, failure_ratio: 0%").to(one).to_address(DEAD),
            with_breaker("capped", CAPPED, &format!("max_ejection: 50%, {QUICK}"))
                .to_address(DEAD)
                .to_address("127.0.0.2:9"),
            service("limited", LIMITED).policy("limits: { service: { connections: 2 } }").to(one),
            with_breaker("zoned", ZONED, QUICK)
                .policy("locality: prefer_zone")
                .to_address_with(DEAD, "zone: here")
                .to_with(one, "zone: here")
                .to_with(two, "zone: there"),
            service("handed", HANDED).policy("fallback: shop/kept"),
            service("empty", EMPTY),
            if lost { drained } else { drained.to(two) },
            service("reset", RESET).to(&self.resetting),
            service("web", WEB).to_address(HTTP),
            service("cache", CACHE).to_address(REDIS),
            service("events", EVENTS).to_address(BROKER),
            service("calls", CALLS).to_address(HTTP2),
        ]
    }
}

/// A bit of everything, within a second or so.
fn round(client: &mut Client) {
    for number in [PAYMENT, STEPS, CART, OBSERVED, KEPT, CAPPED, ZONED, HANDED, EMPTY, RESET] {
        client.attempts(&address(number), 10);
    }
    // Held until the next round, for a scrape to see.
    client.release_together();
    client.connect_together(&address(LIMITED), 4);
}

/// Requests that succeed, and some that do not: this server does not know POST. And a call of gRPC, of a server that has none.
fn requests(world: &World) {
    let (web, missing) = (format!("http://{}/", address(WEB)), format!("http://{}/missing", address(WEB)));
    let quietly = ["-s", "-o", "/dev/null", "--noproxy", "*", "--max-time", "10"];
    world.run("curl", &[&quietly[..], &[&web, "-o", "/dev/null", &missing]].concat()).expect_success();
    world.run("curl", &[&quietly[..], &["-d", "x=1", &web]].concat()).expect_success();
    let calls = format!("http://{}/shop.Shop/Buy", address(CALLS));
    let call = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", "x", &calls];
    world.run("curl", &[&quietly[..], &call].concat()).expect_success();
}

/// Names that are looked up, and one that the server refuses.
fn lookups(world: &World) {
    let questions = ["@127.0.0.53", "+tries=1", "www.example.test", "A", "example.org", "AAAA"];
    world.run("dig", &questions).expect_success();
}

/// A server that answers each request of Kafka with its correlation id alone: enough to be counted.
const ANSWERS_AS_A_BROKER: &str = "
import socketserver, struct
class Broker(socketserver.StreamRequestHandler):
    def handle(self):
        while header := self.rfile.read(12):
            length, _, correlation = struct.unpack('>i4si', header)
            self.rfile.read(length - 8)
            self.wfile.write(struct.pack('>ii', 4, correlation))
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('127.0.0.1', 9092), Broker).serve_forever()
";
/// Something for a cache to do, something it refuses, and a question to a broker: in one process, as a round is to be short.
const ASKS_A_CACHE_AND_A_BROKER: &str = "
import socket
s = socket.create_connection(('198.18.0.23', 80), 10)
for question, answer in [(b'SET tune segue', b'+OK'), (b'LPUSH tune x', b'-WRONGTYPE')]:
    words = question.split()
    s.sendall(b'*%d\\r\\n' % len(words) + b''.join(b'$%d\\r\\n%s\\r\\n' % (len(word), word) for word in words))
    assert s.recv(1000).startswith(answer)
s = socket.create_connection(('198.18.0.24', 80), 10)
s.sendall(b'\\0\\0\\0\\x0a\\0\\x12\\0\\0\\0\\0\\0\\x01\\xff\\xff')
assert len(s.recv(8)) == 8
";

/// Opens a connection to each backend of the drained service, takes one away, and gives it back.
fn drain(node: &Node, agent: &Agent<'_>, client: &mut Client) {
    let held: Vec<_> = (0..16).filter_map(|_| client.connect_tcp(&address(DRAINED)).ok()).collect();
    agent.replace(&config(&node.services(true)));
    let metrics = || agent.metrics().sum("segue_connections_reset_total", &[("dst_service", "drained")]);
    let before = metrics();
    eventually("a connection to be reset", Duration::from_secs(15), || {
        if metrics() > before { Ok(()) } else { Err("none") }
    });
    agent.replace("services: nonsense\n");
    eventually("the nonsense to be refused", Duration::from_secs(15), || {
        if agent.metrics().sum("segue_config_rejected", &[]) > 0.0 { Ok(()) } else { Err("it is not") }
    });
    held.into_iter().for_each(|socket| client.close(socket));
}

#[test]
#[ignore = "kernel tier: needs root, eBPF and Prometheus; run by cargo xtask test"]
fn every_query_of_every_dashboard_gives_data() {
    let world = World::new();
    let node = Node::new(&world);
    let mut agent = world.agent(&node.services(false));
    let prometheus = Prometheus::start(&world, "127.0.0.1:9464");
    let web = world.start("python3", &["-m", "http.server", "--bind", "127.0.0.1", "8090"]);
    world.await_listener(HTTP, &web);
    let names = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"];
    let here = ["--pid-file=", "--bind-interfaces", "--listen-address=127.0.0.53"];
    let record = ["--host-record=www.example.test,192.0.2.7"];
    let names = world.start("dnsmasq", &[&names[..], &here, &record].concat());
    world.await_listener("127.0.0.53:53", &names);
    let redis =
        world.start("redis-server", &["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", "/"]);
    world.await_listener(REDIS, &redis);
    let broker = world.start("python3", &["-c", ANSWERS_AS_A_BROKER]);
    world.await_listener(BROKER, &broker);
    let nghttpd = world.start("nghttpd", &["--no-tls", "-a", "127.0.0.1", "-d", "/", "8091"]);
    world.await_listener(HTTP2, &nghttpd);
    let mut client = world.client();
    // Stays open throughout.
    let open = client.open(Family::V4, Kind::Stream);
    client.connect(&open, &address(STEPS)).expect("a backend that answers");
    client.read_line(&open).expect("a server says its name");
    round(&mut client);
    // The agent times program runs when it starts: again, where Prometheus has seen the count before.
    agent.restart();
    let mut pending = queries();
    let mut rounds = 0_u32;
    let limit = Duration::from_secs(100);
    eventually("every query to give data", limit, || {
        // A canary that was rolled back is tried again, and rolled back again: its counts begin with their first event
        // too. Not each time, or no scrape sees it rolled back. The other takes its steps again.
        if rounds % 12 == 11 {
            agent.rollout(&["resume", "shop/payment"]).expect_success();
            agent.rollout(&["rollback", "shop/steps"]).expect_success();
            agent.rollout(&["resume", "shop/steps"]).expect_success();
        }
        round(&mut client);
        requests(&world);
        lookups(&world);
        world.run("python3", &["-c", ASKS_A_CACHE_AND_A_BROKER]).expect_success();
        client.send(&open, "still here\n").and_then(|()| client.read_line(&open)).expect("an echo");
        // Twice: a count that begins with its first event rises at its second.
        if rounds == 3 || rounds == 6 {
            drain(&node, &agent, &mut client);
            // Seen by a scrape before it is put right.
            eventually("the alert about it", Duration::from_secs(15), || {
                let alerts = prometheus.alerts()?;
                if alerts.iter().any(|alert| alert == "SegueConfigStale") {
                    Ok(())
                } else {
                    Err(format!("{alerts:?}"))
                }
            });
            agent.replace(&config(&node.services(false)));
        }
        rounds += 1;
        let mut reasons = Vec::new();
        pending.retain(|query| match lacks(&prometheus, query) {
            Some(reason) => {
                reasons.push(format!("{}: {reason}: {}", query.place, query.expression));
                true
            }
            None => false,
        });
        if pending.is_empty() && rounds > 6 { Ok(()) } else { Err(reasons.join("\n")) }
    });
}
