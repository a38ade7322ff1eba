//! One command of another program, as something to run with a progress line or to print. It does not know what
//! any command is for.

use std::fmt;
use std::io::{Write, stderr};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

/// Lines of a failed command's output that are shown.
const SHOWN_LINES: usize = 40;

/// A command with what to say while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it does, as in `installing bpf-linker`.
    pub(crate) what: String,
    /// How long it takes, as in `about a minute`; empty for short ones.
    pub(crate) takes: &'static str,
    /// Whether only root may do it.
    pub(crate) needs_root: bool,
    /// Environment variables.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
}

impl Step {
    /// A step without environment variables that anyone may run; `words` are split at spaces.
    pub(crate) fn new(what: impl Into<String>, takes: &'static str, words: &str) -> Self {
        Self {
            what: what.into(),
            takes,
            needs_root: false,
            environment: Vec::new(),
            words: words.split_whitespace().map(String::from).collect(),
        }
    }

    /// The same, for root only.
    pub(crate) fn needing_root(mut self) -> Self {
        self.needs_root = true;
        self
    }

    /// The same, with an environment variable.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Runs it and says so on one line of stderr. What the command prints is shown only if it fails.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let takes = if self.takes.is_empty() { String::new() } else { format!(" ({})", self.takes) };
        eprint!("{}{takes}…", self.what);
        stderr().flush().context("stderr is closed")?;
        let begin = Instant::now();
        let result = self.output();
        let seconds = begin.elapsed().as_secs_f64();
        eprintln!(" {} ({seconds:.1} s)", if result.is_ok() { "done" } else { "failed" });
        result
    }

    fn output(&self) -> anyhow::Result<()> {
        let (program, arguments) = self.words.split_first().context("a step without a command")?;
        let output = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run `{self}`"))?;
        if output.status.success() {
            return Ok(());
        }
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        bail!("`{self}` failed ({}):\n{shown}", output.status)
    }
}

impl fmt::Display for Step {
    /// The line to type into a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={value} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_the_shell_line_that_does_the_same() {
        let step = Step::new("building", "", "cargo build  --release").with("RUSTC", "/usr/bin/rustc");
        assert_eq!(step.to_string(), "RUSTC=/usr/bin/rustc cargo build --release");
    }

    #[test]
    fn a_failed_step_shows_what_the_command_printed() {
        let step = Step::new("looking", "", "ls /nonexistent/file");
        let message = format!("{:#}", step.run().unwrap_err());
        assert!(message.contains("ls /nonexistent/file` failed"), "{message}");
        assert!(message.contains("No such file"), "{message}");
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let message = format!("{:#}", Step::new("x", "", "no-such-program-here").run().unwrap_err());
        assert!(message.contains("cannot run `no-such-program-here`"), "{message}");
    }
}
