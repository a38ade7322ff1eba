//! A process we started: its log, its end. It ends with the value.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

/// How long a process may take to end when asked to.
const GRACE: Duration = Duration::from_secs(3);

/// Lines of a log that are shown when something went wrong.
const SHOWN_LINES: usize = 20;

/// A running process whose output goes to a file.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output (but for a piped stdout) in `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        Self::start_with_input(name, command.stdin(Stdio::null()), log)
    }

    /// The same, with the input that the command has.
    pub(crate) fn start_with_input(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        let child = command.stderr(file).spawn();
        let child = child.with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe of its output, once, if the command had one.
    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The pipe to its input, if the command had one.
    pub(crate) fn input(&mut self) -> Option<&mut std::process::ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .with_context(|| format!("cannot kill {}", self.name))?;
        Ok(())
    }

    /// The end of its log, for a message.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Waits until `done`, at most `limit`. An error with the end of the log if the process ends first or the
    /// time is up, and the error of `done`.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !done()? {
            if let Some(status) = self.ended() {
                anyhow::bail!("{} ended ({status}) before {what}; its log:\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                anyhow::bail!("{}: not {what} within {limit:?}; its log:\n{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn terminate(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        // SAFETY: a plain system call; the child was not waited for, so its id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("warning: cannot end {} (process {}): {error}", self.name, self.child.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, log: &Path) -> Process {
        Process::start("sh", Command::new("sh").args(["-c", script]), log).unwrap()
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let directory = tempfile::tempdir().unwrap();
        let process = start("sleep 60", &directory.path().join("log"));
        let proc = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }

    #[test]
    fn a_process_that_ends_too_early_shows_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = start("echo no such device >&2; exit 3", &directory.path().join("log"));
        let error =
            process.wait_until("ready", Duration::from_secs(10), || Ok(false)).unwrap_err().to_string();
        assert!(error.contains("no such device") && error.contains("exit status: 3"), "{error}");
    }
}
