//! The bpf(2) commands that aya has no call for: reading a hash map in one go, replacing the program of a cgroup link, walking a map with an
//! iterator, asking what is attached to a cgroup, and trying out whether a helper exists.

pub(super) mod entries;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// include/uapi/linux/bpf.h, enum bpf_cmd
const BPF_PROG_LOAD: i32 = 5;
const BPF_OBJ_PIN: i32 = 6;
const BPF_OBJ_GET: i32 = 7;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
const BPF_MAP_LOOKUP_BATCH: i32 = 24;
const BPF_LINK_CREATE: i32 = 28;
const BPF_LINK_UPDATE: i32 = 29;
const BPF_ENABLE_STATS: i32 = 32;
const BPF_ITER_CREATE: i32 = 33;
const BPF_LINK_DETACH: i32 = 34;

/// `enum bpf_attach_type`, `BPF_TRACE_ITER`.
const ATTACH_TRACE_ITER: u32 = 28;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const ATTACH_CGROUP_INET4_CONNECT: u32 = 10;

/// `union bpf_attr` is larger than any command here fills; the kernel accepts any size whose rest is zero.
const ATTR_WORDS: usize = 16;

/// The arguments of one command. Fields are named by their place, counted in 32-bit words.
#[derive(Default)]
#[repr(C, align(8))]
struct Attr {
    words: [u64; ATTR_WORDS],
}

impl Attr {
    fn u32(mut self, index: usize, value: u32) -> Self {
        let shift = if cfg!(target_endian = "little") { 32 * (index % 2) } else { 32 * (1 - index % 2) };
        self.words[index / 2] |= u64::from(value) << shift;
        self
    }

    fn u64(mut self, index: usize, value: u64) -> Self {
        self.words[index / 2] = value;
        self
    }

    fn get_u32(&self, index: usize) -> u32 {
        let shift = if cfg!(target_endian = "little") { 32 * (index % 2) } else { 32 * (1 - index % 2) };
        u32::try_from((self.words[index / 2] >> shift) & 0xffff_ffff).unwrap_or(u32::MAX)
    }

    fn call(&mut self, command: i32) -> io::Result<i32> {
        // SAFETY: the attributes are a zero-padded, aligned buffer of the size given; every pointer put into
        // them outlives the call.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, self.words.as_mut_ptr(), size_of::<[u64; ATTR_WORDS]>())
        };
        match i32::try_from(result) {
            Ok(value) if value >= 0 => Ok(value),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn call_for_fd(&mut self, command: i32) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: the kernel returned a new file descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn fd_word(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    Attr::default().u64(0, path.as_ptr() as u64).call_for_fd(BPF_OBJ_GET)
}

/// Pins an object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    Attr::default().u64(0, path.as_ptr() as u64).u32(2, fd_word(object)).call(BPF_OBJ_PIN).map(drop)
}

/// Attaches a program to a cgroup, beside whatever others have attached there.
pub(super) fn link_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    Attr::default()
        .u32(0, fd_word(program))
        .u32(1, fd_word(cgroup))
        .u32(2, attach_type)
        .call_for_fd(BPF_LINK_CREATE)
}

/// Puts another program in the place of the one a link holds, without a moment in between.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    Attr::default().u32(0, fd_word(link)).u32(1, fd_word(program)).call(BPF_LINK_UPDATE).map(drop)
}

/// Takes the program of a link away from its hook before the call returns (kernel 5.9). When the last holder of a link
/// goes, the kernel does that too, but at its leisure.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    Attr::default().u32(0, fd_word(link)).call(BPF_LINK_DETACH).map(drop)
}

/// What a cgroup link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CgroupLink {
    /// The program's id.
    pub(super) program: u32,
    /// The cgroup's id; 0 once the cgroup is gone.
    pub(super) cgroup: u64,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

/// What a link is attached to. `None` for a link that is not a cgroup's.
pub(super) fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<Option<CgroupLink>> {
    /// `struct bpf_link_info` with its cgroup part, padded to what newer kernels fill.
    #[derive(Default)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _pad: u32,
        cgroup: u64,
        attach_type: u32,
        _rest: [u32; 25],
    }
    const LINK_TYPE_CGROUP: u32 = 3;
    let mut info = Info::default();
    let size = u32::try_from(size_of::<Info>()).unwrap_or(u32::MAX);
    Attr::default()
        .u32(0, fd_word(link))
        .u32(1, size)
        .u64(2, (&raw mut info) as u64)
        .call(BPF_OBJ_GET_INFO_BY_FD)?;
    Ok((info.kind == LINK_TYPE_CGROUP).then_some(CgroupLink {
        program: info.program,
        cgroup: info.cgroup,
        attach_type: info.attach_type,
    }))
}

/// Opens an iterator over every entry of a map.
pub(super) fn iterate_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // `union bpf_iter_link_info`, its map part.
    let target = [fd_word(map), 0, 0, 0];
    let link = Attr::default()
        .u32(0, fd_word(program))
        .u32(2, ATTACH_TRACE_ITER)
        .u64(4, target.as_ptr() as u64)
        .u32(6, 16)
        .call_for_fd(BPF_LINK_CREATE)?;
    let walk = Attr::default().u32(0, link.as_raw_fd().cast_unsigned()).call_for_fd(BPF_ITER_CREATE)?;
    Ok(File::from(walk))
}

/// Goes over the entries of a hash map, many with each system call (kernel 5.6). Each is a key with `values_each` values: one,
/// or in a per-CPU map one of every possible CPU.
///
/// # Safety
/// `K` and `V` have the sizes of the map's keys and values, that of `V` is a multiple of eight where the map is per CPU, and
/// any bytes are a valid one of each.
pub(super) unsafe fn hash_entries<K: Copy, V: Copy>(
    map: BorrowedFd<'_>,
    values_each: usize,
    mut each: impl FnMut(&K, &[V]),
) -> io::Result<()> {
    /// Values that a call gives at most, unless one bucket has more, which the kernel gives as a whole.
    const VALUES: usize = 4_096;
    /// A bucket with more entries than this is none of a hash map's.
    const MAX_BATCH: u32 = 1 << 16;
    let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
    let mut batch = u32::try_from(VALUES / values_each).unwrap_or(MAX_BATCH).max(1);
    // The kernel's own account of how far it came.
    let mut place: Option<u64> = None;
    loop {
        keys.clear();
        values.clear();
        keys.reserve(batch as usize);
        values.reserve(batch as usize * values_each);
        let mut next = 0_u64;
        let mut attr = Attr::default()
            .u64(0, place.as_ref().map_or(0, |place| std::ptr::from_ref(place) as u64))
            .u64(2, (&raw mut next) as u64)
            .u64(4, keys.spare_capacity_mut().as_mut_ptr() as u64)
            .u64(6, values.spare_capacity_mut().as_mut_ptr() as u64)
            .u32(8, batch)
            .u32(9, fd_word(map));
        let result = attr.call(BPF_MAP_LOOKUP_BATCH);
        let failed_with = |errno| result.as_ref().is_err_and(|error| error.raw_os_error() == Some(errno));
        if failed_with(libc::ENOSPC) && batch < MAX_BATCH {
            batch *= 2;
            continue;
        }
        let at_end = failed_with(libc::ENOENT);
        if !at_end {
            result?;
        }
        let count = attr.get_u32(8).min(batch) as usize;
        // SAFETY: the kernel wrote so many keys with their values, and there is room for them.
        unsafe {
            keys.set_len(count);
            values.set_len(count * values_each);
        }
        keys.iter().zip(values.chunks_exact(values_each)).for_each(|(key, values)| each(key, values));
        if at_end {
            return Ok(());
        }
        place = Some(next);
    }
}

/// Ids of the programs attached to a cgroup itself at a hook, in the order in which they run.
pub(super) fn attached(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    query(cgroup, attach_type, 0)
}

/// Ids of the programs that run for the processes of a cgroup at a hook, its ancestors' among them, in the order in which
/// they do.
pub(super) fn effective(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    const QUERY_EFFECTIVE: u32 = 1;
    query(cgroup, attach_type, QUERY_EFFECTIVE)
}

fn query(cgroup: BorrowedFd<'_>, attach_type: u32, flags: u32) -> io::Result<Vec<u32>> {
    const MAX_PROGRAMS: u32 = 64;
    let mut ids = [0_u32; MAX_PROGRAMS as usize];
    let mut attr = Attr::default()
        .u32(0, fd_word(cgroup))
        .u32(1, attach_type)
        .u32(2, flags)
        .u64(4, ids.as_mut_ptr() as u64)
        .u32(6, MAX_PROGRAMS);
    attr.call(BPF_PROG_QUERY)?;
    Ok(ids.into_iter().take(usize::try_from(attr.get_u32(6)).unwrap_or(0)).collect())
}

/// What the kernel says of a loaded program.
#[derive(Clone, Debug)]
pub(super) struct ProgramInfo {
    pub(super) id: u32,
    /// Empty where it has none.
    pub(super) name: String,
    /// 0 unless `kernel.bpf_stats_enabled` is on.
    pub(super) runs: u64,
    pub(super) run_time_ns: u64,
    /// 0 before Linux 5.16.
    pub(super) verified_instructions: u32,
}

/// What the kernel says of a loaded program.
pub(super) fn program(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    /// `struct bpf_prog_info`, padded to what newer kernels fill.
    #[derive(Default)]
    #[repr(C)]
    struct Info {
        _kind: u32,
        id: u32,
        _tag: [u8; 8],
        _lengths: [u32; 2],
        _instructions: [u64; 2],
        _load_time_ns: u64,
        _created_by: u32,
        _map_count: u32,
        _maps: u64,
        name: [u8; 16],
        _interface_and_flags: [u32; 2],
        _network: [u64; 2],
        _counts: [u32; 2],
        _symbols: [u64; 2],
        _types: [u32; 2],
        _functions: u64,
        _function_count: [u32; 2],
        _lines: [u64; 2],
        _line_counts: [u32; 4],
        _tags: u64,
        run_time_ns: u64,
        runs: u64,
        _recursion_misses: u64,
        verified_instructions: u32,
        _rest: [u32; 5],
    }
    const _: () = assert!(std::mem::offset_of!(Info, run_time_ns) == 192);
    let mut info = Info::default();
    let size = u32::try_from(size_of::<Info>()).unwrap_or(u32::MAX);
    Attr::default()
        .u32(0, fd_word(program))
        .u32(1, size)
        .u64(2, (&raw mut info) as u64)
        .call(BPF_OBJ_GET_INFO_BY_FD)?;
    let length = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
    Ok(ProgramInfo {
        id: info.id,
        name: String::from_utf8_lossy(&info.name[..length]).into_owned(),
        runs: info.runs,
        run_time_ns: info.run_time_ns,
        verified_instructions: info.verified_instructions,
    })
}

/// The name of a loaded program; empty where it has none or may not be asked for.
pub(super) fn program_name(id: u32) -> String {
    Attr::default()
        .u32(0, id)
        .call_for_fd(BPF_PROG_GET_FD_BY_ID)
        .and_then(|found| program(found.as_fd()))
        .map(|info| info.name)
        .unwrap_or_default()
}

/// Has the kernel time every program run until the descriptor is closed (5.8).
pub(super) fn time_runs() -> io::Result<OwnedFd> {
    // Its only argument is the kind of statistics: BPF_STATS_RUN_TIME, 0.
    Attr::default().call_for_fd(BPF_ENABLE_STATS)
}

/// Whether the kernel refuses the calling thread every command, also the most harmless.
pub(super) fn is_refused_outright() -> bool {
    // About a descriptor that no process has.
    let asked = Attr::default().u32(0, u32::MAX).call(BPF_OBJ_GET_INFO_BY_FD);
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Entries a map can hold, and the memory it takes in bytes, as `/proc` accounts it (`memlock`).
pub(super) fn describe_map(map: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    };
    Ok((field("max_entries"), field("memlock")))
}

/// The name a map was made with, at most 15 bytes of it. `None` for what is no map, or has none.
pub(super) fn map_name(object: BorrowedFd<'_>) -> Option<String> {
    // A program's description has other fields in these places.
    map_id(object).ok().flatten()?;
    /// `struct bpf_map_info`, padded to what newer kernels fill.
    #[derive(Default)]
    #[repr(C, align(8))]
    struct Info {
        _kind_to_flags: [u32; 6],
        name: [u8; 16],
        _rest: [u64; 8],
    }
    let mut info = Info::default();
    let size = u32::try_from(size_of::<Info>()).unwrap_or(u32::MAX);
    let mut attr = Attr::default().u32(0, fd_word(object)).u32(1, size).u64(2, (&raw mut info) as u64);
    attr.call(BPF_OBJ_GET_INFO_BY_FD).ok()?;
    let length = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
    Some(String::from_utf8_lossy(&info.name[..length]).into_owned()).filter(|name| !name.is_empty())
}

/// The kernel's id of a map. `None` for what is no map.
pub(super) fn map_id(object: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("map_id:"));
    Ok(line.and_then(|id| id.trim().parse().ok()))
}

/// Takes away the limit on the memory this process may lock (`RLIMIT_MEMLOCK`). Fails where it may not raise it.
pub(super) fn lift_memory_limit() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads a valid structure that outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Tries to load a `connect4` program of these instructions. The kernel's answer says whether it has what they
/// use; a version number would not, since distributions port features back.
pub(super) fn try_load(instructions: &[u64]) -> io::Result<()> {
    let license = c"GPL";
    Attr::default()
        .u32(0, PROG_TYPE_CGROUP_SOCK_ADDR)
        .u32(1, u32::try_from(instructions.len()).unwrap_or(u32::MAX))
        .u64(2, instructions.as_ptr() as u64)
        .u64(4, license.as_ptr() as u64)
        // expected_attach_type: after log level, size, buffer, kernel version, flags, name and interface index.
        .u32(17, ATTACH_CGROUP_INET4_CONNECT)
        .call_for_fd(BPF_PROG_LOAD)
        .map(drop)
}
