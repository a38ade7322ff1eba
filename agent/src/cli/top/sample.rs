//! Two samples of the admin API, and what happened between them: rates, shares of success and times, by service, by
//! client and by backend. Pure: who asks, and when, is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::{BackendStatus, BreakerMode, BreakerState, Histogram, Protocol};
use serde::Serialize;

use super::growth::{Growth, grown, per_second};
use crate::admin::view::{BackendView, ServiceView};
use crate::flows::requests::NAME_SERVERS;
use crate::flows::{EdgeView, Workload, histogram};

/// What the agent said at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When it was asked, by any clock that does not jump: services are read at that moment.
    pub at: Duration,
    /// When edges were counted, by any clock that does not jump. Those of two samples may be the same.
    pub counted_at: Duration,
    /// Every service.
    pub services: Vec<ServiceView>,
    /// Every edge.
    pub edges: Vec<EdgeView>,
}

/// What is counted, and measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Requests, where they are understood.
    Request,
    /// Connections, and their handshakes.
    Connect,
}

/// Times of what happened between two samples, in nanoseconds; null where nothing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Times {
    /// The median.
    pub p50_ns: Option<u64>,
    /// The 95th percentile.
    pub p95_ns: Option<u64>,
    /// The 99th percentile.
    pub p99_ns: Option<u64>,
}

impl From<Histogram> for Times {
    fn from(histogram: Histogram) -> Self {
        let of = |quantile| histogram::quantile_ns(&histogram, quantile);
        Self { p50_ns: of(0.50), p95_ns: of(0.95), p99_ns: of(0.99) }
    }
}

/// How it goes, between two samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// What `success` and the times are about.
    pub unit: Unit,
    /// Connections established per second.
    pub connects_per_s: f64,
    /// Connections that failed per second.
    pub failures_per_s: f64,
    /// Requests answered per second; null where none were ever understood.
    pub requests_per_s: Option<f64>,
    /// The share that did well, 0 to 1: of requests and failed connections, those not answered with 500 or more, or of
    /// connections those established. Null where nothing happened.
    pub success: Option<f64>,
    /// Of requests, the time to the first byte of the answer; else of handshakes.
    #[serde(flatten)]
    pub times: Times,
    /// Connections open now.
    pub open: u64,
}

impl Pace {
    /// Units per second.
    pub fn rate(&self) -> f64 {
        match self.unit {
            Unit::Request => self.requests_per_s.unwrap_or_default(),
            Unit::Connect => self.connects_per_s,
        }
    }
}

/// One client of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientRow {
    /// Who connects.
    pub client: Arc<Workload>,
    /// To which version; null where there is none.
    pub version: Option<Arc<str>>,
    /// How it goes.
    #[serde(flatten)]
    pub pace: Pace,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendRow {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it runs; null where that is not said.
    pub version: Option<Arc<str>>,
    /// Where it runs; null where that is not said.
    pub zone: Option<Arc<str>>,
    /// Its share.
    pub weight: u16,
    /// `ready` or `draining`.
    #[serde(with = "crate::flows::named::backend_status")]
    pub status: BackendStatus,
    /// What its breaker does, orders considered.
    pub breaker: &'static str,
    /// It gets no connections because of that, or only probes.
    pub held_back: bool,
    /// When the next connection may go as a probe, in milliseconds; null unless it is open.
    pub next_probe_in_ms: Option<u64>,
    /// Connections sent there per second.
    pub selections_per_s: f64,
    /// Of these, those that failed.
    pub failures_per_s: f64,
    /// Connections open now.
    pub open: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceRow {
    /// Its full name.
    pub name: Arc<str>,
    /// `tcp` or `udp`.
    #[serde(with = "crate::flows::named::protocol")]
    pub protocol: Protocol,
    /// What is spoken on it, as far as it is understood.
    pub spoken: Vec<&'static str>,
    /// The addresses applications ask for.
    pub frontends: Vec<SocketAddr>,
    /// What breakers may do.
    #[serde(with = "crate::flows::named::breaker_mode")]
    pub breaker_mode: BreakerMode,
    /// How it goes.
    #[serde(flatten)]
    pub pace: Pace,
    /// By client, in their order.
    pub clients: Vec<ClientRow>,
    /// By backend, in their order.
    pub backends: Vec<BackendRow>,
}

impl ServiceRow {
    /// Backends that get no connections, or only probes.
    pub fn held_back(&self) -> usize {
        self.backends.iter().filter(|backend| backend.held_back).count()
    }

    /// The breakers in a word or two.
    pub fn breaker(&self) -> String {
        let open =
            |backend: &&BackendRow| backend.held_back && backend.breaker != BreakerState::HalfOpen.name();
        let (all, held) = (self.backends.len(), self.held_back());
        match self.backends.iter().filter(open).count() {
            0 if held > 0 => format!("{held}/{all} probing"),
            0 if self.breaker_mode == BreakerMode::Off => "off".to_owned(),
            0 => "closed".to_owned(),
            open => format!("{open}/{all} open"),
        }
    }

    /// What it carries, in a word.
    pub fn carries(&self) -> &'static str {
        self.spoken.first().copied().unwrap_or(self.protocol.name())
    }
}

/// What happened between two samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// For how long edges were counted, in seconds.
    pub seconds: f64,
    /// Every service, in the order of names; last the servers of names that are none, where they are asked.
    pub services: Vec<ServiceRow>,
    /// Connections per second of edges beyond the limit on series, which are none of these.
    pub others_per_s: f64,
}

type EdgeKey<'a> = (&'a Workload, &'a str, u16, Option<&'a str>);

fn key(edge: &EdgeView) -> EdgeKey<'_> {
    (&edge.client, &edge.service, edge.port, edge.version.as_deref())
}

impl Rates {
    /// What happened from `before` to `now`; from the beginning of counting where there is no `before`, and then at no
    /// rate.
    pub fn between(before: Option<&Sample>, now: &Sample) -> Self {
        let passed = |of: fn(&Sample) -> Duration| {
            before.map_or(0.0, |before| of(now).saturating_sub(of(before)).as_secs_f64())
        };
        let (seconds, asked_seconds) = (passed(|sample| sample.counted_at), passed(|sample| sample.at));
        let earlier: BTreeMap<EdgeKey<'_>, &EdgeView> =
            before.into_iter().flat_map(|sample| &sample.edges).map(|edge| (key(edge), edge)).collect();
        let growth = |edge: &EdgeView| Growth::of(edge, earlier.get(&key(edge)).copied());
        let others = now.edges.iter().filter(|edge| edge.overflow).map(|edge| growth(edge).opened).sum();
        let edges_of = |service: &str| {
            let its = now.edges.iter().filter(move |edge| !edge.overflow && *edge.service == *service);
            its.map(|edge| (edge, growth(edge))).collect::<Vec<_>>().into_iter()
        };
        let mut services: Vec<ServiceRow> = Vec::new();
        for view in &now.services {
            let old = before.and_then(|sample| same(&sample.services, view));
            let backends = view.backends.iter().map(|backend| {
                let old = old.and_then(|old| old.backends.iter().find(|old| old.address == backend.address));
                backend_row(view, backend, old, asked_seconds)
            });
            let backends: Vec<_> = backends.collect();
            // The address families of a service are one service, with the same edges.
            let before = services.last_mut();
            if let Some(row) = before.filter(|row| row.name == view.name && row.protocol == view.protocol) {
                let datagrams = datagrams(view, old, asked_seconds);
                row.pace.connects_per_s += datagrams.map_or(0.0, |(per_s, _)| per_s);
                row.pace.open += datagrams.map_or(0, |(_, open)| open);
                row.frontends.extend(&view.frontends);
                row.backends.extend(backends);
                continue;
            }
            let mut row = with_edges(row(view, backends), edges_of(&view.name), seconds);
            if let Some((per_s, open)) = datagrams(view, old, asked_seconds) {
                // Nothing answers for UDP: that it went well is not known, unless it is understood what is said.
                let success = row.pace.success.filter(|_| row.pace.unit == Unit::Request);
                row.pace = Pace { connects_per_s: per_s, open, success, ..row.pace };
            }
            services.push(row);
        }
        let row = with_edges(name_servers(), edges_of(NAME_SERVERS), seconds);
        if !row.clients.is_empty() {
            services.push(row);
        }
        Self { seconds, services, others_per_s: per_second(others, seconds) }
    }
}

fn same<'a>(services: &'a [ServiceView], view: &ServiceView) -> Option<&'a ServiceView> {
    let is_it = |other: &&ServiceView| {
        (&other.name, other.protocol, other.frontends.first())
            == (&view.name, view.protocol, view.frontends.first())
    };
    services.iter().find(is_it)
}

/// Selections per second and sockets connected to one address family of a UDP service, which edges do not count.
fn datagrams(view: &ServiceView, old: Option<&ServiceView>, seconds: f64) -> Option<(f64, u64)> {
    if view.protocol != Protocol::Udp {
        return None;
    }
    let sent = |view: &ServiceView| view.counters.selected + view.counters.affine;
    let open = view.backends.iter().map(|backend| backend.active).sum();
    Some((per_second(grown(sent(view), old.map_or(0, sent)), seconds), open))
}

/// The row of a service before its edges are looked at.
fn row(view: &ServiceView, backends: Vec<BackendRow>) -> ServiceRow {
    ServiceRow {
        name: Arc::clone(&view.name),
        protocol: view.protocol,
        spoken: Vec::new(),
        frontends: view.frontends.clone(),
        breaker_mode: view.breaker_mode,
        pace: Growth::default().pace(0.0),
        clients: Vec::new(),
        backends,
    }
}

/// The same of the servers of names that are no service.
fn name_servers() -> ServiceRow {
    ServiceRow {
        name: NAME_SERVERS.into(),
        protocol: Protocol::Udp,
        spoken: Vec::new(),
        frontends: Vec::new(),
        breaker_mode: BreakerMode::Off,
        pace: Growth::default().pace(0.0),
        clients: Vec::new(),
        backends: Vec::new(),
    }
}

fn with_edges<'a>(
    row: ServiceRow,
    edges: impl Iterator<Item = (&'a EdgeView, Growth)>,
    seconds: f64,
) -> ServiceRow {
    let (mut sum, mut spoken, mut clients) = (Growth::default(), Vec::new(), Vec::new());
    for (edge, growth) in edges {
        sum.add(&growth);
        for part in &edge.requests {
            if !spoken.contains(&part.protocol.name()) {
                spoken.push(part.protocol.name());
            }
        }
        clients.push(ClientRow {
            client: Arc::clone(&edge.client),
            version: edge.version.clone(),
            pace: growth.pace(seconds),
        });
    }
    ServiceRow { spoken, pace: sum.pace(seconds), clients, ..row }
}

fn backend_row(
    service: &ServiceView,
    backend: &BackendView,
    old: Option<&BackendView>,
    seconds: f64,
) -> BackendRow {
    BackendRow {
        address: backend.address,
        version: backend.version.clone(),
        zone: backend.zone.clone(),
        weight: backend.weight,
        status: backend.status,
        breaker: backend.breaker.in_force(service.breaker_mode),
        held_back: backend.breaker.is_held_back(service.breaker_mode),
        next_probe_in_ms: backend.breaker.next_probe_in_ms,
        selections_per_s: per_second(grown(backend.selections, old.map_or(0, |old| old.selections)), seconds),
        failures_per_s: per_second(grown(backend.failures, old.map_or(0, |old| old.failures)), seconds),
        open: backend.active,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::flows::Tally;

    pub(in crate::cli::top) fn sample(second: u64) -> Sample {
        let specimen = Specimen::default();
        Sample {
            at: Duration::from_secs(second),
            counted_at: Duration::from_secs(second),
            services: specimen.services().expect("a specimen"),
            edges: specimen.edges().expect("a specimen"),
        }
    }

    /// Two seconds later: 100 more requests of nginx, 10 of them errors; 40 more connections, 2 failed.
    pub(in crate::cli::top) fn later() -> Sample {
        let mut later = sample(2);
        let edge = &mut later.edges[1];
        edge.opened += 38;
        edge.failed = Tally::from([5, 1, 0, 1]);
        let part = &mut edge.requests[0];
        part.count += 100;
        part.errors += 10;
        part.duration.histogram.buckets[6] += 100;
        later.edges[0].opened += 2;
        later.edges[0].requests.clear();
        later.services[0].backends[0].selections += 40;
        later.services[0].backends[0].failures += 2;
        later.services[1].counters.selected += 6;
        later
    }

    fn close(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    #[test]
    fn servers_of_names_have_a_row_where_they_are_asked() {
        let lookups = Specimen::default().requests().expect("a specimen");
        let asked = lookups.iter().find(|view| &*view.service == NAME_SERVERS).expect("lookups");
        let mut later = later();
        let mut edge = EdgeView::without_connections(asked);
        edge.requests = vec![asked.requests.clone()];
        later.edges.push(edge);
        let rates = Rates::between(Some(&sample(0)), &later);
        let row = rates.services.last().expect("a row");
        assert_eq!(&*row.name, NAME_SERVERS);
        assert_eq!((row.carries(), row.pace.unit, row.clients.len()), ("dns", Unit::Request, 1));
        assert!(close(row.pace.requests_per_s.expect("lookups"), 363.0 / 2.0), "{row:?}");
        assert!(close(row.pace.success.expect("lookups"), 1.0 - 3.0 / 363.0));
        assert!(
            Rates::between(Some(&sample(0)), &sample(2))
                .services
                .iter()
                .all(|row| &*row.name != NAME_SERVERS)
        );
    }

    #[test]
    fn rates_are_what_happened_between_two_samples() {
        let mut before = sample(0);
        before.edges[0].requests.clear();
        let rates = Rates::between(Some(&before), &later());
        assert!(close(rates.seconds, 2.0));
        let payment = &rates.services[0];
        assert_eq!(
            (&*payment.name, payment.pace.unit, payment.carries()),
            ("shop/payment", Unit::Request, "http1")
        );
        assert!(close(payment.pace.connects_per_s, 20.0), "{payment:?}");
        assert!(close(payment.pace.failures_per_s, 1.0));
        assert_eq!(payment.pace.requests_per_s, Some(50.0));
        assert!(close(payment.pace.success.expect("requests"), 1.0 - 12.0 / 102.0));
        // All hundred lie between 512 µs and 1.024 ms.
        assert_eq!(payment.pace.times.p50_ns, Some(768_000));
        assert!(payment.pace.times.p99_ns > payment.pace.times.p95_ns);
        assert_eq!(payment.pace.open, 24);
        assert_eq!(payment.clients.len(), 2);
        assert_eq!(payment.clients[0].pace.unit, Unit::Connect);
        assert_eq!(payment.clients[0].pace.success, Some(1.0));
        assert!(close(payment.backends[0].selections_per_s, 20.0));
        assert!(close(payment.backends[0].failures_per_s, 1.0));
        let dns = &rates.services[1];
        assert!(close(dns.pace.connects_per_s, 3.0));
        assert_eq!((dns.pace.success, dns.carries()), (None, "udp"));
    }

    #[test]
    fn the_address_families_of_a_service_are_one_row() {
        let (mut before, mut now) = (sample(0), sample(2));
        for (sample, selected) in [(&mut before, 0), (&mut now, 10)] {
            let mut family = sample.services[1].clone();
            family.frontends = vec!["[fd00::53]:53".parse().expect("an address")];
            family.counters.selected = selected;
            sample.services.push(family);
        }
        let rates = Rates::between(Some(&before), &now);
        assert_eq!(rates.services.len(), 2);
        assert_eq!(rates.services[1].frontends.len(), 2);
        assert!(close(rates.services[1].pace.connects_per_s, 5.0));
    }

    #[test]
    fn where_nothing_happened_there_is_no_share_and_no_time() {
        let rates = Rates::between(Some(&sample(0)), &sample(2));
        let pace = &rates.services[0].pace;
        assert_eq!((pace.success, pace.times), (None, Times::default()));
        assert!(close(pace.rate(), 0.0));
    }

    #[test]
    fn the_first_sample_has_times_and_no_rates() {
        let rates = Rates::between(None, &sample(0));
        let pace = &rates.services[0].pace;
        assert!(close(pace.rate(), 0.0) && close(rates.others_per_s, 0.0));
        assert!(pace.times.p99_ns.is_some() && pace.success.is_some());
    }

    #[test]
    fn an_agent_that_began_anew_counts_from_nothing() {
        let mut anew = sample(2);
        anew.edges[1].opened = 10;
        anew.edges[1].failed = Tally::default();
        anew.services[0].backends[0].selections = 4;
        let rates = Rates::between(Some(&sample(0)), &anew);
        assert!(close(rates.services[0].pace.connects_per_s, 5.0));
        assert!(close(rates.services[0].backends[0].selections_per_s, 2.0));
    }

    #[test]
    fn breakers_are_told_in_a_word() {
        let mut now = sample(0);
        let word = |now: &Sample| Rates::between(None, now).services[0].breaker();
        assert_eq!(word(&now), "1/3 open");
        now.services[0].backends[2].breaker.state = BreakerState::HalfOpen;
        assert_eq!(word(&now), "1/3 probing");
        now.services[0].backends[2].breaker.state = BreakerState::Closed;
        assert_eq!(word(&now), "closed");
        now.services[0].breaker_mode = BreakerMode::Off;
        assert_eq!(word(&now), "off");
        now.services[0].backends[2].breaker.state = BreakerState::Open;
        now.services[0].breaker_mode = BreakerMode::Observe;
        assert_eq!(word(&now), "closed");
    }

    #[test]
    fn edges_beyond_the_limit_are_nobodys() {
        let mut later = sample(2);
        later.edges[2].opened += 8;
        let rates = Rates::between(Some(&sample(0)), &later);
        assert!(close(rates.others_per_s, 4.0));
        assert!(close(rates.services[0].pace.connects_per_s, 0.0));
    }
}
