//! The time as the agent's parts get it: as a value, from here.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use crate::kernel::{monotonic_ns, process_cpu_ns};

/// The monotonic clock as a duration since an arbitrary moment.
pub fn monotonic() -> Duration {
    Duration::from_nanos(monotonic_ns())
}

/// The wall-clock time at which the monotonic clock read zero, as of now.
///
/// The two clocks cannot be read at once, and something may come between: of three tries the one counts that took least.
pub fn monotonic_zero() -> Timestamp {
    let read = || {
        let (before, now, after) = (monotonic_ns(), Timestamp::now(), monotonic_ns());
        (after - before, before.midpoint(after), now)
    };
    let (_, at_ns, now) = [read(), read(), read()].into_iter().min().unwrap_or_else(read);
    let since = SignedDuration::from_nanos(i64::try_from(at_ns).unwrap_or(i64::MAX));
    now.checked_sub(since).unwrap_or(now)
}
