//! How it stands with the receiver of OpenTelemetry. Knows no request.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What came of sending metrics to a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtlpView {
    /// Where they are sent.
    pub endpoint: String,
    /// How often, in milliseconds.
    pub interval_ms: u64,
    /// Requests that the receiver took whole.
    pub ok: u64,
    /// Requests that the receiver refused, all or a part of it, for good.
    pub rejected: u64,
    /// Requests that did not reach the receiver, or came at a bad time for it.
    pub failed: u64,
    /// Single values that the receiver said it did not take.
    pub rejected_points: u64,
    /// When it last took a whole request; null where it never did.
    pub last_ok: Option<Timestamp>,
    /// What was wrong with the newest request, in words; null where nothing was.
    pub error: Option<String>,
}

/// What came of spans of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TracesView {
    /// The share of requests of which they are made.
    pub share: f64,
    /// Spans the receiver took.
    pub sent: u64,
    /// Spans it did not take, for good.
    pub rejected: u64,
    /// Spans that were lost because the queue to it was full.
    pub queue_full: u64,
    /// Requests without a span, because their application says that it does not record their trace.
    pub declined: u64,
    /// Spans that do not know what the application says of its trace, because it was lost, or came in pieces.
    pub headless: u64,
    /// The requests to the receiver.
    pub sending: OtlpView,
}

impl TracesView {
    /// What became of sampled requests, by name, with how many did.
    pub(crate) fn spans(&self) -> [(&'static str, u64); 4] {
        [
            ("sent", self.sent),
            ("rejected", self.rejected),
            ("queue_full", self.queue_full),
            ("declined", self.declined),
        ]
    }
}

impl OtlpView {
    /// The outcomes by name, with how often each was.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        [("ok", self.ok), ("rejected", self.rejected), ("failed", self.failed)]
    }
}
