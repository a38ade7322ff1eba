//! Requests as the kernel counts them, against what clients and servers nobody here wrote count themselves.

use std::collections::BTreeMap;
use std::fs;

use segue_tests::agent::{Agent, SOON};
use segue_tests::nginx::{Nginx, PAGES};
use segue_tests::program::Program;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

const CLIENT: &str = "http_client_request_duration_seconds_count";
const SERVER: &str = "http_server_request_duration_seconds_count";
/// The label by which their counts are told apart.
const STATUS: &str = "http_response_status_code";

fn web() -> Service {
    Service::tcp("shop/web")
        .at("198.18.0.10:80")
        .at("[fd00:5e::10]:80")
        .to_address("127.0.0.1:8081")
        .to_address("[::1]:8081")
}

fn nginx(world: &World) -> Program {
    nginx_in(world, "checkout.service")
}

/// nginx in a unit of the managed cgroup, on 127.0.0.1:8081 and [::1]:8081.
pub(crate) fn nginx_in(world: &World, unit: &str) -> Program {
    // What is uploaded it passes on to itself.
    let uploads = "location /upload { proxy_pass http://127.0.0.1:8081/sink; } \
                   location /sink { return 200 \"eaten\\n\"; }";
    Nginx::new(world)
        .in_unit(unit)
        .directive("large_client_header_buffers 4 128k;")
        .serve(&["127.0.0.1:8081", "[::1]:8081"], &format!("{PAGES} {uploads}"))
        .start()
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(status, count)| ((*status).to_owned(), *count)).collect()
}

/// Waits until both sides count this.
fn await_both(agent: &Agent<'_>, expected: &[(&str, u64)]) {
    let expected = counts(expected);
    for metric in [CLIENT, SERVER] {
        eventually(&format!("{metric} to be {expected:?}"), SOON, || {
            let seen = agent.counted_by(metric, STATUS);
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}\n{:?}", agent.unparsed())) }
        });
    }
}

fn python(world: &World, script: &str) -> String {
    world.run("python3", &["-c", script]).expect_success()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn methods_and_statuses_are_what_the_client_got() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    // Keep-alive over IPv4 and IPv6, and a new connection for each of the last ones.
    let script = "
import http.client, collections
got = collections.Counter()
for host in ['198.18.0.10', 'fd00:5e::10']:
    connection = http.client.HTTPConnection(host, 80, timeout=20)
    for n in range(200):
        path = ['/', '/missing', '/broken', '/created'][n % 4]
        method = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'][n % 5]
        connection.request(method, path, body=b'x' * (n * 37) if method in ('POST', 'PUT') else None)
        answer = connection.getresponse()
        answer.read()
        got[answer.status] += 1
for n in range(50):
    connection = http.client.HTTPConnection('198.18.0.10', 80, timeout=20)
    connection.request('GET', '/', headers={'connection': 'close'})
    answer = connection.getresponse()
    answer.read()
    got[answer.status] += 1
for status, count in sorted(got.items()):
    print(status, count)
";
    let got = python(&world, script);
    let got: Vec<(&str, u64)> = got
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(status, count)| (status, count.parse().expect("a count")))
        .collect();
    assert_eq!(got.iter().map(|(_, count)| count).sum::<u64>(), 450, "{got:?}");
    await_both(&agent, &got);
    assert_eq!(agent.unparsed(), BTreeMap::new());
    let flows = agent.flows();
    let requests = &flows[0]["requests"][0];
    assert_eq!(requests["protocol"], "http1", "{flows:#?}");
    assert_eq!(requests["count"], 450, "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_load_generator_counts_the_same() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let mut least = 0;
    let mut most = 0;
    for header in ["Connection: keep-alive", "Connection: close"] {
        let connections = 16;
        let said =
            world.run("wrk", &["-t1", "-c16", "-d1s", "-H", header, "http://198.18.0.10/"]).expect_success();
        let line = said.lines().find_map(|line| line.split_once(" requests in ")).expect("wrk counts");
        let count: u64 = line.0.trim().parse().expect("a count");
        least += count;
        // wrk hangs up on what is under way at its end, of which the answer may have come.
        most += count + connections;
    }
    eventually("the kernel to count what wrk counted", SOON, || {
        let seen: u64 = agent.counted_by(CLIENT, STATUS).values().sum();
        if (least..=most).contains(&seen) { Ok(()) } else { Err(format!("{seen}, wrk {least} to {most}")) }
    });
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn durations_are_what_the_client_waited() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    // Answers each request after 40 ms, which lie in the bucket from 32.8 to 65.5 ms.
    let server = "
import http.server, socketserver, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        time.sleep(0.04)
        self.send_response(200)
        self.send_header('content-length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *_): pass
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('127.0.0.1', 8081), Slow).serve_forever()
";
    let server = world.start("python3", &["-c", server]);
    world.await_listener("127.0.0.1:8081", &server);
    let script = "
import http.client, time
connection = http.client.HTTPConnection('198.18.0.10', 80, timeout=20)
waited = 0
for n in range(20):
    begin = time.monotonic_ns()
    connection.request('GET', '/')
    answer = connection.getresponse()
    waited += time.monotonic_ns() - begin
    answer.read()
print(waited)
";
    let waited_ns: u64 = python(&world, script).trim().parse().expect("nanoseconds");
    eventually("the requests to be counted", SOON, || {
        let flows = agent.flows();
        let duration = &flows[0]["requests"][0]["duration"];
        if duration["count"] != 20 {
            return Err(format!("{flows:#?}"));
        }
        let sum_ns = duration["sum_ns"].as_u64().expect("a sum");
        assert!(
            (20 * 40_000_000..=waited_ns).contains(&sum_ns),
            "{sum_ns} of the {waited_ns} that the client waited"
        );
        Ok(())
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn messages_in_single_bytes_long_heads_and_interim_answers_are_counted_once() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let script = "
import socket, time
def dial():
    s = socket.create_connection(('198.18.0.10', 80), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
def until_answer(s, end=b'\\r\\n\\r\\n'):
    data = b''
    while end not in data:
        more = s.recv(65536)
        if not more: break
        data += more
    return data
# Each byte in a segment of its own, twice on one connection.
s = dial()
for n in range(2):
    for byte in b'GET /created HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n':
        s.send(bytes([byte]))
    assert b' 201 ' in until_answer(s)
s.close()
# A head of 64 KiB.
s = dial()
s.sendall(b'GET / HTTP/1.1\\r\\nhost: a\\r\\nx: ' + b'y' * 65000 + b'\\r\\n\\r\\n')
assert b' 200 ' in until_answer(s, b'fine')
# Then a request of two packets, the second of which looks like one.
s.sendall(b'POST /sink HTTP/1.1\\r\\nhost: a\\r\\ncontent-length: 16\\r\\n\\r\\n')
time.sleep(0.05)
s.sendall(b'GET /x HTTP/1.1\\n')
assert b' 200 ' in until_answer(s, b'eaten')
s.close()
";
    python(&world, script);
    // nginx asks for the body with an interim answer, and passes it on to itself.
    let body = world.directory().join("body");
    fs::write(&body, vec![b'z'; 3_000_000]).expect("a file");
    let body = format!("@{}", body.display());
    let curl = ["-sS", "-H", "Expect: 100-continue", "--data-binary", &body, "http://198.18.0.10/upload"];
    assert_eq!(world.run("curl", &curl).expect_success(), "eaten\n");
    eventually("each to be counted once", SOON, || {
        let seen = agent.counted_by(CLIENT, STATUS);
        // 2 of one byte at a time; the long head, the one of two packets, the upload.
        if seen == counts(&[("200", 3), ("201", 2)]) {
            Ok(())
        } else {
            Err(format!("{seen:?} {:?}", agent.unparsed()))
        }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_is_no_request_in_turn_is_reported_and_not_counted() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let script = "
import socket, time
def dial():
    s = socket.create_connection(('198.18.0.10', 80), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
# Two requests in one breath.
s = dial()
s.sendall(b'GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n' * 2)
time.sleep(0.1)
s.close()
# An orderly exchange, then garbage.
s = dial()
s.sendall(b'GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n')
s.recv(65536)
s.sendall(b'\\x16\\x03\\x01 not a request at all \\r\\n\\r\\n')
time.sleep(0.1)
s.close()
# A protocol that nobody here knows.
s = dial()
s.sendall(b'hello, is anybody there?\\r\\n')
s.recv(65536)
s.close()
";
    python(&world, script);
    eventually("the reasons to be counted", SOON, || {
        let reasons = agent.unparsed();
        // Each connection on both its sides. The garbage is the rest of something to the client's side; nginx answers it.
        let has = |reason: &str, least: u64| reasons.get(reason).is_some_and(|count| *count >= least);
        if has("pipelined", 2) && has("other_protocol", 2) { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
    eventually("the one that was answered in turn, and no other", SOON, || {
        let seen = agent.counted_by(CLIENT, STATUS);
        if seen == counts(&[("200", 1)]) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_connection_that_was_open_before_is_followed_from_its_next_request_on() {
    let world = World::new();
    let mut agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    agent.kill();
    assert_eq!(agent.unload().status.code(), Some(0));
    // Opened without anybody looking; the second half once the agent is back.
    let ready = world.directory().join("ready");
    let script = format!(
        "
import http.client, os, time
connection = http.client.HTTPConnection('127.0.0.1', 8081, timeout=60)
def ask():
    connection.request('GET', '/created')
    answer = connection.getresponse()
    answer.read()
ask()
while not os.path.exists({:?}): time.sleep(0.05)
for n in range(5): ask()
",
        ready.display().to_string()
    );
    let client = world.start("python3", &["-c", &script]);
    eventually("the connection to be open", SOON, || {
        let open = world.run_outside("ss", &["-Htn", "state", "established", "( dport = :8081 )"]);
        if open.trim().is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
    agent.restart();
    fs::write(&ready, "").expect("a file");
    client.finish().expect_success();
    // The client is no client of a service; what the server answers is counted.
    eventually("the rest to be counted", SOON, || {
        let (seen, reasons) = (agent.counted_by(SERVER, STATUS), agent.unparsed());
        if seen == counts(&[("201", 5)]) && reasons.get("joined") == Some(&1) {
            Ok(())
        } else {
            Err(format!("{seen:?} {reasons:?}"))
        }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_upgrade_is_counted_and_what_follows_is_left_alone() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let server = "
import socket
listener = socket.create_server(('127.0.0.1', 8081))
while True:
    s, _ = listener.accept()
    if b'upgrade' in s.recv(65536):
        s.sendall(b'HTTP/1.1 101 Switching Protocols\\r\\nupgrade: x\\r\\n\\r\\n')
        while s.recv(65536): s.sendall(b'HTTP/1.1 200 not an answer\\r\\n')
    s.close()
";
    let server = world.start("python3", &["-c", server]);
    world.await_listener("127.0.0.1:8081", &server);
    python(
        &world,
        "
import socket
s = socket.create_connection(('198.18.0.10', 80), 20)
s.sendall(b'GET /chat HTTP/1.1\\r\\nhost: a\\r\\nupgrade: x\\r\\n\\r\\n')
s.recv(65536)
for n in range(3):
    s.sendall(b'GET / HTTP/1.1 is what somebody says\\r\\n')
    s.recv(65536)
s.close()
",
    );
    await_both(&agent, &[("101", 1)]);
    assert_eq!(agent.unparsed().get("upgraded"), Some(&2));
}
