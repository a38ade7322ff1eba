//! `cargo xtask soak`: the kernel tier's tests of restarts, upgrades and crashes, in their long form. What they do is
//! not known here.

use std::process::Stdio;

use anyhow::{Context, bail};

use crate::{build, host, setup};

/// How long to soak.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often agents are ended and started, and replaced by ones with other layouts.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cycles: u32,
    /// Only tests whose name contains this: soak::, crash::
    filter: Option<String>,
}

/// Runs them one after the other, so that each has the machine for itself.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host::check_ebpf()?;
    setup::for_tests(true)?;
    let step = |packages: &[&str]| -> anyhow::Result<()> {
        let status = build::cargo().args(packages).status().context("cannot run cargo")?;
        if status.success() { Ok(()) } else { bail!("the build failed") }
    };
    // `soak::` and `crash::` where nothing else is said.
    build::for_kernel_tier(arguments.filter.as_deref().into_iter())?;
    step(&["build", "--quiet", "--package", "segue-tests"])?;
    eprintln!("about {} minutes; what fails says so at once", 12 + arguments.cycles / 8);
    let mut command = build::cargo();
    command.args(["test", "--quiet", "--package", "segue-tests", "--test", "kernel", "--"]);
    command.args(["--include-ignored", "--test-threads", "1", "--nocapture"]);
    match arguments.filter.as_deref() {
        Some(filter) => command.arg(filter),
        None => command.args(["soak::", "crash::"]),
    };
    command.env("SEGUE_SOAK", arguments.cycles.to_string()).stdin(Stdio::null());
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("a test failed");
    }
    Ok(())
}
