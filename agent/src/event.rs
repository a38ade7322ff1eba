//! What can wake the control loop. A closed list: whoever wants to know why the agent did something starts here.

use crate::discovery::{SourceKind, Update};

/// What woke the loop.
#[derive(Debug)]
pub enum Event {
    /// A source has news.
    Discovered(SourceKind, Update),
    /// Every source has ended: no more news will come.
    SourcesEnded,
    /// Time for the small duties: sign of life, counters, who is who.
    Tick,
    /// Time to look after what cannot announce itself: drifted maps, lost links, the test connection.
    Check,
    /// Time to compare canaries with their baselines.
    Compare,
    /// An operator gave an order about a canary.
    Ordered,
    /// An operator accepted what was held back.
    Accepted,
    /// More or less is to be observed, for what it costs.
    Stepped,
    /// The operator, or the system, wants the agent to leave. The data plane stays.
    Leave(&'static str),
}
