//! Takes over what the kernel counts of connections and requests, under the names of who made them, and heals its counts of
//! open connections. Shows nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_ebpf::abi::{Edge, EdgeKey};

use super::super::healing;
use super::super::names::LiveNames;
use super::{EdgeState, Observer, lock};
use crate::clock;
use crate::flows::histogram;
use crate::kernel::{Counters, MapError};
use crate::rollout::{Reading, evidence};

/// How fresh the edges are that a reader gets. Two scrapers in the same moment cost one reading.
const EDGES_AGE: Duration = Duration::from_millis(500);
/// The same where observing costs more than it may.
const RARE_EDGES_AGE: Duration = Duration::from_secs(30);

/// What happened on an edge, of any kind.
fn events(edge: &Edge) -> u64 {
    let ends =
        edge.closed.iter().chain(&edge.failed).fold(edge.opened, |sum, count| sum.wrapping_add(*count));
    [edge.sent_bytes, edge.received_bytes, edge.retransmits].into_iter().fold(ends, u64::wrapping_add)
}

impl Observer {
    /// What the kernel counts now for each of these services, whatever its address families.
    pub(in crate::app) fn readings<N: AsRef<str>>(
        &self,
        services: &[N],
    ) -> Result<Vec<Vec<Reading>>, MapError> {
        let all = {
            let counters = lock(&self.counters);
            evidence::readings(&counters.edges()?, &counters.requests()?)
        };
        let of_one = |service: &N| {
            let ids = self.directory.ids_of(service.as_ref());
            let ours = all.iter().filter(|(key, _)| ids.contains(&key.service));
            ours.map(|(key, counts)| (*key, *counts)).collect()
        };
        Ok(services.iter().map(of_one).collect())
    }

    /// Reads the kernel's edges and folds them, at most once per [`EDGES_AGE`], or [`RARE_EDGES_AGE`].
    ///
    /// Not before a configuration is in force: until then no id has a name, and what is counted under none would
    /// stay there.
    pub(in crate::app) fn fold_edges(&self) -> Result<(), MapError> {
        if lock(&self.record).generation == 0 {
            return Ok(());
        }
        let now = clock::monotonic();
        let mut state = lock(&self.edges);
        let age = if self.governing.rarer() > 1 { RARE_EDGES_AGE } else { EDGES_AGE };
        if state.folded_at.is_some_and(|at| now.saturating_sub(at) < age) {
            return Ok(());
        }
        let mut counters = lock(&self.counters);
        let mut edges = counters.edges()?;
        state.kernel_entries = edges.len() as u64;
        match counters.samples() {
            Some(Ok(samples)) => state.open.add(&mut edges, &samples),
            Some(Err(error)) => tracing::warn!("cannot walk over sockets: {error}"),
            None => {}
        }
        state.sum_of_counts = edges.iter().fold(0, |sum, (_, edge)| sum.wrapping_add(events(edge)));
        let expired = self.fold(&mut state, now, edges);
        for key in expired {
            if let Err(error) = counters.remove_edge(&key) {
                self.map_error(&error);
            }
        }
        self.fold_requests(&mut state, &mut counters, now)?;
        state.folded_at = Some(now);
        Ok(())
    }

    /// A number that changes with whatever the kernel counts on connections, as of the last fold.
    pub(in crate::app) fn sum_of_counts(&self) -> u64 {
        lock(&self.edges).sum_of_counts
    }

    fn fold_requests(
        &self,
        state: &mut EdgeState,
        counters: &mut Counters,
        now: Duration,
    ) -> Result<(), MapError> {
        let entries = counters.requests()?;
        state.request_entries = entries.len() as u64;
        let answered = entries.iter().map(|(_, requests)| histogram::count(&requests.0));
        state.sum_of_counts = answered.fold(state.sum_of_counts, u64::wrapping_add);
        let expired = {
            let mut cgroups = lock(&self.cgroups);
            let mut names = LiveNames { cgroups: &mut cgroups, directory: &self.directory, now };
            state.requests.fold(now, entries, &mut names)
        };
        for key in expired {
            if let Err(error) = counters.remove_requests(&key) {
                self.map_error(&error);
            }
        }
        Ok(())
    }

    fn fold(&self, state: &mut EdgeState, now: Duration, edges: Vec<(EdgeKey, Edge)>) -> Vec<EdgeKey> {
        let mut cgroups = lock(&self.cgroups);
        let mut names = LiveNames { cgroups: &mut cgroups, directory: &self.directory, now };
        state.accumulator.fold(now, edges, &mut names)
    }

    /// Compares counts of open connections with what the walk finds, and corrects those that were off by the same number
    /// several times in a row; a connection that opens or closes meanwhile is off only once. Forgets clients that are
    /// gone.
    pub(in crate::app) fn heal_drift(&self) {
        let mut state = lock(&self.edges);
        let mut counters = lock(&self.counters);
        let cgroups = lock(&self.cgroups);
        let Some(Ok(samples)) = counters.samples() else { return };
        let EdgeState { drift, clients, .. } = &mut *state;
        let healed = healing::heal(&mut counters, &self.directory, &samples, drift);
        let swept = clients.sweep(&mut counters, |client| cgroups.is_there(client));
        drop((cgroups, counters, state));
        match healed {
            Ok(repairs) => {
                let mut record = lock(&self.record);
                repairs.into_iter().for_each(|map| *record.repairs.entry(map).or_default() += 1);
            }
            Err(error) => self.map_error(&error),
        }
        match swept {
            Ok(entries) => self.client_entries.store(entries, Ordering::Relaxed),
            Err(error) => self.map_error(&error),
        }
    }
}
