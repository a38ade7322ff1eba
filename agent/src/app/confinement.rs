//! What the agent gives up before it serves anybody, and when. Knows no capability and no system call by name.

use crate::kernel::{self, ReaderPrivileges, Stopwatch};

/// What is settled before there is a second thread.
#[derive(Debug)]
pub struct Beginnings {
    readers: ReaderPrivileges,
    /// Times program runs; `None` where the agent was not given the right to.
    pub(super) stopwatch: Option<Stopwatch>,
}

/// What was given up.
#[derive(Clone, Debug, Default)]
pub(super) struct Confinement {
    /// Names of the capabilities that the control thread keeps; every other has fewer or none.
    pub(super) capabilities: Vec<&'static str>,
    /// Whether system calls are filtered.
    pub(super) filtered: bool,
}

impl Beginnings {
    /// To be called while the process has one thread.
    pub fn settle() -> Self {
        if let Err(error) = kernel::forbid_new_privileges() {
            tracing::warn!("cannot forbid new privileges: {error}; does a filter forbid prctl(2)?");
        }
        Self { stopwatch: Stopwatch::start(), readers: ReaderPrivileges::of_this_kernel() }
    }

    /// What every thread but the control thread begins with.
    pub fn readers(&self) -> ReaderPrivileges {
        self.readers
    }
}

/// Gives up what only loading took. To be called on the control thread, when everything is loaded.
pub(super) fn confine(readers: ReaderPrivileges) -> Confinement {
    let capabilities = readers.settle_control();
    let filtered = match kernel::confine_agent() {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                "system calls are not filtered: {error}; was the kernel built with CONFIG_SECCOMP_FILTER?"
            );
            false
        }
    };
    tracing::info!(capabilities = capabilities.join(" "), filtered, "privileges given up");
    Confinement { capabilities, filtered }
}
