//! Services from a configuration file, again whenever the file changes. Knows what a change looks like on a file
//! system; what a file says is `config`'s.
//!
//! inotify tells of changes, through every symbolic link on the way to the file. Because it can overflow, and is
//! silent on some file systems, the file's metadata is polled as well.

mod watch;

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{self, Config, ConfigError};
use crate::desired::Change;

use super::{SourceKind, Update};
use watch::{Fingerprint, Watch};

/// How often metadata is looked at. Long enough to cost nothing, short enough for a person to wait for.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// A burst of events is over when there was none for this long.
const QUIET: Duration = Duration::from_millis(30);
/// A burst is looked at after this long at the latest.
const LONGEST_BURST: Duration = Duration::from_millis(500);
/// How long a file that cannot be used may still be in the middle of being written.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often a file that cannot be used, and keeps changing, is read again before it is called rejected.
const MOST_RETRIES: u32 = 20;

/// A configuration file as a source of services.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    poll_interval: Duration,
    uses_inotify: bool,
}

impl FileSource {
    /// A source for the file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), poll_interval: POLL_INTERVAL, uses_inotify: true }
    }

    /// Loads the file at once, and then whenever it changes, until nobody receives `updates` any more.
    ///
    /// The first update is always sent: what the file says, or why it cannot be used.
    pub async fn run(self, updates: mpsc::Sender<(SourceKind, Update)>) {
        let (wake, mut woken) = mpsc::channel(1);
        let mut lookout = Lookout::new(self.path, self.uses_inotify.then(|| wake.clone()));
        let mut poll = tokio::time::interval(self.poll_interval);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let found = lookout.settled(async || tokio::time::sleep(RETRY_AFTER).await).await;
            if let Some(update) = found
                && updates.send((SourceKind::File, update)).await.is_err()
            {
                return;
            }
            loop {
                tokio::select! {
                    () = updates.closed() => return,
                    // `wake` lives as long as this function, so there is always a message to wait for.
                    _ = woken.recv() => {
                        burst_over(&mut woken).await;
                        break;
                    }
                    _ = poll.tick() => if lookout.is_different().await { break },
                }
            }
        }
    }
}

async fn burst_over(woken: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + LONGEST_BURST;
    loop {
        let quiet = latest.min(Instant::now() + QUIET);
        if tokio::time::timeout_at(quiet, woken.recv()).await.is_err() {
            return;
        }
    }
}

/// Content, or why there is none, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Content(u64),
    Unreadable(String),
}

/// What one look at the file found, where it is not what was reported last.
type Found = Option<(Seen, Result<Config, ConfigError>)>;

/// Looks at the file and remembers what was seen. Its file operations run where they may block.
struct Lookout {
    eyes: Option<Eyes>,
}

/// What [`Lookout`] lends to the thread that may block.
struct Eyes {
    path: PathBuf,
    watch: Option<Watch>,
    hasher: RandomState,
    reported: Option<Seen>,
    fingerprint: Option<Fingerprint>,
}

impl Lookout {
    fn new(path: PathBuf, wake: Option<mpsc::Sender<()>>) -> Self {
        let watch = wake.and_then(|wake| match Watch::new(wake) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "no inotify; changes of the configuration file are found by polling");
                None
            }
        });
        let hasher = RandomState::new();
        Self { eyes: Some(Eyes { path, watch, hasher, reported: None, fingerprint: None }) }
    }

    /// What the file says once it is not in the middle of being written, or `None` where that was reported
    /// already. `pause` returns when it is time for another look.
    async fn settled(&mut self, mut pause: impl AsyncFnMut()) -> Option<Update> {
        let mut found = self.blocking(Eyes::look).await?;
        for _ in 0..MOST_RETRIES {
            if found.1.is_ok() {
                break;
            }
            pause().await;
            let again = self.blocking(Eyes::look).await?;
            let is_same = again.0 == found.0;
            found = again;
            if is_same {
                break;
            }
        }
        let (seen, result) = found;
        self.blocking(move |eyes| eyes.reported = Some(seen)).await;
        Some(match result {
            Ok(config) => {
                for warning in &config.warnings {
                    tracing::warn!("{warning}");
                }
                Update::Changed(Change::Reset(config.services))
            }
            Err(error) => Update::Rejected(error),
        })
    }

    /// Whether the file's metadata differs from that of the last look.
    async fn is_different(&mut self) -> bool {
        self.blocking(|eyes| Fingerprint::of(&eyes.path) != eyes.fingerprint).await
    }

    async fn blocking<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Eyes) -> T + Send + 'static) -> T {
        let mut eyes = self.eyes.take().expect("returned after every use");
        let run = tokio::task::spawn_blocking(move || {
            let result = work(&mut eyes);
            (eyes, result)
        });
        match run.await {
            Ok((eyes, result)) => {
                self.eyes = Some(eyes);
                result
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going away, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Eyes {
    fn look(&mut self) -> Found {
        // Watch first, read after: a change in between wakes us again.
        if let Some(watch) = &mut self.watch {
            watch.follow(&self.path);
        }
        self.fingerprint = Fingerprint::of(&self.path);
        let (seen, result) = match config::read(&self.path) {
            Ok(bytes) => (Seen::Content(self.hasher.hash_one(&bytes)), Ok(bytes)),
            Err(error) => (Seen::Unreadable(error.to_string()), Err(error)),
        };
        if self.reported.as_ref() == Some(&seen) {
            return None;
        }
        Some((seen, result.and_then(|bytes| config::parse(&bytes, Path::new(&self.path)))))
    }
}

#[cfg(test)]
mod tests;
