//! How many clients there are, and of how many of them something is to be said. Knows nothing of how they are found.

use serde::{Deserialize, Serialize};

/// Who the clients are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientsView {
    /// Workloads (pods, containers, units) of this host whose cgroups are known.
    pub workloads: u64,
    /// Pods of this node that the API server told; 0 where it is not asked.
    pub pods: u64,
    /// Pods that run here and are named by their UID: no API server has told whose they are.
    pub pods_unnamed: u64,
    /// Pods whose connections go on untouched, because they or their namespace say so.
    pub left_alone: u64,
    /// Client cgroups that were gone before they could be named.
    pub unresolved: u64,
}
