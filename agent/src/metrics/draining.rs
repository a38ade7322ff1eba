//! Metrics of what becomes of the open connections of backends that are out.

use std::fmt;

use super::sheet::{Metric, Sheet, label};
use crate::admin::view::Counters;
use crate::flows::split_service_name;

const RESET: Metric = Metric::counter(
    "segue_connections_reset_total",
    &["dst_namespace", "dst_service", "reason"],
    "Open connections reset because their backend was out for longer than the policy allows, by why it was: removed, draining, ejected. Only services that had some.",
);
const FAILED: Metric = Metric::counter(
    "segue_connection_resets_failed_total",
    &["cause"],
    "Times a connection was to be reset and could not be: its network namespace cannot be entered (network_namespace), or the kernel refused (refused). It is tried again every second.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&RESET, &FAILED];

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, counters: &Counters) -> fmt::Result {
    let reset = counters.connections_reset.iter().map(|(service, reason, count)| {
        let (namespace, name) = split_service_name(service);
        (vec![label("dst_namespace", namespace), label("dst_service", name), label("reason", reason)], *count)
    });
    sheet.counter(&RESET, reset)?;
    let failed = counters.connection_resets_failed.iter();
    sheet.counter(&FAILED, failed.map(|(cause, count)| (vec![label("cause", cause)], *count)))
}
