//! What pods are called and which are left alone, by what happens to them.

use serde_json::{Value, json};

use super::*;
use crate::discovery::kubernetes::decode;

const NODE: &str = "node-1";

fn pod(name: &str, owner: Option<(&str, &str)>) -> Value {
    let owners: Vec<Value> = owner
        .iter()
        .map(|(kind, name)| json!({ "apiVersion": "x/v1", "kind": kind, "name": name, "controller": true }))
        .collect();
    json!({ "metadata": {
        "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "ownerReferences": owners,
        "labels": { "pod-template-hash": "5d9c7b6f4" },
    } })
}

fn read(json: &Value) -> Object {
    decode(Kind::Pod, json.to_string().as_bytes(), NODE).expect("JSON").expect("of use")
}

fn namespace(name: &str) -> Object {
    let json = json!({ "metadata": { "name": name, "annotations": { "segue.dev/manage": "false" } } });
    decode(Kind::Namespace, json.to_string().as_bytes(), NODE).expect("JSON").expect("of use")
}

/// A node with these pods, in sync.
fn state(pods: &[Value]) -> PodState {
    let mut state = PodState::new(NODE);
    for kind in [Kind::Pod, Kind::Namespace] {
        state.apply(Event::Begin(kind));
        let its = pods.iter().filter(|_| kind == Kind::Pod);
        its.for_each(|pod| state.apply(Event::Listed(read(pod))));
        state.apply(Event::End(kind));
    }
    state
}

/// Namespace and name, kind, left alone.
type Known = (String, WorkloadKind, bool);

fn known(pod: &Named) -> Known {
    (format!("{}/{}", pod.workload.namespace, pod.workload.name), pod.workload.kind, pod.left_alone)
}

/// UIDs of pods that are new or different with what is known of them, and of those that are gone.
fn changes(state: &mut PodState) -> (Vec<(String, Known)>, Vec<String>) {
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for change in state.take_changes() {
        match change {
            PodChange::Reset(pods) => put.extend(pods.iter().map(|pod| (pod.uid.to_string(), known(pod)))),
            PodChange::Upsert(pod) => put.push((pod.uid.to_string(), known(&pod))),
            PodChange::Remove(uid) => gone.push(uid.to_string()),
        }
    }
    (put, gone)
}

#[test]
fn a_pod_is_called_by_what_owns_it() {
    use WorkloadKind::{Controller, CronJob, DaemonSet, Deployment, Job, Pod, ReplicaSet, StatefulSet};
    for (owner, name, kind) in [
        (None, "x-1", Pod),
        (Some(("ReplicaSet", "payment-5d9c7b6f4")), "payment", Deployment),
        (Some(("ReplicaSet", "payment-5d9c7b6f4x")), "payment-5d9c7b6f4x", ReplicaSet),
        (Some(("ReplicaSet", "payment5d9c7b6f4")), "payment5d9c7b6f4", ReplicaSet),
        (Some(("ReplicaSet", "-5d9c7b6f4")), "-5d9c7b6f4", ReplicaSet),
        (Some(("StatefulSet", "db")), "db", StatefulSet),
        (Some(("DaemonSet", "logs")), "logs", DaemonSet),
        (Some(("Job", "migrate")), "migrate", Job),
        (Some(("Job", "backup-29384710")), "backup", CronJob),
        (Some(("Job", "backup-2938471")), "backup-2938471", Job),
        (Some(("Node", NODE)), "x-1", Pod),
        (Some(("Workflow", "train")), "train", Controller),
    ] {
        let (put, _) = changes(&mut state(&[pod("x-1", owner)]));
        assert_eq!(put[0].1, (format!("shop/{name}"), kind, false), "{owner:?}");
    }
    let mut rollout = pod("x-1", Some(("ReplicaSet", "payment-abc")));
    rollout["metadata"]["labels"] = json!({ "rollouts-pod-template-hash": "abc" });
    assert_eq!(changes(&mut state(&[rollout])).0[0].1.0, "shop/payment");
    let mut owned_but_not_controlled = pod("x-1", Some(("DaemonSet", "logs")));
    owned_but_not_controlled["metadata"]["ownerReferences"][0]["controller"] = json!(false);
    assert_eq!(changes(&mut state(&[owned_but_not_controlled])).0[0].1.0, "shop/x-1");
}

#[test]
fn a_static_pod_is_found_by_the_hash_of_its_manifest_and_called_without_its_node() {
    let mut etcd = pod("etcd-node-1", Some(("Node", NODE)));
    etcd["metadata"]["annotations"] =
        json!({ "kubernetes.io/config.mirror": "30b1f8b1c2d3e4f5a6b7c8d9e0f10203" });
    let (put, _) = changes(&mut state(&[etcd]));
    let expected = ("shop/etcd".to_owned(), WorkloadKind::Pod, false);
    assert_eq!(put, [("30b1f8b1c2d3e4f5a6b7c8d9e0f10203".to_owned(), expected)]);
}

#[test]
fn what_the_api_server_says_of_a_job_counts_more_than_the_jobs_name() {
    let jobs = ["backup-29384710", "by-hand"].map(|job| pod(&format!("{job}-abcde"), Some(("Job", job))));
    let mut state = state(&jobs);
    changes(&mut state);
    let asked = state.unasked_jobs(9);
    let names: Vec<&str> = asked.iter().map(|job| &*job.name).collect();
    assert_eq!(names, ["backup-29384710", "by-hand"]);
    assert_eq!(state.unasked_jobs(1).len(), 1);
    let owner = |kind: &str, name: &str| Some(Owner { kind: kind.into(), name: name.into() });
    state.answer(asked[0].clone(), owner("Backup", "nightly"));
    state.answer(asked[1].clone(), owner("CronJob", "report"));
    let names: Vec<String> = changes(&mut state).0.into_iter().map(|(_, known)| known.0).collect();
    assert_eq!(names, ["shop/nightly", "shop/report"]);
    assert_eq!(state.unasked_jobs(9), []);
}

#[test]
fn a_pod_or_its_namespace_says_that_it_is_left_alone_and_takes_that_back() {
    let mut state = state(&[pod("a", None), pod("b", None)]);
    changes(&mut state);
    let mut alone = pod("a", None);
    alone["metadata"]["annotations"] = json!({ "segue.dev/manage": "false" });
    state.apply(Event::Put(read(&alone)));
    assert_eq!(changes(&mut state).0, [("uid-of-a".into(), ("shop/a".into(), WorkloadKind::Pod, true))]);
    state.apply(Event::Put(namespace("shop")));
    state.apply(Event::Put(namespace("other")));
    let (put, _) = changes(&mut state);
    assert_eq!(put.iter().map(|(_, known)| known.2).collect::<Vec<_>>(), [true, true]);
    // The namespace no longer says so: one of the pods still does.
    state.apply(Event::Gone(Kind::Namespace, namespace("shop").key().clone()));
    let (put, _) = changes(&mut state);
    assert_eq!(put.iter().map(|(_, known)| known.2).collect::<Vec<_>>(), [true, false]);
    assert_eq!(state.take_changes(), [], "and nothing else is different");
}

#[test]
fn nothing_is_told_before_pods_and_namespaces_are_known_and_then_all_at_once() {
    let mut state = PodState::new(NODE);
    state.remember(read(&pod("a", None)));
    state.remember(namespace("shop"));
    state.apply(Event::Begin(Kind::Pod));
    state.apply(Event::Listed(read(&pod("b", None))));
    state.apply(Event::End(Kind::Pod));
    assert_eq!(state.take_changes(), []);
    assert_eq!(state.remembered().len(), 1, "what is gone from the list is gone");
    // Namespaces may not be listed: what was known of them stays.
    state.apply(Event::Unknown(Kind::Namespace));
    assert_eq!(changes(&mut state).0, [("uid-of-b".into(), ("shop/b".into(), WorkloadKind::Pod, true))]);
}

#[test]
fn pods_that_may_not_be_listed_keep_the_names_that_are_remembered() {
    let mut state = PodState::new(NODE);
    state.remember(read(&pod("a", None)));
    state.apply(Event::Unknown(Kind::Pod));
    state.apply(Event::Unknown(Kind::Namespace));
    assert_eq!(state.take_changes(), []);
    assert_eq!(state.count(), 1);
}

#[test]
fn a_pod_made_anew_under_its_name_is_another_one_and_a_list_ends_what_is_not_in_it() {
    let mut state = state(&[pod("a", None), pod("b", None)]);
    changes(&mut state);
    let mut again = pod("a", None);
    again["metadata"]["uid"] = json!("another");
    state.apply(Event::Put(read(&again)));
    let (put, gone) = changes(&mut state);
    assert_eq!((put[0].0.as_str(), gone), ("another", vec!["uid-of-a".to_owned()]));
    state.apply(Event::Begin(Kind::Pod));
    state.apply(Event::Listed(read(&again)));
    state.apply(Event::End(Kind::Pod));
    assert_eq!(changes(&mut state), (vec![], vec!["uid-of-b".to_owned()]));
    assert_eq!(state.objects().count(), 1);
}
