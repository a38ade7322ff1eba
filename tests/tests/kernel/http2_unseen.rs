//! What of HTTP/2 is not followed, and that it is said; and requests that nobody answers, as the breaker takes them.

use std::collections::BTreeMap;
use std::fs;

use segue_tests::agent::{Agent, SOON};
use segue_tests::service::config;
use segue_tests::wait::eventually;
use segue_tests::world::World;

use crate::http2::{
    AT, CLIENT, NOBODY, PRELUDE, SERVER, SILENT, await_statuses, by_label, counts, nginx, python, shop, web,
    with_grpc,
};

const STATUS: &str = "http_response_status_code";

/// Opens at the third request in a row that waited for a fifth of a second in vain.
const NO_ANSWER: &str = "breaker: { signals: [no_answer], answer_timeout: 200ms, consecutive_failures: 3, failure_ratio: 0%, \
                         open: 5m, open_max: 5m, negative_affinity: 0s }";

/// Waits until this is what was not counted, by reason.
#[track_caller]
fn await_unparsed(agent: &Agent<'_>, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> = counts(expected);
    eventually(&format!("{expected:?} to be told"), SOON, || {
        let seen = agent.unparsed();
        if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

fn opened(agent: &Agent<'_>) -> Option<u64> {
    by_label(agent, "segue_breaker_transitions_total", "to").get("open").copied()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn streams_beyond_those_that_are_followed_are_told_and_those_that_are_followed_counted() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    // 200 files at a time, of which the client's window takes less than one: all are under way, and 128 are followed.
    let script = "
large = b'\\x82\\x86\\x04\\x06/large\\x41\\x01a'
s = dial()
s.sendall(PREFACE + frame(4, 0, 0))
for n in range(200):
    s.sendall(frame(1, 5, 2 * n + 1, large))
r = Reader(s)
answered = 0
while answered < 200:
    head = r.take(9)
    r.take(struct.unpack('>I', b'\\0' + head[:3])[0])
    assert head[3] not in (3, 7), head
    answered += head[3] == 1
# Those end, and make room.
for n in range(200):
    s.sendall(frame(3, 0, 2 * n + 1, struct.pack('>I', 8)))
s.sendall(frame(8, 0, 0, struct.pack('>I', 1 << 30)))
for n in range(200, 210):
    s.sendall(frame(1, 5, 2 * n + 1, b'\\x82\\x86\\x84\\x41\\x01a'))
    r.ended(2 * n + 1)
";
    python(&world, script);
    await_statuses(&agent, &[("200", 138)]);
    // Both sides of the connection tell.
    await_unparsed(&agent, &[("too_many_streams", 144)]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_segment_with_more_frames_than_there_is_time_for_is_a_gap_on_both_sides() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    // The second request lies behind 500 resets of a stream that has ended, all in one segment.
    let script = "
plain = b'\\x82\\x86\\x84\\x41\\x01a'
s = dial()
r = Reader(s)
s.sendall(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, plain))
r.ended(1)
s.sendall(frame(3, 0, 1, struct.pack('>I', 8)) * 500 + frame(1, 5, 3, plain))
r.ended(3)
# The next one is found.
s.sendall(frame(1, 5, 5, b'\\x82\\x86\\x04\\x08/created\\x41\\x01a'))
r.ended(5)
";
    python(&world, script);
    await_statuses(&agent, &[("200", 1), ("201", 1)]);
    await_unparsed(&agent, &[("gap", 2)]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_segment_that_comes_before_its_turn_is_a_gap_on_the_side_it_comes_to() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    // What carries the second request is lost until the third has come; the fourth is asked when all is in order again.
    let script = "
import subprocess
plain = b'\\x82\\x86\\x84\\x41\\x01a'
long = plain + b'\\0\\x01x\\x7f\\xad\\x02' + b'y' * 428
s = dial()
r = Reader(s)
s.sendall(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, plain))
r.ended(1)
rules = 'table ip loss { chain loss { type filter hook input priority 0; tcp dport 8081 meta length > 400 drop; }; }'
subprocess.run(['nft', rules], check=True)
s.sendall(frame(1, 5, 3, long))
s.sendall(frame(1, 5, 5, plain))
time.sleep(0.1)
subprocess.run(['nft', 'delete table ip loss'], check=True)
r.ended(3)
s.sendall(frame(1, 5, 7, b'\\x82\\x86\\x04\\x08/created\\x41\\x01a'))
r.ended(7)
";
    python(&world, script);
    await_unparsed(&agent, &[("gap", 1)]);
    for (metric, expected) in
        [(CLIENT, counts(&[("200", 3), ("201", 1)])), (SERVER, counts(&[("200", 2), ("201", 1)]))]
    {
        eventually(&format!("{metric} to be {expected:?}"), SOON, || {
            let seen = by_label(&agent, metric, STATUS);
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_service_whose_requests_are_off_is_not_read_on_an_open_connection_either() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let (ready, go) = (world.directory().join("ready"), world.directory().join("go"));
    let script = format!(
        "
import os
def ask(stream):
    s.sendall(frame(1, 5, stream, b'\\x82\\x86\\x84\\x41\\x01a'))
    r.ended(stream)
s = dial()
r = Reader(s)
s.sendall(PREFACE + frame(4, 0, 0))
ask(1)
open({ready:?}, 'w').close()
while not os.path.exists({go:?}): time.sleep(0.01)
ask(3)
ask(5)
",
        ready = ready.display().to_string(),
        go = go.display().to_string(),
    );
    let client = world.start("python3", &["-c", &format!("{PRELUDE}{script}")]);
    eventually("the first request to be answered", SOON, || if ready.exists() { Ok(()) } else { Err("") });
    await_statuses(&agent, &[("200", 1)]);
    let generation = || agent.status()["config"]["generation"].as_u64();
    let before = generation();
    agent.replace(&config(&[web().policy("requests: off")]));
    eventually("the edit to be in force", SOON, || if generation() > before { Ok(()) } else { Err("") });
    fs::write(&go, "").expect("a file");
    client.finish().expect_success();
    // The server's side is nobody's service: it is read all the same, and shows when all is counted.
    eventually("the server's side to be counted", SOON, || {
        let seen = by_label(&agent, SERVER, STATUS);
        if seen == counts(&[("200", 3)]) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(by_label(&agent, CLIENT, STATUS), counts(&[("200", 1)]));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_server_that_never_answers_is_taken_out_when_its_clients_hang_up() {
    let world = World::new();
    let service = web().to_address(SILENT).policy(&format!("algorithm: round_robin, {NO_ANSWER}"));
    let agent = world.agent(&[service]);
    let _nginx = nginx(&world);
    // Takes connections and says nothing.
    let listen = format!(
        "import socket, time\ns = socket.create_server(('127.0.0.1', {}))\ntime.sleep(600)",
        NOBODY.rsplit_once(':').expect("a port").1
    );
    let nobody = world.start("python3", &["-c", &listen]);
    world.await_listener(NOBODY, &nobody);
    let mut in_vain = 0;
    for _ in 0..20 {
        let curl = ["--http2-prior-knowledge", "-sS", "--max-time", "2", "http://198.18.0.10/"];
        let output = world.run("curl", &curl);
        // 28: the time is over.
        match output.status.code() {
            Some(0) => assert_eq!(output.expect_success(), "fine\n"),
            Some(28) => in_vain += 1,
            other => panic!("curl ended with {other:?}"),
        }
    }
    assert_eq!(in_vain, 3, "the threshold, and not one more");
    assert_eq!(opened(&agent), Some(1));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn calls_that_are_given_up_after_their_time_open_the_breaker_and_earlier_ones_do_not() {
    let world = World::new();
    let agent = world.agent(&[web().to_address(SILENT).policy(NO_ANSWER)]);
    let (_one, _other) = (shop(&world, AT), shop(&world, SILENT));
    let give_up = |times: u32, after_s: f64| {
        let script = format!(
            "
with grpc.insecure_channel('198.18.0.10:80') as channel:
    grpc.channel_ready_future(channel).result(timeout=20)
    for n in range({times}):
        call = channel.unary_stream('/shop.Shop/hang')(b'', timeout=60)
        assert next(call) == b'here'
        time.sleep({after_s})
        call.cancel()
        time.sleep(0.1)
"
        );
        world.run("python3", &["-c", &with_grpc(&script)]).expect_success();
    };
    give_up(4, 0.0);
    assert_eq!(opened(&agent), None);
    give_up(3, 0.3);
    eventually("one backend to be out", SOON, || {
        let opened = opened(&agent);
        if opened == Some(1) { Ok(()) } else { Err(format!("{opened:?}")) }
    });
}
