//! Whether the agent may be called ready, and what it still waits for.
//!
//! Ready means: what was configured is in force. It is reached once and not lost again because a source went away,
//! since the data plane serves on without it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The things that are still awaited, shared by those who wait and those who ask.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    awaited: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Readiness {
    /// Waits for all of these.
    pub fn awaiting(things: &[&'static str]) -> Self {
        Self { awaited: Arc::new(Mutex::new(things.iter().copied().collect())) }
    }

    /// This has come. Returns `true` if it was the last.
    pub fn done(&self, thing: &'static str) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.remove(thing) && awaited.is_empty()
    }

    /// What is still awaited, in words.
    pub fn waiting_for(&self) -> Vec<String> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_said_once_when_the_last_thing_has_come() {
        let readiness = Readiness::awaiting(&["configuration", "programs"]);
        assert!(!readiness.done("programs"));
        assert_eq!(readiness.waiting_for(), ["configuration"]);
        assert!(readiness.done("configuration"));
        assert!(!readiness.done("configuration"));
        assert!(readiness.waiting_for().is_empty());
    }
}
