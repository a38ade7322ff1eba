//! What can be seen of the running agent, put together from the kernel's counters, the intent, and the names.
//!
//! The control loop tells it what it did; everybody else only reads. Each lock is held for one reading.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Options;
use super::confinement::Confinement;
use super::draining::Resets;
use super::drift::Drift;
use super::governing::Governing;
use super::governing::InUse;
use super::guards::Guards;
use super::healing;
use super::journal::Journal;
use super::names::LiveNames;
use super::neighbours::Neighbours;
use super::overhead::Overhead;
use super::rollouts::Rollouts;
use crate::admin::view::CanaryState;
use crate::admin::view::CanaryView;
use crate::admin::view::MapView;
use crate::admin::view::OverheadView;
use crate::canary;
use crate::clock;
use crate::discovery::kubernetes::Standing;
use crate::draining::Leaving;
use crate::flows::Accumulator;
use crate::flows::Cgroups;
use crate::flows::Memory;
use crate::flows::OpenConnections;
use crate::flows::PodChange;
use crate::flows::Record;
use crate::flows::RequestAccumulator;
use crate::kernel::Counters;
use crate::kernel::DataPlane;
use crate::kernel::EventReader;
use crate::kernel::KernelError;
use crate::kernel::Manner;
use crate::kernel::MapError;
use crate::kernel::ProgramStatus;
use crate::kernel::Repair;
use crate::kernel::Stopwatch;
use crate::kernel::mount_point;
use crate::otlp;
use crate::otlp::Exports;
use crate::readiness::Readiness;
use crate::reconcile::Directory;
use crate::reconcile::MapFill;

mod answers;
mod changes;
mod cluster;
mod counting;
mod telling;

use changes::Changes;
use telling::Telling;

/// Events kept for a reader that is slower than the data plane. What it misses it is told.
const FOLLOW_QUEUE: usize = 4_096;
/// For how long the kernel is asked to send every connection's opening and closing; renewed while somebody reads.
const FOLLOW: Duration = Duration::from_secs(5);

/// See [`Observe`].
pub(super) struct Observer {
    data_plane: Mutex<DataPlane>,
    counters: Mutex<Counters>,
    edges: Mutex<EdgeState>,
    cgroups: Mutex<Cgroups>,
    directory: Arc<Directory>,
    fill: Mutex<Vec<MapFill>>,
    leaving: Mutex<BTreeMap<u32, Leaving>>,
    resets: Mutex<Resets>,
    record: Mutex<Journal>,
    readiness: Readiness,
    followers: broadcast::Sender<Arc<Record>>,
    /// Held while an event is sent: who begins to follow sees each event once, here or there.
    memory: Mutex<Memory>,
    changes: Changes,
    records_lost: AtomicU64,
    client_entries: AtomicU64,
    left_alone: Mutex<u64>,
    heartbeat_ns: AtomicU64,
    untidy: AtomicBool,
    overhead: Overhead,
    neighbours: Mutex<Neighbours>,
    rollouts: Rollouts,
    kubernetes: Option<Standing>,
    exports: Option<Arc<Exports>>,
    telling: Telling,
    guards: Guards,
    governing: Governing,
    facts: Facts,
}

/// What does not change while the agent runs.
struct Facts {
    node: Arc<str>,
    started: Timestamp,
    /// Since when the maps count.
    counting_since: Timestamp,
    config: Option<PathBuf>,
    cgroup: PathBuf,
    mount: PathBuf,
    bpffs: PathBuf,
    adopted: bool,
    confinement: Confinement,
    /// Connections are recorded also while nobody follows.
    records_flows: bool,
}

/// Edges as last folded.
#[derive(Default)]
struct EdgeState {
    accumulator: Accumulator,
    open: OpenConnections,
    requests: RequestAccumulator,
    kernel_entries: u64,
    request_entries: u64,
    /// The sum of all that was counted, whatever it is: it stays the same while nothing happens.
    sum_of_counts: u64,
    folded_at: Option<Duration>,
    drift: Drift,
    clients: healing::Clients,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this node is called: in the cluster where it is told, else by its kernel.
fn node_name(options: &Options) -> Arc<str> {
    let told = options.kubernetes.as_ref().and_then(|kubernetes| kubernetes.node.clone());
    let own = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    told.unwrap_or_else(own).into()
}

impl Observer {
    pub(super) fn new(
        data_plane: DataPlane,
        directory: Arc<Directory>,
        readiness: Readiness,
        options: &Options,
        (confinement, stopwatch): (Confinement, Option<Stopwatch>),
        kubernetes: Option<Standing>,
    ) -> Result<Self, KernelError> {
        let mount = mount_point()?;
        let counters = data_plane.counters()?;
        let started = Timestamp::now();
        let pinned = data_plane.pinned_at().and_then(|at| at.try_into().ok());
        Ok(Self {
            facts: Facts {
                node: node_name(options),
                started,
                counting_since: pinned.unwrap_or(started),
                config: options.config.clone(),
                cgroup: data_plane.cgroup().path().to_owned(),
                mount: mount.clone(),
                bpffs: options.bpffs.clone(),
                adopted: data_plane.adopted(),
                confinement,
                records_flows: options.records_flows,
            },
            data_plane: Mutex::new(data_plane),
            counters: Mutex::new(counters),
            edges: Mutex::default(),
            cgroups: Mutex::new(Cgroups::new(mount).expecting_pods(kubernetes.is_some())),
            directory,
            fill: Mutex::default(),
            leaving: Mutex::default(),
            resets: Mutex::default(),
            record: Mutex::default(),
            readiness,
            followers: broadcast::channel(FOLLOW_QUEUE).0,
            memory: Mutex::default(),
            changes: Changes::default(),
            records_lost: AtomicU64::new(0),
            client_entries: AtomicU64::new(0),
            left_alone: Mutex::default(),
            heartbeat_ns: AtomicU64::new(0),
            untidy: AtomicBool::new(false),
            overhead: Overhead::new(stopwatch, options.overhead.map(|budget| budget.interval)),
            neighbours: Mutex::default(),
            rollouts: Rollouts::restored(&options.state),
            kubernetes,
            exports: options
                .otlp
                .as_ref()
                .map(|otlp| Arc::new(Exports::new(otlp, otlp::Signal::Metrics, otlp.interval))),
            telling: Telling::new(options.otlp.as_ref()),
            guards: Guards::new(options.accept_mass_deletion),
            governing: Governing::new(options.overhead),
        })
    }

    /// Where metrics are sent, what came of it, and who sends them since when; `None` where they are not sent.
    pub(super) fn exports(&self) -> Option<(Arc<Exports>, otlp::Sender)> {
        let exports = self.exports.as_ref()?;
        let sender = otlp::Sender { node: Arc::clone(&self.facts.node), since: self.facts.counting_since };
        Some((Arc::clone(exports), sender))
    }

    /// Whether the maps were there before this agent.
    pub(super) fn adopted(&self) -> bool {
        self.facts.adopted
    }

    pub(super) fn events(&self) -> Result<EventReader, KernelError> {
        lock(&self.data_plane).events()
    }

    pub(super) fn request_events(&self) -> Result<EventReader, KernelError> {
        lock(&self.data_plane).request_events()
    }

    pub(super) fn attach(&self) -> Result<Vec<Repair>, KernelError> {
        lock(&self.data_plane).attach()
    }

    /// Whether a program, a pin or the managed cgroup itself is not what it was made to be.
    pub(super) fn needs_attaching(&self) -> bool {
        let mut data_plane = lock(&self.data_plane);
        let moved = data_plane.follow_cgroup();
        if moved {
            tracing::warn!("the managed cgroup was made anew; the programs go there");
        }
        moved || data_plane.programs().iter().any(|program| !program.attached) || !data_plane.pins_are_ours()
    }

    pub(super) fn programs(&self) -> Vec<ProgramStatus> {
        lock(&self.data_plane).programs()
    }

    /// Looks what others have attached to the same hooks. On the control thread only.
    pub(super) fn learn_neighbours(&self) {
        let data_plane = lock(&self.data_plane);
        lock(&self.neighbours).round(|below| data_plane.neighbours(below));
    }

    /// What the control loop did, to be added to.
    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.record)
    }

    /// What the kernel counts, for one reading.
    pub(super) fn counters_now(&self) -> MutexGuard<'_, Counters> {
        lock(&self.counters)
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What resets came to, to be added to.
    pub(super) fn resets(&self) -> MutexGuard<'_, Resets> {
        lock(&self.resets)
    }

    /// The backends that are out, as last seen.
    pub(super) fn set_leaving(&self, leaving: &BTreeMap<u32, Leaving>) {
        lock(&self.leaving).clone_from(leaving);
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
        let is_recording = self.is_followed() && self.governing.allows_events();
        lock(&self.memory).recording(Timestamp::now(), is_recording);
        let until_ns = now_ns + u64::try_from(FOLLOW.as_nanos()).unwrap_or(u64::MAX);
        // Said each time: an agent before this one may have wanted them for some seconds more.
        counters.follow_until(if is_recording { until_ns } else { 0 });
        let (below, heads_below) = self.telling.wanted();
        let is_telling = below > 0 && self.governing.allows_events();
        counters.tell(if is_telling { until_ns } else { 0 }, below, heads_below);
    }

    /// Whether somebody wants to be told of single connections.
    fn is_followed(&self) -> bool {
        self.facts.records_flows || self.followers.receiver_count() > 0
    }

    /// Has requests read, or not, as the governor says; whether that changes anything.
    pub(super) fn set_reading(&self) -> bool {
        lock(&self.data_plane).set_reading(self.governing.allows_requests())
    }

    /// Has program runs timed for a moment, and what comes of it looked at by the governor. Blocks for as long.
    pub(super) fn weigh(&self) -> OverheadView {
        let view = self.overhead.measure(|| self.programs());
        let requests = lock(&self.data_plane).features().requests;
        let events = self.is_followed() || self.telling.wanted().0 > 0;
        self.governing.sample(&view, InUse { events, requests });
        view
    }

    /// How often program runs are timed unasked.
    pub(super) fn timing_period(&self) -> Duration {
        self.overhead.period()
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
        drop(cgroups);
        self.tell_programs();
    }

    /// Learns cgroups that were just made.
    pub(super) fn learn_cgroups(&self, made: &[PathBuf]) {
        let learned = {
            let mut cgroups = lock(&self.cgroups);
            made.iter().filter(|path| cgroups.learn(path)).count()
        };
        if learned > 0 {
            self.tell_programs();
        }
    }

    /// Directories below which pods appear, and that were not given yet.
    pub(super) fn take_nurseries(&self) -> Vec<PathBuf> {
        lock(&self.cgroups).take_nurseries()
    }

    /// Takes in what a source says of pods.
    pub(super) fn name_pods(&self, change: PodChange) {
        lock(&self.cgroups).tell(change, clock::monotonic());
        self.tell_programs();
    }

    /// Tells the programs which cgroups are workloads, and how their connections are to be treated. Nobody can say that of
    /// a pod that was not told about: what was said before an agent started holds until then.
    fn tell_programs(&self) {
        // Held until it is written, so that what was known last is written last.
        let mut left_alone = lock(&self.left_alone);
        let cgroups = lock(&self.cgroups);
        let clients = cgroups.clients().map(|(id, _)| id).filter(|&id| id != 1);
        let mut manners: BTreeMap<u64, Manner> = clients.map(|id| (id, Manner::Managed)).collect();
        if self.kubernetes.is_some() {
            manners.extend(cgroups.unnamed_pods().map(|id| (id, Manner::Undecided)));
            manners.extend(cgroups.left_alone().map(|id| (id, Manner::LeftAlone)));
        }
        drop(cgroups);
        match lock(&self.counters).set_workloads(&manners) {
            Ok(count) => *left_alone = count,
            Err(error) => {
                self.map_error(&error);
                tracing::warn!("{error}; affinity falls back to single cgroups");
            }
        }
    }

    /// Decodes an event, remembers it and hands it to those who follow.
    pub(super) fn announce(&self, bytes: &[u8]) {
        let mut cgroups = lock(&self.cgroups);
        let mut names =
            LiveNames { cgroups: &mut cgroups, directory: &self.directory, now: clock::monotonic() };
        match Record::decode(bytes, clock::monotonic_zero(), &mut names) {
            Ok(record) => self.tell(record),
            Err(error) => {
                self.records_lost.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("{error}");
            }
        }
    }

    /// The canaries.
    pub(super) fn canaries(&self) -> &Rollouts {
        &self.rollouts
    }

    /// What keeps the cost of observing within its budget.
    pub(super) fn governing(&self) -> &Governing {
        &self.governing
    }

    /// The guards against mass deletion.
    pub(super) fn guards(&self) -> &Guards {
        &self.guards
    }

    /// Remembers an event, also one that no program saw, keeps what the map shows of it, and hands it to those who follow.
    pub(super) fn tell(&self, record: Record) {
        let record = Arc::new(record);
        self.changes.keep(&record);
        let mut memory = lock(&self.memory);
        memory.keep(Arc::clone(&record));
        // Without a receiver there is nobody to miss it.
        drop(self.followers.send(record));
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
        let (edge_entries, request_entries) = {
            let state = lock(&self.edges);
            (state.kernel_entries, state.request_entries)
        };
        let used: BTreeMap<&str, u64> =
            lock(&self.fill).iter().map(|fill| (fill.map, u64::from(fill.used))).collect();
        lock(&self.data_plane)
            .maps()
            .into_iter()
            .map(|map| MapView {
                name: map.name.to_owned(),
                entries: match map.name {
                    "EDGES" => edge_entries,
                    "REQUESTS" => request_entries,
                    "CLIENTS" => self.client_entries.load(Ordering::Relaxed),
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
