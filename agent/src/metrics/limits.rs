//! Metrics of limits on connections, by service. Never by backend or client: `segue explain` and `segue services` say
//! more.

use std::fmt;

use super::balancing::destination;
use super::sheet::{Label, Metric, Sheet, label};
use crate::admin::view::{LimitView, ServiceView};

const ALLOWED: Metric = Metric::gauge(
    "segue_limit_allowed",
    &["dst_namespace", "dst_service", "dst_port", "limit"],
    "What a limit allows: connections, or for one whose name ends in rate, new connections per second. Only limits that are set.",
);
const USED: Metric = Metric::gauge(
    "segue_limit_used",
    &["dst_namespace", "dst_service", "dst_port", "limit"],
    "Connections that count towards a limit: of a backend's limit those of the backend with most, of a client's those of the client with most.",
);
const REACHED: Metric = Metric::counter(
    "segue_limit_reached_total",
    &["dst_namespace", "dst_service", "dst_port", "limit"],
    "Times a limit was reached: of a backend's, times a backend was passed over for the next; of the others, connections the service did not take.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] = &[&ALLOWED, &USED, &REACHED];

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, services: &[ServiceView]) -> fmt::Result {
    let each =
        || services.iter().flat_map(|service| service.limits.iter().map(move |limit| (service, limit)));
    sheet.gauge(&ALLOWED, each().map(|(service, limit)| (labels(service, limit), limit.most)))?;
    let used = each().filter_map(|(service, limit)| Some((labels(service, limit), limit.used?)));
    sheet.gauge(&USED, used)?;
    sheet.counter(&REACHED, each().map(|(service, limit)| (labels(service, limit), limit.reached)))
}

fn labels<'a>(service: &'a ServiceView, limit: &LimitView) -> Vec<Label<'a>> {
    let mut labels = destination(service);
    labels.push(label("limit", limit.limit.name()));
    labels
}
