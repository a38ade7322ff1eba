//! Waiting for a condition with a deadline. Knows nothing of what is waited for.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// How much longer than on an ordinary machine everything may take: `SEGUE_TEST_PATIENCE`, which is set where the
/// processor is emulated.
fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let factor = std::env::var("SEGUE_TEST_PATIENCE").ok();
        factor.and_then(|factor| factor.parse().ok()).filter(|&factor| factor > 0).unwrap_or(1)
    })
}

/// A limit for something that should happen, as long as this machine deserves.
pub fn patient(limit: Duration) -> Duration {
    limit * patience()
}

/// Looks at a condition until it holds and returns what it gives.
///
/// # Panics
/// When it does not hold within the [`patient`] `limit`: with `what` was waited for and the last reason why it did
/// not hold.
pub fn eventually<T, E: Display>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T, E>) -> T {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => {
                panic!("waited {limit:?} for {what}: {reason}");
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Waits until `probe` gives `expected`.
///
/// # Panics
/// When it does not within `limit`: with the value it gave last.
pub fn eventually_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    limit: Duration,
    expected: &T,
    mut probe: impl FnMut() -> T,
) {
    eventually(what, limit, || {
        let value = probe();
        if value == *expected { Ok(()) } else { Err(format!("is {value:?}, should be {expected:?}")) }
    });
}

/// Lets time pass where time itself is the condition, as for a timeout that is to run out.
pub fn let_pass(duration: Duration) {
    std::thread::sleep(duration);
}
