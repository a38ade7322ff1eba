//! `cargo xtask test`: runs the test tiers and the checks, and sums up. What is tested is not known here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::{build, host, manifests, setup, tidy, vm, workspace};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run this tier only.
    #[arg(long, value_enum, default_value_t = Tier::All)]
    tier: Tier,
    /// Run only tests whose name contains this, and no lints.
    filter: Option<String>,
}

/// The tiers, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// No privileges.
    Unit,
    /// No privileges, fake maps with injected faults.
    Scenario,
    /// Root: real programs in a scratch cgroup and a network namespace.
    Kernel,
    /// The kernels of the matrix, emulated: every program loads, an agent works.
    Vm,
    /// clippy, rustfmt, tidy, and the manifests against the chart.
    Lint,
    /// All of them.
    All,
}

/// How the tests of one or more tiers ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    /// Tests that did not run, with the reason where one is given. Those that belong to another tier, and
    /// measurements, are not among them.
    skipped: Vec<String>,
}

impl Tally {
    fn of_check(name: &str, ok: bool) -> Self {
        if !ok {
            eprintln!("{name} failed");
        }
        Self { passed: usize::from(ok), failed: usize::from(!ok), skipped: Vec::new() }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    /// Takes in one line of a test program's output. Returns whether a person wants to see it.
    fn read_line(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            for part in counts.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let Some(count) = words.next().and_then(|word| word.parse::<usize>().ok()) else { continue };
                match words.next() {
                    Some("passed") => self.passed += count,
                    Some("failed") => self.failed += count,
                    _ => {}
                }
            }
            return !counts.starts_with("ok");
        }
        if let Some(test) = line.strip_prefix("test ") {
            if let Some((name, reason)) = test.split_once(" ... ignored") {
                let reason = reason.trim_start_matches(", ").trim_start_matches("a ");
                if !reason.starts_with("kernel tier") && !reason.starts_with("measurement") {
                    self.skipped.push(format!("{name}: {reason}"));
                }
                return false;
            }
            return !test.ends_with(" ... ok");
        }
        !line.is_empty() && !line.starts_with("running ")
    }
}

/// Runs the tiers asked for. An error if anything failed, or was skipped where `CI` is set.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = |tier| arguments.tier == tier || arguments.tier == Tier::All;
    setup::for_tests(wanted(Tier::Kernel))?;
    let filter = arguments.filter.as_deref();
    let mut total = Tally::default();
    if wanted(Tier::Unit) {
        total.add(tier("unit", || {
            let mut tally = cargo_test(&["--workspace", "--lib", "--bins"], filter, false)?;
            tally.add(cargo_test(&["--package", "segue-tests", "--test", "fuzz"], filter, false)?);
            Ok(tally)
        })?);
    }
    if wanted(Tier::Scenario) {
        total.add(tier("scenario", || {
            cargo_test(&["--package", "segue-tests", "--test", "scenarios"], filter, false)
        })?);
    }
    if wanted(Tier::Kernel) {
        total.add(tier("kernel", || kernel(filter))?);
    }
    if wanted(Tier::Vm) && filter.is_none() {
        total.add(tier("vm", other_kernels)?);
    }
    if wanted(Tier::Lint) && filter.is_none() {
        total.add(tier("lint", lint)?);
    }
    conclude(&total, is_ci())
}

/// `CI` is set to anything but nothing or `false`.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

/// Prints the summary, the last line of which is `N passed, N failed`.
fn conclude(total: &Tally, skips_fail: bool) -> anyhow::Result<()> {
    for skipped in &total.skipped {
        println!("skipped: {skipped}");
    }
    let failed = total.failed + if skips_fail { total.skipped.len() } else { 0 };
    println!("{} passed, {failed} failed", total.passed);
    if total.passed == 0 && failed == 0 {
        bail!("no test has run; is there one of that name?");
    }
    if failed > 0 && total.failed == 0 {
        bail!("tests were skipped, which counts as failed where CI is set");
    }
    if failed > 0 {
        bail!("there were failures");
    }
    Ok(())
}

fn tier(name: &str, run: impl FnOnce() -> anyhow::Result<Tally>) -> anyhow::Result<Tally> {
    let begin = Instant::now();
    let tally = run()?;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{name:<9} {:>5} passed {:>3} failed {:>3} skipped  {seconds:>6.1} s",
        tally.passed,
        tally.failed,
        tally.skipped.len()
    );
    Ok(tally)
}

/// The kernel tests run the `segue` binaries beside their own directory, so they are built first.
fn kernel(filter: Option<&str>) -> anyhow::Result<Tally> {
    if let Err(reason) = host::check_ebpf() {
        return Ok(Tally { skipped: vec![format!("the kernel tier: {reason:#}")], ..Tally::default() });
    }
    build::for_kernel_tier(filter.into_iter())?;
    let targets = kernel_targets()?;
    if targets.is_empty() {
        return Ok(Tally { skipped: vec!["the kernel tier: it has no tests".into()], ..Tally::default() });
    }
    let mut arguments = vec!["--package", "segue-tests"];
    targets.iter().for_each(|target| arguments.extend(["--test", target]));
    cargo_test(&arguments, filter, true)
}

/// The short form of `cargo xtask vm`.
fn other_kernels() -> anyhow::Result<Tally> {
    if let Some(obstacle) = vm::obstacle() {
        return Ok(Tally { skipped: vec![format!("the vm tier: {obstacle}")], ..Tally::default() });
    }
    let (passed, problems) = vm::short()?;
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    Ok(Tally { passed, failed: problems.len(), skipped: Vec::new() })
}

/// The test targets of the tests package besides those of other tiers.
fn kernel_targets() -> anyhow::Result<Vec<String>> {
    let directory = workspace().join("tests/tests");
    let mut targets = Vec::new();
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(targets) };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        let is_target =
            path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").is_file();
        if let (true, Some(name)) = (is_target, path.file_stem().and_then(|name| name.to_str()))
            && !["scenarios", "fuzz"].contains(&name)
        {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

fn cargo_test(arguments: &[&str], filter: Option<&str>, include_ignored: bool) -> anyhow::Result<Tally> {
    let mut command = build::cargo();
    command.args(["test", "--quiet", "--no-fail-fast"]).args(arguments).arg("--");
    command.arg("--format=pretty").args(filter);
    if include_ignored {
        command.arg("--include-ignored");
    }
    let (mut tally, ok) = tally_of(&mut command)?;
    if !ok && tally.failed == 0 {
        eprintln!("`cargo test {}` ended badly without naming a test", arguments.join(" "));
        tally.failed = 1;
    }
    Ok(tally)
}

/// Runs a test command, showing what a person wants to see of its output.
fn tally_of(command: &mut Command) -> anyhow::Result<(Tally, bool)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read cargo's output")?;
        let line = String::from_utf8_lossy(&line);
        if tally.read_line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    Ok((tally, status.success()))
}

/// Whether a check passed; says why not.
fn told(result: anyhow::Result<()>) -> bool {
    result.inspect_err(|error| eprintln!("{error:#}")).is_ok()
}

fn lint() -> anyhow::Result<Tally> {
    let check = |name: &str, arguments: &[&str]| -> anyhow::Result<Tally> {
        let status = build::cargo().args(arguments).status().context("cannot run cargo")?;
        Ok(Tally::of_check(name, status.success()))
    };
    let mut total =
        check("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    total.add(check("rustfmt", &["fmt", "--all", "--", "--check"])?);
    total.add(Tally::of_check("tidy", tidy::check(&workspace())?));
    total.add(match manifests::tools() {
        Ok(tools) => Tally::of_check("manifests", told(manifests::check(&tools))),
        Err(error) => Tally { skipped: vec![format!("the manifests: {error:#}")], ..Tally::default() },
    });
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Tally, Vec<&str>) {
        let mut tally = Tally::default();
        let shown = output.lines().filter(|line| tally.read_line(line)).collect();
        (tally, shown)
    }

    #[test]
    fn results_of_several_test_programs_add_up() {
        let (tally, shown) = read(
            "\nrunning 2 tests\ntest a::b ... ok\ntest a::c ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             running 2 tests\ntest d ... ok\ntest e ... FAILED\n\nfailures:\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!((tally.passed, tally.failed), (3, 1));
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown.contains(&"test e ... FAILED"));
    }

    #[test]
    fn an_ignored_test_is_a_skip_unless_another_tier_or_a_measurement_is_its_place() {
        let (tally, _) = read(
            "test a ... ignored, kernel tier: needs root\n\
             test b ... ignored, a measurement: run it in release\n\
             test c ... ignored, broken\n\
             test d ... ignored\n",
        );
        assert_eq!(tally.skipped, ["c: broken", "d: "]);
    }

    #[test]
    fn a_skip_fails_only_under_ci() {
        let tally = Tally { passed: 1, failed: 0, skipped: vec!["a: broken".into()] };
        assert!(conclude(&tally, false).is_ok());
        assert!(conclude(&tally, true).is_err());
    }

    #[test]
    fn a_failure_fails_and_so_does_running_nothing() {
        assert!(conclude(&Tally { passed: 9, failed: 1, skipped: Vec::new() }, false).is_err());
        assert!(conclude(&Tally::default(), false).is_err());
        assert!(conclude(&Tally { passed: 9, failed: 0, skipped: Vec::new() }, true).is_ok());
    }
}
