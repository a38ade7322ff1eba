//! The bpf(2) commands on a map whose layout is known only at run time: its description, and its entries as bytes.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Attr, BPF_MAP_LOOKUP_BATCH, BPF_OBJ_GET_INFO_BY_FD, fd_word};

// include/uapi/linux/bpf.h, enum bpf_cmd
const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;

const MAP_TYPE_ARRAY: u32 = 2;

/// A map as the kernel describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Make {
    /// `enum bpf_map_type`.
    pub(in crate::kernel) kind: u32,
    /// Size of a key.
    pub(in crate::kernel) key_bytes: u32,
    /// Size of a value, of one CPU's where each has its own.
    pub(in crate::kernel) value_bytes: u32,
    /// Capacity.
    pub(in crate::kernel) entries: u32,
    /// Flags it was made with.
    pub(in crate::kernel) flags: u32,
}

/// What the kernel says of a map; nonsense for what is none.
pub(in crate::kernel) fn make(map: BorrowedFd<'_>) -> io::Result<Make> {
    /// `struct bpf_map_info`, padded to what newer kernels fill.
    #[derive(Default)]
    #[repr(C, align(8))]
    struct Info {
        kind: u32,
        _id: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries: u32,
        flags: u32,
        _rest: [u64; 10],
    }
    let mut info = Info::default();
    let size = u32::try_from(size_of::<Info>()).unwrap_or(u32::MAX);
    Attr::default()
        .u32(0, fd_word(map))
        .u32(1, size)
        .u64(2, (&raw mut info) as u64)
        .call(BPF_OBJ_GET_INFO_BY_FD)?;
    Ok(Make {
        kind: info.kind,
        key_bytes: info.key_bytes,
        value_bytes: info.value_bytes,
        entries: info.entries,
        flags: info.flags,
    })
}

/// Makes an array of one entry that holds these bytes. The name has at most seven letters.
pub(in crate::kernel) fn array_of_one(name: &str, value: &[u8]) -> io::Result<OwnedFd> {
    let mut letters = [0; 8];
    letters.iter_mut().zip(name.bytes().take(7)).for_each(|(letter, byte)| *letter = byte);
    let bytes = u32::try_from(value.len()).map_err(io::Error::other)?;
    let [first, second] =
        [[0, 1, 2, 3], [4, 5, 6, 7]].map(|at| u32::from_ne_bytes(at.map(|at: usize| letters[at])));
    let map = Attr::default()
        .u32(0, MAP_TYPE_ARRAY)
        .u32(1, 4)
        .u32(2, bytes)
        .u32(3, 1)
        .u32(7, first)
        .u32(8, second)
        .call_for_fd(BPF_MAP_CREATE)?;
    update(std::os::fd::AsFd::as_fd(&map), &0_u32.to_ne_bytes(), value)?;
    Ok(map)
}

/// Reads an entry into `value`, which must have room for it: in a map per CPU for the values of all possible CPUs, each
/// filled up to eight bytes. Whether there is one.
pub(in crate::kernel) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let result = Attr::default()
        .u32(0, fd_word(map))
        .u64(2, key.as_ptr() as u64)
        .u64(4, value.as_mut_ptr() as u64)
        .call(BPF_MAP_LOOKUP_ELEM);
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes an entry, as `lookup` reads it.
pub(in crate::kernel) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    Attr::default()
        .u32(0, fd_word(map))
        .u64(2, key.as_ptr() as u64)
        .u64(4, value.as_ptr() as u64)
        .call(BPF_MAP_UPDATE_ELEM)
        .map(drop)
}

/// Many entries of a map.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Batch {
    /// Their keys, one after the other.
    pub(in crate::kernel) keys: Vec<u8>,
    /// Their values: in a map per CPU, for each entry those of all possible CPUs, each filled up to eight bytes.
    pub(in crate::kernel) values: Vec<u8>,
    /// The kernel's own account of how far it came; none at the end.
    pub(in crate::kernel) next: Option<u64>,
}

/// Reads at most so many entries from a place on (kernel 5.6), more where one bucket of a hash has more.
pub(in crate::kernel) fn batch(
    map: BorrowedFd<'_>,
    place: Option<u64>,
    [key_bytes, value_bytes]: [usize; 2],
    entries: u32,
) -> io::Result<Batch> {
    /// A bucket with more entries than this is none of a hash map's.
    const MAX_ENTRIES: u32 = 1 << 16;
    let mut entries = entries.max(1);
    loop {
        let mut batch = Batch {
            keys: vec![0; key_bytes * entries as usize],
            values: vec![0; value_bytes * entries as usize],
            next: None,
        };
        let mut next = 0_u64;
        let mut attr = Attr::default()
            .u64(0, place.as_ref().map_or(0, |place| std::ptr::from_ref(place) as u64))
            .u64(2, (&raw mut next) as u64)
            .u64(4, batch.keys.as_mut_ptr() as u64)
            .u64(6, batch.values.as_mut_ptr() as u64)
            .u32(8, entries)
            .u32(9, fd_word(map));
        let result = attr.call(BPF_MAP_LOOKUP_BATCH);
        let failed_with = |errno| result.as_ref().is_err_and(|error| error.raw_os_error() == Some(errno));
        if failed_with(libc::ENOSPC) && entries < MAX_ENTRIES {
            entries *= 2;
            continue;
        }
        let at_end = failed_with(libc::ENOENT);
        if !at_end {
            result?;
            batch.next = Some(next);
        }
        let count = attr.get_u32(8).min(entries) as usize;
        batch.keys.truncate(key_bytes * count);
        batch.values.truncate(value_bytes * count);
        return Ok(batch);
    }
}
