//! Which system calls the running agent may make (seccomp(2)). Installed when the data plane is loaded and before anything
//! is served. Knows numbers, not reasons of callers; docs/decisions/0023 says how the list was found.
//!
//! What is not on the list fails with EPERM and is written to the audit log, instead of killing the agent: a call that
//! was overlooked then costs one function and leaves a trace. Two are answered with ENOSYS, so that the C library takes the older
//! call: clone3, whose flags a filter cannot see, and whatever is newer than the list.

use std::io;

use libc::{c_long, sock_filter};

/// Calls that are allowed whatever their arguments.
const CALLS: &[c_long] = &[
    // Files: configuration, pins, /proc, /sys, the admin socket's file, how far canaries have come.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_ioctl,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_getcwd,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    // Sockets; which kinds is checked below.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    // By which the C library asks name servers for both families at once.
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads, signals, and the child that makes the test connection.
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_setpgid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrlimit,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// Those that newer architectures no longer have.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_vfork,
    libc::SYS_arch_prctl,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[c_long] = &[];

/// Commands of bpf(2): reading and writing maps, pins, links. None that loads a program or makes a map.
const BPF_COMMANDS: [u32; 16] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    6,  // BPF_OBJ_PIN
    7,  // BPF_OBJ_GET
    13, // BPF_PROG_GET_FD_BY_ID
    15, // BPF_OBJ_GET_INFO_BY_FD
    16, // BPF_PROG_QUERY
    24, // BPF_MAP_LOOKUP_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
    28, // BPF_LINK_CREATE
    29, // BPF_LINK_UPDATE
    33, // BPF_ITER_CREATE
    34, // BPF_LINK_DETACH
];

/// `BPF_ENABLE_STATS`, which the process that times runs may use and the agent may not.
pub(super) const BPF_ENABLE_STATS: u32 = 32;

/// Kinds of sockets. Netlink reads what the kernel knows of sockets; to change something through it takes a capability.
const SOCKET_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Every flag of clone(2) that makes a namespace, CLONE_NEWTIME with them.
const NAMESPACE_FLAGS: u32 = 0x7e02_0080;

/// `AUDIT_ARCH_*` of this architecture, which a filter must look at first; `None` where it is not known here.
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// The last call that Linux 6.12 has, on every architecture: what comes after is answered as unknown.
const LAST_KNOWN_CALL: u32 = 462;

// include/uapi/linux/seccomp.h; `struct seccomp_data` begins with the number, then the architecture, a 64-bit
// instruction pointer, and six 64-bit arguments.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
const SECOND_ARGUMENT_AT: u32 = FIRST_ARGUMENT_AT + 8;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

// include/uapi/linux/bpf_common.h
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// A filter under construction; every rule ends the run or falls through to the next.
struct Filter(Vec<sock_filter>);

impl Filter {
    fn new(architecture: u32) -> Self {
        let mut filter = Self(vec![instruction(LOAD_WORD, ARCHITECTURE_AT)]);
        filter.unless(architecture, ERRNO | errno(libc::EPERM));
        filter.0.push(instruction(LOAD_WORD, NUMBER_AT));
        filter
    }

    /// Ends with `action` where the accumulator is `value`.
    fn when(&mut self, value: u32, action: u32) {
        self.0.push(sock_filter { jf: 1, ..instruction(JUMP_IF_EQUAL, value) });
        self.0.push(instruction(RETURN, action));
    }

    /// Ends with `action` where the accumulator is not `value`.
    fn unless(&mut self, value: u32, action: u32) {
        self.0.push(sock_filter { jt: 1, ..instruction(JUMP_IF_EQUAL, value) });
        self.0.push(instruction(RETURN, action));
    }

    /// Where the call is this one, allows it for these values of the argument at that place, and else ends with EPERM.
    fn argument(&mut self, call: c_long, place: u32, values: &[u32]) {
        // A load, two instructions for each value, and the refusal.
        let rest = u8::try_from(2 * values.len() + 2).expect("a short list of values");
        self.0.push(sock_filter { jf: rest, ..instruction(JUMP_IF_EQUAL, number(call)) });
        self.0.push(instruction(LOAD_WORD, place));
        for &value in values {
            self.when(value, ALLOW);
        }
        self.refuse();
    }

    fn refuse(&mut self) {
        self.0.push(instruction(RETURN, ERRNO | errno(libc::EPERM)));
    }

    fn allow(&mut self, calls: &[c_long]) {
        for &call in calls {
            self.when(number(call), ALLOW);
        }
    }
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn errno(errno: i32) -> u32 {
    errno.cast_unsigned()
}

/// The agent's.
fn agent(architecture: u32) -> Vec<sock_filter> {
    let mut filter = Filter::new(architecture);
    // The busiest come first; the kernel remembers the rest of those that depend on no argument (5.11).
    filter.argument(libc::SYS_bpf, FIRST_ARGUMENT_AT, &BPF_COMMANDS);
    filter.allow(CALLS);
    filter.allow(OLDER_CALLS);
    filter.argument(libc::SYS_socket, FIRST_ARGUMENT_AT, &SOCKET_FAMILIES.map(i32::cast_unsigned));
    // Connections are reset in the network namespace they are in; namespaces of other kinds are not entered.
    filter.argument(libc::SYS_setns, SECOND_ARGUMENT_AT, &[libc::CLONE_NEWNET.cast_unsigned()]);
    // The other filter answers it.
    filter.allow(&[libc::SYS_clone3]);
    // A thread or child, but no namespace: load the flags, and refuse where one of those is set.
    filter.0.push(sock_filter { jf: 4, ..instruction(JUMP_IF_EQUAL, number(libc::SYS_clone)) });
    filter.0.push(instruction(LOAD_WORD, FIRST_ARGUMENT_AT));
    filter.0.push(sock_filter { jt: 1, ..instruction(JUMP_IF_SET, NAMESPACE_FLAGS) });
    filter.0.push(instruction(RETURN, ALLOW));
    filter.refuse();
    filter.0.push(sock_filter { jf: 1, ..instruction(JUMP_IF_GREATER, LAST_KNOWN_CALL) });
    filter.0.push(instruction(RETURN, ERRNO | errno(libc::ENOSYS)));
    filter.refuse();
    filter.0
}

/// What is refused without a line in the audit log, since the C library tries it first each time it makes a thread or a
/// process.
fn unlogged(architecture: u32) -> Vec<sock_filter> {
    let mut filter = Filter::new(architecture);
    filter.when(number(libc::SYS_clone3), ERRNO | errno(libc::ENOSYS));
    filter.0.push(instruction(RETURN, ALLOW));
    filter.0
}

/// That of the process that times program runs.
fn stopwatch(architecture: u32) -> Vec<sock_filter> {
    let mut filter = Filter::new(architecture);
    filter.argument(libc::SYS_bpf, FIRST_ARGUMENT_AT, &[BPF_ENABLE_STATS]);
    filter.allow(&[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        // A debug build looks at a descriptor before it closes it.
        libc::SYS_fcntl,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigreturn,
        libc::SYS_exit_group,
    ]);
    filter.refuse();
    filter.0
}

/// Confines every thread of the agent, and every child, from now on. New privileges must be forbidden before.
pub fn confine_agent() -> io::Result<()> {
    const ALL_THREADS: u64 = 1;
    install(unlogged, ALL_THREADS)?;
    install(agent, ALL_THREADS | LOG)
}

/// Confines the process that times program runs.
pub(super) fn confine_stopwatch() -> io::Result<()> {
    install(stopwatch, LOG)
}

/// Refusals go to the audit log (Linux 4.14).
const LOG: u64 = 2;

fn install(filter: fn(u32) -> Vec<sock_filter>, flags: u64) -> io::Result<()> {
    const SET_MODE_FILTER: u64 = 1;
    let architecture = ARCHITECTURE.ok_or(io::ErrorKind::Unsupported)?;
    let mut instructions = filter(architecture);
    let length = u16::try_from(instructions.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: instructions.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call, which copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    match result {
        0 => Ok(()),
        thread if thread > 0 => Err(io::Error::other(format!("thread {thread} could not be confined"))),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = 0xc000_003e;

    /// What a filter answers to a call, by running it. Of its arguments the one it looks at is `argument`.
    fn answer(filter: &[sock_filter], architecture: u32, call: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { jt } else { jf });
            match code {
                LOAD_WORD => {
                    accumulator = match k {
                        NUMBER_AT => call,
                        ARCHITECTURE_AT => architecture,
                        FIRST_ARGUMENT_AT if call != number(libc::SYS_setns) => argument,
                        SECOND_ARGUMENT_AT if call == number(libc::SYS_setns) => argument,
                        other => panic!("a load from {other}"),
                    };
                }
                JUMP_IF_EQUAL => at += jump(accumulator == k),
                JUMP_IF_GREATER => at += jump(accumulator > k),
                JUMP_IF_SET => at += jump(accumulator & k != 0),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const EPERM: u32 = ERRNO | 1;
    const ENOSYS: u32 = ERRNO | 38;

    #[test]
    fn the_running_agent_may_use_maps_and_links_and_load_nothing() {
        let filter = agent(HERE);
        let bpf = |command| answer(&filter, HERE, number(libc::SYS_bpf), command);
        for command in BPF_COMMANDS {
            assert_eq!(bpf(command), ALLOW, "{command}");
        }
        // BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_BTF_LOAD, BPF_ENABLE_STATS
        for command in [0, 5, 8, 18, 32, 99] {
            assert_eq!(bpf(command), EPERM, "{command}");
        }
    }

    #[test]
    fn every_call_of_the_list_is_allowed_and_what_takes_a_host_over_is_not() {
        let filter = agent(HERE);
        for &call in CALLS.iter().chain(OLDER_CALLS) {
            assert_eq!(answer(&filter, HERE, number(call), 0), ALLOW, "{call}");
        }
        for call in [
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_setuid,
            libc::SYS_chroot,
            libc::SYS_pivot_root,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
        ] {
            assert_eq!(answer(&filter, HERE, number(call), 0), EPERM, "{call}");
        }
    }

    #[test]
    fn a_thread_is_allowed_and_a_namespace_is_not() {
        let filter = agent(HERE);
        let clone = |flags| answer(&filter, HERE, number(libc::SYS_clone), flags);
        assert_eq!(clone((libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_FS).cast_unsigned()), ALLOW);
        for flag in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWCGROUP,
        ] {
            assert_eq!(clone(flag.cast_unsigned()), EPERM, "{flag:#x}");
        }
        // Its flags cannot be seen, so the C library is sent to the one above.
        assert_eq!(answer(&unlogged(HERE), HERE, number(libc::SYS_clone3), 0), ENOSYS);
        assert_eq!(answer(&unlogged(HERE), HERE, number(libc::SYS_clone), 0), ALLOW);
    }

    #[test]
    fn of_namespaces_only_those_of_the_network_may_be_entered() {
        let filter = agent(HERE);
        let enter = |kind: i32| answer(&filter, HERE, number(libc::SYS_setns), kind.cast_unsigned());
        assert_eq!(enter(libc::CLONE_NEWNET), ALLOW);
        // 0 is whatever the descriptor is of.
        for kind in [0, libc::CLONE_NEWNS, libc::CLONE_NEWUSER, libc::CLONE_NEWNET | libc::CLONE_NEWNS] {
            assert_eq!(enter(kind), EPERM, "{kind:#x}");
        }
    }

    #[test]
    fn raw_packets_are_out_of_reach() {
        let filter = agent(HERE);
        let socket = |family: i32| answer(&filter, HERE, number(libc::SYS_socket), family.cast_unsigned());
        assert_eq!(socket(libc::AF_INET6), ALLOW);
        assert_eq!(socket(libc::AF_PACKET), EPERM);
        assert_eq!(socket(libc::AF_VSOCK), EPERM);
    }

    #[test]
    fn what_a_newer_kernel_adds_is_answered_as_unknown_and_another_architecture_is_refused() {
        let filter = agent(HERE);
        assert_eq!(answer(&filter, HERE, LAST_KNOWN_CALL + 1, 0), ENOSYS);
        // The 32-bit numbers of the same machine mean other calls.
        assert_eq!(answer(&filter, 0x4000_0003, number(libc::SYS_read), 0), EPERM);
    }

    #[test]
    fn the_stopwatch_may_time_runs_and_hardly_anything_else() {
        let filter = stopwatch(HERE);
        let bpf = number(libc::SYS_bpf);
        assert_eq!(answer(&filter, HERE, bpf, BPF_ENABLE_STATS), ALLOW);
        assert_eq!(answer(&filter, HERE, bpf, 5), EPERM);
        assert_eq!(answer(&filter, HERE, number(libc::SYS_openat), 0), EPERM);
    }
}
