//! Has the kernel time program runs for a short while. Knows nothing of which programs there are.
//!
//! Timing takes `CAP_SYS_ADMIN` (`BPF_ENABLE_STATS`), which the agent shall not have. So a child does it, made before
//! the agent has a second thread: it keeps that one capability, may make a handful of system calls, and answers one question, "for
//! how long", with a limit. Where the capability is missing there is no child, and runs are not timed.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{bpf, privileges, seccomp};

/// The longest that the child times in one go, whoever asks.
const LONGEST: Duration = Duration::from_secs(2);
/// The unit of the question, a byte.
const UNIT: Duration = Duration::from_millis(100);
/// How much later than asked for the child may answer, on a busy host.
const PATIENCE: Duration = Duration::from_secs(3);

/// Times program runs on request.
#[derive(Debug)]
pub struct Stopwatch {
    child: libc::pid_t,
    line: OwnedFd,
}

/// Why runs were not timed.
#[derive(Debug, thiserror::Error)]
pub enum StopwatchError {
    /// The process that does it is gone, or does not answer.
    #[error("the process that times program runs does not answer: {0}; restart the agent")]
    Gone(#[source] io::Error),
    /// The kernel does not do it.
    #[error("the kernel does not time program runs: {0}; it takes Linux 5.8 and CAP_SYS_ADMIN")]
    Refused(#[source] io::Error),
}

impl Stopwatch {
    /// Starts the child, where this process may have runs timed; `None` where it may not.
    ///
    /// To be called while the process has one thread: what others hold at a fork stays held in the child.
    pub fn start() -> Option<Self> {
        if !privileges::may_time_runs() {
            return None;
        }
        Self::fork()
            .inspect_err(|error| tracing::warn!("program runs cannot be timed: {error}; is fork(2) refused?"))
            .ok()
    }

    fn fork() -> io::Result<Self> {
        let mut ends = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: writes two descriptors into an array of two.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both are new and nobody else's.
        let [line, theirs] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let limit =
            libc::timeval { tv_sec: i64::try_from((LONGEST + PATIENCE).as_secs()).unwrap_or(5), tv_usec: 0 };
        let size = libc::socklen_t::try_from(size_of::<libc::timeval>()).map_err(io::Error::other)?;
        // SAFETY: the option is read from a value of the size given.
        let set = unsafe {
            libc::setsockopt(
                line.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const limit).cast(),
                size,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes nothing.
        let parent = unsafe { libc::getpid() };
        // SAFETY: there is one thread, so the child finds every lock free; it ends in `serve`.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => serve(theirs.as_raw_fd(), parent),
            child => Ok(Self { child, line }),
        }
    }

    /// Has every program run on this host timed for so long, and returns when that is over.
    pub fn time(&mut self, window: Duration) -> Result<(), StopwatchError> {
        let units = window.min(LONGEST).as_millis().div_ceil(UNIT.as_millis());
        let question = [u8::try_from(units).unwrap_or(1)];
        // SAFETY: one byte, which is there.
        if unsafe { libc::send(self.line.as_raw_fd(), question.as_ptr().cast(), 1, libc::MSG_NOSIGNAL) } != 1
        {
            return Err(StopwatchError::Gone(io::Error::last_os_error()));
        }
        match self.answer()? {
            0 => Ok(()),
            errno => Err(StopwatchError::Refused(io::Error::from_raw_os_error(i32::from(errno)))),
        }
    }

    fn answer(&self) -> Result<u8, StopwatchError> {
        let mut answer = 0_u8;
        // SAFETY: room for one byte.
        match unsafe { libc::recv(self.line.as_raw_fd(), (&raw mut answer).cast(), 1, 0) } {
            1 => Ok(answer),
            0 => Err(StopwatchError::Gone(io::ErrorKind::BrokenPipe.into())),
            _ => Err(StopwatchError::Gone(io::Error::last_os_error())),
        }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not yet waited for, so the number is its own.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
        }
    }
}

/// What the child does until its parent is gone.
fn serve(line: libc::c_int, parent: libc::pid_t) -> ! {
    if confine(line, parent).is_ok() {
        loop {
            let mut units = 0_u8;
            // SAFETY: room for one byte.
            if unsafe { libc::read(line, (&raw mut units).cast(), 1) } != 1 {
                break;
            }
            let answer = time_here(UNIT * u32::from(units));
            // SAFETY: one byte, which is there.
            if unsafe { libc::write(line, (&raw const answer).cast(), 1) } != 1 {
                break;
            }
        }
    }
    // SAFETY: ends the process without running what the parent registered for its own end.
    unsafe { libc::_exit(0) }
}

fn confine(line: libc::c_int, parent: libc::pid_t) -> io::Result<()> {
    let highest = libc::c_uint::MAX;
    let line = line.cast_unsigned();
    // SAFETY: numbers and a static string; descriptors that nobody uses in this process any more are closed. Errors:
    // before 5.9 there is no close_range, and what is open this early are the standard streams.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"segue-stopwatch".as_ptr());
        if libc::getppid() != parent {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(below) = line.checked_sub(1) {
            libc::syscall(libc::SYS_close_range, 0, below, 0);
        }
        libc::syscall(libc::SYS_close_range, line + 1, highest, 0);
    }
    privileges::keep_to_time_runs()?;
    privileges::forbid_new_privileges()?;
    seccomp::confine_stopwatch()
}

/// Times runs for so long; 0, or the errno of the refusal.
fn time_here(window: Duration) -> u8 {
    match bpf::time_runs() {
        Ok(timing) => {
            std::thread::sleep(window.min(LONGEST));
            drop(timing);
            0
        }
        Err(error) => error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(u8::MAX),
    }
}
