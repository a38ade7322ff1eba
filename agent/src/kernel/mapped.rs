//! An array map as memory: the agent reads and writes entries without a system call.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// An array map of `T`, shared with the kernel programs. Entries are plain values: integers only, no padding
/// that matters, any bit pattern valid.
pub(super) struct MappedArray<T> {
    base: *mut u8,
    length_bytes: usize,
    entries: u32,
    /// Keeps the map alive; the mapping alone would as well.
    _map: File,
    _entry: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel's programs anyway; every access goes through word-sized atomics.
unsafe impl<T: Send> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for MappedArray<T> {}

impl<T: Copy + Default> MappedArray<T> {
    /// The kernel rounds an entry up to eight bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps the array of `entries` entries behind this descriptor.
    pub(super) fn new(map: OwnedFd, entries: u32) -> io::Result<Self> {
        const {
            assert!(
                align_of::<T>() >= 4 && size_of::<T>().is_multiple_of(4),
                "entries are made of 32-bit words"
            );
        }
        let length_bytes = (entries as usize * Self::STRIDE).next_multiple_of(4096);
        // SAFETY: a fresh mapping of a valid descriptor; the kernel checks length and rights.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), length_bytes, entries, _map: File::from(map), _entry: PhantomData })
    }

    /// How many entries there are.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    fn words(&self, index: u32) -> &[AtomicU32] {
        assert!(index < self.entries, "entry {index} of {}", self.entries);
        // SAFETY: within the mapping, aligned to eight bytes, and only ever accessed by atomics on this side.
        unsafe {
            std::slice::from_raw_parts(
                self.base.add(index as usize * Self::STRIDE).cast::<AtomicU32>(),
                size_of::<T>() / 4,
            )
        }
    }

    /// An entry. Each of its words is read at once; two words may be of different moments.
    pub(super) fn read(&self, index: u32) -> T {
        let mut value = T::default();
        let target = (&raw mut value).cast::<u32>();
        for (at, word) in self.words(index).iter().enumerate() {
            // SAFETY: `at` is below the number of words of `T`, which is at least word-aligned.
            unsafe { target.add(at).write(word.load(Ordering::Relaxed)) };
        }
        value
    }

    /// Replaces an entry word by word, each in one store.
    pub(super) fn write(&self, index: u32, value: &T) {
        self.write_until(index, value, size_of::<T>());
    }

    /// Replaces the first bytes of an entry, a multiple of four, and leaves the rest alone.
    pub(super) fn write_until(&self, index: u32, value: &T, bytes: usize) {
        let source = std::ptr::from_ref(value).cast::<u32>();
        for (at, word) in self.words(index).iter().take(bytes / 4).enumerate() {
            // SAFETY: as in `read`.
            word.store(unsafe { source.add(at).read() }, Ordering::Relaxed);
        }
    }
}

impl<T> MappedArray<T> {
    /// One 64-bit word of an entry, `word` counted from its start.
    pub(super) fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        let stride = size_of::<T>().next_multiple_of(8);
        assert!(index < self.entries && word * 8 < stride, "word {word} of entry {index}");
        // SAFETY: within the mapping and aligned to eight bytes.
        unsafe { &*self.base.add(index as usize * stride + word * 8).cast::<AtomicU64>() }
    }

    /// Replaces the first word of an entry in one store that comes after every store before it.
    pub(super) fn publish(&self, index: u32, value: u64) {
        fence(Ordering::SeqCst);
        self.word(index, 0).store(value, Ordering::Release);
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.cast(), self.length_bytes) };
    }
}
