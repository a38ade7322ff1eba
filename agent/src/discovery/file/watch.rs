//! What can change on the way to a file, and inotify watches on all of it. Reads no content.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Symbolic links followed on the way to the file: as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Metadata that differs when the content does, short of an effort to hide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    len_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of the file a path leads to; `None` where it leads nowhere.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// inotify watches on the directories in which a change can lead a path to other content.
pub(super) struct Watch {
    inotify: INotifyWatcher,
    directories: BTreeSet<PathBuf>,
    /// The paths whose events count: the entries of the trail, and the directories themselves.
    relevant: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Watch {
    /// No watches yet. Every event that counts puts a message into `wake`.
    pub(super) fn new(wake: mpsc::Sender<()>) -> notify::Result<Self> {
        let relevant = Arc::new(Mutex::new(HashSet::new()));
        let counted = Arc::clone(&relevant);
        let handler = move |event: notify::Result<Event>| {
            if counts(&event, &counted) {
                // A full channel holds a message that has not been looked at: enough.
                let _ = wake.try_send(());
            }
        };
        let inotify = INotifyWatcher::new(handler, notify::Config::default())?;
        Ok(Self { inotify, directories: BTreeSet::new(), relevant })
    }

    /// Watches what leads to `path` now, and nothing else. What cannot be watched is left to polling.
    pub(super) fn follow(&mut self, path: &Path) {
        let entries = trail(path);
        let directories: BTreeSet<PathBuf> =
            entries.iter().filter_map(|entry| entry.parent().map(Path::to_owned)).collect();
        let relevant = entries.into_iter().chain(directories.iter().cloned()).collect();
        *self.relevant.lock().unwrap_or_else(PoisonError::into_inner) = relevant;
        // All anew: a watch stays with a directory that was moved away or replaced under the same name.
        for directory in &self.directories {
            let _ = self.inotify.unwatch(directory);
        }
        for directory in &directories {
            if let Err(error) = self.inotify.watch(directory, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, directory = %directory.display(), "cannot be watched; polling it");
            }
        }
        self.directories = directories;
    }
}

fn counts(event: &notify::Result<Event>, relevant: &Mutex<HashSet<PathBuf>>) -> bool {
    let Ok(event) = event else { return true };
    let is_change = match event.kind {
        // Everybody who reads the file opens it, we too.
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    let relevant = relevant.lock().unwrap_or_else(PoisonError::into_inner);
    is_change && (event.need_rescan() || event.paths.iter().any(|path| relevant.contains(path)))
}

/// Every directory entry that decides where a path leads: each symbolic link on the way, and the file at the end
/// or the first entry that is missing. All in terms of real directories.
fn trail(path: &Path) -> Vec<PathBuf> {
    let Ok(path) = std::path::absolute(path) else { return Vec::new() };
    let mut entries = Vec::new();
    let mut here = PathBuf::from("/");
    let mut ahead = steps(&path);
    while let Some(step) = ahead.pop() {
        if step == ".." {
            here.pop();
            continue;
        }
        let entry = here.join(step);
        if let Ok(target) = std::fs::read_link(&entry) {
            entries.push(entry);
            if entries.len() > MAX_LINKS {
                break;
            }
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            ahead.extend(steps(&target));
        } else if ahead.is_empty() || !entry.is_dir() {
            entries.push(entry);
            break;
        } else {
            here = entry;
        }
    }
    entries
}

/// The names and `..` in a path, the first last.
fn steps(path: &Path) -> Vec<OsString> {
    let is_step = |component: &Component| matches!(component, Component::Normal(_) | Component::ParentDir);
    let mut steps: Vec<OsString> =
        path.components().filter(is_step).map(|component| component.as_os_str().to_owned()).collect();
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_trail_names_every_link_and_the_file() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path().canonicalize().expect("a real path");
        std::fs::create_dir(root.join("v1")).expect("a directory");
        std::fs::create_dir(root.join("config")).expect("a directory");
        std::fs::write(root.join("v1/segue.yaml"), "").expect("a file");
        symlink("../v1", root.join("config/data")).expect("a link");
        symlink("data/segue.yaml", root.join("config/segue.yaml")).expect("a link");
        assert_eq!(
            trail(&root.join("config/segue.yaml")),
            ["config/segue.yaml", "config/data", "v1/segue.yaml"].map(|entry| root.join(entry))
        );
        assert_eq!(trail(&root.join("config/none/segue.yaml")), [root.join("config/none")]);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let root = tempfile::tempdir().expect("a directory");
        symlink("b", root.path().join("a")).expect("a link");
        symlink("a", root.path().join("b")).expect("a link");
        assert_eq!(trail(&root.path().join("a")).len(), MAX_LINKS + 1);
    }
}
