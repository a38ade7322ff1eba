//! The newest changes of breakers and canaries, for those who look later. Knows nothing of who looks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::lock;
use crate::admin::view::service_map::KEPT_CHANGES;
use crate::flows::Record;

/// At most [`KEPT_CHANGES`] of them, the oldest go first.
#[derive(Default)]
pub(super) struct Changes(Mutex<VecDeque<Arc<Record>>>);

impl Changes {
    /// Keeps it, unless it is about a single connection.
    pub(super) fn keep(&self, record: &Arc<Record>) {
        if !record.happening.is_of_breaker() && !record.happening.is_of_service() {
            return;
        }
        let mut kept = lock(&self.0);
        if kept.len() >= KEPT_CHANGES {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(record));
    }

    /// All that are kept, the newest last.
    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        lock(&self.0).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::specimen::Specimen;
    use crate::flows::record::Happening;

    #[test]
    fn only_the_newest_changes_are_kept_and_no_connections() {
        let connection = Specimen::default().record();
        let changes = Changes::default();
        changes.keep(&connection);
        assert!(changes.all().is_empty());
        for count in 0..KEPT_CHANGES as u64 + 2 {
            let happening = Happening::RolloutPaused;
            changes.keep(&Arc::new(Record { happening, duration_ns: count, ..(*connection).clone() }));
        }
        let all = changes.all();
        assert_eq!((all.len(), all[0].duration_ns), (KEPT_CHANGES, 2));
    }
}
