//! `cargo xtask bench kubernetes`: the whole agent against an API server with as many Services and endpoints as Segue is
//! built for. Knows nothing of objects: an example of the tests' package measures.

use std::process::Stdio;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Output, Row, print};
use crate::{build, host, setup};

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Changed EndpointSlices per second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host::check_ebpf()?;
    setup::for_tests(true)?;
    build::segue(true)?;
    let (rate, seconds) = (arguments.rate.to_string(), arguments.seconds.to_string());
    let mut command = build::cargo();
    command.args(["run", "--quiet", "--release", "--package", "segue-tests", "--example", "kubernetes"]);
    command.args(["--", &rate, &seconds]).stderr(Stdio::inherit());
    eprintln!("measuring: {rate} changes a second for {seconds} s, after a release build");
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    let measured: Value =
        serde_json::from_slice(&output.stdout).context("the measurement printed something else")?;
    let number = |name: &str| measured[name].as_f64().with_context(|| format!("no {name}"));
    let samples: Vec<f64> =
        measured["change_ms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let group = "an API server, 10 000 Services of 10 endpoints";
    let mib = 1024.0 * 1024.0;
    let rows = [
        Row::new(group, "from the start of the agent to all of it in force", "s", &[number("ready_s")?]),
        Row::new(group, format!("from a changed slice to the kernel, {rate} changes/s"), "ms", &samples)
            .with_p99(&samples),
        Row::new(group, "resident memory", "MiB", &[number("resident_bytes")? / mib]),
        Row::new(group, "resident memory after the changes", "MiB", &[number("resident_after_bytes")? / mib]),
    ];
    print(&rows, arguments.output);
    Ok(())
}
