//! What this kernel can do, found by asking it and never by its version.

use agent_ebpf::abi::SocketOffsets;

use super::kernel_types::{self, TcpSockOffsets};
use super::{bpf, sock_diag};

/// Something Segue uses where the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, as in metrics.
    pub name: &'static str,
    /// The kernel has it.
    pub found: bool,
    /// What happens without it.
    pub without: &'static str,
}

/// The answers the loader needs.
#[derive(Clone, Debug)]
pub struct Features {
    /// A refused `connect()` can carry the errno of the policy.
    pub set_retval: bool,
    /// Programs may compare and swap, so that breakers count exactly.
    pub compare_and_swap: bool,
    /// Where `struct tcp_sock` keeps its counts.
    pub tcp_sock: Option<TcpSockOffsets>,
    /// Where `struct sock` keeps what names a socket.
    pub socket: Option<SocketOffsets>,
    /// The walk over connections that are due to be reset was loaded. Known once that was tried.
    pub drain: bool,
    /// The kernel ends a socket when it is asked to.
    pub socket_destroy: bool,
    /// This process may enter other network namespaces.
    pub network_namespaces: bool,
    /// A map's entries can be walked by a program of ours. Known once that was tried.
    pub sample: bool,
    /// Requests are read. Known once that was tried; false also where it is switched off.
    pub requests: bool,
    /// Programs that trace may make entries of maps, without the kernel warning of it.
    pub tracing_allocates: bool,
    /// What is said inside TLS is read; `None` where nobody asked for that. Known once it was tried.
    pub tls: Option<bool>,
}

// One instruction: code, registers (destination in the low half), offset, immediate value.
const fn instruction(code: u8, registers: u8, immediate: i32) -> u64 {
    (code as u64) | ((registers as u64) << 8) | ((immediate.cast_unsigned() as u64) << 32)
}

/// r1 = -EHOSTUNREACH; bpf_set_retval(); r0 = 0; exit
const SET_RETVAL: [u64; 4] =
    [instruction(0xb7, 1, -113), instruction(0x85, 0, 187), instruction(0xb7, 0, 0), instruction(0x95, 0, 0)];

/// *(u64 *)(r10 - 8) = 0; r0 = 0; r2 = 0; cmpxchg_64(r10 - 8, r0, r2); r0 = 1; exit
const COMPARE_AND_SWAP: [u64; 6] = [
    instruction(0x7a, 10, 0) | (0xfff8 << 16),
    instruction(0xb7, 0, 0),
    instruction(0xb7, 2, 0),
    instruction(0xdb, 0x2a, 0xf1) | (0xfff8 << 16),
    instruction(0xb7, 0, 1),
    instruction(0x95, 0, 0),
];

/// bpf_ktime_get_tai_ns(); r0 = 1; exit. The helper came with Linux 6.1, and so did the allocator that makes entries of a map
/// where a traced function may hold any lock.
const CLOCK_OF_6_1: [u64; 3] = [instruction(0x85, 0, 208), instruction(0xb7, 0, 1), instruction(0x95, 0, 0)];

/// r0 = 1; exit
const NOTHING: [u64; 2] = [instruction(0xb7, 0, 1), instruction(0x95, 0, 0)];

/// Asks the kernel. An error is the kernel's answer to the simplest program there is: eBPF cannot be used here.
pub(super) fn features() -> std::io::Result<Features> {
    if let Err(error) = bpf::try_load(&NOTHING) {
        // Before 5.11 what a user has loaded counts as locked memory, also what an agent before this one left behind.
        if error.raw_os_error() != Some(libc::EPERM) || bpf::lift_memory_limit().is_err() {
            return Err(error);
        }
        bpf::try_load(&NOTHING)?;
    }
    let types = kernel_types::of_this_kernel();
    Ok(Features {
        set_retval: bpf::try_load(&SET_RETVAL).is_ok(),
        compare_and_swap: bpf::try_load(&COMPARE_AND_SWAP).is_ok(),
        tcp_sock: types.tcp_sock,
        socket: types.socket,
        drain: false,
        socket_destroy: sock_diag::can_reset(),
        network_namespaces: sock_diag::can_enter_namespaces(),
        sample: false,
        requests: false,
        tracing_allocates: bpf::try_load(&CLOCK_OF_6_1).is_ok(),
        tls: None,
    })
}

impl Features {
    /// The table that `status` shows and metrics export.
    pub fn table(&self) -> Vec<Feature> {
        let tls = self.tls.map(|found| Feature {
            name: "tls",
            found,
            without: "requests inside TLS are not counted: reading them takes Linux 6.1 or later with BTF and \
                      CONFIG_UPROBE_EVENTS, and that requests are read",
        });
        let always = [
            Feature {
                name: "requests",
                found: self.requests,
                without: "what is asked for on connections (HTTP) is not counted: switched off by --requests, or refused by \
                          the kernel",
            },
            Feature {
                name: "errno",
                found: self.set_retval,
                without: "a refused connect() fails with EPERM instead of the policy's errno",
            },
            Feature {
                name: "compare_and_swap",
                found: self.compare_and_swap,
                without: "a breaker may admit a probe too many or miss a failure, and a limit let a connection too many in, when two CPUs meet in it",
            },
            Feature {
                name: "kernel_types",
                found: self.tcp_sock.is_some(),
                without: "bytes of a connection are counted when it ends, not while it is open; one that its client \
                          dissolves counts as the backend's failure",
            },
            Feature {
                name: "socket_walk",
                found: self.sample,
                without: "bytes of a connection are counted when it ends; drifted counts are not healed",
            },
            Feature {
                name: "socket_destroy",
                found: self.socket_destroy && self.drain,
                without: "open connections of backends that are out are kept, whatever `draining` says; it needs \
                          CONFIG_INET_DIAG_DESTROY, CAP_NET_ADMIN and what socket_walk needs",
            },
            Feature {
                name: "network_namespaces",
                found: self.network_namespaces,
                without: "of those, only connections in the agent's own network namespace are reset; it needs \
                          CAP_SYS_ADMIN, CAP_SYS_PTRACE and the host's /proc",
            },
        ];
        always.into_iter().chain(tls).collect()
    }
}
