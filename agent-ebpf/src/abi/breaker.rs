//! The circuit breaker's layouts: the policy the agent writes, and the words the kernel keeps per backend. The
//! kernel has no locks, so each piece of state is one 64-bit word that programs replace by compare-and-swap.
//!
//! Knows how the words are packed, and nothing of when they change; that is `decide::breaker`.

use super::named_enum;

/// Nanoseconds of the monotonic clock per tick, as a shift: one tick is about 1.05 ms.
pub const TICK_SHIFT: u32 = 20;

/// The longest period a policy can ask for: 2³⁰ - 1 ticks, about 13 days. With its jitter it stays within the
/// half of the tick circle (26 days) in which [`remaining_ticks`] can tell before from after.
pub const MAX_PERIOD_TICKS: u32 = (1 << 30) - 1;

/// How far apart the clocks of two programs may be that change one word: a program reads its clock once and may
/// be held up before its compare-and-swap. About 4.3 s.
pub const CLOCK_SLACK_TICKS: u32 = 4_096;

/// Ticks since the clock began, from its nanoseconds. Wraps after 52 days.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a tick count wraps; comparisons expect it")]
pub const fn ticks(now_ns: u64) -> u32 {
    (now_ns >> TICK_SHIFT) as u32
}

/// A period in ticks, to the nearest; at most [`MAX_PERIOD_TICKS`], and at least one tick unless it is 0.
#[allow(clippy::cast_possible_truncation, reason = "bounded just before")]
pub const fn period_ticks(period_ms: u64) -> u32 {
    let nearest = (period_ms.saturating_mul(1_000_000).saturating_add(1 << (TICK_SHIFT - 1))) >> TICK_SHIFT;
    if nearest >= MAX_PERIOD_TICKS as u64 {
        MAX_PERIOD_TICKS
    } else if nearest == 0 && period_ms > 0 {
        1
    } else {
        nearest as u32
    }
}

/// Ticks until a deadline that was set at most `period_ticks` ahead; 0 once it is reached.
///
/// Ticks wrap, so a deadline that seems further ahead than it was ever set lies in the past. That keeps a cell
/// nobody touched for a month from waiting another month, and ends a wait that a new policy finds too long.
#[inline(always)]
pub const fn remaining_ticks(deadline_ticks: u32, now_ticks: u32, period_ticks: u32) -> u32 {
    let ahead = deadline_ticks.wrapping_sub(now_ticks);
    if ahead <= period_ticks.saturating_add(CLOCK_SLACK_TICKS) { ahead } else { 0 }
}

named_enum! {
    /// What a breaker may do.
    pub enum BreakerMode {
        /// Nothing: it watches nothing and refuses nothing.
        Off = 0 => "off",
        /// Decides and counts what it would have done; no connection is refused.
        Observe = 1 => "observe",
        /// Decides and refuses.
        Enforce = 2 => "enforce",
        /// Refuses every connection, by the operator's order.
        ForcedOpen = 3 => "forced_open",
        /// Refuses none, by the operator's order, and forgets what it held against the backend.
        ForcedClosed = 4 => "forced_closed",
    }
}

named_enum! {
    /// Whether a backend gets connections.
    pub enum BreakerState {
        /// It does.
        Closed = 0 => "closed",
        /// It does not, until a deadline.
        Open = 1 => "open",
        /// It gets a few, as probes.
        HalfOpen = 2 => "half_open",
    }
}

named_enum! {
    /// Why a breaker changed its state.
    pub enum TransitionReason {
        /// So many failures in a row.
        ConsecutiveFailures = 0 => "consecutive_failures",
        /// So large a part of the connections in the window failed.
        FailureRatio = 1 => "failure_ratio",
        /// So large a part of the connections in the window was slow.
        SlowRatio = 2 => "slow_ratio",
        /// The open time is over: probes may go.
        OpenExpired = 3 => "open_expired",
        /// A probe failed.
        ProbeFailed = 4 => "probe_failed",
        /// Enough probes proved good.
        ProbesSucceeded = 5 => "probes_succeeded",
        /// The probes gave no answer in time. Closed if at least one handshake was done, else open again.
        HalfOpenExpired = 6 => "half_open_expired",
        /// An operator's order.
        Forced = 7 => "forced",
    }
}

/// A service's breaker policy. Times are in ticks, [`period_ticks`] makes them; parts are in percent, 0 to 100. The
/// agent writes what `BreakerPolicy::bounded` gives; no other record can harm the kernel, but it may make no sense.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// A [`BreakerMode`] by number.
    pub mode: u8,
    /// Failures in a row that open it, 1 to 255. 0: not by this.
    pub consecutive_failures: u8,
    /// Failed part of the window that opens it. 0: not by this.
    pub failure_percent: u8,
    /// Slow part of the window that opens it. 0: not by this.
    pub slow_percent: u8,
    /// The signals that count as failures, a bit per number of `Signal`.
    pub signals: u32,
    /// Connections the window must hold before a part of it means anything.
    pub minimum_samples: u32,
    /// A handshake that takes longer than this is slow, in microseconds.
    pub slow_connect_us: u32,
    /// Length of one bucket of the window; it has [`WINDOW_BUCKETS`](super::limits::WINDOW_BUCKETS).
    pub bucket_ticks: u32,
    /// How long it stays open the first time; each time in a row doubles it.
    pub open_base_ticks: u32,
    /// The longest it stays open, before the jitter.
    pub open_cap_ticks: u32,
    /// How long it waits, half-open, for its probes' answers.
    pub half_open_ticks: u32,
    /// How long a backend's share grows after it closed. 0: full share at once.
    pub slow_start_ticks: u32,
    /// Time closed after which one opening in a row is forgiven. 0: all at once.
    pub decay_ticks: u32,
    /// How far the open time may be off, either way, so that many breakers do not probe at once.
    pub jitter_percent: u8,
    /// Connections admitted while half-open, 1 to [`MAX_PROBES`](super::limits::MAX_PROBES).
    pub probes: u8,
    /// Probes that must prove good to close it, 1 to `probes`.
    pub successes_to_close: u8,
    /// The share a backend starts with after it closed.
    pub slow_start_min_percent: u8,
    /// The largest part of a service's backends that may be ejected at a time.
    pub ejection_cap_percent: u8,
    /// With a smaller healthy part than this, health is ignored. 0: never.
    pub panic_percent: u8,
    /// How long a client is kept away from a backend it failed on. 0: not at all.
    pub avoidance_ticks: u16,
    /// An answer that takes longer than this, from the first byte of its request to its own, is slow, in microseconds.
    /// 0: none is.
    pub slow_answer_us: u32,
    /// A request without an answer for so long counts as `NoAnswer`, in microseconds.
    pub answer_timeout_us: u32,
}

const _: () = assert!(size_of::<BreakerPolicy>() == 56);

/// Which half-open period a connection probes for; 0 for a connection that is no probe. The period's deadline in
/// ticks, which no two periods of a cell share: an answer that comes after its period changes nothing in the next.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe(pub u32);

impl Probe {
    /// No probe.
    pub const NONE: Self = Self(0);
}

/// One breaker's state, per service and backend. 0: closed, nothing held against the backend.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellWord(pub u64);

/// A field of a [`CellWord`]: its lowest bit and its number of bits.
#[derive(Clone, Copy)]
struct Field {
    low: u32,
    bits: u32,
}

impl Field {
    const fn max(self) -> u64 {
        (1 << self.bits) - 1
    }
}

const DEADLINE: Field = Field { low: 0, bits: 32 };
const STATE: Field = Field { low: 32, bits: 2 };
const RECOVERING: Field = Field { low: 34, bits: 1 };
const OPENED: Field = Field { low: 35, bits: 5 };
const CONSECUTIVE: Field = Field { low: 40, bits: 8 };
const ADMITTED: Field = Field { low: 48, bits: 5 };
const SUCCEEDED: Field = Field { low: 53, bits: 5 };
const ESTABLISHED: Field = Field { low: 58, bits: 5 };

#[allow(
    clippy::cast_possible_truncation,
    reason = "every field is masked to at most the width of the result"
)]
impl CellWord {
    /// Closed, and nothing held against the backend.
    pub const CLEAN: Self = Self(0);

    #[inline(always)]
    const fn get(self, field: Field) -> u64 {
        (self.0 >> field.low) & field.max()
    }

    /// The word with this value in the field. What the field has no room for is cut off, lest it reach the next.
    #[inline(always)]
    const fn with(self, field: Field, value: u64) -> Self {
        Self(self.0 & !(field.max() << field.low) | ((value & field.max()) << field.low))
    }

    /// The number of the state, 0 to 2. As [`Self::state`], without its branches.
    #[inline(always)]
    pub const fn state_number(self) -> u32 {
        self.get(STATE) as u32
    }

    /// The state as stored. A deadline may have passed since; `decide::breaker::cell::settled` knows.
    #[inline(always)]
    pub const fn state(self) -> BreakerState {
        match self.get(STATE) {
            1 => BreakerState::Open,
            2 => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        }
    }

    /// Open: when it may be probed. Half-open: until when it waits for answers. Closed and recovering: when the
    /// slow start ends, and afterwards since when openings are being forgiven. In ticks.
    #[inline(always)]
    pub const fn deadline_ticks(self) -> u32 {
        self.get(DEADLINE) as u32
    }

    /// Closed, but open not long ago (or new): the deadline says what is left of that.
    #[inline(always)]
    pub const fn is_recovering(self) -> bool {
        self.get(RECOVERING) == 1
    }

    /// How often it opened in a row, less what was forgiven; 0 to 31.
    #[inline(always)]
    pub const fn opened(self) -> u32 {
        self.get(OPENED) as u32
    }

    /// Failures in a row while closed; 255 stands for more.
    #[inline(always)]
    pub const fn consecutive_failures(self) -> u8 {
        self.get(CONSECUTIVE) as u8
    }

    /// Probes admitted in this half-open period and not given back; 0 to 31.
    #[inline(always)]
    pub const fn probes_admitted(self) -> u8 {
        self.get(ADMITTED) as u8
    }

    /// Probes of this half-open period that proved good; 0 to 31.
    #[inline(always)]
    pub const fn probes_succeeded(self) -> u8 {
        self.get(SUCCEEDED) as u8
    }

    /// Probes of this half-open period whose handshake was done, also those given back since; 31 stands for more.
    #[inline(always)]
    pub const fn probes_established(self) -> u8 {
        self.get(ESTABLISHED) as u8
    }

    /// The most openings in a row that are counted.
    pub const MAX_OPENED: u32 = 31;

    /// Closed, with a slow start (or the forgiving of past openings) from `deadline_ticks` on.
    #[inline(always)]
    pub const fn recovering(opened: u32, deadline_ticks: u32) -> Self {
        Self(0).with(RECOVERING, 1).with(OPENED, opened as u64).with(DEADLINE, deadline_ticks as u64)
    }

    /// Open until `deadline_ticks`.
    #[inline(always)]
    pub const fn open(opened: u32, deadline_ticks: u32) -> Self {
        Self(0)
            .with(STATE, BreakerState::Open as u64)
            .with(OPENED, opened as u64)
            .with(DEADLINE, deadline_ticks as u64)
    }

    /// Half-open until `deadline_ticks`, which must not be 0 (see [`Probe`]), with no probe yet.
    #[inline(always)]
    pub const fn half_open(opened: u32, deadline_ticks: u32) -> Self {
        Self(0)
            .with(STATE, BreakerState::HalfOpen as u64)
            .with(OPENED, opened as u64)
            .with(DEADLINE, deadline_ticks as u64)
    }

    /// The same with so many failures in a row.
    #[inline(always)]
    pub const fn with_consecutive_failures(self, failures: u8) -> Self {
        self.with(CONSECUTIVE, failures as u64)
    }

    /// The same with so many probes admitted, 0 to 31.
    #[inline(always)]
    pub const fn with_probes_admitted(self, probes: u8) -> Self {
        self.with(ADMITTED, probes as u64)
    }

    /// The same with so many probes that proved good, 0 to 31.
    #[inline(always)]
    pub const fn with_probes_succeeded(self, probes: u8) -> Self {
        self.with(SUCCEEDED, probes as u64)
    }

    /// The same with so many probes whose handshake was done, 0 to 31.
    #[inline(always)]
    pub const fn with_probes_established(self, probes: u8) -> Self {
        self.with(ESTABLISHED, probes as u64)
    }
}

/// One bucket of a breaker's window: how the connections that ended in one stretch of time did. From the top, 16
/// bits each: slow, failed, good, and the low bits of the round (how often all buckets were filled before).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowWord(pub u64);

#[allow(clippy::cast_possible_truncation, reason = "each field is the low half of a 32-bit word")]
impl WindowWord {
    /// A bucket with these counts.
    #[inline(always)]
    pub const fn new(round: u16, good: u16, failed: u16, slow: u16) -> Self {
        Self((round as u64) | ((good as u64) << 16) | ((failed as u64) << 32) | ((slow as u64) << 48))
    }

    /// The low 16 bits of the round of all buckets in which these were counted.
    #[inline(always)]
    pub const fn round(self) -> u16 {
        self.0 as u16
    }

    /// Connections that did well; 65 535 stands for more.
    #[inline(always)]
    pub const fn good(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Connections that failed; 65 535 stands for more.
    #[inline(always)]
    pub const fn failed(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Connections that did well, but slowly; 65 535 stands for more.
    #[inline(always)]
    pub const fn slow(self) -> u16 {
        (self.0 >> 48) as u16
    }
}
