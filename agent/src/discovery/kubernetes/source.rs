//! The source itself: folds what the watches say into the state, hands on what comes of it, and keeps the snapshot and the
//! status of policies.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::client::{KubernetesError, Options, Reached, Wanted, reach};
use super::jobs::JobAsker;
use super::objects::Kind;
use super::pods::PodState;
use super::snapshot::{SnapshotError, Store};
use super::standing::{Connection, Standing};
use super::state::{Counts, Event, State};
use super::status::StatusWriter;
use super::translate::Cluster as _;
use super::watch;
use crate::desired::Change;
use crate::discovery::{SourceKind, Update};

/// Events that wait to be folded in. A watch that is faster waits for its place.
const EVENT_QUEUE: usize = 1_024;
/// How long the API server has to answer before what was known from before is served.
const GRACE: Duration = Duration::from_secs(1);
/// How long policies and routes may keep services waiting that are known. Without them nothing is worse than before Segue.
const OPTIONAL_GRACE: Duration = Duration::from_secs(10);
/// The snapshot is written so long after a change, and so many times as long as it took after the last time.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(1);
/// See [`SNAPSHOT_AFTER`].
const SNAPSHOT_REST: u32 = 10;
/// How often the standing is looked over, and policies are told what became of them.
const ROUND: Duration = Duration::from_millis(250);
/// Notes that are shown.
const MAX_SHOWN_NOTES: usize = 50;

/// An API server as a source of services.
pub struct KubernetesSource {
    reached: Reached,
    options: Options,
    standing: Standing,
}

impl KubernetesSource {
    /// A source for the API server that the options name. It need not answer yet.
    ///
    /// # Errors
    /// What an operator has to put right before the API server can be asked at all.
    pub async fn new(options: Options) -> Result<Self, KubernetesError> {
        let reached = reach(&options).await?;
        let standing = Standing::default();
        {
            let mut facts = standing.facts();
            facts.server.clone_from(&reached.server);
            facts.node.clone_from(&reached.node);
        }
        tracing::info!(server = reached.server, node = reached.node, "services come from Kubernetes");
        Ok(Self { reached, options, standing })
    }

    /// How it stands, now and as long as the source runs.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Follows the cluster until nobody receives `updates` any more.
    pub async fn run(self, updates: mpsc::Sender<(SourceKind, Update)>) {
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let mut watches = JoinSet::new();
        let started = watch::start(&mut watches, &self.reached, &events, &self.standing);
        let clients = started.and_then(|()| {
            let status = StatusWriter::new(self.reached.client(Wanted::All, || {})?);
            Ok((status, JobAsker::new(self.reached.client(Wanted::MetadataOfOne, || {})?)))
        });
        drop(events);
        let (status, jobs) = match clients {
            Ok(clients) => clients,
            // It was found to be possible a moment ago.
            Err(error) => return tracing::error!("the cluster cannot be followed: {error}"),
        };
        let zone: Option<Arc<str>> = self.options.zone.as_deref().map(Into::into);
        let now = Instant::now();
        let mut follower = Follower {
            state: State::new(zone, self.reached.address),
            pods: PodState::new(&self.reached.node),
            jobs,
            store: Store::new(&self.options.state, self.reached.server.clone()),
            status,
            standing: self.standing,
            updates,
            zone: None,
            said: Connection::Starting,
            started: now,
            remembers: false,
            unsaved: false,
            save_at: now,
            saving: None,
        };
        follower.remember().await;
        follower.run(inbox).await;
        watches.shutdown().await;
        follower.save_now().await;
    }
}

/// The source while it runs.
struct Follower {
    state: State,
    pods: PodState,
    jobs: JobAsker,
    store: Store,
    status: StatusWriter,
    standing: Standing,
    updates: mpsc::Sender<(SourceKind, Update)>,
    /// The zone that was told last.
    zone: Option<Arc<str>>,
    /// How it stood when it was told last.
    said: Connection,
    started: Instant,
    /// There was a snapshot, and it was not served yet.
    remembers: bool,
    /// Something changed since the snapshot was written.
    unsaved: bool,
    save_at: Instant,
    saving: Option<JoinHandle<(Duration, Result<(), SnapshotError>)>>,
}

impl Follower {
    async fn run(&mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = Vec::with_capacity(EVENT_QUEUE);
        loop {
            let grace = self.started + GRACE;
            tokio::select! {
                () = self.updates.closed() => return,
                count = inbox.recv_many(&mut events, EVENT_QUEUE) => {
                    if count == 0 {
                        return;
                    }
                    self.unsaved = true;
                    for event in events.drain(..) {
                        match event.kind().is_of_services() {
                            true => self.state.apply(event),
                            false => self.pods.apply(event),
                        }
                    }
                    if self.hand_on().await.is_none() {
                        return;
                    }
                }
                () = sleep_until(grace), if self.remembers => {
                    self.remembers = false;
                    if self.serve_remembered().await.is_none() {
                        return;
                    }
                }
                _ = round.tick() => {
                    self.waive_optional();
                    self.jobs.round(&mut self.pods).await;
                    if self.hand_on().await.is_none() {
                        return;
                    }
                    self.look_over();
                    self.status.round(&self.state).await;
                    self.save().await;
                }
            }
        }
    }

    /// Says what changed. `None` where nobody receives updates any more.
    async fn hand_on(&mut self) -> Option<()> {
        self.say_zone().await?;
        for change in self.pods.take_changes() {
            self.say(Update::Pods(change)).await?;
        }
        for change in self.state.take_changes() {
            if let Change::Reset(services) = &change {
                self.remembers = false;
                let counts = self.state.counts();
                tracing::info!(
                    services = services.len(),
                    endpoints = counts.endpoints,
                    left_out = counts.noted,
                    "the cluster is known"
                );
            }
            self.say(Update::Changed(change)).await?;
        }
        Some(())
    }

    async fn say_zone(&mut self) -> Option<()> {
        let zone = self.state.zone().cloned();
        if zone != self.zone {
            self.zone.clone_from(&zone);
            self.standing.facts().zone.clone_from(&zone);
            self.say(Update::Zone(zone)).await?;
        }
        Some(())
    }

    async fn say(&mut self, update: Update) -> Option<()> {
        self.updates.send((SourceKind::Kubernetes, update)).await.ok()
    }

    /// Reads what the last agent knew. It is served only if the API server does not answer in time.
    async fn remember(&mut self) {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read()).await;
        match read {
            Ok(Ok(Some(snapshot))) => {
                tracing::info!(
                    objects = snapshot.objects.len(),
                    age_s = snapshot.age.as_secs(),
                    "a snapshot of the cluster is there"
                );
                let (of_services, of_pods): (Vec<_>, Vec<_>) =
                    snapshot.objects.into_iter().partition(|object| object.kind().is_of_services());
                self.state.remember(of_services);
                of_pods.into_iter().for_each(|object| self.pods.remember(object));
                self.remembers = true;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!("there is no snapshot to start with: {error}"),
            Err(error) => tracing::error!("reading the snapshot died: {error}"),
        }
    }

    async fn serve_remembered(&mut self) -> Option<()> {
        self.say_zone().await?;
        for change in self.pods.remembered() {
            self.say(Update::Pods(change)).await?;
        }
        let services = self.state.all();
        tracing::warn!(
            services = services.len(),
            server = self.standing.facts().server,
            "the API server has not told everything yet; what was known from before is served meanwhile"
        );
        self.said = Connection::Remembered;
        self.say(Update::Remembered(services)).await
    }

    /// Services that are known do not wait for policies and routes that cannot be had.
    fn waive_optional(&mut self) {
        if self.started.elapsed() < OPTIONAL_GRACE {
            return;
        }
        if self.pods.is_listed(Kind::Pod) && !self.pods.is_listed(Kind::Namespace) {
            tracing::warn!(
                "namespaces cannot be listed; what they say of their pods is as it was remembered"
            );
            self.pods.apply(Event::Unknown(Kind::Namespace));
        }
        let essentials_known =
            || Kind::ALL.iter().all(|kind| !kind.is_essential() || self.state.is_listed(*kind));
        if self.state.is_whole() || !essentials_known() {
            return;
        }
        for &kind in Kind::ALL {
            if kind.is_of_services() && !self.state.is_listed(kind) {
                tracing::warn!(kind = kind.name(), "cannot be listed; services are served without");
                self.state.apply(Event::Unknown(kind));
            }
        }
    }

    /// Brings the standing up to date, and says aloud where it changed.
    fn look_over(&mut self) {
        let counts = Counts { pods: self.pods.count(), ..self.state.counts() };
        let notes = self.state.notes().into_iter().take(MAX_SHOWN_NOTES);
        let notes = notes.map(|(key, note)| (key.to_string(), note)).collect();
        let mut facts = self.standing.facts();
        (facts.counts, facts.notes) = (counts, notes);
        let trouble = facts.kinds.values().find_map(|standing| standing.trouble.clone());
        let connection = match (self.state.is_whole(), &trouble) {
            (true, None) => Connection::InSync,
            (true, Some(_)) => Connection::Interrupted,
            (false, _) if self.said == Connection::Remembered => Connection::Remembered,
            (false, _) => Connection::Starting,
        };
        facts.connection = connection;
        if facts.since.is_none() || connection != self.said {
            facts.since = Some(Timestamp::now());
        }
        drop(facts);
        if connection != std::mem::replace(&mut self.said, connection) {
            match (connection, trouble) {
                (Connection::InSync, _) => tracing::info!("the cluster is watched"),
                (Connection::Interrupted, Some(trouble)) => {
                    tracing::warn!(
                        "the cluster cannot be watched just now, what is in force stays: {trouble}"
                    );
                }
                _ => {}
            }
        }
    }

    /// Writes the snapshot where that is due.
    async fn save(&mut self) {
        if let Some(saving) = self.saving.take_if(|saving| saving.is_finished()) {
            let (took, result) = saving.await.unwrap_or((Duration::ZERO, Ok(())));
            self.save_at = Instant::now() + SNAPSHOT_AFTER.max(took * SNAPSHOT_REST);
            self.saved(result);
        }
        let is_due = self.unsaved && self.state.is_whole() && Instant::now() >= self.save_at;
        if is_due && self.saving.is_none() {
            self.unsaved = false;
            let objects: Vec<_> = self.state.objects().chain(self.pods.objects()).collect();
            let store = self.store.clone();
            self.saving = Some(tokio::task::spawn_blocking(move || {
                let started = std::time::Instant::now();
                let result = store.write(objects.into_iter());
                (started.elapsed(), result)
            }));
        }
    }

    /// Writes the snapshot a last time.
    async fn save_now(mut self) {
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        if self.unsaved && self.state.is_whole() {
            let result = tokio::task::block_in_place(|| {
                self.store.write(self.state.objects().chain(self.pods.objects()))
            });
            self.saved(result);
        }
    }

    fn saved(&self, result: Result<(), SnapshotError>) {
        let mut facts = self.standing.facts();
        match result {
            Ok(()) => (facts.snapshot_at, facts.snapshot_error) = (Some(Timestamp::now()), None),
            Err(error) => {
                let error = error.to_string();
                if facts.snapshot_error.as_ref() != Some(&error) {
                    tracing::warn!("{error}");
                }
                facts.snapshot_error = Some(error);
            }
        }
    }
}
