//! Pods as clients: each is called by what owns it, in every layout of cgroups, however short it lives; some are left
//! alone. Their connections cross network namespaces.

use std::collections::BTreeSet;

use segue_tests::agent::{Agent, Cluster, SOON};
use segue_tests::client::protocol::{Family, Kind};
use segue_tests::client::{Client, Errno, errors, tally};
use segue_tests::kube_api::KubeApi;
use segue_tests::kube_api::objects::{Endpoint, job, left_alone, namespace, node, pod, service, slice};
use segue_tests::pods::{Layout, Sandbox};
use segue_tests::server::Server;
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;
use serde_json::json;

const API: &str = "127.0.0.1:6443";
const NODE: &str = "node-1";
const PAYMENT: &str = "198.18.0.10:80";
const PORT: u16 = 8080;
/// The pod that serves.
const SERVER: u8 = 10;

/// The UID of a pod. Agents of tests that run side by side see one another's cgroups, so each test has its own.
fn uid(world: &World, number: u8) -> String {
    let test = world.number();
    format!("0a1b2c3d-1111-2222-{:04x}-{test:08}{number:04}", std::process::id() & 0xffff)
}

/// A node with a bridge and one pod on it that serves `shop/payment`.
fn cluster(world: &World) -> (KubeApi, Sandbox<'_>, Server) {
    world.bridge();
    let server = world.sandbox(&uid(world, SERVER), Layout::Systemd, SERVER);
    let listener = server.tcp("p1", PORT);
    let api = KubeApi::start(world.namespace(), API);
    api.put(&node(NODE, "here", "10.77.0.1"));
    api.put(&namespace("shop"));
    api.put(&service("shop", "payment", "198.18.0.10"));
    api.put(&slice("shop", "payment", "abcde", PORT, &[Endpoint::at(server.address())]));
    (api, server, listener)
}

fn start<'w>(world: &'w World, api: &KubeApi) -> Agent<'w> {
    let kubeconfig = api.kubeconfig(world.directory());
    world.agent_of_cluster(Cluster { kubeconfig, node: NODE.to_owned(), has_file: false })
}

/// The clients of edges with what they opened, as `namespace/name kind opened`.
fn clients(agent: &Agent<'_>) -> BTreeSet<String> {
    let flows = agent.flows().into_iter();
    let its = flows.filter(|edge| edge["service"].as_str().is_some_and(|name| name.starts_with("shop/")));
    its.map(|edge| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let client = &edge["client"];
        let (namespace, name) = (text(&client["namespace"]), text(&client["name"]));
        format!("{namespace}/{name} {} {}", text(&client["kind"]), edge["opened"])
    })
    .collect()
}

fn await_clients(agent: &Agent<'_>, expected: &[&str]) {
    let expected = expected.iter().map(|&client| client.to_owned()).collect();
    eventually_equal("the clients of shop/payment", SOON, &expected, || clients(agent));
}

fn await_left_alone(agent: &Agent<'_>, count: u64) {
    eventually_equal("pods left alone", SOON, &count, || {
        agent.status()["clients"]["left_alone"].as_u64().unwrap_or(u64::MAX)
    });
}

/// In a pod's network, an address of a service that nobody translates leads nowhere.
fn assert_untouched(client: &mut Client) {
    assert_eq!(errors(&client.attempts(PAYMENT, 3)), vec![Errno(libc::ENETUNREACH); 3]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_client_is_called_by_what_owns_its_pod_in_every_layout() {
    let world = World::new();
    let (api, _server, _listener) = cluster(&world);
    api.put(&job("shop", "report-by-hand", "report"));
    let owners = [
        ("web-5d9c7b6f4-x2x1z", Some(("ReplicaSet", "web-5d9c7b6f4")), Layout::Systemd),
        ("web-5d9c7b6f4-abcde", Some(("ReplicaSet", "web-5d9c7b6f4")), Layout::Crio),
        ("db-0", Some(("StatefulSet", "db")), Layout::Cgroupfs),
        ("report-by-hand-q8w7e", Some(("Job", "report-by-hand")), Layout::Cgroupfs),
        ("backup-29384710-q8w7e", Some(("Job", "backup-29384710")), Layout::Systemd),
        ("debug", None, Layout::Crio),
    ];
    let mut sandboxes = Vec::new();
    for (number, (name, owner, layout)) in (20..).zip(owners) {
        api.put(&pod("shop", name, &uid(&world, number), NODE, owner));
        sandboxes.push(world.sandbox(&uid(&world, number), layout, number));
    }
    // A static pod is known by the hash of its manifest, which is in its annotations; another node's pod is not this node's.
    let hash = "30b1f8b1c2d3e4f5a6b7c8d9e0f10203";
    let mut proxy = pod("kube-system", "proxy-node-1", &uid(&world, 40), NODE, Some(("Node", NODE)));
    proxy["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!(hash);
    api.put(&proxy);
    sandboxes.push(world.sandbox(hash, Layout::Systemd, 40));
    api.put(&pod("shop", "elsewhere", &uid(&world, 41), "node-2", None));
    let agent = start(&world, &api);
    for sandbox in &sandboxes {
        let mut client = sandbox.client();
        assert_eq!(tally(&client.greetings(PAYMENT, 5)), [("p1", 5)].into());
    }
    let named = [
        "shop/web deployment 10",
        "shop/db stateful_set 5",
        "shop/report cron_job 5",
        "shop/backup cron_job 5",
        "shop/debug pod 5",
        "kube-system/proxy pod 5",
    ];
    await_clients(&agent, &named);
    let opened = |workload| {
        let labels = [("src_namespace", "shop"), ("src_workload", workload)];
        agent.metrics().sum("segue_tcp_connections_opened_total", &labels)
    };
    assert!((opened("web") - 10.0).abs() < 0.1);
    let status = agent.status();
    assert_eq!((&status["clients"]["pods"], &status["kubernetes"]["pods"]), (&json!(7), &json!(7)));
    // The one that serves is in no list of the API server's.
    assert!(status["clients"]["pods_unnamed"].as_u64() >= Some(1), "{}", status["clients"]);
    let requests = api.requests();
    let of_pods: Vec<_> = requests.iter().filter(|it| it.contains("/pods?")).collect();
    assert!(
        of_pods.iter().all(|it| it.contains("spec.nodeName=node-1") && it.ends_with("(metadata)")),
        "{of_pods:?}"
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_pod_that_is_told_later_is_renamed_with_all_that_was_counted() {
    let world = World::new();
    let (api, _server, _listener) = cluster(&world);
    let agent = start(&world, &api);
    let sandbox = world.sandbox(&uid(&world, 20), Layout::Systemd, 20);
    let mut client = sandbox.client();
    client.greetings(PAYMENT, 5);
    await_clients(&agent, &[&format!("unknown/pod-{} pod 5", uid(&world, 20))]);
    let web =
        pod("shop", "web-5d9c7b6f4-x2x1z", &uid(&world, 20), NODE, Some(("ReplicaSet", "web-5d9c7b6f4")));
    api.put(&web);
    await_clients(&agent, &["shop/web deployment 5"]);
    client.greetings(PAYMENT, 2);
    await_clients(&agent, &["shop/web deployment 7"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn pods_that_live_for_a_moment_are_counted_for_their_cron_job() {
    let world = World::new();
    let (api, _server, _listener) = cluster(&world);
    // Both layouts are there, as on a node, before there are pods.
    let _first = world.sandbox(&uid(&world, 11), Layout::Cgroupfs, 11);
    let agent = start(&world, &api);
    // On a machine that is busy enough, one may be gone before the agent had its turn: then the next wave tells.
    let (mut counted, waves) = (0, 5);
    for wave in 0..waves {
        for number in 20 + WAVE * wave..20 + WAVE * (wave + 1) {
            let name = format!("backup-293847{number}");
            api.put(&pod("shop", &format!("{name}-abcde"), &uid(&world, number), NODE, Some(("Job", &name))));
            let layout = if number % 2 == 0 { Layout::Cgroupfs } else { Layout::Crio };
            let sandbox = world.sandbox(&uid(&world, number), layout, number);
            sandbox.client().greetings(PAYMENT, 1);
            sandbox.remove();
            api.delete("Pod", "shop", &format!("{name}-abcde"));
        }
        let all = u64::from(WAVE * (wave + 1));
        eventually_equal("all connections to be counted", SOON, &all, || opened(&agent, None));
        let before = std::mem::replace(&mut counted, opened(&agent, Some("backup")));
        if counted - before == u64::from(WAVE) {
            return;
        }
    }
    panic!("of {waves} waves of {WAVE} pods, {counted} pods had a name: {:?}", clients(&agent));
}

/// Pods that come and go one after the other.
const WAVE: u8 = 12;

/// Connections that were opened, by everybody or by one workload.
fn opened(agent: &Agent<'_>, workload: Option<&str>) -> u64 {
    let is_its = |edge: &serde_json::Value| workload.is_none_or(|name| edge["client"]["name"] == name);
    let flows = agent.flows().into_iter().filter(|edge| edge["service"] == "shop/payment:http");
    flows.filter(is_its).filter_map(|edge| edge["opened"].as_u64()).sum()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_pod_that_is_left_alone_goes_straight_on_until_it_says_otherwise() {
    let world = World::new();
    let (mut api, server, _listener) = cluster(&world);
    let mut of_dns = service("shop", "dns", "198.18.0.53");
    of_dns["spec"]["ports"] = json!([{ "name": "dns", "protocol": "UDP", "port": 53 }]);
    let mut its = slice("shop", "dns", "abcde", 5353, &[Endpoint::at(server.address())]);
    its["ports"] = json!([{ "name": "dns", "protocol": "UDP", "port": 5353 }]);
    api.put(&of_dns);
    api.put(&its);
    let _dns = server.udp("d1", 5353);
    let pods = [20, 21].map(|number| pod("shop", &format!("p{number}"), &uid(&world, number), NODE, None));
    pods.iter().for_each(|pod| api.put(pod));
    let mut agent = start(&world, &api);
    let sandboxes = [(20, Layout::Systemd), (21, Layout::Crio)]
        .map(|(number, layout)| world.sandbox(&uid(&world, number), layout, number));
    let [mut alone, mut other] = [&sandboxes[0], &sandboxes[1]].map(Sandbox::client);
    for client in [&mut alone, &mut other] {
        assert_eq!(tally(&client.greetings(PAYMENT, 2)), [("p1", 2)].into());
        assert_eq!(client.questions("198.18.0.53:53", 1).len(), 1);
    }
    api.put(&left_alone(pods[0].clone()));
    await_left_alone(&agent, 1);
    assert_untouched(&mut alone);
    let udp = alone.open(Family::V4, Kind::Datagram);
    assert_eq!(alone.send_to(&udp, "?", "198.18.0.53:53").err(), Some(Errno(libc::ENETUNREACH)));
    assert_eq!(alone.connect_udp("198.18.0.53:53").err(), Some(Errno(libc::ENETUNREACH)));
    // What it knows itself it reaches, and nobody else is touched.
    let backend = format!("{}:{PORT}", server.address());
    assert_eq!(tally(&alone.greetings(&backend, 2)), [("p1", 2)].into());
    assert_eq!(tally(&other.greetings(PAYMENT, 2)), [("p1", 2)].into());
    let outcomes = |program| {
        let labels = [("program", program), ("outcome", "opted_out")];
        agent.metrics().sum("segue_outcomes_total", &labels)
    };
    assert!((outcomes("connect4") - 4.0).abs() < 0.1, "{}", outcomes("connect4"));
    assert!((outcomes("sendmsg4") - 1.0).abs() < 0.1, "{}", outcomes("sendmsg4"));

    // It holds without an agent, and with one that nobody tells anything.
    agent.kill();
    assert_untouched(&mut alone);
    api.die();
    agent.restart();
    assert_untouched(&mut alone);
    await_left_alone(&agent, 1);
    assert_untouched(&mut alone);
    agent.terminate();
    std::fs::remove_dir_all(world.directory().join("state")).expect("a snapshot is there");
    let api = restarted(&world, &server, &pods);
    api.behave(|it| it.refuses = vec![("/pods".to_owned(), 503)]);
    agent.restart();
    eventually_equal("Services to be there", SOON, &true, || !agent.services().is_empty());
    assert_untouched(&mut alone);
    // Now the API server says that it is a pod as all others.
    api.behave(|it| it.refuses.clear());
    await_left_alone(&agent, 0);
    assert_eq!(tally(&alone.greetings(PAYMENT, 2)), [("p1", 2)].into());

    // The whole namespace says so, and a pod that is made then goes straight on from its first connection.
    api.put(&left_alone(namespace("shop")));
    await_left_alone(&agent, 2);
    assert_untouched(&mut other);
    api.put(&pod("shop", "p22", &uid(&world, 22), NODE, None));
    eventually_equal("the pod to be known", SOON, &json!(3), || agent.status()["clients"]["pods"].clone());
    let new = world.sandbox(&uid(&world, 22), Layout::Cgroupfs, 22);
    await_left_alone(&agent, 3);
    assert_untouched(&mut new.client());
    api.put(&namespace("shop"));
    await_left_alone(&agent, 0);
    for client in [&mut alone, &mut other] {
        assert_eq!(tally(&client.greetings(PAYMENT, 2)), [("p1", 2)].into());
    }
}

/// The API server again, after it died, with what it had.
fn restarted(world: &World, server: &Sandbox<'_>, pods: &[serde_json::Value]) -> KubeApi {
    let api = KubeApi::start(world.namespace(), API);
    api.put(&node(NODE, "here", "10.77.0.1"));
    api.put(&namespace("shop"));
    api.put(&service("shop", "payment", "198.18.0.10"));
    api.put(&slice("shop", "payment", "abcde", PORT, &[Endpoint::at(server.address())]));
    pods.iter().for_each(|pod| api.put(pod));
    api
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_that_may_not_see_pods_serves_and_says_what_is_missing() {
    let world = World::new();
    let (api, _server, _listener) = cluster(&world);
    api.put(&pod("shop", "web", &uid(&world, 20), NODE, None));
    let hidden = ["/pods", "/namespaces"].map(|path| (path.to_owned(), 403));
    api.behave(|it| it.refuses = hidden.to_vec());
    let agent = start(&world, &api);
    let sandbox = world.sandbox(&uid(&world, 20), Layout::Systemd, 20);
    assert_eq!(tally(&sandbox.client().greetings(PAYMENT, 2)), [("p1", 2)].into());
    await_clients(&agent, &[&format!("unknown/pod-{} pod 2", uid(&world, 20))]);
    eventually("both to be said", SOON, || {
        let kinds = agent.status()["kubernetes"]["kinds"].as_array().cloned().unwrap_or_default();
        let absent = kinds.iter().filter(|kind| kind["absent"] == true).map(|kind| kind["name"].to_string());
        let absent: BTreeSet<String> = absent.collect();
        let both = ["\"namespaces\"", "\"pods\""].iter().all(|name| absent.contains(*name));
        if both { Ok(()) } else { Err(format!("{absent:?}")) }
    });
    assert_eq!(agent.readyz().0, 200);
}
