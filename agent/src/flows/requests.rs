//! Folds the kernel's counts of requests into totals of workloads, as [`accumulator`](super::accumulator) does for
//! connections: a total is the sum of what each kernel entry grew between two folds, and never falls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{
    AppProtocol, Direction, Histogram, RequestKey, Requests as Counted, StatusName, operation_name,
};
use agent_ebpf::decide::l7::is_server_error;
use serde::{Deserialize, Serialize};

use super::accumulator::{NAMING, is_new_name};
use super::cgroups::TOMBSTONE;
use super::edge::EdgeView;
use super::histogram::{self, Distribution};
use super::identity::{UNKNOWN, Workload};
use super::named;
use super::{Names, ServiceLabel};

/// Rows (who, whom, how, with what status) kept apart; what comes after them is summed in one. As many as the kernel
/// counts at a time.
pub const DEFAULT_ROW_LIMIT: usize = 16_384;

/// What is asked where no service is: servers of names, on their port. No service can be called so.
pub const NAME_SERVERS: &str = "dns:53";

/// Requests of one protocol, from one workload to one version of one service, or to one port of one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// What was spoken.
    #[serde(with = "named::app_protocol")]
    pub protocol: AppProtocol,
    /// Requests that were answered.
    pub count: u64,
    /// Of these, those whose answer was the server's fault (of HTTP: a status of 500 or more).
    pub errors: u64,
    /// The answers by status, as users of the protocol write it.
    pub by_status: BTreeMap<String, u64>,
    /// Time from the first byte of a request to the first byte of its answer.
    pub duration: Distribution,
    /// The counts behind these, for metrics. Not in JSON.
    #[serde(skip)]
    pub rows: Vec<RequestRow>,
}

impl Requests {
    /// What these rows come to.
    fn of(protocol: AppProtocol, rows: Vec<RequestRow>) -> Self {
        let (mut all, mut by_status, mut errors) = (Histogram::default(), BTreeMap::new(), 0);
        for row in &rows {
            let count = histogram::count(&row.duration);
            histogram::add(&mut all, &row.duration);
            *by_status.entry(row.status_name(protocol)).or_default() += count;
            errors += if is_server_error(protocol, row.status) { count } else { 0 };
        }
        let duration = Distribution::from(all);
        Self { protocol, count: duration.count, errors, by_status, duration, rows }
    }

    /// Those whose rows are wanted.
    pub fn only(&self, is_wanted: impl Fn(&RequestRow) -> bool) -> Self {
        Self::of(self.protocol, self.rows.iter().filter(|row| is_wanted(row)).cloned().collect())
    }
}

/// Requests for one operation that were answered with one status; the protocol says what the numbers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// What was asked for: of HTTP, the method.
    pub operation: u8,
    /// What was answered.
    pub status: u16,
    /// How long they took.
    pub duration: Histogram,
}

impl RequestRow {
    /// The operation, as metrics have it.
    pub const fn operation_name(&self, protocol: AppProtocol) -> &'static str {
        operation_name(protocol, self.operation)
    }

    /// The status, as users of the protocol write it.
    pub fn status_name(&self, protocol: AppProtocol) -> String {
        StatusName { protocol, status: self.status }.to_string()
    }
}

/// Whose requests they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestView {
    /// Which side this node's workload is.
    #[serde(with = "named::direction")]
    pub direction: Direction,
    /// The client (outbound) or the server (inbound).
    pub workload: Arc<Workload>,
    /// The service's full name; empty where the workload is the server, [`NAME_SERVERS`] where no service is asked.
    pub service: Arc<str>,
    /// The port of the service's first frontend, or the one the server listens on.
    pub port: u16,
    /// The version of the backends; null where they have none.
    pub version: Option<Arc<str>>,
    /// This is the sum of everything beyond the limit on rows; it names nobody.
    pub overflow: bool,
    /// What they asked for.
    #[serde(flatten)]
    pub requests: Requests,
}

impl RequestView {
    /// Whether these were made on the connections of an edge.
    ///
    /// Where nothing else was counted for these two ends, they have an edge of their own: [`EdgeView::without_connections`].
    pub fn is_of(&self, edge: &EdgeView) -> bool {
        self.direction == Direction::Outbound
            && !self.overflow
            && !edge.overflow
            && (&self.workload, &self.service, self.port, &self.version)
                == (&edge.client, &edge.service, edge.port, &edge.version)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    direction: Direction,
    workload: Arc<Workload>,
    service: Arc<str>,
    port: u16,
    version: Option<Arc<str>>,
    protocol: AppProtocol,
}

#[derive(Debug, Default)]
struct Group {
    rows: BTreeMap<(u8, u16), Histogram>,
    /// Id under which the service was last seen; 0 inbound.
    service: u32,
    alive_at: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    counted: Histogram,
    label: Option<ServiceLabel>,
    /// Whom it was counted for last.
    workload: Option<Arc<Workload>>,
    /// Since when its name is provisional.
    unnamed_since: Option<Duration>,
    overflowed: bool,
    dead_since: Option<Duration>,
}

/// Totals of requests.
#[derive(Debug)]
pub struct RequestAccumulator {
    limit: usize,
    held: usize,
    groups: BTreeMap<Who, Group>,
    overflow: Option<Histogram>,
    overflowed: u64,
    seen: HashMap<RequestKey, Seen>,
}

impl Default for RequestAccumulator {
    fn default() -> Self {
        Self::new(DEFAULT_ROW_LIMIT)
    }
}

impl RequestAccumulator {
    /// An accumulator that keeps `limit` rows apart.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: 0, groups: BTreeMap::new(), overflow: None, overflowed: 0, seen: HashMap::new() }
    }

    /// Folds in every entry of `REQUESTS`, each summed over its CPUs. `now` is any monotonic time. Returns the kernel
    /// entries that count for nobody any more.
    pub fn fold(
        &mut self,
        now: Duration,
        entries: impl IntoIterator<Item = (RequestKey, Counted)>,
        names: &mut dyn Names,
    ) -> Vec<RequestKey> {
        let mut before = std::mem::take(&mut self.seen);
        let mut expired = Vec::new();
        for (key, counted) in entries {
            let seen = self.fold_one(now, &key, &counted.0, before.remove(&key).unwrap_or_default(), names);
            if seen.dead_since.is_some_and(|since| now.saturating_sub(since) >= TOMBSTONE) {
                expired.push(key);
            }
            self.seen.insert(key, seen);
        }
        self.groups.retain(|who, group| {
            let has_service = is_of_no_service(who.direction, group.service)
                || names.is_called(group.service, &who.service);
            if has_service && names.is_live(&who.workload) {
                group.alive_at = now;
            }
            now.saturating_sub(group.alive_at) < TOMBSTONE
        });
        self.held = self.groups.values().map(|group| group.rows.len()).sum();
        expired
    }

    fn fold_one(
        &mut self,
        now: Duration,
        key: &RequestKey,
        counted: &Histogram,
        mut seen: Seen,
        names: &mut dyn Names,
    ) -> Seen {
        let client = names.client(key.cgroup);
        let direction = Direction::from_raw(key.direction).unwrap_or(Direction::Outbound);
        let label = (direction == Direction::Outbound).then(|| names.service(key.service)).flatten();
        let alive = client.live && (label.is_some() || is_of_no_service(direction, key.service));
        seen.dead_since = if alive { None } else { Some(seen.dead_since.unwrap_or(now)) };
        seen.unnamed_since = client.is_provisional.then(|| seen.unnamed_since.unwrap_or(now));
        if seen.unnamed_since.is_some_and(|since| now.saturating_sub(since) < NAMING) {
            return seen;
        }
        if let Some(before) = seen.workload.replace(Arc::clone(&client.workload))
            && is_new_name(&before, &client.workload, names)
        {
            self.rename(&before, &client.workload);
        }
        let growth = since(counted, &seen.counted);
        seen.counted = *counted;
        if label.is_some() {
            seen.label = label;
        }
        if histogram::count(&growth) == 0 {
            return seen;
        }
        let who = who(client.workload, direction, seen.label.as_ref(), key, names);
        let row = (key.operation, key.status);
        let is_new = !self.groups.get(&who).is_some_and(|group| group.rows.contains_key(&row));
        if is_new && self.held >= self.limit {
            self.overflowed += u64::from(!std::mem::replace(&mut seen.overflowed, true));
            histogram::add(self.overflow.get_or_insert_default(), &growth);
            return seen;
        }
        self.held += usize::from(is_new);
        let group = self.groups.entry(who).or_insert_with(|| Group { alive_at: now, ..Group::default() });
        group.service = key.service;
        histogram::add(group.rows.entry(row).or_default(), &growth);
        seen
    }

    /// What was counted for one workload is another's from now on.
    fn rename(&mut self, from: &Arc<Workload>, to: &Arc<Workload>) {
        let keys = self.groups.keys().filter(|who| who.workload == *from);
        for who in keys.cloned().collect::<Vec<_>>() {
            let Some(moved) = self.groups.remove(&who) else { continue };
            let group = self.groups.entry(Who { workload: Arc::clone(to), ..who }).or_default();
            for (row, counted) in &moved.rows {
                histogram::add(group.rows.entry(*row).or_default(), counted);
            }
            (group.service, group.alive_at) = (moved.service, group.alive_at.max(moved.alive_at));
        }
    }

    /// Everybody's requests, in the order of direction, workload, service and version; the overflow last.
    pub fn views(&self) -> Vec<RequestView> {
        let groups = self.groups.iter().map(|(who, group)| {
            let rows = group.rows.iter().map(|(&(operation, status), &duration)| RequestRow {
                operation,
                status,
                duration,
            });
            view(who.clone(), rows.collect(), false)
        });
        let overflow = self.overflow.map(|duration| {
            let nobody = Who {
                direction: Direction::Outbound,
                workload: Arc::new(Workload::unknown()),
                service: UNKNOWN.into(),
                port: 0,
                version: None,
                protocol: AppProtocol::Unknown,
            };
            view(nobody, vec![RequestRow { operation: 0, status: 0, duration }], true)
        });
        groups.chain(overflow).collect()
    }

    /// Kernel entries that were summed in the overflow because the limit was reached, each counted once.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

/// What was counted since `before`; all of it where the entry was made anew in between.
fn since(now: &Histogram, before: &Histogram) -> Histogram {
    if histogram::count(now) < histogram::count(before) { *now } else { histogram::since(now, before) }
}

/// Whether no service is asked: a server answers, or a server of names is asked that belongs to none.
fn is_of_no_service(direction: Direction, service: u32) -> bool {
    direction == Direction::Inbound || service == 0
}

fn who(
    workload: Arc<Workload>,
    direction: Direction,
    label: Option<&ServiceLabel>,
    key: &RequestKey,
    names: &mut dyn Names,
) -> Who {
    let protocol = AppProtocol::from_raw(key.protocol).unwrap_or(AppProtocol::Unknown);
    if direction == Direction::Inbound {
        let port = u16::from_be(key.port_be);
        return Who { direction, workload, service: "".into(), port, version: None, protocol };
    }
    let (service, port) = match label {
        Some(label) => (Arc::clone(&label.name), label.port),
        None if is_of_no_service(direction, key.service) => (NAME_SERVERS.into(), u16::from_be(key.port_be)),
        None => (UNKNOWN.into(), 0),
    };
    let version = match key.version {
        0 => None,
        version => Some(names.version(key.service, version).unwrap_or_else(|| UNKNOWN.into())),
    };
    Who { direction, workload, service, port, version, protocol }
}

fn view(who: Who, rows: Vec<RequestRow>, overflow: bool) -> RequestView {
    let Who { direction, workload, service, port, version, protocol } = who;
    let requests = Requests::of(protocol, rows);
    RequestView { direction, workload, service, port, version, overflow, requests }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::Method;

    use super::*;
    use crate::flows::{Client, identity};

    /// Cgroup *n* is unit `unit<n>`, service *n* is `shop/svc<n>`; what is in neither list is gone.
    struct Town {
        cgroups: Vec<u64>,
        services: Vec<u32>,
    }

    fn unit(cgroup: u64) -> Arc<Workload> {
        Arc::new(identity::workload_of(&format!("/system.slice/unit{cgroup}.service")))
    }

    impl Names for Town {
        fn client(&mut self, cgroup: u64) -> Client {
            Client { workload: unit(cgroup), live: self.cgroups.contains(&cgroup), is_provisional: false }
        }
        fn is_live(&self, workload: &Workload) -> bool {
            self.cgroups.iter().any(|cgroup| *unit(*cgroup) == *workload)
        }
        fn service(&self, id: u32) -> Option<ServiceLabel> {
            self.services
                .contains(&id)
                .then(|| ServiceLabel { name: format!("shop/svc{id}").into(), port: 80 })
        }
        fn version(&self, _service: u32, id: u32) -> Option<Arc<str>> {
            (id == 1).then(|| "v1".into())
        }
    }

    fn town() -> Town {
        Town { cgroups: vec![1, 2], services: vec![7] }
    }

    fn key(cgroup: u64, status: u16) -> RequestKey {
        RequestKey {
            cgroup,
            service: 7,
            status,
            protocol: AppProtocol::Http1 as u8,
            operation: Method::Get as u8,
            ..RequestKey::default()
        }
    }

    fn counted(count: u64) -> Counted {
        let mut histogram = Histogram { sum_ns: count * 100_000, ..Histogram::default() };
        histogram.buckets[3] = count;
        Counted(histogram)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn statuses_of_one_edge_are_one_view_and_5xx_are_errors() {
        let mut requests = RequestAccumulator::default();
        let entries = [(key(1, 200), counted(5)), (key(1, 404), counted(2)), (key(1, 503), counted(1))];
        requests.fold(at(0), entries, &mut town());
        let views = requests.views();
        assert_eq!(views.len(), 1);
        let RequestView { workload, service, port, requests, .. } = &views[0];
        assert_eq!((&*workload.name, &**service, *port), ("unit1", "shop/svc7", 80));
        assert_eq!((requests.count, requests.errors, requests.duration.count), (8, 1, 8));
        assert_eq!(requests.by_status, [("200".into(), 5), ("404".into(), 2), ("503".into(), 1)].into());
        assert_eq!(requests.rows.len(), 3);
    }

    #[test]
    fn a_server_is_named_by_its_workload_and_port() {
        let inbound = RequestKey {
            direction: Direction::Inbound as u8,
            service: 0,
            port_be: 8080_u16.to_be(),
            ..key(2, 200)
        };
        let mut requests = RequestAccumulator::default();
        requests.fold(at(0), [(inbound, counted(3))], &mut town());
        let view = &requests.views()[0];
        assert_eq!(view.direction, Direction::Inbound);
        assert_eq!((&*view.workload.name, &*view.service, view.port), ("unit2", "", 8080));
    }

    #[test]
    fn totals_survive_an_entry_that_is_made_anew() {
        let mut requests = RequestAccumulator::default();
        for (second, count) in [(0, 5), (1, 9), (2, 2), (3, 3)] {
            requests.fold(at(second), [(key(1, 200), counted(count))], &mut town());
        }
        assert_eq!(requests.views()[0].requests.count, 9 + 3);
    }

    #[test]
    fn what_is_gone_for_a_minute_is_dropped_and_its_entries_are_returned() {
        let mut requests = RequestAccumulator::default();
        let entries = [(key(1, 200), counted(1)), (key(2, 200), counted(1))];
        requests.fold(at(0), entries, &mut town());
        let mut later = Town { cgroups: vec![2], ..town() };
        assert!(requests.fold(at(1), entries, &mut later).is_empty());
        assert_eq!(requests.views().len(), 2);
        assert_eq!(requests.fold(at(62), entries, &mut later), [key(1, 200)]);
        assert_eq!(requests.views().len(), 1);
    }

    #[test]
    fn rows_beyond_the_limit_are_summed_in_one_and_counted_once() {
        let mut requests = RequestAccumulator::new(2);
        let entries = |count| [200, 201, 202, 203].map(|status| (key(1, status), counted(count)));
        requests.fold(at(0), entries(1), &mut town());
        requests.fold(at(1), entries(2), &mut town());
        let views = requests.views();
        assert_eq!(views.len(), 2);
        assert!(views[1].overflow);
        assert_eq!((views[0].requests.count, views[1].requests.count), (4, 4));
        assert_eq!(requests.overflowed(), 2);
    }
}
