//! What is remembered of clients: the backend each was given last, the one it failed on, and what it uses of its limits.

use core::ptr;

use agent_ebpf::abi::{AffinityKey, AffinityValue, ClientKey, FailedOn, Loss, Usage, limits};
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};

use super::lost;

/// Which backend a client was given last. Kernel writes.
#[map]
static AFFINITY: LruHashMap<AffinityKey, AffinityValue> =
    LruHashMap::with_max_entries(limits::MAX_AFFINITIES, 0);

/// Which backend a client failed on last. Kernel writes.
#[map]
static AVOIDANCES: LruHashMap<AffinityKey, FailedOn> =
    LruHashMap::with_max_entries(limits::MAX_AVOIDANCES, 0);

/// What each client uses of its limits. Kernel writes, agent removes those of dead cgroups and corrects drifted ones.
#[map]
static CLIENTS: HashMap<ClientKey, Usage> = HashMap::with_max_entries(limits::MAX_CLIENTS, BPF_F_NO_PREALLOC);

/// Which backend a client was given last.
#[inline(always)]
pub(crate) fn affinity(key: &AffinityKey) -> Option<AffinityValue> {
    // SAFETY: a copy. An update by another CPU at this moment may mix two values of the same client and
    // service, which the caller finds out by checking the backend's service and generation.
    unsafe { AFFINITY.get(key) }.copied()
}

/// Remembers which backend a client was given.
#[inline(always)]
pub(crate) fn set_affinity(key: &AffinityKey, value: &AffinityValue) {
    if AFFINITY.insert(key, value, 0).is_err() {
        lost(Loss::Affinity);
    }
}

/// Which backend a client failed on last.
#[inline(always)]
pub(crate) fn failed_on(key: &AffinityKey) -> FailedOn {
    match AVOIDANCES.get_ptr(key) {
        // SAFETY: the kernel gave a pointer to the value. Volatile: one load of a word another CPU may replace.
        Some(failed) => unsafe { ptr::read_volatile(failed) },
        None => FailedOn::NONE,
    }
}

/// Remembers which backend a client failed on. Where there is no room, it may be given it again.
#[inline(always)]
pub(crate) fn set_failed_on(key: &AffinityKey, failed: FailedOn) {
    let _ = AVOIDANCES.insert(key, &failed, 0);
}

/// What a client uses of its limits.
#[inline(always)]
pub(crate) fn client(key: &ClientKey) -> Option<&'static mut Usage> {
    // SAFETY: the kernel gave a pointer into the table; fields are only changed by `add` and `swap`.
    CLIENTS.get_ptr_mut(key).map(|usage| unsafe { &mut *usage })
}

/// The same, made empty when it is not there yet. `None`, with a loss counted, where there is no room.
#[inline(always)]
pub(crate) fn client_or_new(key: &ClientKey) -> Option<&'static mut Usage> {
    if let Some(found) = client(key) {
        return Some(found);
    }
    let none = Usage { active: 0, pending: 0, rate: agent_ebpf::abi::RateWord(0) };
    // NOEXIST: another CPU may have made the entry since, and counted in it.
    let _ = CLIENTS.insert(key, &none, u64::from(BPF_NOEXIST));
    let made = client(key);
    if made.is_none() {
        lost(Loss::Client);
    }
    made
}
