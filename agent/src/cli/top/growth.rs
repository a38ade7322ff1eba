//! How much the counts of edges grew between two samples, added up and told per second. Pure.

use agent_ebpf::abi::Histogram;

use super::sample::{Pace, Unit};
use crate::flows::{EdgeView, histogram};

/// How much a count rose; all of it where it was begun anew in between.
pub(super) fn grown(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn grown_histogram(now: &Histogram, before: Option<&Histogram>) -> Histogram {
    match before {
        Some(before) if histogram::count(now) >= histogram::count(before) => histogram::since(now, before),
        _ => *now,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate may be off by one in 2^53")]
pub(super) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a share may be off by one in 2^53")]
fn share(bad: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| 1.0 - bad as f64 / all as f64)
}

/// Counts of one edge, or the sum of several, between two samples.
#[derive(Clone, Copy, Default)]
pub(super) struct Growth {
    /// Connections established.
    pub(super) opened: u64,
    failed: u64,
    /// Connections open now.
    pub(super) open: u64,
    connect: Histogram,
    requests: u64,
    errors: u64,
    answers: Histogram,
    speaks: bool,
}

impl Growth {
    /// What an edge grew by.
    pub(super) fn of(now: &EdgeView, before: Option<&EdgeView>) -> Self {
        let failed = now.failed.total();
        let mut growth = Self {
            opened: grown(now.opened, before.map_or(0, |edge| edge.opened)),
            failed: grown(failed, before.map_or(0, |edge| edge.failed.total())),
            open: now.active,
            connect: grown_histogram(&now.connect.histogram, before.map(|edge| &edge.connect.histogram)),
            speaks: !now.requests.is_empty(),
            ..Self::default()
        };
        for part in &now.requests {
            let earlier = before
                .and_then(|edge| edge.requests.iter().find(|earlier| earlier.protocol == part.protocol));
            growth.requests += grown(part.count, earlier.map_or(0, |part| part.count));
            growth.errors += grown(part.errors, earlier.map_or(0, |part| part.errors));
            let answers =
                grown_histogram(&part.duration.histogram, earlier.map(|part| &part.duration.histogram));
            histogram::add(&mut growth.answers, &answers);
        }
        growth
    }

    /// Adds what another grew by.
    pub(super) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.open += other.open;
        self.requests += other.requests;
        self.errors += other.errors;
        self.speaks |= other.speaks;
        histogram::add(&mut self.connect, &other.connect);
        histogram::add(&mut self.answers, &other.answers);
    }

    /// What that is in so many seconds.
    pub(super) fn pace(&self, seconds: f64) -> Pace {
        let unit = if self.speaks { Unit::Request } else { Unit::Connect };
        let success = match unit {
            Unit::Request => share(self.errors + self.failed, self.requests + self.failed),
            Unit::Connect => share(self.failed, self.opened + self.failed),
        };
        Pace {
            unit,
            connects_per_s: per_second(self.opened, seconds),
            failures_per_s: per_second(self.failed, seconds),
            requests_per_s: self.speaks.then(|| per_second(self.requests, seconds)),
            success,
            times: if self.speaks { self.answers } else { self.connect }.into(),
            open: self.open,
        }
    }
}
