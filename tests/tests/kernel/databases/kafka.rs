//! Kafka against what kcat says of itself, on the broker that librdkafka brings for tests.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use segue_tests::agent::SOON;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

use super::counted;

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
                        agent.unparsed()
                    ));
                }
            }
            if seen.len() == received.len() { Ok(()) } else { Err(format!("{seen:?} {received:?}")) }
        });
    }
    assert_eq!(agent.unparsed(), BTreeMap::new());
}
