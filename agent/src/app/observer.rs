//! What can be seen of the running agent, put together from the kernel's counters, the intent, and the names.
//!
//! The control loop tells it what it did; everybody else only reads. Each lock is held for one reading.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_ebpf::abi::{Edge, EdgeKey, Loss};
use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Options;
use super::confinement::Confinement;
use super::drift::Drift;
use super::journal::Journal;
use super::names::LiveNames;
use super::overhead::Overhead;
use super::{explanation, services};
use crate::admin::view::{
    CanaryState, CanaryView, ConfigView, ConfinementView, Counters as CounterView, DataPlaneView,
    Explanation, FeatureView, MapView, NeighbourView, OrderError, OrderRequest, Ordered, OutcomeCount,
    OverheadView, ProgramView, Readiness as ReadinessView, ServiceView, Status,
};
use crate::admin::{Control, Observe, ObserveError};
use crate::flows::{Accumulator, Cgroups, EdgeView, OpenConnections, Record};
use crate::kernel::{
    Counters, DataPlane, EventReader, Feature, KernelError, MapError, ProgramStatus, Repair, Stopwatch,
    mount_point,
};
use crate::readiness::Readiness;
use crate::reconcile::{Directory, MapFill};
use crate::{canary, clock};

/// Events kept for a reader that is slower than the data plane. What it misses it is told.
const FOLLOW_QUEUE: usize = 4_096;
/// For how long the kernel is asked to send every connection's opening and closing; renewed while somebody reads.
const FOLLOW: Duration = Duration::from_secs(5);
/// How fresh the edges are that a reader gets. Two scrapers in the same moment cost one reading.
const EDGES_AGE: Duration = Duration::from_millis(500);

/// See [`Observe`].
pub(super) struct Observer {
    data_plane: Mutex<DataPlane>,
    counters: Mutex<Counters>,
    edges: Mutex<EdgeState>,
    cgroups: Mutex<Cgroups>,
    directory: Arc<Directory>,
    fill: Mutex<Vec<MapFill>>,
    record: Mutex<Journal>,
    readiness: Readiness,
    followers: broadcast::Sender<Arc<Record>>,
    records_lost: AtomicU64,
    heartbeat_ns: AtomicU64,
    untidy: AtomicBool,
    overhead: Overhead,
    neighbours: Mutex<Vec<NeighbourView>>,
    facts: Facts,
}

/// What does not change while the agent runs.
struct Facts {
    started: Timestamp,
    config: PathBuf,
    cgroup: PathBuf,
    mount: PathBuf,
    bpffs: PathBuf,
    adopted: bool,
    confinement: Confinement,
}

/// Edges as last folded.
#[derive(Default)]
struct EdgeState {
    accumulator: Accumulator,
    open: OpenConnections,
    kernel_entries: u64,
    folded_at: Option<Duration>,
    drift: Drift,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer {
    pub(super) fn new(
        data_plane: DataPlane,
        directory: Arc<Directory>,
        readiness: Readiness,
        options: &Options,
        (confinement, stopwatch): (Confinement, Option<Stopwatch>),
    ) -> Result<Self, KernelError> {
        let mount = mount_point()?;
        let counters = data_plane.counters()?;
        Ok(Self {
            facts: Facts {
                started: Timestamp::now(),
                config: options.config.clone(),
                cgroup: data_plane.cgroup().path().to_owned(),
                mount: mount.clone(),
                bpffs: options.bpffs.clone(),
                adopted: data_plane.adopted(),
                confinement,
            },
            data_plane: Mutex::new(data_plane),
            counters: Mutex::new(counters),
            edges: Mutex::default(),
            cgroups: Mutex::new(Cgroups::new(mount)),
            directory,
            fill: Mutex::default(),
            record: Mutex::default(),
            readiness,
            followers: broadcast::channel(FOLLOW_QUEUE).0,
            records_lost: AtomicU64::new(0),
            heartbeat_ns: AtomicU64::new(0),
            untidy: AtomicBool::new(false),
            overhead: Overhead::new(stopwatch),
            neighbours: Mutex::default(),
        })
    }

    /// Whether the maps were there before this agent.
    pub(super) fn adopted(&self) -> bool {
        self.facts.adopted
    }

    pub(super) fn events(&self) -> Result<EventReader, KernelError> {
        lock(&self.data_plane).events()
    }

    pub(super) fn attach(&self) -> Result<Vec<Repair>, KernelError> {
        lock(&self.data_plane).attach()
    }

    pub(super) fn programs(&self) -> Vec<ProgramStatus> {
        lock(&self.data_plane).programs()
    }

    /// Looks what others have attached to the same hooks. On the control thread only.
    pub(super) fn learn_neighbours(&self) {
        let found = lock(&self.data_plane).neighbours();
        *lock(&self.neighbours) = found
            .into_iter()
            .map(|(hook, id, program)| NeighbourView { hook: hook.to_owned(), program, id })
            .collect();
    }

    /// What the control loop did, to be added to.
    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.record)
    }

    pub(super) fn set_fill(&self, fill: &[MapFill]) {
        *lock(&self.fill) = fill.to_vec();
    }

    /// The sign of life, and the request for events while somebody follows.
    pub(super) fn sign_of_life(&self) {
        let now_ns = clock::monotonic_ns();
        self.heartbeat_ns.store(now_ns, Ordering::Relaxed);
        let counters = lock(&self.counters);
        counters.heartbeat(now_ns);
        if self.followers.receiver_count() > 0 {
            counters.follow_until(now_ns + u64::try_from(FOLLOW.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Remembers that something large was made, and is or will be dropped.
    pub(super) fn leave_untidy(&self) {
        self.untidy.store(true, Ordering::Relaxed);
    }

    /// Whether something large was made since the last call.
    pub(super) fn take_untidy(&self) -> bool {
        self.untidy.swap(false, Ordering::Relaxed)
    }

    /// Gives back the memory that reading the kernel's counters took.
    pub(super) fn rest(&self) {
        lock(&self.counters).rest();
    }

    /// Learns which cgroups there are, and tells the programs which of them are workloads.
    pub(super) fn learn_workloads(&self) {
        let mut cgroups = lock(&self.cgroups);
        if let Err(error) = cgroups.rescan(clock::monotonic()) {
            tracing::warn!("{error}");
        }
        let clients = cgroups.clients().map(|(id, _)| id).filter(|&id| id != 1).collect();
        drop(cgroups);
        if let Err(error) = lock(&self.counters).set_workloads(&clients) {
            self.map_error(&error);
            tracing::warn!("{error}; affinity falls back to single cgroups");
        }
    }

    /// Decodes an event and hands it to those who follow.
    pub(super) fn announce(&self, bytes: &[u8]) {
        let mut cgroups = lock(&self.cgroups);
        let mut names =
            LiveNames { cgroups: &mut cgroups, directory: &self.directory, now: clock::monotonic() };
        match Record::decode(bytes, clock::monotonic_zero(), &mut names) {
            // Without a receiver there is nobody to miss it.
            Ok(record) => drop(self.followers.send(Arc::new(record))),
            Err(error) => {
                self.records_lost.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("{error}");
            }
        }
    }

    /// Reads the kernel's edges and folds them, at most once per [`EDGES_AGE`].
    ///
    /// Not before a configuration is in force: until then no id has a name, and what is counted under none would
    /// stay there.
    pub(super) fn fold_edges(&self) -> Result<(), MapError> {
        if lock(&self.record).generation == 0 {
            return Ok(());
        }
        let now = clock::monotonic();
        let mut state = lock(&self.edges);
        if state.folded_at.is_some_and(|at| now.saturating_sub(at) < EDGES_AGE) {
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
        let expired = self.fold(&mut state, now, edges);
        for key in expired {
            if let Err(error) = counters.remove_edge(&key) {
                self.map_error(&error);
            }
        }
        state.folded_at = Some(now);
        Ok(())
    }

    fn fold(&self, state: &mut EdgeState, now: Duration, edges: Vec<(EdgeKey, Edge)>) -> Vec<EdgeKey> {
        let mut cgroups = lock(&self.cgroups);
        let mut names = LiveNames { cgroups: &mut cgroups, directory: &self.directory, now };
        state.accumulator.fold(now, edges, &mut names)
    }

    /// Compares each backend's count of open connections with what the walk finds, and corrects one that was off
    /// by the same number several times in a row; a connection that opens or closes meanwhile is off only once.
    pub(super) fn heal_drift(&self) {
        let counters = lock(&self.counters);
        let Some(Ok(samples)) = counters.samples() else { return };
        let mut state = lock(&self.edges);
        let mut round = state.drift.round(samples.iter().map(|sample| sample.backend));
        self.directory.each_backend(|backend| {
            round.compare(backend, counters.backend_state(backend).active.cast_signed());
        });
        for (backend, difference) in round.wrong() {
            counters.correct_active(backend, difference);
            tracing::warn!(backend, difference, "corrected a count of open connections");
            *lock(&self.record).repairs.entry("BACKEND_STATE").or_default() += 1;
        }
    }

    /// Makes the test connection and looks whether the data plane took it.
    pub(super) async fn test_connection(&self) -> bool {
        let before = self.canary_selections();
        let connected = canary::connect_inside(&self.facts.cgroup, &self.facts.mount).await;
        let result = match connected {
            Ok(()) if self.canary_selections() > before => Ok(()),
            Ok(()) => Err(canary::CanaryError::NotTaken { cgroup: self.facts.cgroup.clone() }),
            Err(error) => Err(error),
        };
        let ok = result.is_ok();
        let reason = result.err().map(|error| error.to_string());
        if let Some(reason) = &reason {
            tracing::error!("{reason}");
        }
        let state = if ok { CanaryState::Ok } else { CanaryState::Failed };
        lock(&self.record).canary = CanaryView { state, at: Some(Timestamp::now()), reason };
        ok
    }

    fn canary_selections(&self) -> u64 {
        let ids = self.directory.ids_of(canary::NAME);
        let counters = lock(&self.counters);
        ids.into_iter().map(|id| counters.service_state(id).selected).sum()
    }

    fn map_error(&self, error: &MapError) {
        lock(&self.record).count_map_error(error);
    }

    fn maps(&self) -> Vec<MapView> {
        let edge_entries = lock(&self.edges).kernel_entries;
        let used: BTreeMap<&str, u64> =
            lock(&self.fill).iter().map(|fill| (fill.map, u64::from(fill.used))).collect();
        lock(&self.data_plane)
            .maps()
            .into_iter()
            .map(|map| MapView {
                name: map.name.to_owned(),
                entries: match map.name {
                    "EDGES" => edge_entries,
                    "BACKEND_STATE" => used.get("BACKENDS").copied().unwrap_or_default(),
                    "SERVICE_STATE" => used.get("SERVICES").copied().unwrap_or_default(),
                    name => used.get(name).copied().unwrap_or(map.entries),
                },
                max_entries: map.max_entries,
                bytes: map.bytes,
            })
            .collect()
    }
}

fn unreadable<E>(what: &'static str) -> impl Fn(E) -> ObserveError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| ObserveError { what, source: Box::new(source) }
}

impl Observe for Observer {
    fn status(&self) -> Result<Status, ObserveError> {
        let (programs, mut features) = {
            let data_plane = lock(&self.data_plane);
            (data_plane.programs(), data_plane.features().table())
        };
        features.push(Feature {
            name: "run_times",
            found: self.overhead.is_timed(),
            without: "what the programs cost is not known; it takes CAP_SYS_ADMIN",
        });
        features.push(Feature {
            name: "system_call_filter",
            found: self.facts.confinement.filtered,
            without: "the agent may make every system call its user may",
        });
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
                .map(|feature| FeatureView {
                    name: feature.name.to_owned(),
                    found: feature.found,
                    without: feature.without.to_owned(),
                })
                .collect(),
            maps: Vec::new(),
            config: ConfigView {
                file: Some(self.facts.config.display().to_string()),
                generation: journal.generation,
                applied_at: journal.applied_at,
                error: journal.error.clone(),
            },
            canary: journal.canary.clone(),
            neighbours: lock(&self.neighbours).clone(),
            data_plane: DataPlaneView {
                heartbeat_age_ms: (heartbeat_ns != 0)
                    .then(|| now_ns.saturating_sub(heartbeat_ns) / 1_000_000),
                following: self.followers.receiver_count() > 0,
            },
            confinement: ConfinementView {
                capabilities: self.facts.confinement.capabilities.iter().map(ToString::to_string).collect(),
                filtered: self.facts.confinement.filtered,
            },
            timed_ms: self.overhead.timed_ms(),
        };
        drop(journal);
        Ok(Status { maps: self.maps(), ..status })
    }

    fn services(&self) -> Result<Vec<ServiceView>, ObserveError> {
        self.leave_untidy();
        // In the order of names, so that the families of a service stand together.
        let entries = self.directory.services();
        Ok(services::views(&entries, &*lock(&self.counters), clock::monotonic_ns()))
    }

    fn explain(&self, target: &str) -> Result<Explanation, ObserveError> {
        let entries = self.directory.services();
        Ok(explanation::explain(target, &entries, &*lock(&self.counters), clock::monotonic_ns()))
    }

    fn edges(&self) -> Result<Vec<EdgeView>, ObserveError> {
        self.fold_edges().map_err(unreadable("edges"))?;
        Ok(lock(&self.edges).accumulator.views())
    }

    fn counters(&self) -> Result<CounterView, ObserveError> {
        let (outcomes, losses) = {
            let counters = lock(&self.counters);
            (
                counters.outcomes().map_err(unreadable("outcomes"))?,
                counters.losses().map_err(unreadable("losses"))?,
            )
        };
        let written = |loss: &(Loss, u64)| loss.0 == Loss::EventWritten;
        let journal = lock(&self.record);
        Ok(CounterView {
            outcomes: outcomes
                .into_iter()
                .map(|(hook, outcome, count)| OutcomeCount { program: hook.name(), outcome, count })
                .collect(),
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
            series_overflow: lock(&self.edges).accumulator.overflowed(),
            config_apply_failures: journal.failures.iter().map(|(stage, count)| (*stage, *count)).collect(),
            repairs: journal.repairs.iter().map(|(map, count)| (*map, *count)).collect(),
        })
    }

    fn overhead(&self) -> OverheadView {
        self.overhead.measure(|| self.programs())
    }

    fn follow(&self) -> broadcast::Receiver<Arc<Record>> {
        let receiver = self.followers.subscribe();
        self.sign_of_life();
        receiver
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
}
