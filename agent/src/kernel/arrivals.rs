//! Directories as they are made, for those who want to know a pod's cgroup before what runs in it connects. Knows
//! nothing of pods.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Directories watched at most. 250 pods of ten containers each are fewer.
const MAX_WATCHES: usize = 4_096;
/// Room for some hundred events at a time.
const BUFFER_BYTES: usize = 16 * 1024;

/// Watches on directories.
#[derive(Debug)]
pub struct Arrivals {
    inotify: AsyncFd<OwnedFd>,
    directories: HashMap<i32, PathBuf>,
}

impl Arrivals {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The kernel gives no inotify instance: the user has too many.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned and stays the same until it is dropped.
        let inotify = unsafe { AsyncFd::register(inotify) }.map_err(io::Error::from)?;
        Ok(Self { inotify, directories: HashMap::new() })
    }

    /// Watches a directory, as long as it is there. What cannot be watched is passed over.
    pub fn watch(&mut self, directory: PathBuf) {
        if self.directories.len() >= MAX_WATCHES {
            return;
        }
        match inotify::add_watch(&self.inotify, &directory, WatchFlags::CREATE | WatchFlags::ONLYDIR) {
            Ok(watch) => _ = self.directories.insert(watch, directory),
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "cannot be watched");
            }
        }
    }

    /// Waits for directories to be made in those that are watched.
    ///
    /// # Errors
    /// The watches cannot be read any more.
    pub async fn next(&mut self) -> io::Result<Vec<PathBuf>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match read(ready.get_inner(), &mut self.directories) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(made) if made.is_empty() => {}
                result => return result,
            }
        }
    }
}

fn read(inotify: &OwnedFd, directories: &mut HashMap<i32, PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut events = Reader::new(inotify, &mut buffer);
    let mut made = Vec::new();
    loop {
        let event = events.next()?;
        if event.events().contains(ReadFlags::IGNORED) {
            directories.remove(&event.wd());
        } else if event.events().contains(ReadFlags::CREATE | ReadFlags::ISDIR)
            && let (Some(directory), Some(name)) = (directories.get(&event.wd()), event.file_name())
        {
            made.push(directory.join(OsStr::from_bytes(name.to_bytes())));
        }
        if events.is_buffer_empty() {
            return Ok(made);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn directories_are_told_as_they_are_made_and_files_are_not() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut arrivals = Arrivals::new().expect("an inotify instance");
        arrivals.watch(root.path().join("nowhere"));
        arrivals.watch(root.path().to_owned());
        fs::write(root.path().join("file"), "").expect("a file");
        let pod = root.path().join("pod");
        fs::create_dir(&pod).expect("a directory");
        assert_eq!(arrivals.next().await.expect("readable"), std::slice::from_ref(&pod));
        arrivals.watch(pod.clone());
        fs::create_dir(pod.join("container")).expect("a directory");
        assert_eq!(arrivals.next().await.expect("readable"), [pod.join("container")]);
        fs::remove_dir_all(&pod).expect("directories");
        fs::create_dir(root.path().join("other")).expect("a directory");
        assert_eq!(arrivals.next().await.expect("readable"), [root.path().join("other")]);
        assert_eq!(arrivals.directories.len(), 1, "what is gone is not watched");
    }
}
