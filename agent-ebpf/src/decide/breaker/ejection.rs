//! How many of a service's backends breakers may take away, and when health is ignored. Knows only numbers.

/// Whether one more backend may be ejected (open or half-open), of `total` with `ejected` ejected already: within
/// the cap, but always one of two or more, and never the last.
#[inline(always)]
pub const fn may_eject(total: u32, ejected: u32, cap_percent: u8) -> bool {
    let after = ejected as u64 + 1;
    after < total as u64 && (ejected == 0 || after * 100 <= total as u64 * cap_percent as u64)
}

/// Whether so few of `total` backends are healthy that connections go to all of them: less than this part. With
/// 0 percent, or without backends, never.
#[inline(always)]
pub const fn panic(total: u32, healthy: u32, panic_percent: u8) -> bool {
    (healthy as u64) * 100 < total as u64 * panic_percent as u64
}
