//! Programs of others beside the agent's, as they are shown. Knows nothing of how they are found.

use serde::{Deserialize, Serialize};

/// A program of somebody else on one of the agent's hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourView {
    /// The hook.
    pub hook: String,
    /// The program's name.
    pub program: String,
    /// The kernel's id of the program.
    pub id: u32,
    /// Whose it is, as far as its name tells; null where it does not.
    #[serde(default)]
    pub owner: Option<String>,
    /// The cgroup it is attached to.
    #[serde(default)]
    pub cgroup: String,
    /// When it runs: `before` Segue (what it translates, Segue does not see), `after` it (it sees where Segue leads, and has
    /// the last word), or `unknown`.
    #[serde(default)]
    pub order: String,
    /// It is on a hook at which addresses are translated.
    #[serde(default)]
    pub may_translate: bool,
}
