//! Requests inside TLS, read by probes on OpenSSL, against what clients and servers nobody here wrote count themselves.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use segue_tests::agent::{Agent, SOON};
use segue_tests::kernel::reads_inside_tls;
use segue_tests::nginx::{Nginx, PAGES};
use segue_tests::program::Program;
use segue_tests::service::{Service, config};
use segue_tests::wait::eventually;
use segue_tests::world::{World, beside_test};

pub(super) const CLIENT: &str = "http_client_request_duration_seconds_count";
pub(super) const SERVER: &str = "http_server_request_duration_seconds_count";
/// The labels by which their counts are told apart.
pub(super) const STATUS: &str = "http_response_status_code";
const METHOD: &str = "http_request_method";

fn web() -> Service {
    Service::tcp("shop/web").at("198.18.0.10:443").to_address("127.0.0.1:8443")
}

/// The file of OpenSSL's library that programs of this machine use.
pub(crate) fn libssl(world: &World) -> String {
    let script = "
import ssl
for line in open('/proc/self/maps'):
    if '/libssl.so' in line:
        print(line.split()[-1])
        break
";
    world.run("python3", &["-c", script]).expect_success().trim().to_owned()
}

/// An agent that reads inside TLS.
pub(super) fn agent<'w>(world: &'w World, services: &[Service]) -> Agent<'w> {
    agent_of(world, &libssl(world), services)
}

/// One that reads in who uses this library.
pub(super) fn agent_of<'w>(world: &'w World, library: &str, services: &[Service]) -> Agent<'w> {
    let starter = format!("exec \"$@\" --observe-tls {library}");
    world.agent_by(&["sh", "-c", &starter, "--"], services)
}

/// Whether it says that it does; `None`: it was not asked to.
fn feature(agent: &Agent<'_>) -> Option<bool> {
    let status = agent.status();
    let features = status["features"].as_array().expect("features");
    features.iter().find(|feature| feature["name"] == "tls").map(|feature| feature["found"] == true)
}

/// nginx with TLS, on 127.0.0.1:8443; what it serves at 127.0.0.1:8444 is an error.
pub(super) fn nginx(world: &World) -> Program {
    Nginx::new(world)
        .in_unit("checkout.service")
        .directive("limit_req_zone $binary_remote_addr zone=slow:64k rate=5r/s;")
        .file("slow", "fine\n")
        .serve_tls(
            "127.0.0.1:8443 http2",
            &format!("{PAGES} location /slow {{ limit_req zone=slow burst=10; }}"),
        )
        .serve_tls("127.0.0.1:8444", "location / { return 503; }")
        .start()
}

/// Waits until a side counts this, by a label.
pub(super) fn await_counts(agent: &Agent<'_>, metric: &str, label: &str, expected: &BTreeMap<String, u64>) {
    eventually(&format!("{metric} to be {expected:?}"), SOON, || {
        let seen = agent.counted_by(metric, label);
        if &seen == expected { Ok(()) } else { Err(format!("{seen:?}\n{:?}", agent.unparsed())) }
    });
}

/// Waits until both do.
fn await_both(agent: &Agent<'_>, label: &str, expected: &BTreeMap<String, u64>) {
    for metric in [CLIENT, SERVER] {
        await_counts(agent, metric, label, expected);
    }
}

/// Runs a client, which prints a label's name, a value of it and a count a line.
fn python(world: &World, script: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let said = world.run("python3", &["-c", script]).expect_success();
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for line in said.lines() {
        let [label, value, count] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        counts.entry(label.to_owned()).or_default().insert(value.to_owned(), count.parse().expect("a count"));
    }
    counts
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn methods_and_statuses_inside_tls_are_what_the_client_got() {
    let world = World::new();
    let agent = agent(&world, &[web()]);
    let found = reads_inside_tls();
    assert_eq!(feature(&agent), Some(found));
    if !found {
        return;
    }
    let _nginx = nginx(&world);
    // Kept alive, and a new connection for each of the last ones.
    let script = "
import http.client, collections, ssl
context = ssl._create_unverified_context()
statuses, methods = collections.Counter(), collections.Counter()
def ask(connection, method, path, body=None, headers={}):
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    answer.read()
    statuses[answer.status] += 1
    methods[method] += 1
connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=20, context=context)
for n in range(200):
    path = ['/', '/missing', '/broken', '/created'][n % 4]
    method = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'][n % 5]
    ask(connection, method, path, b'x' * (n * 370) if method in ('POST', 'PUT') else None)
for n in range(25):
    connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=20, context=context)
    ask(connection, 'GET', '/', headers={'connection': 'close'})
for label, counter in ('status', statuses), ('method', methods):
    for value, count in counter.items():
        print(label, value, count)
";
    let got = python(&world, script);
    assert_eq!(got["status"].values().sum::<u64>(), 225, "{got:?}");
    await_both(&agent, STATUS, &got["status"]);
    await_both(&agent, METHOD, &got["method"]);
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_load_generator_counts_the_same_inside_tls() {
    let world = World::new();
    let agent = agent(&world, &[web()]);
    let _nginx = nginx(&world);
    let said = world.run("h2load", &["--h1", "-n2000", "-c8", "https://198.18.0.10/"]).expect_success();
    assert!(said.contains("2000 succeeded"), "{said}");
    await_both(&agent, STATUS, &BTreeMap::from([("200".to_owned(), 2_000)]));
    // curl has a way of its own to a socket, and says what it asks for by its own means.
    let url = "https://198.18.0.10/missing";
    let said =
        world.run("curl", &["-sk", "--http1.1", "-o/dev/null", "-w%{http_code}", url]).expect_success();
    assert_eq!(said, "404");
    let expected = BTreeMap::from([("200".to_owned(), 2_000), ("404".to_owned(), 1)]);
    await_both(&agent, STATUS, &expected);
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn durations_inside_tls_are_what_the_client_measured() {
    let world = World::new();
    let agent = agent(&world, &[web()]);
    let _nginx = nginx(&world);
    // nginx lets five through a second: each but the first waits for its turn.
    let script = "
import http.client, ssl, time
connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=20, context=ssl._create_unverified_context())
connection.connect()
took = []
for _ in range(4):
    before = time.monotonic()
    connection.request('GET', '/slow')
    answer = connection.getresponse()
    took.append(time.monotonic() - before)
    assert answer.status == 200 and answer.read() == b'fine\\n'
print(*took)
";
    let said = world.run("python3", &["-c", script]).expect_success();
    let took: Vec<f64> = said.split_whitespace().map(|seconds| seconds.parse().expect("seconds")).collect();
    let whole: f64 = took.iter().sum();
    assert!(whole > 0.4, "they waited: {took:?}");
    await_both(&agent, STATUS, &BTreeMap::from([("200".to_owned(), 4)]));
    for metric in [CLIENT, SERVER].map(|count| count.replace("_count", "_sum")) {
        let counted: f64 = agent.metrics().matching(&metric, &[]).map(|sample| sample.value).sum();
        // What the client's own code takes around each is all that it may measure beyond that.
        assert!(counted <= whole && counted > 0.9 * whole, "{metric}: {counted} of {whole}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_is_joined_where_reading_inside_tls_begins() {
    let world = World::new();
    let mut agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let go_on = world.directory().join("go_on");
    let script = format!(
        "
import http.client, os, ssl, time
connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=20, context=ssl._create_unverified_context())
def ask():
    connection.request('GET', '/')
    assert connection.getresponse().read() == b'fine\\n'
ask()
print('asked', flush=True)
while not os.path.exists({go_on:?}):
    time.sleep(0.05)
for _ in range(6):
    ask()
print('done', flush=True)
time.sleep(60)
"
    );
    let client = world.start("python3", &["-c".to_owned(), script]);
    let said = |wanted: &str| {
        eventually(&format!("the client to say {wanted}"), SOON, || match client.output().contains(wanted) {
            true => Ok(()),
            false => Err(client.stderr()),
        });
    };
    said("asked");
    // It was given up on both sides, as something nobody can read.
    let seen = BTreeMap::from([("other_protocol".to_owned(), 2)]);
    eventually("both sides to be given up", SOON, || {
        if agent.unparsed() == seen { Ok(()) } else { Err(format!("{:?}", agent.unparsed())) }
    });
    assert_eq!(agent.counted_by(SERVER, STATUS), BTreeMap::new(), "no flag, no reading");
    assert_eq!(feature(&agent), None);
    agent.restart_with(&["--observe-tls", &libssl(&world)]);
    fs::write(&go_on, "").expect("a file");
    said("done");
    // The client is found when it has received its first answer, the server with its first request.
    for (metric, count) in [(CLIENT, 5), (SERVER, 6)] {
        await_counts(&agent, metric, STATUS, &BTreeMap::from([("200".to_owned(), count)]));
    }
    assert_eq!(agent.unparsed().get("joined"), Some(&2), "{:?}", agent.unparsed());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_cannot_be_read_inside_tls_says_why() {
    let world = World::new();
    let agent = agent(&world, &[web()]);
    let _nginx = nginx(&world);
    // HTTP/2 on both sides; then a client that uses OpenSSL without a socket, whose server is read.
    let url = "https://198.18.0.10/";
    let said =
        world.run("curl", &["-sk", "--http2", "-o/dev/null", "-w%{http_version}", url]).expect_success();
    assert_eq!(said, "2");
    let script = "
import asyncio, ssl
async def main():
    context = ssl._create_unverified_context()
    reader, writer = await asyncio.open_connection('198.18.0.10', 443, ssl=context)
    writer.write(b'GET / HTTP/1.1\\r\\nhost: web\\r\\n\\r\\n')
    print((await reader.readuntil(b'fine')).decode().split()[1])
asyncio.run(main())
";
    assert_eq!(world.run("python3", &["-c", script]).expect_success().trim(), "200");
    // Nobody reads inside the connection of the second client: its packets say so too.
    let expected = [("http2_in_tls", 2), ("no_socket", 1), ("other_protocol", 1)]
        .map(|(reason, count)| (reason.to_owned(), count));
    let expected = BTreeMap::from(expected);
    eventually("what was not read", SOON, || {
        if agent.unparsed() == expected { Ok(()) } else { Err(format!("{:?}", agent.unparsed())) }
    });
    await_counts(&agent, SERVER, STATUS, &BTreeMap::from([("200".to_owned(), 1)]));
    assert_eq!(agent.counted_by(CLIENT, STATUS), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_backend_that_answers_with_errors_inside_tls_is_taken_out() {
    let world = World::new();
    let _nginx = nginx(&world);
    let policy = "algorithm: round_robin, breaker: { signals: [http_5xx], consecutive_failures: 3, failure_ratio: 0%, \
                  open: 5m, open_max: 5m, negative_affinity: 0s }";
    let service = Service::tcp("shop/web")
        .at("198.18.0.10:443")
        .policy(policy)
        .to_address("127.0.0.1:8443")
        .to_address("127.0.0.1:8444");
    let _agent = agent(&world, &[service]);
    let script = "
import http.client, collections, ssl
context = ssl._create_unverified_context()
statuses = collections.Counter()
for n in range(40):
    connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=20, context=context)
    connection.request('GET', '/')
    statuses[connection.getresponse().status] += 1
    connection.close()
for value, count in statuses.items():
    print('status', value, count)
";
    let got = python(&world, script);
    let expected = BTreeMap::from([("200".to_owned(), 37), ("503".to_owned(), 3)]);
    assert_eq!(got["status"], expected, "the threshold, and not one more");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_library_that_is_none_keeps_the_agent_from_starting() {
    let world = World::new();
    let file = world.directory().join("segue.yaml");
    fs::write(&file, config(&[web()])).expect("a configuration");
    for (library, reason) in [
        ("/no/such/libssl.so.3", "No such file or directory"),
        ("libssl.so.3", "it is no absolute path"),
        ("/etc/hostname", "is it OpenSSL's libssl"),
    ] {
        let mut segue = Command::new(beside_test("segue"));
        segue.args(["run", "--observe-tls", library, "--listen", "127.0.0.1:0", "--config"]).arg(&file);
        segue.arg("--cgroup").arg(world.managed_cgroup()).arg("--bpffs").arg(world.bpffs());
        segue.arg("--socket").arg(world.directory().join("segue.sock"));
        let ended = world.start_outside(segue).finish();
        assert_eq!(ended.status.code(), Some(1), "{library}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(reason) && ended.stderr.contains(library),
            "{library}: {}",
            ended.stderr
        );
    }
}
