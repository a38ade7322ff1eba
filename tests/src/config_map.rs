//! A configuration file as Kubernetes gives it to a pod: by links that are swapped, not by writing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A directory laid out as Kubernetes mounts a ConfigMap: `FILE -> ..data/FILE`, `..data -> ..N`.
#[derive(Debug)]
pub struct ConfigMapMount {
    directory: PathBuf,
    revision: u32,
}

impl ConfigMapMount {
    /// The name of the file inside.
    const FILE: &str = "segue.yaml";

    /// Lays out the directory with a first revision.
    ///
    /// # Panics
    /// When the directory exists.
    pub fn new(directory: &Path, config: &str) -> Self {
        fs::create_dir(directory).expect("a fresh directory");
        let mut mount = Self { directory: directory.to_owned(), revision: 0 };
        mount.swap(config);
        symlink(Path::new("..data").join(Self::FILE), mount.file()).expect("a symbolic link");
        mount
    }

    /// The path an agent is given.
    pub fn file(&self) -> PathBuf {
        self.directory.join(Self::FILE)
    }

    /// Writes a revision and swaps the link `..data` to it, as the kubelet does.
    ///
    /// # Panics
    /// When a step is refused.
    pub fn swap(&mut self, config: &str) {
        self.revision += 1;
        let name = format!("..{}", self.revision);
        let revision = self.directory.join(&name);
        fs::create_dir(&revision).expect("a fresh directory");
        fs::write(revision.join(Self::FILE), config).expect("a configuration file can be written");
        let next = self.directory.join("..data_tmp");
        symlink(&name, &next).expect("a symbolic link");
        fs::rename(&next, self.directory.join("..data")).expect("a rename within one directory");
        if self.revision > 1 {
            let old = self.directory.join(format!("..{}", self.revision - 1));
            fs::remove_dir_all(old).expect("the old revision can be removed");
        }
    }
}
