//! Leaving: on SIGTERM or SIGINT the agent goes and the data plane stays.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Told to every task that runs until the agent leaves.
#[derive(Clone, Debug)]
pub struct Shutdown {
    leaving: watch::Receiver<bool>,
}

/// The side that says so.
#[derive(Debug)]
pub struct Trigger {
    leaving: watch::Sender<bool>,
}

/// A pair of the two.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger { leaving: sender }, Shutdown { leaving: receiver })
}

impl Trigger {
    /// Tells every task.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }
}

impl Shutdown {
    /// Returns when the agent is leaving, also when the other side is gone.
    pub async fn wait(mut self) {
        let _ = self.leaving.wait_for(|leaving| *leaving).await;
    }
}

/// Waits for a signal that ends the agent and returns its name.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn signalled() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
