//! The cgroup whose processes are managed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::KernelError;

/// An open cgroup (version 2) directory.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: File,
    id: u64,
}

impl Cgroup {
    /// Opens a cgroup directory, or the root of the hierarchy where `path` is `None`.
    pub fn open(path: Option<&Path>) -> Result<Self, KernelError> {
        let mount = mount_point()?;
        let path = path.unwrap_or(&mount).to_owned();
        let fail = |source| KernelError::Cgroup { path: path.clone(), source };
        let directory = File::open(&path).map_err(fail)?;
        let metadata = directory.metadata().map_err(fail)?;
        if !path.join("cgroup.procs").exists() {
            return Err(KernelError::NotACgroup { path, mount });
        }
        Ok(Self { path, directory, id: metadata.ino() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's id of it, which is the inode of its directory.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is still what is at its path.
    pub fn is_at_its_path(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.id)
    }

    /// Its descriptor, for attaching.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Where cgroup version 2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` where both versions are.
pub fn mount_point() -> Result<PathBuf, KernelError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    find_mount_point(&mounts).ok_or(KernelError::NoCgroup2)
}

/// Finds it in the text of `/proc/self/mountinfo` (proc(5)): the fifth field of the line whose file system type,
/// the first after the dash, is `cgroup2`. Of several the shortest: the others are mounted for somebody inside.
fn find_mount_point(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next() == Some("cgroup2")).then(|| before.split(' ').nth(4))?
    });
    mounts.min_by_key(|mount| mount.len()).map(|mount| PathBuf::from(mount.replace("\\040", " ")))
}

/// The id of the cgroup at a path, which is the inode of its directory.
pub fn cgroup_id(path: &Path) -> io::Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.ino())
}

/// The ids of the cgroups on the way to `within`, a path below the mount, without the mount itself.
///
/// # Errors
/// One of them is not there, or the path leads out of the hierarchy.
pub fn cgroup_lineage(mount: &Path, within: &Path) -> io::Result<Vec<u64>> {
    let mut at = mount.to_owned();
    let mut lineage = Vec::new();
    for part in within.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                at.push(name);
                lineage.push(cgroup_id(&at)?);
            }
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    if at.join("cgroup.procs").exists() { Ok(lineage) } else { Err(io::ErrorKind::NotFound.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_the_way_from_the_mount_and_does_not_lead_out_of_it() {
        let mount = tempfile::tempdir().expect("a directory");
        let leaf = mount.path().join("a/b");
        std::fs::create_dir_all(&leaf).expect("directories");
        std::fs::write(leaf.join("cgroup.procs"), "").expect("a file");
        let ids = [mount.path().join("a"), leaf].map(|path| cgroup_id(&path).expect("an id"));
        for within in ["a/b", "/a/b/"] {
            assert_eq!(cgroup_lineage(mount.path(), Path::new(within)).expect("a way"), ids, "{within}");
        }
        for within in ["a/b/c", "../a", "a"] {
            cgroup_lineage(mount.path(), Path::new(within)).expect_err(within);
        }
    }

    #[test]
    fn the_mount_point_is_found_in_both_layouts() {
        let unified = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find_mount_point(unified), Some(PathBuf::from("/sys/fs/cgroup")));
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount_point(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let inside = "50 32 0:38 / /run/some\\040box/cgroup rw - cgroup2 cgroup2 rw\n";
        let both = format!("{inside}{unified}");
        assert_eq!(find_mount_point(&both), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(find_mount_point(inside), Some(PathBuf::from("/run/some box/cgroup")));
        assert_eq!(find_mount_point("1 2 0:3 / / rw - ext4 /dev/sda rw\n"), None);
    }
}
