//! Breakers as the admin API shows them, and the orders it takes. Only values: what a kernel word means at a given
//! moment is asked of `decide::breaker`, and nobody here reads a map or a clock.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::breaker::{TICK_SHIFT, remaining_ticks, ticks};
use agent_ebpf::abi::{BackendState, BreakerMode, BreakerPolicy, BreakerState, Verdict};
use agent_ebpf::decide::breaker::back_off::longest_open_ticks;
use agent_ebpf::decide::breaker::{cell, window};
use serde::{Deserialize, Serialize};

use crate::flows::named;

/// The longest an order can hold, in milliseconds: a day. What is to hold longer belongs in the configuration.
pub const MAX_ORDER_MS: u64 = 24 * 3_600_000;

/// How long an order holds where nothing is said, in milliseconds: five minutes.
pub const DEFAULT_ORDER_MS: u64 = 5 * 60_000;

/// The breaker of one backend, as of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellView {
    /// `closed`, `open` or `half_open`: what the kernel decided by itself. An order or the service's mode stands
    /// over it, see [`CellView::in_force`].
    #[serde(with = "named::breaker_state")]
    pub state: BreakerState,
    /// Failures in a row while closed; 255 stands for more.
    pub consecutive_failures: u8,
    /// How often it opened in a row, less what was forgiven; 31 stands for more.
    pub opened: u32,
    /// When the next connection may go as a probe, in milliseconds from now; 0: the next one. Null unless open.
    pub next_probe_in_ms: Option<u64>,
    /// Connections in the window that did well.
    pub good: u32,
    /// Connections in the window that failed.
    pub failed: u32,
    /// Connections in the window that did well, but slowly.
    pub slow: u32,
    /// The operator's order; null where there is none or it has ended.
    pub order: Option<OrderView>,
}

/// An operator's order that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderView {
    /// `open`: no connections. `close`: connections, whatever happened.
    pub order: Order,
    /// When it ends, in milliseconds from now.
    pub ends_in_ms: u64,
}

/// What an operator can order about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// It gets no new connections.
    Open,
    /// It gets connections, whatever its breaker thinks.
    Close,
    /// Its breaker decides.
    Auto,
}

impl Order {
    /// The name that the API and the command line use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Auto => "auto",
        }
    }

    /// The word that says so to the kernel, until a moment of the monotonic clock.
    pub const fn verdict(self, until_ns: u64) -> Verdict {
        match self {
            Self::Open => Verdict::new(BreakerMode::ForcedOpen, until_ns),
            Self::Close => Verdict::new(BreakerMode::ForcedClosed, until_ns),
            Self::Auto => Verdict::NONE,
        }
    }
}

/// The body of `POST /v1/breaker`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// The service's full name.
    pub service: String,
    /// One of its backends; all of them where it is left out.
    #[serde(default)]
    pub backend: Option<SocketAddr>,
    /// What is to be done.
    pub order: Order,
    /// For how long, in milliseconds, 1 to [`MAX_ORDER_MS`]; [`DEFAULT_ORDER_MS`] where it is left out. Means
    /// nothing for `auto`.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// The answer of `POST /v1/breaker`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// The service.
    pub service: Arc<str>,
    /// The order.
    pub order: Order,
    /// The backends it is about.
    pub backends: Vec<SocketAddr>,
    /// When it ends, in milliseconds from now; null for `auto`.
    pub ends_in_ms: Option<u64>,
}

/// Why an order was not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No such service.
    #[error("the agent knows no service `{service}`; `segue services` lists all")]
    UnknownService {
        /// What was asked for.
        service: String,
    },
    /// No such backend.
    #[error("{service} has no backend {backend}; `segue services {service}` lists them")]
    UnknownBackend {
        /// The service.
        service: String,
        /// What was asked for.
        backend: SocketAddr,
    },
    /// Nobody to order about.
    #[error("{service} has no backends")]
    NoBackends {
        /// The service.
        service: String,
    },
    /// Too short or too long.
    #[error(
        "{for_ms} ms is no time an order can hold; give 1 ms to 24 h, and put into the configuration what is to stay"
    )]
    Duration {
        /// What was asked for.
        for_ms: u64,
    },
}

impl OrderRequest {
    /// How long the order is to hold, in milliseconds; `None` for `auto`.
    ///
    /// # Errors
    /// Out of range.
    pub fn duration_ms(&self) -> Result<Option<u64>, OrderError> {
        if self.order == Order::Auto {
            return Ok(None);
        }
        match self.for_ms.unwrap_or(DEFAULT_ORDER_MS) {
            for_ms @ 1..=MAX_ORDER_MS => Ok(Some(for_ms)),
            for_ms => Err(OrderError::Duration { for_ms }),
        }
    }
}

impl CellView {
    /// What the kernel's words mean now.
    pub fn new(state: &BackendState, policy: &BreakerPolicy, verdict: Verdict, now_ns: u64) -> Self {
        let now_ticks = ticks(now_ns);
        let word = cell::settled(state.cell, policy, now_ticks);
        let is_open = word.state() == BreakerState::Open;
        let wait = remaining_ticks(word.deadline_ticks(), now_ticks, longest_open_ticks(policy));
        let totals = window::sum(&state.window, window::epoch(policy, now_ns));
        let order = match verdict.mode(now_ns) {
            Some(BreakerMode::ForcedOpen) => Some(Order::Open),
            Some(BreakerMode::ForcedClosed) => Some(Order::Close),
            _ => None,
        };
        Self {
            state: word.state(),
            consecutive_failures: word.consecutive_failures(),
            opened: word.opened(),
            next_probe_in_ms: is_open.then_some((u64::from(wait) << TICK_SHIFT) / 1_000_000),
            good: totals.good,
            failed: totals.failed,
            slow: totals.slow,
            order: order.map(|order| OrderView {
                order,
                ends_in_ms: verdict.until_ns().saturating_sub(now_ns) / 1_000_000,
            }),
        }
    }

    /// What holds for the next connection, the order and the service's mode considered: a name as in metrics,
    /// `closed`, `open`, `half_open`, `forced_open` or `forced_closed`.
    pub fn in_force(&self, mode: BreakerMode) -> &'static str {
        match (self.order.map(|order| order.order), mode) {
            (Some(Order::Open), _) | (None | Some(Order::Auto), BreakerMode::ForcedOpen) => {
                BreakerMode::ForcedOpen.name()
            }
            (Some(Order::Close), _) | (None | Some(Order::Auto), BreakerMode::ForcedClosed) => {
                BreakerMode::ForcedClosed.name()
            }
            // What it held before it was switched off is not looked at.
            (_, BreakerMode::Off) => BreakerState::Closed.name(),
            _ => self.state.name(),
        }
    }
}

impl CellView {
    /// Whether the backend gets no connections now, or only probes.
    pub fn is_held_back(&self, mode: BreakerMode) -> bool {
        let in_force = self.in_force(mode);
        in_force == BreakerMode::ForcedOpen.name()
            || mode != BreakerMode::Observe
                && (in_force == BreakerState::Open.name() || in_force == BreakerState::HalfOpen.name())
    }
}

/// Every name that [`CellView::in_force`] gives.
pub const IN_FORCE: [&str; 5] = [
    BreakerState::Closed.name(),
    BreakerState::Open.name(),
    BreakerState::HalfOpen.name(),
    BreakerMode::ForcedOpen.name(),
    BreakerMode::ForcedClosed.name(),
];

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::breaker::period_ticks;
    use agent_ebpf::abi::{CellWord, WindowWord};

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const NOW_NS: u64 = 1_000 * SECOND_NS;

    fn policy() -> BreakerPolicy {
        BreakerPolicy { jitter_percent: 0, ..BreakerPolicy::default() }
    }

    fn view(cell: CellWord, verdict: Verdict, now_ns: u64) -> CellView {
        let state = BackendState { cell, ..BackendState::default() };
        CellView::new(&state, &policy(), verdict, now_ns)
    }

    #[test]
    fn an_open_cell_says_when_it_may_be_probed() {
        let open = CellWord::open(2, ticks(NOW_NS) + period_ticks(3_000));
        let soon = view(open, Verdict::NONE, NOW_NS);
        assert_eq!((soon.state, soon.opened), (BreakerState::Open, 2));
        let wait_ms = soon.next_probe_in_ms.expect("it is open");
        assert!((2_990..=3_010).contains(&wait_ms), "{wait_ms}");
        let due = view(open, Verdict::NONE, NOW_NS + 4 * SECOND_NS);
        assert_eq!((due.state, due.next_probe_in_ms), (BreakerState::Open, Some(0)));
    }

    #[test]
    fn a_half_open_period_that_is_over_is_shown_as_what_it_became() {
        let half_open = CellWord::half_open(1, ticks(NOW_NS) + period_ticks(1_000));
        assert_eq!(view(half_open, Verdict::NONE, NOW_NS).state, BreakerState::HalfOpen);
        let later = NOW_NS + 2 * SECOND_NS;
        assert_eq!(view(half_open, Verdict::NONE, later).state, BreakerState::Open);
        let proven = half_open.with_probes_established(1);
        assert_eq!(view(proven, Verdict::NONE, later).state, BreakerState::Closed);
    }

    #[test]
    fn the_window_counts_what_is_recent() {
        let mut state = BackendState::default();
        let epoch = window::epoch(&policy(), NOW_NS);
        state.window[window::bucket(epoch)] = WindowWord::new(window::round(epoch), 7, 2, 1);
        let now = CellView::new(&state, &policy(), Verdict::NONE, NOW_NS);
        assert_eq!((now.good, now.failed, now.slow), (7, 2, 1));
        let later = CellView::new(&state, &policy(), Verdict::NONE, NOW_NS + 60 * SECOND_NS);
        assert_eq!((later.good, later.failed, later.slow), (0, 0, 0));
    }

    #[test]
    fn an_order_stands_over_the_cell_until_it_ends() {
        let open = CellWord::open(1, ticks(NOW_NS) + period_ticks(30_000));
        let closed = view(open, Order::Close.verdict(NOW_NS + 5 * SECOND_NS), NOW_NS);
        assert_eq!(closed.in_force(BreakerMode::Enforce), "forced_closed");
        let ends_in_ms = closed.order.expect("an order").ends_in_ms;
        assert!((4_999..=5_000).contains(&ends_in_ms), "{ends_in_ms}");
        let ended = view(open, Order::Close.verdict(NOW_NS + 5 * SECOND_NS), NOW_NS + 6 * SECOND_NS);
        assert_eq!((ended.order, ended.in_force(BreakerMode::Enforce)), (None, "open"));
        let forced = view(CellWord::CLEAN, Order::Open.verdict(NOW_NS + SECOND_NS), NOW_NS);
        assert_eq!(forced.in_force(BreakerMode::Off), "forced_open");
        let lifted = view(CellWord::CLEAN, Order::Auto.verdict(NOW_NS + SECOND_NS), NOW_NS);
        assert_eq!((lifted.order, lifted.in_force(BreakerMode::ForcedOpen)), (None, "forced_open"));
    }

    #[test]
    fn an_order_holds_for_a_millisecond_to_a_day() {
        let request = |order, for_ms| OrderRequest { service: "a".into(), backend: None, order, for_ms };
        assert_eq!(request(Order::Open, None).duration_ms(), Ok(Some(300_000)));
        assert_eq!(request(Order::Open, Some(MAX_ORDER_MS)).duration_ms(), Ok(Some(MAX_ORDER_MS)));
        for for_ms in [0, MAX_ORDER_MS + 1, u64::MAX] {
            assert_eq!(
                request(Order::Close, Some(for_ms)).duration_ms(),
                Err(OrderError::Duration { for_ms })
            );
        }
        assert_eq!(request(Order::Auto, Some(0)).duration_ms(), Ok(None));
    }
}
