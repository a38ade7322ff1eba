//! `cargo xtask fuzz`: the long form of the fuzz targets. Their short form is part of `cargo xtask test`. What a target
//! does is not known here.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::{build, host};

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// This target only.
    #[arg(value_enum)]
    target: Option<Target>,
    /// How long each target runs, as in `90s`, `5m` or `8h`.
    #[arg(long = "for", value_parser = duration, default_value = "1m")]
    time: Duration,
    /// Runs the short form from this seed instead, to see a failure again.
    #[arg(long)]
    seed: Option<u64>,
}

/// What can be fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The configuration file.
    Config,
    /// Requests to the admin API.
    Admin,
    /// Records of the event ring.
    Ring,
    /// Maps found at the start.
    Adopt,
    /// Paths of cgroups.
    Cgroups,
    /// Labels of metrics.
    Exposition,
    /// Objects of a Kubernetes cluster.
    Kubernetes,
    /// Socket calls to services against the same calls to their backends. Needs root.
    Sockets,
}

impl Target {
    /// The test target of `segue-tests`, and the module in it.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Config => ("fuzz", "config::"),
            Self::Admin => ("fuzz", "admin::"),
            Self::Ring => ("fuzz", "ring::"),
            Self::Adopt => ("fuzz", "adopt::"),
            Self::Cgroups => ("fuzz", "cgroups::"),
            Self::Exposition => ("fuzz", "exposition::"),
            Self::Kubernetes => ("fuzz", "kubernetes::"),
            Self::Sockets => ("kernel", "differential::"),
        }
    }
}

/// Runs the targets one after the other. An error if one found something.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let targets = arguments.target.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    let mut found = Vec::new();
    for target in targets {
        if target == Target::Sockets {
            host::check_ebpf().context("sockets are compared on a real kernel")?;
            build::segue(false)?;
        }
        if !run_one(target, arguments)? {
            found.push(format!("{target:?}").to_lowercase());
        }
    }
    if !found.is_empty() {
        bail!("something was found in: {}; add it to the target as a case of its own", found.join(", "));
    }
    Ok(())
}

fn run_one(target: Target, arguments: &Arguments) -> anyhow::Result<bool> {
    let (test, module) = target.place();
    let mut command = build::cargo();
    command.args(["test", "--quiet", "--package", "segue-tests", "--test", test, "--"]);
    command.args(["--include-ignored", "--nocapture", module]);
    match arguments.seed {
        Some(seed) => command.env("SEGUE_FUZZ_SEED", seed.to_string()),
        None => command.env("SEGUE_FUZZ_SECONDS", arguments.time.as_secs().to_string()),
    };
    Ok(command.status().context("cannot run cargo")?.success())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write 90s, 5m or 8h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    match number.checked_mul(factor) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("8h"), Ok(Duration::from_secs(28_800)));
        for wrong in ["", "5", "m", "0s", "-1s", "5 m", "5min", "é", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
