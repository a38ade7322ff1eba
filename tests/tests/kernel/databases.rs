//! Requests of databases, caches and brokers as the kernel counts them, against what their clients and servers count
//! themselves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use segue_tests::agent::{Agent, SOON};
use segue_tests::program::{Finished, Program};
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

const CLIENT: &str = "db_client_operation_duration_seconds_count";
const SERVER: &str = "segue_db_server_operation_duration_seconds_count";

/// Counts by operation and status.
type Counts = BTreeMap<(String, String), u64>;

/// What is counted of a side.
fn counted(agent: &Agent<'_>, metric: &str, operation: &str, status: &str) -> Counts {
    let metrics = agent.metrics();
    let mut counts = Counts::new();
    for sample in metrics.matching(metric, &[]) {
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = sample.value as u64;
        *counts.entry((label(operation), label(status))).or_default() += count;
    }
    counts
}

fn databases(agent: &Agent<'_>, metric: &str) -> Counts {
    counted(agent, metric, "db_operation_name", "db_response_status_code")
}

fn counts(expected: &[(&str, &str, u64)]) -> Counts {
    expected.iter().map(|(operation, status, n)| (((*operation).into(), (*status).into()), *n)).collect()
}

fn unparsed(agent: &Agent<'_>) -> BTreeMap<String, u64> {
    let metrics = agent.metrics();
    let mut reasons = BTreeMap::new();
    for sample in metrics.matching("segue_l7_unparsed_total", &[]) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = sample.value as u64;
        if count > 0 {
            reasons.insert(sample.labels.get("reason").cloned().unwrap_or_default(), count);
        }
    }
    reasons
}

/// Waits until both sides count this, and nothing was given up.
fn await_both(agent: &Agent<'_>, expected: &Counts) {
    for metric in [CLIENT, SERVER] {
        eventually(&format!("{metric} to be {expected:?}"), SOON, || {
            let seen = databases(agent, metric);
            if seen == *expected { Ok(()) } else { Err(format!("{seen:?}\n{:?}", unparsed(agent))) }
        });
    }
    assert_eq!(unparsed(agent), BTreeMap::new());
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
                    let reasons = unparsed(&agent);
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
    assert_eq!(unparsed(&agent), BTreeMap::new());
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
    assert_eq!(unparsed(&agent), BTreeMap::from([("upgraded".to_owned(), 2)]));
}

/// PostgreSQL in the managed cgroup, on 127.0.0.1:5432. It refuses to be root's.
fn postgresql(world: &World) -> Program {
    let data = world.directory().join("postgresql");
    fs::create_dir_all(&data).expect("a directory");
    fs::set_permissions(world.directory(), fs::Permissions::from_mode(0o755)).expect("others may pass");
    let data = data.display().to_string();
    let newest = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten();
    let bin = newest.map(|entry| entry.path().join("bin")).max().expect("a version of PostgreSQL");
    let program = |name: &str| bin.join(name).display().to_string();
    let as_user = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    world.run_outside("chown", &["postgres:", &data]);
    let init = program("initdb");
    let arguments = [init.as_str(), "-D", &data, "-A", "trust", "-N", "--no-instructions"];
    world.run_outside("setpriv", &[&as_user[..], &arguments].concat());
    let server = program("postgres");
    let arguments = [
        server.as_str(),
        "-D",
        &data,
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
    ];
    let postgresql = world.start("setpriv", &[&as_user[..], &arguments].concat());
    world.await_listener("127.0.0.1:5432", &postgresql);
    postgresql
}

fn orders() -> Service {
    Service::tcp("shop/orders").at("198.18.0.12:5432").to_address("127.0.0.1:5432")
}

fn psql(world: &World, statements: &[&str]) -> String {
    let mut arguments = vec!["-h", "198.18.0.12", "-U", "postgres", "-Atq"];
    arguments.extend(statements.iter().flat_map(|statement| ["-c", *statement]));
    world.run("psql", &arguments).stdout
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn postgresql_requests_are_what_pgbench_counts() {
    let world = World::new();
    let agent = world.agent(&[orders()]);
    let _postgresql = postgresql(&world);
    psql(&world, &["create table t (a int primary key, b int)", "insert into t values (1, 1)"]);
    let script = world.directory().join("script");
    fs::write(&script, "BEGIN;\nUPDATE t SET b = b + 1 WHERE a = 1;\nSELECT b FROM t WHERE a = 1;\nEND;\n")
        .expect("a script");
    let script = script.display().to_string();
    for mode in ["simple", "extended", "prepared"] {
        let arguments = [
            "-h",
            "198.18.0.12",
            "-U",
            "postgres",
            "-n",
            "-M",
            mode,
            "-c",
            "4",
            "-t",
            "100",
            "-f",
            &script,
            "postgres",
        ];
        let said = world.run("pgbench", &arguments).expect_success();
        assert!(said.contains("actually processed: 400/400"), "{said}");
    }
    await_both(
        &agent,
        &counts(&[
            ("CREATE", "00000", 1),
            ("INSERT", "00000", 1),
            // Of two modes by their statement; of the third, only each client's four preparations are.
            ("BEGIN", "00000", 804),
            ("UPDATE", "00000", 804),
            ("SELECT", "00000", 804),
            ("COMMIT", "00000", 804),
            ("EXECUTE", "00000", 1_600),
        ]),
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn postgresql_errors_long_answers_copies_and_durations_are_what_the_client_saw() {
    let world = World::new();
    let agent = world.agent(&[orders()]);
    let _postgresql = postgresql(&world);
    let said = psql(
        &world,
        &[
            "create table t (a int primary key)",
            "insert into t values (1)",
            "insert into t values (1)",
            "select 1/0",
            "select * from nothing",
            "copy t to stdout",
            "select count(*) from t",
        ],
    );
    assert_eq!(said, "1\n1\n");
    let long = psql(&world, &["select generate_series(1, 300000)"]);
    assert_eq!(long.lines().count(), 300_000);
    let mut expected = counts(&[
        ("CREATE", "00000", 1),
        ("INSERT", "00000", 1),
        ("INSERT", "23000", 1),
        ("SELECT", "22000", 1),
        ("SELECT", "42000", 1),
        ("COPY", "00000", 1),
        ("SELECT", "00000", 2),
    ]);
    await_both(&agent, &expected);
    let before = sum_ns(&agent, "postgresql");
    let began = Instant::now();
    let slow: Vec<&str> = std::iter::repeat_n("select pg_sleep(0.04)", 10).collect();
    psql(&world, &slow);
    let waited = u64::try_from(began.elapsed().as_nanos()).expect("less than centuries");
    *expected.get_mut(&("SELECT".into(), "00000".into())).expect("it is there") += 10;
    await_both(&agent, &expected);
    let took = sum_ns(&agent, "postgresql") - before;
    assert!((10 * 40_000_000..=waited).contains(&took), "{took} ns of the {waited} that psql ran");
    let flows = agent.flows();
    let requests = &flows[0]["requests"][0];
    assert_eq!((&requests["protocol"], &requests["errors"]), (&"postgresql".into(), &3.into()), "{flows:#?}");
}

fn stock() -> Service {
    Service::tcp("shop/stock").at("198.18.0.13:3306").to_address("127.0.0.1:3306")
}

/// MariaDB in the managed cgroup, on 127.0.0.1:3306, with nobody's rights checked.
fn mariadb(world: &World) -> Program {
    let data = world.directory().join("mariadb");
    fs::create_dir_all(&data).expect("a directory");
    let (data, socket) =
        (format!("--datadir={}", data.display()), format!("--socket={}/socket", data.display()));
    let arguments = [
        "--no-defaults",
        "--user=root",
        &data,
        &socket,
        "--port=3306",
        "--bind-address=127.0.0.1",
        "--skip-grant-tables",
        "--innodb-log-file-size=4M",
        "--innodb-flush-log-at-trx-commit=0",
    ];
    let mariadb = world.start("mariadbd", &arguments);
    world.await_listener("127.0.0.1:3306", &mariadb);
    mariadb
}

fn mariadb_client(world: &World, more: &[&str]) -> Finished {
    let arguments = ["--no-defaults", "-h", "198.18.0.13", "-u", "root", "-BN"];
    world.run("mariadb", &[&arguments[..], more].concat())
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn mysql_requests_are_what_mysqlslap_and_the_server_count() {
    let world = World::new();
    let agent = world.agent(&[stock()]);
    let _mariadb = mariadb(&world);
    for statement in [
        "create database d",
        "create table d.t(a int primary key)",
        "insert into d.t values (1)",
        "insert into d.t values (1)",
        "select * from d.nothing",
        "update d.t set a = 2",
        "select sleep(0.04)",
    ] {
        mariadb_client(&world, &["-e", statement]);
    }
    let arguments = [
        "--no-defaults",
        "--user=root",
        "--host=198.18.0.13",
        "--concurrency=4",
        "--iterations=1",
        "--number-of-queries=2000",
        "--create-schema=d",
        "--query=select a from t where a = 2",
    ];
    let said = world.run("mysqlslap", &arguments).expect_success();
    assert!(said.contains("queries per client: 500"), "{said}");
    await_both(
        &agent,
        &counts(&[
            ("CREATE", "0", 2),
            ("INSERT", "0", 1),
            ("INSERT", "1062", 1),
            ("SELECT", "1146", 1),
            ("UPDATE", "0", 1),
            ("SELECT", "0", 2_001),
        ]),
    );
    let slept = sum_ns(&agent, "mysql");
    assert!(slept >= 40_000_000, "{slept}");
    let flows = agent.flows();
    assert_eq!(flows[0]["requests"][0]["errors"], 2, "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn compressed_mysql_is_given_up_and_says_so() {
    let world = World::new();
    let agent = world.agent(&[stock()]);
    let _mariadb = mariadb(&world);
    let said = mariadb_client(&world, &["--compress", "-e", "select 41 + 1"]).expect_success();
    assert_eq!(said, "42\n");
    eventually("both sides to say so", SOON, || {
        let reasons = unparsed(&agent);
        if reasons == BTreeMap::from([("opaque".to_owned(), 2)]) {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    });
    assert_eq!(databases(&agent, CLIENT), Counts::new());
}

/// A broker of librdkafka's own tests. It takes a port, tells it, and serves.
const BROKER: &str = "
import ctypes, time
lib = ctypes.CDLL('librdkafka.so.1')
lib.rd_kafka_new.restype = ctypes.c_void_p
lib.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
lib.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
lib.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
cluster = lib.rd_kafka_mock_cluster_new(lib.rd_kafka_new(0, None, ctypes.create_string_buffer(512), 512), 1)
print(lib.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
while True: time.sleep(1)
";

/// Passes connections on to the broker. The address that it gives itself cannot be a service's and its own.
const RELAY: &str = "
import socket, sys, threading
host, port = sys.argv[1].split(':')
def pass_on(one, other):
    while data := one.recv(65536):
        other.sendall(data)
    other.shutdown(socket.SHUT_WR)
listener = socket.create_server(('127.0.0.1', 9092))
while True:
    client, _ = listener.accept()
    broker = socket.create_connection((host, int(port)))
    for pair in [(client, broker), (broker, client)]:
        threading.Thread(target=pass_on, args=pair, daemon=True).start()
";

/// What kcat says it sent, or received, by the name of the request.
fn said_by_kcat(said: &str, verb: &str, noun: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in said.lines() {
        let words = line.split_once(&format!(": {verb} ")).and_then(|(_, rest)| rest.split_once(' '));
        if let Some(name) = words.and_then(|(name, _)| name.strip_suffix(noun)) {
            // Its own word for one of them.
            let name = if name == "ApiVersion" { "ApiVersions" } else { name };
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn kafka_requests_are_what_kcat_counts() {
    let world = World::new();
    let broker = world.start("python3", &["-c", BROKER]);
    let address = eventually("the broker to tell its address", SOON, || {
        let said = broker.output();
        said.lines().find(|line| line.starts_with("127.0.0.1:")).map(str::to_owned).ok_or(said)
    });
    let mut relay = Command::new("python3");
    relay.args(["-c", RELAY, &address]);
    let relay = world.start_outside(relay);
    world.await_listener("127.0.0.1:9092", &relay);
    // Clients find the broker by the service, and then ask it by the address that it gives itself.
    let events = Service::tcp("shop/events").at("198.18.0.14:9092").at(&address);
    let agent = world.agent(&[events.to_address("127.0.0.1:9092")]);
    let messages = world.directory().join("messages");
    let lines: String = (0..5_000).map(|number| format!("message {number}\n")).collect();
    fs::write(&messages, lines).expect("a file");
    let messages = messages.display().to_string();
    let common = ["-b", "198.18.0.14:9092", "-t", "news", "-d", "protocol"];
    // Small batches, of which five are under way at a time, as clients in Java have it.
    let (batches, under_way) = ("batch.num.messages=50", "max.in.flight.requests.per.connection=5");
    let produce = ["-P", "-l", "-X", batches, "-X", "linger.ms=0", "-X", under_way, &messages];
    let produced = world.run("kcat", &[&common[..], &produce].concat());
    assert!(produced.status.success(), "{}", produced.stderr);
    let consumed = world.run("kcat", &[&common[..], &["-C", "-o", "beginning", "-c", "5000"]].concat());
    assert!(consumed.status.success(), "{}", consumed.stderr);
    assert_eq!(consumed.stdout.lines().count(), 5_000);
    let said = produced.stderr + &consumed.stderr;
    let (sent, received) =
        (said_by_kcat(&said, "Sent", "Request"), said_by_kcat(&said, "Received", "Response"));
    assert!(received["Produce"] >= 20 && received["Fetch"] >= 1, "{received:?}");
    for metric in [
        "messaging_client_operation_duration_seconds_count",
        "segue_messaging_server_operation_duration_seconds_count",
    ] {
        eventually(&format!("{metric} to be what kcat received"), SOON, || {
            let seen = counted(&agent, metric, "messaging_operation_name", "");
            for (name, &count) in &received {
                let found = seen.get(&(name.clone(), String::new())).copied().unwrap_or_default();
                // kcat leaves without waiting for what it has asked for last: the kernel may have seen the answer.
                let most = if name == "Fetch" { sent[name] } else { count };
                if !(count..=most).contains(&found) {
                    return Err(format!(
                        "{found} {name}, {received:?} of {sent:?}, {seen:?} {:?}",
                        unparsed(&agent)
                    ));
                }
            }
            if seen.len() == received.len() { Ok(()) } else { Err(format!("{seen:?} {received:?}")) }
        });
    }
    assert_eq!(unparsed(&agent), BTreeMap::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn encrypted_postgresql_is_given_up_and_says_so() {
    let world = World::new();
    let agent = world.agent(&[orders()]);
    // Says yes to encryption, and then nothing that is read.
    let script = "
import socket
listener = socket.create_server(('127.0.0.1', 5432))
while True:
    s, _ = listener.accept()
    if s.recv(8) == b'\\0\\0\\0\\x08\\x04\\xd2\\x16/':
        s.sendall(b'S')
        s.recv(65536)
    s.close()
";
    let server = world.start("python3", &["-c", script]);
    world.await_listener("127.0.0.1:5432", &server);
    let said = world.run("psql", &["-h", "198.18.0.12", "-U", "postgres", "-c", "select 1"]);
    assert!(!said.status.success(), "{}", said.stdout);
    eventually("both sides to say so", SOON, || {
        let reasons = unparsed(&agent);
        if reasons.get("opaque").is_some_and(|count| *count >= 2) {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    });
    assert_eq!(databases(&agent, CLIENT), Counts::new());
}
