//! What the control loop did, for those who ask later. Knows nothing of how it is shown.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::admin::view::CanaryView;
use crate::kernel::{self, MapError};
use crate::reconcile::{Report, SyncError};

/// The stage at which a source's configuration is looked at.
pub(super) const CHECK: &str = "check";
/// The stage at which all of it goes into the maps.
pub(super) const RECONCILE: &str = "reconcile";

/// What the control loop did.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) generation: u64,
    pub(super) applied_at: Option<Timestamp>,
    /// Why the newest of what a source said, or of what all said together, is not in force.
    errors: BTreeMap<&'static str, String>,
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
        self.errors.remove(RECONCILE);
        if let Some(refusal) = report.refused.first() {
            self.errors.insert(RECONCILE, refusal.reason.clone());
        }
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
        self.errors.insert(stage, error);
    }

    /// What a source says can be used again.
    pub(super) fn accepted(&mut self) {
        self.errors.remove(CHECK);
    }

    /// Why the newest configuration is not in force, if it is not.
    pub(super) fn error(&self) -> Option<String> {
        self.errors.values().next().cloned()
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
