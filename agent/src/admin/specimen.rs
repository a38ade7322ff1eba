//! An agent that exists only as values, for unit tests of everything that shows one.

mod flows;
mod kubernetes;
mod sending;
mod services;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_ebpf::abi::{
    Algorithm, AppProtocol, BackendStatus, BreakerMode, CloseReason, Histogram, Limit, Outcome, Protocol,
};
use jiff::Timestamp;
use tokio::sync::broadcast;

use super::view::*;
use super::{Control, ExplainError, Followed, Observe, ObserveError};
use crate::flows::record::{Happening, RequestPart};
use crate::flows::{
    EdgeView, KnownNames, Memory, MemoryView, Record, RequestView, Selector, Window, Workload, identity,
};
use crate::rollout::Phase;

use services::{backend, open};
pub(crate) use services::{held, rollout};

/// The synthetic agent.
pub(crate) struct Specimen {
    /// Every read of a map fails.
    pub(crate) broken: bool,
    /// What readiness waits for.
    pub(crate) waiting_for: Vec<String>,
    /// Where records are published.
    pub(crate) records: broadcast::Sender<Arc<Record>>,
    /// Where requests are.
    pub(crate) requests: broadcast::Sender<Arc<Record>>,
    /// The orders that were carried out.
    pub(crate) orders: Mutex<Vec<OrderRequest>>,
    /// The events published so far, the newest of them.
    pub(crate) memory: Mutex<Memory>,
}

impl Default for Specimen {
    fn default() -> Self {
        let records = broadcast::channel(64).0;
        Self {
            broken: false,
            waiting_for: Vec::new(),
            records,
            requests: broadcast::channel(64).0,
            orders: Mutex::default(),
            memory: Mutex::default(),
        }
    }
}

/// When the specimen's story happens.
pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn ago(seconds: u64) -> Timestamp {
    now() - Duration::from_secs(seconds)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn workload(path: &str) -> Arc<Workload> {
    Arc::new(identity::workload_of(path))
}

fn histogram(first: usize, counts: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for (bucket, count) in counts.iter().enumerate() {
        histogram.buckets[first + bucket] = *count;
        histogram.sum_ns += count * (12_000 << (first + bucket));
    }
    histogram
}

impl Specimen {
    /// One connection that was reset.
    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::new(Record {
            time: now(),
            happening: Happening::Closed(CloseReason::RstRemote),
            client: workload("/system.slice/nginx.service"),
            service: "shop/payment".into(),
            version: Some("v2".into()),
            protocol: Protocol::Tcp,
            requested: address("10.96.0.10:443"),
            backend: Some(address("10.1.0.7:8443")),
            duration_ns: 1_234_567_890,
            sent_bytes: 1_536,
            received_bytes: 20_971_520,
            retransmits: 2,
            rtt_us: Some(410),
            request: None,
        })
    }

    /// A request on such a connection.
    pub(crate) fn request(&self) -> Arc<Record> {
        let request = RequestPart {
            protocol: AppProtocol::Http1,
            operation: "POST".into(),
            status: "503".into(),
            code: 503,
            is_error: true,
            peer: address("10.0.0.1:40000"),
        };
        Arc::new(Record {
            happening: Happening::Request,
            duration_ns: 2_340_000,
            sent_bytes: 0,
            received_bytes: 0,
            retransmits: 0,
            rtt_us: None,
            request: Some(Box::new(request)),
            ..(*self.record()).clone()
        })
    }

    /// Where and when its map is drawn up.
    pub(crate) fn occasion() -> service_map::Occasion {
        service_map::Occasion {
            node: "node-a".into(),
            at: now(),
            monotonic_ms: 7_380_000,
            waiting_for: Vec::new(),
        }
    }

    /// Remembers a record and sends it to all followers.
    pub(crate) fn publish(&self, record: &Arc<Record>) {
        let mut memory = self.memory.lock().expect("no panic");
        memory.keep(Arc::clone(record));
        // Nobody following is no error here.
        let _ = self.records.send(Arc::clone(record));
    }

    fn check(&self, what: &'static str) -> Result<(), ObserveError> {
        if self.broken {
            return Err(ObserveError { what, source: "permission denied".into() });
        }
        Ok(())
    }
}

fn program(name: &str, hook: &str, id: u32) -> ProgramView {
    ProgramView {
        name: name.to_owned(),
        hook: hook.to_owned(),
        attached: true,
        id: Some(id),
        runs: Some(48_211),
        run_time_ns: Some(19_284_400),
        verified_instructions: Some(2_113),
    }
}

fn map(name: &str, entries: u64, max_entries: u64, bytes: u64) -> MapView {
    MapView { name: name.to_owned(), entries, max_entries, bytes }
}

impl Observe for Specimen {
    fn status(&self) -> Result<Status, ObserveError> {
        Ok(Status {
            version: "0.1.0".to_owned(),
            pid: 4711,
            started: ago(2 * 3_600 + 180),
            abi: 1,
            cgroup: "/sys/fs/cgroup".to_owned(),
            bpffs: "/sys/fs/bpf/segue/abi1".to_owned(),
            readiness: self.readiness(),
            programs: vec![
                program("connect4", "cgroup/connect4", 61),
                program("connect6", "cgroup/connect6", 62),
                ProgramView { runs: None, run_time_ns: None, ..program("flow", "sock_ops", 63) },
            ],
            features: vec![
                FeatureView {
                    name: "set_retval".to_owned(),
                    found: true,
                    without: "refused connections get EPERM instead of the configured errno".to_owned(),
                },
                FeatureView {
                    name: "tcp_destroy".to_owned(),
                    found: false,
                    without: "connections of draining backends cannot be reset".to_owned(),
                },
            ],
            maps: vec![
                map("FRONTENDS", 120, 32_768, 2_621_440),
                map("EDGES", 4_100, 8_192, 11_534_336),
                map("DATAGRAMS", 0, 0, 480),
            ],
            config: ConfigView {
                file: Some("/etc/segue/segue.yaml".to_owned()),
                generation: 7,
                applied_at: Some(ago(95)),
                error: None,
            },
            canary: CanaryView { state: CanaryState::Ok, at: Some(ago(12)), reason: None },
            neighbours: vec![NeighbourView {
                hook: "cgroup/connect4".to_owned(),
                program: "cil_sock4_conne".to_owned(),
                id: 40,
                owner: Some("Cilium".to_owned()),
                cgroup: "/sys/fs/cgroup".to_owned(),
                order: "before".to_owned(),
                may_translate: true,
            }],
            clients: ClientsView { workloads: 44, pods: 31, pods_unnamed: 1, left_alone: 2, unresolved: 6 },
            data_plane: DataPlaneView { heartbeat_age_ms: Some(400), following: false },
            confinement: ConfinementView { capabilities: vec!["CAP_NET_ADMIN".to_owned()], filtered: true },
            timed_ms: 121_000,
            budget: Some(BudgetView {
                budget: 0.02,
                share: Some(0.0034),
                detail: "full".to_owned(),
                missing: None,
                since: ago(5_400),
                steps_down: 1,
                steps_up: 1,
                untimed: None,
            }),
            rollouts: self.rollouts(),
            rollouts_error: None,
            kubernetes: Some(kubernetes::view(ago(3_600), ago(5))),
            otlp: Some(sending::metrics()),
            traces: Some(sending::traces()),
            tls: vec![TlsLibraryView {
                path: "/usr/lib/x86_64-linux-gnu/libssl.so.3".to_owned(),
                state: "read".to_owned(),
            }],
            held: Vec::new(),
        })
    }

    fn services(&self) -> Result<Vec<ServiceView>, ObserveError> {
        self.check("services")?;
        let payment = ServiceView {
            name: "shop/payment".into(),
            protocol: Protocol::Tcp,
            frontends: vec![address("10.96.0.10:443"), address("[fd00::10]:443")],
            algorithm: Algorithm::RoundRobin,
            affinity_timeout_ms: Some(600_000),
            split: vec![
                ShareView { version: "v1".into(), share: 9 },
                ShareView { version: "v2".into(), share: 1 },
            ],
            rollout: Some(rollout()),
            breaker_mode: BreakerMode::Enforce,
            fallback: Some("shop/payment-standby".into()),
            limits: limits(),
            counters: ServiceCounters {
                selected: 3_600,
                affine: 3,
                no_backend: 1,
                limited: 7,
                passed: 0,
                fallback: 6,
                avoided: 44,
                would_avoid: 0,
                probes: 5,
                opened: 3,
                half_opened: 2,
                closed: 1,
                capped: 1,
                panicked: 2,
                kept_away: 7,
                near: 3_000,
                overflowed: 600,
            },
            backends: vec![
                backend("10.1.0.5:8443", "v1", "eu-1a", BackendStatus::Ready),
                backend("10.1.0.6:8443", "v1", "eu-1b", BackendStatus::Draining),
                BackendView {
                    breaker: open(),
                    ..backend("10.1.0.7:8443", "v2", "eu-1a", BackendStatus::Ready)
                },
            ],
            left: vec![LeftView { address: address("10.1.0.4:8443"), active: 2, resets_in_ms: None }],
        };
        let unused = ServiceView {
            name: "dns".into(),
            protocol: Protocol::Udp,
            frontends: vec![address("10.96.0.53:53")],
            algorithm: Algorithm::Maglev,
            affinity_timeout_ms: None,
            split: Vec::new(),
            rollout: None,
            breaker_mode: BreakerMode::Off,
            fallback: None,
            limits: Vec::new(),
            counters: ServiceCounters::default(),
            backends: Vec::new(),
            left: Vec::new(),
        };
        Ok(vec![payment, unused])
    }

    fn explain(&self, target: &str, asker: Option<&str>) -> Result<Explanation, ExplainError> {
        let asker = asker.map(|cgroup| AskerView {
            cgroup: cgroup.to_owned(),
            workload: workload("/system.slice/nginx.service"),
            managed: true,
            left_alone: false,
        });
        self.check("services")?;
        let services = self.services()?.into_iter().filter(|service| *service.name == *target);
        let chains = services.map(|service| Chain {
            family: "tcp ipv4".to_owned(),
            services: vec![Step {
                service: service.name,
                algorithm: service.algorithm,
                breaker_mode: service.breaker_mode,
                limits: service.limits,
                rollout: service.rollout.map(|rollout| rollout.summary),
                candidates: vec![Candidate {
                    address: address("10.1.0.7:8443"),
                    version: Some("v2".into()),
                    zone: Some("eu-1a".into()),
                    weight: 10,
                    takes: false,
                    why: "its breaker is open, next probe in 8 s".to_owned(),
                }],
                locality: Some("prefers zone eu-1a, where 1 of 2 are healthy: 70 % stay".to_owned()),
                result: "nothing is usable and there is no further fallback: the connection is refused"
                    .to_owned(),
            }],
            errno: Some(113),
        });
        Ok(Explanation { target: target.to_owned(), asker, chains: chains.collect() })
    }

    fn rollouts(&self) -> Vec<RolloutView> {
        vec![rollout()]
    }

    fn held(&self) -> Vec<HeldView> {
        vec![held()]
    }

    fn edges(&self) -> Result<Vec<EdgeView>, ObserveError> {
        self.check("edges")?;
        Ok(flows::edges())
    }

    fn requests(&self) -> Result<Vec<RequestView>, ObserveError> {
        self.check("requests")?;
        Ok(flows::requests())
    }

    fn map(&self) -> Result<ServiceMap, ObserveError> {
        let parts = service_map::Parts {
            edges: self.edges()?,
            services: self.services()?,
            requests: self.requests()?,
            changes: vec![flows::breaker_opened()],
            counters: self.counters()?,
            hidden: &[],
        };
        Ok(ServiceMap::new(Self::occasion(), parts))
    }

    fn overhead(&self) -> OverheadView {
        if self.broken {
            return OverheadView { reason: Some("nobody times them".to_owned()), ..OverheadView::default() };
        }
        let cost = |name: &str, hook: &str, runs, run_time_ns| ProgramCost {
            name: name.to_owned(),
            hook: hook.to_owned(),
            runs,
            run_time_ns,
        };
        OverheadView {
            window_ns: 1_000_000_000,
            programs: vec![
                cost("connect4", "cgroup/connect4", 2_000, 1_800_000),
                cost("flow", "sock_ops", 18_000, 3_200_000),
                cost("connect6", "cgroup/connect6", 0, 0),
            ],
            reason: None,
        }
    }

    fn counters(&self) -> Result<Counters, ObserveError> {
        self.check("counters")?;
        let run = |program, outcome, count| OutcomeCount { program, outcome, count };
        Ok(Counters {
            outcomes: vec![
                run("connect4", Outcome::Selected, 3_600),
                run("connect4", Outcome::Unmanaged, 44_611),
                run("flow", Outcome::Ignored, 17),
            ],
            losses: vec![("ring", 0), ("edges", 2), ("affinity", 0), ("request_ring", 4), ("follow", 0)],
            unparsed: vec![("pipelined", 3), ("other_protocol", 12)],
            events_written: 900,
            map_update_errors: vec![("FRONTENDS", "E2BIG", 1)],
            identity_unresolved: 5,
            series_overflow: 17,
            config_apply_failures: vec![("parse", 1), ("compile", 0)],
            repairs: vec![("frontends", 0)],
            connections_reset: vec![("shop/payment".into(), "removed", 12)],
            connection_resets_failed: vec![("network_namespace", 1)],
        })
    }

    fn remembered(&self, selector: &Selector, window: Window) -> (Vec<Arc<Record>>, MemoryView) {
        let memory = self.memory.lock().expect("no panic");
        (memory.select(selector, window), memory.view())
    }

    fn follow(&self, selector: &Selector, window: Window, requests: bool) -> Followed {
        let memory = self.memory.lock().expect("no panic");
        let remembered = memory.select(selector, window);
        let requests = requests.then(|| self.requests.subscribe());
        Followed { memory: memory.view(), remembered, to_come: self.records.subscribe(), requests }
    }

    fn known_names(&self) -> KnownNames {
        let names = |client: &Workload| (client.namespace.to_string(), client.name.to_string());
        KnownNames {
            services: vec!["shop/payment".to_owned(), "dns".to_owned()],
            clients: flows::edges().iter().map(|edge| names(&edge.client)).collect(),
        }
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: self.waiting_for.is_empty(), waiting_for: self.waiting_for.clone() }
    }
}

fn limits() -> Vec<LimitView> {
    vec![
        LimitView { limit: Limit::BackendConnections, most: 100, used: Some(12), reached: 3 },
        LimitView { limit: Limit::ServiceRate, most: 500, used: None, reached: 4 },
    ]
}

impl Control for Specimen {
    fn order(&self, request: &OrderRequest) -> Result<Ordered, OrderError> {
        let ends_in_ms = request.duration_ms()?;
        let services = self.services().unwrap_or_default();
        let service = services.into_iter().find(|service| *service.name == *request.service);
        let service =
            service.ok_or_else(|| OrderError::UnknownService { service: request.service.clone() })?;
        self.orders.lock().expect("no panic").push(request.clone());
        let backends = request.backend.into_iter().collect();
        Ok(Ordered { service: service.name, order: request.order, backends, ends_in_ms })
    }

    fn steer(&self, request: &RolloutRequest) -> Result<RolloutView, RolloutError> {
        let service = request.service.clone();
        if *service != *rollout().service {
            return Err(RolloutError::Unknown { service });
        }
        match request.order {
            crate::rollout::Order::Pause => {
                Ok(RolloutView { phase: Phase::Paused, next_step_in_ms: None, ..rollout() })
            }
            order => Err(RolloutError::WrongPhase { service, phase: Phase::Promoted, order }),
        }
    }

    fn accept(&self, request: &AcceptRequest) -> Result<Accepted, AcceptError> {
        let stranger = request.services.iter().find(|name| **name != held().title());
        stranger.map_or(Ok(Accepted { accepted: vec![held()] }), |service| {
            Err(AcceptError { service: service.clone() })
        })
    }
}
