//! What is sent by OTLP is what a scrape shows, and a receiver that is gone, busy or silent is none of the agent's worries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use segue_tests::agent::{Agent, SOON};
use segue_tests::exposition::Sample;
use segue_tests::otlp::{Answer, Receiver};
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";
const RECEIVER: &str = "127.0.0.1:4318";
const SENDING: [&str; 6] = [
    "--otlp",
    "http://127.0.0.1:4318",
    "--otlp-interval",
    "1s",
    "--otlp-header",
    "authorization=Bearer not-for-the-log",
];

/// How it stands, as the agent says.
fn standing(agent: &Agent<'_>) -> Value {
    agent.status()["otlp"].clone()
}

/// Waits until the count of an outcome is at least this.
fn await_count(agent: &Agent<'_>, outcome: &str, least: u64) {
    eventually(&format!("{least} requests that are {outcome}"), SOON, || {
        let standing = standing(agent);
        match standing[outcome].as_u64() {
            Some(count) if count >= least => Ok(()),
            _ => Err(standing.to_string()),
        }
    });
}

/// What connections, choices and breakers count, by series.
fn counts(samples: &[Sample]) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let is_one = |sample: &&Sample| {
        ["segue_tcp_", "segue_lb_", "segue_breaker_"].iter().any(|start| sample.name.starts_with(start))
            && !sample.name.ends_with("_bucket")
    };
    let series = |sample: &Sample| ((sample.name.clone(), sample.labels.clone()), sample.value);
    samples.iter().filter(is_one).map(series).collect()
}

/// A name server in the world, by which every name is 127.0.0.1 and nothing else. It ends with the test's process.
fn name_server(world: &World) -> JoinHandle<()> {
    let file = world.directory().join("resolv.conf");
    fs::write(&file, "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
        .expect("a file for the resolver");
    // Only this world sees it.
    world.run_outside("mount", &["--bind", file.to_str().expect("a path in UTF-8"), "/etc/resolv.conf"]);
    let socket = world.namespace().run(|| UdpSocket::bind("127.0.0.1:53")).expect("a free port");
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // The header, then the name as labels up to an empty one, then type and class.
            let name = query[12..length].iter().position(|&byte| byte == 0).expect("a name ends");
            let question = &query[12..12 + name + 5];
            let is_ipv4 = question[name + 1..name + 3] == [0, 1];
            let answers = u8::from(is_ipv4);
            let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0];
            answer.extend(question);
            if is_ipv4 {
                // The name asked for, A, IN, a minute, four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _gone = socket.send_to(&answer, from);
        }
    })
}

fn names(samples: &[Sample]) -> BTreeSet<&str> {
    samples.iter().map(|sample| &sample.name[..]).filter(|name| !name.ends_with("_bucket")).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_receiver_is_told_what_a_scrape_shows() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let receiver = Receiver::start(world.namespace(), RECEIVER);
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let mut agent = world.agent(&[
        Service::tcp("shop/payment").at(PAYMENT).policy("split: { v1: 100 }").to_with(&server, "version: v1"),
        Service::tcp("shop/dead").at("198.18.0.11:80").to_address("127.0.0.1:9"),
    ]);
    agent.restart_with(&SENDING);
    let mut client = world.client();
    client.greetings(PAYMENT, 25);
    client.attempts("198.18.0.11:80", 7);
    let told = eventually("the receiver to be told what a scrape shows", SOON, || {
        let told = receiver.last().ok_or_else(|| "nothing was sent".to_owned())?;
        let scraped = agent.metrics();
        let opened = scraped.sum("segue_tcp_connections_closed_total", &[("dst_service", "payment")]);
        if opened != 25.0 {
            return Err(format!("{opened} connections scraped"));
        }
        let (sent, shown) = (counts(&told.samples), counts(&scraped.samples));
        if sent != shown {
            let differ: Vec<_> =
                shown.iter().filter(|(series, value)| sent.get(series) != Some(value)).collect();
            return Err(format!("sent {}, scraped {}, differ: {differ:?}", sent.len(), shown.len()));
        }
        // No metric is only here or only there.
        match names(&told.samples) == names(&scraped.samples) {
            true => Ok(told),
            false => Err(format!("{:?} and {:?}", names(&told.samples), names(&scraped.samples))),
        }
    });
    assert!(counts(&told.samples).len() > 20);
    assert_eq!(told.headers["authorization"], "Bearer not-for-the-log");
    assert_eq!(told.headers["content-type"], "application/x-protobuf");
    let resource = |name: &str| told.resource.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!(resource("service.name"), "segue");
    assert_eq!(resource("service.version"), env!("CARGO_PKG_VERSION"));
    assert!(!resource("host.name").is_empty() && resource("host.name") == resource("service.instance.id"));
    // The second agent goes on counting in the maps of the first.
    let since = Duration::from_nanos(told.since_ns);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let started =
        agent.status()["started"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    let started = Duration::try_from(started.as_duration()).expect("after 1970");
    assert!(before.saturating_sub(Duration::from_secs(1)) <= since && since < started && started < now);
    assert!(!agent.log().contains("not-for-the-log"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_receiver_may_come_late_be_busy_refuse_or_say_nothing() {
    let world = World::new();
    let server = world.tcp("one", "127.0.0.1:8081");
    let mut agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT).to(&server)]);
    agent.restart_with(&SENDING);
    await_count(&agent, "failed", 2);
    assert!(standing(&agent)["error"].as_str().is_some_and(|error| error.contains("refused")));
    let warnings = || agent.log().matches("metrics cannot be sent by OTLP").count();
    assert_eq!(warnings(), 1, "said once: {}", agent.log());

    let receiver = Receiver::start(world.namespace(), RECEIVER);
    await_count(&agent, "ok", 1);
    eventually("the error to be gone", SOON, || match &standing(&agent)["error"] {
        Value::Null => Ok(()),
        error => Err(error.to_string()),
    });
    assert!(agent.log().contains("metrics are sent by OTLP"));

    receiver.answer(Answer::Partial(3));
    await_count(&agent, "rejected", 1);
    let said = standing(&agent);
    assert!(said["rejected_points"].as_u64() >= Some(3), "{said}");
    assert!(said["error"].as_str().is_some_and(|error| error.contains("too old")), "{said}");

    // Left alone for as long as it asks for.
    let failed = standing(&agent)["failed"].as_u64().expect("a number");
    receiver.answer(Answer::Busy(4));
    await_count(&agent, "failed", failed + 1);
    let (requests, asked) = (receiver.requests(), std::time::Instant::now());
    receiver.answer(Answer::Silence);
    eventually("the next request", SOON, || match receiver.requests() > requests {
        true => Ok(()),
        false => Err("none"),
    });
    assert!(asked.elapsed() > Duration::from_secs(3), "after {:?}", asked.elapsed());

    // A request that hangs holds up nothing else.
    let mut client = world.client();
    client.greetings(PAYMENT, 10);
    eventually("the connections to be counted", SOON, || {
        match agent.metrics().sum("segue_tcp_connections_closed_total", &[("dst_service", "payment")]) {
            10.0 => Ok(()),
            other => Err(format!("{other} closed")),
        }
    });
    await_count(&agent, "failed", failed + 2);
    assert!(standing(&agent)["error"].as_str().is_some_and(|error| error.contains("no answer within 10 s")));
    let exposed = agent.metrics();
    for outcome in ["ok", "rejected", "failed"] {
        let labels = [("signal", "metrics"), ("outcome", outcome)];
        assert!(exposed.sum("segue_otlp_exports_total", &labels) >= 1.0, "{outcome}");
    }
    agent.terminate();
}

/// Speaks TLS at a port and hands on what it hears: the port, where to, certificate, key.
const TLS: &str = "
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[3], sys.argv[4])
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
while True:
    plain = listener.accept()[0]
    try:
        client = context.wrap_socket(plain, server_side=True)
        server = socket.create_connection(('127.0.0.1', int(sys.argv[2])))
    except OSError:
        plain.close()
        continue
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
";

#[test]
#[ignore = "kernel tier: needs root, eBPF and openssl; run by cargo xtask test"]
fn by_tls_only_a_receiver_that_is_trusted_is_told() {
    let world = World::new();
    let at = |name: &str| world.directory().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (authority, authority_key) = (at("ca.pem"), at("ca.key"));
    let (request, certificate, key, names) = (at("tls.csr"), at("tls.pem"), at("tls.key"), at("names"));
    let openssl = |arguments: &[&str]| drop(world.run_outside("openssl", arguments));
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-subj", "/CN=authority", "-keyout", &authority_key, "-out", &authority];
    openssl(&[&ca[..], &ec].concat());
    openssl(&[&["req", "-subj", "/CN=collector", "-keyout", &key, "-out", &request][..], &ec].concat());
    fs::write(&names, "subjectAltName=DNS:localhost\n").expect("a file for openssl");
    let signed =
        ["x509", "-req", "-in", &request, "-out", &certificate, "-extfile", &names, "-CAcreateserial"];
    openssl(&[&signed[..], &["-CA", &authority, "-CAkey", &authority_key]].concat());
    let receiver = Receiver::start(world.namespace(), RECEIVER);
    let mut proxy = Command::new("python3");
    proxy.args(["-c", TLS, "4319", "4318", &certificate, &key]);
    let proxy = world.start_outside(proxy);
    world.await_listener("127.0.0.1:4319", &proxy);

    let trusting = format!("SSL_CERT_FILE={authority}");
    let mut agent = world.agent_by(&["env", &trusting], &[Service::tcp("shop/payment").at(PAYMENT)]);
    // The certificate is of no address.
    agent.restart_with(&["--otlp", "https://127.0.0.1:4319", "--otlp-interval", "1s"]);
    await_count(&agent, "failed", 1);
    let said = standing(&agent);
    assert!(said["error"].as_str().is_some_and(|error| error.contains("certificate")), "{said}");
    assert_eq!(receiver.requests(), 0);
    agent.restart_with(&["--otlp", "https://localhost:4319", "--otlp-interval", "1s"]);
    await_count(&agent, "ok", 2);
    assert!(receiver.requests() >= 2);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn sending_leaves_nothing_open() {
    let world = World::new();
    let mut agent = world.agent(&[Service::tcp("shop/payment").at(PAYMENT)]);
    // By a name that only a name server knows: whatever asks it may call what it needs.
    let _asked = name_server(&world);
    agent.restart_with(&["--otlp", "http://collector.test:4318", "--otlp-interval", "1s"]);
    let receiver = Receiver::start(world.namespace(), RECEIVER);
    await_count(&agent, "ok", 2);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("the agent runs").count();
    let before = descriptors();
    await_count(&agent, "ok", 10);
    // Between two requests, and not while status is asked.
    eventually("no more descriptors than before", SOON, || match descriptors() {
        after if after <= before => Ok(()),
        after => Err(format!("{before} descriptors before, {after} after")),
    });
    assert!(receiver.requests() >= 10);
}
