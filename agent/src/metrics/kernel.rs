//! Metrics of the kernel side: programs, maps, events and how runs ended.

use std::fmt;

use super::sheet::{Metric, Sheet, label, seconds};
use crate::admin::view::{Counters, Status};

const ATTACHED: Metric = Metric::gauge(
    "segue_bpf_program_attached",
    &["program", "hook"],
    "1 where the kernel has a link from the hook to the program.",
);
const RUNS: Metric = Metric::counter(
    "segue_bpf_program_runs_total",
    &["program", "hook"],
    "Runs of a program while runs were timed: a second of each minute.",
);
const RUN_TIME: Metric = Metric::counter(
    "segue_bpf_program_run_seconds_total",
    &["program", "hook"],
    "Time spent in a program while runs were timed.",
);
const TIMED: Metric = Metric::counter(
    "segue_bpf_program_timed_seconds_total",
    &[],
    "For how long the agent had runs timed; the run seconds of this time, divided by it, are the CPUs the programs use.",
);
const FEATURE: Metric =
    Metric::gauge("segue_kernel_feature", &["feature"], "1 where this kernel has the feature.");
const MAP_ENTRIES: Metric = Metric::gauge("segue_bpf_map_entries", &["map"], "Entries of a map in use.");
const MAP_MAX_ENTRIES: Metric =
    Metric::gauge("segue_bpf_map_max_entries", &["map"], "Entries a map can hold.");
const MAP_MEMORY: Metric =
    Metric::gauge("segue_bpf_map_memory_bytes", &["map"], "Kernel memory a map takes.");
const MAP_ERRORS: Metric = Metric::counter(
    "segue_bpf_map_update_errors_total",
    &["map", "errno"],
    "Map updates the kernel refused.",
);
const OUTCOMES: Metric = Metric::counter(
    "segue_outcomes_total",
    &["program", "outcome"],
    "Runs of a program by how they ended; every run ends in exactly one outcome.",
);
const EVENTS_LOST: Metric = Metric::counter(
    "segue_events_lost_total",
    &["source"],
    "What could not be recorded or delivered: ring (full event ring), edges (full edge table), affinity (refused entry), clients (full table: a connection did not count towards its client's limits), contended (a rate that other CPUs changed too often: refused), request_ring (full ring of single requests), follow (slow reader).",
);
const EVENTS_WRITTEN: Metric =
    Metric::counter("segue_events_written_total", &[], "Events the kernel wrote to the event ring.");

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[
    &ATTACHED,
    &RUNS,
    &RUN_TIME,
    &TIMED,
    &FEATURE,
    &MAP_ENTRIES,
    &MAP_MAX_ENTRIES,
    &MAP_MEMORY,
    &MAP_ERRORS,
    &OUTCOMES,
    &EVENTS_LOST,
    &EVENTS_WRITTEN,
];

/// Writes what the status shows of programs, maps and the kernel.
pub(super) fn write_status(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let programs = || {
        status
            .programs
            .iter()
            .map(|program| (vec![label("program", &program.name), label("hook", &program.hook)], program))
    };
    sheet.gauge(&ATTACHED, programs().map(|(labels, program)| (labels, u32::from(program.attached))))?;
    sheet.counter(&RUNS, programs().filter_map(|(labels, program)| Some((labels, program.runs?))))?;
    let run_times = programs().filter_map(|(labels, program)| Some((labels, seconds(program.run_time_ns?))));
    sheet.counter(&RUN_TIME, run_times)?;
    sheet.counter(&TIMED, [(Vec::new(), seconds(status.timed_ms.saturating_mul(1_000_000)))])?;
    let features = status.features.iter();
    sheet.gauge(
        &FEATURE,
        features.map(|feature| (vec![label("feature", &feature.name)], u32::from(feature.found))),
    )?;
    let maps = || status.maps.iter().map(|map| (vec![label("map", &map.name)], map));
    sheet.gauge(&MAP_ENTRIES, maps().map(|(labels, map)| (labels, map.entries)))?;
    sheet.gauge(&MAP_MAX_ENTRIES, maps().map(|(labels, map)| (labels, map.max_entries)))?;
    sheet.gauge(&MAP_MEMORY, maps().map(|(labels, map)| (labels, map.bytes)))
}

/// Writes what is counted of programs, maps and events.
pub(super) fn write_counters(sheet: &mut Sheet<'_>, counters: &Counters) -> fmt::Result {
    let errors = counters.map_update_errors.iter();
    sheet.counter(
        &MAP_ERRORS,
        errors.map(|(map, errno, count)| (vec![label("map", map), label("errno", errno)], *count)),
    )?;
    let outcomes = counters
        .outcomes
        .iter()
        .map(|run| (vec![label("program", run.program), label("outcome", run.outcome.name())], run.count));
    sheet.counter(&OUTCOMES, outcomes)?;
    let losses = counters.losses.iter();
    sheet.counter(&EVENTS_LOST, losses.map(|(source, count)| (vec![label("source", source)], *count)))?;
    sheet.counter(&EVENTS_WRITTEN, [(Vec::new(), counters.events_written)])
}
