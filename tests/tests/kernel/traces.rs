//! Spans of requests between programs nobody here wrote, as a receiver gets them.

use std::collections::BTreeMap;

use segue_tests::agent::{Agent, SOON};
use segue_tests::otlp::{Answer, Receiver, Span};
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::{NEIGHBOUR, World};
use serde_json::Value;

use crate::http2;
use crate::requests::nginx_in;

const WEB: &str = "198.18.0.10:80";
const SENDING: [&str; 5] = ["--otlp", "http://127.0.0.1:4318", "--otlp-interval", "60s", "--otlp-traces"];
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn receiver(world: &World) -> Receiver {
    Receiver::start(world.namespace(), "127.0.0.1:4318")
}

fn agent<'w>(world: &'w World, more: &[&str]) -> Agent<'w> {
    let service = Service::tcp("shop/web").at(WEB).at("[fd00:5e::10]:80");
    let mut agent = world.agent(&[service.to_address("127.0.0.1:8081").to_address("[::1]:8081")]);
    agent.restart_with(&[&SENDING, more].concat());
    agent
}

/// Has curl ask for a path, with headers.
fn ask(world: &World, path: &str, headers: &[&str]) {
    let url = format!("http://{WEB}{path}");
    let headers = headers.iter().flat_map(|header| ["-H", header]);
    let words: Vec<&str> = ["-s", "-o", "/dev/null"].into_iter().chain(headers).chain([&url[..]]).collect();
    world.run("curl", &words).expect_success();
}

fn standing(agent: &Agent<'_>) -> Value {
    agent.status()["traces"].clone()
}

/// Waits for so many spans, and gives those of clients and those of servers.
fn await_spans(agent: &Agent<'_>, receiver: &Receiver, count: usize) -> (Vec<Span>, Vec<Span>) {
    let spans = eventually(&format!("{count} spans"), SOON, || {
        let spans = receiver.spans();
        if spans.len() >= count { Ok(spans) } else { Err(format!("{spans:?}\n{}", standing(agent))) }
    });
    assert_eq!(spans.len(), count, "{spans:?}");
    spans.into_iter().partition(|span| span.is_client)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn both_sides_of_a_request_are_one_trace_under_the_names_of_their_workloads() {
    let world = World::new();
    let receiver = receiver(&world);
    let _nginx = nginx_in(&world, "web.service");
    let agent = agent(&world, &["100%"]);
    ask(&world, "/broken?token=secret", &["authorization: Bearer secret"]);
    let (clients, servers) = await_spans(&agent, &receiver, 2);
    let (client, server) = (&clients[0], &servers[0]);
    assert_eq!((&client.service[..], &server.service[..]), ("checkout", "web"));
    let [trace, span, parent] = &client.ids;
    assert_eq!((trace.len(), span.len(), &parent[..]), (32, 16, ""));
    assert_eq!(
        (&server.ids[0], &server.ids[2]),
        (trace, span),
        "the server's span is a child of the client's"
    );
    assert_ne!(&server.ids[1], span);
    for (span, address, port) in [(client, "198.18.0.10", "80"), (server, "127.0.0.1", "8081")] {
        let attribute = |name: &str| span.attributes.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(span.name, "GET");
        assert_eq!(attribute("http.request.method"), "GET");
        assert_eq!(attribute("http.response.status_code"), "503");
        assert_eq!(attribute("error.type"), "503");
        assert_eq!(attribute("network.protocol.version"), "1.1");
        assert_eq!((attribute("server.address"), attribute("server.port")), (address, port));
        assert!(span.times_ns[0] < span.times_ns[1], "{span:?}");
    }
    // The request arrives after it was sent, and its answer is there after that was sent, by one clock.
    assert!(client.times_ns[0] <= server.times_ns[0] && server.times_ns[1] <= client.times_ns[1]);
    assert_eq!(client.attributes["peer.service"], "shop/web");
    let all = format!("{clients:?}{servers:?}{}", agent.log());
    assert!(!all.contains("secret") && !all.contains("/broken"), "{all}");
}

/// Each client's span with that of its server: one of each for each trace.
fn joined<'s>(clients: &'s [Span], servers: &'s [Span]) -> Vec<(&'s Span, &'s Span)> {
    let by_trace = |spans: &'s [Span]| -> BTreeMap<&'s str, &'s Span> {
        spans.iter().map(|span| (&span.ids[0][..], span)).collect()
    };
    let (clients_by, servers_by) = (by_trace(clients), by_trace(servers));
    assert_eq!((clients_by.len(), servers_by.len()), (clients.len(), servers.len()), "a trace each");
    assert!(clients_by.keys().eq(servers_by.keys()), "{clients:?}\n{servers:?}");
    clients_by.values().zip(servers_by.values()).map(|(client, server)| (*client, *server)).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn streams_of_one_connection_are_a_trace_each_with_both_sides() {
    let world = World::new();
    let receiver = receiver(&world);
    let _nginx = http2::nginx(&world);
    let agent = agent(&world, &["100%"]);
    // Many at once, whose segments hold many frames, and answers in another order than requests.
    http2::h2load(&world, &["-n", "60", "-c", "3", "-m", "20", &format!("http://{WEB}/")]);
    let broken = format!("http://{WEB}/broken");
    world.run("curl", &["--http2-prior-knowledge", "-sS", &broken]).expect_success();
    let (clients, servers) = await_spans(&agent, &receiver, 122);
    for (client, server) in joined(&clients, &servers) {
        assert_eq!(server.ids[2], client.ids[1], "the server's span is a child of the client's");
        assert_eq!((&client.service[..], &server.service[..]), ("checkout", "web"));
        for span in [client, server] {
            assert_eq!((&span.name[..], &span.attributes["network.protocol.version"][..]), ("GET", "2"));
            assert!(span.times_ns[0] < span.times_ns[1], "{span:?}");
        }
        assert!(client.times_ns[0] <= server.times_ns[0] && server.times_ns[1] <= client.times_ns[1]);
    }
    let errors = |spans: &[Span]| {
        spans
            .iter()
            .filter(|span| span.attributes.get("error.type").is_some_and(|kind| kind == "503"))
            .count()
    };
    assert_eq!((errors(&clients), errors(&servers)), (1, 1));
    assert_eq!(standing(&agent)["headless"], 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn one_stream_in_so_many_is_the_same_one_on_both_sides() {
    let world = World::new();
    let receiver = receiver(&world);
    let _nginx = http2::nginx(&world);
    let agent = agent(&world, &["25%"]);
    http2::h2load(&world, &["-n", "400", "-c", "4", "-m", "8", &format!("http://{WEB}/")]);
    // What comes later is sent later: when this one is there, all others are.
    let url = format!("http://{WEB}/missing");
    let is_last = |span: &&Span| span.attributes["http.response.status_code"] == "404";
    let spans = eventually("the last request to be sampled", SOON, || {
        world.run("curl", &["--http2-prior-knowledge", "-sS", &url]).expect_success();
        let spans = receiver.spans();
        if spans.iter().filter(is_last).count() >= 2 { Ok(spans) } else { Err(standing(&agent).to_string()) }
    });
    let (clients, servers): (Vec<_>, Vec<_>) =
        spans.into_iter().filter(|span| !is_last(&span)).partition(|span| span.is_client);
    let sampled = joined(&clients, &servers).len();
    // Five standard deviations of 400 draws at a quarter are 43.
    assert!((57..=143).contains(&sampled), "{sampled} of 400");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_call_is_a_span_from_its_beginning_to_its_status() {
    let world = World::new();
    let receiver = receiver(&world);
    let _shop = http2::shop(&world, "127.0.0.1:8081");
    let agent = agent(&world, &["100%"]);
    let script = format!(
        "
with grpc.insecure_channel({WEB:?}) as channel:
    for what in ['slow', '14', '5']:
        call = channel.unary_unary('/shop.Shop/' + what).future(b'', timeout=20)
        print(call.code().name)
    stream = channel.unary_stream('/shop.Shop/hang')(b'', timeout=60)
    next(stream)
    stream.cancel()
    time.sleep(0.2)
"
    );
    world.run("python3", &["-c", &http2::with_grpc(&script)]).expect_success();
    let (clients, servers) = await_spans(&agent, &receiver, 8);
    let mut seen = BTreeMap::new();
    for (client, server) in joined(&clients, &servers) {
        assert_eq!(server.ids[2], client.ids[1]);
        for span in [client, server] {
            assert_eq!(span.attributes["rpc.system"], "grpc", "{span:?}");
        }
        let status = |span: &Span| span.attributes["rpc.grpc.status_code"].clone();
        assert_eq!(status(client), status(server));
        let took_ns = client.times_ns[1] - client.times_ns[0];
        assert!(took_ns >= 40_000_000 || status(client) != "0", "{client:?}");
        seen.insert(status(client), client.attributes.get("error.type").cloned());
    }
    let errors: Vec<_> = seen.iter().map(|(status, error)| (&status[..], error.as_deref())).collect();
    assert_eq!(errors, [("0", None), ("1", None), ("14", Some("UNAVAILABLE")), ("5", None)]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn agents_of_two_nodes_tell_of_a_request_between_them_as_one_trace() {
    let (near, far) = (World::new(), World::new());
    near.wire_to(&far);
    let at = format!("{NEIGHBOUR}:8081");
    let web = far.start_in("web.service", "python3", &["-m", "http.server", "--bind", NEIGHBOUR, "8081"]);
    far.await_listener(&at, &web);
    let nodes = [&near, &far].map(|node| {
        let mut agent = node.agent(&[Service::tcp("shop/web").at(WEB).to_address(&at)]);
        agent.restart_with(&[&SENDING[..], &["100%"]].concat());
        (receiver(node), agent)
    });
    for turn in 1..=3 {
        ask(&near, "/", &[]);
        let [told_by_client, told_by_server] =
            [0, 1].map(|node| await_spans(&nodes[node].1, &nodes[node].0, turn));
        let (client, server) = (&told_by_client.0[turn - 1], &told_by_server.1[turn - 1]);
        assert_eq!((&client.service[..], &server.service[..]), ("checkout", "web"));
        assert_eq!(
            (&server.ids[0], &server.ids[2]),
            (&client.ids[0], &client.ids[1]),
            "{client:?} {server:?}"
        );
        assert_eq!(client.attributes["peer.service"], "shop/web");
        assert_eq!(server.attributes["server.address"], NEIGHBOUR);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_the_application_says_of_its_trace_is_honoured() {
    let world = World::new();
    let receiver = receiver(&world);
    let _nginx = nginx_in(&world, "web.service");
    let agent = agent(&world, &["100%", "--otlp-trace-paths"]);
    ask(&world, "/missing?q=1", &[&format!("traceparent: 00-{TRACE}-{PARENT}-01")]);
    let (clients, servers) = await_spans(&agent, &receiver, 2);
    let (client, server) = (&clients[0], &servers[0]);
    assert_eq!((&client.ids[0][..], &client.ids[2][..]), (TRACE, PARENT));
    assert_eq!((&server.ids[0][..], &server.ids[2]), (TRACE, &client.ids[1]));
    assert_eq!(
        (&client.attributes["url.path"][..], &server.attributes["url.path"][..]),
        ("/missing", "/missing")
    );
    assert!(client.attributes.contains_key("error.type") && !server.attributes.contains_key("error.type"));
    // Behind a kilobyte of other headers, and on a connection that is kept.
    let filler = format!("x-filler: {}", "x".repeat(1_200));
    ask(&world, "/", &[&filler, &format!("TraceParent: 00-{TRACE}-{PARENT}-01")]);
    let (clients, _) = await_spans(&agent, &receiver, 4);
    assert_eq!((&clients[1].ids[0][..], &clients[1].ids[2][..]), (TRACE, PARENT));
    // One that is not recorded is not told about, by either side.
    ask(&world, "/", &[&format!("traceparent: 00-{TRACE}-{PARENT}-00")]);
    eventually("both sides to decline", SOON, || {
        let standing = standing(&agent);
        if standing["declined"] == 2 { Ok(()) } else { Err(standing.to_string()) }
    });
    assert_eq!(receiver.spans().len(), 4);
    assert_eq!(standing(&agent)["headless"], 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn one_in_so_many_is_the_same_one_on_both_sides() {
    let world = World::new();
    let receiver = receiver(&world);
    let _nginx = nginx_in(&world, "web.service");
    let agent = agent(&world, &["25%"]);
    // Kept-alive connections over both versions of IP, requests of different lengths.
    let script = "
import http.client
for host in ['198.18.0.10', 'fd00:5e::10']:
    for turn in range(4):
        connection = http.client.HTTPConnection(host, 80, timeout=20)
        for n in range(50):
            connection.request('POST' if n % 3 else 'GET', '/', body=b'x' * (n * 37) if n % 3 else None)
            connection.getresponse().read()
";
    world.run("python3", &["-c", script]).expect_success();
    // What comes later is sent later: when a request of this trace is there, all others are.
    eventually("the last request to be sampled", SOON, || {
        ask(&world, "/", &[&format!("traceparent: 00-{TRACE}-{PARENT}-01")]);
        let last = receiver.spans().iter().filter(|span| span.ids[0] == TRACE).count();
        if last >= 2 { Ok(()) } else { Err(standing(&agent).to_string()) }
    });
    let mut sides = BTreeMap::from([(true, Vec::new()), (false, Vec::new())]);
    for span in receiver.spans().into_iter().filter(|span| span.ids[0] != TRACE) {
        sides.entry(span.is_client).or_default().push(span.ids[0].clone());
    }
    sides.values_mut().for_each(|traces| traces.sort_unstable());
    let (clients, servers) = (&sides[&true], &sides[&false]);
    assert_eq!(clients, servers);
    // Five standard deviations of 400 draws at a quarter are 43.
    assert!((57..=143).contains(&clients.len()), "{} of 400", clients.len());
    assert!(clients.windows(2).all(|two| two[0] != two[1]), "a trace each");
    assert_eq!(standing(&agent)["headless"], 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_receiver_that_is_busy_gets_the_spans_later() {
    let world = World::new();
    let receiver = receiver(&world);
    receiver.answer(Answer::Busy(1));
    let _nginx = nginx_in(&world, "web.service");
    let agent = agent(&world, &["100%"]);
    ask(&world, "/", &[]);
    eventually("the receiver to be too busy", SOON, || {
        let standing = standing(&agent);
        match standing["sending"]["failed"].as_u64() {
            Some(1..) => Ok(()),
            _ => Err(standing.to_string()),
        }
    });
    assert!(receiver.spans().is_empty());
    receiver.answer(Answer::Ok);
    let (clients, servers) = await_spans(&agent, &receiver, 2);
    assert_eq!(clients[0].ids[0], servers[0].ids[0]);
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("segue_otlp_spans_total", &[("outcome", "sent")]), 2.0);
    assert_eq!(metrics.sum("segue_otlp_spans_total", &[("outcome", "queue_full")]), 0.0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_that_pauses_loses_spans_and_says_so_and_no_count() {
    let world = World::new();
    let receiver = receiver(&world);
    let _nginx = nginx_in(&world, "web.service");
    let agent = agent(&world, &["100%"]);
    ask(&world, "/", &[]);
    await_spans(&agent, &receiver, 2);
    // Both sides of 250 requests with their beginnings fill the ring. The agent's wish to be told ends five seconds after it
    // stopped, however many are left.
    let script = "
import http.client
connection = http.client.HTTPConnection('198.18.0.10', 80, timeout=20)
for n in range(1000):
    connection.request('GET', '/')
    connection.getresponse().read()
";
    agent.process().signal(libc::SIGSTOP);
    world.run("python3", &["-c", script]).expect_success();
    agent.process().signal(libc::SIGCONT);
    let count = |metric: &str, labels: &[(&str, &str)]| agent.metrics().sum(metric, labels);
    eventually("every request to be counted on both sides", SOON, || {
        let sides = ["client", "server"]
            .map(|side| count(&format!("http_{side}_request_duration_seconds_count"), &[]));
        if sides == [1_001.0, 1_001.0] { Ok(()) } else { Err(format!("{sides:?}")) }
    });
    let lost = count("segue_events_lost_total", &[("source", "request_ring")]);
    assert!(lost > 0.0, "the ring has no room for all of them");
    // What came through is sent, and each span by a name of its own.
    ask(&world, "/created", &[]);
    let last = |span: &Span| span.attributes["http.response.status_code"] == "201";
    let spans = eventually("the last to be sent", SOON, || {
        let spans = receiver.spans();
        if spans.iter().filter(|span| last(span)).count() == 2 {
            Ok(spans)
        } else {
            Err(standing(&agent).to_string())
        }
    });
    let ids: BTreeMap<_, _> = spans.iter().map(|span| (span.ids[1].clone(), span)).collect();
    assert_eq!(ids.len(), spans.len(), "none twice");
    assert!((4..2_004).contains(&spans.len()), "{}", spans.len());
}
