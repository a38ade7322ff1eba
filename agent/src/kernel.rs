//! The kernel as the rest of the agent sees it. The only module that names `aya`.
//!
//! [`Tables`] is the seam: `reconcile` writes agent-owned maps through it and nothing else does. The real one
//! maps the arrays into memory; the one in [`fake`] is for tests and fails on request.

mod arrivals;
mod bpf;
mod cgroup;
mod counters;
mod data_plane;
mod events;
pub mod fake;
mod heap;
mod hooks;
mod inheritance;
mod kernel_types;
mod layout;
mod loading;
mod mapped;
mod monotonic;
mod neighbours;
mod privileges;
mod probe;
mod program_log;
mod readers;
mod seccomp;
mod sock_diag;
mod stopwatch;
mod tables;
mod tls;

use std::io;
use std::path::PathBuf;

use agent_ebpf::abi::{Backend, BackendState, FrontendKey, Hook, Policy, ServiceWord, Slot};

pub use arrivals::Arrivals;
pub use cgroup::{Cgroup, cgroup_id, cgroup_lineage, mount_point};
pub use counters::{Counters, Manner, Open};
pub use data_plane::{DataPlane, Repair};
pub use events::EventReader;
pub use heap::trim_heap;
pub use layout::{Unloaded, unload};
pub use monotonic::{monotonic_ns, process_cpu_ns};
pub use neighbours::{Neighbour, Order};
pub use privileges::{Capability, ReaderPrivileges, drop_capabilities, forbid_new_privileges};
pub use probe::{Feature, Features};
pub use program_log::ProgramLog;
pub use readers::Readers;
pub use seccomp::confine_agent;
pub use sock_diag::{Fate, ResetSockets, SockDiag, describe as describe_socket};
pub use stopwatch::{Stopwatch, StopwatchError};
pub use tables::KernelTables;
pub use tls::LibraryState;

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refuses the simplest program.
    #[error(
        "the kernel refuses to load an eBPF program: {0}; Segue needs Linux 5.10 or later with CONFIG_BPF_SYSCALL and \
         CONFIG_CGROUP_BPF, and root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; before 5.11 also no limit on locked \
         memory (LimitMEMLOCK=infinity)"
    )]
    NoEbpf(#[source] io::Error),
    /// Loading would fail for want of capabilities.
    #[error("{}; be root with them, or add them to CapabilityBoundingSet= of the unit", lacking(missing))]
    Unprivileged {
        /// Which.
        missing: Vec<Capability>,
    },
    /// No cgroup version 2 anywhere.
    #[error("cgroup version 2 is not mounted; mount it with `mount -t cgroup2 none /sys/fs/cgroup`")]
    NoCgroup2,
    /// The cgroup cannot be opened.
    #[error("cannot open cgroup {}: {source}; check --cgroup", path.display())]
    Cgroup {
        /// What was given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is some other directory.
    #[error("{} is not a cgroup of version 2; give --cgroup a directory under {}", path.display(), mount.display())]
    NotACgroup {
        /// What was given.
        path: PathBuf,
        /// Where cgroups are.
        mount: PathBuf,
    },
    /// No BPF file system can be mounted.
    #[error("cannot mount a BPF file system at {}: {source}; mount one there, or give --bpffs another path", path.display())]
    Bpffs {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pin or its directory cannot be used.
    #[error("cannot use {}: {source}; is the BPF file system mounted there writable, and is this root?", path.display())]
    Pins {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The lock is taken.
    #[error("another agent is running on {}; stop it first, or give this one another --bpffs", path.display())]
    AnotherAgent {
        /// The locked directory.
        path: PathBuf,
    },
    /// Something else is in the place of a map.
    #[error(
        "{} holds something that is not Segue's map {map}; if nobody needs it there, run `segue unload` and start again, which \
         makes all maps anew", path.display()
    )]
    Foreign {
        /// Which map should be there.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
    },
    /// The object as a whole is refused.
    #[error(
        "cannot load the eBPF object: {source}; if pinned maps are of another build, run `segue unload` first"
    )]
    Load {
        /// Why not.
        source: Box<aya::EbpfError>,
    },
    /// One program is refused.
    #[error(
        "the kernel refuses program {program}; check that it is Linux 5.10 or later and that the agent has CAP_PERFMON. \
         It said: {source}"
    )]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A library that is to be probed cannot be.
    #[error(
        "cannot read inside TLS of {}: {source}; give --observe-tls the absolute path of a file that is OpenSSL's libssl, that of a \
         container as /proc/PID/root/…", path.display()
    )]
    TlsLibrary {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No probe can be put on a function of it.
    #[error(
        "cannot put a probe on {function} of {}: {source}; is it OpenSSL's libssl, and has the agent CAP_PERFMON?", path.display()
    )]
    TlsProbe {
        /// The library.
        path: PathBuf,
        /// The function.
        function: &'static str,
        /// Why not.
        source: Box<aya::programs::ProgramError>,
    },
    /// The object has no such program: agent and object are of different builds.
    #[error("the eBPF object has no program {program}; build the agent again")]
    Missing {
        /// Which.
        program: &'static str,
    },
    /// A program cannot be attached.
    #[error(
        "cannot attach {} to cgroup {}: {source}; `bpftool cgroup tree` shows whether another program holds the hook for \
         itself alone, there or above, or 64 programs are there already", hook.name(), cgroup.display()
    )]
    Attach {
        /// Where.
        hook: Hook,
        /// To which cgroup.
        cgroup: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The programs' log cannot be read.
    #[error("cannot read what the eBPF programs log: {source}")]
    Log {
        /// Why not.
        source: io::Error,
    },
    /// A map cannot be opened.
    #[error(
        "cannot open map {map} at {}: {source}; if another build left it, run `segue unload` first", path.display()
    )]
    Map {
        /// Which.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Each missing capability with what it is for.
fn lacking(missing: &[Capability]) -> String {
    let each: Vec<_> = missing
        .iter()
        .map(|capability| format!("{} is missing, which it takes to {}", capability.name, capability.purpose))
        .collect();
    each.join("; ")
}

/// One program of the data plane.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    /// Its name in the kernel.
    pub program: &'static str,
    /// Where it sits.
    pub hook: Hook,
    /// Its id.
    pub id: Option<u32>,
    /// It is attached to the managed cgroup, by our link.
    pub attached: bool,
    /// How often it ran, where the kernel counts (`kernel.bpf_stats_enabled`).
    pub runs: Option<u64>,
    /// How long all runs took, in nanoseconds, where the kernel counts.
    pub run_time_ns: Option<u64>,
    /// Instructions the verifier followed before it took the program, where the kernel says so.
    pub verified_instructions: Option<u64>,
}

/// One map of the data plane.
#[derive(Clone, Debug)]
pub struct MapStatus {
    /// Its name.
    pub name: &'static str,
    /// Entries in use as far as the kernel tells without a walk; 0 where it does not.
    pub entries: u64,
    /// Entries it can hold; for the event ring, bytes; 0 for socket storage, which has no limit.
    pub max_entries: u64,
    /// Memory it takes, in bytes.
    pub bytes: u64,
}

/// The name of an errno, for labels: a closed list of what map operations return.
pub fn errno_name(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::E2BIG) => "E2BIG",
        Some(libc::ENOMEM) => "ENOMEM",
        Some(libc::EPERM) => "EPERM",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::EEXIST) => "EEXIST",
        Some(libc::EBUSY) => "EBUSY",
        Some(libc::EAGAIN) => "EAGAIN",
        _ => "other",
    }
}

/// How many entries each agent-owned map can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of `FRONTENDS`.
    pub frontends: u32,
    /// Entries of `SERVICES` and `SERVICE_STATE`.
    pub services: u32,
    /// Entries of `POLICIES`.
    pub policies: u32,
    /// Entries of `SLOTS`.
    pub slots: u32,
    /// Entries of `BACKENDS` and `BACKEND_STATE`.
    pub backends: u32,
}

/// A map operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in map {map} failed: {source}")]
pub struct MapError {
    /// The map's name.
    pub map: &'static str,
    /// What was tried: `insert`, `remove`, `write`, `list`.
    pub operation: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// The maps the agent owns, and the state of backends, which the kernel owns and the agent reads.
///
/// An index out of range is a bug of the caller and panics; callers keep to [`Tables::capacity`].
pub trait Tables {
    /// How much fits.
    fn capacity(&self) -> Capacity;

    /// Everything in `FRONTENDS`: key and service id.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError>;
    /// Adds or replaces a frontend.
    fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), MapError>;
    /// Removes a frontend; one that is not there is no error.
    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError>;

    /// The word of a service.
    fn service(&self, service: u32) -> ServiceWord;
    /// Replaces the word of a service in one store, after everything it names was written.
    fn set_service(&mut self, service: u32, word: ServiceWord) -> Result<(), MapError>;

    /// A policy record.
    fn policy(&self, index: u32) -> Policy;
    /// Writes a policy record that no service word names.
    fn set_policy(&mut self, index: u32, policy: &Policy) -> Result<(), MapError>;

    /// `count` slots from `first`.
    fn slots(&self, first: u32, count: u32) -> Vec<Slot>;
    /// Writes slots that no service word leads to.
    fn set_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError>;

    /// A backend, without an operator's order, and without what becomes of its connections.
    fn backend(&self, id: u32) -> Backend;
    /// Writes a backend, but for those two, which stay. Of one in use, only `version`, `status`, `zone`,
    /// `next` and `weight` may differ.
    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<(), MapError>;

    /// What the kernel counts for a backend.
    fn backend_state(&self, id: u32) -> BackendState;

    /// Gives back the memory that reading and writing entries took; using them again takes it again. Costs
    /// nothing where there is nothing to give back.
    fn rest(&mut self);

    /// The program runs that are going on now, to be asked later whether they have all ended.
    fn readers(&mut self) -> Readers;

    /// Returns when every program run that began before the call has ended: what was unlinked before may be
    /// reused after. Takes tens of milliseconds.
    fn wait_for_readers(&mut self);
}
