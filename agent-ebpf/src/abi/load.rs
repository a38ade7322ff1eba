//! What the kernel keeps per backend to tell how fast it is.

/// The most a [`LatencyWord`] tells, in microseconds: about 67 s.
pub const MAX_LATENCY_US: u32 = (1 << 26) - 1;

/// How long a backend takes to answer, and when that was written: microseconds in the high half, ticks in the low
/// one. 0: nothing known.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyWord(pub u64);

#[allow(clippy::cast_possible_truncation, reason = "the halves of a 64-bit word")]
impl LatencyWord {
    /// Nothing known.
    pub const UNKNOWN: Self = Self(0);

    /// A latency of 1 to [`MAX_LATENCY_US`] microseconds, as of that tick; other values give the nearest of these.
    #[inline(always)]
    pub const fn new(latency_us: u32, at_ticks: u32) -> Self {
        let latency_us = if latency_us > MAX_LATENCY_US { MAX_LATENCY_US } else { latency_us };
        let latency_us = if latency_us == 0 { 1 } else { latency_us };
        Self(((latency_us as u64) << 32) | at_ticks as u64)
    }

    /// The latency in microseconds when it was written; 0 where nothing is known.
    #[inline(always)]
    pub const fn latency_us(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// When it was written, in ticks.
    #[inline(always)]
    pub const fn at_ticks(self) -> u32 {
        self.0 as u32
    }
}
