//! `cargo xtask bench churn`: how long a changed endpoint takes into the kernel's maps while many others change. Knows
//! nothing of maps: an example of the tests' package measures with the agent's own library.

use std::process::Stdio;

use anyhow::{Context, bail};

use super::{Output, Row, print};
use crate::{build, host, setup};

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
    let (rate, seconds) = (arguments.rate.to_string(), arguments.seconds.to_string());
    let mut command = build::cargo();
    command.args(["run", "--quiet", "--release", "--package", "segue-tests", "--example", "churn"]);
    command.args(["--", &rate, &seconds]).stderr(Stdio::inherit());
    eprintln!("measuring: {rate} changes a second for {seconds} s, after a release build");
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    let samples: Vec<f64> =
        serde_json::from_slice(&output.stdout).context("the measurement printed something else")?;
    let group = "from desired to the kernel, 10 000 services of 10 backends";
    let row = Row::new(group, format!("{rate} changes/s"), "ms", &samples).with_p99(&samples);
    print(&[row], arguments.output);
    Ok(())
}
