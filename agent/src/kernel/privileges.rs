//! What the process may do: the capabilities of each thread, and that no program it starts gets more. Knows nothing of
//! services and programs; which duty needs which capability is said here and nowhere else.
//!
//! Capabilities belong to a thread. The control thread loads the data plane with all it was given and keeps the few that
//! looking after it takes, switched off until they are used. Every other thread gives all of them up when it begins,
//! so that what answers requests, reads files and decodes events has none.

use std::io;

/// A capability (capabilities(7)) by its number in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    /// Its name, as in `CAP_BPF`.
    pub name: &'static str,
    /// What the agent needs it for, to be read after "to".
    pub purpose: &'static str,
}

const NET_ADMIN: Capability = Capability {
    number: 12,
    name: "CAP_NET_ADMIN",
    purpose: "load programs of the kinds that decide about connections, attach those that read packets, list those of others, and reset connections",
};
const SYS_PTRACE: Capability = Capability {
    number: 19,
    name: "CAP_SYS_PTRACE",
    purpose: "see the network namespaces of other processes, to reset connections there",
};
const SYS_ADMIN: Capability = Capability {
    number: 21,
    name: "CAP_SYS_ADMIN",
    purpose: "have the kernel time program runs, and enter network namespaces to reset connections there",
};
const PERFMON: Capability =
    Capability { number: 38, name: "CAP_PERFMON", purpose: "load programs that add to pointers" };
const BPF: Capability = Capability { number: 39, name: "CAP_BPF", purpose: "load programs and make maps" };

/// What loading takes. Without all of them nothing loads.
const TO_LOAD: [Capability; 3] = [BPF, NET_ADMIN, PERFMON];

/// What listing programs of others takes.
pub(super) const TO_LIST: Set = Set::NONE.with(NET_ADMIN);

/// What attaching programs that read packets takes, at any time; of the others the kernel asks nothing.
pub(super) const TO_ATTACH: Set = Set::NONE.with(NET_ADMIN);

/// What it takes to find and enter other network namespaces: both, so that one that was given for something else is
/// not kept.
const TO_ENTER: Set = Set::NONE.with(SYS_ADMIN).with(SYS_PTRACE);

/// What resetting connections takes.
pub(super) const TO_RESET: Set = Set::NONE.with(NET_ADMIN).or(TO_ENTER);

/// A set of capabilities; bit *k* is number *k*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    const NONE: Self = Self(0);

    const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.number)
    }

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What the control thread keeps of these for what it does now and then, in [`switched_on`]. An optional duty that
    /// takes more adds it here.
    fn now_and_then(self) -> Self {
        let always = self.and(TO_LIST);
        if self.and(TO_ENTER) == TO_ENTER { always.or(TO_ENTER) } else { always }
    }

    const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.number) != 0
    }
}

/// What a thread has: what it may use now, and what it may switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    effective: Set,
    permitted: Set,
}

/// `struct __user_cap_header_struct` of version 3; process 0 is the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`; the first of two holds the low halves.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

fn held() -> io::Result<Held> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 reads one header and writes two records of data, which are there.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let whole = |half: fn(&Data) -> u32| Set(u64::from(half(&data[0])) | u64::from(half(&data[1])) << 32);
    Ok(Held { effective: whole(|data| data.effective), permitted: whole(|data| data.permitted) })
}

fn hold(held: Held) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| {
        let low = |set: Set| u32::try_from((set.0 >> shift) & 0xffff_ffff).unwrap_or(0);
        Data { effective: low(held.effective), permitted: low(held.permitted), inheritable: 0 }
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two records of data, which are there.
    match unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps these of the calling thread's capabilities, switched on or only to be switched on, and no others.
fn keep(effective: Set, permitted: Set) -> io::Result<()> {
    let held = held()?;
    let permitted = held.permitted.and(permitted);
    hold(Held { effective: permitted.and(effective), permitted })
}

/// No program that this process starts from now on gets more rights than it has itself.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Of the capabilities that loading takes, those that this thread lacks.
pub(super) fn missing() -> Vec<Capability> {
    let held = held().map_or(Set::NONE, |held| held.effective);
    TO_LOAD.into_iter().filter(|&capability| !held.contains(capability)).collect()
}

/// Whether this thread may have the kernel time program runs.
pub(super) fn may_time_runs() -> bool {
    held().is_ok_and(|held| held.effective.contains(SYS_ADMIN))
}

/// Whether this thread may find and enter other network namespaces.
pub(super) fn may_enter_namespaces() -> bool {
    held().is_ok_and(|held| held.effective.and(TO_ENTER) == TO_ENTER)
}

/// Keeps what timing program runs takes, and nothing else.
pub(super) fn keep_to_time_runs() -> io::Result<()> {
    let only = Set::NONE.with(SYS_ADMIN);
    keep(only, only)
}

/// What threads that only read the kernel's maps keep: nothing, but for kernels before 5.19, which want `CAP_BPF` for
/// every bpf(2) call while `kernel.unprivileged_bpf_disabled` is set.
#[derive(Clone, Copy, Debug)]
pub struct ReaderPrivileges(Set);

impl ReaderPrivileges {
    /// Asks the kernel, from a thread without any.
    pub fn of_this_kernel() -> Self {
        let refused = std::thread::spawn(|| {
            drop_capabilities();
            super::bpf::is_refused_outright()
        })
        .join();
        // Where it cannot be asked, one too many does less harm than a reader that cannot read.
        Self(if refused.unwrap_or(true) { Set::NONE.with(BPF) } else { Set::NONE })
    }

    /// Leaves the calling thread these and no others.
    pub fn settle(self) {
        report(keep(self.0, self.0));
    }

    /// Leaves the control thread these, and, switched off, what it needs now and then. Returns the names of all.
    pub fn settle_control(self) -> Vec<&'static str> {
        let given = held().map_or(Set::NONE, |held| held.permitted);
        report(keep(self.0, self.0.or(given.now_and_then())));
        let held = held().map_or(Set::NONE, |held| held.permitted);
        [BPF, NET_ADMIN, PERFMON, SYS_ADMIN, SYS_PTRACE]
            .into_iter()
            .filter(|&capability| held.contains(capability))
            .map(|capability| capability.name)
            .collect()
    }
}

/// Gives up all capabilities of the calling thread.
pub fn drop_capabilities() {
    report(keep(Set::NONE, Set::NONE));
}

fn report(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!("cannot give up capabilities: {error}; is capset(2) forbidden to the agent?");
    }
}

/// Does something with these switched on, of what the control thread keeps. Threads that are started meanwhile have
/// them, too. On any other thread it changes nothing, since those have nothing to switch on.
pub(super) fn switched_on<T>(wanted: Set, act: impl FnOnce() -> T) -> T {
    let before = held();
    if let Ok(held) = before {
        let effective = held.effective.or(held.permitted.and(wanted));
        report(hold(Held { effective, ..held }));
    }
    let result = act();
    if let Ok(held) = before {
        report(hold(held));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on a thread of its own, since capabilities do not come back.
    fn apart<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(act).join().expect("no panic")
    }

    #[test]
    fn a_thread_that_gave_its_capabilities_up_cannot_switch_one_on_again() {
        let (held_after, refused) = apart(|| {
            drop_capabilities();
            let again = Set::NONE.with(NET_ADMIN);
            (held().expect("one's own"), hold(Held { effective: again, permitted: again }))
        });
        assert_eq!(held_after, Held { effective: Set::NONE, permitted: Set::NONE });
        assert_eq!(refused.expect_err("gone for good").raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn what_one_thread_gives_up_another_keeps() {
        let before = held().expect("one's own");
        apart(drop_capabilities);
        assert_eq!(held().expect("one's own"), before);
    }

    #[test]
    fn without_capabilities_each_that_loading_takes_is_named() {
        let names = apart(|| {
            drop_capabilities();
            missing().into_iter().map(|capability| capability.name).collect::<Vec<_>>()
        });
        assert_eq!(names, ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    }

    #[test]
    fn what_was_given_for_timing_alone_is_not_kept() {
        let given = TO_LIST.with(BPF).with(SYS_ADMIN);
        assert_eq!(given.now_and_then(), TO_LIST);
        assert_eq!(given.with(SYS_PTRACE).now_and_then(), TO_RESET);
        assert_eq!(Set::NONE.now_and_then(), Set::NONE);
    }

    #[test]
    fn a_thread_inherits_what_its_maker_has_switched_on() {
        let (had, inherited) = apart(|| {
            let had = held().expect("one's own").permitted;
            keep(Set::NONE, had).expect("fewer is always allowed");
            (had, switched_on(TO_RESET, || apart(|| held().expect("one's own").effective)))
        });
        assert_eq!(inherited, had.and(TO_RESET));
    }

    #[test]
    fn a_capability_is_switched_on_for_one_act_only() {
        let (during, after) = apart(|| {
            let had = held().expect("one's own").permitted;
            keep(Set::NONE, had).expect("fewer is always allowed");
            let during = switched_on(TO_LIST, || held().expect("one's own").effective);
            assert_eq!(during, had.and(TO_LIST));
            (during, held().expect("one's own").effective)
        });
        assert_eq!(after, Set::NONE, "{during:?}");
    }
}
