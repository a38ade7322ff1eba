//! `cargo xtask faults`: what can go wrong on a node, done on purpose, and whether the stated outcome held. The tests are
//! those of the kernel tier; what they do is not known here.

mod list;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{build, host, setup, vm, workspace};
use list::{FAULTS, Fault};

/// Which faults, and how to tell.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only faults whose name contains one of these.
    names: Vec<String>,
    /// Only say what there is.
    #[arg(long)]
    list: bool,
    /// Longer forms: a stop lasts a minute, restarts and upgrades go over so many cycles.
    #[arg(long, value_name = "CYCLES", num_args = 0..=1, default_missing_value = "20")]
    long: Option<u32>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What became of one fault.
struct Verdict {
    fault: &'static Fault,
    /// `None`: the test did not run.
    held: Option<bool>,
    seconds: f64,
    /// The first words of what went wrong.
    reason: Option<String>,
}

/// Does them one after the other, each with the machine for itself. An error where an outcome did not hold.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = chosen(&arguments.names)?;
    if arguments.list {
        let rows = wanted.iter().map(|fault| Verdict { fault, held: None, seconds: 0.0, reason: None });
        print(&rows.collect::<Vec<_>>(), arguments.output)?;
        return Ok(());
    }
    host::check_ebpf()?;
    setup::for_tests(true)?;
    build::for_kernel_tier(wanted.iter().map(|fault| fault.test))?;
    let tests = build_tests()?;
    let mut verdicts = Vec::new();
    for fault in wanted {
        let verdict = happen(&tests, fault, arguments.long)?;
        let word = if verdict.held == Some(true) { "held" } else { "did NOT hold" };
        eprintln!("{}: {word} ({:.1} s)", fault.name, verdict.seconds);
        verdicts.push(verdict);
    }
    print(&verdicts, arguments.output)?;
    let failed = verdicts.iter().filter(|verdict| verdict.held != Some(true)).count();
    if failed > 0 {
        bail!("{failed} of {} outcomes did not hold", verdicts.len());
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Fault>> {
    if let Some(stranger) = names.iter().find(|name| FAULTS.iter().all(|fault| !fault.name.contains(*name))) {
        bail!("there is no fault `{stranger}`; `cargo xtask faults --list` names them all");
    }
    let is_wanted = |fault: &&Fault| names.is_empty() || names.iter().any(|name| fault.name.contains(name));
    Ok(FAULTS.iter().filter(is_wanted).collect())
}

fn build_tests() -> anyhow::Result<PathBuf> {
    let mut command = build::cargo();
    command
        .args(["test", "--no-run", "--quiet", "--package", "segue-tests", "--test", "kernel"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("building the kernel tier failed");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    vm::executable(&text, "kernel").context("cargo names no program of the kernel tier")
}

fn happen(tests: &Path, fault: &'static Fault, long: Option<u32>) -> anyhow::Result<Verdict> {
    let begin = Instant::now();
    let mut command = Command::new(tests);
    command.args(["--include-ignored", "--exact", fault.test]).current_dir(workspace().join("tests"));
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    if let Some(cycles) = long {
        command.env("SEGUE_LONG_FAULTS", "1").env("SEGUE_SOAK", cycles.to_string());
    }
    let output = command.output().with_context(|| format!("cannot run {}", tests.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = said.contains("running 1 test");
    let held = ran.then(|| output.status.success());
    let reason = match held {
        Some(true) => None,
        Some(false) => Some(reason(&said)),
        None => Some(format!("there is no test {}", fault.test)),
    };
    Ok(Verdict { fault, held, seconds: begin.elapsed().as_secs_f64(), reason })
}

/// What a test that failed says first: a few lines after the place of its panic.
fn reason(said: &str) -> String {
    let lines = said.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    let told = lines.take_while(|line| !line.starts_with("note:")).map(str::trim).take(3);
    let told: Vec<&str> = told.filter(|line| !line.is_empty()).collect();
    if told.is_empty() { "it ended without a word".to_owned() } else { told.join("; ") }
}

fn print(verdicts: &[Verdict], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&as_json(verdicts))?),
        Format::Table => print!("{}", as_table(verdicts)),
    }
    Ok(())
}

fn as_json(verdicts: &[Verdict]) -> Value {
    let faults = verdicts.iter().map(|verdict| {
        let Fault { name, happens, outcome, clients, test } = verdict.fault;
        json!({
            "name": name, "fault": happens, "outcome": outcome, "clients_see": clients, "test": test,
            "held": verdict.held, "seconds": (verdict.seconds * 10.0).round() / 10.0, "reason": verdict.reason,
        })
    });
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({ "kernel": kernel.trim(), "faults": faults.collect::<Vec<_>>() })
}

fn as_table(verdicts: &[Verdict]) -> String {
    let width = verdicts.iter().map(|verdict| verdict.fault.name.len()).max().unwrap_or_default().max(5);
    let mut text = format!("{:width$}  {:4}  {:>5}  {}\n", "FAULT", "HELD", "TIME", "STATED OUTCOME");
    for Verdict { fault, held, seconds, reason } in verdicts {
        let (word, time) = match held {
            Some(true) => ("yes", format!("{seconds:.0} s")),
            Some(false) => ("NO", format!("{seconds:.0} s")),
            None => ("-", "-".to_owned()),
        };
        let line = format!("{:width$}  {word:4}  {time:>5}  {}", fault.name, fault.outcome);
        text.push_str(line.trim_end());
        text.push('\n');
        if let Some(reason) = reason {
            text.push_str(&format!("{:width$}               {reason} ({})\n", "", fault.test));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(path: &str) -> String {
        let path = workspace().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn every_fault_has_a_name_of_its_own_and_a_test_of_the_kernel_tier() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
        for fault in FAULTS {
            let (module, test) = fault.test.split_once("::").expect("a module and a test");
            let source = read(&format!("tests/tests/kernel/{module}.rs"));
            assert!(source.contains(&format!("fn {test}()")), "{module} has no test {test}");
        }
    }

    #[test]
    fn the_documentation_says_the_same() {
        let documented = read("docs/faults.md");
        for Fault { happens, outcome, clients, test, .. } in FAULTS {
            let test = test.split_once("::").map_or(*test, |(_, test)| test);
            let row = format!("| {happens} | {outcome} | {clients} | `{test}` |\n");
            assert!(documented.contains(&row), "docs/faults.md lacks this row:\n{row}");
        }
    }

    #[test]
    fn part_of_a_name_is_enough_and_a_wrong_one_is_told() {
        let chosen = chosen(&["mass-deletion".to_owned(), "hairpin".to_owned()]).expect("known names");
        assert_eq!(chosen.len(), 4);
        assert!(super::chosen(&["no-such-fault".to_owned()]).is_err());
        assert_eq!(super::chosen(&[]).expect("all").len(), FAULTS.len());
    }

    #[test]
    fn what_held_and_what_did_not_is_told_with_the_reason() {
        let verdict = |index: usize, held, reason: Option<&str>| Verdict {
            fault: &FAULTS[index],
            held,
            seconds: 2.04,
            reason: reason.map(str::to_owned),
        };
        let said = "thread 'x' panicked at a.rs:1:2:\nassertion failed: it held\nnote: run\n";
        let verdicts = [verdict(0, Some(true), None), verdict(8, Some(false), Some(&reason(said)))];
        let table = as_table(&verdicts);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("agent-stopped  yes     2 s  Nothing is lost"), "{table}");
        assert!(lines[2].starts_with("two-agents     NO      2 s  It refuses"), "{table}");
        assert!(lines[3].trim_start().starts_with("assertion failed: it held (restart::"), "{table}");
        let json = as_json(&verdicts);
        assert_eq!((&json["faults"][0]["held"], &json["faults"][1]["held"]), (&json!(true), &json!(false)));
        assert_eq!(json["faults"][0]["seconds"], 2.0);
    }
}
