//! What the agent does by the clock, besides applying configuration.

use std::sync::Arc;

use super::observer::Observer;
use crate::kernel::{Arrivals, EventReader};

/// Events taken from the ring at a time.
const EVENT_BATCH: usize = 512;
/// Cgroups are learned every so many ticks, and edges folded while anything happens on them.
const FOLD_EVERY: u64 = 5;
/// The longest between two foldings. Each time nothing happened since the one before, the next comes after twice as long: thousands
/// of edges at rest would cost most of what an idle agent does. Whoever asks gets fresh counts anyway.
const FOLD_QUIET: u64 = 60;
/// Counts of open connections are compared with the sockets there are every so many ticks.
const HEAL_EVERY: u64 = 10;

/// When edges are folded.
#[derive(Debug, Default)]
struct FoldPace {
    /// The next time, in ticks.
    due_at: u64,
    /// How long after the last that is.
    pause: u64,
    /// The sum of what was counted the last time.
    counted: u64,
}

impl FoldPace {
    const fn is_due(&self, ticks: u64) -> bool {
        ticks >= self.due_at
    }

    /// They were, and so much is counted.
    fn folded(&mut self, ticks: u64, counted: u64) {
        let is_quiet = std::mem::replace(&mut self.counted, counted) == counted;
        self.pause = if is_quiet { (2 * self.pause).clamp(FOLD_EVERY, FOLD_QUIET) } else { FOLD_EVERY };
        self.due_at = ticks + self.pause;
    }
}

/// Counts ticks and does what is due.
pub(super) struct Duties {
    observer: Arc<Observer>,
    ticks: u64,
    folds: FoldPace,
}

impl Duties {
    pub(super) fn new(observer: Arc<Observer>) -> Self {
        Self { observer, ticks: 0, folds: FoldPace::default() }
    }

    /// One tick, a second after the last.
    pub(super) fn tick(&mut self) {
        self.observer.sign_of_life();
        self.observer.name_spans();
        if self.ticks.is_multiple_of(FOLD_EVERY) {
            self.observer.learn_workloads();
        }
        if self.folds.is_due(self.ticks) {
            if let Err(error) = self.observer.fold_edges() {
                tracing::warn!("{error}");
            }
            self.folds.folded(self.ticks, self.observer.sum_of_counts());
        }
        let heal_every = HEAL_EVERY * self.observer.governing().rarer();
        if self.ticks % heal_every == heal_every - 1 {
            self.observer.heal_drift();
        }
        self.observer.rest();
        self.ticks += 1;
    }
}

/// Reads the event ring until the agent leaves.
pub(super) async fn read_events(observer: Arc<Observer>, events: EventReader) {
    let error = read(events, |record| observer.announce(record)).await;
    tracing::error!("cannot read the event ring, connections are not followed any more: {error}");
}

/// The same for the ring of requests, while somebody wants them: what is mapped of it counts as the agent's memory.
pub(super) async fn read_requests(observer: Arc<Observer>) {
    loop {
        observer.requests_are_wanted().await;
        let events = match observer.request_events() {
            Ok(events) => events,
            Err(error) => return tracing::error!("requests are neither followed nor traced: {error}"),
        };
        tokio::select! {
            error = read(events, |record| observer.hear(record)) => {
                return tracing::error!("cannot read the ring of requests, none are followed or traced any more: {error}");
            }
            () = observer.requests_are_over() => {}
        }
    }
}

/// Hands on every record of a ring, until it cannot be read.
async fn read(mut events: EventReader, take: impl Fn(&[u8])) -> std::io::Error {
    loop {
        match events.read(EVENT_BATCH).await {
            Ok(records) => records.iter().for_each(|record| take(record)),
            Err(error) => return error,
        }
        tokio::task::yield_now().await;
    }
}

/// Has program runs timed for a moment now and then, until the agent leaves.
pub(super) async fn time_programs(observer: Arc<Observer>) {
    let mut due = super::every(observer.timing_period());
    loop {
        due.tick().await;
        let observer = Arc::clone(&observer);
        // Blocks for the length of a window.
        let timed = tokio::task::spawn_blocking(move || observer.weigh()).await;
        let Ok(timed) = timed else { return };
        if let Some(reason) = timed.reason {
            tracing::debug!("{reason}");
        }
    }
}

/// Learns the cgroups of pods as they are made, until the agent leaves: before what runs in them connects, and before
/// those of the shortest lives are gone.
pub(super) async fn greet_pods(observer: Arc<Observer>) {
    let mut arrivals = match Arrivals::new() {
        Ok(arrivals) => arrivals,
        Err(error) => {
            tracing::warn!(
                "new pods are noticed by looking around only: {error}; is `fs.inotify.max_user_instances` reached?"
            );
            return;
        }
    };
    let mut due = super::every(super::TICK);
    observer.learn_workloads();
    loop {
        tokio::select! {
            made = arrivals.next() => match made {
                Ok(made) => observer.learn_cgroups(&made),
                Err(error) => return tracing::warn!("new pods are noticed by looking around only: {error}"),
            },
            _ = due.tick() => {}
        }
        // What was made in a directory before it was watched is looked for.
        loop {
            let nurseries = observer.take_nurseries();
            if nurseries.is_empty() {
                break;
            }
            nurseries.iter().for_each(|directory| arrivals.watch(directory.clone()));
            observer.learn_cgroups(&nurseries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks at which edges are folded in four minutes, where so much is counted at each.
    fn folds(counted: impl Fn(u64) -> u64) -> Vec<u64> {
        let mut pace = FoldPace::default();
        let is_due = |ticks: &u64| {
            let is_due = pace.is_due(*ticks);
            if is_due {
                pace.folded(*ticks, counted(*ticks));
            }
            is_due
        };
        (0..240).filter(is_due).collect()
    }

    #[test]
    fn edges_on_which_something_happens_are_folded_every_five_seconds() {
        assert_eq!(folds(|ticks| ticks + 1), (0..240).step_by(5).collect::<Vec<_>>());
    }

    #[test]
    fn edges_at_rest_are_folded_ever_more_rarely_up_to_a_minute() {
        assert_eq!(folds(|_| 0), [0, 5, 15, 35, 75, 135, 195]);
    }

    #[test]
    fn the_folding_that_sees_something_is_followed_soon_by_the_next() {
        let folds = folds(|ticks| if ticks < 100 { 7 } else { ticks });
        assert_eq!(folds[..9], [0, 5, 15, 35, 75, 135, 140, 145, 150]);
    }
}
