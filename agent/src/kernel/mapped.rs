//! An array map as memory: the agent reads and writes entries without a system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Entries that are mapped together. So many of any size begin and end at a page, also where pages have 64 KiB.
const WINDOW_ENTRIES: u32 = 8_192;

/// An array map of `T`, shared with the kernel programs. Entries are plain values: integers only, no padding
/// that matters, any bit pattern valid.
///
/// The kernel puts every page of a mapping into the page table at once, and counts them all as resident; it does not
/// put them there again once they were dropped (`MADV_DONTNEED` succeeds, and the next access ends in SIGBUS). So
/// only the windows that are used are mapped, and [`MappedArray::rest`] unmaps them.
pub(super) struct MappedArray<T> {
    map: OwnedFd,
    entries: u32,
    windows: Box<[OnceLock<Window>]>,
    _entry: PhantomData<T>,
}

impl<T: Copy + Default> MappedArray<T> {
    /// The array of `entries` entries behind this descriptor. Maps its beginning, to see whether that is possible.
    pub(super) fn new(map: OwnedFd, entries: u32) -> io::Result<Self> {
        const {
            assert!(
                align_of::<T>() >= 4 && size_of::<T>().is_multiple_of(4),
                "entries are made of 32-bit words"
            );
        }
        let windows = (0..entries.div_ceil(WINDOW_ENTRIES)).map(|_| OnceLock::new()).collect();
        let array = Self { map, entries, windows, _entry: PhantomData };
        array.map_window(0)?;
        Ok(array)
    }

    fn words(&self, index: u32) -> &[AtomicU32] {
        // SAFETY: the entry lies within its window, is aligned to eight bytes, and is only ever accessed by atomics on
        // this side. The window lives as long as the borrow of the array: unmapping takes it mutably.
        unsafe { std::slice::from_raw_parts(self.entry(index).cast().as_ptr(), size_of::<T>() / 4) }
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
    /// The kernel rounds an entry up to eight bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// How many entries there are.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// One 64-bit word of an entry, `word` counted from its start.
    pub(super) fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        assert!(word * 8 < Self::STRIDE, "word {word} of entry {index}");
        // SAFETY: within the window and aligned to eight bytes; the window lives as long as the borrow of the array.
        unsafe { self.entry(index).add(word * 8).cast::<AtomicU64>().as_ref() }
    }

    /// Replaces the first word of an entry in one store that comes after every store before it.
    pub(super) fn publish(&self, index: u32, value: u64) {
        fence(Ordering::SeqCst);
        self.word(index, 0).store(value, Ordering::Release);
    }

    /// Unmaps everything. What is used again is mapped again, which takes some 20 µs for a window.
    pub(super) fn rest(&mut self) {
        for window in &mut self.windows {
            window.take();
        }
    }

    /// Where an entry begins.
    fn entry(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.entries, "entry {index} of {}", self.entries);
        let number = index / WINDOW_ENTRIES;
        let window = self.windows[number as usize].get_or_init(|| match self.map_window(number) {
            Ok(window) => window,
            // The first window was mapped before, so this is about memory, as where an allocation fails.
            Err(error) => {
                panic!("cannot map an eBPF array: {error}; is the address space limited (ulimit -v)?")
            }
        });
        // SAFETY: the entry is one of this window's.
        unsafe { window.base.add((index % WINDOW_ENTRIES) as usize * Self::STRIDE) }
    }

    fn map_window(&self, number: u32) -> io::Result<Window> {
        let first = number * WINDOW_ENTRIES;
        let count = self.entries.saturating_sub(first).min(WINDOW_ENTRIES);
        Window::new(self.map.as_fd(), first as usize * Self::STRIDE, count as usize * Self::STRIDE)
    }
}

/// A mapped part of an array.
struct Window {
    base: NonNull<u8>,
    length_bytes: usize,
}

// SAFETY: the memory is shared with the kernel's programs anyway; every access goes through word-sized atomics.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    fn new(map: BorrowedFd<'_>, offset_bytes: usize, length_bytes: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset_bytes).map_err(io::Error::other)?;
        // SAFETY: a fresh mapping of a valid descriptor; the kernel checks place, length and rights.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(base.cast()).filter(|_| base != libc::MAP_FAILED) {
            Some(base) => Ok(Self { base, length_bytes }),
            None => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length_bytes) };
    }
}
