//! What an answer, or its absence, says of the backend. Knows the policy, the status and the time it took; how these were
//! read off a connection is the programs' business.

use super::signal::{self, Signal};
use crate::abi::{AppProtocol, BreakerPolicy};
use crate::decide::l7::is_server_error;

/// What an answer says of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It counts as this failure.
    Failed(Signal),
    /// It was in order, but took long.
    Slow,
    /// It was in order.
    Good,
}

/// Whether the policy looks at answers at all. If it does, a connection's own end counts as no success.
#[inline(always)]
pub const fn is_judged(policy: &BreakerPolicy) -> bool {
    signal::counts(policy, Signal::Http5xx)
        || signal::counts(policy, Signal::GrpcStatus)
        || signal::counts(policy, Signal::NoAnswer)
        || times_answers(policy)
}

#[inline(always)]
const fn times_answers(policy: &BreakerPolicy) -> bool {
    policy.slow_percent > 0 && policy.slow_answer_us > 0
}

/// Judges an answer that began `duration_us` after its request.
///
/// One that comes after its deadline is as bad as none, whatever it says: whoever asked has had to wait.
#[inline(always)]
pub const fn judge(
    policy: &BreakerPolicy,
    protocol: AppProtocol,
    status: u16,
    duration_us: u64,
) -> Judgement {
    if is_overdue(policy, duration_us) {
        return Judgement::Failed(Signal::NoAnswer);
    }
    if let Some(signal) = error_signal(protocol)
        && is_server_error(protocol, status)
        && signal::counts(policy, signal)
    {
        return Judgement::Failed(signal);
    }
    if times_answers(policy) && duration_us > policy.slow_answer_us as u64 {
        return Judgement::Slow;
    }
    Judgement::Good
}

/// What an error of a server is called in policies; `None` where no policy asks about this protocol's.
#[inline(always)]
const fn error_signal(protocol: AppProtocol) -> Option<Signal> {
    match protocol {
        AppProtocol::Http1 | AppProtocol::Http2 => Some(Signal::Http5xx),
        AppProtocol::Grpc => Some(Signal::GrpcStatus),
        _ => None,
    }
}

/// Whether a request that waited so long without an answer counts as a failure.
#[inline(always)]
pub const fn is_overdue(policy: &BreakerPolicy, waited_us: u64) -> bool {
    signal::counts(policy, Signal::NoAnswer) && waited_us >= policy.answer_timeout_us as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SignalSet;
    use super::*;

    fn judge_http(policy: &BreakerPolicy, status: u16, duration_us: u64) -> Judgement {
        judge(policy, AppProtocol::Http1, status, duration_us)
    }

    fn policy(signals: &[Signal]) -> BreakerPolicy {
        BreakerPolicy {
            signals: signals.iter().copied().fold(SignalSet::NONE, SignalSet::with).0,
            answer_timeout_us: 2_000,
            ..BreakerPolicy::default()
        }
    }

    #[test]
    fn by_default_answers_are_not_looked_at() {
        let policy = BreakerPolicy::default();
        assert!(!is_judged(&policy));
        assert_eq!(judge_http(&policy, 503, u64::MAX), Judgement::Good);
    }

    #[test]
    fn a_status_counts_from_500_on_and_where_the_policy_says_so() {
        let counting = policy(&[Signal::Http5xx]);
        assert!(is_judged(&counting));
        assert_eq!(judge_http(&counting, 499, 0), Judgement::Good);
        assert_eq!(judge_http(&counting, 500, 0), Judgement::Failed(Signal::Http5xx));
        assert_eq!(judge_http(&policy(&[Signal::NoAnswer]), 500, 0), Judgement::Good);
    }

    #[test]
    fn a_call_counts_by_the_status_of_its_own() {
        let counting = policy(&[Signal::GrpcStatus]);
        assert!(is_judged(&counting));
        let failed = |status| judge(&counting, AppProtocol::Grpc, status, 0) != Judgement::Good;
        let failures: Vec<u16> = (0..=16).filter(|&status| failed(status)).collect();
        assert_eq!(failures, [2, 4, 8, 13, 14, 15]);
        let of_http = judge(&counting, AppProtocol::Http2, 503, 0);
        assert_eq!(of_http, Judgement::Good, "another signal");
        assert_eq!(judge(&policy(&[Signal::Http5xx]), AppProtocol::Grpc, 14, 0), Judgement::Good);
        let http2 = judge(&policy(&[Signal::Http5xx]), AppProtocol::Http2, 503, 0);
        assert_eq!(http2, Judgement::Failed(Signal::Http5xx));
    }

    #[test]
    fn an_answer_after_its_deadline_is_none() {
        let counting = policy(&[Signal::NoAnswer, Signal::Http5xx]);
        assert_eq!(judge_http(&counting, 200, 1_999), Judgement::Good);
        assert_eq!(judge_http(&counting, 200, 2_000), Judgement::Failed(Signal::NoAnswer));
        assert_eq!(judge_http(&counting, 500, 2_000), Judgement::Failed(Signal::NoAnswer));
        assert!(!is_overdue(&policy(&[Signal::Http5xx]), u64::MAX));
    }

    #[test]
    fn slow_answers_count_in_the_slow_ratio_and_only_with_one() {
        let timing = BreakerPolicy { slow_percent: 50, slow_answer_us: 100, ..policy(&[]) };
        assert!(is_judged(&timing));
        assert_eq!(judge_http(&timing, 200, 100), Judgement::Good);
        assert_eq!(judge_http(&timing, 200, 101), Judgement::Slow);
        assert!(!is_judged(&BreakerPolicy { slow_percent: 0, ..timing }));
        assert_eq!(
            judge_http(&BreakerPolicy { slow_answer_us: 0, ..timing }, 200, u64::MAX),
            Judgement::Good
        );
    }

    proptest! {
        #[test]
        fn what_is_not_judged_is_never_held_against_a_backend(
            signals in any::<u32>(), slow_percent in 0_u8..=100, slow_answer_us in any::<u32>(),
            answer_timeout_us in any::<u32>(), status in 100_u16..600, duration_us in any::<u64>(),
        ) {
            let policy = BreakerPolicy {
                signals, slow_percent, slow_answer_us, answer_timeout_us, ..BreakerPolicy::default()
            };
            let judgement = judge_http(&policy, status, duration_us);
            if !is_judged(&policy) {
                prop_assert_eq!(judgement, Judgement::Good);
            }
            if let Judgement::Failed(signal) = judgement {
                prop_assert!(signal::counts(&policy, signal));
            }
        }
    }
}
