//! What happened between two service maps of one agent: rates, shares and times of each edge. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_ebpf::abi::Histogram;

use crate::admin::view::ServiceMap;
use crate::admin::view::service_map::{Durations, MapEdge};
use crate::flows::histogram;

/// From which share of failures an edge is failing, and not just hurt.
const FAILING: f64 = 0.05;

/// What went over an edge between two maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    /// For how long, in seconds.
    pub(super) seconds: f64,
    /// Connections established.
    pub(super) opened: u64,
    /// Connections not established.
    pub(super) failed: u64,
    /// Connections open at the end.
    pub(super) active: u64,
    /// Requests answered.
    pub(super) requests: u64,
    /// Of these, answered with a server's fault.
    pub(super) errors: u64,
    connect: Histogram,
    answer: Histogram,
}

/// How an edge does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    /// Nothing went over it.
    Idle,
    /// Nothing failed.
    Good,
    /// A few failed.
    Hurt,
    /// One in twenty failed, or more.
    Failing,
}

impl Traffic {
    /// Connections per second, those that failed too.
    pub(super) fn connections_per_second(&self) -> f64 {
        self.per_second(self.opened + self.failed)
    }

    /// Requests per second.
    pub(super) fn requests_per_second(&self) -> f64 {
        self.per_second(self.requests)
    }

    /// The larger of both shares: connections that failed, requests with a server's fault; 0 to 1. `None` where
    /// nothing was tried.
    pub(super) fn failed_share(&self) -> Option<f64> {
        let of = |part: u64, whole: u64| (whole > 0).then(|| as_f64(part) / as_f64(whole));
        let connections = of(self.failed, self.opened + self.failed);
        let requests = of(self.errors, self.requests);
        connections.into_iter().chain(requests).reduce(f64::max)
    }

    /// How it does.
    pub(super) fn health(&self) -> Health {
        match self.failed_share() {
            None => Health::Idle,
            Some(share) if share >= FAILING => Health::Failing,
            Some(share) if share > 0.0 => Health::Hurt,
            Some(_) => Health::Good,
        }
    }

    /// The time within which this share of requests was answered, in nanoseconds; of handshakes where there were no
    /// requests.
    pub(super) fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        let of = if self.requests > 0 { &self.answer } else { &self.connect };
        histogram::quantile_ns(of, quantile)
    }

    /// Adds what went over another edge in the same time.
    pub(super) fn add(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        self.opened += other.opened;
        self.failed += other.failed;
        self.active += other.active;
        self.requests += other.requests;
        self.errors += other.errors;
        histogram::add(&mut self.connect, &other.connect);
        histogram::add(&mut self.answer, &other.answer);
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { as_f64(count) / self.seconds } else { 0.0 }
    }
}

/// One edge and what went over it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flow {
    /// The id of the workload.
    pub(super) from: Arc<str>,
    /// The service.
    pub(super) to: Arc<str>,
    /// The version of the backends.
    pub(super) version: Option<Arc<str>>,
    /// What went over it.
    pub(super) traffic: Traffic,
}

type Key = (Arc<str>, Arc<str>, Option<Arc<str>>);

/// What went over every edge of `after` since `before`. An edge that is new counts as a whole, and so does one whose
/// totals fell: it was made anew.
pub(super) fn flows(before: &ServiceMap, after: &ServiceMap) -> Vec<Flow> {
    let seconds = as_f64(after.monotonic_ms.saturating_sub(before.monotonic_ms)) / 1_000.0;
    let old: BTreeMap<Key, &MapEdge> = before.edges.iter().map(|edge| (key(edge), edge)).collect();
    let flow = |edge: &MapEdge| {
        let now = total(edge, seconds);
        let then = old.get(&key(edge)).map(|edge| total(edge, seconds)).unwrap_or_default();
        let (from, to, version) = key(edge);
        Flow { from, to, version, traffic: since(now, &then) }
    };
    after.edges.iter().map(flow).collect()
}

fn key(edge: &MapEdge) -> Key {
    (Arc::clone(&edge.from), Arc::clone(&edge.to), edge.version.clone())
}

fn total(edge: &MapEdge, seconds: f64) -> Traffic {
    let mut answer = Histogram::default();
    for requests in &edge.requests {
        histogram::add(&mut answer, &of(&requests.duration));
    }
    Traffic {
        seconds,
        opened: edge.opened,
        failed: edge.failed.total(),
        active: edge.active,
        requests: edge.requests.iter().map(|requests| requests.count).sum(),
        errors: edge.requests.iter().map(|requests| requests.errors).sum(),
        connect: of(&edge.connect),
        answer,
    }
}

fn since(now: Traffic, then: &Traffic) -> Traffic {
    let fell = now.opened < then.opened || now.failed < then.failed || now.requests < then.requests;
    if fell {
        return now;
    }
    Traffic {
        opened: now.opened - then.opened,
        failed: now.failed - then.failed,
        requests: now.requests - then.requests,
        errors: now.errors.saturating_sub(then.errors),
        connect: histogram::since(&now.connect, &then.connect),
        answer: histogram::since(&now.answer, &then.answer),
        ..now
    }
}

fn of(durations: &Durations) -> Histogram {
    histogram::of_used(durations.sum_ns, &durations.buckets)
}

#[expect(clippy::cast_precision_loss, reason = "a rate among more than 2^53 connections may be off by one")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;

    fn maps() -> (ServiceMap, ServiceMap) {
        let before = Specimen::default().map().expect("a specimen");
        let mut after = before.clone();
        after.monotonic_ms += 2_000;
        (before, after)
    }

    #[test]
    fn rates_and_times_are_those_of_what_came_in_between() {
        let (before, mut after) = maps();
        let edge = &mut after.edges[1];
        edge.opened += 10;
        edge.requests[0].count += 40;
        edge.requests[0].errors += 1;
        // The last bucket: slower than everything before.
        edge.requests[0].duration.buckets.resize(12, 0);
        edge.requests[0].duration.buckets[11] = 40;
        let flow = flows(&before, &after).remove(1);
        let traffic = flow.traffic;
        assert_eq!((traffic.opened, traffic.requests, traffic.errors), (10, 40, 1));
        assert!((traffic.requests_per_second() - 20.0).abs() < 1e-9, "{traffic:?}");
        assert_eq!(traffic.failed_share(), Some(0.025));
        assert_eq!(traffic.health(), Health::Hurt);
        let p99 = traffic.quantile_ns(0.99).expect("requests");
        assert!((16_384_000..=32_768_000).contains(&p99), "{p99}");
    }

    #[test]
    fn an_edge_without_traffic_is_idle_and_one_made_anew_counts_as_a_whole() {
        let (before, mut after) = maps();
        after.edges[1].opened = 3;
        after.edges[1].requests.clear();
        let flows = flows(&before, &after);
        assert_eq!(flows[0].traffic.health(), Health::Idle);
        assert_eq!(flows[1].traffic.opened, 3);
    }

    #[test]
    fn of_connections_and_requests_the_worse_counts() {
        let traffic = Traffic { opened: 90, failed: 10, requests: 1_000, errors: 1, ..Traffic::default() };
        assert_eq!(traffic.failed_share(), Some(0.1));
        assert_eq!(traffic.health(), Health::Failing);
    }
}
