//! The guards against mass deletion in a running agent: one for each source, one for what was found in the maps at the
//! start, and how the control loop is woken when an operator accepts. What is a mass is decided in `desired::guard`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_ebpf::abi::FrontendKey;
use tokio::sync::Notify;

use crate::admin::view::{AcceptError, AcceptRequest, Accepted, HeldView};
use crate::clock;
use crate::desired::Change;
use crate::desired::guard::{Guard, Held, Holds, Loss, is_mass};
use crate::discovery::SourceKind;

/// See the module.
pub(super) struct Guards {
    state: Mutex<State>,
    accepted: Notify,
    /// Nothing is ever held.
    trusting: bool,
}

#[derive(Default)]
struct State {
    by_source: BTreeMap<SourceKind, Guard>,
    found: Found,
    /// An operator accepted what was found.
    found_accepted: bool,
    /// What operators accepted, to be applied.
    accepted: Vec<(SourceKind, Change)>,
}

/// What was found in the maps at the start and no source names.
#[derive(Default)]
struct Found {
    held: BTreeMap<u32, Vec<FrontendKey>>,
    since: Duration,
}

/// What operators accepted.
#[derive(Default)]
pub(super) struct Released {
    /// What sources want, in the order of names.
    pub(super) changes: Vec<(SourceKind, Change)>,
    /// What was found at the start may go.
    pub(super) found: bool,
}

impl Guards {
    /// Guards that hold as each source needs it, or nothing.
    pub(super) fn new(trusting: bool) -> Self {
        Self { state: Mutex::default(), accepted: Notify::new(), trusting }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of a source's change is to be applied now.
    pub(super) fn admit(&self, source: SourceKind, change: Change) -> Change {
        let holds = if self.trusting { Holds::NOTHING } else { source.holds() };
        let mut state = self.lock();
        let guard = state.by_source.entry(source).or_insert_with(|| Guard::new(holds));
        let before = guard.held().len();
        let admitted = guard.admit(change, clock::monotonic());
        let held = guard.held().len();
        drop(state);
        if held > before {
            tracing::error!(
                source = source.name(),
                services = held,
                "mass deletion held back: the source takes away services or most of their backends, all at once; they \
                 stay as they were. `segue accept` if that is meant, else restore them where they come from"
            );
        } else if held == 0 && before > 0 {
            tracing::info!(source = source.name(), "nothing is held back any more");
        }
        admitted
    }

    /// Whether what was found in the maps at the start, `of` services in all, and no source names, is so much that it must
    /// stay until an operator accepts.
    pub(super) fn holds_found(&self, unclaimed: BTreeMap<u32, Vec<FrontendKey>>, of: usize) -> bool {
        let mut state = self.lock();
        let was_held = !state.found.held.is_empty();
        let held: BTreeMap<u32, Vec<FrontendKey>> =
            unclaimed.into_iter().filter(|(_, frontends)| !frontends.is_empty()).collect();
        if self.trusting || held.is_empty() || !(was_held || is_mass(held.len(), of)) {
            state.found = Found::default();
            return false;
        }
        if !was_held {
            tracing::error!(
                found = of,
                services = held.len(),
                "mass deletion held back: no source names most of the services this node had when the agent started; \
                 they stay as they were. `segue accept` if that is meant, else restore them where they come from"
            );
            state.found.since = clock::monotonic();
        }
        state.found.held = held;
        true
    }

    /// Completes when an operator has accepted something, also where that was before the call.
    pub(super) async fn accepted(&self) {
        self.accepted.notified().await;
    }

    /// What operators accepted since the last call.
    pub(super) fn take_accepted(&self) -> Released {
        let mut state = self.lock();
        Released {
            changes: std::mem::take(&mut state.accepted),
            found: std::mem::take(&mut state.found_accepted),
        }
    }

    /// Lets go what an operator names.
    pub(super) fn accept(&self, request: &AcceptRequest) -> Result<Accepted, AcceptError> {
        let held = self.views();
        let is_named = |view: &HeldView, name: &str| view.title() == name;
        let stranger = request.services.iter().find(|name| !held.iter().any(|view| is_named(view, name)));
        if let Some(service) = stranger {
            return Err(AcceptError { service: service.clone() });
        }
        let wanted =
            |title: &str| request.services.is_empty() || request.services.iter().any(|name| name == title);
        let accepted: Vec<HeldView> = held.into_iter().filter(|view| wanted(&view.title())).collect();
        let mut state = self.lock();
        let State { by_source, found, found_accepted, accepted: queue } = &mut *state;
        for (&source, guard) in by_source {
            queue.extend(guard.accept(wanted).into_iter().map(|change| (source, change)));
        }
        // What was found goes together: the reconciler does not tell one from another.
        if accepted.iter().any(|view| view.source.is_none()) {
            *found = Found::default();
            *found_accepted = true;
        }
        drop(state);
        if !accepted.is_empty() {
            tracing::warn!(services = accepted.len(), "an operator accepts what was held back");
            self.accepted.notify_one();
        }
        Ok(Accepted { accepted })
    }

    /// What is held, by source, in the order of names.
    pub(super) fn views(&self) -> Vec<HeldView> {
        let (state, now) = (self.lock(), clock::monotonic());
        let of_sources = state.by_source.iter().flat_map(|(source, guard)| {
            guard.held().map(move |(name, held)| view_of(*source, name, held, now))
        });
        let found = state.found.held.values().map(|frontends| HeldView {
            source: None,
            service: None,
            frontends: frontends.iter().map(|key| SocketAddr::from(key.endpoint())).collect(),
            loss: Loss::Service,
            backends: None,
            held_for_ms: milliseconds(now.saturating_sub(state.found.since)),
        });
        of_sources.chain(found).collect()
    }
}

fn view_of(source: SourceKind, name: &crate::desired::ServiceName, held: &Held, now: Duration) -> HeldView {
    HeldView {
        source: Some(source.name().to_owned()),
        service: Some(name.clone()),
        frontends: held.kept.frontends.clone(),
        loss: held.loss,
        backends: Some(held.backends),
        held_for_ms: milliseconds(now.saturating_sub(held.since)),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
