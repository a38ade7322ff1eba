//! What the scheduler is told, so that it is not what is measured: which CPU a process keeps to, and that what is
//! measured comes before what else a machine does.

use std::{fs, io};

/// As a nice value.
const HIGHEST_PRIORITY: i32 = -20;

/// The group of this process's session.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Pins a process or thread; 0 is the calling one.
pub(super) fn pin(id: u32, cpu: usize) -> io::Result<()> {
    let id = libc::pid_t::try_from(id).map_err(io::Error::other)?;
    // SAFETY: all-zero is an empty set; the set outlives the calls, and its size is told.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// While it lives, this process and those it starts come before all others. On a machine that is busy otherwise, a
/// system of four processes would get twice the time of one of two, and look better for it.
pub(super) struct Precedence {
    /// What the session's group had, where the scheduler groups by session.
    session: Option<String>,
}

impl Precedence {
    /// Takes it, where that is allowed; else says so, and the machine had better be idle.
    pub(super) fn take_or_warn() -> Option<Self> {
        let precedence = Self::take();
        if let Err(error) = &precedence {
            eprintln!("warning: cannot come before other work on this machine: {error}");
        }
        precedence.ok()
    }

    fn take() -> io::Result<Self> {
        set_priority(HIGHEST_PRIORITY)?;
        // `/autogroup-12 nice 0`. Where it exists, the value of a process counts within its session alone.
        let session = fs::read_to_string(AUTOGROUP).ok();
        let session = session.and_then(|text| text.trim().rsplit(' ').next().map(str::to_owned));
        if session.is_some() {
            give_back_when_ended();
            fs::write(AUTOGROUP, HIGHEST_PRIORITY.to_string())?;
        }
        Ok(Self { session })
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        let _ = set_priority(0);
        if let Some(before) = &self.session
            && let Err(error) = fs::write(AUTOGROUP, before)
        {
            eprintln!(
                "warning: this session keeps coming before others, {AUTOGROUP} cannot be written: {error}"
            );
        }
    }
}

/// A session outlives a benchmark that is interrupted, and must not come before all others for good.
fn give_back_when_ended() {
    extern "C" fn give_back(signal: libc::c_int) {
        // SAFETY: open, write, signal and raise may be called in a handler of signals, and the strings are constants.
        unsafe {
            let fd = libc::open(c"/proc/self/autogroup".as_ptr(), libc::O_WRONLY);
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = give_back;
        // SAFETY: the handler makes only calls that a handler may make.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

fn set_priority(nice: i32) -> io::Result<()> {
    // SAFETY: a plain system call on this process.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_pinned_to_a_cpu_there_is() {
        std::thread::spawn(|| {
            // The first CPU may be one this process is kept from; then the kernel says so.
            if let Err(error) = pin(0, 0) {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
            }
            assert!(pin(0, 100_000).is_err());
        })
        .join()
        .unwrap();
    }
}
