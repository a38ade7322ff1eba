//! What the data plane costs: program runs, timed for a moment now and then and while somebody asks. Knows nothing of
//! services.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::admin::view::{OverheadView, ProgramCost};
use crate::clock;
use crate::kernel::{ProgramStatus, Stopwatch, StopwatchError};

/// For how long runs are timed at a time.
const WINDOW: Duration = Duration::from_secs(1);

/// Runs are timed so often where nobody needs it more often. With [`WINDOW`], a sixtieth of the time.
const EVERY: Duration = Duration::from_secs(60);

/// Where the kernel says whether somebody else has it time every run.
const ALWAYS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Has runs timed and reads what came of it.
pub(super) struct Overhead {
    stopwatch: Mutex<Watch>,
    period: Duration,
    timed_ns: AtomicU64,
}

struct Watch {
    stopwatch: Option<Stopwatch>,
    window: Duration,
    /// What came of the last window, and when that began.
    last: Option<(Duration, OverheadView)>,
}

impl Overhead {
    /// `period`: how often runs are timed, where that matters to somebody.
    pub(super) fn new(stopwatch: Option<Stopwatch>, period: Option<Duration>) -> Self {
        let period = period.unwrap_or(EVERY);
        // At least half of the time runs are not timed.
        let watch = Watch { stopwatch, window: WINDOW.min(period / 2), last: None };
        Self { stopwatch: Mutex::new(watch), period, timed_ns: AtomicU64::new(0) }
    }

    /// How often runs are timed unasked.
    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// Whether runs can be timed when somebody asks.
    pub(super) fn is_timed(&self) -> bool {
        self.lock().stopwatch.is_some() || always()
    }

    /// For how long runs were timed since the agent started, in milliseconds.
    pub(super) fn timed_ms(&self) -> u64 {
        self.timed_ns.load(Ordering::Relaxed) / 1_000_000
    }

    /// Has runs timed for [`WINDOW`] at most, or waits for a window that began after the call. Blocks for as long.
    pub(super) fn measure(&self, read: impl Fn() -> Vec<ProgramStatus>) -> OverheadView {
        let asked = clock::monotonic();
        let mut watch = self.lock();
        if let Some((_, view)) = watch.last.as_ref().filter(|(began, _)| *began >= asked) {
            return view.clone();
        }
        let before = read();
        let began = clock::monotonic();
        if let Err(error) = watch.time() {
            return OverheadView { reason: Some(error), ..OverheadView::default() };
        }
        let window = clock::monotonic().saturating_sub(began);
        let view = OverheadView {
            window_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
            programs: costs(&before, &read()),
            reason: None,
        };
        self.timed_ns.fetch_add(view.window_ns, Ordering::Relaxed);
        watch.last = Some((began, view.clone()));
        view
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watch> {
        // A panic while it is held leaves at worst an answer of before.
        self.stopwatch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn time(&mut self) -> Result<(), String> {
        if let Some(stopwatch) = &mut self.stopwatch {
            let timed = stopwatch.time(self.window);
            if matches!(timed, Err(StopwatchError::Gone(_))) {
                self.stopwatch = None;
            }
            return timed.map_err(|error| error.to_string());
        }
        if always() {
            std::thread::sleep(self.window);
            return Ok(());
        }
        Err("program runs are not timed: the agent was started without CAP_SYS_ADMIN, and kernel.bpf_stats_enabled is 0"
            .to_owned())
    }
}

fn always() -> bool {
    std::fs::read(ALWAYS).is_ok_and(|text| text.starts_with(b"1"))
}

fn costs(before: &[ProgramStatus], after: &[ProgramStatus]) -> Vec<ProgramCost> {
    after
        .iter()
        .map(|program| {
            let same = before.iter().find(|earlier| earlier.hook == program.hook && earlier.id == program.id);
            let grown = |count: fn(&ProgramStatus) -> Option<u64>| {
                let earlier = same.and_then(count).unwrap_or_default();
                count(program).unwrap_or_default().saturating_sub(earlier)
            };
            ProgramCost {
                name: program.program.to_owned(),
                hook: program.hook.name().to_owned(),
                runs: grown(|program| program.runs),
                run_time_ns: grown(|program| program.run_time_ns),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_ebpf::abi::Hook;

    fn program(id: u32, runs: Option<u64>) -> ProgramStatus {
        let run_time_ns = runs.map(|runs| runs * 300);
        ProgramStatus {
            program: "segue_connect4",
            hook: Hook::Connect4,
            id: Some(id),
            attached: true,
            verified_instructions: None,
            runs,
            run_time_ns,
        }
    }

    #[test]
    fn a_window_counts_what_ran_in_it() {
        let cost = |before, after| {
            let cost = costs(&[before], &[after]).remove(0);
            (cost.runs, cost.run_time_ns)
        };
        assert_eq!(cost(program(1, Some(10)), program(1, Some(14))), (4, 1_200));
        assert_eq!(cost(program(1, None), program(1, Some(14))), (14, 4_200));
        assert_eq!(cost(program(1, None), program(1, None)), (0, 0));
        // Another program took its place and began at nothing.
        assert_eq!(cost(program(1, Some(10)), program(2, Some(3))), (3, 900));
    }

    #[test]
    fn without_the_right_to_time_the_reason_is_told_and_nothing_is_measured() {
        let overhead = Overhead::new(None, None);
        if always() {
            return assert!(overhead.is_timed());
        }
        let view = overhead.measure(Vec::new);
        assert!(view.reason.expect("a reason").contains("CAP_SYS_ADMIN"));
        assert_eq!(overhead.timed_ms(), 0);
    }
}
