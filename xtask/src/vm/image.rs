//! The guest's root file system as an initramfs: programs of this machine with the libraries they need, in one
//! uncompressed cpio archive. It does not know what the guest does with them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// An archive in the making. Paths begin with `/`.
pub(crate) struct Image {
    bytes: Vec<u8>,
    known: BTreeSet<String>,
}

impl Image {
    /// The skeleton: places to mount on, the merged directories, accounts for daemons.
    pub(crate) fn new() -> Self {
        let mut image = Self { bytes: Vec::new(), known: BTreeSet::new() };
        for directory in
            ["/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/run", "/var/log", "/var/lib"]
        {
            image.directory(directory);
        }
        for (link, target) in [
            ("/bin", "usr/bin"),
            ("/sbin", "usr/bin"),
            ("/usr/sbin", "bin"),
            ("/lib", "usr/lib"),
            ("/lib64", "usr/lib64"),
        ] {
            image.link(link, target);
        }
        image.file("/etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
        image.file("/etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\nhosts: files dns\n");
        image.file("/etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
        image.file("/etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        image
    }

    /// Adds a program of this machine, with its libraries.
    pub(crate) fn program(&mut self, from: &Path, to: &str) -> anyhow::Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(to, 0o755, &content);
        self.libraries(from)
    }

    /// The same of a program built here, without what only a debugger reads.
    pub(crate) fn stripped(&mut self, from: &Path, to: &str, scratch: &Path) -> anyhow::Result<()> {
        let small = scratch.join(from.file_name().unwrap_or_default());
        let status = Command::new("objcopy").arg("--strip-debug").arg(from).arg(&small).status();
        let program = if status.is_ok_and(|status| status.success()) { small.as_path() } else { from };
        self.program(program, to)
    }

    /// Adds a directory of this machine and what is in it, but for names that `leave_out` accepts. Shared objects
    /// bring their libraries.
    pub(crate) fn tree(&mut self, from: &Path, leave_out: &impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if leave_out(&name) {
                continue;
            }
            if path.is_dir() {
                self.tree(&path, leave_out)?;
            } else if let Ok(content) = fs::read(&path) {
                self.file(&merged(&path.display().to_string()), 0o644, &content);
                if name.ends_with(".so") {
                    self.libraries(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Adds what the dynamic linker would load for a program or library.
    fn libraries(&mut self, of: &Path) -> anyhow::Result<()> {
        let output = Command::new("ldd").arg(of).output().context("cannot run ldd")?;
        for library in library_paths(&String::from_utf8_lossy(&output.stdout)) {
            let to = merged(&library);
            if !self.known.contains(&to) {
                let content = fs::read(&library).with_context(|| format!("cannot read {library}"))?;
                self.file(&to, 0o755, &content);
            }
        }
        Ok(())
    }

    /// Adds a kernel module of this name, unpacked, under a path that keeps the order in which they are loaded.
    pub(crate) fn module(&mut self, modules: &Path, name: &str, place: usize) -> anyhow::Result<()> {
        let Some(path) = find_module(&modules.join("kernel"), name) else {
            // Built in, or not there at all; what needs it will say so.
            return Ok(());
        };
        let content = if path.extension().is_some_and(|ending| ending == "xz") {
            let output = Command::new("xz").arg("-dc").arg(&path).output().context("cannot run xz")?;
            if !output.status.success() {
                bail!("cannot unpack {}", path.display());
            }
            output.stdout
        } else {
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?
        };
        self.file(&format!("/modules/{place:02}-{name}.ko"), 0o644, &content);
        Ok(())
    }

    /// Adds a file, once.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        if self.known.insert(path.to_owned()) {
            self.entry(path, FILE | mode, content);
        }
    }

    fn directory(&mut self, path: &str) {
        self.parents(path);
        if self.known.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, b"");
        }
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        if self.known.insert(path.to_owned()) {
            self.entry(path, LINK, target.as_bytes());
        }
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
            self.directory(parent);
        }
    }

    /// One member in the `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_start_matches('/');
        let inode = self.known.len();
        let fields = [inode, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes the archive.
    pub(crate) fn write(mut self, path: &Path) -> anyhow::Result<()> {
        self.entry("TRAILER!!!", 0, b"");
        let mut file = fs::File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        file.write_all(&self.bytes).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot change {}", path.display()))
    }
}

/// Where a path of this machine lies once `/bin`, `/sbin` and `/lib` are part of `/usr`.
fn merged(path: &str) -> String {
    match path {
        _ if ["/lib/", "/lib64/", "/bin/"].iter().any(|start| path.starts_with(start)) => {
            format!("/usr{path}")
        }
        _ => path.to_owned(),
    }
}

/// Reads what `ldd` prints: `NAME => PATH (ADDRESS)` and `PATH (ADDRESS)`.
fn library_paths(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(|path| path.trim_end_matches(':').to_owned())
        .collect()
}

fn find_module(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.iter().find_map(|path| {
        if path.is_dir() {
            return find_module(path, name);
        }
        let file = path.file_name()?.to_str()?;
        (file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko") == Some(name)).then(|| path.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut image = Image::new();
        image.file("/a/b/file", 0o644, b"hello");
        image.write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        // Walks the archive by the lengths in its headers.
        let number =
            |at: usize| usize::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap();
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (content, name) = (number(at + 6 + 6 * 8), number(at + 6 + 11 * 8));
            let begin = at + 110;
            names.push(String::from_utf8_lossy(&bytes[begin..begin + name - 1]).into_owned());
            at = (begin + name).next_multiple_of(4) + content.next_multiple_of(4);
        }
        let place = |name: &str| names.iter().position(|known| known == name).unwrap();
        assert!(place("a") < place("a/b") && place("a/b") < place("a/b/file"), "{names:?}");
        assert_eq!(names.last().map(String::as_str), Some("TRAILER!!!"));
    }

    #[test]
    fn libraries_are_read_from_what_the_linker_says() {
        let said = "\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x1)\n\t/lib64/ld.so.2 (0x2)\n";
        assert_eq!(library_paths(said), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
        assert_eq!(library_paths("\tstatically linked\n"), Vec::<String>::new());
        assert_eq!(merged("/lib/x/libc.so.6"), "/usr/lib/x/libc.so.6");
    }
}
