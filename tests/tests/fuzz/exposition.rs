//! Labels of metrics: whatever a workload, service or version is called, the exposition is in its format and says
//! that very name.

use std::collections::HashSet;
use std::sync::Arc;

use segue_agent::admin::view::{
    Counters, Explanation, HeldView, OverheadView, Readiness, RolloutView, ServiceMap, ServiceView, Status,
};
use segue_agent::admin::{ExplainError, Followed, Observe, ObserveError};
use segue_agent::flows::{
    EdgeView, KnownNames, MemoryView, Record, RequestView, Selector, Tally, Window, identity,
    split_service_name,
};
use segue_agent::metrics::{Exposition, Format};
use segue_tests::exposition::Exposition as Parsed;
use tokio::sync::broadcast;

use crate::{fuzz, lines};

const TOKENS: &[&str] = &[
    "\"", "\\", "\\n", "\\\"", "}", "{", "=", ",", "# EOF", "# TYPE ", "# HELP ", " ", "/", "|", "é",
    "\u{202e}", "_total", "NaN",
];

/// An agent that knows these edges and nothing else.
pub(crate) struct Edges(pub(crate) Vec<EdgeView>);

fn not_here<T>(what: &'static str) -> Result<T, ObserveError> {
    Err(ObserveError { what, source: "not in this test".into() })
}

impl Observe for Edges {
    fn status(&self) -> Result<Status, ObserveError> {
        not_here("status")
    }

    fn services(&self) -> Result<Vec<ServiceView>, ObserveError> {
        not_here("services")
    }

    fn explain(&self, target: &str, asker: Option<&str>) -> Result<Explanation, ExplainError> {
        let _ = asker;
        Ok(Explanation { target: target.to_owned(), asker: None, chains: Vec::new() })
    }

    fn held(&self) -> Vec<HeldView> {
        Vec::new()
    }

    fn rollouts(&self) -> Vec<RolloutView> {
        Vec::new()
    }

    fn edges(&self) -> Result<Vec<EdgeView>, ObserveError> {
        Ok(self.0.clone())
    }

    fn requests(&self) -> Result<Vec<RequestView>, ObserveError> {
        Ok(Vec::new())
    }

    fn map(&self) -> Result<ServiceMap, ObserveError> {
        not_here("map")
    }

    fn counters(&self) -> Result<Counters, ObserveError> {
        not_here("counters")
    }

    fn overhead(&self) -> OverheadView {
        OverheadView::default()
    }

    fn remembered(&self, _: &Selector, _: Window) -> (Vec<Arc<Record>>, MemoryView) {
        (Vec::new(), MemoryView::default())
    }

    fn follow(&self, _: &Selector, _: Window) -> Followed {
        let to_come = broadcast::channel(1).1;
        Followed { memory: MemoryView::default(), remembered: Vec::new(), to_come }
    }

    fn known_names(&self) -> KnownNames {
        KnownNames::default()
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, waiting_for: Vec::new() }
    }
}

/// One edge a line: the path of a cgroup, a service, a version.
fn edges(text: &str) -> Vec<EdgeView> {
    let mut known = HashSet::new();
    let mut edges = Vec::new();
    for (opened, line) in (1_u64..).zip(text.split('\n').take(8)) {
        let mut parts = line.split('|').map(|part| part.replace(char::is_control, "?"));
        let mut part = || parts.next().unwrap_or_default();
        let client = identity::workload_of(&part());
        let (service, version) = (part(), part());
        if known.insert((client.clone(), service.clone(), version.clone())) {
            edges.push(EdgeView {
                client: Arc::new(client),
                service: service.into(),
                port: 80,
                version: Some(version.into()),
                overflow: false,
                opened,
                active: 0,
                closed: Tally::default(),
                failed: Tally::default(),
                sent_bytes: opened,
                received_bytes: 0,
                retransmits: 0,
                connect: Default::default(),
                connect_failed: Default::default(),
                rtt: Default::default(),
                requests: Vec::new(),
            });
        }
    }
    edges
}

fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!([Format::Prometheus, Format::OpenMetrics].contains(&Format::accepted_by(&text)));
    let edges = edges(&text);
    let exposition = Exposition::new(Arc::new(Edges(edges.clone())));
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = exposition.render(format).expect("a text");
        assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
        let parsed = Parsed::parse(&text);
        for edge in &edges {
            let (namespace, service) = split_service_name(&edge.service);
            let labels = [
                ("src_namespace", &*edge.client.namespace),
                ("src_workload", &*edge.client.name),
                ("dst_namespace", namespace),
                ("dst_service", service),
                ("dst_version", edge.version.as_deref().unwrap_or_default()),
            ];
            let found: Vec<f64> =
                parsed.matching("segue_tcp_sent_bytes_total", &labels).map(|sample| sample.value).collect();
            assert_eq!(found.len(), 1, "{labels:?}\n{text}");
            assert!((found[0] - edge.sent_bytes as f64).abs() < 0.5, "{labels:?}: {found:?}");
        }
    }
}

#[test]
fn any_name_is_a_label_of_its_own_that_reads_back_as_it_is() {
    let mut seeds = lines(include_str!("../../seeds/edges.txt"));
    seeds.push(seeds.join(&b'\n'));
    fuzz(&seeds, TOKENS, check);
}
