//! Reading a breaker policy: its defaults, and the bounds a careless record cannot break.

use super::signal::SignalSet;
use super::window::Totals;
use crate::abi::breaker::{MAX_PERIOD_TICKS, period_ticks};
use crate::abi::{BreakerMode, BreakerPolicy};

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl BreakerPolicy {
    /// What suits most services: see each field.
    #[allow(clippy::cast_possible_truncation, reason = "three seconds are some 2 900 ticks")]
    pub const DEFAULT: Self = Self {
        mode: BreakerMode::Enforce as u8,
        consecutive_failures: 5,
        failure_percent: 50,
        slow_percent: 0,
        signals: SignalSet::DEFAULT.0,
        minimum_samples: 20,
        slow_connect_us: 1_000_000,
        bucket_ticks: period_ticks(1_250),
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
        avoidance_ticks: period_ticks(3_000) as u16,
        slow_answer_us: 0,
        answer_timeout_us: 10_000_000,
    };

    /// The mode; a number this build does not know is [`BreakerMode::Off`].
    #[inline(always)]
    pub const fn mode(&self) -> BreakerMode {
        match BreakerMode::from_raw(self.mode) {
            Some(mode) => mode,
            None => BreakerMode::Off,
        }
    }

    /// The nearest policy that makes sense: periods within [`MAX_PERIOD_TICKS`], percentages up to 100, at least one
    /// probe and no more than can be counted, no more good probes wanted than there are.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn bounded(self) -> Self {
        let period = |ticks: u32| ticks.min(MAX_PERIOD_TICKS);
        let probes = self.probes.clamp(1, crate::abi::limits::MAX_PROBES);
        Self {
            failure_percent: self.failure_percent.min(100),
            slow_percent: self.slow_percent.min(100),
            bucket_ticks: period(self.bucket_ticks).max(1),
            open_base_ticks: period(self.open_base_ticks).max(1),
            open_cap_ticks: period(self.open_cap_ticks).max(1),
            half_open_ticks: period(self.half_open_ticks).max(1),
            slow_start_ticks: period(self.slow_start_ticks),
            decay_ticks: period(self.decay_ticks),
            jitter_percent: self.jitter_percent.min(100),
            probes,
            successes_to_close: self.successes_to_close.clamp(1, probes),
            slow_start_min_percent: self.slow_start_min_percent.min(100),
            ejection_cap_percent: self.ejection_cap_percent.min(100),
            panic_percent: self.panic_percent.min(100),
            ..self
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

/// A period, cut to what the tick circle has room for.
#[inline(always)]
pub(super) const fn period(ticks: u32) -> u32 {
    ticks & MAX_PERIOD_TICKS
}
