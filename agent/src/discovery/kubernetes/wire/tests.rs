//! Objects as they come, whole and odd. Knows nothing of what becomes of them.

use serde_json::{Value, json};

use crate::discovery::kubernetes::decode;
use crate::discovery::kubernetes::objects::{Kind, Object};

const NODE: &str = "node-1";

fn whole() -> Vec<(Kind, Value)> {
    let metadata = json!({
        "name": "x", "namespace": "shop", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
        "generation": 2, "labels": { "kubernetes.io/service-name": "x" }, "annotations": { "a": "b" },
    });
    let node = json!({
        "metadata": { "name": NODE, "labels": { "topology.kubernetes.io/zone": "a" } },
        "status": { "addresses": [{ "type": "InternalIP", "address": "10.0.0.1" }] },
    });
    let service = json!({ "metadata": metadata, "spec": {
        "type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "externalIPs": ["10.0.0.1"],
        "ports": [{ "name": "p", "protocol": "TCP", "port": 80, "nodePort": 30080 }], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 5 } }, "internalTrafficPolicy": "Local",
        "trafficDistribution": "PreferClose",
    } });
    let slice = json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": [{
        "addresses": ["10.1.0.1"], "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": NODE, "zone": "a", "hints": { "forZones": [{ "name": "a" }], "forNodes": [{ "name": NODE }] },
    }], "ports": [{ "name": "p", "protocol": "TCP", "port": 8080 }] });
    let policy = json!({ "metadata": metadata, "spec": {
        "targetRef": { "group": "", "kind": "Service", "name": "x", "sectionName": "p" },
        "policy": { "breaker": { "open": "5s" } },
    }, "status": { "conditions": [{
        "type": "Accepted", "status": "True", "reason": "r", "message": "m", "observedGeneration": 1,
    }] } });
    let route = json!({ "metadata": metadata, "spec": {
        "parentRefs": [{ "group": "", "kind": "Service", "name": "x", "port": 80, "sectionName": "p" }],
        "hostnames": ["h"], "rules": [{
            "matches": [{ "path": { "type": "Exact", "value": "/" }, "method": "GET", "headers": [{}], "queryParams": [{}] }],
            "filters": [{}], "backendRefs": [{ "name": "y", "port": 80, "weight": 3, "filters": [{}] }],
        }],
    } });
    let pod = json!({ "kind": "PartialObjectMetadata", "metadata": {
        "name": "x", "namespace": "shop", "uid": "0a1b2c3d-1111-2222-3333-444455556666",
        "labels": { "pod-template-hash": "5d9c7b6f4", "rollouts-pod-template-hash": "abc" },
        "annotations": { "kubernetes.io/config.mirror": "30b1f8b1", "segue.dev/manage": "false" },
        "ownerReferences": [{ "kind": "ReplicaSet", "name": "x-5d9c7b6f4", "controller": true, "uid": "u" }],
    } });
    let namespace = json!({ "metadata": { "name": "x", "annotations": { "segue.dev/manage": "false" } } });
    vec![
        (Kind::Node, node),
        (Kind::Service, service),
        (Kind::EndpointSlice, slice),
        (Kind::TrafficPolicy, policy),
        (Kind::HttpRoute, route.clone()),
        (Kind::TcpRoute, route),
        (Kind::Pod, pod),
        (Kind::Namespace, namespace),
    ]
}

/// Every object that has one value replaced, at each place in turn.
fn with_each_value_replaced(value: &Value, by: &Value) -> Vec<Value> {
    let mut all = vec![by.clone()];
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let mut missing = value.clone();
                missing.as_object_mut().expect("an object").remove(name);
                all.push(missing);
                for replaced in with_each_value_replaced(inner, by) {
                    let mut other = value.clone();
                    other[name] = replaced;
                    all.push(other);
                }
            }
        }
        Value::Array(elements) => {
            for (place, inner) in elements.iter().enumerate() {
                for replaced in with_each_value_replaced(inner, by) {
                    let mut other = value.clone();
                    other[place] = replaced;
                    all.push(other);
                }
            }
        }
        _ => {}
    }
    all
}

#[test]
fn each_kind_is_read_whole() {
    for (kind, json) in whole() {
        let object = decode(kind, json.to_string().as_bytes(), NODE).expect("JSON").expect("of use");
        assert_eq!(object.kind(), kind);
        assert_eq!(&*object.key().name, if kind == Kind::Node { NODE } else { "x" });
    }
}

#[test]
fn an_object_with_any_value_missing_or_of_any_other_type_is_read_or_of_no_use() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x".repeat(5_000)),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({ "a": { "b": [1] } }),
        json!("\u{0}\u{7f}\n"),
        json!(70_000),
    ];
    let mut count = 0;
    for (kind, json) in whole() {
        for odd in &odd {
            for object in with_each_value_replaced(&json, odd) {
                count += 1;
                let read = decode(kind, object.to_string().as_bytes(), NODE);
                assert!(read.is_ok(), "{} {object}: {read:?}", kind.name());
            }
        }
    }
    assert!(count > 2_000, "{count}");
}

#[test]
fn a_service_from_before_there_were_lists_of_addresses_has_its_one() {
    let old =
        json!({ "metadata": { "name": "x", "namespace": "shop" }, "spec": { "clusterIP": "10.96.0.1" } });
    let Some(Object::Service(service)) =
        decode(Kind::Service, old.to_string().as_bytes(), NODE).expect("JSON")
    else {
        panic!("no Service");
    };
    assert_eq!(service.cluster_ips, ["10.96.0.1".parse::<std::net::IpAddr>().expect("an address")]);
}

#[test]
fn an_address_that_no_host_can_have_is_left_out() {
    for odd in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "::ffff:10.0.0.1", "10.0.0.01", "host"] {
        let slice = json!({
            "metadata": { "name": "x", "namespace": "shop", "labels": { "kubernetes.io/service-name": "x" } },
            "endpoints": [{ "addresses": [odd] }, { "addresses": ["10.1.0.1"] }],
        });
        let object = decode(Kind::EndpointSlice, slice.to_string().as_bytes(), NODE).expect("JSON");
        let Some(Object::Slice(slice)) = object else { panic!("no slice") };
        assert_eq!(slice.endpoints.len(), 1, "{odd}");
    }
}

#[test]
fn a_huge_object_is_read_up_to_what_an_api_server_would_allow() {
    let endpoints: Vec<Value> =
        (0..5_000).map(|n| json!({ "addresses": [format!("10.1.{}.{}", n / 250, n % 250)] })).collect();
    let ports: Vec<Value> = (1..5_000).map(|port| json!({ "port": port })).collect();
    let slice = json!({
        "metadata": { "name": "x", "namespace": "shop", "labels": { "kubernetes.io/service-name": "x" } },
        "endpoints": endpoints, "ports": ports,
    });
    let object = decode(Kind::EndpointSlice, slice.to_string().as_bytes(), NODE).expect("JSON");
    let Some(Object::Slice(slice)) = object else { panic!("no slice") };
    assert_eq!((slice.endpoints.len(), slice.ports.len()), (1_000, 250));
}
