//! What a process in the managed cgroup can do to others, who trust the same data plane. The rows of docs/security.md that
//! are about workloads.

use std::fs;
use std::net::TcpListener;

use segue_tests::agent::SOON;
use segue_tests::client::protocol::{Family, Kind};
use segue_tests::client::{Errno, tally};
use segue_tests::counters::service_state;
use segue_tests::service::Service;
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";
const N2: &str = "127.0.0.1:8082";
const ATTACKER: &str = "system.slice/attacker.service";

/// Opens at the first failure, for longer than a test runs.
const EAGER: &str = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 5m, open_max: 5m }";

fn payment(breaker: &str) -> Service {
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    service.policy(breaker).to_address(N1).to_address(N2)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_flood_of_connects_costs_no_other_workload_a_connection() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    let dead = Service::tcp("shop/dead").at("198.18.0.11:80").to_address("127.0.0.1:9");
    let agent = world.agent(&[payment(EAGER), dead]);
    let mut attackers = [world.client_in(ATTACKER), world.client_in(ATTACKER)];
    attackers[0].start_load("198.18.0.11:80", 100_000, std::time::Duration::ZERO);
    attackers[1].start_load(PAYMENT, 100_000, std::time::Duration::ZERO);
    attackers[0].await_load(500);
    attackers[1].await_load(100);
    let greetings = world.client().greetings(PAYMENT, 200);
    assert_eq!(tally(&greetings).values().sum::<u32>(), 200);
    for attacker in &mut attackers {
        attacker.stop_load();
    }
    assert_eq!(service_state(&world, PAYMENT).opened, 0);
    // The one edge to each service is all it can leave behind.
    eventually("the edges of the attacker", SOON, || {
        let flows = agent.flows();
        match flows.iter().filter(|edge| edge["client"]["name"] == "attacker").count() {
            2 => Ok(()),
            count => Err(format!("{count} of {flows:#?}")),
        }
    });
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_a_client_does_to_its_own_connections_is_not_held_against_the_backend() {
    let world = World::new();
    let _n1 = world.tcp("n1", N1);
    // Shakes hands and never says a word.
    let _n2 = world.namespace().run(|| TcpListener::bind(N2)).expect("a free port");
    let agent = world.agent(&[payment(EAGER)]);
    let mut client = world.client_in(ATTACKER);
    for round in 0..8 {
        // Leaves at once, while the handshake may still be going on.
        let socket = client.open(Family::V4, Kind::Stream);
        let _begun = client.connect_nonblocking(&socket, PAYMENT);
        client.close(socket);
        // Resets before an answer, or with the answer unread.
        let socket = client.connect_tcp(PAYMENT).expect("both shake hands");
        client.reset_on_close(&socket);
        client.close(socket);
        // Dissolves the connection, or one that is not open yet.
        let socket = client.connect_tcp(PAYMENT).expect("both shake hands");
        client.disconnect(&socket).expect("a connected socket");
        client.close(socket);
        let socket = client.open(Family::V4, Kind::Stream);
        let _begun = client.connect_nonblocking(&socket, PAYMENT);
        client.disconnect(&socket).expect("a socket that connects");
        client.close(socket);
        // Asks, and does not wait for the answer.
        let socket = client.connect_tcp(PAYMENT).expect("both shake hands");
        client.send(&socket, "question").expect("room in the send buffer");
        if round % 2 == 0 {
            client.reset_on_close(&socket);
        }
        client.close(socket);
    }
    // Is killed with connections open.
    let _held = [client.connect_tcp(PAYMENT), client.connect_tcp(PAYMENT)];
    client.kill();
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.opened, state.selected), (0, 42), "{state:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_network_namespace_without_a_way_out_is_not_held_against_the_backend() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    let _agent = world.agent(&[payment(EAGER)]);
    // Nothing is up in a new namespace, not even lo.
    let script = "for i in 1 2 3 4; do curl -sS --noproxy '*' --max-time 5 http://198.18.0.10/; done; true";
    let finished = world.run("unshare", &["--user", "--map-root-user", "--net", "sh", "-c", script]);
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(finished.stderr.matches("curl: (7)").count(), 4, "{finished:?}");
    let state = service_state(&world, PAYMENT);
    assert_eq!((state.selected, state.opened), (4, 0), "{state:?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn refusals_faked_in_a_network_namespace_never_take_the_last_backend_from_others() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    let agent = world.agent(&[payment(EAGER)]);
    // Here lo is up and nothing listens on it: a refusal that no backend sent.
    let script = "ip link set lo up;
                  for i in 1 2 3 4 5 6 7 8; do curl -sS --noproxy '*' --max-time 5 http://198.18.0.10/; done; true";
    let finished = world.run("unshare", &["--user", "--map-root-user", "--net", "sh", "-c", script]);
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(service_state(&world, PAYMENT).opened, 1);
    assert_eq!(tally(&world.client().greetings(PAYMENT, 40)).values().sum::<u32>(), 40);
    // And whose doing it was is on record.
    eventually("the attacker's failures", SOON, || {
        let labels = [("src_workload", "checkout"), ("reason", "refused")];
        match agent.metrics().sum("segue_tcp_connect_failures_total", &labels) {
            8.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_that_moves_between_cgroups_is_released_once_and_counted_where_it_connected() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    let agent = world.agent(&[payment(EAGER)]);
    let mut client = world.client();
    // Makes the cgroup that the client moves to.
    drop(world.client_in(ATTACKER));
    let move_to = |client: &segue_tests::client::Client, cgroup: std::path::PathBuf| {
        fs::write(cgroup.join("cgroup.procs"), client.pid().to_string()).expect("a cgroup of ours");
    };
    let first = client.connect_tcp(PAYMENT).expect("the service has backends");
    move_to(&client, world.managed_cgroup().join(ATTACKER));
    let second = client.connect_tcp(PAYMENT).expect("the service has backends");
    assert_eq!(agent.active("shop/payment"), 2);
    client.close(first);
    client.close(second);
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    for workload in ["checkout", "attacker"] {
        eventually_equal(workload, SOON, &1.0, || {
            agent.metrics().sum("segue_tcp_connections_opened_total", &[("src_workload", workload)])
        });
    }
    // A socket belongs to the cgroup it was made in, so one that is open is let go in order outside, too.
    let third = client.connect_tcp(PAYMENT).expect("the service has backends");
    let outside = world.managed_cgroup().with_file_name("outside");
    move_to(&client, outside);
    client.close(third);
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
    assert_eq!(client.connect_tcp(PAYMENT).err(), Some(Errno(libc::ENETUNREACH)));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_cgroup_namespace_changes_neither_service_nor_name() {
    let world = World::new();
    let _servers = [world.http("n1", N1), world.http("n2", N2)];
    let agent = world.agent(&[payment(EAGER)]);
    let curl =
        ["--cgroup", "--mount", "curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://198.18.0.10/"];
    let answer = world.run("unshare", &curl).expect_success();
    assert!(answer.starts_with('n'), "{answer}");
    eventually_equal("connections of checkout", SOON, &1.0, || {
        agent.metrics().sum("segue_tcp_connections_opened_total", &[("src_workload", "checkout")])
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_cgroup_name_breaks_out_of_no_label_table_or_log() {
    let world = World::new();
    let _servers = [world.tcp("n1", N1), world.tcp("n2", N2)];
    let agent = world.agent(&[payment(EAGER)]);
    let hostile = "ev\"il\\,x={}#\u{1b}[31m\u{7f}.service";
    let long = format!("{}.service", "l".repeat(240));
    world.client_in(&format!("system.slice/{hostile}")).greetings(PAYMENT, 1);
    world.client_in(&format!("system.slice/{long}")).greetings(PAYMENT, 1);
    let metrics = eventually("both edges", SOON, || {
        let metrics = agent.metrics();
        match metrics.matching("segue_tcp_connections_opened_total", &[("dst_service", "payment")]).count() {
            2 => Ok(metrics),
            count => Err(format!("{count} edges")),
        }
    });
    let shown = [("src_workload", "ev\"il\\,x={}#_[31m_")];
    assert_eq!(metrics.sum("segue_tcp_connections_opened_total", &shown), 1.0, "{}", metrics.text);
    let longest =
        metrics.samples.iter().filter_map(|sample| sample.labels.get("src_workload")).map(String::len).max();
    assert!(longest.is_some_and(|longest| longest <= 128), "{longest:?}");
    let file = world.directory().join("metrics.txt");
    fs::write(&file, &metrics.text).expect("a file for promtool");
    let judge = format!("promtool check metrics < {}", file.display());
    assert_eq!(world.run_outside("sh", &["-c", &judge]), "");
    let socket = agent.socket().to_string_lossy().into_owned();
    let binary = segue_tests::world::beside_test("segue").to_string_lossy().into_owned();
    let table = world.run_outside(&binary, &["flows", "--socket", &socket]);
    assert!(table.contains("ev\"il") && !table.contains("\u{1b}[31m"), "{table}");
    assert!(!agent.log().contains("\u{1b}[31m"));
}
