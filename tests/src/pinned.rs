//! Pinned maps, read by the system call itself: fast enough to ask after every step, and without any code of the
//! agent. Knows keys and values as bytes only.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use agent_ebpf::abi::ABI_VERSION;
use segue_agent::kernel::drop_capabilities;

use crate::wait::let_pass;
use crate::world::World;

// include/uapi/linux/bpf.h, enum bpf_cmd
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// How often an update that finds no memory is tried.
const MOST_TRIES: u32 = 2_000;

/// A map of the data plane in a [`World`].
#[derive(Debug)]
pub struct PinnedMap {
    map: OwnedFd,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

impl PinnedMap {
    /// Opens the map of this name.
    ///
    /// # Panics
    /// When it is not pinned.
    pub fn open(world: &World, name: &str) -> Self {
        let pin = world.bpffs().join(format!("segue/abi{ABI_VERSION}/maps/{name}"));
        // Only the world's own mount namespace sees its bpffs.
        world.namespace().run(|| open(&pin)).unwrap_or_else(|error| panic!("{}: {error}", pin.display()))
    }

    /// Puts zeroes under as many keys as it takes until the map refuses more, or has taken twice what it holds, which
    /// only one that forgets does. A key begins with a number from `first` on. How many it took.
    ///
    /// # Panics
    /// When the kernel refuses for another reason than room in the map.
    pub fn fill(&self, first: u64) -> u32 {
        let (mut key, value) = (vec![0_u8; self.key_size], vec![0_u8; self.value_size]);
        for taken in 0..2 * self.max_entries {
            key[..8].copy_from_slice(&(first + u64::from(taken)).to_ne_bytes());
            let arguments = [descriptor(&self.map), key.as_ptr() as u64, value.as_ptr() as u64];
            let mut result = call(BPF_MAP_UPDATE_ELEM, &arguments);
            // Memory for every CPU at once is had in small portions, with more a moment later.
            for _ in 0..MOST_TRIES {
                if !result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOMEM)) {
                    break;
                }
                let_pass(Duration::from_millis(1));
                result = call(BPF_MAP_UPDATE_ELEM, &arguments);
            }
            match result {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return taken,
                Err(error) => panic!("entry {taken}: {error}"),
            }
        }
        2 * self.max_entries
    }

    /// How many entries it can hold.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// The value at a key; `None` where there is none.
    ///
    /// # Panics
    /// When the kernel refuses for another reason.
    pub fn lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = vec![0_u8; self.value_size];
        let found = call(
            BPF_MAP_LOOKUP_ELEM,
            &[descriptor(&self.map), key.as_ptr() as u64, value.as_mut_ptr() as u64],
        );
        match found {
            Ok(_) => Some(value),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(error) => panic!("cannot look up {key:x?}: {error}"),
        }
    }

    /// Whether the kernel lets a thread without any capability look something up. Before Linux 5.19 it does not where
    /// `kernel.unprivileged_bpf_disabled` is set.
    ///
    /// # Panics
    /// When the kernel refuses for another reason than the thread's rights.
    pub fn takes_no_capability(&self) -> bool {
        let (key, mut value) = (vec![0_u8; self.key_size], vec![0_u8; self.value_size]);
        let found = std::thread::scope(|scope| {
            let apart = scope.spawn(|| {
                drop_capabilities();
                call(
                    BPF_MAP_LOOKUP_ELEM,
                    &[descriptor(&self.map), key.as_ptr() as u64, value.as_mut_ptr() as u64],
                )
            });
            apart.join().expect("no panic")
        });
        match found.map_err(|error| error.raw_os_error()) {
            Ok(_) => true,
            Err(Some(libc::EPERM)) => false,
            Err(error) => panic!("cannot look up the first entry: {error:?}"),
        }
    }
}

impl PinnedMap {
    /// A copy of a whole array map that may be mapped, without a system call for each entry. Entries begin at multiples
    /// of their size, rounded up to eight bytes.
    ///
    /// # Panics
    /// When it cannot be mapped.
    pub fn copied(&self) -> Vec<u8> {
        let bytes = self.value_size.next_multiple_of(8) * self.max_entries as usize;
        // SAFETY: a new mapping somewhere, of a descriptor that is open.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                self.map.as_raw_fd(),
                0,
            )
        };
        assert!(at != libc::MAP_FAILED, "cannot map: {}", io::Error::last_os_error());
        let mut copy = vec![0_u8; bytes];
        // SAFETY: both are of this length, and nobody else knows the copy. An entry that changes meanwhile is copied half
        // old and half new, as any reader of the map may see it.
        unsafe {
            std::ptr::copy_nonoverlapping(at.cast::<u8>(), copy.as_mut_ptr(), bytes);
            libc::munmap(at, bytes);
        }
        copy
    }
}

/// BPF_MAP_TYPE_PERCPU_HASH and BPF_MAP_TYPE_PERCPU_ARRAY: a value for each CPU that could be there.
const PER_CPU: [u32; 2] = [5, 6];

fn cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").expect("sysfs is mounted");
    let last = text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map_or(1, |last| last + 1)
}

fn open(pin: &Path) -> io::Result<PinnedMap> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let raw = call(BPF_OBJ_GET, &[path.as_ptr() as u64])?;
    // SAFETY: the kernel gave a new descriptor that nobody else owns.
    let map = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut info = [0_u32; 32];
    let size_and_descriptor = descriptor(&map) | (size_of_val(&info) as u64) << 32;
    call(BPF_OBJ_GET_INFO_BY_FD, &[size_and_descriptor, info.as_mut_ptr() as u64])?;
    // struct bpf_map_info: type, id, key_size, value_size, max_entries, …
    let (key_size, mut value_size) = (info[2] as usize, info[3] as usize);
    if PER_CPU.contains(&info[0]) {
        value_size = value_size.next_multiple_of(8) * cpus();
    }
    Ok(PinnedMap { map, key_size, value_size, max_entries: info[4] })
}

fn descriptor(map: &OwnedFd) -> u64 {
    u64::from(map.as_raw_fd().cast_unsigned())
}

/// One command of bpf(2). The arguments are the first words of `union bpf_attr`, on a little-endian machine.
fn call(command: libc::c_long, arguments: &[u64]) -> io::Result<i32> {
    let mut attributes = [0_u64; 16];
    attributes[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: the attributes are aligned, zero after what is given, and of the size given; what they point to
    // outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(&attributes)) };
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
