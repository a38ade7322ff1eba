//! What the observer answers to the admin API, and the orders it hands on.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_ebpf::abi::{Direction, Loss};
use jiff::Timestamp;

use super::super::explanation;
use super::super::explanation::Asker;
use super::super::services;
use super::Observer;
use super::lock;
use crate::admin::Control;
use crate::admin::ExplainError;
use crate::admin::Followed;
use crate::admin::Observe;
use crate::admin::ObserveError;
use crate::admin::view::AcceptError;
use crate::admin::view::AcceptRequest;
use crate::admin::view::Accepted;
use crate::admin::view::ClientsView;
use crate::admin::view::ConfigView;
use crate::admin::view::ConfinementView;
use crate::admin::view::Counters as CounterView;
use crate::admin::view::DataPlaneView;
use crate::admin::view::Explanation;
use crate::admin::view::FeatureView;
use crate::admin::view::HeldView;
use crate::admin::view::OrderError;
use crate::admin::view::OrderRequest;
use crate::admin::view::Ordered;
use crate::admin::view::OutcomeCount;
use crate::admin::view::OverheadView;
use crate::admin::view::ProgramView;
use crate::admin::view::Readiness as ReadinessView;
use crate::admin::view::RolloutError;
use crate::admin::view::RolloutRequest;
use crate::admin::view::RolloutView;
use crate::admin::view::ServiceMap;
use crate::admin::view::ServiceView;
use crate::admin::view::Status;
use crate::admin::view::TlsLibraryView;
use crate::admin::view::service_map::Occasion;
use crate::admin::view::service_map::Parts;
use crate::canary;
use crate::clock;
use crate::flows::EdgeView;
use crate::flows::KnownNames;
use crate::flows::MemoryView;
use crate::flows::Record;
use crate::flows::RequestView;
use crate::flows::Selector;
use crate::flows::Window;
use crate::flows::Workload;
use crate::flows::requests::NAME_SERVERS;
use crate::kernel::Feature;
use crate::kernel::{cgroup_id, cgroup_lineage};

fn unreadable<E>(what: &'static str) -> impl Fn(E) -> ObserveError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| ObserveError { what, source: Box::new(source) }
}

/// What was counted of connections and requests, of one reading.
struct Counted {
    /// Every edge, with its requests.
    edges: Vec<EdgeView>,
    /// Everybody's requests.
    requests: Vec<RequestView>,
    /// When it was read, by the monotonic clock.
    at: Option<Duration>,
}

impl Observer {
    fn counted(&self) -> Result<Counted, ObserveError> {
        self.fold_edges().map_err(unreadable("edges"))?;
        let state = lock(&self.edges);
        let mut edges = state.accumulator.views();
        let (requests, at) = (state.requests.views(), state.folded_at);
        drop(state);
        for view in requests.iter().filter(|view| view.direction == Direction::Outbound && !view.overflow) {
            if !edges.iter().any(|edge| view.is_of(edge)) {
                let before_the_sum = edges.iter().position(|edge| edge.overflow).unwrap_or(edges.len());
                edges.insert(before_the_sum, EdgeView::without_connections(view));
            }
        }
        for edge in &mut edges {
            let its = requests.iter().filter(|view| view.is_of(edge));
            edge.requests = its.map(|view| view.requests.clone()).collect();
        }
        Ok(Counted { edges, requests, at })
    }

    /// The client in the cgroup at this path.
    fn asker(&self, path: &str) -> Result<Asker, ExplainError> {
        let mount = &self.facts.mount;
        let no_cgroup =
            |source| ExplainError::NoCgroup { cgroup: path.to_owned(), mount: mount.clone(), source };
        let within = Path::new(path).strip_prefix(mount).unwrap_or(Path::new(path));
        let lineage = cgroup_lineage(mount, within).map_err(no_cgroup)?;
        let managed =
            if self.facts.cgroup == *mount { 0 } else { cgroup_id(&self.facts.cgroup).unwrap_or(u64::MAX) };
        let counters = lock(&self.counters);
        let said = |id| counters.said_of_workload(id).unwrap_or_default();
        let leaf = lineage.last().copied().unwrap_or_default();
        let workload = lock(&self.cgroups).resolve(leaf, clock::monotonic()).workload;
        Asker::in_cgroup(&Path::new("/").join(within), &lineage, managed, workload, said)
            .ok_or_else(|| no_cgroup(io::ErrorKind::NotFound.into()))
    }

    fn clients(&self) -> ClientsView {
        let left_alone = *lock(&self.left_alone);
        let cgroups = lock(&self.cgroups);
        ClientsView {
            workloads: cgroups.clients().count() as u64,
            pods: cgroups.pods() as u64,
            pods_unnamed: cgroups.unnamed_pods().count() as u64,
            left_alone,
            unresolved: cgroups.unresolved(),
        }
    }

    /// What depends on how the agent was started, besides on the kernel.
    fn own_features(&self) -> [Feature; 2] {
        [
            Feature {
                name: "run_times",
                found: self.overhead.is_timed(),
                without: "what the programs cost is not known; it takes CAP_SYS_ADMIN",
            },
            Feature {
                name: "system_call_filter",
                found: self.facts.confinement.filtered,
                without: "the agent may make every system call its user may",
            },
        ]
    }
}

impl Observe for Observer {
    fn status(&self) -> Result<Status, ObserveError> {
        let (programs, features, tls) = {
            let data_plane = lock(&self.data_plane);
            (data_plane.programs(), data_plane.features().table(), data_plane.tls_libraries())
        };
        let clients = self.clients();
        let journal = lock(&self.record);
        let now_ns = clock::monotonic_ns();
        let heartbeat_ns = self.heartbeat_ns.load(Ordering::Relaxed);
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.facts.started,
            abi: agent_ebpf::abi::ABI_VERSION,
            cgroup: self.facts.cgroup.display().to_string(),
            bpffs: self.facts.bpffs.display().to_string(),
            readiness: self.readiness(),
            programs: programs
                .into_iter()
                .map(|program| ProgramView {
                    name: program.program.to_owned(),
                    hook: program.hook.name().to_owned(),
                    attached: program.attached,
                    id: program.id,
                    runs: program.runs,
                    run_time_ns: program.run_time_ns,
                    verified_instructions: program.verified_instructions,
                })
                .collect(),
            features: features
                .into_iter()
                .chain(self.own_features())
                .map(|feature| FeatureView {
                    name: feature.name.to_owned(),
                    found: feature.found,
                    without: feature.without.to_owned(),
                })
                .collect(),
            maps: Vec::new(),
            config: ConfigView {
                file: self.facts.config.as_ref().map(|file| file.display().to_string()),
                generation: journal.generation,
                applied_at: journal.applied_at,
                error: journal.error(),
            },
            canary: journal.canary.clone(),
            neighbours: lock(&self.neighbours).views(),
            clients,
            data_plane: DataPlaneView {
                heartbeat_age_ms: (heartbeat_ns != 0)
                    .then(|| now_ns.saturating_sub(heartbeat_ns) / 1_000_000),
                following: self.is_followed() && self.governing.allows_events(),
            },
            confinement: ConfinementView {
                capabilities: self.facts.confinement.capabilities.iter().map(ToString::to_string).collect(),
                filtered: self.facts.confinement.filtered,
            },
            timed_ms: self.overhead.timed_ms(),
            budget: self.governing.view(),
            rollouts: self.rollouts.views(),
            rollouts_error: self.rollouts.problem(),
            kubernetes: self.kubernetes.as_ref().map(super::cluster::view),
            otlp: self.exports.as_ref().map(|exports| exports.view()),
            traces: self.telling.view(),
            tls: tls
                .into_iter()
                .map(|(path, state)| TlsLibraryView {
                    path: path.display().to_string(),
                    state: state.name().to_owned(),
                })
                .collect(),
            held: self.guards.views(),
        };
        drop(journal);
        Ok(Status { maps: self.maps(), ..status })
    }

    fn services(&self) -> Result<Vec<ServiceView>, ObserveError> {
        self.leave_untidy();
        // In the order of names, so that the families of a service stand together.
        let entries = self.directory.services();
        let leaving = lock(&self.leaving).clone();
        let mut views = services::views(&entries, &*lock(&self.counters), &leaving, clock::monotonic_ns());
        for rollout in self.rollouts.views() {
            let its = views.iter_mut().find(|view| view.name == rollout.service);
            if let Some(view) = its {
                view.rollout = Some(rollout);
            }
        }
        Ok(views)
    }

    fn explain(&self, target: &str, asker: Option<&str>) -> Result<Explanation, ExplainError> {
        let asker = asker.map(|path| self.asker(path)).transpose()?;
        let entries = self.directory.services();
        let now_ns = clock::monotonic_ns();
        let leaving = lock(&self.leaving).clone();
        let mut explanation =
            explanation::explain(target, asker.as_ref(), &entries, &*lock(&self.counters), &leaving, now_ns);
        let rollouts = self.rollouts.register();
        for step in explanation.chains.iter_mut().flat_map(|chain| &mut chain.services) {
            step.rollout = rollouts.rollout(&step.service).map(|(rollout, _)| rollout.to_string());
        }
        Ok(explanation)
    }

    fn rollouts(&self) -> Vec<RolloutView> {
        self.rollouts.views()
    }

    fn held(&self) -> Vec<HeldView> {
        self.guards.views()
    }

    fn edges(&self) -> Result<Vec<EdgeView>, ObserveError> {
        Ok(self.counted()?.edges)
    }

    fn counted_edges(&self) -> Result<(Vec<EdgeView>, Option<Duration>), ObserveError> {
        let Counted { edges, at, .. } = self.counted()?;
        Ok((edges, at))
    }

    fn requests(&self) -> Result<Vec<RequestView>, ObserveError> {
        self.fold_edges().map_err(unreadable("requests"))?;
        Ok(lock(&self.edges).requests.views())
    }

    fn map(&self) -> Result<ServiceMap, ObserveError> {
        let Counted { edges, requests, .. } = self.counted()?;
        let parts = Parts {
            edges,
            services: self.services()?,
            requests,
            changes: self.changes.all(),
            counters: self.counters()?,
            hidden: &[canary::NAME],
        };
        let occasion = Occasion {
            node: Arc::clone(&self.facts.node),
            at: Timestamp::now(),
            monotonic_ms: clock::monotonic_ns() / 1_000_000,
            waiting_for: self.readiness.waiting_for(),
        };
        Ok(ServiceMap::new(occasion, parts))
    }

    fn counters(&self) -> Result<CounterView, ObserveError> {
        let (outcomes, losses, unparsed) = {
            let counters = lock(&self.counters);
            (
                counters.outcomes().map_err(unreadable("outcomes"))?,
                counters.losses().map_err(unreadable("losses"))?,
                counters.unparsed().map_err(unreadable("unparsed"))?,
            )
        };
        let written = |loss: &(Loss, u64)| loss.0 == Loss::EventWritten;
        let journal = lock(&self.record);
        Ok(CounterView {
            outcomes: outcomes
                .into_iter()
                .map(|(hook, outcome, count)| OutcomeCount { program: hook.name(), outcome, count })
                .collect(),
            unparsed: unparsed.into_iter().map(|(reason, count)| (reason.name(), count)).collect(),
            events_written: losses.iter().filter(|loss| written(loss)).map(|(_, count)| count).sum(),
            losses: losses
                .iter()
                .filter(|loss| !written(loss))
                .map(|(loss, count)| (loss.name(), *count))
                .chain([("follow", self.records_lost.load(Ordering::Relaxed))])
                .collect(),
            map_update_errors: journal
                .map_errors
                .iter()
                .map(|((map, errno), count)| (*map, *errno, *count))
                .collect(),
            identity_unresolved: lock(&self.cgroups).unresolved(),
            series_overflow: {
                let state = lock(&self.edges);
                state.accumulator.overflowed() + state.requests.overflowed()
            },
            config_apply_failures: journal.failures.iter().map(|(stage, count)| (*stage, *count)).collect(),
            repairs: journal.repairs.iter().map(|(map, count)| (*map, *count)).collect(),
            connections_reset: {
                let resets = self.resets();
                let done = resets.done.iter();
                done.map(|((service, why), count)| (Arc::clone(service), why.name(), *count)).collect()
            },
            connection_resets_failed: self
                .resets()
                .failed
                .iter()
                .map(|(cause, count)| (*cause, *count))
                .collect(),
        })
    }

    fn overhead(&self) -> OverheadView {
        self.overhead.measure(|| self.programs())
    }

    fn remembered(&self, selector: &Selector, window: Window) -> (Vec<Arc<Record>>, MemoryView) {
        let memory = lock(&self.memory);
        (memory.select(selector, window), memory.view())
    }

    fn follow(&self, selector: &Selector, window: Window, requests: bool) -> Followed {
        let (remembered, to_come) = {
            let memory = lock(&self.memory);
            (memory.select(selector, window), self.followers.subscribe())
        };
        let requests = requests.then(|| self.telling.follow());
        self.sign_of_life();
        Followed { memory: lock(&self.memory).view(), remembered, to_come, requests }
    }

    fn known_names(&self) -> KnownNames {
        let services = self.directory.services();
        let services = services.iter().map(|service| service.spec.name.to_string());
        let services = services.chain([NAME_SERVERS.to_owned()]);
        let mut clients = BTreeSet::new();
        let mut add = |client: &Workload| {
            clients.insert((client.namespace.to_string(), client.name.to_string()));
        };
        lock(&self.cgroups).workloads().for_each(&mut add);
        lock(&self.edges).accumulator.views().iter().for_each(|edge| add(&edge.client));
        lock(&self.memory).records().for_each(|record| add(&record.client));
        KnownNames { services: services.collect(), clients: clients.into_iter().collect() }
    }

    fn readiness(&self) -> ReadinessView {
        let waiting_for = self.readiness.waiting_for();
        ReadinessView { ready: waiting_for.is_empty(), waiting_for }
    }
}

impl Control for Observer {
    fn order(&self, request: &OrderRequest) -> Result<Ordered, OrderError> {
        let (verdict, backends, answer) =
            services::plan(&self.directory.services(), request, clock::monotonic_ns())?;
        let counters = lock(&self.counters);
        for backend in backends {
            counters.order(backend, verdict);
        }
        tracing::info!(
            service = &*answer.service,
            order = answer.order.name(),
            backends = answer.backends.len(),
            for_ms = answer.ends_in_ms,
            "an operator's order"
        );
        Ok(answer)
    }

    fn steer(&self, request: &RolloutRequest) -> Result<RolloutView, RolloutError> {
        self.rollouts.order(request)
    }

    fn accept(&self, request: &AcceptRequest) -> Result<Accepted, AcceptError> {
        self.guards.accept(request)
    }
}
