//! The sources that run, and which of them have spoken. Knows nothing of what they said.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Options;
use crate::discovery::file::FileSource;
use crate::discovery::kubernetes::{KubernetesSource, Standing};
use crate::discovery::{SourceKind, Update};

/// How long sources have to end.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// See the module.
pub(super) struct Sources {
    tasks: JoinSet<()>,
    running: BTreeSet<SourceKind>,
    /// Have said what they have, now or when they were last asked.
    heard: BTreeSet<SourceKind>,
    /// Have said what they have now.
    synced: BTreeSet<SourceKind>,
    /// How it stands with the API server, where there is one.
    kubernetes: Option<Standing>,
}

impl Sources {
    /// Starts the sources that the operator asked for.
    pub(super) async fn start(
        options: &Options,
        updates: mpsc::Sender<(SourceKind, Update)>,
    ) -> anyhow::Result<Self> {
        let (mut tasks, mut running, mut kubernetes) = (JoinSet::new(), BTreeSet::new(), None);
        if let Some(file) = &options.config {
            tasks.spawn(FileSource::new(file.clone()).run(updates.clone()));
            running.insert(SourceKind::File);
        }
        if let Some(asked) = &options.kubernetes {
            let source = KubernetesSource::new(asked.clone()).await.context("cannot use Kubernetes")?;
            kubernetes = Some(source.standing());
            tasks.spawn(source.run(updates));
            running.insert(SourceKind::Kubernetes);
        }
        ensure!(!running.is_empty(), "there is nothing to take services from; give --config or --kubernetes");
        Ok(Self { tasks, running, heard: BTreeSet::new(), synced: BTreeSet::new(), kubernetes })
    }

    /// How it stands with the API server, where there is one.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.kubernetes.clone()
    }

    /// What the agent waits for, in words, one for each source.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.running.clone().into_iter().map(awaited)
    }

    /// Which of [`Sources::awaited`] have come.
    pub(super) fn heard(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.heard.clone().into_iter().map(awaited)
    }

    /// A source has said what it has. `true` where it was the last one to do so for the first time.
    pub(super) fn synced(&mut self, source: SourceKind) -> bool {
        self.heard.insert(source);
        self.synced.insert(source) && self.all_synced()
    }

    /// A source has said what it had when it was last asked.
    pub(super) fn remembered(&mut self, source: SourceKind) {
        self.heard.insert(source);
    }

    /// Whether there is nothing left in the maps that a source could still claim.
    pub(super) fn all_synced(&self) -> bool {
        self.running.is_subset(&self.synced)
    }

    /// Whether this source has said anything that can be used.
    pub(super) fn has_heard(&self, source: SourceKind) -> bool {
        self.heard.contains(&source)
    }

    /// Whether any has.
    pub(super) fn any_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Waits until they have ended, as they do when nobody listens to them, and have written what is to outlive them.
    pub(super) async fn stop(&mut self) {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST_WORDS, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

fn awaited(source: SourceKind) -> &'static str {
    match source {
        SourceKind::Agent => "itself",
        SourceKind::File => "the first configuration",
        SourceKind::Kubernetes => "the services of the cluster",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Sources {
        let running = BTreeSet::from([SourceKind::File, SourceKind::Kubernetes]);
        let (heard, synced) = (BTreeSet::new(), BTreeSet::new());
        Sources { tasks: JoinSet::new(), running, heard, synced, kubernetes: None }
    }

    #[test]
    fn what_nobody_claims_may_go_only_when_every_source_is_in_sync() {
        let mut sources = both();
        assert!(!sources.synced(SourceKind::File));
        assert!(!sources.all_synced());
        assert!(sources.synced(SourceKind::Kubernetes));
        assert!(!sources.synced(SourceKind::Kubernetes), "it is said once");
        assert!(sources.all_synced());
    }

    #[test]
    fn what_a_source_remembers_makes_ready_and_is_no_sync() {
        let mut sources = both();
        sources.remembered(SourceKind::Kubernetes);
        assert_eq!(sources.heard().collect::<Vec<_>>(), ["the services of the cluster"]);
        assert!(!sources.synced(SourceKind::File));
        assert!(sources.synced(SourceKind::Kubernetes));
    }
}
