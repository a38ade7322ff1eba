//! Rooms of a CPU that a program takes for its run, as another may interrupt it there; and copying words between them.

use core::mem::MaybeUninit;
use core::ptr;

use super::{add, fetch_add, unproven};

/// Takes the first of so many rooms that nobody holds, by the word in which each counts who does; gives its number. `None`
/// where all are taken, or there are fewer.
///
/// The verifier is not told which number it is: it would read what follows once for each.
#[inline(always)]
pub(super) fn take(rooms: u32, taken: impl Fn(u32) -> Option<&'static mut u64>) -> Option<u32> {
    let mut number = 0;
    while number < rooms {
        let taken = taken(number)?;
        // Whoever interrupts between the two steps finds it taken.
        if fetch_add(taken, 1) == 0 {
            return Some(unproven(number as usize) as u32);
        }
        leave(taken);
        number += 1;
    }
    None
}

/// Leaves a room, by that word.
#[inline(always)]
pub(super) fn leave(taken: &mut u64) {
    add(taken, 1_u64.wrapping_neg());
}

/// Zeroes whole words. Volatile, as for [`copy_words`].
#[inline(always)]
pub(super) fn zero_words<T>(to: &mut MaybeUninit<T>) {
    const { assert!(align_of::<T>() == 8 && size_of::<T>() % 8 == 0) };
    let to = to.as_mut_ptr().cast::<u64>();
    let mut at = 0;
    while at < size_of::<T>() / 8 {
        // SAFETY: it is so many words long, and aligned as such.
        unsafe { ptr::write_volatile(to.add(at), 0) };
        at += 1;
    }
}

/// Copies whole words. Volatile: no call of memcpy, which the target's library does byte by byte.
#[inline(always)]
pub(super) fn copy_words<T>(from: &T, to: &mut T) {
    const { assert!(align_of::<T>() == 8 && size_of::<T>() % 8 == 0) };
    let (from, to) = (ptr::from_ref(from).cast::<u64>(), ptr::from_mut(to).cast::<u64>());
    let mut at = 0;
    while at < size_of::<T>() / 8 {
        // SAFETY: both are so many words long, and aligned as such.
        unsafe { ptr::write_volatile(to.add(at), ptr::read_volatile(from.add(at))) };
        at += 1;
    }
}
