//! HTTP/2 and gRPC as the kernel counts them, against what clients and servers nobody here wrote count themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use segue_tests::agent::{Agent, SOON};
use segue_tests::nginx::{Nginx, PAGES};
use segue_tests::program::Program;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

pub(super) const CLIENT: &str = "http_client_request_duration_seconds_count";
pub(super) const SERVER: &str = "http_server_request_duration_seconds_count";
const CALLS: &str = "rpc_client_call_duration_seconds_count";
const CALLS_ANSWERED: &str = "rpc_server_call_duration_seconds_count";

pub(super) const AT: &str = "127.0.0.1:8081";

pub(super) fn web() -> Service {
    Service::tcp("shop/web").at("198.18.0.10:80").to_address(AT)
}

/// Where nginx answers once somebody at [`NOBODY`] does.
pub(super) const SILENT: &str = "127.0.0.1:8082";
pub(super) const NOBODY: &str = "127.0.0.1:8089";

/// nginx that speaks HTTP/2 without TLS.
pub(super) fn nginx(world: &World) -> Program {
    Nginx::new(world)
        .in_unit("web.service")
        .directive("large_client_header_buffers 4 256k; http2_max_concurrent_streams 512;")
        .file("large", vec![b'x'; 300_000])
        .serve(&[&format!("{AT} http2")], &format!("{PAGES} location /large {{ }}"))
        .serve(&[&format!("{SILENT} http2")], &format!("location / {{ proxy_pass http://{NOBODY}; }}"))
        .start()
}

/// nghttpd, which puts most of what it says into its table.
fn nghttpd(world: &World) -> Program {
    let root = world.directory().join("files");
    fs::create_dir_all(&root).expect("a directory");
    fs::write(root.join("small"), "fine\n").expect("a file");
    fs::write(root.join("large"), vec![b'x'; 300_000]).expect("a file");
    let root = root.display().to_string();
    let nghttpd = world.start("nghttpd", &["--no-tls", "-a", "127.0.0.1", "-d", &root, "8081"]);
    world.await_listener(AT, &nghttpd);
    nghttpd
}

/// What is counted, by a label.
pub(super) fn by_label(agent: &Agent<'_>, metric: &str, name: &str) -> BTreeMap<String, u64> {
    let mut counts = agent.counted_by(metric, name);
    counts.retain(|_, count| *count > 0);
    counts
}

pub(super) fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Waits until both sides count this.
#[track_caller]
fn await_both(agent: &Agent<'_>, metrics: [&str; 2], label: &str, expected: &[(&str, u64)]) {
    let expected = counts(expected);
    for metric in metrics {
        eventually(&format!("{metric} to be {expected:?}"), SOON, || {
            let seen = by_label(agent, metric, label);
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}\n{:?}", agent.unparsed())) }
        });
    }
}

#[track_caller]
pub(super) fn await_statuses(agent: &Agent<'_>, expected: &[(&str, u64)]) {
    await_both(agent, [CLIENT, SERVER], "http_response_status_code", expected);
}

/// Runs h2load; the answers it counted by class: 2xx, 3xx, 4xx, 5xx.
pub(super) fn h2load(world: &World, arguments: &[&str]) -> Vec<u64> {
    let said = world.run("h2load", arguments).expect_success();
    let line = said.lines().find_map(|line| line.strip_prefix("status codes: ")).expect("h2load counts");
    line.split(", ")
        .map(|class| class.split(' ').next().and_then(|n| n.parse().ok()).expect("a count"))
        .collect()
}

/// What scripts have at hand: `dial`, `frame` and `Reader`.
pub(super) const PRELUDE: &str = "
import socket, struct, time
PREFACE = b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'
def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def dial(host='198.18.0.10', port=80):
    s = socket.create_connection((host, port), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
class Reader:
    def __init__(self, s):
        self.s, self.data = s, b''
    def take(self, n):
        while len(self.data) < n:
            more = self.s.recv(65536)
            if not more: raise EOFError
            self.data += more
        taken, self.data = self.data[:n], self.data[n:]
        return taken
    def ended(self, stream):
        # Reads frames until this stream is at its end.
        while True:
            head = self.take(9)
            kind, flags, of = head[3], head[4], struct.unpack('>I', head[5:])[0]
            self.take(struct.unpack('>I', b'\\0' + head[:3])[0])
            if kind == 7: raise EOFError('goaway')
            if of == stream and kind in (0, 1) and flags & 1: return
            if of == stream and kind == 3: return
";

pub(super) fn python(world: &World, script: &str) -> String {
    world.run("python3", &["-c", &format!("{PRELUDE}{script}")]).expect_success()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_load_generator_counts_the_same_with_many_streams_at_once() {
    for (server, path) in [(nginx as fn(&World) -> Program, "/"), (nghttpd, "/small")] {
        let world = World::new();
        let agent = world.agent(&[web()]);
        let _server = server(&world);
        let mut total = 0;
        for (requests, clients, streams) in [("3000", "4", "32"), ("2000", "2", "100"), ("500", "10", "1")] {
            let url = format!("http://198.18.0.10{path}");
            let classes = h2load(&world, &["-n", requests, "-c", clients, "-m", streams, &url]);
            assert_eq!(classes, [requests.parse().expect("a number"), 0, 0, 0]);
            total += classes[0];
        }
        await_statuses(&agent, &[("200", total)]);
        await_both(&agent, [CLIENT, SERVER], "network_protocol_version", &[("2", total)]);
        await_both(&agent, [CLIENT, SERVER], "http_request_method", &[("GET", total)]);
        assert_eq!(agent.unparsed(), BTreeMap::new());
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn statuses_and_bodies_of_any_length_are_what_the_client_got() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let load = |path: &str, more: &[&str]| {
        let url = format!("http://198.18.0.10{path}");
        h2load(&world, &[&["-n", "60", "-c", "2", "-m", "8"], more, &[url.as_str()]].concat())
    };
    assert_eq!(load("/missing", &[])[2], 60);
    assert_eq!(load("/broken", &[])[3], 60);
    assert_eq!(load("/created", &[])[0], 60);
    assert_eq!(load("/large", &[])[0], 60);
    let curl = ["--http2-prior-knowledge", "-sS", "-X", "DELETE", "http://198.18.0.10/created"];
    world.run("curl", &curl).expect_success();
    await_statuses(&agent, &[("200", 60), ("201", 61), ("404", 60), ("503", 60)]);
    await_both(&agent, [CLIENT, SERVER], "http_request_method", &[("DELETE", 1), ("GET", 240)]);
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn statuses_that_come_out_of_a_table_and_requests_with_bodies_are_what_the_client_got() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nghttpd = nghttpd(&world);
    let load = |path: &str, more: &[&str]| {
        let url = format!("http://198.18.0.10{path}");
        h2load(&world, &[&["-n", "60", "-c", "2", "-m", "8"], more, &[url.as_str()]].concat())
    };
    let body = world.directory().join("body");
    fs::write(&body, vec![b'z'; 100_000]).expect("a file");
    assert_eq!(load("/small", &["-d", &body.display().to_string()])[0], 60);
    assert_eq!(load("/no-such-file", &[])[2], 60);
    assert_eq!(load("/large", &[])[0], 60);
    await_statuses(&agent, &[("200", 120), ("404", 60)]);
    await_both(&agent, [CLIENT, SERVER], "http_request_method", &[("GET", 120), ("POST", 60)]);
    assert_eq!(agent.unparsed(), BTreeMap::new());
    let flows = agent.flows();
    let requests = flows[0]["requests"].as_array().expect("a list");
    assert_eq!((requests.len(), &requests[0]["protocol"]), (1, &"http2".into()), "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn frames_cut_into_bytes_long_blocks_and_interleaved_streams_are_counted_once() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let script = "
block = b'\\x82\\x86\\x84\\x41\\x01a'
created = b'\\x82\\x86\\x04\\x08/created\\x41\\x01a'
# Each byte in a segment of its own.
s = dial()
for byte in PREFACE + frame(4, 0, 0) + frame(1, 5, 1, block) + frame(1, 5, 3, created):
    s.send(bytes([byte]))
r = Reader(s)
r.ended(1)
r.ended(3)
s.close()
# A block of 64 KiB, in frames of 10 000 bytes; nginx reads a field of up to 128 KiB.
s = dial()
s.sendall(PREFACE + frame(4, 0, 0))
value = b'y' * 65000
rest = len(value) - 127
number = b'\\x7f'
while rest >= 128:
    number += bytes([rest & 127 | 128])
    rest >>= 7
number += bytes([rest])
long = block + b'\\x40\\x01x' + number + value
pieces = [long[at:at + 10000] for at in range(0, len(long), 10000)]
s.sendall(frame(1, 1, 1, pieces[0]))
for n, piece in enumerate(pieces[1:]):
    s.sendall(frame(9, 4 if n == len(pieces) - 2 else 0, 1, piece))
r = Reader(s)
r.ended(1)
# What went into the table then is still counted right.
s.sendall(frame(1, 5, 3, created))
r.ended(3)
# Two requests with bodies, by turns, with padding and a priority.
for stream in (5, 7):
    s.sendall(frame(1, 4 | 8 | 0x20, stream, b'\\x07' + b'\\0\\0\\0\\0\\x10' + b'\\x83' + block[1:] + b'\\0' * 7))
for n in range(3):
    for stream in (5, 7):
        s.sendall(frame(0, 1 if n == 2 else 0, stream, b'z' * 1000))
r.ended(5)
r.ended(7)
s.close()
";
    python(&world, script);
    await_statuses(&agent, &[("200", 4), ("201", 2)]);
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_only_begins_like_http2_is_reported_and_not_counted() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let script = "
# As yamux does behind a preface of HTTP/2.
s = dial()
s.sendall(PREFACE + b'\\0\\1\\0\\1\\0\\0\\0\\1\\0\\0\\0\\0')
time.sleep(0.1)
s.close()
# Garbage after an orderly request.
s = dial()
s.sendall(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, b'\\x82\\x86\\x84\\x41\\x01a'))
Reader(s).ended(1)
s.sendall(frame(1, 5, 0, b'\\x82') + b'\\xff' * 5000)
time.sleep(0.1)
s.close()
# A preface and nothing more, and one that is cut at each of its bytes.
for cut in range(len(PREFACE) + 1):
    s = dial()
    s.sendall(PREFACE[:cut])
    s.close()
";
    python(&world, script);
    await_statuses(&agent, &[("200", 1)]);
    eventually("the reasons to be counted", SOON, || {
        let reasons = agent.unparsed();
        let has = |reason: &str, least: u64| reasons.get(reason).is_some_and(|count| *count >= least);
        if has("other_protocol", 2) && has("malformed", 2) { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
}

/// gRPC's own library for Python, as `cargo xtask setup` installs it.
pub(super) fn with_grpc(script: &str) -> String {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/grpc");
    assert!(library.join("grpc").is_dir(), "gRPC's library is missing: run `cargo xtask setup`");
    format!(
        "import sys\nsys.path.insert(0, {:?})\nimport grpc, time\n{script}",
        library.display().to_string()
    )
}

/// A server of calls: `/shop.Shop/N` ends with status N, `/shop.Shop/slow` takes 40 ms, `/shop.Shop/stream` gives three
/// messages, `/shop.Shop/hang` one and then no end.
const SHOP: &str = "
import threading
from concurrent import futures
CODES = {code.value[0]: code for code in grpc.StatusCode}
class Shop(grpc.GenericRpcHandler):
    def service(self, details):
        what = details.method.rsplit('/', 1)[1]
        def end(request, context):
            if what == 'slow': time.sleep(0.04)
            elif what != '0':
                context.set_code(CODES[int(what)])
                context.set_details('as asked')
            return b'ok' * 10
        def stream(request, context):
            for n in range(3): yield b'x' * 30000
        def hang(request, context):
            gone = threading.Event()
            context.add_callback(gone.set)
            yield b'here'
            gone.wait(60)
        if what == 'stream': return grpc.unary_stream_rpc_method_handler(stream)
        if what == 'hang': return grpc.unary_stream_rpc_method_handler(hang)
        return grpc.unary_unary_rpc_method_handler(end)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), handlers=[Shop()])
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
";

pub(super) fn shop(world: &World, at: &str) -> Program {
    let server = world.start("python3", &["-c", &with_grpc(SHOP), at]);
    world.await_listener(at, &server);
    server
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn calls_are_counted_by_the_status_their_client_got() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _shop = shop(&world, AT);
    let script = "
import collections
got = collections.Counter()
with grpc.insecure_channel('198.18.0.10:80') as channel:
    calls = []
    for n in range(340):
        call = channel.unary_unary('/shop.Shop/%d' % (n % 17))
        calls.append(call.future(b'x' * (n * 50), timeout=20))
        if len(calls) == 20:
            for call in calls: got[call.code().name] += 1
            calls = []
    for n in range(10):
        stream = channel.unary_stream('/shop.Shop/stream')(b'', timeout=20)
        assert sum(len(m) for m in stream) == 90000
        got[stream.code().name] += 1
for status, count in sorted(got.items()):
    print(status, count)
";
    let got = world.run("python3", &["-c", &with_grpc(script)]).expect_success();
    let got: Vec<(&str, u64)> = got
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(status, count)| (status, count.parse().expect("a count")))
        .collect();
    assert_eq!((got.len(), got.iter().map(|(_, count)| count).sum::<u64>()), (17, 350), "{got:?}");
    await_both(&agent, [CALLS, CALLS_ANSWERED], "rpc_response_status_code", &got);
    assert_eq!(by_label(&agent, CLIENT, "http_response_status_code"), BTreeMap::new());
    assert_eq!(agent.unparsed(), BTreeMap::new());
    let flows = agent.flows();
    let requests = &flows[0]["requests"][0];
    assert_eq!((&requests["protocol"], &requests["count"]), (&"grpc".into(), &350.into()), "{flows:#?}");
    // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS, each 20 times.
    assert_eq!(requests["errors"], 120, "{flows:#?}");
    assert_eq!(requests["by_status"]["UNAVAILABLE"], 20, "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn calls_take_as_long_as_their_client_waited_and_one_given_up_is_cancelled() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _shop = shop(&world, AT);
    // Eight at a time, of 40 ms each, which lie in the bucket from 32.8 to 65.5 ms.
    let script = "
waited = 0
with grpc.insecure_channel('198.18.0.10:80') as channel:
    grpc.channel_ready_future(channel).result(timeout=20)
    slow = channel.unary_unary('/shop.Shop/slow')
    for turn in range(5):
        begin = time.monotonic_ns()
        calls = [slow.future(b'', timeout=20) for n in range(8)]
        for call in calls: call.result()
        waited += 8 * (time.monotonic_ns() - begin)
    begin = time.monotonic_ns()
    call = channel.unary_stream('/shop.Shop/hang')(b'', timeout=60)
    assert next(call) == b'here'
    call.cancel()
    time.sleep(0.2)
    waited += time.monotonic_ns() - begin
print(waited)
";
    let waited_ns: u64 = world
        .run("python3", &["-c", &with_grpc(script)])
        .expect_success()
        .trim()
        .parse()
        .expect("nanoseconds");
    await_both(&agent, [CALLS, CALLS_ANSWERED], "rpc_response_status_code", &[("CANCELLED", 1), ("OK", 40)]);
    let flows = agent.flows();
    let sum_ns = flows[0]["requests"][0]["duration"]["sum_ns"].as_u64().expect("a sum");
    assert!((40 * 40_000_000..=waited_ns).contains(&sum_ns), "{sum_ns} of {waited_ns}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_that_was_open_before_is_timed_from_its_next_frame_on() {
    let world = World::new();
    let mut agent = world.agent(&[web()]);
    let _nghttpd = nghttpd(&world);
    agent.kill();
    assert_eq!(agent.unload().status.code(), Some(0));
    // Opened without anybody looking; its second half once the agent is back.
    let (ready, go) = (world.directory().join("ready"), world.directory().join("go"));
    let script = format!(
        "
import os
block = b'\\x82\\x86\\x04\\x06/small\\x41\\x01a'
s = dial('127.0.0.1', 8081)
s.sendall(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, block))
r = Reader(s)
r.ended(1)
s.sendall(frame(4, 1, 0))
open({ready:?}, 'w').close()
while not os.path.exists({go:?}): time.sleep(0.01)
for stream in (3, 5, 7):
    s.sendall(frame(1, 5, stream, block))
    r.ended(stream)
",
        ready = ready.display().to_string(),
        go = go.display().to_string(),
    );
    let client = world.start("python3", &["-c", &format!("{PRELUDE}{script}")]);
    eventually("the first request to be answered", SOON, || if ready.exists() { Ok(()) } else { Err("") });
    agent.restart();
    fs::write(&go, "").expect("a file");
    client.finish().expect_success();
    // Of the server's side only: its client asked for no service.
    eventually("the rest to be timed", SOON, || {
        let seen: u64 = by_label(&agent, SERVER, "http_response_status_code").values().sum();
        if seen == 3 { Ok(()) } else { Err(format!("{seen} {:?}", agent.unparsed())) }
    });
    assert_eq!(by_label(&agent, SERVER, "network_protocol_version"), counts(&[("2", 3)]));
    assert_eq!(agent.unparsed().get("joined"), Some(&1));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn calls_that_end_badly_open_the_breaker() {
    let world = World::new();
    let breaker = "breaker: { signals: [grpc_status], consecutive_failures: 3, failure_ratio: 0%, open: 5m, \
                   open_max: 5m, negative_affinity: 0s }";
    let service = web().to_address("127.0.0.1:8082").policy(breaker);
    let agent = world.agent(&[service]);
    let (_good, _bad) = (shop(&world, AT), shop(&world, "127.0.0.1:8082"));
    // All calls of one connection: three in a row that the server answers with UNAVAILABLE put its backend out.
    let script = "
with grpc.insecure_channel('198.18.0.10:80') as channel:
    grpc.channel_ready_future(channel).result(timeout=20)
    for status in ['5'] * 10 + ['14', '14', '0', '14', '14', '14']:
        call = channel.unary_unary('/shop.Shop/' + status).future(b'', timeout=20)
        print(call.code().name)
";
    world.run("python3", &["-c", &with_grpc(script)]).expect_success();
    eventually("one backend to be out", SOON, || {
        let opened = by_label(&agent, "segue_breaker_transitions_total", "to");
        if opened.get("open") == Some(&1) { Ok(()) } else { Err(format!("{opened:?}")) }
    });
}
