//! Real programs inside a test's namespace and cgroup: run to their end or kept as daemons. Killed by pid.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::cgroup;
use crate::namespace::Handle;
use crate::wait::{eventually, patient};

/// How long a program that should end by itself may take.
const RUN_LIMIT: Duration = Duration::from_secs(20);

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a program that must have ended well.
    ///
    /// # Panics
    /// When it did not, with all it said.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// A running program, killed and reaped on drop.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Program {
    /// Starts `command` inside the namespace and the cgroup, its output going to unnamed files.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command, namespace: Handle, cgroup: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let stdout = tempfile::tempfile().expect("an unnamed file for output");
        let stderr = tempfile::tempfile().expect("an unnamed file for errors");
        command.stdout(stdout.try_clone().expect("a second descriptor"));
        command.stderr(stderr.try_clone().expect("a second descriptor"));
        if command.get_current_dir().is_none() {
            command.current_dir("/");
        }
        command.stdin(Stdio::null());
        let child = spawn_inside(&mut command, namespace, cgroup)
            .unwrap_or_else(|error| panic!("cannot start {name} (is it installed?): {error}"));
        Self { name, child, stdout, stderr }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of its children.
    ///
    /// # Panics
    /// When procfs does not tell.
    pub fn children(&self) -> Vec<libc::pid_t> {
        let pid = self.child.id();
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("procfs tells");
        list.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
    }

    /// What it said so far on both outputs.
    pub fn output(&self) -> String {
        format!("{}{}", content(&self.stdout), content(&self.stderr))
    }

    /// What it said so far on standard error.
    pub fn stderr(&self) -> String {
        content(&self.stderr)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes integers; the child is ours and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{} is gone", self.name);
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `limit`, with all it said.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + patient(limit);
        let name = self.name.clone();
        eventually(&format!("{name} to end"), limit + Duration::from_secs(1), || match self.ended() {
            Some(status) => Ok(status),
            None if Instant::now() < deadline => Err(String::new()),
            None => Err(format!("it said:\n{}", self.output())),
        })
    }

    /// Waits for its end and takes what it left.
    ///
    /// # Panics
    /// When it does not end within 20 s.
    pub fn finish(mut self) -> Finished {
        let status = self.wait(RUN_LIMIT);
        Finished { status, stdout: content(&self.stdout), stderr: content(&self.stderr) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} (pid {}) said:\n{}---", self.name, self.child.id(), self.output());
        }
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("{} (pid {}) could not be ended: {error}", self.name, self.child.id());
        }
    }
}

/// Starts a child that moves itself into the cgroup and the namespace and dies with the thread that started it.
///
/// # Errors
/// What the kernel says to the first step that fails.
pub fn spawn_inside(command: &mut Command, namespace: Handle, cgroup: &Path) -> std::io::Result<Child> {
    let entrance = cgroup::entrance(cgroup);
    let procs = entrance.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe calls are made: write, unshare, setns, prctl.
    unsafe {
        command.pre_exec(move || {
            if libc::write(procs, c"0".as_ptr().cast(), 1) != 1 {
                return Err(std::io::Error::last_os_error());
            }
            namespace.enter()?;
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Reads from the start without moving the position, which the program that writes shares.
fn content(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let read = file.read_at(&mut chunk, bytes.len() as u64).expect("output can be read");
        if read == 0 {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}
