//! One test for each thing a cluster can say, as objects in and services out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;
use crate::desired::Change;
use crate::discovery::kubernetes::decode;

const NODE: &str = "node-1";

/// A cluster that a test speaks for, and what came of it.
struct World {
    state: State,
    services: BTreeMap<ServiceName, Arc<ServiceSpec>>,
    /// How many changes were said since the last look.
    said: usize,
}

fn object(json: &Value) -> Object {
    let kind = match json["kind"].as_str().expect("a kind") {
        "Node" => Kind::Node,
        "Service" => Kind::Service,
        "EndpointSlice" => Kind::EndpointSlice,
        "TrafficPolicy" => Kind::TrafficPolicy,
        "HTTPRoute" => Kind::HttpRoute,
        "TCPRoute" => Kind::TcpRoute,
        other => panic!("no kind {other}"),
    };
    decode(kind, json.to_string().as_bytes(), NODE).expect("JSON").expect("of use")
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace.into(), name: name.into() }
}

impl World {
    /// A cluster of which everything was listed: this node and these objects.
    fn with(objects: &[Value]) -> Self {
        let mut world = Self { state: State::new(None, None), services: BTreeMap::new(), said: 0 };
        let mut all = vec![node("a")];
        all.extend_from_slice(objects);
        world.list(&all);
        world
    }

    /// Lists every kind, all of which together is this.
    fn list(&mut self, objects: &[Value]) {
        for &kind in Kind::ALL {
            self.state.apply(Event::Begin(kind));
            let of_kind = objects.iter().map(object).filter(|object| object.kind() == kind);
            of_kind.for_each(|object| self.state.apply(Event::Listed(object)));
            self.state.apply(Event::End(kind));
        }
        self.take();
    }

    fn put(&mut self, json: &Value) -> &mut Self {
        self.state.apply(Event::Put(object(json)));
        self.take();
        self
    }

    fn gone(&mut self, kind: Kind, namespace: &str, name: &str) -> &mut Self {
        self.state.apply(Event::Gone(kind, key(namespace, name)));
        self.take();
        self
    }

    fn take(&mut self) {
        self.said = 0;
        for change in self.state.take_changes() {
            self.said += 1;
            match change {
                Change::Reset(specs) => {
                    self.services = specs.into_iter().map(|spec| (Arc::clone(&spec.name), spec)).collect();
                }
                Change::Upsert(spec) => drop(self.services.insert(Arc::clone(&spec.name), spec)),
                Change::Remove(name) => {
                    self.services.remove(&name).expect("only what is there is removed");
                }
            }
        }
    }

    fn service(&self, name: &str) -> &ServiceSpec {
        self.services.get(name).unwrap_or_else(|| panic!("no {name}:\n{}", self.told()))
    }

    /// Services, one a line, and notes.
    fn told(&self) -> String {
        let mut text = String::new();
        for spec in self.services.values() {
            let _ = write!(text, "{} {}", spec.name, spec.protocol.name());
            for frontend in &spec.frontends {
                let _ = write!(text, " {frontend}");
            }
            text.push_str(" ->");
            for backend in &spec.backends {
                let _ = write!(text, " {}", backend.address);
                if let Some(version) = &backend.version {
                    let _ = write!(text, "/{version}");
                }
                if backend.draining {
                    text.push_str("(draining)");
                }
            }
            if spec.policy.prefers_zone {
                let near = spec.backends.iter().map(|it| it.zone.as_deref().unwrap_or("-"));
                let _ = write!(text, " zones {}", near.collect::<Vec<_>>().join(","));
            }
            text.push('\n');
        }
        for (service, note) in self.state.notes() {
            let _ = writeln!(text, "{service}: {note}");
        }
        text
    }

    #[track_caller]
    fn tells(&self, expected: &[&str]) {
        let told = self.told();
        assert_eq!(told.lines().collect::<Vec<_>>(), expected, "\n{told}");
    }

    fn verdict(&self, name: &str) -> String {
        let verdict = self.state.verdicts().find(|(key, _)| *key.name == *name);
        verdict.map_or("none".to_owned(), |(_, it)| format!("{}: {}", it.reason.name(), it.message))
    }
}

fn node(zone: &str) -> Value {
    json!({
        "kind": "Node", "metadata": { "name": NODE, "labels": { "topology.kubernetes.io/zone": zone } },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.1.4" }] },
    })
}

/// The Service `shop/NAME` with these fields beside one port `http`.
fn service(name: &str, ip: &str, more: &Value) -> Value {
    let mut spec = json!({
        "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
        "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": "web" }],
    });
    merge(&mut spec, more);
    json!({ "kind": "Service", "metadata": { "name": name, "namespace": "shop" }, "spec": spec })
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}

fn slice(service: &str, suffix: &str, endpoints: &[Value]) -> Value {
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{suffix}"), "namespace": "shop",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
    })
}

fn ready(address: &str) -> Value {
    json!({ "addresses": [address], "conditions": { "ready": true } })
}

fn with(address: &str, more: &Value) -> Value {
    let mut endpoint = ready(address);
    merge(&mut endpoint, more);
    endpoint
}

fn payment(endpoints: &[Value]) -> World {
    World::with(&[service("payment", "10.96.0.10", &json!({})), slice("payment", "a", endpoints)])
}

fn policy(name: &str, service: &str, policy: &Value) -> Value {
    json!({
        "kind": "TrafficPolicy",
        "metadata": { "name": name, "namespace": "shop", "generation": 3, "creationTimestamp": format!("2026-{name}") },
        "spec": { "targetRef": { "name": service }, "policy": policy },
    })
}

fn route(name: &str, backends: &Value, more: &Value) -> Value {
    let mut rule = json!({ "backendRefs": backends });
    merge(&mut rule, more);
    json!({
        "kind": "HTTPRoute", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "payment" }], "rules": [rule] },
    })
}

#[test]
fn nothing_is_said_before_every_kind_was_listed_and_then_everything_at_once() {
    let mut state = State::new(None, None);
    state.apply(Event::Put(object(&service("payment", "10.96.0.10", &json!({})))));
    for &kind in &Kind::ALL[..5] {
        state.apply(Event::Begin(kind));
        state.apply(Event::End(kind));
        assert!(state.take_changes().is_empty(), "{}", kind.name());
    }
    state.apply(Event::Unknown(Kind::TcpRoute));
    assert!(matches!(&state.take_changes()[..], [Change::Reset(_)]));
    assert!(state.take_changes().is_empty());
}

#[test]
fn each_port_is_a_service_and_endpoints_are_where_slices_say() {
    let ports = json!({ "ports": [
        { "name": "http", "port": 80, "targetPort": "web" }, { "name": "dns", "port": 53, "protocol": "UDP" },
        { "name": "dns-tcp", "port": 53, "protocol": "TCP" }, { "name": "old", "port": 9, "protocol": "SCTP" },
    ] });
    let mut slice = slice("payment", "a", &[ready("10.1.0.2"), ready("10.1.0.1")]);
    slice["ports"] = json!([
        { "name": "http", "port": 8080 }, { "name": "dns", "protocol": "UDP", "port": 5353 },
        { "name": "dns-tcp", "protocol": "TCP", "port": 5354 },
    ]);
    World::with(&[service("payment", "10.96.0.10", &ports), slice]).tells(&[
        "shop/payment:dns udp 10.96.0.10:53 -> 10.1.0.1:5353 10.1.0.2:5353",
        "shop/payment:dns-tcp tcp 10.96.0.10:53 -> 10.1.0.1:5354 10.1.0.2:5354",
        "shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080 10.1.0.2:8080",
        "shop/payment: port 9 is neither TCP nor UDP",
    ]);
}

#[test]
fn a_named_target_port_may_be_another_one_in_another_slice() {
    let mut world = payment(&[ready("10.1.0.1")]);
    let mut other = slice("payment", "b", &[ready("10.1.0.2")]);
    other["ports"][0]["port"] = json!(9090);
    world.put(&other).tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080 10.1.0.2:9090"]);
}

#[test]
fn a_port_without_a_name_gives_the_service_its_plain_name() {
    let mut slice = slice("payment", "a", &[ready("10.1.0.1")]);
    slice["ports"] = json!([{ "port": 8080 }]);
    let service = service("payment", "10.96.0.10", &json!({ "ports": [{ "port": 80 }] }));
    World::with(&[service, slice]).tells(&["shop/payment tcp 10.96.0.10:80 -> 10.1.0.1:8080"]);
}

#[test]
fn both_families_are_served_by_their_own_endpoints() {
    let ips = json!({ "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"] });
    let slices = [slice("payment", "a", &[ready("10.1.0.1")]), slice("payment", "b", &[ready("fd00:1::1")])];
    World::with(&[service("payment", "10.96.0.10", &ips), slices[0].clone(), slices[1].clone()])
        .tells(&["shop/payment:http tcp 10.96.0.10:80 [fd00::10]:80 -> 10.1.0.1:8080 [fd00:1::1]:8080"]);
}

#[test]
fn what_has_no_address_is_left_out_with_a_reason() {
    let odd = |name: &str, more: &Value| service(name, "10.96.0.10", more);
    let mut annotated = odd("d", &json!({}));
    annotated["metadata"]["annotations"] = json!({ "segue.dev/manage": "false" });
    let mut other = odd("e", &json!({}));
    other["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "mesh" });
    World::with(&[
        odd("a", &json!({ "clusterIP": "None", "clusterIPs": ["None"] })),
        odd("b", &json!({ "type": "ExternalName", "externalName": "example.org", "clusterIP": "", "clusterIPs": [] })),
        odd("c", &json!({ "clusterIP": "", "clusterIPs": [] })),
        annotated,
        other,
    ])
    .tells(&[
        "shop/a: is headless: clients get the addresses of its pods from DNS",
        "shop/b: is of type ExternalName: a name for DNS, without an address",
        "shop/c: is headless: clients get the addresses of its pods from DNS",
        "shop/d: has segue.dev/manage: \"false\"",
        "shop/e: is looked after by the proxy mesh",
    ]);
}

#[test]
fn endpoints_that_terminate_take_no_new_connections_unless_nobody_else_is_there() {
    let terminating = json!({ "conditions": { "ready": false, "serving": true, "terminating": true } });
    let failing = json!({ "conditions": { "ready": false, "serving": false, "terminating": false } });
    let dying = json!({ "conditions": { "ready": false, "serving": false, "terminating": true } });
    let unsaid = json!({ "conditions": {} });
    let mut world = payment(&[
        with("10.1.0.1", &unsaid),
        with("10.1.0.2", &terminating),
        with("10.1.0.3", &failing),
        with("10.1.0.4", &dying),
    ]);
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080 10.1.0.2:8080(draining)"]);
    world.put(&slice("payment", "a", &[with("10.1.0.2", &terminating), with("10.1.0.3", &failing)]));
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.2:8080"]);
    world.put(&slice("payment", "a", &[with("10.1.0.3", &failing)]));
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 ->"]);
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_the_better_one_counts() {
    let not_ready = json!({ "conditions": { "ready": false, "serving": true, "terminating": true } });
    let mut world = payment(&[with("10.1.0.1", &not_ready), ready("10.1.0.2")]);
    world.put(&slice("payment", "b", &[ready("10.1.0.1"), ready("10.1.0.2")]));
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080 10.1.0.2:8080"]);
    world.gone(Kind::EndpointSlice, "shop", "payment-b");
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080(draining) 10.1.0.2:8080"]);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut world = payment(&[ready("10.1.0.1")]);
    world.put(&service("cart", "10.96.0.11", &json!({})));
    let mut moved = slice("cart", "x", &[ready("10.1.0.1")]);
    moved["metadata"]["name"] = json!("payment-a");
    world.put(&moved).tells(&[
        "shop/cart:http tcp 10.96.0.11:80 -> 10.1.0.1:8080",
        "shop/payment:http tcp 10.96.0.10:80 ->",
    ]);
}

#[test]
fn the_affinity_of_a_service_is_kept_and_that_of_a_policy_comes_first() {
    let more = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
    });
    let mut world = World::with(&[service("payment", "10.96.0.10", &more)]);
    let timeout =
        |world: &World| world.service("shop/payment:http").policy.affinity_timeout.map(|it| it.as_secs());
    assert_eq!(timeout(&world), Some(60));
    world.put(&service("payment", "10.96.0.10", &json!({ "sessionAffinity": "ClientIP" })));
    assert_eq!(timeout(&world), Some(10_800));
    world.put(&policy("1", "payment", &json!({ "affinity": { "timeout": "5s" } })));
    assert_eq!(timeout(&world), Some(5));
    world.put(&service("payment", "10.96.0.10", &json!({ "sessionAffinity": "None" })));
    world.gone(Kind::TrafficPolicy, "shop", "1");
    assert_eq!(timeout(&world), None);
}

#[test]
fn internal_traffic_that_is_local_goes_to_this_node_only() {
    let here = json!({ "nodeName": NODE });
    let there = json!({ "nodeName": "node-2" });
    let local = service("payment", "10.96.0.10", &json!({ "internalTrafficPolicy": "Local" }));
    let mut world = World::with(&[
        local,
        slice("payment", "a", &[with("10.1.0.1", &here), with("10.1.0.2", &there), ready("10.1.0.3")]),
    ]);
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080"]);
    world.put(&slice("payment", "a", &[with("10.1.0.2", &there)]));
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 ->"]);
}

#[test]
fn hints_count_only_where_every_endpoint_has_one_and_some_are_for_this_zone() {
    let hint = |zone: &str, of: &str| json!({ "zone": of, "hints": { "forZones": [{ "name": zone }] } });
    let mut world = payment(&[
        with("10.1.0.1", &hint("a", "a")),
        with("10.1.0.2", &hint("a", "b")),
        with("10.1.0.3", &hint("b", "a")),
        with("10.1.0.4", &hint("b", "b")),
    ]);
    let backends = "10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080 10.1.0.4:8080";
    world.tells(&[&format!("shop/payment:http tcp 10.96.0.10:80 -> {backends} zones a,a,elsewhere,b")]);
    world.put(&slice("payment", "b", &[with("10.1.0.5", &json!({ "zone": "a" }))]));
    world.tells(&[&format!("shop/payment:http tcp 10.96.0.10:80 -> {backends} 10.1.0.5:8080")]);
    world.gone(Kind::EndpointSlice, "shop", "payment-b");
    world.put(&node("c"));
    world.tells(&[&format!("shop/payment:http tcp 10.96.0.10:80 -> {backends}")]);
}

#[test]
fn traffic_distribution_prefers_the_zone_or_the_node() {
    let of = |zone: &str, node: &str| json!({ "zone": zone, "nodeName": node });
    let mut world = payment(&[
        with("10.1.0.1", &of("a", NODE)),
        with("10.1.0.2", &of("a", "n2")),
        with("10.1.0.3", &of("b", "n3")),
    ]);
    let line = "shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080";
    for (distribution, zones) in [
        ("PreferClose", " zones a,a,b"),
        ("PreferSameZone", " zones a,a,b"),
        ("PreferSameNode", " zones a,elsewhere,b"),
    ] {
        world.put(&service("payment", "10.96.0.10", &json!({ "trafficDistribution": distribution })));
        world.tells(&[&format!("{line}{zones}")]);
    }
    world.put(&service("payment", "10.96.0.10", &json!({ "trafficDistribution": "Unknown" })));
    world.tells(&[line]);
}

#[test]
fn node_ports_and_external_addresses_are_served_where_they_are_this_nodes() {
    let more = json!({
        "type": "NodePort", "externalIPs": ["192.168.1.4", "203.0.113.7", "::1"],
        "ports": [{ "name": "http", "port": 80, "nodePort": 30_080 }],
    });
    let mut world =
        World::with(&[service("payment", "10.96.0.10", &more), slice("payment", "a", &[ready("10.1.0.1")])]);
    world.tells(&["shop/payment:http tcp 10.96.0.10:80 192.168.1.4:80 192.168.1.4:30080 -> 10.1.0.1:8080"]);
    let mut moved = node("a");
    moved["status"]["addresses"] = json!([{ "type": "Hostname", "address": "node-1" }]);
    world.put(&moved).tells(&["shop/payment:http tcp 10.96.0.10:80 -> 10.1.0.1:8080"]);
}

#[test]
fn the_way_to_the_api_server_itself_is_left_alone() {
    let mut world = World {
        state: State::new(None, Some("10.96.0.1:443".parse().expect("an address"))),
        services: BTreeMap::new(),
        said: 0,
    };
    let ports = json!({ "ports": [{ "name": "https", "port": 443 }] });
    world.list(&[service("kubernetes", "10.96.0.1", &ports)]);
    world.tells(&[
        "shop/kubernetes: port 443 is how the agent itself reaches the API server, which must work also where the agent's view is old",
    ]);
}

#[test]
fn a_list_read_again_takes_away_what_is_not_in_it_and_only_at_its_end() {
    let all = [
        service("payment", "10.96.0.10", &json!({})),
        service("cart", "10.96.0.11", &json!({})),
        slice("payment", "a", &[ready("10.1.0.1")]),
    ];
    let mut world = World::with(&all);
    world.state.apply(Event::Begin(Kind::Service));
    world.state.apply(Event::Listed(object(&all[0])));
    world.take();
    assert_eq!((world.said, world.services.len()), (0, 2), "nothing goes before the list has ended");
    // It breaks, and begins anew.
    world.state.apply(Event::Begin(Kind::Service));
    world.state.apply(Event::Listed(object(&all[1])));
    world.state.apply(Event::End(Kind::Service));
    world.take();
    assert_eq!(world.services.keys().map(|it| &**it).collect::<Vec<_>>(), ["shop/cart:http"]);
}

#[test]
fn what_does_not_change_is_not_said() {
    let mut world = payment(&[ready("10.1.0.1")]);
    let again = slice("payment", "a", &[ready("10.1.0.1")]);
    assert_eq!(world.put(&again).said, 0);
    let other = slice("payment", "a", &[ready("10.1.0.2")]);
    assert_eq!(world.put(&other).said, 1);
}

#[test]
fn what_was_known_before_counts_until_the_list_says_otherwise() {
    let before = [service("payment", "10.96.0.10", &json!({})), service("cart", "10.96.0.11", &json!({}))];
    let mut world = World { state: State::new(None, None), services: BTreeMap::new(), said: 0 };
    world.state.remember(before.iter().map(object));
    assert_eq!(world.state.all().len(), 2);
    assert!(world.state.take_changes().is_empty(), "and is no list");
    world.list(&before[..1]);
    assert_eq!(world.services.keys().map(|it| &**it).collect::<Vec<_>>(), ["shop/payment:http"]);
}

#[test]
fn a_policy_is_in_force_for_its_service_or_one_port_of_it() {
    let ports = json!({ "ports": [{ "name": "http", "port": 80 }, { "name": "admin", "port": 81 }] });
    let mut world = World::with(&[
        service("payment", "10.96.0.10", &ports),
        policy("1", "payment", &json!({ "algorithm": "round_robin", "breaker": { "open": "2s" } })),
    ]);
    let mut one = policy("2", "payment", &json!({ "algorithm": "maglev" }));
    one["spec"]["targetRef"]["sectionName"] = json!("admin");
    world.put(&one);
    let algorithm = |name: &str| world.service(name).policy.algorithm.name();
    assert_eq!((algorithm("shop/payment:http"), algorithm("shop/payment:admin")), ("round_robin", "maglev"));
    assert_eq!(
        (world.verdict("1"), world.verdict("2")),
        ("Accepted: in force".into(), "Accepted: in force".into())
    );
    world.gone(Kind::TrafficPolicy, "shop", "2");
    assert_eq!(world.service("shop/payment:admin").policy.algorithm.name(), "round_robin");
}

#[test]
fn a_policy_that_cannot_be_in_force_is_told_why() {
    let mut world = payment(&[ready("10.1.0.1")]);
    let mut theirs = policy("0", "payment", &json!({ "algorithm": "maglev" }));
    theirs["metadata"]["namespace"] = json!("else");
    world.put(&policy("1", "payment", &json!({}))).put(&policy("2", "payment", &json!({}))).put(&theirs);
    world.put(&policy("3", "nobody", &json!({})));
    world.put(&policy("4", "payment", &json!({ "breaker": { "open": "10s", "open_max": "5s" } })));
    let mut no_port = policy("5", "payment", &json!({}));
    no_port["spec"]["targetRef"]["sectionName"] = json!("metrics");
    let mut no_service = policy("6", "payment", &json!({}));
    no_service["spec"]["targetRef"]["kind"] = json!("Gateway");
    world.put(&no_port).put(&no_service);
    assert_eq!(world.verdict("1"), "Accepted: in force");
    assert_eq!(world.verdict("2"), "Conflicted: 1 is older and for the same; remove one of the two");
    assert_eq!(world.verdict("0"), "TargetNotFound: there is no Service payment");
    assert_eq!(world.service("shop/payment:http").policy.algorithm.name(), "random");
    assert_eq!(world.verdict("3"), "TargetNotFound: there is no Service nobody");
    assert!(
        world.verdict("4").starts_with("Invalid: breaker.open_max: is 5s, less than `open`, 10s"),
        "{}",
        world.verdict("4")
    );
    assert_eq!(world.verdict("5"), "TargetNotFound: Service payment has no port named metrics");
    assert!(world.verdict("6").starts_with("Invalid: targetRef names no Service"), "{}", world.verdict("6"));
    // The target comes, and the older one goes.
    world.put(&service("nobody", "10.96.0.12", &json!({}))).gone(Kind::TrafficPolicy, "shop", "1");
    assert_eq!(
        (world.verdict("3"), world.verdict("2")),
        ("Accepted: in force".into(), "Accepted: in force".into())
    );
    world.put(&service("nobody", "None", &json!({ "clusterIP": "None" })));
    assert!(
        world.verdict("3").starts_with("NotManaged: Service nobody is headless"),
        "{}",
        world.verdict("3")
    );
}

#[test]
fn a_verdict_is_untold_until_the_status_says_it() {
    let mut world = payment(&[ready("10.1.0.1")]);
    let mut told = policy("1", "payment", &json!({}));
    world.put(&told);
    assert_eq!(world.state.untold().count(), 1);
    told["metadata"]["resourceVersion"] = json!("77");
    told["status"] = json!({ "conditions": [{
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "in force", "observedGeneration": 3,
    }] });
    world.put(&told);
    assert_eq!((world.state.untold().count(), world.said), (0, 0));
    told["metadata"]["generation"] = json!(4);
    world.put(&told);
    assert_eq!(world.state.untold().count(), 1, "another generation is told anew");
}

#[test]
fn a_fallback_is_a_service_of_the_same_namespace() {
    let mut world = payment(&[ready("10.1.0.1")]);
    let fallback = |world: &World| world.service("shop/payment:http").policy.fallback.clone();
    world.put(&policy("1", "payment", &json!({ "fallback": "spare" })));
    assert_eq!(fallback(&world), None);
    assert!(world.verdict("1").contains("fallback spare is no Service"), "{}", world.verdict("1"));
    world.put(&service("spare", "10.96.0.12", &json!({})));
    assert_eq!(fallback(&world).as_deref(), Some("shop/spare:http"));
    assert_eq!(world.verdict("1"), "Accepted: in force");
    world.put(&policy("1", "payment", &json!({ "fallback": "else/spare" })));
    assert_eq!(fallback(&world), None);
    assert!(world.verdict("1").contains("another namespace"), "{}", world.verdict("1"));
}

#[test]
fn the_versions_of_a_split_are_services_beside_it() {
    let mut world = payment(&[ready("10.1.0.1")]);
    for (name, ip) in [("v1", "10.1.0.2"), ("v2", "10.1.0.3")] {
        world.put(&service(name, &ip.replace("10.1", "10.96"), &json!({}))).put(&slice(
            name,
            "a",
            &[ready(ip)],
        ));
    }
    world.put(&policy("1", "payment", &json!({ "split": { "v1": 90, "v2": 10 } })));
    let backends = |world: &World| {
        let line = world.told().lines().find(|line| line.starts_with("shop/payment")).map(str::to_owned);
        line.expect("there").split(" -> ").nth(1).map(str::to_owned)
    };
    assert_eq!(backends(&world).as_deref(), Some("10.1.0.2:8080/v1 10.1.0.3:8080/v2"));
    // A version that changes changes the service that is split.
    world.put(&slice("v2", "a", &[ready("10.1.0.3"), ready("10.1.0.4")]));
    assert_eq!(backends(&world).as_deref(), Some("10.1.0.2:8080/v1 10.1.0.3:8080/v2 10.1.0.4:8080/v2"));
    world.gone(Kind::Service, "shop", "v2");
    assert_eq!(backends(&world).as_deref(), Some("10.1.0.2:8080/v1"));
    assert!(world.verdict("1").contains("v2 is no Service of this namespace"), "{}", world.verdict("1"));
    world.gone(Kind::TrafficPolicy, "shop", "1");
    assert_eq!(backends(&world).as_deref(), Some("10.1.0.1:8080"));
}

#[test]
fn a_route_attached_to_a_service_is_its_split_where_it_looks_at_no_requests() {
    let mut world = payment(&[ready("10.1.0.1")]);
    for (name, ip) in [("v1", "10.1.0.2"), ("v2", "10.1.0.3")] {
        world.put(&service(name, &ip.replace("10.1", "10.96"), &json!({}))).put(&slice(
            name,
            "a",
            &[ready(ip)],
        ));
    }
    let refs = json!([{ "name": "v1", "port": 80, "weight": 9 }, { "name": "v2", "port": 80 }]);
    let split = |world: &World| -> Vec<(String, u32)> {
        let shares = &world.service("shop/payment:http").policy.split;
        shares.iter().map(|share| (share.version.to_string(), share.share)).collect()
    };
    world.put(&route(
        "r",
        &refs,
        &json!({ "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }] }),
    ));
    assert_eq!(split(&world), [("v1".to_owned(), 9), ("v2".to_owned(), 1)]);
    for (more, why) in [
        (json!({ "matches": [{ "headers": [{ "name": "x" }] }] }), "remove `matches`"),
        (json!({ "matches": [{ "path": { "type": "PathPrefix", "value": "/pay" } }] }), "remove `matches`"),
        (json!({ "filters": [{ "type": "RequestMirror" }] }), "remove `filters`"),
        (json!({ "backendRefs": [] }), "names no backend"),
        (json!({ "backendRefs": [{ "name": "v1", "namespace": "else" }] }), "another namespace"),
        (json!({ "backendRefs": [{ "name": "v1", "weight": 0 }] }), "gives every backend weight 0"),
        (json!({ "backendRefs": [{ "name": "x", "kind": "Bucket" }] }), "no Service"),
    ] {
        world.put(&route("r", &refs, &more));
        assert_eq!(split(&world), [], "{more}");
        assert!(world.told().contains(why), "{why}:\n{}", world.told());
    }
    // Somebody else's route for our Service is not carried out.
    let mut theirs = route("r", &refs, &json!({}));
    theirs["metadata"]["namespace"] = json!("else");
    theirs["spec"]["parentRefs"][0]["namespace"] = json!("shop");
    world.gone(Kind::HttpRoute, "shop", "r").put(&theirs);
    assert_eq!(split(&world), []);
    assert!(world.told().contains("only routes beside it"), "{}", world.told());
}

#[test]
fn many_endpoints_take_little_memory() {
    assert!(
        size_of::<super::super::objects::Endpoint>() <= 64,
        "{}",
        size_of::<super::super::objects::Endpoint>()
    );
}
