//! `cargo xtask build`: the agent with its kernel programs. Tests build for themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::{setup, workspace};

/// What to build.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build with optimisations.
    #[arg(long)]
    release: bool,
}

/// Builds the `segue` binary, after installing what building needs.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    setup::toolchain()?;
    segue(arguments.release)
}

/// Builds the `segue` binary into the workspace's target directory.
pub(crate) fn segue(release: bool) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["build", "--package", "segue-agent", "--bin", "segue"]);
    if release {
        command.arg("--release");
    }
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("building segue failed");
    }
    Ok(())
}

/// The tests that upgrade to another build.
const UPGRADE_TESTS: [&str; 2] = [
    "soak::what_two_builds_have_in_common_survives_upgrades_and_downgrades",
    "crash::killed_at_any_call_of_an_upgrade_to_other_layouts_nobody_notices",
];

/// Builds what the kernel tier runs beside its own directory, where only tests are run whose names contain one of these; all
/// where there is none. The second build takes as long as the first, so it is made only for who wants it.
pub(crate) fn for_kernel_tier<'a>(mut filters: impl Iterator<Item = &'a str> + Clone) -> anyhow::Result<()> {
    let upgrades = |filter: &str| UPGRADE_TESTS.iter().any(|test| test.contains(filter));
    if filters.clone().next().is_none() || filters.any(upgrades) {
        segue_and_other_layouts()
    } else {
        segue(false)
    }
}

/// Builds `segue` with other layouts of some maps, which tests of upgrades upgrade to, and puts it beside the ordinary one,
/// as `segue-other-layouts`. Then the ordinary one is built, which cargo puts into the same place.
fn segue_and_other_layouts() -> anyhow::Result<()> {
    let arguments =
        ["build", "--package", "segue-agent", "--bin", "segue", "--features", "segue-agent/other-layouts"];
    if !cargo().args(arguments).status().context("cannot run cargo")?.success() {
        bail!("building segue with other layouts failed");
    }
    let built = binary(false);
    let kept = built.with_file_name("segue-other-layouts");
    let _ = std::fs::remove_file(&kept);
    std::fs::rename(&built, &kept).with_context(|| format!("cannot make {}", kept.display()))?;
    segue(false)
}

/// Which binary an image or a package carries.
#[derive(clap::Args)]
pub(crate) struct Carried {
    /// Take this one, which must need no other file, instead of building it.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl Carried {
    /// Where it is, once it is built. It needs no other file.
    pub(crate) fn binary(&self) -> anyhow::Result<PathBuf> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => {
                setup::toolchain()?;
                standalone()?
            }
        };
        if wants_a_loader(&std::fs::read(&binary).with_context(|| format!("no {}", binary.display()))?) {
            bail!("{} is linked to shared libraries, which are not where it will run", binary.display());
        }
        Ok(binary)
    }
}

/// Builds a `segue` that needs no other file, for images and packages, and says where it is.
fn standalone() -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cargo();
    command.args([
        "build",
        "--package",
        "segue-agent",
        "--bin",
        "segue",
        "--profile",
        "dist",
        "--target",
        &target,
    ]);
    // With a target named, this is not meant for build scripts and macros.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    if !command.status().context("cannot run cargo")?.success() {
        bail!(
            "building a segue without shared libraries failed; is the C library there as an archive (libc6-dev)?"
        );
    }
    Ok(target_directory().join(target).join("dist/segue"))
}

/// The time of the newest commit, in seconds since 1970: what is built of it says that it is so old, whenever it was built.
pub(crate) fn commit_time() -> String {
    let mut git = Command::new("git");
    let output = git.current_dir(workspace()).args(["log", "-1", "--format=%ct"]).output();
    let said =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    // In a tree without its history: the beginning of the year 2026.
    if said.parse::<u64>().is_ok() { said } else { "1767225600".into() }
}

/// Whether an ELF file (64 bits, little-endian) names a program that must load it, as every one with shared libraries does.
fn wants_a_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at + bytes).unwrap_or_default();
        field.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
    };
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX / 4);
    // e_phoff, e_phentsize and e_phnum of elf(5); p_type is the first field of each.
    let (table, size, count) = (index(number(32, 8)), index(number(54, 2)), number(56, 2));
    (0..index(count)).any(|header| number(table + header * size, 4) == PT_INTERP)
}

/// Where the `segue` binary is once built: cargo puts all of a profile's into one directory, in whichever target
/// directory this program is.
pub(crate) fn binary(release: bool) -> PathBuf {
    target_directory().join(if release { "release" } else { "debug" }).join("segue")
}

/// Cargo's target directory, in which this program is.
pub(crate) fn target_directory() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().and_then(Path::parent).unwrap_or(Path::new("target")).to_owned()
}

/// The cargo that started this program, in the workspace.
///
/// Without what it says to this program of itself (`CARGO_PKG_…`, `CARGO_MANIFEST_…`): build scripts of dependencies ask to
/// be run again when those change, and everything would be built anew with each turn from here to a shell's own cargo.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_shared_libraries_is_told_from_one_without() {
        // This one has them; an image of a file that is none wants nothing.
        assert!(wants_a_loader(&std::fs::read("/proc/self/exe").unwrap()));
        assert!(!wants_a_loader(&[]));
        let mut header = vec![0; 64 + 56];
        header[32] = 64;
        header[54] = 56;
        header[56] = 1;
        header[64] = 1;
        assert!(!wants_a_loader(&header));
        header[64] = 3;
        assert!(wants_a_loader(&header));
    }
}
