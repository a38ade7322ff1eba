//! Spans as messages of OTLP: one request for many spans, with a resource for each workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_ebpf::abi::Direction;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Message, Status};
use prost::Message as _;

use super::{attribute, scope, unix_ns};
use crate::flows::{Workload, WorkloadKind};
use crate::traces::{Span, Value};

/// The flag of a span that is recorded (W3C Trace Context, section 3.2.2.5).
const SAMPLED: u32 = 1;

/// The body of one request. `node` is what this node is called.
pub(in crate::otlp) fn body(spans: &[Span], node: &str) -> Vec<u8> {
    let mut by_workload: BTreeMap<&Arc<Workload>, Vec<Message>> = BTreeMap::new();
    for span in spans {
        by_workload.entry(&span.workload).or_default().push(message(span));
    }
    let of_workload = |(workload, spans): (&Arc<Workload>, Vec<Message>)| ResourceSpans {
        resource: Some(resource(workload, node)),
        scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, schema_url: String::new() }],
        schema_url: String::new(),
    };
    let resource_spans = by_workload.into_iter().map(of_workload).collect();
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn message(span: &Span) -> Message {
    let kind = match span.direction {
        Direction::Outbound => SpanKind::Client,
        Direction::Inbound => SpanKind::Server,
    };
    let code = if span.is_error { StatusCode::Error } else { StatusCode::Unset };
    Message {
        trace_id: span.trace_id.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: span.parent_id.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
        flags: SAMPLED,
        name: span.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: unix_ns(span.start),
        end_time_unix_nano: unix_ns(span.end),
        attributes: span.attributes.iter().map(|(name, value)| valued(name, value)).collect(),
        status: Some(Status { message: String::new(), code: code.into() }),
        ..Message::default()
    }
}

fn valued(name: &str, value: &Value) -> KeyValue {
    match value {
        Value::Text(text) => attribute(name, text.clone()),
        Value::Number(number) => KeyValue {
            key: name.to_owned(),
            value: Some(AnyValue { value: Some(Any::IntValue(*number)) }),
            ..KeyValue::default()
        },
    }
}

/// Who a workload is, as OpenTelemetry has services named: by the owner of a pod, by a unit.
fn resource(workload: &Workload, node: &str) -> Resource {
    let mut attributes = vec![attribute("service.name", workload.name.to_string())];
    let mut add = |name, value: &str| attributes.push(attribute(name, value.to_owned()));
    add("host.name", node);
    if is_of_kubernetes(workload.kind) {
        add("service.namespace", &workload.namespace);
        add("k8s.namespace.name", &workload.namespace);
        add("k8s.node.name", node);
        if let Some(owner) = owner(workload.kind) {
            add(owner, &workload.name);
        }
    }
    Resource { attributes, ..Resource::default() }
}

const fn is_of_kubernetes(kind: WorkloadKind) -> bool {
    match kind {
        WorkloadKind::Pod
        | WorkloadKind::Deployment
        | WorkloadKind::StatefulSet
        | WorkloadKind::DaemonSet
        | WorkloadKind::ReplicaSet
        | WorkloadKind::Job
        | WorkloadKind::CronJob
        | WorkloadKind::Controller => true,
        WorkloadKind::Container
        | WorkloadKind::Unit
        | WorkloadKind::Session
        | WorkloadKind::Cgroup
        | WorkloadKind::Unknown => false,
    }
}

/// The attribute that names what owns a pod.
const fn owner(kind: WorkloadKind) -> Option<&'static str> {
    match kind {
        WorkloadKind::Pod => Some("k8s.pod.name"),
        WorkloadKind::Deployment => Some("k8s.deployment.name"),
        WorkloadKind::StatefulSet => Some("k8s.statefulset.name"),
        WorkloadKind::DaemonSet => Some("k8s.daemonset.name"),
        WorkloadKind::ReplicaSet => Some("k8s.replicaset.name"),
        WorkloadKind::Job => Some("k8s.job.name"),
        WorkloadKind::CronJob => Some("k8s.cronjob.name"),
        _ => None,
    }
}

#[cfg(test)]
pub(in crate::otlp) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::flows::identity;

    pub(in crate::otlp) fn span(workload: Workload, direction: Direction) -> Span {
        let at = |ms| Timestamp::from_millisecond(ms).expect("a time");
        Span {
            workload: Arc::new(workload),
            cgroup: 42,
            direction,
            trace_id: 0x0102,
            id: 0x0304,
            parent_id: (direction == Direction::Inbound).then_some(5),
            name: "GET".to_owned(),
            start: at(1_000),
            end: at(1_002),
            is_error: direction == Direction::Inbound,
            attributes: vec![("http.response.status_code", Value::Number(503)), ("url.path", "/".into())],
        }
    }

    fn texts(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
        let text = |attribute| match attribute {
            &KeyValue {
                ref key, value: Some(AnyValue { value: Some(Any::StringValue(ref text)) }), ..
            } => Some((&key[..], &text[..])),
            _ => None,
        };
        attributes.iter().filter_map(text).collect()
    }

    #[test]
    fn spans_are_told_under_the_workload_whose_they_are() {
        let nginx = identity::workload_of("/system.slice/nginx.service");
        let payment = Workload::of_pod("shop", "payment", WorkloadKind::Deployment);
        let spans = [
            span(nginx.clone(), Direction::Outbound),
            span(payment, Direction::Inbound),
            span(nginx, Direction::Outbound),
        ];
        let request = ExportTraceServiceRequest::decode(&body(&spans, "node-1")[..]).expect("a message");
        let [units, pods] = &request.resource_spans[..] else { panic!("{request:?}") };
        let attributes = &units.resource.as_ref().expect("a resource").attributes;
        assert_eq!(texts(attributes), [("service.name", "nginx"), ("host.name", "node-1")]);
        let attributes = &pods.resource.as_ref().expect("a resource").attributes;
        for expected in [
            ("service.name", "payment"),
            ("service.namespace", "shop"),
            ("k8s.namespace.name", "shop"),
            ("k8s.deployment.name", "payment"),
            ("k8s.node.name", "node-1"),
        ] {
            assert!(texts(attributes).contains(&expected), "{expected:?} in {attributes:?}");
        }
        assert_eq!((units.scope_spans[0].spans.len(), pods.scope_spans[0].spans.len()), (2, 1));

        let client = &units.scope_spans[0].spans[0];
        assert_eq!((client.trace_id.len(), client.span_id.len(), client.parent_span_id.len()), (16, 8, 0));
        assert_eq!((client.trace_id[14..].to_vec(), client.span_id[6..].to_vec()), (vec![1, 2], vec![3, 4]));
        assert_eq!((client.kind(), client.flags), (SpanKind::Client, 1));
        assert_eq!((client.start_time_unix_nano, client.end_time_unix_nano), (1_000_000_000, 1_002_000_000));
        assert_eq!(client.status.as_ref().map(Status::code), Some(StatusCode::Unset));
        let server = &pods.scope_spans[0].spans[0];
        assert_eq!(
            (server.kind(), &server.parent_span_id[..]),
            (SpanKind::Server, &[0, 0, 0, 0, 0, 0, 0, 5][..])
        );
        assert_eq!(server.status.as_ref().map(Status::code), Some(StatusCode::Error));
        let status = server.attributes[0].value.as_ref().and_then(|value| value.value.as_ref());
        assert_eq!(status, Some(&Any::IntValue(503)));
    }
}
