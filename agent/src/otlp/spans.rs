//! Spans on their way to a receiver: a queue with an end, and a task that sends what is in it. Makes no span.
//!
//! What the receiver did not take yet is sent again, as long as it takes; meanwhile the queue fills, and what comes then is
//! lost and counted. A receiver that is gone costs the agent a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::message;
use super::pace::Pace;
use super::{Exports, Options, Outcome, Signal};
use crate::traces::Span;

/// Spans that wait at most, less than a megabyte or two of them.
const QUEUE: usize = 4_096;
/// Spans in one request: some 400 bytes each.
const BATCH: usize = 512;
/// For how long a span waits at most for others to go with it.
pub const GATHER: Duration = Duration::from_secs(1);

/// How many spans came to what. Each is counted once.
#[derive(Debug, Default)]
pub struct Counts {
    /// The receiver took them.
    pub sent: AtomicU64,
    /// It did not, for good.
    pub rejected: AtomicU64,
    /// The queue was full.
    pub queue_full: AtomicU64,
}

/// Where spans are put to be sent.
#[derive(Debug)]
pub struct SpanSender {
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
}

/// What is put there.
#[derive(Debug)]
pub struct SpanQueue {
    spans: mpsc::Receiver<Span>,
    counts: Arc<Counts>,
}

/// Both ends of a queue.
pub fn queue() -> (SpanSender, SpanQueue) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let counts = Arc::new(Counts::default());
    (SpanSender { queue, counts: Arc::clone(&counts) }, SpanQueue { spans, counts })
}

impl SpanSender {
    /// Puts a span into the queue, if there is room. Does not block.
    pub fn put(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counts.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many came to what.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// Sends until the task is aborted or nobody can put anything into the queue any more. `node` is what this node is called.
pub async fn run(options: Options, node: Arc<str>, exports: Arc<Exports>, mut queue: SpanQueue) {
    let client = Client::new(options, Signal::Traces);
    let mut pace = Pace::new(Duration::ZERO);
    while let Some(spans) = batch(&mut queue.spans).await {
        let body = message::spans::body(&spans, &node);
        let count = spans.len() as u64;
        drop(spans);
        loop {
            let outcome = client.send(body.clone()).await;
            exports.came(&outcome, Timestamp::now());
            exports.round(&outcome);
            let rejected = match &outcome {
                Outcome::Ok => 0,
                Outcome::Rejected { count: some, .. } => some.unwrap_or(count).min(count),
                Outcome::Failed { .. } => {
                    tokio::time::sleep(pace.after(&outcome)).await;
                    continue;
                }
            };
            pace.after(&outcome);
            queue.counts.rejected.fetch_add(rejected, Ordering::Relaxed);
            queue.counts.sent.fetch_add(count - rejected, Ordering::Relaxed);
            break;
        }
    }
}

/// The next spans to be sent together; `None` where there will be no more.
async fn batch(spans: &mut mpsc::Receiver<Span>) -> Option<Vec<Span>> {
    let mut batch = vec![spans.recv().await?];
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match timeout_at(until, spans.recv_many(&mut batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::Direction;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use prost::Message;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::Endpoint;
    use super::*;
    use crate::flows::identity;

    fn span() -> Span {
        let workload = identity::workload_of("/system.slice/nginx.service");
        message::spans::tests::span(workload, Direction::Outbound)
    }

    #[tokio::test]
    async fn what_does_not_fit_is_lost_and_counted() {
        let (sender, mut queue) = queue();
        (0..QUEUE + 3).for_each(|_| sender.put(span()));
        assert_eq!(sender.counts().queue_full.load(Ordering::Relaxed), 3);
        assert_eq!(
            batch(&mut queue.spans).await.map(|spans| spans.len()),
            Some(BATCH),
            "a whole batch waits for nothing"
        );
    }

    /// Takes one request and answers it; gives the path and how many spans it held.
    async fn serve(listener: &TcpListener, answer: &str) -> (String, usize) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = Vec::new();
        loop {
            assert!(stream.read_buf(&mut bytes).await.expect("a request") > 0);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            let length: usize = length.parse().expect("a number");
            if bytes.len() == end + 4 + length {
                stream.write_all(answer.as_bytes()).await.expect("sent");
                let request = ExportTraceServiceRequest::decode(&bytes[end + 4..]).expect("a message");
                let spans =
                    request.resource_spans.iter().flat_map(|of| &of.scope_spans).map(|of| of.spans.len());
                return (head.lines().next().unwrap_or_default().to_owned(), spans.sum());
            }
        }
    }

    #[tokio::test]
    async fn what_a_receiver_did_not_take_yet_is_sent_again_and_nothing_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}")).expect("a URL");
        let options = Options { endpoint, interval: GATHER, headers: Vec::new(), trust: None, traces: None };
        let exports = Arc::new(Exports::new(&options, Signal::Traces, GATHER));
        let (sender, queue) = queue();
        let counts = Arc::clone(&sender.counts);
        sender.put(span());
        sender.put(span());
        let task = tokio::spawn(run(options, "node-1".into(), Arc::clone(&exports), queue));
        let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        let (path, first) = serve(&listener, busy).await;
        assert_eq!((&path[..], first), ("post /v1/traces http/1.1", 2));
        let (_, second) = serve(&listener, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(second, 2, "the same");
        sender.put(span());
        // No room for more of it: an answer of 400 is for good.
        let (_, third) = serve(&listener, "HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(third, 1);
        drop(sender);
        task.await.expect("ends with the last sender");
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((load(&counts.sent), load(&counts.rejected), load(&counts.queue_full)), (2, 1, 0));
        let view = exports.view();
        assert_eq!((view.ok, view.failed, view.rejected), (1, 1, 1));
    }
}
