//! The C library's heap. Knows nothing of what is in it.

/// Gives freed memory back to the system, which the C library otherwise keeps for later: after a large change, tens of
/// megabytes. Takes some milliseconds. Does nothing where the C library keeps none.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
