//! A cluster that is watched, for examples and tests of what is shown.

use jiff::Timestamp;

use crate::admin::view::{KindView, KubernetesView, NoteView};

pub(super) fn view(since: Timestamp, snapshot_at: Timestamp) -> KubernetesView {
    let kind = |name: &str, events, lists, errors: &[(&str, u64)]| KindView {
        name: name.to_owned(),
        listed: true,
        absent: false,
        events,
        lists,
        errors: errors.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        error: None,
    };
    KubernetesView {
        server: "https://10.96.0.1".to_owned(),
        node: "node-1".to_owned(),
        zone: Some("eu-1a".to_owned()),
        connection: "in_sync".to_owned(),
        since: Some(since),
        kinds: vec![
            kind("services", 12, 1, &[]),
            kind("endpointslices", 480, 2, &[("gone", 1)]),
            kind("pods", 77, 1, &[]),
        ],
        services: 40,
        slices: 52,
        endpoints: 310,
        policies: 3,
        routes: 1,
        pods: 31,
        noted: 1,
        notes: vec![NoteView {
            service: "shop/carts-db".to_owned(),
            note: "is headless: clients get the addresses of its pods from DNS".to_owned(),
        }],
        snapshot_at: Some(snapshot_at),
        snapshot_error: None,
    }
}
