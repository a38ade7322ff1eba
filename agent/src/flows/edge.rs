//! One edge as people and scripts read it: from one workload to one version of one service.

use std::sync::Arc;

use agent_ebpf::abi::{CloseReason, ConnectFailure, Edge, Histogram};
use serde::{Deserialize, Serialize};

use super::histogram::{self, Distribution};
use super::identity::Workload;
use super::requests::{RequestView, Requests};
use super::tally::Tally;

/// What one workload's connections to one version of one service did, since the edge was first seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeView {
    /// Who connects.
    pub client: Arc<Workload>,
    /// The service's full name, as in `shop/payment`.
    pub service: Arc<str>,
    /// The port of the service's first frontend.
    pub port: u16,
    /// The version of the backends; null where they have none.
    pub version: Option<Arc<str>>,
    /// This is the sum of all edges beyond the limit on series; it names no client and no service.
    pub overflow: bool,
    /// Connections established.
    pub opened: u64,
    /// Connections open now.
    pub active: u64,
    /// Connections ended, by reason.
    pub closed: Tally<CloseReason>,
    /// Connections not established, by reason.
    pub failed: Tally<ConnectFailure>,
    /// Payload bytes the backends acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes received from the backends.
    pub received_bytes: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Time from `connect()` to the end of a handshake that succeeded.
    pub connect: Distribution,
    /// Time from `connect()` to a failure.
    pub connect_failed: Distribution,
    /// Smoothed round-trip times.
    pub rtt: Distribution,
    /// What was asked for on these connections, by protocol; empty where nothing was understood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Requests>,
}

impl EdgeView {
    /// An edge of which only requests are known: datagrams make no connections.
    pub fn without_connections(view: &RequestView) -> Self {
        Self {
            client: Arc::clone(&view.workload),
            service: Arc::clone(&view.service),
            port: view.port,
            version: view.version.clone(),
            overflow: view.overflow,
            opened: 0,
            active: 0,
            closed: Tally::default(),
            failed: Tally::default(),
            sent_bytes: 0,
            received_bytes: 0,
            retransmits: 0,
            connect: Histogram::default().into(),
            connect_failed: Histogram::default().into(),
            rtt: Histogram::default().into(),
            requests: Vec::new(),
        }
    }

    /// Whether connections were made on it, or tried.
    pub fn has_connections(&self) -> bool {
        self.opened + self.failed.total() + self.closed.total() > 0
    }
}

/// Connections that are open according to one kernel entry.
pub(super) fn active(edge: &Edge) -> u64 {
    edge.closed.iter().fold(edge.opened, |open, closed| open.saturating_sub(*closed))
}

/// Adds `other` to `sum`.
pub(super) fn add(sum: &mut Edge, other: &Edge) {
    for (to, from) in totals_mut(sum).into_iter().zip(totals(other)) {
        *to = to.saturating_add(from);
    }
    histogram::add(&mut sum.connect, &other.connect);
    histogram::add(&mut sum.connect_failed, &other.connect_failed);
    histogram::add(&mut sum.rtt, &other.rtt);
}

/// What was counted since `before`. An entry with any total below the one before was made anew in between:
/// then all of it counts.
pub(super) fn since(now: &Edge, before: &Edge) -> Edge {
    if totals(now).into_iter().zip(totals(before)).any(|(now, before)| now < before) {
        return *now;
    }
    let mut difference = *now;
    for (to, from) in totals_mut(&mut difference).into_iter().zip(totals(before)) {
        *to -= from;
    }
    difference.connect = histogram::since(&now.connect, &before.connect);
    difference.connect_failed = histogram::since(&now.connect_failed, &before.connect_failed);
    difference.rtt = histogram::since(&now.rtt, &before.rtt);
    difference
}

fn totals(edge: &Edge) -> [u64; 19] {
    let mut copy = *edge;
    totals_mut(&mut copy).map(|total| *total)
}

fn totals_mut(edge: &mut Edge) -> [&mut u64; 19] {
    let [c0, c1, c2, c3, c4, c5] = &mut edge.closed;
    let [f0, f1, f2, f3, f4, f5, f6, f7, f8] = &mut edge.failed;
    let (sent, received) = (&mut edge.sent_bytes, &mut edge.received_bytes);
    [
        &mut edge.opened,
        c0,
        c1,
        c2,
        c3,
        c4,
        c5,
        f0,
        f1,
        f2,
        f3,
        f4,
        f5,
        f6,
        f7,
        f8,
        sent,
        received,
        &mut edge.retransmits,
    ]
}
