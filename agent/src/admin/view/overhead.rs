//! What the data plane costs, as JSON.

use serde::{Deserialize, Serialize};

/// The answer of `/v1/overhead`: program runs of a window of about a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverheadView {
    /// How long runs were timed, in nanoseconds.
    pub window_ns: u64,
    /// What each program ran in that time; empty where runs were not timed.
    pub programs: Vec<ProgramCost>,
    /// Why runs were not timed, in words; null where they were.
    pub reason: Option<String>,
}

/// Runs of one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// The program's name.
    pub name: String,
    /// Where it is attached.
    pub hook: String,
    /// How often it ran.
    pub runs: u64,
    /// The time all these runs took, on all CPUs together, in nanoseconds.
    pub run_time_ns: u64,
}

/// What the agent gave up when it had started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinementView {
    /// The capabilities its control thread keeps, by name; its other threads have fewer or none.
    pub capabilities: Vec<String>,
    /// Its system calls are filtered.
    pub filtered: bool,
}
