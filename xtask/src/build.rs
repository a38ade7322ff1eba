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

/// Where the `segue` binary is once built: cargo puts all of a profile's into one directory, in whichever target
/// directory this program is.
pub(crate) fn binary(release: bool) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let target = own.parent().and_then(Path::parent).unwrap_or(Path::new("target"));
    target.join(if release { "release" } else { "debug" }).join("segue")
}

/// The cargo that started this program, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}
