//! The composition root: builds every part in order and runs the one control loop. The only module that knows
//! every other; it decides nothing about services.

mod confinement;
mod draining;
mod drift;
mod duties;
mod explanation;
mod governing;
mod guards;
mod healing;
mod journal;
mod limits;
mod names;
mod neighbours;
mod observer;
mod overhead;
mod rollouts;
mod services;
mod sources;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::desired::{Change, Desired};
use crate::discovery::{SourceKind, Update, kubernetes};
use crate::event::Event;
use crate::kernel::{DataPlane, KernelTables, SockDiag, trim_heap};
use crate::metrics::Exposition;
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;
use crate::rollout::Transition;
use crate::{admin, canary, clock, otlp, shutdown};
pub use confinement::Beginnings;
use draining::Draining;
use duties::Duties;
pub use governing::Budget;
use observer::Observer;
use sources::Sources;

/// How `segue run` was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file services come from.
    pub config: Option<PathBuf>,
    /// The API server services come from.
    pub kubernetes: Option<kubernetes::Options>,
    /// The managed cgroup; the root where none is given.
    pub cgroup: Option<PathBuf>,
    /// Where metrics and probes are served.
    pub listen: SocketAddr,
    /// The admin API's socket.
    pub socket: PathBuf,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// Whether requests on connections are read.
    pub reads_requests: bool,
    /// Libraries of OpenSSL inside whose TLS requests are read as well.
    pub tls_libraries: Vec<PathBuf>,
    /// Whether connections are recorded one by one also while nobody follows.
    pub records_flows: bool,
    /// The zone this node is in.
    pub zone: Option<String>,
    /// Where what outlives the agent is kept, besides what the kernel keeps.
    pub state: PathBuf,
    /// Pages that may read the service map although another agent served them.
    pub map_origins: Vec<String>,
    /// Where metrics are sent, besides being served.
    pub otlp: Option<otlp::Options>,
    /// What observing may cost; `None`: whatever it does.
    pub overhead: Option<Budget>,
    /// No deletion is held back, however large.
    pub accept_mass_deletion: bool,
}

/// What is awaited before the agent is ready, besides what its sources say.
const PROGRAMS: &str = "the programs to be attached";
const CANARY: &str = "the first test connection";

/// Signs of life, counters, who is who.
const TICK: Duration = Duration::from_secs(1);
/// Drift, links, the test connection.
const CHECK: Duration = Duration::from_secs(10);
/// Canaries and their baselines.
const COMPARE: Duration = Duration::from_millis(500);
/// News of sources that wait to be applied. A source that is faster waits for its place.
const UPDATE_QUEUE: usize = 1_024;

/// Runs the agent until it is told to leave. The data plane stays.
///
/// # Errors
/// What keeps the agent from starting: no eBPF, another agent, a socket in use, a first configuration that cannot
/// be used while nothing is pinned yet.
pub async fn run(options: Options, beginnings: Beginnings) -> anyhow::Result<()> {
    // What may be taken is taken first: an agent that cannot start has changed nothing.
    let listener = admin::listen(options.listen).await?;
    // Reading a large file takes as long as loading the programs: they go on side by side.
    let (updates, inbox) = mpsc::channel(UPDATE_QUEUE);
    let sources = Sources::start(&options, updates).await?;
    let (cgroup, bpffs) = (options.cgroup.as_deref(), &options.bpffs);
    let mut data_plane = DataPlane::load(cgroup, bpffs, options.reads_requests, &options.tls_libraries)?;
    let program_log = tokio::spawn(data_plane.log()?.forward());
    tracing::info!(
        cgroup = %data_plane.cgroup().path().display(),
        adopted = data_plane.adopted(),
        "data plane loaded"
    );
    let mut reconciler = Reconciler::new(data_plane.tables()?);
    reconciler.set_zone(options.zone.as_deref());
    let found = reconciler.adopt().context("cannot read the pinned maps")?.services;
    reconciler.keep_unclaimed(found > 0);
    let awaited: Vec<&str> = sources.awaited().chain([PROGRAMS, CANARY]).collect();
    let readiness = Readiness::awaiting(&awaited);
    let confinement = confinement::confine(beginnings.readers());
    let guards = (confinement, beginnings.stopwatch);
    let observer = Arc::new(Observer::new(
        data_plane,
        reconciler.directory(),
        readiness.clone(),
        &options,
        guards,
        sources.standing(),
    )?);

    let (trigger, leaving) = shutdown::channel();
    let mut servers = tokio::task::JoinSet::new();
    {
        let (observer, leaving, socket) = (Arc::clone(&observer), leaving.clone(), options.socket.clone());
        servers.spawn(async move { admin::serve_admin(&socket, observer, leaving.wait()).await });
    }
    {
        let (observer, leaving) = (Arc::clone(&observer), leaving.clone());
        let origins = options.map_origins.as_slice().into();
        servers.spawn(admin::serve_metrics(listener, observer, origins, leaving.wait()));
    }
    let reader = tokio::spawn(duties::read_events(Arc::clone(&observer), observer.events()?));
    let request_reader = tokio::spawn(duties::read_requests(Arc::clone(&observer)));
    let timer = tokio::spawn(duties::time_programs(Arc::clone(&observer)));
    let greeter = tokio::spawn(duties::greet_pods(Arc::clone(&observer)));
    let tracer = options.otlp.clone().zip(observer.spans()).map(|(options, (queue, exports, node))| {
        tokio::spawn(otlp::spans::run(options, node, exports, queue))
    });
    let exporter = options.otlp.zip(observer.exports()).map(|(options, (exports, sender))| {
        tokio::spawn(otlp::run(options, sender, exports, Exposition::new(observer.clone())))
    });

    let mut control = Control {
        reconciler,
        desired: Desired::default(),
        duties: Duties::new(Arc::clone(&observer)),
        draining: Draining::new(Arc::clone(&observer), Box::new(SockDiag)),
        observer,
        readiness,
        sources,
        own_zone: options.zone.is_none(),
        attached: false,
        applied: false,
        found,
    };
    control.desired.apply(SourceKind::Agent, Change::Upsert(canary::service()));
    let result = control.run(inbox, &mut servers).await;

    trigger.leave();
    control.sources.stop().await;
    reader.abort();
    request_reader.abort();
    tracer.inspect(tokio::task::JoinHandle::abort);
    timer.abort();
    greeter.abort();
    exporter.inspect(tokio::task::JoinHandle::abort);
    program_log.abort();
    while servers.join_next().await.is_some() {}
    result
}

/// The control loop's state.
struct Control {
    reconciler: Reconciler<KernelTables>,
    desired: Desired,
    duties: Duties,
    draining: Draining,
    observer: Arc<Observer>,
    readiness: Readiness,
    sources: Sources,
    /// The zone is what a source says it is; the operator named none.
    own_zone: bool,
    /// The programs were attached at least once; from then on the check looks after them.
    attached: bool,
    /// A whole configuration was applied at least once.
    applied: bool,
    /// How many services were found in the maps.
    found: usize,
}

/// How much of what is desired may be different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    Nothing,
    Services,
    Whole,
}

type Inbox = mpsc::Receiver<(SourceKind, Update)>;
type Servers = tokio::task::JoinSet<Result<(), admin::AdminError>>;

impl Control {
    async fn run(&mut self, mut inbox: Inbox, servers: &mut Servers) -> anyhow::Result<()> {
        let (mut tick, mut check, mut compare) = (every(TICK), every(CHECK), every(COMPARE));
        let observer = Arc::clone(&self.observer);
        let mut signals = std::pin::pin!(shutdown::signalled());
        loop {
            let event = tokio::select! {
                biased;
                signal = &mut signals => Event::Leave(signal.context("cannot wait for signals")?),
                update = inbox.recv() => match update {
                    Some((source, update)) => Event::Discovered(source, update),
                    None => Event::SourcesEnded,
                },
                Some(ended) = servers.join_next() => {
                    ended.context("a server of the agent's died")??;
                    continue;
                }
                () = observer.canaries().ordered() => Event::Ordered,
                () = observer.guards().accepted() => Event::Accepted,
                () = observer.governing().stepped() => Event::Stepped,
                _ = compare.tick() => Event::Compare,
                _ = tick.tick() => Event::Tick,
                _ = check.tick() => Event::Check,
            };
            match event {
                Event::Discovered(source, update) => {
                    let waited = !self.sources.any_heard();
                    let mut extent = self.discovered(source, update)?;
                    // What else has come is applied with it.
                    for _ in 0..UPDATE_QUEUE {
                        let Ok((source, update)) = inbox.try_recv() else { break };
                        extent = extent.max(self.discovered(source, update)?);
                    }
                    if extent > Extent::Nothing {
                        tokio::task::block_in_place(|| self.reconcile(extent));
                    }
                    if waited && self.sources.any_heard() {
                        // The check that readiness awaits does not wait for its period.
                        check.reset_immediately();
                    }
                }
                Event::SourcesEnded => anyhow::bail!("services are not watched any more"),
                Event::Compare => tokio::task::block_in_place(|| self.compare()),
                Event::Ordered => tokio::task::block_in_place(|| self.shift()),
                Event::Accepted => tokio::task::block_in_place(|| self.release()),
                Event::Stepped => tokio::task::block_in_place(|| self.step()),
                Event::Tick => tokio::task::block_in_place(|| self.tick()),
                Event::Check => self.check().await?,
                Event::Leave(signal) => {
                    tracing::info!(signal, "leaving; the data plane keeps working");
                    return Ok(());
                }
            }
        }
    }

    fn tick(&mut self) {
        self.duties.tick();
        let report = self.reconciler.idle();
        self.observer.journal().repaired(&report);
        self.observer.set_fill(&self.reconciler.fill());
        // Until a source has spoken, nobody knows who is out.
        if self.applied {
            self.draining.round(self.reconciler.retired());
        }
    }

    /// Folds in what a source says, to be applied.
    fn discovered(&mut self, source: SourceKind, update: Update) -> anyhow::Result<Extent> {
        match update {
            Update::Changed(change) => {
                let whole = matches!(change, Change::Reset(_));
                self.admit(source, change);
                if source == SourceKind::File {
                    self.observer.journal().accepted();
                }
                if self.sources.synced(source) {
                    self.observer.canaries().forget_left();
                }
                Ok(if whole { Extent::Whole } else { Extent::Services })
            }
            Update::Remembered(services) => {
                self.admit(source, Change::Reset(services));
                self.sources.remembered(source);
                Ok(Extent::Whole)
            }
            Update::Pods(change) => {
                self.observer.name_pods(change);
                Ok(Extent::Nothing)
            }
            Update::Zone(zone) => {
                if self.own_zone {
                    self.reconciler.set_zone(zone.as_deref());
                }
                Ok(Extent::Services)
            }
            Update::Rejected(error) => {
                self.observer.journal().rejected(journal::CHECK, error.to_string());
                tracing::error!(
                    source = source.name(),
                    "configuration rejected, the last good one stays:\n{error}"
                );
                if !self.sources.has_heard(source) && !self.observer.adopted() {
                    anyhow::bail!("there is no configuration to start with:\n{error}");
                }
                Ok(Extent::Nothing)
            }
        }
    }

    /// Folds a change in, but for what must not be lost unasked.
    fn admit(&mut self, source: SourceKind, change: Change) {
        let change = self.observer.guards().admit(source, change);
        self.desired.apply(source, self.observer.canaries().admit(source, change));
    }

    /// Makes the maps equal to what is desired, then sees to it that the programs are attached: maps before links,
    /// so that no connection meets empty tables.
    fn reconcile(&mut self, extent: Extent) {
        let whole = extent == Extent::Whole;
        let started = clock::monotonic();
        self.reconciler.set_now(clock::monotonic_ns());
        match self.reconciler.apply(&self.desired) {
            Ok(report) => {
                for error in &report.failed {
                    tracing::error!("{error}; it will be tried again");
                }
                for refusal in &report.refused {
                    tracing::error!("{}", refusal.reason);
                }
                self.observer.journal().applied(&report);
                self.applied |= whole && self.sources.all_synced();
                let services = self.desired.services().len() - 1;
                let took_ms = u64::try_from((clock::monotonic() - started).as_millis()).unwrap_or(u64::MAX);
                if whole {
                    tracing::info!(services, took_ms, "configuration applied");
                } else {
                    tracing::debug!(services, took_ms, "changes applied");
                }
                self.sources.heard().for_each(|awaited| self.done(awaited));
            }
            Err(error) => {
                self.observer.journal().rejected(journal::RECONCILE, error.to_string());
                tracing::error!("configuration not applied, the last good one stays: {error}");
            }
        }
        self.observer.set_fill(&self.reconciler.fill());
        self.observer.canaries().save();
        if whole {
            self.observer.leave_untidy();
        }
        if whole && self.sources.all_synced() {
            self.part_with_found();
        }
        if whole || !self.attached {
            self.attach();
        }
    }

    /// Lets go what was found in the maps and no source names, unless that is so much that somebody must accept it first.
    fn part_with_found(&mut self) {
        let unclaimed = self.reconciler.unclaimed();
        if unclaimed.is_empty() || self.observer.guards().holds_found(unclaimed, self.found) {
            return;
        }
        self.reconciler.keep_unclaimed(false);
        self.reconcile(Extent::Services);
    }

    /// Puts into force what operators accepted.
    fn release(&mut self) {
        let released = self.observer.guards().take_accepted();
        for (source, change) in released.changes {
            self.desired.apply(source, self.observer.canaries().admit(source, change));
        }
        if released.found {
            self.reconciler.keep_unclaimed(false);
        }
        self.reconcile(Extent::Services);
    }

    /// Compares canaries with their baselines and puts into force what comes of it.
    fn compare(&mut self) {
        let canaries = self.observer.canaries();
        let watched = canaries.register().watched();
        if watched.is_empty() {
            return;
        }
        match self.observer.readings(&watched) {
            Ok(readings) => {
                let (now, mut register) = (rollouts::now(), canaries.register());
                for (service, readings) in watched.iter().zip(&readings) {
                    register.observe(service, now, readings);
                }
            }
            Err(error) => tracing::warn!("canaries are not compared: {error}"),
        }
        self.shift();
    }

    /// Puts into force what became of canaries.
    fn shift(&mut self) {
        let mut register = self.observer.canaries().register();
        let changes = register.take_changes();
        if changes.is_empty() {
            return;
        }
        // What was written since an order was given is newer than the order.
        for spec in changes.iter().filter_map(|change| register.in_force(&change.spec.name)) {
            if let Some(source) = self.desired.source(&spec.name) {
                self.desired.apply(source, Change::Upsert(spec));
            }
        }
        drop(register);
        self.reconcile(Extent::Services);
        for change in &changes {
            let service = &*change.spec.name;
            match change.transition {
                Transition::RolledBack(cause) => {
                    tracing::error!(service, cause = cause.name(), "{}", change.told);
                }
                _ => tracing::info!(service, "{}", change.told),
            }
            rollouts::record(change).into_iter().for_each(|record| self.observer.tell(record));
        }
    }

    fn attach(&mut self) {
        match self.observer.attach() {
            Ok(repairs) => {
                for repair in repairs {
                    tracing::warn!(hook = repair.hook.name(), found = repair.found, "attached anew");
                }
                self.attached = true;
                self.done(PROGRAMS);
            }
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Puts a step of the governor into force, as far as it takes programs; the rest looks at it by itself.
    fn step(&mut self) {
        if self.observer.set_reading() && self.attached {
            self.attach();
        }
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        if !self.sources.any_heard() {
            return Ok(());
        }
        tokio::task::block_in_place(|| {
            let report = self.reconciler.repair();
            let repaired = report.repaired.total();
            if repaired > 0 {
                tracing::warn!(repaired, "maps differed from what was written, and are right again");
            }
            self.observer.journal().repaired(&report);
            if self.observer.needs_attaching() {
                self.attach();
            }
            self.observer.learn_neighbours();
        });
        if self.observer.test_connection().await {
            self.done(CANARY);
        } else {
            tokio::task::block_in_place(|| self.attach());
        }
        if self.observer.take_untidy() {
            tokio::task::block_in_place(trim_heap);
        }
        Ok(())
    }

    fn done(&mut self, thing: &'static str) {
        if self.readiness.done(thing) {
            tracing::info!("ready");
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
