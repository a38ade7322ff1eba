//! What the programs log, forwarded to the agent's log.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use super::KernelError;

/// Log lines of the programs, on their way to the agent's log.
pub struct ProgramLog {
    lines: AsyncFd<EbpfLogger<Forward>>,
}

impl ProgramLog {
    /// Takes the log ring out of the loaded object. Programs must be loaded before.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let fail = |source| KernelError::Log { source };
        let logger =
            EbpfLogger::init_with_logger(ebpf, Forward).map_err(|error| fail(io::Error::other(error)))?;
        // SAFETY: the logger owns its ring's descriptor and always gives the same one until it is dropped.
        let lines = unsafe { AsyncFd::register(logger) }.map_err(|error| fail(io::Error::from(error)))?;
        Ok(Self { lines })
    }

    /// Forwards for as long as it is polled.
    pub async fn forward(mut self) -> io::Result<()> {
        loop {
            let mut ready = self.lines.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// Hands a record to `tracing`. All lines of the programs are warnings: they log what should not happen.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::warn!("kernel: {}", record.args());
    }

    fn flush(&self) {}
}
