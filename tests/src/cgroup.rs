//! A scratch cgroup v2 tree of a test's own, removed with everything in it. Knows nothing of eBPF.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait::eventually;

const PREFIX: &str = "segue-test-";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEPT: OnceLock<()> = OnceLock::new();

/// A cgroup under the cgroup v2 mount whose processes are killed and which is removed on drop.
#[derive(Debug)]
pub struct ScratchCgroup {
    path: PathBuf,
    number: u32,
}

impl ScratchCgroup {
    /// Makes one with a name no other test has.
    ///
    /// # Panics
    /// When there is no cgroup v2 mount or it cannot be written.
    pub fn new() -> Self {
        let mount = mount_point();
        SWEPT.get_or_init(|| sweep(&mount));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let path = mount.join(name);
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", path.display()));
        Self { path, number }
    }

    /// A number that no other scratch cgroup of this process has.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a descendant, made if need be, as in `system.slice/checkout.service`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn child(&self, relative: &str) -> PathBuf {
        let path = self.path.join(relative);
        fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", path.display()));
        path
    }

    /// Removes a descendant with everything below it, once what runs there has ended.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn remove_child(&self, path: &Path) {
        remove(path).unwrap_or_else(|error| panic!("cannot remove cgroup {}: {error}", path.display()));
    }
}

impl Default for ScratchCgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ScratchCgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cgroup {} stays behind: {error}", self.path.display());
        }
    }
}

/// The file a process writes `0` to in order to move itself into the cgroup.
///
/// # Panics
/// When the cgroup is gone.
pub fn entrance(cgroup: &Path) -> File {
    let procs = cgroup.join("cgroup.procs");
    OpenOptions::new()
        .write(true)
        .open(&procs)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", procs.display()))
}

/// Where cgroup v2 is mounted.
///
/// # Panics
/// When it is not.
pub fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .find(|(_, kind)| kind.starts_with("cgroup2 "))
        .and_then(|(mount, _)| mount.split(' ').nth(4))
        .map_or_else(|| panic!("cgroup v2 is not mounted; the kernel tier needs it"), PathBuf::from)
}

/// Removes what test processes that were killed left behind.
fn sweep(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
            && let Err(error) = remove(&entry.path())
        {
            eprintln!("cgroup {name} of a test that was killed stays behind: {error}");
        }
    }
}

fn remove(cgroup: &Path) -> io::Result<()> {
    // Kernel 5.14; before, the processes are killed one by one until none is left.
    let at_once = cgroup.join("cgroup.kill");
    let has_kill = at_once.exists();
    if has_kill {
        fs::write(at_once, "1")?;
    }
    eventually("the processes of a scratch cgroup to end", Duration::from_secs(10), || {
        if !has_kill {
            kill_each(cgroup);
        }
        match fs::read_to_string(cgroup.join("cgroup.events")) {
            Ok(events) if events.contains("populated 0") => Ok(()),
            Ok(events) => Err(events),
            Err(error) => Err(error.to_string()),
        }
    });
    remove_tree(cgroup)
}

/// Sends SIGKILL to what is in the cgroup and below at this moment.
fn kill_each(cgroup: &Path) {
    for pid in fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse::<libc::pid_t>() {
            // SAFETY: kill takes integers; a process of a scratch cgroup is one of its test's.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_each(&entry.path());
        }
    }
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
