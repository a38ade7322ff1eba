//! Metrics of what observing costs, and of what is left out for it.

use std::borrow::Cow;
use std::fmt;

use super::sheet::{Metric, Sheet, label};
use crate::admin::view::BudgetView;
use crate::governor::Detail;

const SHARE: Metric = Metric::gauge(
    "segue_overhead_ratio",
    &[],
    "Part of the time of all processors of the host that programs and agent took, as last sampled; without CAP_SYS_ADMIN, the \
     agent alone. Absent without `--overhead-budget`, as are the others of this subject.",
);
const BUDGET: Metric = Metric::gauge("segue_overhead_budget_ratio", &[], "The part they may take.");
const DETAIL: Metric = Metric::gauge(
    "segue_observation_detail",
    &["detail"],
    "1 for how much is observed: full, no_events (single connections and requests are not told), no_requests (nor are requests \
     read) or rare_walks (nor are open sockets often walked over).",
);
const STEPS: Metric = Metric::counter(
    "segue_observation_steps_total",
    &["direction"],
    "Times less (down) or more (up) was observed from then on, for what it cost.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&SHARE, &BUDGET, &DETAIL, &STEPS];

/// Writes how the budget is kept, where there is one.
pub(super) fn write(sheet: &mut Sheet<'_>, budget: Option<&BudgetView>) -> fmt::Result {
    let views = || budget.into_iter();
    sheet.gauge(&SHARE, views().filter_map(|view| Some((Vec::new(), view.share?))))?;
    sheet.gauge(&BUDGET, views().map(|view| (Vec::new(), view.budget)))?;
    let details = views().flat_map(|view| {
        Detail::ALL.iter().map(|detail| {
            (vec![("detail", Cow::Borrowed(detail.name()))], u32::from(view.detail == detail.name()))
        })
    });
    sheet.gauge(&DETAIL, details)?;
    let steps = views().flat_map(|view| {
        [("down", view.steps_down), ("up", view.steps_up)]
            .map(|(direction, steps)| (vec![label("direction", direction)], steps))
    });
    sheet.counter(&STEPS, steps)
}
