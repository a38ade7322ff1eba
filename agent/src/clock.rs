//! The monotonic clock the kernel programs use.
