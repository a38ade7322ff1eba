//! How the agent stands with an API server of Kubernetes, as it is shown. Knows nothing of how it comes about.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesView {
    /// The API server's URL.
    pub server: String,
    /// This node's name.
    pub node: String,
    /// The zone this node is in; null where nobody says.
    pub zone: Option<String>,
    /// `starting`, `remembered` (served from the snapshot), `in_sync` or `interrupted`.
    pub connection: String,
    /// Since when it stands so.
    pub since: Option<Timestamp>,
    /// What is watched, by the name of the resource.
    pub kinds: Vec<KindView>,
    /// Services that are known.
    pub services: usize,
    /// EndpointSlices that are known.
    pub slices: usize,
    /// Endpoints that are known.
    pub endpoints: usize,
    /// TrafficPolicies that are known.
    pub policies: usize,
    /// Routes that are known and attached to Services.
    pub routes: usize,
    /// Pods of this node that are known.
    #[serde(default)]
    pub pods: usize,
    /// Services that are left out, whole or in part, or of which something is to be said.
    pub noted: usize,
    /// The first of them, and why.
    pub notes: Vec<NoteView>,
    /// When the snapshot was written last.
    pub snapshot_at: Option<Timestamp>,
    /// Why it could not be; null where all is well.
    pub snapshot_error: Option<String>,
}

/// One kind of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindView {
    /// The name of the resource, as in `services`.
    pub name: String,
    /// All of them were listed since the agent started.
    pub listed: bool,
    /// The cluster does not know it, or the agent may not see it.
    pub absent: bool,
    /// Objects that were new, different or gone.
    pub events: u64,
    /// Lists that were read to their end.
    pub lists: u64,
    /// What went wrong how often, by reason.
    pub errors: BTreeMap<String, u64>,
    /// What is wrong now; null where all is well.
    pub error: Option<String>,
}

/// A Service of which something is to be said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteView {
    /// The Service, as in `shop/payment`.
    pub service: String,
    /// What.
    pub note: String,
}

impl KubernetesView {
    /// What an operator should look at, in words.
    pub fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let error = self.kinds.iter().find_map(|kind| kind.error.as_deref()).unwrap_or("no answer");
        let connection = match self.connection.as_str() {
            "interrupted" => {
                Some(format!("the cluster is not watched just now, what is in force stays: {error}"))
            }
            "remembered" => Some(format!(
                "the API server has not told everything yet, what was known from before is served: {error}"
            )),
            "starting" => Some(format!("the API server has not told everything yet: {error}")),
            _ => None,
        };
        let hidden = |name: &str| self.kinds.iter().any(|kind| kind.name == name && kind.absent);
        let hidden = [
            ("pods", "pods are named by their UID, and none of them is left alone"),
            ("namespaces", "no namespace's pods are left alone"),
        ]
        .into_iter()
        .filter(move |(name, _)| hidden(name))
        .map(|(name, so)| format!("the API server does not let the agent see {name} (list and watch): {so}"));
        connection.into_iter().chain(hidden).chain(self.snapshot_error.clone())
    }
}
