//! Which cgroups are workloads, and how their connections are to be treated.

use core::ptr;

use agent_ebpf::abi::limits;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;

/// Workload cgroups: pods and units, with what is said of them (`WORKLOAD_KNOWN`, ..). Agent writes.
#[map]
static WORKLOADS: HashMap<u64, u32> = HashMap::with_max_entries(limits::MAX_WORKLOADS, BPF_F_NO_PREALLOC);

/// What is said of the workload whose cgroup this is; 0 where it is none.
#[inline(always)]
pub(crate) fn workload(cgroup: u64) -> u32 {
    match WORKLOADS.get_ptr(&cgroup) {
        // SAFETY: the kernel gave a pointer to the value. Volatile: one load of a word the agent may replace.
        Some(said) => unsafe { ptr::read_volatile(said) },
        None => 0,
    }
}

/// Whether some workload is to be left alone.
#[inline(always)]
pub(crate) fn some_are_left_alone() -> bool {
    match super::SETTINGS.get_ptr(0) {
        // SAFETY: as in `follow_until_ns`.
        Some(settings) => unsafe { ptr::read_volatile(&raw const (*settings).left_alone) != 0 },
        None => false,
    }
}
