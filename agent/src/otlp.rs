//! Sends the agent's metrics, and spans of requests, to a receiver of OpenTelemetry: OTLP over HTTP, in protobuf. Knows no
//! metric by name; the messages are in [`message`].
//!
//! Of metrics always the newest values, one request at a time, by a task of its own: a receiver that is slow or gone costs the
//! agent nothing but the next reading. Spans wait in a queue of their own ([`spans`]).

mod client;
mod exports;
mod message;
mod pace;
mod settings;
pub mod spans;
mod tls;

use std::sync::Arc;

use jiff::Timestamp;

use crate::metrics::Exposition;
use client::Client;
pub use exports::Exports;
use message::Bodies;
use pace::Pace;
pub use settings::{Endpoint, HEADERS_VARIABLE, Header, Options, Tracing, interval, share};
pub use tls::Trust;

/// Who sends, as the receiver is told.
#[derive(Clone, Debug)]
pub struct Sender {
    /// What this node is called.
    pub node: Arc<str>,
    /// Since when it counts.
    pub since: Timestamp,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The agent's metrics.
    Metrics,
    /// Spans of requests.
    Traces,
}

impl Signal {
    /// The name in paths, labels and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// What a request holds many of.
    const fn units(self) -> &'static str {
        match self {
            Self::Metrics => "values",
            Self::Traces => "spans",
        }
    }
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// All of it was taken.
    Ok,
    /// The receiver will not take it, or not so many values or spans of it. It is not sent again.
    Rejected { count: Option<u64>, error: String },
    /// It did not arrive, or came at a bad time; the receiver may have said for how long it wants to be left alone.
    Failed { error: String, retry_after: Option<std::time::Duration> },
}

/// Reads and sends until the task is aborted.
pub async fn run(options: Options, sender: Sender, exports: Arc<Exports>, exposition: Exposition) {
    let exposition = Arc::new(exposition);
    let mut pace = Pace::new(options.interval);
    let client = Client::new(options, Signal::Metrics);
    tokio::time::sleep(pace.first()).await;
    loop {
        let (exposition, sender) = (Arc::clone(&exposition), sender.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut bodies = Bodies::new(&sender, Timestamp::now());
            exposition.each(&mut |family| bodies.add(family));
            bodies.finish()
        });
        let mut newest = Outcome::Ok;
        // A panic while reading has said so itself.
        for body in read.await.unwrap_or_default() {
            let outcome = client.send(body).await;
            exports.came(&outcome, Timestamp::now());
            let failed = matches!(outcome, Outcome::Failed { .. });
            if outcome != Outcome::Ok {
                newest = outcome;
            }
            if failed {
                break;
            }
        }
        exports.round(&newest);
        tokio::time::sleep(pace.after(&newest)).await;
    }
}
