//! A receiver of OpenTelemetry for tests: it takes metrics and spans by OTLP over HTTP, remembers what it was told, and answers
//! as it is told to, also with a refusal. Knows no metric by name.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use crate::exposition::Sample;
use crate::namespace::Namespace;

/// What the receiver answers.
#[derive(Clone, Debug, Default)]
pub enum Answer {
    /// It takes everything.
    #[default]
    Ok,
    /// It says that it did not take so many points.
    Partial(i64),
    /// It has no time, and says for how many seconds.
    Busy(u32),
    /// It takes a request and never answers.
    Silence,
}

/// What was told in one request.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The headers of the request, in lower case.
    pub headers: BTreeMap<String, String>,
    /// The attributes of the resource.
    pub resource: BTreeMap<String, String>,
    /// The points, by the names and in the parts that the Prometheus text has, but for `_bucket`.
    pub samples: Vec<Sample>,
    /// When the counts began, in nanoseconds since 1970.
    pub since_ns: u64,
}

/// One span.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// It is of the side that asks.
    pub is_client: bool,
    /// Its name.
    pub name: String,
    /// Trace, span and parent in hexadecimal; the last is empty where there is none.
    pub ids: [String; 3],
    /// When it began and ended, in nanoseconds since 1970.
    pub times_ns: [u64; 2],
    /// Numbers and texts, as text.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Vec<Told>>,
    spans: Mutex<Vec<Span>>,
    answer: Mutex<Answer>,
    stop: AtomicBool,
}

/// The receiver.
pub struct Receiver {
    shared: Arc<Shared>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    /// A receiver in a namespace of a test.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn start(namespace: &Namespace, at: &str) -> Self {
        let listener = namespace.run(|| TcpListener::bind(at));
        let listener = listener.unwrap_or_else(|error| panic!("a receiver at {at}: {error}"));
        let shared = Arc::new(Shared::default());
        let (accepting, state) = (listener.try_clone().expect("a second descriptor"), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            // One at a time: that is what an agent sends.
            while let Ok((stream, _)) = accepting.accept() {
                if state.stop.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away in the middle is what some tests are about.
                let _gone = serve(&stream, &state);
            }
        });
        Self { shared, listener, thread: Some(thread) }
    }

    /// Answers like this from now on.
    pub fn answer(&self, answer: Answer) {
        *lock(&self.shared.answer) = answer;
    }

    /// Every span it was sent, in the order in which they came.
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.shared.spans).clone()
    }

    /// How many requests with metrics it was sent.
    pub fn requests(&self) -> usize {
        lock(&self.shared.told).len()
    }

    /// What it was told last.
    pub fn last(&self) -> Option<Told> {
        lock(&self.shared.told).last().cloned()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // SAFETY: shutdown takes a descriptor, which is open, and an integer. It ends accept() on it.
        unsafe { libc::shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.listener), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let is_of_spans = match line.as_str() {
        "POST /v1/metrics HTTP/1.1\r\n" => false,
        "POST /v1/traces HTTP/1.1\r\n" => true,
        other => panic!("{other}"),
    };
    let mut told = Told::default();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        told.headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = told.headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.expect("a length")];
    reader.read_exact(&mut body)?;
    if is_of_spans {
        return serve_spans(stream, &body, shared);
    }
    read(&ExportMetricsServiceRequest::decode(&body[..]).expect("a message of OTLP"), &mut told);
    lock(&shared.told).push(told);
    let answer = lock(&shared.answer).clone();
    let (status, more, body) = match answer {
        Answer::Ok => ("200 OK", String::new(), ExportMetricsServiceResponse::default()),
        Answer::Partial(rejected_data_points) => {
            let partial =
                ExportMetricsPartialSuccess { rejected_data_points, error_message: "too\nold".into() };
            let body = ExportMetricsServiceResponse { partial_success: Some(partial) };
            ("200 OK", String::new(), body)
        }
        Answer::Busy(seconds) => {
            let more = format!("Retry-After: {seconds}\r\n");
            ("503 Service Unavailable", more, ExportMetricsServiceResponse::default())
        }
        Answer::Silence => {
            // Until the client has gone.
            stream.set_read_timeout(None)?;
            return reader.read(&mut [0]).map(drop);
        }
    };
    respond(stream, status, &more, &body.encode_to_vec())
}

fn respond(mut stream: &TcpStream, status: &str, more: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\n{more}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// Takes spans, or says to come again in a second: what it does not take it does not remember.
fn serve_spans(stream: &TcpStream, body: &[u8], shared: &Shared) -> std::io::Result<()> {
    let request = ExportTraceServiceRequest::decode(body).expect("a message of OTLP");
    if !matches!(*lock(&shared.answer), Answer::Ok) {
        return respond(stream, "503 Service Unavailable", "Retry-After: 1\r\n", &[]);
    }
    let mut spans = lock(&shared.spans);
    for of_resource in &request.resource_spans {
        let resource = texts(of_resource.resource.iter().flat_map(|resource| &resource.attributes));
        for span in of_resource.scope_spans.iter().flat_map(|of_scope| &of_scope.spans) {
            let hexadecimal = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
            spans.push(Span {
                service: resource["service.name"].clone(),
                is_client: span.kind() == SpanKind::Client,
                name: span.name.clone(),
                ids: [&span.trace_id, &span.span_id, &span.parent_span_id].map(|id| hexadecimal(id)),
                times_ns: [span.start_time_unix_nano, span.end_time_unix_nano],
                attributes: texts(&span.attributes),
            });
        }
    }
    respond(stream, "200 OK", "", &ExportTraceServiceResponse::default().encode_to_vec())
}

fn read(request: &ExportMetricsServiceRequest, told: &mut Told) {
    for of_resource in &request.resource_metrics {
        told.resource = texts(of_resource.resource.iter().flat_map(|resource| &resource.attributes));
        for metric in of_resource.scope_metrics.iter().flat_map(|of_scope| &of_scope.metrics) {
            read_metric(metric, told);
        }
    }
}

fn read_metric(metric: &Metric, told: &mut Told) {
    let numbers = match metric.data.as_ref().expect("a metric has data") {
        Data::Gauge(gauge) => (metric.name.clone(), &gauge.data_points),
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && cumulative(sum.aggregation_temporality), "{}", metric.name);
            told.since_ns = sum.data_points[0].start_time_unix_nano;
            (format!("{}_total", metric.name), &sum.data_points)
        }
        Data::Histogram(histogram) => {
            assert!(cumulative(histogram.aggregation_temporality), "{}", metric.name);
            for point in &histogram.data_points {
                assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{}", metric.name);
                assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{}", metric.name);
                let labels = texts(&point.attributes);
                for (part, value) in [("_count", point.count as f64), ("_sum", point.sum.expect("a sum"))] {
                    let name = format!("{}{part}", metric.name);
                    told.samples.push(Sample { name, labels: labels.clone(), value });
                }
            }
            return;
        }
        other => panic!("{} is of no kind that the agent has: {other:?}", metric.name),
    };
    for point in numbers.1 {
        let value = match point.value.expect("a point has a value") {
            number_data_point::Value::AsInt(value) => value as f64,
            number_data_point::Value::AsDouble(value) => value,
        };
        let (name, labels) = (numbers.0.clone(), texts(&point.attributes));
        told.samples.push(Sample { name, labels, value });
    }
}

fn cumulative(temporality: i32) -> bool {
    temporality == AggregationTemporality::Cumulative as i32
}

fn texts<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match &attribute.value.as_ref()?.value {
        Some(Any::StringValue(text)) => Some((attribute.key.clone(), text.clone())),
        Some(Any::IntValue(number)) => Some((attribute.key.clone(), number.to_string())),
        _ => None,
    };
    attributes.into_iter().filter_map(text).collect()
}
