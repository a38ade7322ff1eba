//! Waiting until kernel programs that may hold on to an old entry have ended. Knows nothing of what they read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Duration;

/// The program runs that were going on at one moment.
#[derive(Clone, Debug)]
pub struct Readers {
    gone: Arc<AtomicBool>,
}

impl Readers {
    /// Those of this moment. Waiting for them takes tens of milliseconds, on a thread of its own.
    pub(super) fn now() -> Self {
        let readers = Self::staying();
        let waiting = readers.clone();
        let thread = Builder::new().name("readers".to_owned()).spawn(move || {
            wait();
            waiting.leave();
        });
        if thread.is_err() {
            // There is no thread to be had.
            wait();
            readers.leave();
        }
        readers
    }

    /// Those that stay until [`Readers::leave`].
    pub fn staying() -> Self {
        Self { gone: Arc::new(AtomicBool::new(false)) }
    }

    /// Lets them end.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether all have ended by now.
    pub fn are_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// Returns when every program run that began before the call has ended.
pub(super) fn wait() {
    // The programs run in an RCU read-side section; this command returns after every one that was running has ended
    // (membarrier(2), MEMBARRIER_CMD_GLOBAL, kernel 4.3).
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call that takes two numbers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !done {
        // Not available beside CPUs without a scheduler tick. A run takes microseconds; a second is ample.
        std::thread::sleep(Duration::from_secs(1));
    }
}
