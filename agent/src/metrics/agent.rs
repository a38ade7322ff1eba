//! Metrics of the agent itself: what it is, what it applied, and what it could not name or read.

use std::borrow::Cow;
use std::fmt;

use super::sheet::{Metric, Sheet, label};
use crate::admin::view::{CanaryState, Counters, HeldView, Status, TracesView};
use crate::desired::guard::Loss;
use crate::discovery::SourceKind;

/// The source of what was found in the maps at the start.
const FOUND: &str = "found";

const BUILD: Metric = Metric::gauge(
    "segue_build_info",
    &["version", "abi"],
    "Always 1; the agent's version and that of its map layouts.",
);
const GENERATION: Metric = Metric::gauge(
    "segue_config_generation",
    &[],
    "How often a change of services was applied since the agent started.",
);
const REJECTED: Metric = Metric::gauge(
    "segue_config_rejected",
    &[],
    "1 where the newest configuration, or a part of it, is not in force and the one before still is.",
);
const HELD: Metric = Metric::gauge(
    "segue_deletions_held",
    &["source", "loss"],
    "Services that a source takes away (service), or their backends (every_backend, backends), all at once, and that stay \
     until `segue accept`; source=\"found\": services found at the start that no source names.",
);
const CANARY: Metric = Metric::gauge(
    "segue_canary_reached",
    &[],
    "1 where the agent's own test connection reached its backend, 0 where it did not; absent before the first.",
);
const APPLY_FAILURES: Metric = Metric::counter(
    "segue_config_apply_failures_total",
    &["stage"],
    "Changes that could not be applied, by the stage that refused them.",
);
const REPAIRS: Metric = Metric::counter(
    "segue_repairs_total",
    &["target"],
    "Differences between the maps and what should be in them that were found and put right.",
);
const UNRESOLVED: Metric = Metric::counter(
    "segue_identity_unresolved_total",
    &["side"],
    "Cgroups that were gone before they could be named.",
);
const UNNAMED: Metric = Metric::gauge(
    "segue_identity_pods_unnamed",
    &[],
    "Pods that run on this node and are named by their UID, because no API server has told whose they are.",
);
const LEFT_ALONE: Metric = Metric::gauge(
    "segue_identity_pods_left_alone",
    &[],
    "Pods whose connections go on untouched, because they or their namespace say segue.dev/manage: \"false\".",
);
const OVERFLOW: Metric = Metric::counter(
    "segue_series_limit_overflow_total",
    &["metric"],
    "Edges that were summed in the series otel_metric_overflow=\"true\" because the limit on series was reached.",
);
const SCRAPE_ERRORS: Metric = Metric::counter(
    "segue_scrape_errors_total",
    &["subject"],
    "Scrapes that had to leave a subject out because it could not be read.",
);
const OTLP_EXPORTS: Metric = Metric::counter(
    "segue_otlp_exports_total",
    &["signal", "outcome"],
    "Requests of `--otlp` to a receiver: ok, rejected (all or a part of it, and not sent again) or failed (the next one follows \
     later and later); absent without the option.",
);

const OTLP_SPANS: Metric = Metric::counter(
    "segue_otlp_spans_total",
    &["outcome"],
    "Requests sampled by `--otlp-traces`, by what became of their span: sent, rejected (by the receiver, for good), queue_full \
     (the receiver was too slow, or gone) or declined (none was made: the application does not record the trace); absent without \
     the option.",
);
const OTLP_HEADLESS: Metric = Metric::counter(
    "segue_otlp_spans_headless_total",
    &[],
    "Spans that do not know what the application says of its trace (`traceparent`), because the beginning of the request was lost \
     or came in pieces; absent without `--otlp-traces`.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[
    &BUILD,
    &GENERATION,
    &REJECTED,
    &HELD,
    &CANARY,
    &APPLY_FAILURES,
    &REPAIRS,
    &UNRESOLVED,
    &UNNAMED,
    &LEFT_ALONE,
    &OVERFLOW,
    &SCRAPE_ERRORS,
    &OTLP_EXPORTS,
    &OTLP_SPANS,
    &OTLP_HEADLESS,
];

/// Writes what the status shows of the agent.
pub(super) fn write_status(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let build = vec![label("version", &status.version), ("abi", Cow::Owned(status.abi.to_string()))];
    sheet.gauge(&BUILD, [(build, 1_u32)])?;
    sheet.gauge(&GENERATION, [(Vec::new(), status.config.generation)])?;
    sheet.gauge(&REJECTED, [(Vec::new(), u32::from(status.config.error.is_some()))])?;
    let sources = SourceKind::ALL.iter().map(|source| source.name()).chain([FOUND]);
    let held = sources.flat_map(|source| {
        Loss::ALL.iter().map(move |&loss| {
            let is_it =
                |view: &&HeldView| (view.source.as_deref().unwrap_or(FOUND), view.loss) == (source, loss);
            let labels = vec![label("source", source), label("loss", loss.name())];
            (labels, status.held.iter().filter(is_it).count() as u64)
        })
    });
    sheet.gauge(&HELD, held)?;
    let of_metrics = status.otlp.iter().map(|view| ("metrics", view));
    let of_traces = status.traces.iter().map(|view| ("traces", &view.sending));
    let exports = of_metrics.chain(of_traces).flat_map(|(signal, view)| {
        view.counts()
            .map(|(outcome, count)| (vec![label("signal", signal), label("outcome", outcome)], count))
    });
    sheet.counter(&OTLP_EXPORTS, exports)?;
    let spans = status.traces.iter().flat_map(TracesView::spans);
    sheet.counter(&OTLP_SPANS, spans.map(|(outcome, count)| (vec![label("outcome", outcome)], count)))?;
    sheet.counter(&OTLP_HEADLESS, status.traces.iter().map(|view| (Vec::new(), view.headless)))?;
    sheet.gauge(&UNNAMED, [(Vec::new(), status.clients.pods_unnamed)])?;
    sheet.gauge(&LEFT_ALONE, [(Vec::new(), status.clients.left_alone)])?;
    let canary = match status.canary.state {
        CanaryState::Pending => None,
        CanaryState::Ok => Some(1_u32),
        CanaryState::Failed => Some(0),
    };
    sheet.gauge(&CANARY, canary.map(|reached| (Vec::new(), reached)))
}

/// Writes what is counted of the agent.
pub(super) fn write_counters(sheet: &mut Sheet<'_>, counters: &Counters) -> fmt::Result {
    let failures = counters.config_apply_failures.iter();
    sheet.counter(&APPLY_FAILURES, failures.map(|(stage, count)| (vec![label("stage", stage)], *count)))?;
    let repairs = counters.repairs.iter();
    sheet.counter(&REPAIRS, repairs.map(|(target, count)| (vec![label("target", target)], *count)))?;
    sheet.counter(&UNRESOLVED, [(vec![label("side", "client")], counters.identity_unresolved)])?;
    sheet.counter(&OVERFLOW, [(vec![label("metric", "edges")], counters.series_overflow)])
}

/// Writes how often each subject could not be read.
pub(super) fn write_scrape_errors(
    sheet: &mut Sheet<'_>,
    errors: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    sheet.counter(&SCRAPE_ERRORS, errors.map(|(subject, count)| (vec![label("subject", subject)], count)))
}
