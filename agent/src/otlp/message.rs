//! Metrics, and in [`spans`] spans, as messages of OTLP. The only module that names `opentelemetry_proto`; sends nothing.
//!
//! A name is that of the Prometheus text without `_total`, and keeps its unit: a receiver that puts units and `_total` behind
//! names finds the unit there and arrives at the name of `docs/metrics.md`.

pub(super) mod spans;

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::{Sender, Signal};
use crate::metrics::{Family, Kind, Point, Value};

/// Points in one request. Some 300 bytes each, of a histogram 500: within the 4 MB that some receivers take.
const MAX_POINTS: usize = 8_000;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// One reading, as the bodies of as many requests as it takes.
#[derive(Debug)]
pub(super) struct Bodies {
    resource: Resource,
    since_ns: u64,
    now_ns: u64,
    metrics: Vec<Metric>,
    points: usize,
    done: Vec<Vec<u8>>,
}

impl Bodies {
    /// A reading of this moment.
    pub(super) fn new(sender: &Sender, now: Timestamp) -> Self {
        let attributes = [
            ("service.name", "segue"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            // Prometheus makes its label `instance` of it: without it the agents of all nodes would be one.
            ("service.instance.id", &sender.node),
            ("host.name", &sender.node),
        ];
        let attributes = attributes.map(|(name, value)| attribute(name, value.to_owned())).into();
        Self {
            resource: Resource { attributes, ..Resource::default() },
            since_ns: unix_ns(sender.since),
            now_ns: unix_ns(now),
            metrics: Vec::new(),
            points: 0,
            done: Vec::new(),
        }
    }

    /// Adds a metric. One without points is left out.
    pub(super) fn add(&mut self, family: Family) {
        let Family { name, help, unit, kind, points } = family;
        let mut points = points.into_iter().peekable();
        while points.peek().is_some() {
            let room = MAX_POINTS - self.points;
            let some: Vec<Point> = points.by_ref().take(room).collect();
            self.points += some.len();
            let metric = Metric {
                name: match kind {
                    Kind::Counter => name.strip_suffix("_total").unwrap_or(name).to_owned(),
                    Kind::Gauge | Kind::Histogram => name.to_owned(),
                },
                description: help.to_owned(),
                unit: match unit {
                    Some("bytes") => "By".to_owned(),
                    Some("seconds") => "s".to_owned(),
                    // Not "1", of which Prometheus makes a name that ends in `_ratio`.
                    _ => String::new(),
                },
                metadata: Vec::new(),
                data: Some(self.data(kind, some)),
            };
            self.metrics.push(metric);
            if self.points == MAX_POINTS {
                self.close();
            }
        }
    }

    /// The bodies of all requests.
    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if self.points > 0 {
            self.close();
        }
        self.done
    }

    fn close(&mut self) {
        self.points = 0;
        let metrics = std::mem::take(&mut self.metrics);
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: String::new() }];
        let resource = Some(self.resource.clone());
        let of_resource = ResourceMetrics { resource, scope_metrics, schema_url: String::new() };
        self.done.push(ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }.encode_to_vec());
    }

    fn data(&self, kind: Kind, points: Vec<Point>) -> Data {
        let points = points.into_iter();
        match kind {
            Kind::Gauge => {
                Data::Gauge(Gauge { data_points: points.map(|point| self.number(point, 0)).collect() })
            }
            Kind::Counter => Data::Sum(Sum {
                data_points: points.map(|point| self.number(point, self.since_ns)).collect(),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            Kind::Histogram => Data::Histogram(Histogram {
                data_points: points.map(|point| self.distribution(point)).collect(),
                aggregation_temporality: CUMULATIVE,
            }),
        }
    }

    fn number(&self, point: Point, since_ns: u64) -> NumberDataPoint {
        let value = match point.value {
            Value::Integer(value) => Some(number_data_point::Value::AsInt(value)),
            Value::Float(value) => Some(number_data_point::Value::AsDouble(value)),
            Value::Distribution { .. } => None,
        };
        NumberDataPoint {
            attributes: attributes(point.labels),
            start_time_unix_nano: since_ns,
            time_unix_nano: self.now_ns,
            value,
            ..NumberDataPoint::default()
        }
    }

    fn distribution(&self, point: Point) -> HistogramDataPoint {
        let (count, sum, buckets) = match point.value {
            Value::Distribution { count, sum, buckets } => (count, Some(sum), buckets),
            Value::Integer(_) | Value::Float(_) => (0, None, Vec::new()),
        };
        HistogramDataPoint {
            attributes: attributes(point.labels),
            start_time_unix_nano: self.since_ns,
            time_unix_nano: self.now_ns,
            count,
            sum,
            explicit_bounds: buckets
                .iter()
                .map(|(bound, _)| *bound)
                .filter(|bound| bound.is_finite())
                .collect(),
            bucket_counts: buckets.into_iter().map(|(_, count)| count).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

/// Who measured.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "segue".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn attributes(labels: Vec<(&'static str, String)>) -> Vec<KeyValue> {
    labels.into_iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: String) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(Any::StringValue(value)) }),
        ..KeyValue::default()
    }
}

fn unix_ns(at: Timestamp) -> u64 {
    at.as_nanosecond().try_into().unwrap_or(0)
}

/// What a receiver says it did not take of a request that it answered well.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Values, or spans.
    pub(super) count: u64,
    pub(super) message: String,
}

/// Reads an answer; `None` where all was taken. Words without a number are a warning, and no refusal. What cannot be read
/// is an answer of a receiver that does not say.
pub(super) fn refused(signal: Signal, body: &[u8]) -> Option<Refused> {
    let (count, message) = match signal {
        Signal::Metrics => {
            let partial = ExportMetricsServiceResponse::decode(body).ok()?.partial_success?;
            (partial.rejected_data_points, partial.error_message)
        }
        Signal::Traces => {
            let partial = ExportTraceServiceResponse::decode(body).ok()?.partial_success?;
            (partial.rejected_spans, partial.error_message)
        }
    };
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    Some(Refused { count, message })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn bodies() -> Bodies {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        Bodies::new(&Sender { node: "node-1".into(), since: at(1_000) }, at(2_000))
    }

    fn family(kind: Kind, name: &'static str, unit: Option<&'static str>, points: Vec<Point>) -> Family {
        Family { name, help: "Help.", unit, kind, points }
    }

    fn point(label: &str, value: Value) -> Point {
        Point { labels: vec![("of", label.to_owned())], value }
    }

    fn decoded(bodies: Bodies) -> Vec<ResourceMetrics> {
        let decode = |body: Vec<u8>| ExportMetricsServiceRequest::decode(&body[..]).expect("a message");
        bodies.finish().into_iter().flat_map(|body| decode(body).resource_metrics).collect()
    }

    #[test]
    fn each_kind_has_its_message() {
        let mut bodies = bodies();
        bodies.add(family(
            Kind::Counter,
            "a_sent_bytes_total",
            Some("bytes"),
            vec![point("x", Value::Integer(3))],
        ));
        bodies.add(family(Kind::Gauge, "a_share", None, vec![point("x", Value::Float(0.5))]));
        bodies.add(family(Kind::Gauge, "a_absent", None, Vec::new()));
        let buckets = vec![(0.1, 2), (0.2, 0), (f64::INFINITY, 1)];
        let value = Value::Distribution { count: 3, sum: 1.5, buckets };
        bodies.add(family(Kind::Histogram, "a_time_seconds", Some("seconds"), vec![point("x", value)]));
        let sent = decoded(bodies);
        let [one] = &sent[..] else { panic!("{sent:?}") };
        let resource: Vec<_> =
            one.resource.iter().flat_map(|of| &of.attributes).map(|of| &of.key[..]).collect();
        assert_eq!(resource, ["service.name", "service.version", "service.instance.id", "host.name"]);
        let [sum, gauge, histogram] = &one.scope_metrics[0].metrics[..] else { panic!("{one:?}") };
        let (since, now) = (1_000_000_000_000, 2_000_000_000_000);

        assert_eq!((&sum.name[..], &sum.unit[..]), ("a_sent_bytes", "By"));
        let Some(Data::Sum(data)) = &sum.data else { panic!("{sum:?}") };
        assert!(data.is_monotonic && data.aggregation_temporality == 2);
        let its = &data.data_points[0];
        assert_eq!((its.start_time_unix_nano, its.time_unix_nano), (since, now));
        assert_eq!(its.value, Some(number_data_point::Value::AsInt(3)));
        assert_eq!(its.attributes, [attribute("of", "x".to_owned())]);

        assert_eq!((&gauge.name[..], &gauge.unit[..]), ("a_share", ""));
        let Some(Data::Gauge(data)) = &gauge.data else { panic!("{gauge:?}") };
        assert_eq!(data.data_points[0].value, Some(number_data_point::Value::AsDouble(0.5)));

        assert_eq!((&histogram.name[..], &histogram.unit[..]), ("a_time_seconds", "s"));
        let Some(Data::Histogram(data)) = &histogram.data else { panic!("{histogram:?}") };
        let its = &data.data_points[0];
        assert_eq!((its.count, its.sum, its.start_time_unix_nano), (3, Some(1.5), since));
        assert_eq!((&its.explicit_bounds[..], &its.bucket_counts[..]), (&[0.1, 0.2][..], &[2, 0, 1][..]));
    }

    #[test]
    fn what_does_not_fit_in_a_request_goes_in_the_next_and_nothing_twice() {
        assert!(bodies().finish().is_empty(), "nothing is sent where there is nothing");
        let mut bodies = bodies();
        let many =
            |from: usize, to: usize| (from..to).map(|n| point(&n.to_string(), Value::Integer(1))).collect();
        bodies.add(family(Kind::Gauge, "a", None, many(0, 10)));
        bodies.add(family(Kind::Gauge, "b", None, many(10, 2 * MAX_POINTS + 5)));
        let sent = decoded(bodies);
        assert_eq!(sent.len(), 3);
        let mut seen = BTreeSet::new();
        let mut total = 0;
        for metric in sent.iter().flat_map(|one| &one.scope_metrics[0].metrics) {
            let Some(Data::Gauge(data)) = &metric.data else { panic!("{metric:?}") };
            total += data.data_points.len();
            seen.extend(data.data_points.iter().map(|point| format!("{:?}", point.attributes)));
        }
        assert_eq!((total, seen.len()), (2 * MAX_POINTS + 5, 2 * MAX_POINTS + 5));
    }

    #[test]
    fn a_partial_success_is_read() {
        let answer = |points, message: &str| {
            let partial = ExportMetricsPartialSuccess {
                rejected_data_points: points,
                error_message: message.to_owned(),
            };
            ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        let refused = |body: &[u8]| refused(Signal::Metrics, body);
        assert_eq!(refused(&answer(3, "old")), Some(Refused { count: 3, message: "old".to_owned() }));
        assert_eq!(refused(&answer(0, "a warning")), None);
        assert_eq!(refused(&answer(-1, "")), None);
        assert_eq!(refused(b""), None);
        assert_eq!(refused(b"{}"), None);
        let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "full".to_owned() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let expected = Refused { count: 2, message: "full".to_owned() };
        assert_eq!(super::refused(Signal::Traces, &body), Some(expected));
    }
}
