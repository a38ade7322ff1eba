//! `cargo xtask bench churn`: how long a changed endpoint takes into the kernel's maps while many others change. Knows
//! nothing of maps: an example of the tests' package measures with the agent's own library.

use std::process::Stdio;

use anyhow::{Context, bail};

use super::{Output, Row, print};
use crate::{build, host, setup};

/// As many as Segue is built for.
const SERVICES: u32 = 10_000;

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Changed endpoints per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host::check_ebpf()?;
    setup::for_tests(true)?;
    eprintln!("measuring: {} changes a second for {} s", arguments.rate, arguments.seconds);
    let samples = samples_ms(arguments.rate, arguments.seconds, SERVICES)?;
    let group = "from desired to the kernel, 10 000 services of 10 backends";
    let row = Row::new(group, format!("{} changes/s", arguments.rate), "ms", &samples).with_p99(&samples);
    print(&[row], arguments.output);
    Ok(())
}

/// Builds what measures.
pub(super) fn build() -> anyhow::Result<()> {
    let mut command = build::cargo();
    command.args(["build", "--quiet", "--release", "--package", "segue-tests", "--example", "churn"]);
    if !command.status().context("cannot run cargo")?.success() {
        bail!("building the measurement failed");
    }
    Ok(())
}

/// How long each change took from when it was due until the maps held it, among so many services of 10 backends;
/// after a release build.
pub(super) fn samples_ms(rate: u32, seconds: u32, services: u32) -> anyhow::Result<Vec<f64>> {
    let mut command = build::cargo();
    command.args(["run", "--quiet", "--release", "--package", "segue-tests", "--example", "churn", "--"]);
    command.args([rate, seconds, services].map(|number| number.to_string())).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    serde_json::from_slice(&output.stdout).context("the measurement printed something else")
}
