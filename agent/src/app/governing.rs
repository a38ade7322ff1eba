//! Keeps what observing costs within its budget: what programs and agent took of the processors, the step the governor
//! takes for it, and how the control loop is woken to put it into force. When to step is decided in `governor`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::admin::view::{BudgetView, OverheadView};
use crate::clock;
use crate::governor::{Detail, Governor, Share};

/// How `segue run` was told to keep a budget.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// What programs and agent may take of the time of all processors.
    pub share: Share,
    /// How often that is looked at.
    pub interval: Duration,
}

/// At [`Detail::RareWalks`] counts are read, and sockets walked over, so many times more rarely.
const RARELY: u64 = 6;

/// See the module. Without a budget everything is observed, always.
pub(super) struct Governing {
    state: Option<Mutex<State>>,
    stepped: Notify,
    processors: u64,
}

struct State {
    governor: Governor,
    /// Since when it is observed as it is.
    since: Timestamp,
    /// When the agent's own time was read last, and what it was.
    agent: Option<(Duration, u64)>,
    /// Why the programs' part is not known, in words.
    untimed: Option<String>,
}

/// What there is to be left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct InUse {
    /// Connections are told one by one.
    pub(super) events: bool,
    /// Requests are read.
    pub(super) requests: bool,
}

impl Governing {
    pub(super) fn new(budget: Option<Budget>) -> Self {
        let state = |budget: Budget| State {
            governor: Governor::new(budget.share),
            since: Timestamp::now(),
            agent: None,
            untimed: None,
        };
        Self {
            state: budget.map(|budget| Mutex::new(state(budget))),
            stepped: Notify::new(),
            processors: processors(),
        }
    }

    /// How much is to be observed.
    pub(super) fn detail(&self) -> Detail {
        self.state().map_or(Detail::Full, |state| state.governor.detail())
    }

    /// Whether anything may be told of single connections and requests.
    pub(super) fn allows_events(&self) -> bool {
        self.detail() < Detail::NoEvents
    }

    /// Whether requests may be read.
    pub(super) fn allows_requests(&self) -> bool {
        self.detail() < Detail::NoRequests
    }

    /// How many times more rarely counts are read and sockets walked over.
    pub(super) fn rarer(&self) -> u64 {
        if self.detail() < Detail::RareWalks { 1 } else { RARELY }
    }

    /// Waits for a step that is not yet in force.
    pub(super) async fn stepped(&self) {
        self.stepped.notified().await;
    }

    /// Takes in what the programs cost in the last window, beside what the agent did since the last call.
    pub(super) fn sample(&self, programs: &OverheadView, in_use: InUse) {
        let Some(mut state) = self.state() else { return };
        let now = (clock::monotonic(), clock::process_cpu_ns());
        // Without a sample before this one the agent's part is not known, and its start would not be typical.
        let Some(before) = state.agent.replace(now) else { return };
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let agent =
            Share::of(now.1.saturating_sub(before.1), ns(now.0.saturating_sub(before.0)), self.processors);
        let run_time_ns = programs.programs.iter().map(|program| program.run_time_ns).sum();
        let share = agent.plus(Share::of(run_time_ns, programs.window_ns, self.processors));
        if state.untimed.is_none()
            && let Some(reason) = &programs.reason
        {
            tracing::warn!("of what observing costs only the agent's part is known: {reason}");
        }
        state.untimed.clone_from(&programs.reason);
        let saves = |detail| match detail {
            Detail::Full => false,
            Detail::NoEvents => in_use.events,
            Detail::NoRequests => in_use.requests,
            Detail::RareWalks => true,
        };
        let Some(step) = state.governor.sample(share, saves) else { return };
        state.since = Timestamp::now();
        let (budget, missing) = (state.governor.budget(), step.to.missing());
        let (from, to) = (step.from.name(), step.to.name());
        if step.to > step.from {
            tracing::warn!(
                from,
                to,
                "programs and agent take {share} of the processors, budget {budget}: {missing}"
            );
        } else {
            tracing::info!(
                from,
                to,
                "programs and agent take {share} of the processors, budget {budget}: {missing}"
            );
        }
        self.stepped.notify_one();
    }

    /// How it stands; `None` without a budget.
    pub(super) fn view(&self) -> Option<BudgetView> {
        let state = self.state()?;
        let governor = &state.governor;
        let (steps_down, steps_up) = governor.steps();
        Some(BudgetView {
            budget: governor.budget().ratio(),
            share: governor.last().map(Share::ratio),
            detail: governor.detail().name().to_owned(),
            missing: (governor.detail() != Detail::Full).then(|| governor.detail().missing().to_owned()),
            since: state.since,
            steps_down,
            steps_up,
            untimed: state.untimed.clone(),
        })
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        // A panic while it is held leaves whole values behind.
        self.state.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many processors the host has; those it lets this process use where it does not say.
fn processors() -> u64 {
    let told = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    match told.lines().filter(is_one).count() {
        0 => std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        count => count as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::ProgramCost;

    fn cost(run_time_ns: u64) -> OverheadView {
        let program = ProgramCost { name: "a".to_owned(), hook: "b".to_owned(), runs: 1, run_time_ns };
        OverheadView { window_ns: 1_000_000, programs: vec![program], reason: None }
    }

    const ALL: InUse = InUse { events: true, requests: true };

    #[test]
    fn without_a_budget_everything_is_observed_whatever_it_costs() {
        let governing = Governing::new(None);
        (0..100).for_each(|_| governing.sample(&cost(u64::MAX), ALL));
        assert!(governing.allows_events() && governing.allows_requests() && governing.rarer() == 1);
        assert_eq!(governing.view(), None);
    }

    #[test]
    fn over_the_budget_one_thing_after_another_is_left_out() {
        let share = Share::parse_budget("1%").expect("a budget");
        let governing = Governing::new(Some(Budget { share, interval: Duration::from_secs(1) }));
        let mut seen = Vec::new();
        for _ in 0..20 {
            governing.sample(&cost(1_000_000), ALL);
            let now = (governing.allows_events(), governing.allows_requests(), governing.rarer());
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        assert_eq!(seen, [(true, true, 1), (false, true, 1), (false, false, 1), (false, false, RARELY)]);
        let view = governing.view().expect("a budget");
        assert_eq!((&*view.detail, view.steps_down, view.steps_up), ("rare_walks", 3, 0));
        assert!(view.missing.is_some() && view.share.is_some_and(|share| share > 0.01));
    }

    #[test]
    fn this_host_has_processors() {
        assert!(processors() >= 1);
    }
}
