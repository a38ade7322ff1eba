//! Socket options by raw value, where the standard library has no call. Knows no socket's purpose.

use std::io;
use std::os::fd::RawFd;

/// The size of a value as system calls on sockets take it.
#[expect(clippy::cast_possible_truncation, reason = "addresses and option values are a few bytes long")]
pub const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// `setsockopt(2)`.
///
/// # Errors
/// Its errno.
pub fn set<T>(socket: RawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is valid for its size; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(socket, level, option, std::ptr::from_ref(value).cast(), length_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `getsockopt(2)` of an integer option.
///
/// # Errors
/// Its errno.
pub fn get(socket: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = length_of::<libc::c_int>();
    // SAFETY: the kernel writes at most `length` bytes into an integer of that size.
    let result = unsafe { libc::getsockopt(socket, level, option, (&raw mut value).cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Connects to `AF_UNSPEC`: the socket forgets its peer; a TCP connection is reset, whoever else holds it.
///
/// # Errors
/// The errno of `connect(2)`.
pub fn disconnect(socket: RawFd) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr has the family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the address is initialised for its whole length.
    let result = unsafe { libc::connect(socket, &raw const nowhere, length_of::<libc::sockaddr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
