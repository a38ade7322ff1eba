//! The time as the agent's parts get it: as a value, from here.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use crate::kernel::{monotonic_ns, process_cpu_ns};

/// The monotonic clock as a duration since an arbitrary moment.
pub fn monotonic() -> Duration {
    Duration::from_nanos(monotonic_ns())
}

/// The wall-clock time at which the monotonic clock read zero, as of now.
pub fn monotonic_zero() -> Timestamp {
    let now = Timestamp::now();
    let since = SignedDuration::from_nanos(i64::try_from(monotonic_ns()).unwrap_or(i64::MAX));
    now.checked_sub(since).unwrap_or(now)
}
