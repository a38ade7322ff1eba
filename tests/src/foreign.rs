//! Programs of somebody else on the hooks the agent uses, loaded and attached by the system call itself. Knows nothing
//! of the agent.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const TYPE_SOCK_OPS: u32 = 13;
const TYPE_SOCK_ADDR: u32 = 18;
const ATTACH_SOCK_OPS: u32 = 3;
const ATTACH_CONNECT4: u32 = 10;
const ALLOW_MULTI: u32 = 2;

/// Takes connections to one IPv4 address to another one, at `connect4`, and lets all others be.
///
/// # Panics
/// When the kernel refuses.
pub fn redirect(cgroup: &Path, from: Ipv4Addr, to: Ipv4Addr) {
    let word = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets())) << 32;
    let program = [
        // r2 = *(u32 *)(r1 + 4), the address that is asked for; w3 = from; if r2 != r3 goto +2
        0x0004_1261,
        word(from) | 0x03b4,
        0x0002_325d,
        // w2 = to; *(u32 *)(r1 + 4) = r2
        word(to) | 0x02b4,
        0x0004_2163,
        // r0 = 1; exit
        0x0001_0000_00b7,
        0x0095,
    ];
    attach(cgroup, TYPE_SOCK_ADDR, ATTACH_CONNECT4, &program);
}

/// Wants to hear of round trips of every connection that is opened, at `sock_ops`: sets the flags of a socket to that and
/// nothing else.
///
/// # Panics
/// When the kernel refuses.
pub fn listen_to_round_trips(cgroup: &Path) {
    const TCP_CONNECT_CB: u64 = 3;
    const RTT_CB_FLAG: u64 = 8;
    let program = [
        // r2 = *(u32 *)(r1 + 0), what happens; if r2 != TCP_CONNECT_CB goto +2
        0x1261,
        TCP_CONNECT_CB << 32 | 0x0002_0255,
        // bpf_sock_ops_cb_flags_set(r1, RTT_CB_FLAG)
        RTT_CB_FLAG << 32 | 0x02b7,
        59 << 32 | 0x0085,
        // r0 = 1; exit
        0x0001_0000_00b7,
        0x0095,
    ];
    attach(cgroup, TYPE_SOCK_OPS, ATTACH_SOCK_OPS, &program);
}

/// Loads a program and attaches it beside whatever is there. It goes with the cgroup.
fn attach(cgroup: &Path, kind: u32, attach_type: u32, program: &[u64]) {
    let loaded = load(kind, attach_type, program).expect("the kernel takes a program of a few instructions");
    let cgroup = File::open(cgroup).expect("a cgroup of ours");
    let descriptors = [cgroup.as_raw_fd(), loaded.as_raw_fd()].map(i32::cast_unsigned);
    let attributes = [descriptors[0], descriptors[1], attach_type, ALLOW_MULTI];
    // SAFETY: the attributes outlive the call, and the size is theirs.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of_val(&attributes))
    };
    assert_eq!(result, 0, "cannot attach: {}", io::Error::last_os_error());
}

fn load(kind: u32, attach_type: u32, program: &[u64]) -> io::Result<OwnedFd> {
    /// The first fields of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        _log_and_version: [u64; 3],
        name: [u8; 16],
        _interface: u32,
        attach_type: u32,
    }

    let load = Load {
        kind,
        count: u32::try_from(program.len()).expect("a few instructions"),
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        name: *b"neighbour\0\0\0\0\0\0\0",
        attach_type,
        ..Load::default()
    };
    // SAFETY: the attributes, the program and the license outlive the call, and the size is that of the structure.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    match i32::try_from(loaded) {
        // SAFETY: the kernel gave a new descriptor that nobody else owns.
        Ok(program) if program >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(program) }),
        _ => Err(io::Error::last_os_error()),
    }
}
