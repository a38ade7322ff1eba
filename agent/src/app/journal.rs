//! What the control loop did, for those who ask later. Knows nothing of how it is shown.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::admin::view::CanaryView;
use crate::kernel::{self, MapError};
use crate::reconcile::{Report, SyncError};

/// What the control loop did.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) generation: u64,
    pub(super) applied_at: Option<Timestamp>,
    pub(super) error: Option<String>,
    pub(super) failures: BTreeMap<&'static str, u64>,
    pub(super) map_errors: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) repairs: BTreeMap<&'static str, u64>,
    pub(super) canary: CanaryView,
}

impl Journal {
    /// A desired state was applied.
    pub(super) fn applied(&mut self, report: &Report) {
        self.generation += 1;
        self.applied_at = Some(Timestamp::now());
        self.error = report.refused.first().map(|refusal| refusal.reason.clone());
        self.count_failures(report);
    }

    /// Maps were compared with the intent.
    pub(super) fn repaired(&mut self, report: &Report) {
        for (map, count) in report.repaired.by_map() {
            if count > 0 {
                *self.repairs.entry(map).or_default() += count;
            }
        }
        self.count_failures(report);
    }

    /// A configuration could not be used.
    pub(super) fn rejected(&mut self, stage: &'static str, error: String) {
        *self.failures.entry(stage).or_default() += 1;
        self.error = Some(error);
    }

    /// What a reconciliation could not do.
    pub(super) fn count_failures(&mut self, report: &Report) {
        for failure in &report.failed {
            *self.failures.entry("write").or_default() += 1;
            if let SyncError::Map(error) = &failure.error {
                self.count_map_error(error);
            }
        }
        for _ in &report.refused {
            *self.failures.entry("compile").or_default() += 1;
        }
    }

    /// A map operation that failed.
    pub(super) fn count_map_error(&mut self, error: &MapError) {
        *self.map_errors.entry((error.map, kernel::errno_name(&error.source))).or_default() += 1;
    }
}
