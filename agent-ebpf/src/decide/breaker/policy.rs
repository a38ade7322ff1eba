//! Reading a breaker policy: its defaults, and the bounds a careless record cannot break.

use super::signal::SignalSet;
use super::window::Totals;
use crate::abi::breaker::{MAX_PERIOD_TICKS, period_ticks};
use crate::abi::limits::MAX_PROBES;
use crate::abi::{BreakerMode, BreakerPolicy};

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl BreakerPolicy {
    /// What suits most services: see each field.
    pub const DEFAULT: Self = Self {
        mode: BreakerMode::Enforce as u8,
        consecutive_failures: 5,
        failure_percent: 50,
        slow_percent: 0,
        signals: SignalSet::DEFAULT.0,
        minimum_samples: 20,
        slow_connect_us: 1_000_000,
        bucket_ticks: period_ticks(1_000),
        open_base_ticks: period_ticks(5_000),
        open_cap_ticks: period_ticks(300_000),
        half_open_ticks: period_ticks(30_000),
        slow_start_ticks: period_ticks(10_000),
        decay_ticks: period_ticks(30_000),
        jitter_percent: 20,
        probes: 3,
        successes_to_close: 2,
        slow_start_min_percent: 10,
        ejection_cap_percent: 50,
        panic_percent: 50,
        _pad: [0; 2],
    };

    /// The mode; a number this build does not know is [`BreakerMode::Off`].
    #[inline(always)]
    pub const fn mode(&self) -> BreakerMode {
        match BreakerMode::from_raw(self.mode) {
            Some(mode) => mode,
            None => BreakerMode::Off,
        }
    }

    /// Whether a refusal is more than a note: not where the breaker only observes.
    #[inline(always)]
    pub const fn binds(&self) -> bool {
        !matches!(self.mode(), BreakerMode::Off | BreakerMode::Observe)
    }

    /// Whether a handshake of this length is slow.
    #[inline(always)]
    pub const fn is_slow(&self, connect_us: u64) -> bool {
        connect_us > self.slow_connect_us as u64
    }

    /// Probes per half-open period: at least one, at most [`MAX_PROBES`].
    #[inline(always)]
    pub const fn probes(&self) -> u8 {
        bounded(self.probes, 1, MAX_PROBES)
    }

    /// Good probes that close it: at least one, at most all.
    #[inline(always)]
    pub const fn successes_to_close(&self) -> u8 {
        bounded(self.successes_to_close, 1, self.probes())
    }

    /// How long it waits for its probes: at least one tick.
    #[inline(always)]
    pub const fn half_open_ticks(&self) -> u32 {
        if self.half_open_ticks == 0 { 1 } else { period(self.half_open_ticks) }
    }

    /// How long a backend's share grows.
    #[inline(always)]
    pub const fn slow_start_ticks(&self) -> u32 {
        period(self.slow_start_ticks)
    }

    /// Whether so large a part of the window failed that this alone opens it.
    #[inline(always)]
    pub const fn failure_ratio_reached(&self, totals: Totals) -> bool {
        self.part_reached(totals.failed, totals, self.failure_percent)
    }

    /// Whether so large a part of the window was slow that this alone opens it.
    #[inline(always)]
    pub const fn slow_ratio_reached(&self, totals: Totals) -> bool {
        self.part_reached(totals.slow, totals, self.slow_percent)
    }

    #[inline(always)]
    const fn part_reached(&self, part: u32, totals: Totals, percent: u8) -> bool {
        let samples = totals.samples();
        percent > 0
            && samples > 0
            && samples >= self.minimum_samples
            && part as u64 * 100 >= samples as u64 * percent as u64
    }
}

/// A period the tick circle has room for.
#[inline(always)]
pub(super) const fn period(ticks: u32) -> u32 {
    if ticks < MAX_PERIOD_TICKS { ticks } else { MAX_PERIOD_TICKS }
}

#[inline(always)]
const fn bounded(value: u8, least: u8, most: u8) -> u8 {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}
