//! Tells the authors of policies what became of them, in the status of each TrafficPolicy.
//!
//! Every node comes to the same verdict, and one of them writes it: each waits for a time by chance, and writes only what
//! is not there by then, to the very version of the object that it saw. Two agents that differ in their verdict, as
//! during an upgrade, write once each.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::objects::ObjectKey;
use super::policy::{Reason, Verdict};
use super::standing::Trouble;
use super::state::State;
use super::watch::by_chance;
use super::wire::{Seen, TrafficPolicyWire};

/// The longest a verdict waits for another node to write it.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// After an API server refused to let the agent write, it is not asked for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);
/// Who writes, for `managedFields`.
const MANAGER: &str = "segue";

/// See the module.
pub(super) struct StatusWriter {
    client: Client,
    waiting: BTreeMap<ObjectKey, (Verdict, Instant)>,
    /// What this agent wrote last.
    written: HashMap<ObjectKey, Verdict>,
    writing: Option<JoinHandle<Option<Trouble>>>,
    not_before: Option<Instant>,
}

impl StatusWriter {
    pub(super) fn new(client: Client) -> Self {
        Self { client, waiting: BTreeMap::new(), written: HashMap::new(), writing: None, not_before: None }
    }

    /// Takes note of what is to be told, and writes what is due. To be called now and then.
    pub(super) async fn round(&mut self, state: &State) {
        self.collect().await;
        let now = Instant::now();
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let untold: BTreeMap<&ObjectKey, &Verdict> = state.untold().collect();
        self.waiting.retain(|key, (verdict, _)| untold.get(key) == Some(&&*verdict));
        for (key, verdict) in &untold {
            if self.written.get(key) != Some(verdict) && !self.waiting.contains_key(key) {
                self.waiting.insert((*key).clone(), ((*verdict).clone(), now + by_chance(LONGEST_WAIT)));
            }
        }
        let due = self.waiting.iter().find(|(_, (_, at))| *at <= now).map(|(key, _)| key.clone());
        if self.writing.is_some() {
            return;
        }
        if let Some((key, (verdict, _))) = due.and_then(|key| self.waiting.remove_entry(&key)) {
            let version = state.policy_version(&key);
            self.written.retain(|key, _| untold.contains_key(key));
            self.written.insert(key.clone(), verdict.clone());
            self.writing = Some(tokio::spawn(write(self.client.clone(), key, verdict, version)));
        }
    }

    async fn collect(&mut self) {
        let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) else { return };
        match writing.await.ok().flatten() {
            None => {}
            Some(Trouble::Forbidden | Trouble::Unauthorized) => {
                self.not_before = Some(Instant::now() + REFUSED_PAUSE);
                tracing::warn!(
                    "the status of TrafficPolicies cannot be written; allow `patch` of `trafficpolicies/status`"
                );
            }
            // Somebody else was first, or nobody answers: what is untold then is told later.
            Some(_) => self.written.clear(),
        }
    }
}

async fn write(
    client: Client,
    key: ObjectKey,
    verdict: Verdict,
    version: Option<std::sync::Arc<str>>,
) -> Option<Trouble> {
    let accepted = verdict.reason == Reason::Accepted;
    let patch = json!({
        "metadata": { "resourceVersion": version },
        "status": { "conditions": [{
            "type": "Accepted",
            "status": if accepted { "True" } else { "False" },
            "reason": verdict.reason.name(),
            "message": verdict.message,
            "observedGeneration": verdict.generation,
            "lastTransitionTime": Timestamp::now().round(jiff::Unit::Second).ok()?,
        }] },
    });
    let api: Api<Seen<TrafficPolicyWire>> = Api::namespaced(client, &key.namespace);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(policy = %key, "its status is not written: {error}");
            Some(Trouble::of_client(&error))
        }
    }
}
