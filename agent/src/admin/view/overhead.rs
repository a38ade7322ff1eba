//! What the data plane costs, as JSON.

use jiff::Timestamp;
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

/// What observing may cost, and what comes of that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetView {
    /// The part of the time of all processors of the host that programs and agent may take; 1 is the whole.
    pub budget: f64,
    /// The part they took last; null before the second sample.
    pub share: Option<f64>,
    /// How much is observed: `full`, `no_events`, `no_requests` or `rare_walks`, each leaving out more.
    pub detail: String,
    /// What is left out, in words; null where nothing is.
    pub missing: Option<String>,
    /// Since when it is observed as it is.
    pub since: Timestamp,
    /// Times less was observed from then on.
    pub steps_down: u64,
    /// Times more was.
    pub steps_up: u64,
    /// Why only the agent's part is known and not the programs', in words; null where both are.
    pub untimed: Option<String>,
}

impl BudgetView {
    /// What an operator should look at; `None` where everything is observed.
    pub fn problem(&self) -> Option<String> {
        let missing = self.missing.as_ref()?;
        Some(format!(
            "observing costs more than its budget of {:.2} % of the processors, and {missing}; allow more \
             (--overhead-budget), or ask for less",
            self.budget * 100.0
        ))
    }
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
