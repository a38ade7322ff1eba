//! Spans of what two agents are told, each on its own side.

use std::sync::Arc;

use agent_ebpf::abi::{Direction, RequestEvent, RequestPlace};
use agent_ebpf::decide::trace;

use super::*;
use crate::flows::told::tests::{event, written, written_head};
use crate::flows::{Client, ServiceLabel, Workload, identity};

pub(super) struct Shop;

impl Names for Shop {
    fn client(&mut self, cgroup: u64) -> Client {
        let path = match cgroup {
            42 => "/system.slice/nginx.service",
            43 => "/system.slice/web.service",
            _ => return Client::unknown(),
        };
        Client { workload: Arc::new(identity::workload_of(path)), live: true, is_provisional: false }
    }
    fn is_live(&self, _: &Workload) -> bool {
        true
    }
    fn service(&self, id: u32) -> Option<ServiceLabel> {
        (id == 7).then(|| ServiceLabel { name: "shop/payment".into(), port: 443 })
    }
    fn version(&self, _service: u32, id: u32) -> Option<Arc<str>> {
        (id == 2).then(|| "v2".into())
    }
}

const ALL: u64 = trace::ALL_LOTS;
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-";

fn tell(traces: &mut Traces, bytes: &[u8]) -> Became {
    traces.told(&Told::decode(bytes).expect("a record"), Timestamp::UNIX_EPOCH, &mut Shop)
}

fn head(event: &RequestEvent, text: &str) -> Vec<u8> {
    written_head(event.cookie, event.place.sequence, text)
}

/// The server's side of the same request, on another node.
fn answering(event: &RequestEvent) -> RequestEvent {
    RequestEvent {
        direction: Direction::Inbound as u8,
        cgroup: 43,
        cookie: 9,
        service: 0,
        version: 0,
        requested: agent_ebpf::abi::Endpoint::default(),
        asked_at_ns: 900,
        duration_ns: 100,
        ..*event
    }
}

/// The span that one agent makes of a request with this head.
fn span(event: &RequestEvent, text: &str) -> (Span, bool) {
    let mut traces = Traces::new(ALL, false);
    if !text.is_empty() {
        assert_eq!(tell(&mut traces, &head(event, text)), Became::Nothing);
    }
    match tell(&mut traces, &written(event)) {
        Became::Span { span, is_whole, .. } => (*span, is_whole),
        other => panic!("{other:?}"),
    }
}

/// A span of a workload in this cgroup.
pub(super) fn some_span(cgroup: u64) -> Span {
    Span { cgroup, workload: Arc::new(Workload::unknown()), ..span(&event(), "").0 }
}

fn text(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|(its, _)| *its == name);
    match found.map(|(_, value)| value) {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        None => String::new(),
    }
}

#[test]
fn two_agents_that_never_talk_make_one_trace_of_a_request() {
    let (client, _) = span(&event(), "GET / HTTP/1.1\r\n\r\n");
    let (server, _) = span(&answering(&event()), "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.trace_id, server.trace_id);
    assert_eq!((client.parent_id, server.parent_id), (None, Some(client.id)));
    assert_ne!(client.id, server.id);
    let next = RequestPlace { sequence: event().place.sequence.wrapping_add(78), ..event().place };
    let (next, _) = span(&RequestEvent { place: next, ..event() }, "GET / HTTP/1.1\r\n\r\n");
    assert_ne!(next.trace_id, client.trace_id);
}

#[test]
fn what_the_application_says_of_its_trace_is_honoured_on_both_sides() {
    let text = format!("GET / HTTP/1.1\r\ntraceparent: {PARENT}01\r\n\r\n");
    let (client, server) = (span(&event(), &text).0, span(&answering(&event()), &text).0);
    for one in [&client, &server] {
        assert_eq!(one.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    }
    assert_eq!((client.parent_id, server.parent_id), (Some(0x00f0_67aa_0ba9_02b7), Some(client.id)));
    let mut traces = Traces::new(ALL, false);
    tell(&mut traces, &head(&event(), &text.replace("-01", "-00")));
    assert_eq!(tell(&mut traces, &written(&event())), Became::Declined, "the application records it not");
}

#[test]
fn only_lots_below_the_limit_are_spans() {
    let mut traces = Traces::new(u64::from(event().lot), false);
    assert_eq!(tell(&mut traces, &written(&event())), Became::Nothing, "told for somebody who follows");
    let mut traces = Traces::new(u64::from(event().lot) + 1, false);
    assert!(matches!(tell(&mut traces, &written(&event())), Became::Span { is_provisional: false, .. }));
}

#[test]
fn a_span_whose_beginning_was_lost_says_so() {
    assert!(span(&event(), "GET / HTTP/1.1\r\n\r\n").1);
    assert!(!span(&event(), "").1);
}

#[test]
fn attributes_are_those_of_the_conventions() {
    let head = "GET /cart?user=7 HTTP/1.1\r\nauthorization: Bearer secret\r\n\r\n";
    let (client, server) = (span(&event(), head).0, span(&answering(&event()), head).0);
    assert_eq!((&client.name[..], &*client.workload.name, client.is_error), ("GET", "nginx", true));
    for (name, expected) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("server.address", "10.96.0.10"),
        ("server.port", "443"),
        ("network.peer.address", "10.1.0.7"),
        ("network.peer.port", "8443"),
        ("network.protocol.name", "http"),
        ("network.protocol.version", "1.1"),
        ("network.type", "ipv4"),
        ("peer.service", "shop/payment"),
        ("segue.version", "v2"),
        ("url.path", ""),
        ("client.address", ""),
    ] {
        assert_eq!(text(&client, name), expected, "{name}");
    }
    for (name, expected) in [
        ("server.address", "10.1.0.7"),
        ("server.port", "8443"),
        ("client.address", "10.0.0.1"),
        ("network.peer.port", "40000"),
        ("url.scheme", "http"),
        ("peer.service", ""),
    ] {
        assert_eq!(text(&server, name), expected, "{name}");
    }
    assert_eq!(client.end.duration_since(client.start).as_millis(), 2);
    assert!(!format!("{client:?}{server:?}").contains("secret"));
}

#[test]
fn an_answer_of_400_is_the_clients_error_alone() {
    let event = RequestEvent { status: 404, ..event() };
    assert!(span(&event, "").0.is_error);
    let (server, _) = span(&answering(&event), "");
    assert!(!server.is_error && text(&server, "error.type").is_empty());
}
