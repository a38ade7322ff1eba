//! `/metrics` as a whole: the format, the names, the labels. What is counted is the subject of `sock_ops`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::Errno;
use segue_tests::exposition::Exposition;
use segue_tests::kernel::refused_with;
use segue_tests::server::Server;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";

/// An agent that has seen connections, a failure and a refusal.
fn busy_agent(world: &World) -> (Server, Agent<'_>) {
    let server = world.tcp("one", "127.0.0.1:8081");
    let agent = world.agent(&[
        Service::tcp("shop/payment").at(PAYMENT).policy("split: { v1: 100 }").to_with(&server, "version: v1"),
        Service::tcp("shop/dead").at("198.18.0.11:80").to_address("127.0.0.1:9"),
        Service::tcp("shop/empty").at("198.18.0.12:80"),
    ]);
    let mut client = world.client();
    client.greetings(PAYMENT, 5);
    assert_eq!(client.connect_tcp("198.18.0.11:80").err(), Some(Errno(libc::ECONNREFUSED)));
    assert_eq!(client.connect_tcp("198.18.0.12:80").err(), Some(refused_with(libc::EHOSTUNREACH)));
    eventually("the metrics to show five connections", SOON, || {
        match agent.metrics().sum("segue_tcp_connections_closed_total", &[("dst_service", "payment")]) {
            5.0 => Ok(()),
            other => Err(format!("{other} closed")),
        }
    });
    (server, agent)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn promtool_has_nothing_to_say() {
    let world = World::new();
    let (_server, agent) = busy_agent(&world);
    let file = world.directory().join("metrics.txt");
    fs::write(&file, agent.metrics().text).expect("a file for promtool");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("promtool check metrics < {}", file.display()));
    let finished = world.start_outside(command).finish();
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""), "{}", finished.status);
    assert!(finished.status.success());
}

#[test]
#[ignore = "kernel tier: needs promtool; run by cargo xtask test"]
fn the_alerts_fire_when_they_should() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let mut command = Command::new("promtool");
    command.args(["test", "rules", "segue-alerts.test.yaml"]).current_dir(rules);
    let output = command.output().expect("promtool, which cargo xtask setup installs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_metrics_of_an_edge_carry_its_labels_and_no_others() {
    let world = World::new();
    let (_server, agent) = busy_agent(&world);
    let metrics = agent.metrics();
    let edge = [
        ("src_namespace", "host"),
        ("src_workload", "checkout"),
        ("dst_namespace", "shop"),
        ("dst_service", "payment"),
        ("dst_port", "80"),
        ("dst_version", "v1"),
        ("direction", "outbound"),
    ];
    for (name, more) in [
        ("segue_tcp_connections_opened_total", &[][..]),
        ("segue_tcp_connections_closed_total", &["reason"]),
        ("segue_tcp_connections_active", &[]),
        ("segue_tcp_sent_bytes_total", &[]),
        ("segue_tcp_received_bytes_total", &[]),
        ("segue_tcp_retransmits_total", &[]),
        ("segue_tcp_connect_duration_seconds_count", &["outcome"]),
        ("segue_tcp_rtt_seconds_count", &[]),
    ] {
        let sample = metrics.matching(name, &edge).next();
        let sample = sample.unwrap_or_else(|| panic!("no {name} of the edge in:\n{}", metrics.text));
        let expected: BTreeSet<_> = edge.iter().map(|(key, _)| *key).chain(more.iter().copied()).collect();
        let labels: BTreeSet<_> = sample.labels.keys().map(String::as_str).collect();
        assert_eq!(labels, expected, "{name}");
    }
    assert_eq!(
        metrics.sum("segue_tcp_connect_failures_total", &[("dst_service", "dead"), ("reason", "refused")]),
        1.0
    );
    assert_eq!(
        metrics
            .sum("segue_tcp_connect_failures_total", &[("dst_service", "empty"), ("reason", "no_backend")]),
        1.0
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_metrics_of_balancing_and_of_the_agent_itself_are_there() {
    let world = World::new();
    let (_server, agent) = busy_agent(&world);
    let metrics = agent.metrics();
    let payment = [("dst_service", "payment")];
    assert_eq!(metrics.sum("segue_lb_selections_total", &payment), 5.0);
    assert_eq!(metrics.sum("segue_lb_backends", &[("state", "ready")]), 2.0);
    assert!(metrics.sum("segue_config_generation", &[]) >= 1.0);
    assert_eq!(metrics.sum("segue_build_info", &[]), 1.0);
    let attached: Vec<_> = metrics.matching("segue_bpf_program_attached", &[]).collect();
    assert!(attached.len() >= 8 && attached.iter().all(|sample| sample.value == 1.0), "{attached:?}");
    for name in
        ["segue_bpf_map_entries", "segue_bpf_map_max_entries", "segue_kernel_feature", "process_open_fds"]
    {
        assert!(metrics.matching(name, &[]).next().is_some(), "no {name} in:\n{}", metrics.text);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn no_label_names_an_address_or_a_process() {
    let world = World::new();
    let (_server, agent) = busy_agent(&world);
    let Exposition { samples, .. } = agent.metrics();
    for sample in samples {
        for (key, value) in &sample.labels {
            assert!(
                !["pod", "ip", "pid", "client_port", "path", "cgroup"].contains(&key.as_str()),
                "{sample:?}"
            );
            assert!(!value.contains("198.18.") && !value.contains("127.0.0.1:"), "{sample:?}");
        }
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn flows_show_what_the_metrics_count() {
    let world = World::new();
    let (_server, agent) = busy_agent(&world);
    let flows = agent.flows();
    let edge = flows.iter().find(|edge| edge["service"] == "shop/payment");
    let edge = edge.unwrap_or_else(|| panic!("no edge to shop/payment in {flows:#?}"));
    assert_eq!(edge["client"]["name"], "checkout", "{edge:#}");
    assert_eq!((&edge["opened"], &edge["active"]), (&5.into(), &0.into()), "{edge:#}");
    assert_eq!(edge["closed"]["fin"], 5, "{edge:#}");
}
