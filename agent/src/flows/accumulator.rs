//! Folds kernel counters of single cgroups into totals of workloads, and keeps the totals when kernel entries go.
//!
//! A total is the sum of what each kernel entry grew between two folds. So it never falls: not when an entry is
//! evicted or made anew, not when several cgroups (a unit that restarts) are one workload.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{Edge, EdgeKey};

use super::cgroups::{SCAN_INTERVAL, TOMBSTONE};
use super::edge::{self, EdgeView};
use super::identity::{UNKNOWN, Workload, WorkloadKind};
use super::tally::Tally;
use super::{Names, ServiceLabel};

/// Edges kept apart by default; what comes after them is summed in one. An edge is some 45 series.
pub const DEFAULT_SERIES_LIMIT: usize = 10_000;

/// How long the counts of a cgroup that has no name yet, or no good one, wait for it: until a scan has certainly been
/// allowed.
pub(super) const NAMING: Duration = Duration::from_secs(2 * SCAN_INTERVAL.as_secs());

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    client: Arc<Workload>,
    service: Arc<str>,
    port: u16,
    version: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Row {
    total: Edge,
    active: u64,
    /// Id under which the service was last seen.
    service: u32,
    /// When the workload and the service were last known to exist.
    alive_at: Duration,
}

/// A kernel entry as the last fold saw it.
#[derive(Debug)]
struct Seen {
    counters: Edge,
    label: Option<ServiceLabel>,
    /// Whom it was counted for last.
    client: Option<Arc<Workload>>,
    /// Since when its name is provisional.
    unnamed_since: Option<Duration>,
    overflowed: bool,
    /// Since when its client's cgroup or its service does not exist.
    dead_since: Option<Duration>,
}

/// Totals per edge.
#[derive(Debug)]
pub struct Accumulator {
    limit: usize,
    rows: BTreeMap<RowKey, Row>,
    overflow: Option<Row>,
    overflowed: u64,
    seen: HashMap<EdgeKey, Seen>,
}

impl Default for Accumulator {
    fn default() -> Self {
        Self::new(DEFAULT_SERIES_LIMIT)
    }
}

impl Accumulator {
    /// An accumulator that keeps `limit` edges apart.
    pub fn new(limit: usize) -> Self {
        Self { limit, rows: BTreeMap::new(), overflow: None, overflowed: 0, seen: HashMap::new() }
    }

    /// Folds in every entry of `EDGES`, each summed over its CPUs. `now` is any monotonic time.
    ///
    /// Edges of workloads and services that have been gone for a minute are dropped. Returns the kernel entries
    /// that count for nobody any more; the caller may delete them, and each is returned until it is gone.
    pub fn fold(
        &mut self,
        now: Duration,
        edges: impl IntoIterator<Item = (EdgeKey, Edge)>,
        names: &mut dyn Names,
    ) -> Vec<EdgeKey> {
        for row in self.rows.values_mut().chain(&mut self.overflow) {
            row.active = 0;
        }
        let mut before = std::mem::take(&mut self.seen);
        let mut expired = Vec::new();
        for (key, counters) in edges {
            let seen = self.fold_one(now, key, counters, before.remove(&key), names);
            if seen.dead_since.is_some_and(|since| now.saturating_sub(since) >= TOMBSTONE) {
                expired.push(key);
            }
            self.seen.insert(key, seen);
        }
        self.rows.retain(|key, row| {
            if names.is_called(row.service, &key.service) && names.is_live(&key.client) {
                row.alive_at = now;
            }
            now.saturating_sub(row.alive_at) < TOMBSTONE
        });
        expired
    }

    fn fold_one(
        &mut self,
        now: Duration,
        key: EdgeKey,
        counters: Edge,
        before: Option<Seen>,
        names: &mut dyn Names,
    ) -> Seen {
        let client = names.client(key.cgroup);
        let label = names.service(key.service);
        let alive = client.live && label.is_some();
        let mut seen = before.unwrap_or(Seen {
            counters: Edge::default(),
            label: None,
            client: None,
            unnamed_since: None,
            overflowed: false,
            dead_since: None,
        });
        seen.dead_since = if alive { None } else { Some(seen.dead_since.unwrap_or(now)) };
        seen.unnamed_since = client.is_provisional.then(|| seen.unnamed_since.unwrap_or(now));
        if seen.unnamed_since.is_some_and(|since| now.saturating_sub(since) < NAMING) {
            return seen;
        }
        if let Some(before) = seen.client.replace(Arc::clone(&client.workload))
            && is_new_name(&before, &client.workload, names)
        {
            self.rename(&before, &client.workload);
        }
        let growth = edge::since(&counters, &seen.counters);
        seen.counters = counters;
        if label.is_some() {
            seen.label = label;
        }
        let row_key = row_key(client.workload, seen.label.as_ref(), &key, names);
        let is_new = !self.rows.contains_key(&row_key);
        if is_new && !alive && growth == Edge::default() {
            return seen;
        }
        let row = if is_new && self.rows.len() >= self.limit {
            self.overflowed += u64::from(!std::mem::replace(&mut seen.overflowed, true));
            self.overflow.get_or_insert_default()
        } else {
            let fresh = || Row { alive_at: now, ..Row::default() };
            self.rows.entry(row_key).or_insert_with(fresh)
        };
        edge::add(&mut row.total, &growth);
        row.active = row.active.saturating_add(edge::active(&counters));
        row.service = key.service;
        seen
    }

    /// What was counted for one workload is another's from now on.
    fn rename(&mut self, from: &Arc<Workload>, to: &Arc<Workload>) {
        let first = RowKey { client: Arc::clone(from), service: "".into(), port: 0, version: None };
        let keys = self.rows.range(first..).map(|(key, _)| key).take_while(|key| key.client == *from);
        for key in keys.cloned().collect::<Vec<_>>() {
            let Some(row) = self.rows.remove(&key) else { continue };
            let key = RowKey { client: Arc::clone(to), ..key };
            match self.rows.get_mut(&key) {
                Some(there) => {
                    edge::add(&mut there.total, &row.total);
                    there.active = there.active.saturating_add(row.active);
                }
                None => _ = self.rows.insert(key, row),
            }
        }
    }

    /// Every edge, in the order of client, service and version; the overflow last.
    pub fn views(&self) -> Vec<EdgeView> {
        let nobody = || RowKey {
            client: Arc::new(Workload::unknown()),
            service: UNKNOWN.into(),
            port: 0,
            version: None,
        };
        let rows = self.rows.iter().map(|(key, row)| view(key.clone(), row, false));
        rows.chain(self.overflow.iter().map(|row| view(nobody(), row, true))).collect()
    }

    /// Kernel entries that were summed in the overflow because the limit was reached, each counted once.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

/// Whether a cgroup that was counted for `before` has another name now, and not another owner: nobody is called so
/// any more.
pub(super) fn is_new_name(before: &Arc<Workload>, now: &Arc<Workload>, names: &dyn Names) -> bool {
    before != now && now.kind != WorkloadKind::Unknown && !names.is_live(before)
}

fn row_key(
    client: Arc<Workload>,
    label: Option<&ServiceLabel>,
    key: &EdgeKey,
    names: &mut dyn Names,
) -> RowKey {
    let (service, port) = match label {
        Some(label) => (Arc::clone(&label.name), label.port),
        None => (UNKNOWN.into(), 0),
    };
    let version = match key.version {
        0 => None,
        version => Some(names.version(key.service, version).unwrap_or_else(|| UNKNOWN.into())),
    };
    RowKey { client, service, port, version }
}

fn view(key: RowKey, row: &Row, overflow: bool) -> EdgeView {
    let RowKey { client, service, port, version } = key;
    EdgeView {
        client,
        service,
        port,
        version,
        overflow,
        opened: row.total.opened,
        active: row.active,
        closed: Tally::from(row.total.closed),
        failed: Tally::from(row.total.failed),
        sent_bytes: row.total.sent_bytes,
        received_bytes: row.total.received_bytes,
        retransmits: row.total.retransmits,
        connect: row.total.connect.into(),
        connect_failed: row.total.connect_failed.into(),
        rtt: row.total.rtt.into(),
        requests: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use agent_ebpf::abi::CloseReason;
    use proptest::prelude::*;

    use super::*;
    use crate::flows::{Client, identity};

    /// Cgroup *n* is unit `unit<n modulo 100>`, service *n* is `shop/svc<n>`.
    #[derive(Default)]
    struct Town {
        gone: HashSet<u64>,
        removed: HashSet<u32>,
    }

    fn unit(cgroup: u64) -> Arc<Workload> {
        Arc::new(identity::workload_of(&format!("/system.slice/unit{}.service", cgroup % 100)))
    }

    impl Names for Town {
        fn client(&mut self, cgroup: u64) -> Client {
            Client { workload: unit(cgroup), live: !self.gone.contains(&cgroup), is_provisional: false }
        }
        fn is_live(&self, workload: &Workload) -> bool {
            (0..300).any(|cgroup| !self.gone.contains(&cgroup) && *unit(cgroup) == *workload)
        }
        fn service(&self, id: u32) -> Option<ServiceLabel> {
            (!self.removed.contains(&id))
                .then(|| ServiceLabel { name: format!("shop/svc{id}").into(), port: 80 })
        }
        fn version(&self, _service: u32, id: u32) -> Option<Arc<str>> {
            (id == 1).then(|| "v1".into())
        }
    }

    fn key(cgroup: u64, service: u32) -> EdgeKey {
        EdgeKey { cgroup, service, version: 0 }
    }

    fn counted(opened: u64, fin: u64) -> Edge {
        let mut edge = Edge { opened, sent_bytes: opened * 10, ..Edge::default() };
        edge.closed[CloseReason::Fin as usize] = fin;
        edge.connect.buckets[3] = opened;
        edge
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A town in which nobody has a name before a given second.
    struct Unnamed {
        until: u64,
        now: u64,
    }

    impl Names for Unnamed {
        fn client(&mut self, cgroup: u64) -> Client {
            match self.now < self.until {
                true => Client::unknown(),
                false => Client { workload: unit(cgroup), live: true, is_provisional: false },
            }
        }
        fn is_live(&self, _workload: &Workload) -> bool {
            true
        }
        fn service(&self, id: u32) -> Option<ServiceLabel> {
            Town::default().service(id)
        }
        fn version(&self, _service: u32, _id: u32) -> Option<Arc<str>> {
            None
        }
    }

    #[test]
    fn the_counts_of_a_new_cgroup_wait_a_moment_for_its_name() {
        for (named_at, expected) in [(1, "unit1"), (100, UNKNOWN)] {
            let mut edges = Accumulator::default();
            for now in 0..5 {
                edges.fold(at(now), [(key(1, 7), counted(5, 2))], &mut Unnamed { until: named_at, now });
            }
            let views = edges.views();
            let named: Vec<_> = views.iter().map(|view| (&*view.client.name, view.opened)).collect();
            assert_eq!(named, [(expected, 5)], "named after {named_at} s");
        }
    }

    /// Pods whose names come at a given second: those of two cgroups are one Deployment.
    struct Cluster {
        named_at: u64,
        now: u64,
    }

    impl Cluster {
        fn name(&self, cgroup: u64) -> Arc<Workload> {
            if self.now < self.named_at {
                let path = format!("/kubepods/pod0a1b2c3d-1111-2222-3333-{cgroup:012}");
                return Arc::new(identity::workload_of(&path));
            }
            Arc::new(Workload::of_pod("shop", "payment", WorkloadKind::Deployment))
        }
    }

    impl Names for Cluster {
        fn client(&mut self, cgroup: u64) -> Client {
            let is_provisional = self.now < self.named_at;
            Client { workload: self.name(cgroup), live: true, is_provisional }
        }
        fn is_live(&self, workload: &Workload) -> bool {
            [1, 2].iter().any(|cgroup| *self.name(*cgroup) == *workload)
        }
        fn service(&self, id: u32) -> Option<ServiceLabel> {
            Town::default().service(id)
        }
        fn version(&self, _service: u32, _id: u32) -> Option<Arc<str>> {
            None
        }
    }

    #[test]
    fn what_was_counted_before_a_pods_name_came_is_counted_under_it_afterwards() {
        for named_at in [1, 10] {
            let mut edges = Accumulator::default();
            for now in [0, 5, 10] {
                let entries = [(key(1, 7), counted(5 + now, 2)), (key(2, 7), counted(3, 3))];
                edges.fold(at(now), entries, &mut Cluster { named_at, now });
            }
            let views = edges.views();
            assert_eq!(views.len(), 1, "named after {named_at} s: {views:?}");
            assert_eq!((&*views[0].client.name, views[0].client.kind), ("payment", WorkloadKind::Deployment));
            assert_eq!((views[0].opened, views[0].active), (18, 13));
        }
    }

    #[test]
    fn cgroups_of_one_workload_are_one_edge() {
        let mut edges = Accumulator::default();
        edges.fold(at(0), [(key(1, 7), counted(5, 2)), (key(101, 7), counted(3, 3))], &mut Town::default());
        let views = edges.views();
        assert_eq!(views.len(), 1);
        assert_eq!((&*views[0].client.name, &*views[0].service), ("unit1", "shop/svc7"));
        assert_eq!((views[0].opened, views[0].active, views[0].connect.count), (8, 3, 8));
    }

    #[test]
    fn versions_are_edges_of_their_own_and_unnamed_ones_are_unknown() {
        let versions = [0, 1, 2].map(|version| (EdgeKey { version, ..key(1, 7) }, counted(1, 0)));
        let mut edges = Accumulator::default();
        edges.fold(at(0), versions, &mut Town::default());
        let names: Vec<_> = edges.views().into_iter().map(|view| view.version).collect();
        assert_eq!(names, [None, Some("unknown".into()), Some("v1".into())]);
    }

    #[test]
    fn totals_survive_an_entry_that_is_evicted_and_made_anew() {
        let mut edges = Accumulator::default();
        let mut town = Town::default();
        edges.fold(at(0), [(key(1, 7), counted(5, 5))], &mut town);
        edges.fold(at(5), [], &mut town);
        assert_eq!(edges.views()[0].opened, 5);
        edges.fold(at(10), [(key(1, 7), counted(2, 1))], &mut town);
        edges.fold(at(15), [(key(1, 7), counted(1, 0))], &mut town);
        let view = &edges.views()[0];
        assert_eq!((view.opened, view.closed.total(), view.active), (8, 6, 1));
        assert_eq!((view.sent_bytes, view.connect.count), (80, 8));
    }

    #[test]
    fn an_edge_is_dropped_a_minute_after_its_workload_and_its_entries_are_returned() {
        let mut edges = Accumulator::default();
        let mut town = Town::default();
        let entries = [(key(1, 7), counted(5, 5)), (key(2, 7), counted(1, 0))];
        edges.fold(at(0), entries, &mut town);
        town.gone.extend([1, 101, 201]);
        assert!(edges.fold(at(10), entries, &mut town).is_empty());
        assert!(edges.fold(at(59), entries, &mut town).is_empty());
        assert_eq!(edges.views().len(), 2);

        assert_eq!(edges.fold(at(70), entries, &mut town), [key(1, 7)]);
        let left: Vec<_> = edges.views().into_iter().map(|view| view.client.name.to_string()).collect();
        assert_eq!(left, ["unit2"]);
        // The caller did not delete it: it is offered again, and its old totals do not come back.
        assert_eq!(edges.fold(at(75), entries, &mut town), [key(1, 7)]);
        assert_eq!(edges.views().len(), 1);
    }

    #[test]
    fn a_unit_that_restarts_keeps_its_totals() {
        let mut edges = Accumulator::default();
        let mut town = Town::default();
        edges.fold(at(0), [(key(1, 7), counted(5, 5))], &mut town);
        town.gone.insert(1);
        let entries = [(key(1, 7), counted(5, 5)), (key(101, 7), counted(2, 0))];
        edges.fold(at(30), entries, &mut town);
        assert_eq!(edges.fold(at(120), entries, &mut town), [key(1, 7)]);
        edges.fold(at(125), [(key(101, 7), counted(2, 0))], &mut town);
        let view = &edges.views()[0];
        assert_eq!((view.opened, view.active), (7, 2));
    }

    #[test]
    fn a_removed_service_keeps_its_name_until_its_edge_is_dropped() {
        let mut edges = Accumulator::default();
        let mut town = Town::default();
        edges.fold(at(0), [(key(1, 7), counted(5, 0))], &mut town);
        town.removed.insert(7);
        edges.fold(at(30), [(key(1, 7), counted(5, 1))], &mut town);
        assert_eq!(&*edges.views()[0].service, "shop/svc7");
        assert_eq!(edges.fold(at(90), [(key(1, 7), counted(5, 1))], &mut town), [key(1, 7)]);
        assert!(edges.views().is_empty());
    }

    #[test]
    fn edges_beyond_the_limit_are_summed_in_one_and_counted_once() {
        let mut edges = Accumulator::new(2);
        let entries: Vec<_> = (0..5).map(|cgroup| (key(cgroup, 7), counted(1, 0))).collect();
        edges.fold(at(0), entries.clone(), &mut Town::default());
        edges.fold(at(5), entries, &mut Town::default());
        let views = edges.views();
        assert_eq!(views.len(), 3);
        let overflow = views.last().expect("three views");
        assert!(overflow.overflow);
        assert_eq!((overflow.opened, overflow.active, edges.overflowed()), (3, 3, 3));
    }

    proptest! {
        #[test]
        fn totals_never_fall_while_the_workload_lives(
            readings in prop::collection::vec(prop::option::of((0_u64..50, 0_u64..50)), 1..20)
        ) {
            let mut edges = Accumulator::default();
            let mut last = 0;
            for (second, reading) in (0_u64..).zip(readings) {
                let entry = reading.map(|(opened, fin)| (key(1, 7), counted(opened, fin)));
                edges.fold(at(second), entry, &mut Town::default());
                let opened = edges.views().iter().map(|view| view.opened).sum();
                prop_assert!(opened >= last);
                last = opened;
            }
        }
    }
}
