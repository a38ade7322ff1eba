//! What can be held against a backend. How a signal is seen is the programs' business; whether it counts is the
//! policy's.

use crate::abi::{BreakerPolicy, named_enum};

named_enum! {
    /// Something that happened to a connection and may count as a failure of its backend.
    pub enum Signal {
        /// The backend answered the handshake with a reset.
        Refused = 0 => "refused",
        /// No answer to any SYN.
        Timeout = 1 => "timeout",
        /// The network said there is no way there.
        Unreachable = 2 => "unreachable",
        /// A reset before the backend's first byte.
        ResetEarly = 3 => "reset_early",
        /// A reset after the backend's first byte.
        Reset = 4 => "reset",
        /// An open connection on which retransmission gave up.
        RetransmissionTimeout = 5 => "retransmission_timeout",
        /// A handshake that took longer than the policy's `slow_connect_us`.
        SlowConnect = 6 => "slow_connect",
        /// An HTTP answer with a status of 500 or more.
        Http5xx = 7 => "http_5xx",
        /// A gRPC status that blames the server.
        GrpcStatus = 8 => "grpc_status",
        /// An answer that took too long.
        SlowAnswer = 9 => "slow_answer",
        /// No answer to a request within its deadline.
        NoAnswer = 10 => "no_answer",
    }
}

/// The signals that count as failures; bit *k* is the signal of number *k*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(pub u32);

impl SignalSet {
    /// No signal.
    pub const NONE: Self = Self(0);

    /// What a backend can hardly be innocent of: refused, timeout, unreachable, reset before the first byte.
    pub const DEFAULT: Self = Self::NONE
        .with(Signal::Refused)
        .with(Signal::Timeout)
        .with(Signal::Unreachable)
        .with(Signal::ResetEarly);

    /// This set and one more.
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << signal as u32)
    }

    /// Whether the signal counts.
    #[inline(always)]
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << signal as u32) != 0
    }
}

/// Whether the policy holds this signal against the backend. For one it does not, the connection's probe, if it
/// has one, is given back.
#[inline(always)]
pub const fn counts(policy: &BreakerPolicy, signal: Signal) -> bool {
    SignalSet(policy.signals).contains(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_what_happened_before_the_backends_first_byte_counts() {
        let counted: Vec<Signal> =
            Signal::ALL.iter().copied().filter(|&signal| counts(&BreakerPolicy::default(), signal)).collect();
        assert_eq!(counted, [Signal::Refused, Signal::Timeout, Signal::Unreachable, Signal::ResetEarly]);
    }

    #[test]
    fn a_set_holds_exactly_the_signals_put_in() {
        for &signal in Signal::ALL {
            let set = SignalSet::NONE.with(signal);
            for &other in Signal::ALL {
                assert_eq!(set.contains(other), signal == other, "{signal:?} {other:?}");
            }
        }
    }
}
