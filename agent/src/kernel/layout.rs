//! Where the pins are, who holds them, and how they go.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent_ebpf::abi::{ABI_VERSION, Hook};

use super::hooks::ATTACHMENTS;
use super::{KernelError, bpf};

/// The directory `<bpffs>/segue` and what is under it.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout under a BPF file system.
    pub(super) fn new(bpffs: &Path) -> Self {
        Self { root: bpffs.join("segue") }
    }

    fn abi(&self) -> PathBuf {
        self.root.join(format!("abi{ABI_VERSION}"))
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.abi().join("maps").join(name)
    }

    /// The directory of the links.
    pub(super) fn links(&self) -> PathBuf {
        self.abi().join("links")
    }

    pub(super) fn link(&self, hook: Hook) -> PathBuf {
        self.links().join(hook.name())
    }

    /// Moves the pin of another version's link to this one's place, where it has one and this one has none. The link itself
    /// goes on as it is.
    pub(super) fn inherit_link(&self, hook: Hook) {
        let place = self.link(hook);
        if place.exists() {
            return;
        }
        let pins = self.other_versions().into_iter().map(|version| version.join("links").join(hook.name()));
        if let Some(pin) = pins.filter(|pin| pin.exists()).max() {
            // Where that does not work, a link is made anew, and the old one goes with its version.
            let _ = fs::rename(pin, place);
        }
    }

    /// Makes the directories, for root only: whoever can open a pin can change where traffic goes.
    pub(super) fn create(&self) -> Result<(), KernelError> {
        for directory in [self.abi().join("maps"), self.abi().join("links")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|source| KernelError::Pins { path: directory.clone(), source })?;
        }
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
            .map_err(|source| KernelError::Pins { path: self.root.clone(), source })
    }

    /// Takes the lock that says: one agent at a time. It is the kernel's and goes with the process.
    pub(super) fn lock(&self) -> Result<File, KernelError> {
        let directory =
            File::open(&self.root).map_err(|source| KernelError::Pins { path: self.root.clone(), source })?;
        // SAFETY: a valid descriptor.
        if unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(directory);
        }
        let source = io::Error::last_os_error();
        if source.kind() == io::ErrorKind::WouldBlock {
            return Err(KernelError::AnotherAgent { path: self.root.clone() });
        }
        Err(KernelError::Pins { path: self.root.clone(), source })
    }

    /// Layouts of other versions, left by other builds.
    pub(super) fn other_versions(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path()).filter(|path| *path != self.abi()).collect()
    }
}

/// Makes sure that there is a BPF file system at this path, and mounts one where there is none.
pub(super) fn ensure_bpffs(path: &Path) -> Result<(), KernelError> {
    fs::create_dir_all(path).map_err(|source| KernelError::Pins { path: path.to_owned(), source })?;
    let text = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|error| KernelError::Pins { path: path.to_owned(), source: error.into() })?;
    if is_bpffs(&text) {
        return Ok(());
    }
    // SAFETY: NUL-terminated strings that outlive the call.
    let mounted = unsafe {
        libc::mount(c"bpf".as_ptr(), text.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast())
    };
    if mounted == 0 {
        return Ok(());
    }
    Err(KernelError::Bpffs { path: path.to_owned(), source: io::Error::last_os_error() })
}

fn is_bpffs(path: &std::ffi::CStr) -> bool {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    // SAFETY: an all-zero statfs is valid, and the path is NUL-terminated.
    unsafe {
        let mut information: libc::statfs = std::mem::zeroed();
        if libc::statfs(path.as_ptr(), &raw mut information) != 0 {
            return false;
        }
        #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between architectures")]
        let kind = information.f_type as i64;
        kind == BPF_FS_MAGIC
    }
}

/// What `unload` took away.
#[derive(Debug, Default)]
pub struct Unloaded {
    /// Programs detached.
    pub links: usize,
    /// Maps removed.
    pub maps: usize,
}

/// Detaches every program and removes every map of every version. Refuses while an agent is running.
pub fn unload(bpffs: &Path) -> Result<Unloaded, KernelError> {
    let layout = Layout::new(bpffs);
    if !layout.root.exists() {
        return Ok(Unloaded::default());
    }
    let lock = layout.lock()?;
    let mut unloaded = Unloaded::default();
    let versions = [layout.other_versions(), vec![layout.abi()]].concat();
    for version in versions {
        remove_version(&version, &mut unloaded)?;
    }
    remove(&layout.root, |path| fs::remove_dir(path))?;
    drop(lock);
    Ok(unloaded)
}

/// Removes one version's pins: links first, translation before observation, then maps.
pub(super) fn remove_version(version: &Path, unloaded: &mut Unloaded) -> Result<(), KernelError> {
    let links = version.join("links");
    for attachment in ATTACHMENTS.iter().rev() {
        let pin = links.join(attachment.hook.name());
        if pin.exists() {
            remove_link(&pin)?;
            unloaded.links += 1;
        }
    }
    unloaded.links += remove_all(&links, remove_link)?;
    unloaded.maps += remove_all(&version.join("maps"), |pin| remove(pin, |path| fs::remove_file(path)))?;
    remove(version, |path| fs::remove_dir(path))
}

/// Detaches what a pin holds, so that it is gone when this returns, and removes the pin.
pub(super) fn remove_link(pin: &Path) -> Result<(), KernelError> {
    if let Ok(link) = bpf::open_pin(pin) {
        // Where it does not work, or this is no link, removing the pin does it a moment later.
        let _ = bpf::detach(link.as_fd());
    }
    remove(pin, |path| fs::remove_file(path))
}

fn remove_all(
    directory: &Path,
    remove_pin: impl Fn(&Path) -> Result<(), KernelError>,
) -> Result<usize, KernelError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(0) };
    let mut removed = 0;
    for entry in entries.flatten() {
        remove_pin(&entry.path())?;
        removed += 1;
    }
    remove(directory, |path| fs::remove_dir(path))?;
    Ok(removed)
}

fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<(), KernelError> {
    match how(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Pins { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
