//! Objects of a cluster: any JSON is read or of no use, whatever is read can be translated and applied, and what was
//! written down of it reads back.

use segue_agent::desired::{Desired, SourceKind};
use segue_agent::discovery::kubernetes::decode;
use segue_agent::discovery::kubernetes::objects::{Kind, Object};
use segue_agent::discovery::kubernetes::pods::PodState;
use segue_agent::discovery::kubernetes::state::{Event, State};
use segue_agent::kernel::fake::FakeTables;
use segue_agent::reconcile::Reconciler;
use segue_tests::kube_api::objects::{
    Endpoint, left_alone, namespace, node, pod, policy, service, slice, tcp_route,
};
use serde_json::json;

use crate::adopt::CAPACITY;
use crate::fuzz;

const NODE: &str = "node-1";

const TOKENS: &[&str] = &[
    "null",
    "true",
    "-1",
    "1e999",
    "70000",
    "18446744073709551616",
    "\"\"",
    "{}",
    "[]",
    "[null]",
    "\"None\"",
    "\"UDP\"",
    "\"SCTP\"",
    "\"fd00::1\"",
    "\"127.0.0.1\"",
    "\"ClientIP\"",
    "\"Local\"",
    "\"ExternalName\"",
    "\"payment\"",
    "\"http\"",
    "\"clusterIPs\":",
    "\"endpoints\":",
    "\"addresses\":",
    "\"conditions\":",
    "\"hints\":{\"forZones\":[{\"name\":\"here\"}]}",
    "\"ready\":false",
    "\"terminating\":true",
    "\"split\":{\"payment\":1}",
    "\"fallback\":\"payment\"",
    "\"breaker\":{}",
    "\"weight\":0",
    "\"ownerReferences\":",
    "\"controller\":true",
    "\"Job\"",
    "\"pod-template-hash\":\"\"",
    "\"segue.dev/manage\":\"false\"",
    "\\u0000",
    "\\ud800",
    ",",
    ":",
    "\"",
];

fn check(bytes: &[u8]) {
    let (mut state, mut pods) = (State::new(None, None), PodState::new(NODE));
    for &kind in Kind::ALL {
        state.apply(Event::Begin(kind));
        pods.apply(Event::Begin(kind));
    }
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        for &kind in Kind::ALL {
            let Ok(Some(object)) = decode(kind, line, NODE) else { continue };
            assert_eq!(object.kind(), kind);
            let written = serde_json::to_string(&object).expect("an object can be written down");
            assert_eq!(serde_json::from_str::<Object>(&written).expect("and read again"), object);
            let key = object.key().clone();
            let event = if number % 2 == 0 { Event::Listed(object) } else { Event::Put(object) };
            state.apply(event.clone());
            pods.apply(event);
            if number % 5 == 4 {
                state.apply(Event::Gone(kind, key.clone()));
                pods.apply(Event::Gone(kind, key));
            }
        }
    }
    for &kind in Kind::ALL {
        state.apply(Event::End(kind));
        pods.apply(Event::End(kind));
    }
    for job in pods.unasked_jobs(9) {
        pods.answer(job, None);
    }
    let (told, objects) = (pods.take_changes(), pods.objects().count());
    assert!(told.len() <= 1 && objects >= pods.count(), "all pods are told at once");
    let mut desired = Desired::default();
    for change in state.take_changes() {
        desired.apply(SourceKind::Kubernetes, change);
    }
    let mut reconciler = Reconciler::new(FakeTables::new(CAPACITY));
    // What does not fit is refused as a whole, and what cannot be for one service by itself.
    if let Ok(report) = reconciler.apply(&desired) {
        assert!(report.failed.is_empty(), "{:?}", report.failed.first().map(|failure| &failure.error));
    }
    let _told = (state.notes(), state.counts(), state.untold().count());
}

#[test]
fn any_object_is_read_or_of_no_use_and_what_is_read_can_be_served() {
    let lines = |objects: &[serde_json::Value]| -> Vec<u8> {
        objects.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into_bytes()
    };
    let endpoints = [Endpoint::at("127.0.1.1"), Endpoint::at("127.0.1.2").in_zone("there").terminating()];
    let cluster = [
        node(NODE, "here", "10.77.0.1"),
        service("shop", "payment", "198.18.0.10"),
        slice("shop", "payment", "abcde", 8080, &endpoints),
        service("shop", "spare", "198.18.0.11"),
        policy("shop", "payment", "payment", &json!({ "fallback": "spare", "breaker": { "open": "5s" } })),
        tcp_route("shop", "payment", "payment", &[("payment", 1), ("spare", 2)]),
        pod("shop", "a", "0a1b2c3d-1111-2222-3333-444455556666", NODE, Some(("Job", "backup-29384710"))),
        left_alone(namespace("shop")),
    ];
    let seeds: Vec<Vec<u8>> =
        cluster.iter().map(|object| lines(std::slice::from_ref(object))).chain([lines(&cluster)]).collect();
    fuzz(&seeds, TOKENS, check);
}
