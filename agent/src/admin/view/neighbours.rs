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
}
