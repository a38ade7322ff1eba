//! What the specimen has sent to a collector.

use super::super::view::{OtlpView, TracesView};
use super::ago;

pub(super) fn metrics() -> OtlpView {
    OtlpView {
        endpoint: "http://collector:4318/v1/metrics".to_owned(),
        interval_ms: 15_000,
        ok: 480,
        rejected: 1,
        failed: 3,
        rejected_points: 12,
        last_ok: Some(ago(15)),
        error: None,
    }
}

pub(super) fn traces() -> TracesView {
    TracesView {
        share: 0.01,
        sent: 9_120,
        rejected: 12,
        queue_full: 3,
        declined: 40,
        headless: 2,
        sending: OtlpView {
            endpoint: "http://collector:4318/v1/traces".to_owned(),
            interval_ms: 1_000,
            ok: 310,
            rejected: 1,
            failed: 2,
            rejected_points: 12,
            last_ok: Some(ago(2)),
            error: None,
        },
    }
}
