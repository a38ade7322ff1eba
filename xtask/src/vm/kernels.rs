//! The kernels of the matrix and the emulator: where Debian has them, fetched once into the user's cache. It does not
//! know what is run on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::apt::Suite;
use crate::host;

/// A line of kernels that a Debian suite carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// Debian 11, the oldest that Segue runs on.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// Debian's development suite.
    #[value(name = "7.2")]
    V7_2,
    /// All of them.
    All,
}

impl Series {
    /// Oldest first.
    pub(crate) const EACH: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7_2];

    /// As it is typed and shown.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
            Self::All => "all",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::V7_2 | Self::All => "sid",
        }
    }
}

/// A kernel on disk.
pub(crate) struct Kernel {
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// The directory of its modules.
    pub(crate) modules: PathBuf,
}

/// Where fetched kernels and the emulator are kept.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("segue-vm"))
}

/// The kernel of a series, fetched where the cache has none.
pub(crate) fn kernel(series: Series) -> anyhow::Result<Kernel> {
    let cache = cache()?;
    let root = cache.join(format!("linux-{}", series.name()));
    if !root.is_dir() {
        eprintln!("vm: fetching Linux {} of Debian {}", series.name(), series.suite());
        let suite = Suite::open(series.suite(), &cache)?;
        let packages = suite.closure("linux-image-cloud-amd64", |name| {
            let rest = ["linux-image-", "linux-binary-", "linux-modules-"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })?;
        if packages.is_empty() {
            bail!(
                "Debian {} carries no Linux for clouds any more; take another suite for {} in xtask/src/vm/kernels.rs, or \
                 name a mirror that still has it by SEGUE_DEBIAN_MIRROR",
                series.suite(),
                series.name()
            );
        }
        suite.unpack(&packages, &root)?;
    }
    find(&root).with_context(|| format!("{} holds no kernel; remove it and try again", root.display()))
}

fn find(root: &Path) -> Option<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|place| fs::read_dir(root.join(place)).ok()?.flatten().next())?
        .path();
    let release = modules.file_name()?.to_string_lossy().into_owned();
    let images = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file())?;
    Some(Kernel { image, modules })
}

/// The emulator: the machine's own, or one out of the cache with everything it needs.
pub(crate) fn emulator() -> anyhow::Result<Command> {
    const NAME: &str = "qemu-system-x86_64";
    if let Some(program) = host::program(NAME) {
        return Ok(Command::new(program));
    }
    let cache = cache()?;
    let root = cache.join("qemu");
    if !root.is_dir() {
        eprintln!("vm: fetching QEMU of Debian bookworm");
        let suite = Suite::open("bookworm", &cache)?;
        let packages = suite.closure("qemu-system-x86", |_| true)?;
        suite.unpack(&packages, &root)?;
    }
    let loader = root.join("lib64/ld-linux-x86-64.so.2");
    if !loader.exists() {
        bail!("{} is not complete; remove it and try again", root.display());
    }
    let libraries =
        ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio"]
            .map(|place| root.join(place).display().to_string())
            .join(":");
    let mut command = Command::new(loader);
    command.args(["--library-path", &libraries]).arg(root.join("usr/bin").join(NAME));
    command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
    for place in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.arg("-L").arg(root.join(place));
    }
    Ok(command)
}
