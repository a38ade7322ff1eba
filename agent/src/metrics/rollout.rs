//! Metrics of canaries, by service.

use std::fmt;

use super::balancing::destination;
use super::sheet::{Label, Metric, Sheet, label};
use crate::admin::view::{RolloutView, ServiceView};
use crate::rollout::{Cause, Phase};

const WEIGHT: Metric = Metric::gauge(
    "segue_rollout_weight_ratio",
    &["dst_namespace", "dst_service", "dst_port", "version"],
    "The canary's part of the connections to its service, 0 to 1.",
);
const PHASE: Metric = Metric::gauge(
    "segue_rollout_phase",
    &["dst_namespace", "dst_service", "dst_port", "phase"],
    "1 for the phase the canary of a service is in: progressing, paused, promoted, rolled_back; 0 for the others.",
);
const ROLLBACKS: Metric = Metric::counter(
    "segue_rollout_rollbacks_total",
    &["dst_namespace", "dst_service", "dst_port", "reason"],
    "Canaries rolled back, by reason: connect_failure_ratio, reset_ratio, connect_p99, request_error_ratio, operator.",
);
const ROLLED_BACK: Metric = Metric::gauge(
    "segue_rollout_rolled_back",
    &["dst_namespace", "dst_service", "dst_port", "reason"],
    "1 for the reason why the canary of a service gets no connections now, as in segue_rollout_rollbacks_total; 0 for the others.",
);
const STEPS: Metric = Metric::counter(
    "segue_rollout_steps_total",
    &["dst_namespace", "dst_service", "dst_port", "to"],
    "Steps of canaries: stepped_up to a larger share, promoted to every connection.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&WEIGHT, &PHASE, &ROLLED_BACK, &ROLLBACKS, &STEPS];

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, services: &[ServiceView]) -> fmt::Result {
    let all: Vec<(&ServiceView, &RolloutView)> =
        services.iter().filter_map(|service| Some((service, service.rollout.as_ref()?))).collect();
    sheet.gauge(
        &WEIGHT,
        all.iter().map(|(service, rollout)| {
            (with(service, "version", &rollout.version), f64::from(rollout.weight_permille) / 1_000.0)
        }),
    )?;
    let phases = all.iter().flat_map(|(service, rollout)| {
        let is = |phase: Phase| i64::from(phase == rollout.phase);
        Phase::ALL.iter().map(move |&phase| (with(service, "phase", phase.name()), is(phase)))
    });
    sheet.gauge(&PHASE, phases)?;
    let out = all.iter().flat_map(|(service, rollout)| {
        let is = |cause: Cause| i64::from(Some(cause) == rollout.cause);
        Cause::ALL.iter().map(move |&cause| (with(service, "reason", cause.name()), is(cause)))
    });
    sheet.gauge(&ROLLED_BACK, out)?;
    let rollbacks = all.iter().flat_map(|(service, rollout)| {
        rollout.rolled_back.iter().map(|(cause, count)| (with(service, "reason", cause.name()), *count))
    });
    sheet.counter(&ROLLBACKS, rollbacks)?;
    let steps = all.iter().flat_map(|(service, rollout)| {
        [("stepped_up", rollout.stepped_up), ("promoted", rollout.promoted)]
            .map(|(to, count)| (with(service, "to", to), count))
    });
    sheet.counter(&STEPS, steps)
}

fn with<'a>(service: &'a ServiceView, name: &'static str, value: &'a str) -> Vec<Label<'a>> {
    let mut labels = destination(service);
    labels.push(label(name, value));
    labels
}
