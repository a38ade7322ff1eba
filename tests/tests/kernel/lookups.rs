//! DNS lookups as the kernel counts them, against what dig, glibc and dnsmasq did.

use std::collections::BTreeMap;

use segue_tests::agent::{Agent, SOON};
use segue_tests::program::Program;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

const CLIENT: &str = "dns_lookup_duration_seconds";
const SERVER: &str = "segue_dns_server_lookup_duration_seconds";

/// The unit of the server in [`dnsmasq`].
const RESOLVER: &str = "system.slice/resolver.service";

fn names() -> [Service; 2] {
    let of = |service: Service| {
        service
            .at("198.18.0.53:53")
            .at("[fd00:5e::53]:53")
            .to_address_with("127.0.0.53:53", "version: v1")
            .to_address_with("[::1]:53", "version: v1")
    };
    [of(Service::udp("infra/dns")), of(Service::tcp("infra/dns-tcp"))]
}

/// dnsmasq in the managed cgroup, on 127.0.0.53 and ::1: knows names below `example.test` and refuses all others.
fn dnsmasq(world: &World) -> Program {
    let arguments = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        "--bind-interfaces",
        "--listen-address=127.0.0.53",
        "--listen-address=::1",
        "--local=/example.test/",
        "--host-record=www.example.test,192.0.2.7,2001:db8::7",
        "--host-record=v4.example.test,192.0.2.8",
        "--txt-record=www.example.test,hello",
        "--mx-host=example.test,www.example.test",
        "--srv-host=_http._tcp.example.test,www.example.test,80",
    ];
    let dnsmasq = world.start_in(RESOLVER, "dnsmasq", &arguments);
    world.await_listener("127.0.0.53:53", &dnsmasq);
    dnsmasq
}

/// Lookups by type and status.
type Lookups = BTreeMap<(String, String), u64>;

fn lookups(expected: &[(&str, &str, u64)]) -> Lookups {
    let mut all = Lookups::new();
    for &(record_type, status, count) in expected {
        *all.entry((record_type.to_owned(), status.to_owned())).or_default() += count;
    }
    all
}

/// What is counted of a side, of those samples that have these labels.
fn counted(agent: &Agent<'_>, metric: &str, labels: &[(&str, &str)]) -> Lookups {
    let counts = agent.counted(&format!("{metric}_count"), labels, ["qtype", "rcode"]);
    counts.into_iter().map(|([record_type, status], count)| ((record_type, status), count)).collect()
}

#[track_caller]
fn await_counted(agent: &Agent<'_>, metric: &str, labels: &[(&str, &str)], expected: &Lookups) {
    eventually(&format!("{metric} with {labels:?} to be {expected:?}"), SOON, || {
        let seen = counted(agent, metric, labels);
        if seen == *expected { Ok(()) } else { Err(format!("{seen:?}\n{:?}", agent.unparsed())) }
    });
}

/// Runs dig, and tells what it says it got: the status of each answer, with the type of its question.
fn dig(world: &World, arguments: &[&str]) -> Lookups {
    let said = world.run("dig", &[&["+tries=1", "+timeout=5", "+nocookie"], arguments].concat());
    let mut got = Lookups::new();
    let mut status = None;
    for line in said.expect_success().lines() {
        if let Some((_, rest)) = line.split_once(", status: ") {
            status = rest.split_once(',').map(|(status, _)| status.to_owned());
        }
        // The question is repeated as a comment: `;www.example.test.  IN  A`.
        if let Some(question) = line.strip_prefix(';')
            && let Some((_, record_type)) = question.split_once("IN\t")
        {
            let status = status.take().expect("a status before each question");
            *got.entry((record_type.trim().to_owned(), status)).or_default() += 1;
        }
    }
    got
}

fn python(world: &World, script: &str) -> String {
    world.run("python3", &["-c", script]).expect_success()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn types_and_statuses_are_what_dig_got() {
    let world = World::new();
    let agent = world.agent(&names());
    let _dnsmasq = dnsmasq(&world);
    let questions = [
        ["www.example.test", "A"],
        ["www.example.test", "AAAA"],
        ["v4.example.test", "AAAA"],
        ["www.example.test", "TXT"],
        ["example.test", "MX"],
        ["_http._tcp.example.test", "SRV"],
        ["nobody.example.test", "A"],
        ["example.org", "A"],
        ["example.org", "HTTPS"],
        ["example.org", "CAA"],
    ];
    let mut got = Lookups::new();
    // The service over IPv4 and IPv6, by UDP and TCP, each connection with one question or all of them.
    for (server, how) in [
        ("@198.18.0.53", "+notcp"),
        ("@fd00:5e::53", "+notcp"),
        ("@198.18.0.53", "+tcp"),
        ("@fd00:5e::53", "+tcp"),
        ("@198.18.0.53", "+keepopen"),
    ] {
        let how = if how == "+keepopen" { vec!["+tcp", how] } else { vec![how] };
        let mut arguments = Vec::new();
        for question in &questions {
            arguments.push(server);
            arguments.extend(&how);
            arguments.extend(question);
        }
        for (key, count) in dig(&world, &arguments) {
            *got.entry(key).or_default() += count;
        }
    }
    assert_eq!(got.values().sum::<u64>(), 50, "{got:?}");
    assert_eq!(got[&("A".to_owned(), "NXDOMAIN".to_owned())], 5, "{got:?}");
    assert_eq!(got[&("A".to_owned(), "REFUSED".to_owned())], 5, "{got:?}");
    // What has no name of its own.
    let caa = got.remove(&("CAA".to_owned(), "REFUSED".to_owned())).expect("five");
    got.insert(("_OTHER".to_owned(), "REFUSED".to_owned()), caa);
    let service = [("dst_namespace", "infra"), ("dst_version", "v1"), ("src_workload", "checkout")];
    await_counted(&agent, CLIENT, &service, &got);
    await_counted(&agent, SERVER, &[("dst_workload", "resolver"), ("dst_port", "53")], &got);
    // A server that is no service.
    let direct = dig(&world, &["@127.0.0.53", "www.example.test", "A", "@::1", "example.org", "PTR"]);
    assert_eq!(direct, lookups(&[("A", "NOERROR", 1), ("PTR", "REFUSED", 1)]));
    let other = [("dst_namespace", ""), ("dst_service", "dns:53"), ("dst_port", "53"), ("dst_version", "")];
    await_counted(&agent, CLIENT, &other, &direct);
    assert_eq!(agent.unparsed(), BTreeMap::new());
    let flows = agent.flows();
    let edge = flows.iter().find(|edge| edge["service"] == "infra/dns").expect("an edge");
    assert_eq!(edge["requests"][0]["protocol"], "dns", "{flows:#?}");
    assert_eq!(edge["requests"][0]["count"], 20, "{flows:#?}");
    assert_eq!(edge["requests"][0]["errors"], 6, "REFUSED is an error, NXDOMAIN is none: {flows:#?}");
    assert_eq!(edge["requests"][0]["by_status"]["NXDOMAIN"], 2, "{flows:#?}");
    assert!(flows.iter().any(|edge| edge["service"] == "dns:53"), "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn both_addresses_that_glibc_asks_for_are_counted_apart() {
    let world = World::new();
    let agent = world.agent(&names());
    let _dnsmasq = dnsmasq(&world);
    // One socket for both; one socket for each; one connection for both, which are said in one breath.
    for options in ["timeout:5", "single-request-reopen", "use-vc"] {
        // An /etc of its own, in which glibc finds nothing but the server.
        let script = format!(
            "
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, PRIVATE = 0x20000, 0x4000 | 0x40000
assert libc.unshare(NEW_MOUNTS) == 0
assert libc.mount(b'none', b'/', None, PRIVATE, None) == 0
assert libc.mount(b'none', b'/etc', b'tmpfs', 0, None) == 0
with open('/etc/resolv.conf', 'w') as file:
    file.write('nameserver 198.18.0.53\\noptions {options}\\n')
for n in range(20):
    found = socket.getaddrinfo('www.example.test.', 80, type=socket.SOCK_STREAM)
    assert sorted(a[4][0] for a in found) == ['192.0.2.7', '2001:db8::7'], found
"
        );
        python(&world, &script);
    }
    let expected = lookups(&[("A", "NOERROR", 60), ("AAAA", "NOERROR", 60)]);
    await_counted(&agent, CLIENT, &[("dst_namespace", "infra")], &expected);
    await_counted(&agent, SERVER, &[], &expected);
    assert_eq!(agent.unparsed(), BTreeMap::new());
}

/// Answers by UDP what the first label of a name asks for: `fail` with SERVFAIL, `late` after 0.3 s, `never` never.
const MOODY: &str = "
import socket, threading, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.53', 53))
listener = socket.create_server(('127.0.0.53', 53))
while True:
    message, peer = s.recvfrom(4096)
    label = message[13:13 + message[12]]
    if label == b'never': continue
    code = 2 if label == b'fail' else 0
    answer = message[:2] + bytes([0x81, 0x80 | code]) + message[4:]
    if label == b'late':
        threading.Timer(0.3, s.sendto, (answer, peer)).start()
    else:
        s.sendto(answer, peer)
";

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_fails_comes_late_or_never_is_counted_as_that() {
    let world = World::new();
    let agent = world.agent(&names()[..1]);
    let server = world.start_in(RESOLVER, "python3", &["-c", MOODY]);
    world.await_listener("127.0.0.53:53", &server);
    let run = |arguments: &[&str]| world.run("dig", &[&["@198.18.0.53"], arguments].concat());
    for _ in 0..3 {
        run(&["fail.example.test", "A", "+tries=1"]).expect_success();
    }
    for _ in 0..4 {
        run(&["late.example.test", "AAAA", "+tries=1"]).expect_success();
    }
    // Asks three times and gives up.
    let said = run(&["never.example.test", "A", "+tries=3", "+timeout=1"]);
    assert_eq!(said.status.code(), Some(9), "dig says that nobody answered: {}", said.stdout);
    let expected = lookups(&[("A", "SERVFAIL", 3), ("AAAA", "NOERROR", 4), ("A", "no_answer", 3)]);
    await_counted(&agent, CLIENT, &[("dst_service", "dns")], &expected);
    let metrics = agent.metrics();
    let late = metrics.sum(&format!("{CLIENT}_sum"), &[("qtype", "AAAA")]);
    assert!((1.2..8.0).contains(&late), "four of 0.3 s: {late}");
    let gone = metrics.sum(&format!("{CLIENT}_sum"), &[("rcode", "no_answer")]);
    assert!((2.5..12.0).contains(&gone), "three of 1 s: {gone}");
    assert_eq!(counted(&agent, CLIENT, &[("error_type", "")]), lookups(&[("AAAA", "NOERROR", 4)]));
    assert_eq!(counted(&agent, CLIENT, &[("error_type", "no_answer")]), lookups(&[("A", "no_answer", 3)]));
    // The server's side knows of its answers only.
    await_counted(&agent, SERVER, &[], &lookups(&[("A", "SERVFAIL", 3), ("AAAA", "NOERROR", 4)]));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn repeated_crowded_and_wrong_messages_are_told_apart() {
    let world = World::new();
    let agent = world.agent(&names());
    let _dnsmasq = dnsmasq(&world);
    // A socket that is not connected, to the service and beside it.
    python(
        &world,
        "
import socket, struct, time
def question(id, kind=1, count=1):
    name = b'\\x03www\\x07example\\x04test\\x00'
    return struct.pack('!6H', id, 0x0100, count, 0, 0, 0) + name + struct.pack('!2H', kind, 1)
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    return s
service, silent = ('198.18.0.53', 53), ('127.0.0.99', 53)
s = udp()
for id in range(10):
    s.sendto(question(id), service)
    assert s.recvfrom(4096)[1] == service
# Nobody is there: asked again, then more at once than are remembered. ICMP tells of each, which recv would say.
hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hole.bind(silent)
for n in range(3): s.sendto(question(100, 28), silent)
for id in range(101, 113): s.sendto(question(id, 15), silent)
s.close()
# Two servers asked at once with one number: the first answer is taken, the other question forgotten.
s = udp()
s.sendto(question(7, 16), silent)
s.sendto(question(7, 16), service)
s.recvfrom(4096)
s.close()
# Wrong ones: no header, two questions, no question, a pointer, an answer instead of a question.
s = udp()
pointer = struct.pack('!6H', 1, 0x0100, 1, 0, 0, 0) + b'\\xc0\\x0c\\x00\\x01\\x00\\x01'
for wrong in [b'hello', question(1, count=2), question(1, count=0), pointer]:
    s.sendto(wrong, silent)
s.sendto(b'\\x00\\x01\\x81\\x80' + question(1)[4:], silent)
# An answer to nothing.
hole.sendto(question(9)[:2] + b'\\x81\\x80' + question(9)[4:], s.getsockname())
s.recvfrom(4096)
s.close()
",
    );
    await_counted(
        &agent,
        CLIENT,
        &[("dst_service", "dns")],
        &lookups(&[("A", "NOERROR", 10), ("TXT", "NOERROR", 1)]),
    );
    // Of 13 that nobody answered 8 had a place in the end; what made room was not given up.
    let expected = lookups(&[("AAAA", "no_answer", 2), ("MX", "no_answer", 8)]);
    await_counted(&agent, CLIENT, &[("dst_service", "dns:53")], &expected);
    eventually("the reasons", SOON, || {
        let reasons = agent.unparsed();
        let has = |reason: &str| reasons.get(reason).copied().unwrap_or_default();
        // What is sent wrongly arrives wrongly: five on both sides, of which one looks like an answer. What answers to
        // nothing is nothing that its sender was asked either.
        let expected = has("malformed") == 8 && has("other_protocol") == 2 && has("unasked") == 2;
        if expected && has("crowded") >= 5 { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn connections_are_read_whatever_way_they_are_cut() {
    let world = World::new();
    let agent = world.agent(&names());
    let _dnsmasq = dnsmasq(&world);
    python(
        &world,
        "
import socket, struct, time
def question(id, kind=1):
    name = b'\\x03www\\x07example\\x04test\\x00'
    message = struct.pack('!6H', id, 0x0100, 1, 0, 0, 0) + name + struct.pack('!2H', kind, 1)
    return struct.pack('!H', len(message)) + message
def dial():
    s = socket.create_connection(('198.18.0.53', 53), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
def answers(s, count):
    data = b''
    while count:
        data += s.recv(65536)
        while len(data) > 2 and len(data) >= 2 + struct.unpack('!H', data[:2])[0]:
            data = data[2 + struct.unpack('!H', data[:2])[0]:]
            count -= 1
# In single bytes, twice.
s = dial()
for n in range(2):
    for byte in question(n): s.send(bytes([byte]))
    answers(s, 1)
# Then three in one breath, the last one cut in two.
breath = question(10, 28) + question(11, 16) + question(12, 28)
s.sendall(breath[:-7])
time.sleep(0.05)
s.sendall(breath[-7:])
answers(s, 3)
s.close()
# One that does not wait for its answer.
s = dial()
s.sendall(question(20, 15))
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.close()
# Many in one segment.
s = dial()
s.sendall(b''.join(question(n, 6) for n in range(30, 50)))
time.sleep(0.2)
s.close()
# Another protocol.
s = dial()
s.sendall(b'GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n')
time.sleep(0.1)
s.close()
",
    );
    eventually("the lookups", SOON, || {
        let seen = counted(&agent, CLIENT, &[("dst_service", "dns-tcp")]);
        let has = |kind: &str, status: &str| {
            seen.get(&(kind.to_owned(), status.to_owned())).copied().unwrap_or_default()
        };
        let right = has("A", "NOERROR") == 2
            && has("AAAA", "NOERROR") == 2
            && has("TXT", "NOERROR") == 1
            && has("MX", "NOERROR") + has("MX", "no_answer") == 1;
        let lost = seen.keys().any(|(kind, _)| kind == "SOA");
        if right && !lost { Ok(()) } else { Err(format!("{seen:?} {:?}", agent.unparsed())) }
    });
    eventually("the reasons", SOON, || {
        let reasons = agent.unparsed();
        // Each on both sides.
        if reasons.get("pipelined") == Some(&2) && reasons.get("other_protocol") == Some(&2) {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    });
}
