//! A small node of its own for the demo and the benchmarks: a network namespace with nothing but `lo`, a cgroup
//! for the clients the agent manages and one beside it, a bpffs, a directory. All of it goes when the value
//! does, and what a killed run left behind goes when the next one begins. It does not know what runs here.

mod agent;
mod process;

pub(crate) use agent::{Agent, LISTEN as AGENT_LISTENS, config_path, socket_path, write_config};
pub(crate) use process::Process;

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::host;

const NAMESPACES: &str = "/run/netns";

/// How often an emptied cgroup is tried to be removed, every 20 ms: its processes die asynchronously.
const REMOVE_ATTEMPTS: u32 = 150;

/// A network namespace, cgroups, a bpffs and a directory.
pub(crate) struct Node {
    name: String,
    cgroup_mount: PathBuf,
    namespace: File,
}

/// Which cgroup a process runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The agent's: the workload `checkout` within [`Node::managed_cgroup`].
    Managed,
    /// One beside it: servers, the agent itself, clients to compare with.
    Beside,
}

impl Place {
    fn directory(self) -> &'static str {
        match self {
            Self::Managed => "managed/checkout.service",
            Self::Beside => "beside",
        }
    }
}

impl Node {
    /// Makes a node; `purpose` becomes part of its names. Needs root.
    pub(crate) fn new(purpose: &str) -> anyhow::Result<Self> {
        let cgroup_mount = host::cgroup_mount()?;
        let prefix = format!("segue-{purpose}-");
        remove_leftovers(&prefix, &cgroup_mount);
        let name = format!("{prefix}{}", std::process::id());
        // From here on a failure must leave nothing, which is `Drop`'s work; it needs the value first.
        let namespace = File::open("/proc/self/ns/net").context("cannot open /proc/self/ns/net")?;
        let mut node = Self { name, cgroup_mount, namespace };
        for place in [Place::Managed, Place::Beside] {
            let cgroup = node.cgroup(place);
            fs::create_dir_all(&cgroup)
                .with_context(|| format!("cannot make cgroup {}", cgroup.display()))?;
        }
        let bpffs = node.bpffs();
        fs::create_dir_all(&bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
        mount("bpf", &bpffs, "bpf", 0)
            .with_context(|| format!("cannot mount bpffs at {}", bpffs.display()))?;
        node.namespace = new_namespace(&node.namespace_path()).context("cannot make a network namespace")?;
        Ok(node)
    }

    /// Where the agent attaches.
    pub(crate) fn managed_cgroup(&self) -> PathBuf {
        self.cgroup_mount.join(&self.name).join("managed")
    }

    /// A bpffs of its own.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.directory().join("bpffs")
    }

    /// A directory of its own.
    pub(crate) fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(&self.name)
    }

    /// The namespace as `nsenter --net=` takes it.
    pub(crate) fn namespace_path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// The cgroup that all of this node's processes are in or below.
    pub(crate) fn root_cgroup(&self) -> PathBuf {
        self.cgroup_mount.join(&self.name)
    }

    /// The processes of a place.
    pub(crate) fn processes(&self, place: Place) -> Vec<u32> {
        let ids = fs::read_to_string(self.cgroup(place).join("cgroup.procs")).unwrap_or_default();
        ids.lines().filter_map(|id| id.parse().ok()).collect()
    }

    fn cgroup(&self, place: Place) -> PathBuf {
        self.cgroup_mount.join(&self.name).join(place.directory())
    }

    /// A command that will run in the namespace and in the cgroup of `place`. It does not get this terminal's
    /// signals, and dies with the thread that starts it.
    pub(crate) fn command(&self, program: &Path, place: Place) -> anyhow::Result<Command> {
        let procs = self.cgroup(place).join("cgroup.procs");
        let procs =
            File::options().write(true).open(&procs).with_context(|| format!("no {}", procs.display()))?;
        let namespace = self.namespace.try_clone().context("cannot duplicate a descriptor")?;
        let mut command = Command::new(program);
        command.process_group(0);
        let enter = move || {
            // SAFETY: setns, write and prctl are plain system calls on descriptors the closure owns.
            let ok = unsafe {
                libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) == 0
                    && libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1
                    && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            };
            if ok { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the closure only makes system calls that are safe between fork and exec.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// The way into the namespace, for threads that outlive a borrow of the node.
    pub(crate) fn entrance(&self) -> anyhow::Result<Entrance> {
        Ok(Entrance(self.namespace.try_clone().context("cannot duplicate a descriptor")?))
    }

    /// Runs `work` on a thread that is in the namespace (and in this process's cgroup, which no agent manages).
    pub(crate) fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.entrance()?.within(work)
    }
}

/// The way into a node's network namespace.
pub(crate) struct Entrance(File);

impl Entrance {
    /// As [`Node::within`].
    pub(crate) fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let namespace = &self.0;
        let run = move || {
            // SAFETY: a plain system call; it changes this thread alone.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error()).context("cannot enter the network namespace");
            }
            work()
        };
        thread::scope(|scope| scope.spawn(run).join()).map_err(|_| anyhow!("a thread panicked"))?
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        remove(&self.name, &self.cgroup_mount);
    }
}

/// Removes what nodes of processes that no longer live left behind.
fn remove_leftovers(prefix: &str, cgroup_mount: &Path) {
    for parent in [cgroup_mount, Path::new(NAMESPACES), &std::env::temp_dir()] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(prefix).and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                remove(&name, cgroup_mount);
            }
        }
    }
}

/// Removes every trace of a node, in an order that leaves no program attached: processes, pins, the rest.
fn remove(name: &str, cgroup_mount: &Path) {
    let cgroup = cgroup_mount.join(name);
    kill_all(&cgroup);
    let directory = std::env::temp_dir().join(name);
    let bpffs = directory.join("bpffs");
    // Another mount namespace may hold a copy of the mount; the pins must go by themselves.
    for entry in fs::read_dir(&bpffs).into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(entry.path());
    }
    unmount(&bpffs);
    let _ = fs::remove_dir_all(&directory);
    let namespace = Path::new(NAMESPACES).join(name);
    unmount(&namespace);
    let _ = fs::remove_file(&namespace);
    remove_cgroup(&cgroup);
    for path in [&cgroup, &directory, &namespace] {
        if path.exists() {
            eprintln!("warning: {} could not be removed", path.display());
        }
    }
}

/// Kills every process in a cgroup and below. Only processes of ours are there.
fn kill_all(cgroup: &Path) {
    // Since Linux 5.14; before, one by one.
    if !cgroup.exists() || fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for directory in tree(cgroup) {
        let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.parse::<i32>().ok()) {
            // SAFETY: a plain system call.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

fn remove_cgroup(cgroup: &Path) {
    for _ in 0..REMOVE_ATTEMPTS {
        tree(cgroup).iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
        if !cgroup.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A directory and those below it, parents first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    let mut at = 0;
    while at < found.len() {
        let below = fs::read_dir(&found[at]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        found.extend(below);
        at += 1;
    }
    found
}

/// Makes a network namespace whose `lo` is up, and keeps it at `path`.
fn new_namespace(path: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(NAMESPACES)?;
    File::create(path)?;
    let make = || -> anyhow::Result<File> {
        // SAFETY: a plain system call; the namespace becomes this thread's alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error()).context("unshare");
        }
        bring_up_lo().context("cannot bring up lo")?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(own.as_os_str(), path, "none", libc::MS_BIND)?;
        Ok(File::open(own)?)
    };
    thread::scope(|scope| scope.spawn(make).join()).map_err(|_| anyhow!("a thread panicked"))?
}

fn bring_up_lo() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    // IFF_UP is 1 and fits.
    request.ifr_ifru.ifru_flags = 1;
    // SAFETY: the request is a valid ifreq that outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn mount(
    source: impl AsRef<std::ffi::OsStr>,
    target: &Path,
    kind: &str,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let source = CString::new(source.as_ref().as_bytes())?;
    let (target, kind) = (CString::new(target.as_os_str().as_bytes())?, CString::new(kind)?);
    // SAFETY: the strings outlive the call; these file systems take no data.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unmount(path: &Path) {
    if let Ok(path) = CString::new(path.as_os_str().as_bytes()) {
        // SAFETY: the string outlives the call. A path that is no mount is no harm.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_lists_parents_before_their_children() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        fs::write(root.path().join("a/file"), "x").unwrap();
        let found = tree(root.path());
        let expected: Vec<PathBuf> = ["", "a", "a/b", "a/b/c"].map(|path| root.path().join(path)).into();
        assert_eq!(found, expected.iter().map(|path| path.components().collect()).collect::<Vec<PathBuf>>());
    }
}
