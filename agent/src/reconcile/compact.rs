//! Moves windows together when enough slots are free, but not in a row.

use std::sync::Arc;

use super::Reconciler;
use super::report::{Failure, Report, SyncError};
use super::spans::Span;
use crate::kernel::Tables;

impl<T: Tables> Reconciler<T> {
    /// Where services found no run of slots, makes one and tries them again; gives what still fails.
    pub(super) fn make_room(&mut self, mut failures: Vec<Failure>, report: &mut Report) -> Vec<Failure> {
        if failures.iter().any(|failure| matches!(failure.error, SyncError::NoRoom { map: "SLOTS", .. })) {
            // What limbo holds is free first, and what moves leaves its old place in limbo.
            self.reclaim(report);
            failures = self.retry(report);
        }
        if failures.iter().any(|failure| matches!(failure.error, SyncError::NoRoom { map: "SLOTS", .. })) {
            self.compact(report);
            self.reclaim(report);
            failures = self.retry(report);
        }
        failures
    }

    fn retry(&mut self, report: &mut Report) -> Vec<Failure> {
        let work = std::mem::take(&mut self.pending);
        self.sync_all(&work, report)
    }

    /// Moves each window to the lowest place it fits in, in the order of their places. A reader sees the old place or
    /// the new one, as with any change.
    fn compact(&mut self, report: &mut Report) {
        let places = self.live.iter().filter_map(|(&id, live)| {
            let published = live.published.as_ref().filter(|it| it.sound && it.window.count > 0)?;
            Some((published.window.first, id))
        });
        let mut places: Vec<(u32, u32)> = places.collect();
        places.sort_unstable();
        for (_, id) in places {
            if let Err(error) = self.move_down(id, report) {
                // It stays where it is.
                let service = self.live.get(&id).and_then(|live| live.name.clone());
                report.failed.push(Failure { service, error });
            }
        }
    }

    fn move_down(&mut self, id: u32, report: &mut Report) -> Result<(), SyncError> {
        let Some(mut live) = self.live.remove(&id) else { return Ok(()) };
        let result = match &live.published {
            Some(published) => {
                let (policy, slots, old) = (published.policy, Arc::clone(&published.slots), published.window);
                match self.places_below(old) {
                    Some((window, record)) => self.switch(&mut live, &policy, slots, record, window),
                    None => Ok(0),
                }
            }
            None => Ok(0),
        };
        self.live.insert(id, live);
        report.written.slots += result?;
        Ok(())
    }

    fn places_below(&mut self, old: Span) -> Option<(Span, Span)> {
        let window = self.slots.allocate_below(old.first, old.count)?;
        let record = self.policies.allocate(1);
        if record.is_none() {
            self.slots.release(window);
        }
        record.map(|record| (window, record))
    }
}
