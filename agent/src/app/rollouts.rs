//! Canaries in a running agent: the register with its lock, the file in which rollouts outlive the agent, and how the
//! control loop is woken by an order. What becomes of a canary is decided in `rollout`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::admin::view::{RolloutError, RolloutRequest, RolloutView};
use crate::clock;
use crate::desired::{self, SourceKind};
use crate::flows::record::Happening;
use crate::flows::{Record, Workload};
use crate::rollout::{Change, Moment, Register, Saved, Transition, WrongPhase};

/// The file's name within the directory for what outlives the agent.
const FILE: &str = "rollouts.json";

/// Why rollouts cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The file cannot be read.
    #[error(
        "cannot read {}: {source}; canaries that were rolled back begin anew, remove the file if it is none of Segue's",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(
        "cannot write {}: {source}; rollouts do not outlive this agent, may it write there, and is the disk full?",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// See the module.
pub(super) struct Rollouts {
    register: Mutex<Register>,
    store: Mutex<Store>,
    ordered: Notify,
}

/// What is written down, and where.
struct Store {
    directory: PathBuf,
    /// The text of the file; `None` where there is no such file.
    written: Option<String>,
    error: Option<StoreError>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This moment.
pub(super) fn now() -> Moment {
    Moment { monotonic: clock::monotonic(), wall: Timestamp::now() }
}

impl Rollouts {
    /// Takes over what the last agent wrote into this directory, if it did.
    pub(super) fn restored(directory: &Path) -> Self {
        let mut store = Store { directory: directory.to_owned(), written: None, error: None };
        let saved = store.read().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            store.error = Some(error);
            Vec::new()
        });
        let register = Mutex::new(Register::restored(saved));
        Self { register, store: Mutex::new(store), ordered: Notify::new() }
    }

    /// What a source says, with the shares that are to be in force.
    pub(super) fn admit(&self, source: SourceKind, change: desired::Change) -> desired::Change {
        lock(&self.register).admit(source, change, now())
    }

    /// Every source has said what it has.
    pub(super) fn forget_left(&self) {
        lock(&self.register).forget_left();
    }

    /// The register, to be looked at or fed.
    pub(super) fn register(&self) -> MutexGuard<'_, Register> {
        lock(&self.register)
    }

    /// Completes when an order has changed something, also where it did before the call.
    pub(super) async fn ordered(&self) {
        self.ordered.notified().await;
    }

    /// Carries out an operator's order.
    pub(super) fn order(&self, request: &RolloutRequest) -> Result<RolloutView, RolloutError> {
        let service = || request.service.clone();
        let now = now();
        let mut register = self.register();
        match register.order(&request.service, request.order, now) {
            None => return Err(RolloutError::Unknown { service: service() }),
            Some(Err(WrongPhase(phase))) => {
                return Err(RolloutError::WrongPhase { service: service(), phase, order: request.order });
            }
            Some(Ok(())) => {}
        }
        tracing::info!(service = &*request.service, order = request.order.name(), "an operator's order");
        self.ordered.notify_one();
        let named = register.rollouts().find(|(name, ..)| ***name == *request.service);
        let view =
            named.map(|(name, rollout, tallies)| RolloutView::new(name, rollout, tallies, now.monotonic));
        view.ok_or_else(|| RolloutError::Unknown { service: service() })
    }

    /// Every rollout, in the order of services.
    pub(super) fn views(&self) -> Vec<RolloutView> {
        let now = clock::monotonic();
        let register = self.register();
        let views = register.rollouts();
        views.map(|(name, rollout, tallies)| RolloutView::new(name, rollout, tallies, now)).collect()
    }

    /// Why rollouts do not outlive the agent, if so.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.store).error.as_ref().map(ToString::to_string)
    }

    /// Writes down what changed since the last call, if anything did.
    pub(super) fn save(&self) {
        let saved = self.register().saved();
        let mut store = lock(&self.store);
        let result = store.write(&saved);
        if let Err(error) = &result
            && store.error.is_none()
        {
            tracing::error!("{error}");
        }
        store.error = result.err();
    }
}

impl Store {
    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn read(&mut self) -> Result<Vec<Saved>, StoreError> {
        let path = self.path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let saved = serde_json::from_str(&text)
            .map_err(|error| StoreError::Read { path, source: io::Error::other(error) })?;
        self.written = Some(text);
        Ok(saved)
    }

    /// Replaces the file as a whole, so that a reader meets the old or the new one, also after a crash.
    fn write(&mut self, saved: &[Saved]) -> Result<(), StoreError> {
        if saved.is_empty() && self.written.is_none() {
            return Ok(());
        }
        let path = self.path();
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let text = serde_json::to_string_pretty(saved).map_err(|error| failed(io::Error::other(error)))?;
        if self.written.as_ref() == Some(&text) {
            return Ok(());
        }
        let next = path.with_extension("next");
        let replace = || -> io::Result<()> {
            std::fs::create_dir_all(&self.directory)?;
            let mut file = std::fs::File::create(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&next, &path)
        };
        replace().map_err(failed)?;
        self.written = Some(text);
        Ok(())
    }
}

/// What became of a canary, as those who follow connections see it.
pub(super) fn record(change: &Change) -> Option<Record> {
    let happening = match change.transition {
        Transition::SteppedUp => Happening::RolloutSteppedUp,
        Transition::Promoted => Happening::RolloutPromoted,
        Transition::RolledBack(cause) => Happening::RolloutRolledBack(cause),
        Transition::Paused => Happening::RolloutPaused,
        Transition::Resumed => Happening::RolloutResumed,
    };
    let spec = &change.spec;
    Some(Record {
        time: Timestamp::now(),
        happening,
        client: Workload::unknown().into(),
        service: spec.name.clone(),
        version: spec.policy.canary.as_ref().map(|canary| canary.version.clone()),
        protocol: spec.protocol,
        requested: *spec.frontends.first()?,
        backend: None,
        duration_ns: 0,
        sent_bytes: 0,
        received_bytes: 0,
        retransmits: 0,
        rtt_us: None,
        request: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use agent_ebpf::abi::Protocol;

    use super::*;
    use crate::desired::{CanarySpec, GuardSpec, PolicySpec, ServiceSpec, VersionShare};
    use crate::rollout::{Order, Phase};

    fn spec() -> Arc<ServiceSpec> {
        let share = |version: &str, share| VersionShare { version: version.into(), share };
        let canary = CanarySpec {
            version: "v2".into(),
            baseline: "v1".into(),
            guard: GuardSpec::default(),
            steps: vec![5, 100],
            every: Duration::from_secs(300),
        };
        let policy = PolicySpec {
            split: vec![share("v1", 95), share("v2", 5)],
            canary: Some(Arc::new(canary)),
            ..PolicySpec::default()
        };
        let frontends = vec!["198.18.0.10:80".parse().expect("an address")];
        let name = "shop/payment".into();
        Arc::new(ServiceSpec { name, protocol: Protocol::Tcp, frontends, backends: Vec::new(), policy })
    }

    fn rollback() -> RolloutRequest {
        RolloutRequest { service: "shop/payment".to_owned(), order: Order::Rollback }
    }

    fn running(directory: &Path) -> Rollouts {
        let rollouts = Rollouts::restored(directory);
        rollouts.admit(SourceKind::File, desired::Change::Reset(vec![spec()]));
        rollouts
    }

    #[test]
    fn a_rollback_is_there_for_the_next_agent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = directory.path().join("state");
        let rollouts = running(&state);
        assert_eq!(rollouts.order(&rollback()).expect("a canary").phase, Phase::RolledBack);
        rollouts.save();
        assert_eq!(rollouts.problem(), None);
        assert_eq!(running(&state).views()[0].phase, Phase::RolledBack);
    }

    #[test]
    fn without_canaries_nothing_is_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = directory.path().join("state");
        Rollouts::restored(&state).save();
        assert!(!state.exists());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_a_problem_until_it_is_written_anew() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join(FILE), "[{").expect("written");
        let rollouts = running(directory.path());
        assert!(rollouts.problem().is_some_and(|problem| problem.contains("rollouts.json")));
        rollouts.save();
        assert_eq!(rollouts.problem(), None);
        // A directory that is a file cannot be written to.
        let rollouts = running(&directory.path().join(FILE));
        rollouts.save();
        assert!(rollouts.problem().is_some_and(|problem| problem.contains("cannot write")));
    }

    #[test]
    fn an_order_about_nobodys_canary_says_what_to_check() {
        let rollouts = Rollouts::restored(Path::new("/nonexistent"));
        let error = rollouts.order(&rollback()).expect_err("no canary");
        assert!(error.to_string().contains("no canary of a service `shop/payment`"), "{error}");
        rollouts.admit(SourceKind::File, desired::Change::Reset(vec![spec()]));
        rollouts.order(&rollback()).expect("a canary");
        let pause = RolloutRequest { order: Order::Pause, ..rollback() };
        let error = rollouts.order(&pause).expect_err("it is out");
        assert!(error.to_string().contains("is rolled_back and cannot be paused"), "{error}");
    }

    #[test]
    fn those_who_follow_see_a_rollback_with_its_cause() {
        let rollouts = running(Path::new("/nonexistent"));
        rollouts.order(&rollback()).expect("a canary");
        let changes = rollouts.register().take_changes();
        let record = record(&changes[0]).expect("a frontend");
        assert_eq!((record.happening.name(), record.happening.reason()), ("rollout_rolled_back", "operator"));
        assert_eq!(record.version.as_deref(), Some("v2"));
    }
}
