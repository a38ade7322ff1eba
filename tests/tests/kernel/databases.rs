//! Requests of databases, caches and brokers as the kernel counts them, against what their clients and servers count
//! themselves.

mod kafka;
mod sql;

use std::collections::BTreeMap;

use segue_tests::agent::{Agent, SOON};
use segue_tests::program::Program;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const CLIENT: &str = "db_client_operation_duration_seconds_count";
const SERVER: &str = "segue_db_server_operation_duration_seconds_count";

/// Counts by operation and status.
type Counts = BTreeMap<(String, String), u64>;

/// What is counted of a side.
fn counted(agent: &Agent<'_>, metric: &str, operation: &str, status: &str) -> Counts {
    let counts = agent.counted(metric, &[], [operation, status]);
    counts.into_iter().map(|([operation, status], count)| ((operation, status), count)).collect()
}

fn databases(agent: &Agent<'_>, metric: &str) -> Counts {
    counted(agent, metric, "db_operation_name", "db_response_status_code")
}

fn counts(expected: &[(&str, &str, u64)]) -> Counts {
    expected.iter().map(|(operation, status, n)| (((*operation).into(), (*status).into()), *n)).collect()
}

/// Waits until both sides count this, and nothing was given up.
fn await_both(agent: &Agent<'_>, expected: &Counts) {
    for metric in [CLIENT, SERVER] {
        eventually(&format!("{metric} to be {expected:?}"), SOON, || {
            let seen = databases(agent, metric);
            if seen == *expected { Ok(()) } else { Err(format!("{seen:?}\n{:?}", agent.unparsed())) }
        });
    }
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

/// Durations of one operation, summed, in nanoseconds.
fn sum_ns(agent: &Agent<'_>, protocol: &str) -> u64 {
    let flows = agent.flows();
    let all = flows[0]["requests"].as_array().cloned().unwrap_or_default();
    let of_protocol = all.iter().find(|requests| requests["protocol"] == protocol);
    of_protocol.and_then(|requests| requests["duration"]["sum_ns"].as_u64()).unwrap_or_default()
}

fn cache() -> Service {
    Service::tcp("shop/cache").at("198.18.0.11:6379").to_address("127.0.0.1:6379")
}

fn redis(world: &World) -> Program {
    let arguments = ["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", "/"];
    let redis = world.start("redis-server", &arguments);
    world.await_listener("127.0.0.1:6379", &redis);
    redis
}

fn redis_cli(world: &World, words: &[&str]) -> String {
    world.run("redis-cli", &[&["-h", "198.18.0.11"], words].concat()).expect_success()
}

/// What the server itself counted, by command in capitals: all calls, and those that failed.
fn command_stats(world: &World) -> BTreeMap<String, (u64, u64)> {
    // Seen by nobody: over the address that is no service, from outside of the managed cgroup.
    let said = world.run_outside("redis-cli", &["-h", "127.0.0.1", "INFO", "commandstats"]);
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("cmdstat_")?.split_once(':'));
    lines
        .map(|(name, fields)| {
            let field = |wanted: &str| {
                let mut all = fields.split(',').filter_map(|field| field.split_once('='));
                all.find(|(name, _)| *name == wanted)
                    .expect("Redis counts")
                    .1
                    .parse::<u64>()
                    .expect("a count")
            };
            let failed = field("failed_calls") + field("rejected_calls");
            (name.to_uppercase(), (field("calls") + field("rejected_calls"), failed))
        })
        .collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn redis_commands_are_what_redis_benchmark_and_the_server_count() {
    let world = World::new();
    let agent = world.agent(&[cache()]);
    let _redis = redis(&world);
    let mut expected = BTreeMap::from([("GET", 0), ("SET", 0), ("INCR", 0), ("LPUSH", 0), ("PING", 0)]);
    for pipeline in ["1", "16", "100"] {
        let arguments = [
            "-h",
            "198.18.0.11",
            "-n",
            "8000",
            "-c",
            "10",
            "-P",
            pipeline,
            "-r",
            "1000",
            "-q",
            "-t",
            "ping,set,get,incr,lpush",
        ];
        let said = world.run("redis-benchmark", &arguments).expect_success();
        assert!(said.contains("GET: "), "{said}");
        expected.values_mut().for_each(|count| *count += 8_000);
    }
    // PING is asked inline and as a command of one part.
    *expected.get_mut("PING").expect("it is there") *= 2;
    eventually("both sides to count what redis-benchmark and Redis count", SOON, || {
        let stats = command_stats(&world);
        for (metric, mut seen) in [CLIENT, SERVER].map(|metric| (metric, databases(&agent, metric))) {
            for (&command, &count) in &expected {
                let found = seen.remove(&(command.to_owned(), "OK".to_owned())).unwrap_or_default();
                if found != count || stats.get(command) != Some(&(count, 0)) {
                    let reasons = agent.unparsed();
                    return Err(format!(
                        "{metric}: {found} {command}, {count} asked for; {stats:?} {reasons:?}"
                    ));
                }
            }
            // What else redis-benchmark asks: the configuration, for its report.
            let others: Vec<_> =
                seen.into_iter().filter(|((operation, _), _)| operation != "_OTHER").collect();
            assert_eq!(others, [], "{metric}");
        }
        Ok(())
    });
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_policy_that_has_requests_off_ends_reading_on_open_connections() {
    let world = World::new();
    let agent = world.agent(&[cache()]);
    let _redis = redis(&world);
    let mut client = world.client();
    let socket = client.connect_tcp("198.18.0.11:6379").expect("the service has a backend");
    let mut ping = || {
        client.send(&socket, "PING\r\n").expect("room in the send buffer");
        assert_eq!(client.read_line(&socket).as_deref().map(str::trim_end), Ok("+PONG"));
    };
    ping();
    let pings = |count| counts(&[("PING", "OK", count)]);
    eventually_equal("the client's first command", SOON, &pings(1), || databases(&agent, CLIENT));
    let generation = || agent.status()["config"]["generation"].as_u64();
    let before = generation();
    agent.replace(&config(&[cache().policy("requests: off")]));
    eventually("the edit to be in force", SOON, || if generation() > before { Ok(()) } else { Err("") });
    ping();
    // The server's side is no service's, and is read all the same: it shows when all is counted.
    eventually_equal("the server's second command", SOON, &pings(2), || databases(&agent, SERVER));
    assert_eq!(databases(&agent, CLIENT), pings(1));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn redis_errors_large_values_and_nested_answers_are_counted_once() {
    let world = World::new();
    let agent = world.agent(&[cache()]);
    let _redis = redis(&world);
    redis_cli(&world, &["SET", "tune", "segue"]);
    redis_cli(&world, &["LPUSH", "tune", "x"]);
    redis_cli(&world, &["GET"]);
    redis_cli(&world, &["-3", "HGETALL", "nothing"]);
    // Arrays within arrays, over several segments: some thousands of parts.
    assert!(redis_cli(&world, &["COMMAND", "DOCS"]).len() > 100_000);
    // A value of 3 MB both ways, and pieces of a command in segments of their own.
    let script = "
import socket, time
s = socket.create_connection(('198.18.0.11', 6379), 20)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def until(end):
    data = b''
    while not data.endswith(end):
        more = s.recv(65536)
        assert more
        data += more
    return data
value = b'$-1\\r\\n' * 600000
s.sendall(b'*3\\r\\n$3\\r\\nSET\\r\\n$3\\r\\nbig\\r\\n$%d\\r\\n%s\\r\\n' % (len(value), value))
until(b'+OK\\r\\n')
s.sendall(b'*2\\r\\n$3\\r\\nGET\\r\\n$3\\r\\nbig\\r\\n*2\\r\\n$4\\r\\nINCR\\r\\n$1\\r\\nn\\r\\n')
assert len(until(b'\\r\\n:1\\r\\n')) > 3000000
for byte in b'*2\\r\\n$7\\r\\nHGETALL\\r\\n$4\\r\\ntune\\r\\n':
    s.send(bytes([byte]))
until(b'value\\r\\n')
";
    world.run("python3", &["-c", script]).expect_success();
    await_both(
        &agent,
        &counts(&[
            ("SET", "OK", 2),
            ("LPUSH", "WRONGTYPE", 1),
            ("GET", "ERR", 1),
            ("GET", "OK", 1),
            ("INCR", "OK", 1),
            ("HGETALL", "OK", 1),
            ("HGETALL", "WRONGTYPE", 1),
            // HELLO of RESP3, and COMMAND.
            ("_OTHER", "OK", 2),
        ]),
    );
    let flows = agent.flows();
    let requests = &flows[0]["requests"][0];
    assert_eq!((&requests["protocol"], &requests["errors"]), (&"redis".into(), &3.into()), "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn subscriptions_of_redis_are_given_up_and_not_counted() {
    let world = World::new();
    let agent = world.agent(&[cache()]);
    let _redis = redis(&world);
    let script = "
import socket
def dial():
    s = socket.create_connection(('198.18.0.11', 6379), 20)
    return s
reader, writer = dial(), dial()
reader.sendall(b'*2\\r\\n$9\\r\\nSUBSCRIBE\\r\\n$4\\r\\nnews\\r\\n')
assert b'subscribe' in reader.recv(65536)
for n in range(100):
    writer.sendall(b'*3\\r\\n$7\\r\\nPUBLISH\\r\\n$4\\r\\nnews\\r\\n$2\\r\\nhi\\r\\n')
    assert writer.recv(65536) == b':1\\r\\n'
    assert b'hi' in reader.recv(65536)
";
    world.run("python3", &["-c", script]).expect_success();
    for metric in [CLIENT, SERVER] {
        eventually("what was published to be counted", SOON, || {
            let seen = databases(&agent, metric);
            if seen == counts(&[("PUBLISH", "OK", 100)]) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
    assert_eq!(agent.unparsed(), BTreeMap::from([("upgraded".to_owned(), 2)]));
}
