//! What the kernel under test lacks, asked of the kernel itself and not of the agent, and what is to be expected then.

use std::sync::OnceLock;

use crate::client::Errno;

/// With what errno a call is refused whose policy says `errno`. Kernels that do not let programs choose (before 6.0)
/// answer EPERM.
pub fn refused_with(errno: i32) -> Errno {
    static CHOOSES: OnceLock<bool> = OnceLock::new();
    if *CHOOSES.get_or_init(can_choose_errno) {
        return Errno(errno);
    }
    println!("this kernel has no errno: EPERM instead");
    Errno(libc::EPERM)
}

/// How many more than a limit may be let in: none, but on kernels without an addition that gives what was there before
/// (before 5.12). There CPUs that meet in the same instant are told the same number.
pub fn let_in_beyond_limits() -> u64 {
    if can_fetch_and_add() {
        return 0;
    }
    println!("this kernel has no compare_and_swap: limits may be passed");
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64) - 1
}

/// Whether what is said inside TLS can be read: it takes the allocator of Linux 6.1, of whose release a helper tells.
pub fn reads_inside_tls() -> bool {
    // bpf_ktime_get_tai_ns(); r0 = 1; exit.
    let reads = loads(&[0x0000_00d0_0000_0085, 0x0000_0001_0000_00b7, 0x0000_0000_0000_0095]);
    if !reads {
        println!("this kernel has no tls: what is said inside it is not read");
    }
    reads
}

/// Whether `bpf_set_retval` loads in a `connect4` program: r1 = -EHOSTUNREACH; bpf_set_retval(); r0 = 0; exit.
fn can_choose_errno() -> bool {
    loads(&[0xffff_ff8f_0000_01b7, 0x0000_00bb_0000_0085, 0x0000_0000_0000_00b7, 0x0000_0000_0000_0095])
}

/// Whether this does: r1 = 1; *(u64 *)(r10 - 8) = r1; r1 = atomic_fetch_add((u64 *)(r10 - 8), r1); r0 = 1; exit.
fn can_fetch_and_add() -> bool {
    loads(&[
        0x0000_0001_0000_01b7,
        0x0000_0000_fff8_1a7b,
        0x0000_0001_fff8_1adb,
        0x0000_0001_0000_00b7,
        0x0000_0000_0000_0095,
    ])
}

/// Whether the kernel takes this for a `connect4` program.
fn loads(program: &[u64]) -> bool {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const CGROUP_SOCK_ADDR: u32 = 18;
    const CONNECT4: u32 = 10;

    /// The first fields of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        _log_and_version: [u64; 3],
        _name: [u8; 16],
        _interface: u32,
        attach_type: u32,
    }

    let load = Load {
        kind: CGROUP_SOCK_ADDR,
        count: u32::try_from(program.len()).expect("a short program"),
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type: CONNECT4,
        ..Load::default()
    };
    // SAFETY: the attributes, the program and the license outlive the call, and the size is that of the structure.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    let Ok(program) = i32::try_from(loaded) else { return false };
    if program < 0 {
        return false;
    }
    // SAFETY: the kernel has just given us this descriptor and nothing else owns it.
    unsafe { libc::close(program) };
    true
}
