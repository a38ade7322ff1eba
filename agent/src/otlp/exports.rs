//! What came of sending, counted and told: to the log once per change, to the status always. Sends nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{Options, Outcome, Signal};
use crate::admin::view::OtlpView;

/// See the module.
#[derive(Debug)]
pub struct Exports {
    signal: Signal,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    view: OtlpView,
    /// How the last reading that was sent went; `None` before the first.
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Ok,
    Rejected,
    Failed,
}

impl Exports {
    /// Nothing was sent yet. `interval` is how often it is, at least while there is something to send.
    pub fn new(options: &Options, signal: Signal, interval: Duration) -> Self {
        let view = OtlpView {
            endpoint: options.endpoint.url(signal),
            interval_ms: interval.as_millis().try_into().unwrap_or(u64::MAX),
            ok: 0,
            rejected: 0,
            failed: 0,
            rejected_points: 0,
            last_ok: None,
            error: None,
        };
        Self { signal, record: Mutex::new(Record { view, told: None }) }
    }

    /// How it stands.
    pub fn view(&self) -> OtlpView {
        self.lock().view.clone()
    }

    /// Counts a request.
    pub(super) fn came(&self, outcome: &Outcome, now: Timestamp) {
        let view = &mut self.lock().view;
        match outcome {
            Outcome::Ok => {
                view.ok += 1;
                view.last_ok = Some(now);
            }
            Outcome::Rejected { count, .. } => {
                view.rejected += 1;
                view.rejected_points = view.rejected_points.saturating_add(count.unwrap_or(0));
            }
            Outcome::Failed { .. } => view.failed += 1,
        }
    }

    /// Takes in how all requests of one reading went together.
    pub(super) fn round(&self, outcome: &Outcome) {
        let record = &mut *self.lock();
        let endpoint = &record.view.endpoint;
        let (told, error) = match outcome {
            Outcome::Ok => (Told::Ok, None),
            Outcome::Rejected { error, .. } => (Told::Rejected, Some(error)),
            Outcome::Failed { error, .. } => (Told::Failed, Some(error)),
        };
        let what = self.signal.name();
        if record.told.replace(told) != Some(told) {
            match error {
                None => tracing::info!(endpoint, "{what} are sent by OTLP"),
                Some(error) if told == Told::Rejected => {
                    tracing::warn!(endpoint, "the receiver of OTLP does not take all {what}: {error}");
                }
                Some(error) => {
                    tracing::warn!(endpoint, "{what} cannot be sent by OTLP, it is tried again: {error}");
                }
            }
        }
        record.view.error = error.cloned();
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // Counts are whole at any moment.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
