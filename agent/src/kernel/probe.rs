//! What this kernel can do, found by asking it and never by its version.

use super::bpf;
use super::kernel_types::TcpSockOffsets;

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
    /// Where `struct tcp_sock` keeps its counts.
    pub tcp_sock: Option<TcpSockOffsets>,
    /// A map's entries can be walked by a program of ours. Known once that was tried.
    pub sample: bool,
}

// One instruction: code, registers (destination in the low half), offset, immediate value.
const fn instruction(code: u8, registers: u8, immediate: i32) -> u64 {
    (code as u64) | ((registers as u64) << 8) | ((immediate.cast_unsigned() as u64) << 32)
}

/// r1 = -EHOSTUNREACH; bpf_set_retval(); r0 = 0; exit
const SET_RETVAL: [u64; 4] =
    [instruction(0xb7, 1, -113), instruction(0x85, 0, 187), instruction(0xb7, 0, 0), instruction(0x95, 0, 0)];

/// r0 = 1; exit
const NOTHING: [u64; 2] = [instruction(0xb7, 0, 1), instruction(0x95, 0, 0)];

/// Asks the kernel. An error is the kernel's answer to the simplest program there is: eBPF cannot be used here.
pub(super) fn features() -> std::io::Result<Features> {
    bpf::try_load(&NOTHING)?;
    Ok(Features {
        set_retval: bpf::try_load(&SET_RETVAL).is_ok(),
        tcp_sock: TcpSockOffsets::of_this_kernel().ok(),
        sample: false,
    })
}

impl Features {
    /// The table that `status` shows and metrics export.
    pub fn table(&self) -> Vec<Feature> {
        vec![
            Feature {
                name: "errno",
                found: self.set_retval,
                without: "a refused connect() fails with EPERM instead of the policy's errno",
            },
            Feature {
                name: "kernel_types",
                found: self.tcp_sock.is_some(),
                without: "bytes of a connection are counted when it ends, not while it is open",
            },
            Feature {
                name: "socket_walk",
                found: self.sample,
                without: "bytes of a connection are counted when it ends; drifted counts are not healed",
            },
        ]
    }
}
