//! The whole agent against an API server: it balances what the cluster says, follows it, and goes on without it.

use std::time::Duration;

use segue_tests::agent::{Agent, Cluster, SOON};
use segue_tests::client::{Client, Errno, errors, tally};
use segue_tests::kube_api::KubeApi;
use segue_tests::kube_api::objects::{self, Endpoint, node, policy, service, slice, tcp_route};
use segue_tests::server::Server;
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;
use serde_json::{Value, json};

const API: &str = "127.0.0.1:6443";
const PAYMENT: &str = "198.18.0.10:80";
const PORT: u16 = 8080;

/// Servers that say where they are: the "pods" of the tests.
fn pods(world: &World, numbers: std::ops::RangeInclusive<u8>) -> Vec<Server> {
    numbers.map(|number| world.tcp(&format!("p{number}"), &format!("127.0.1.{number}:{PORT}"))).collect()
}

fn at(number: u8) -> Endpoint {
    Endpoint::at(&format!("127.0.1.{number}"))
}

/// A cluster with the Service `shop/payment` and a slice with these endpoints.
fn api(world: &World, endpoints: &[Endpoint]) -> KubeApi {
    let api = KubeApi::start(world.namespace(), API);
    api.put(&node("node-1", "here", "10.77.0.1"));
    api.put(&service("shop", "payment", "198.18.0.10"));
    api.put(&payment(endpoints));
    api
}

fn payment(endpoints: &[Endpoint]) -> Value {
    slice("shop", "payment", "abcde", PORT, endpoints)
}

fn cluster(world: &World, api: &KubeApi) -> Cluster {
    let kubeconfig = api.kubeconfig(world.directory());
    Cluster { kubeconfig, node: "node-1".to_owned(), has_file: false }
}

/// Waits until new connections go to exactly these servers.
fn served_by(client: &mut Client, names: &[&str]) {
    let expected: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    eventually_equal("the backends that take connections", SOON, &expected, || {
        let answers =
            client.attempts(PAYMENT, 24).into_iter().map(|attempt| attempt.unwrap_or_else(|e| e.to_string()));
        let answers: Vec<String> = answers.collect();
        tally(&answers).into_keys().map(str::to_owned).collect()
    });
}

fn connection(agent: &Agent<'_>) -> String {
    agent.status()["kubernetes"]["connection"].as_str().unwrap_or_default().to_owned()
}

fn await_connection(agent: &Agent<'_>, wanted: &str) {
    eventually_equal("the standing with the API server", SOON, &wanted.to_owned(), || connection(agent));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn connections_to_a_services_address_go_to_its_endpoints_and_follow_them() {
    let world = World::new();
    let _pods = pods(&world, 1..=3);
    let api = api(&world, &[at(1)]);
    let agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    served_by(&mut client, &["p1"]);
    let services = agent.services();
    assert_eq!(services[0]["name"], "shop/payment:http");
    api.put(&payment(&[at(1), at(2)]));
    served_by(&mut client, &["p1", "p2"]);
    api.put(&slice("shop", "payment", "fghij", PORT, &[at(3)]));
    served_by(&mut client, &["p1", "p2", "p3"]);
    api.put(&payment(&[at(1), at(2).terminating()]));
    served_by(&mut client, &["p1", "p3"]);
    api.delete("EndpointSlice", "shop", "payment-abcde");
    served_by(&mut client, &["p3"]);
    // With nobody left who is ready, those that still answer are asked.
    api.put(&slice("shop", "payment", "fghij", PORT, &[at(3).terminating()]));
    served_by(&mut client, &["p3"]);
    api.delete("EndpointSlice", "shop", "payment-fghij");
    eventually_equal("a refusal", SOON, &vec![Errno(libc::EHOSTUNREACH)], || {
        errors(&client.attempts(PAYMENT, 1))
    });
    api.delete("Service", "shop", "payment");
    eventually_equal("the address to be nobody's", SOON, &vec![Errno(libc::ENETUNREACH)], || {
        errors(&client.attempts(PAYMENT, 1))
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn whatever_becomes_of_watches_nothing_is_missed_and_nothing_is_dropped() {
    let world = World::new();
    let _pods = pods(&world, 1..=4);
    let api = api(&world, &[at(1)]);
    for number in 0..40 {
        api.put(&service("many", &format!("s{number:02}"), &format!("198.18.1.{number}")));
    }
    api.behave(|it| it.page = Some(7));
    let agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    served_by(&mut client, &["p1"]);
    assert_eq!(agent.services().len(), 41, "every page was read");

    // The stream breaks in the middle of whatever it says, at any byte.
    for cut in [1, 90, 117, 118, 119, 150, 600, 1_500] {
        api.behave(|it| it.cut_after = Some(cut));
        api.break_connections();
        let endpoints = [at(1), at(if cut % 2 == 0 { 2 } else { 3 })];
        api.put(&payment(&endpoints));
        api.bookmark();
        api.behave(|it| it.cut_after = None);
        api.break_connections();
        served_by(&mut client, &["p1", if cut % 2 == 0 { "p2" } else { "p3" }]);
    }

    // What happened meanwhile is forgotten: it is listed anew, and what is gone is seen to be gone.
    for by_status in [false, true] {
        api.behave(|it| {
            it.gone_by_status = by_status;
            it.refuses = vec![("/api".to_owned(), 500)];
        });
        api.break_connections();
        await_connection(&agent, "interrupted");
        api.put(&payment(&[at(4)]));
        api.delete("Service", "many", if by_status { "s01" } else { "s00" });
        api.compact();
        assert_eq!(agent.services().len(), if by_status { 40 } else { 41 }, "nothing is dropped meanwhile");
        api.behave(|it| it.refuses.clear());
        served_by(&mut client, &["p4"]);
        let left = if by_status { 39 } else { 40 };
        eventually_equal("what is left", SOON, &left, || agent.services().len());
        api.put(&payment(&[at(1)]));
        served_by(&mut client, &["p1"]);
    }
    let lists =
        api.requests().iter().filter(|it| it.contains("/services?") && !it.contains("watch=")).count();
    assert!(lists >= 12, "{lists} pages of Services were asked for");

    // Asked to be asked less, it is.
    api.behave(|it| it.refuses = vec![("/api".to_owned(), 429)]);
    api.break_connections();
    await_connection(&agent, "interrupted");
    api.put(&payment(&[at(2)]));
    api.behave(|it| it.refuses.clear());
    served_by(&mut client, &["p2"]);
    await_connection(&agent, "in_sync");
    let throttled = agent.metrics().sum("segue_kubernetes_errors_total", &[("reason", "throttled")]);
    assert!(throttled >= 1.0, "{throttled} times");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_token_that_is_replaced_in_its_file_is_used_from_then_on() {
    let world = World::new();
    let _pods = pods(&world, 1..=2);
    let api = api(&world, &[at(1)]);
    api.behave(|it| it.token = Some("first".to_owned()));
    let agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    served_by(&mut client, &["p1"]);
    api.behave(|it| it.token = Some("second".to_owned()));
    api.break_connections();
    await_connection(&agent, "interrupted");
    std::fs::write(world.directory().join("token"), "second").expect("a token can be written");
    api.put(&payment(&[at(2)]));
    // A token is read again every minute.
    eventually("the new token to be used", Duration::from_secs(120), || {
        let names = client.attempts(PAYMENT, 4);
        if names.iter().all(|it| it.as_deref() == Ok("p2")) { Ok(()) } else { Err(format!("{names:?}")) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_that_starts_while_no_api_server_answers_serves_what_was_known() {
    let world = World::new();
    let _pods = pods(&world, 1..=2);
    let mut api = api(&world, &[at(1), at(2)]);
    let mut agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    served_by(&mut client, &["p1", "p2"]);
    api.die();
    await_connection(&agent, "interrupted");
    assert_eq!(agent.readyz().0, 200, "readiness does not hang on the API server");
    // The maps are there: nothing changes for anybody, and the agent knows names again.
    agent.restart();
    served_by(&mut client, &["p1", "p2"]);
    assert_eq!(connection(&agent), "remembered");
    assert_eq!(agent.services()[0]["name"], "shop/payment:http");
    // The maps are gone, as after a reboot: the snapshot is all there is.
    agent.terminate();
    agent.unload().expect_success();
    agent.restart();
    served_by(&mut client, &["p1", "p2"]);
    // And the cluster is followed again once it answers.
    let api = self::api(&world, &[at(2)]);
    served_by(&mut client, &["p2"]);
    await_connection(&agent, "in_sync");
    drop(api);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_list_that_is_not_whole_takes_nothing_away() {
    let world = World::new();
    let _pods = pods(&world, 1..=2);
    let api = api(&world, &[at(1), at(2)]);
    let mut agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    served_by(&mut client, &["p1", "p2"]);
    // Services can be listed, their endpoints cannot: with neither a snapshot nor a list there is nothing to serve by, and
    // the maps stay.
    agent.terminate();
    std::fs::remove_dir_all(world.directory().join("state")).expect("the snapshot is there");
    api.behave(|it| it.refuses = vec![("endpointslices".to_owned(), 503)]);
    agent.restart_waiting("privileges given up");
    eventually("services to be listed", SOON, || {
        let asked = api.requests().iter().rev().take(12).filter(|it| it.contains("endpointslices")).count();
        if asked >= 3 { Ok(()) } else { Err(format!("{asked} requests")) }
    });
    served_by(&mut client, &["p1", "p2"]);
    assert_eq!(agent.readyz().0, 503);
    api.behave(|it| it.refuses.clear());
    eventually_equal("readiness", SOON, &200, || agent.readyz().0);
    served_by(&mut client, &["p1", "p2"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_cluster_that_suddenly_deletes_its_services_keeps_most_until_somebody_accepts() {
    const COUNT: usize = 40;
    let world = World::new();
    let _pods = pods(&world, 1..=1);
    let api = api(&world, &[at(1)]);
    let name = |number: usize| format!("s{number:02}");
    for number in 1..=COUNT {
        let mut service = service("shop", &name(number), &format!("198.18.3.{number}"));
        service["spec"]["ports"] = json!([{ "port": 80 }]);
        let mut its = slice("shop", &name(number), "abcde", PORT, &[at(1)]);
        its["ports"] = json!([{ "port": PORT }]);
        api.put(&service);
        api.put(&its);
    }
    let agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    let mut reachable = || {
        let numbers = (1..=COUNT).map(|number| format!("198.18.3.{number}:80"));
        numbers.filter(|at| client.attempts(at, 1).iter().all(Result::is_ok)).count()
    };
    eventually_equal("the cluster's services", SOON, &COUNT, &mut reachable);
    for number in 1..=COUNT {
        api.delete("Service", "shop", &name(number));
    }
    let held = || agent.status()["held"].as_array().map_or(0, Vec::len);
    // Told one by one, those before it is a mass go: with the other service of this cluster, half of them.
    eventually("what is held and what went to be all", SOON, || {
        let (held, reachable) = (held(), reachable());
        if held == reachable && held < COUNT {
            Ok(())
        } else {
            Err(format!("{held} held, {reachable} reachable"))
        }
    });
    assert!(held() >= COUNT / 2 - 1, "{} of {COUNT} are held", held());
    assert!(agent.log().contains("mass deletion held back"), "{}", agent.log());
    assert_eq!(agent.readyz().0, 200);
    agent.accept(&[]).expect_success();
    eventually_equal("the services that go", SOON, &0, &mut reachable);
    served_by(&mut client, &["p1"]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_file_and_a_cluster_are_served_side_by_side_and_neither_takes_the_others_away() {
    let world = World::new();
    let pods = pods(&world, 1..=2);
    let api = api(&world, &[at(1)]);
    let of_file = segue_tests::service::Service::tcp("shop/local").at("198.18.0.20:80").to(&pods[1]);
    let file = world.directory().join("segue.yaml");
    std::fs::write(&file, segue_tests::service::config(std::slice::from_ref(&of_file))).expect("written");
    let agent = world.agent_of_cluster(Cluster { has_file: true, ..cluster(&world, &api) });
    let mut client = world.client();
    served_by(&mut client, &["p1"]);
    assert_eq!(client.greetings("198.18.0.20:80", 2), ["p2", "p2"]);
    agent.edit("services: []\n");
    eventually_equal("the file's service to go", SOON, &1, || agent.services().len());
    served_by(&mut client, &["p1"]);
    // The file's service of the same name is in force, until the file lets go of it.
    let mut same = service("shop", "same", "198.18.0.30");
    same["spec"]["ports"] = json!([{ "port": 80 }]);
    let mut its = slice("shop", "same", "abcde", PORT, &[at(1)]);
    its["ports"] = json!([{ "port": PORT }]);
    api.put(&same);
    api.put(&its);
    let mut greeted = |name: &str| {
        eventually_equal("who answers", SOON, &vec![Ok(name.to_owned())], || {
            client.attempts("198.18.0.30:80", 1)
        });
    };
    greeted("p1");
    let of_file = segue_tests::service::Service::tcp("shop/same").at("198.18.0.30:80").to(&pods[1]);
    agent.edit(&segue_tests::service::config(&[of_file]));
    greeted("p2");
    agent.edit("services: []\n");
    greeted("p1");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_policy_is_in_force_and_its_author_is_told() {
    let world = World::new();
    let _pods = pods(&world, 1..=2);
    let api = api(&world, &[at(1), at(2)]);
    api.define(objects::POLICIES, "TrafficPolicy");
    api.put(&policy("shop", "payment", "payment", &json!({ "refuse_with": "ECONNREFUSED", "breaker": {} })));
    let agent = world.agent_of_cluster(cluster(&world, &api));
    let accepted = |name: &str| {
        let object = api.get("TrafficPolicy", "shop", name).expect("there");
        let condition = object["status"]["conditions"][0].clone();
        (condition["status"].as_str().map(str::to_owned), condition["reason"].as_str().map(str::to_owned))
    };
    let told = |name: &str, status: &str, reason: &str| {
        let wanted = (Some(status.to_owned()), Some(reason.to_owned()));
        eventually_equal("the status", SOON, &wanted, || accepted(name));
    };
    told("payment", "True", "Accepted");
    assert_eq!(agent.services()[0]["breaker_mode"], "enforce");
    let mut client = world.client();
    api.put(&payment(&[]));
    eventually_equal("the policy's errno", SOON, &vec![Errno(libc::ECONNREFUSED)], || {
        errors(&client.attempts(PAYMENT, 1))
    });
    api.put(&payment(&[at(1)]));
    // Wrong, too late, for nobody, and another namespace's: each is told, and none changes anything.
    api.put(&policy("shop", "wrong", "payment", &json!({ "breaker": { "open": "never" } })));
    told("wrong", "False", "Invalid");
    api.put(&policy("shop", "zz-late", "payment", &json!({})));
    told("zz-late", "False", "Conflicted");
    api.put(&policy("shop", "nobody", "nobodys", &json!({})));
    told("nobody", "False", "TargetNotFound");
    api.put(&policy("else", "theirs", "payment", &json!({ "breaker": { "mode": "forced_open" } })));
    served_by(&mut client, &["p1"]);
    api.delete("TrafficPolicy", "shop", "payment");
    told("zz-late", "True", "Accepted");
    eventually_equal("no breaker", SOON, &"off".to_owned(), || {
        agent.services()[0]["breaker_mode"].as_str().unwrap_or_default().to_owned()
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_route_attached_to_a_service_shares_its_connections_out_by_weight() {
    let world = World::new();
    let _pods = pods(&world, 1..=3);
    let api = api(&world, &[at(1)]);
    api.define(objects::TCP_ROUTES, "TCPRoute");
    for (name, number) in [("payment-v1", 2), ("payment-v2", 3)] {
        api.put(&service("shop", name, &format!("198.18.0.1{number}")));
        api.put(&slice("shop", name, "abcde", PORT, &[at(number)]));
    }
    let _agent = world.agent_of_cluster(cluster(&world, &api));
    let mut client = world.client();
    served_by(&mut client, &["p1"]);
    api.put(&tcp_route("shop", "payment", "payment", &[("payment-v1", 1), ("payment-v2", 1)]));
    served_by(&mut client, &["p2", "p3"]);
    api.put(&tcp_route("shop", "payment", "payment", &[("payment-v1", 0), ("payment-v2", 1)]));
    served_by(&mut client, &["p3"]);
    api.delete("TCPRoute", "shop", "payment");
    served_by(&mut client, &["p1"]);
}
