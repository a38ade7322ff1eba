//! How a connection ended, told from what the kernel shows of its socket.

use crate::abi::connection::{CLOSED_BY_APPLICATION, RESET_BY_POLICY, TIMED_OUT};
use crate::abi::{CloseReason, ConnectFailure};

/// TCP states by number (`include/net/tcp_states.h`; part of the kernel's BPF interface as `BPF_TCP_*`).
pub mod tcp_state {
    /// Data may flow both ways.
    pub const ESTABLISHED: u8 = 1;
    /// A SYN was sent.
    pub const SYN_SENT: u8 = 2;
    /// This side said it is done; not yet acknowledged.
    pub const FIN_WAIT1: u8 = 4;
    /// This side is done and that is acknowledged.
    pub const FIN_WAIT2: u8 = 5;
    /// Both sides are done.
    pub const TIME_WAIT: u8 = 6;
    /// No connection.
    pub const CLOSE: u8 = 7;
    /// The other side said it is done.
    pub const CLOSE_WAIT: u8 = 8;
    /// Both sides are done; the peer has not acknowledged that this one is.
    pub const LAST_ACK: u8 = 9;
    /// Both sides said so at the same time.
    pub const CLOSING: u8 = 11;
}

/// Payload bytes the peer acknowledged. The kernel's count takes in the SYN and, once acknowledged, the FIN,
/// which occupy a sequence number each.
#[inline(always)]
pub const fn payload_sent(bytes_acked: u64, state: u8) -> u64 {
    use tcp_state::{CLOSING, FIN_WAIT2, LAST_ACK, TIME_WAIT};
    let fin = matches!(state, FIN_WAIT2 | TIME_WAIT | LAST_ACK | CLOSING);
    bytes_acked.saturating_sub(1 + fin as u64)
}

/// Payload bytes received. The kernel's count takes in the peer's FIN, so what must be told is whether one came.
///
/// In FIN_WAIT2 it depends: a socket goes from there to CLOSE on the peer's FIN, but also when its owner leaves
/// before that. Then either the owner's close came in that very state, or nothing at all was received since the
/// state was entered (`received_at_fin_low`), because what arrives for a socket without an owner resets it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "compared modulo 2^32")]
pub const fn payload_received(
    bytes_received: u64,
    state: u8,
    state_at_close: u8,
    received_at_fin_low: u32,
) -> u64 {
    use tcp_state::{CLOSE_WAIT, CLOSING, FIN_WAIT2, LAST_ACK, TIME_WAIT};
    let fin = match state {
        CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT => true,
        FIN_WAIT2 => state_at_close != FIN_WAIT2 && bytes_received as u32 != received_at_fin_low,
        _ => false,
    };
    bytes_received.saturating_sub(fin as u64)
}

/// Why a handshake failed, at the moment its socket goes from SYN_SENT to CLOSE.
///
/// Not every kernel shows the socket's error to these programs, so it is told from its traces: giving up is
/// announced by the retransmission callback before; a reset is the only segment a closed port sends, and the
/// socket counts it; an application that leaves closes its socket first, or dissolves the connection, which is no error
/// of the socket's. What is left is an ICMP error.
#[inline(always)]
pub const fn connect_failure(marks: u8, segments_received: u32, met_no_error: bool) -> ConnectFailure {
    if marks & RESET_BY_POLICY != 0 {
        ConnectFailure::Drained
    } else if marks & TIMED_OUT != 0 {
        ConnectFailure::Timeout
    } else if segments_received > 0 {
        ConnectFailure::Refused
    } else if marks & CLOSED_BY_APPLICATION != 0 || met_no_error {
        ConnectFailure::Local
    } else {
        ConnectFailure::Unreachable
    }
}

/// Why an established connection ended, at the moment its socket goes from `old_state` to CLOSE.
///
/// A socket that leaves ESTABLISHED or CLOSE_WAIT for CLOSE without passing through a FIN was reset: by this
/// side if the application closed it in that very state (unread data, or SO_LINGER of 0), else by the peer.
/// In FIN_WAIT1 the FIN was not acknowledged yet, so a sudden end is the peer's reset. A peer's reset is an error of the
/// socket's; where it is known to have met none, the application dissolved the connection (`connect()` with `AF_UNSPEC`).
#[inline(always)]
pub const fn close_reason(old_state: u8, marks: u8, state_at_close: u8, met_no_error: bool) -> CloseReason {
    if marks & RESET_BY_POLICY != 0 {
        return CloseReason::Drained;
    }
    if marks & TIMED_OUT != 0 {
        return CloseReason::Timeout;
    }
    match old_state {
        tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT => {
            if met_no_error || (marks & CLOSED_BY_APPLICATION != 0 && state_at_close == old_state) {
                CloseReason::RstLocal
            } else {
                CloseReason::RstRemote
            }
        }
        tcp_state::FIN_WAIT1 if met_no_error => CloseReason::RstLocal,
        tcp_state::FIN_WAIT1 => CloseReason::RstRemote,
        tcp_state::SYN_SENT | tcp_state::CLOSE => CloseReason::Other,
        _ => CloseReason::Fin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_told_by_its_traces() {
        for (marks, segments, expected) in [
            (0, 1, ConnectFailure::Refused),
            (TIMED_OUT, 0, ConnectFailure::Timeout),
            // A peer that answers late with a reset does not undo the time-out.
            (TIMED_OUT, 1, ConnectFailure::Timeout),
            (CLOSED_BY_APPLICATION, 0, ConnectFailure::Local),
            (0, 0, ConnectFailure::Unreachable),
        ] {
            assert_eq!(
                connect_failure(marks, segments, false),
                expected,
                "marks {marks}, segments {segments}"
            );
        }
    }

    #[test]
    fn a_connection_that_ends_in_good_order_ends_by_fin() {
        // FIN_WAIT2, CLOSING, LAST_ACK, TIME_WAIT
        for state in [5, 11, 9, 6] {
            assert_eq!(close_reason(state, CLOSED_BY_APPLICATION, 1, false), CloseReason::Fin);
        }
    }

    #[test]
    fn a_reset_is_ours_only_if_the_application_closed_in_that_state() {
        use tcp_state::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT1};
        assert_eq!(
            close_reason(ESTABLISHED, CLOSED_BY_APPLICATION, ESTABLISHED, false),
            CloseReason::RstLocal
        );
        assert_eq!(close_reason(CLOSE_WAIT, CLOSED_BY_APPLICATION, CLOSE_WAIT, false), CloseReason::RstLocal);
        assert_eq!(close_reason(ESTABLISHED, 0, 0, false), CloseReason::RstRemote);
        assert_eq!(close_reason(CLOSE_WAIT, 0, 0, false), CloseReason::RstRemote);
        assert_eq!(
            close_reason(FIN_WAIT1, CLOSED_BY_APPLICATION, ESTABLISHED, false),
            CloseReason::RstRemote
        );
    }

    #[test]
    fn a_connection_that_ends_without_an_error_was_ended_by_its_application() {
        use tcp_state::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT1};
        for state in [ESTABLISHED, CLOSE_WAIT, FIN_WAIT1] {
            assert_eq!(close_reason(state, 0, 0, true), CloseReason::RstLocal);
        }
        assert_eq!(connect_failure(0, 0, true), ConnectFailure::Local);
        // What the traces say of the peer stands.
        assert_eq!(connect_failure(0, 1, true), ConnectFailure::Refused);
        assert_eq!(connect_failure(TIMED_OUT, 0, true), ConnectFailure::Timeout);
    }

    #[test]
    fn sequence_numbers_of_syn_and_fin_are_no_payload() {
        use tcp_state::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, LAST_ACK};
        assert_eq!(payload_sent(4, ESTABLISHED), 3);
        assert_eq!(payload_sent(5, LAST_ACK), 3);
        assert_eq!(payload_received(7, ESTABLISHED, 0, 0), 7);
        assert_eq!(payload_received(8, CLOSE_WAIT, 0, 0), 7);
        // The peer's FIN came after ours was acknowledged.
        assert_eq!(payload_received(8, FIN_WAIT2, ESTABLISHED, 7), 7);
        // The owner left before the peer was done: at once, or later in that state.
        assert_eq!(payload_received(7, FIN_WAIT2, ESTABLISHED, 7), 7);
        assert_eq!(payload_received(9, FIN_WAIT2, FIN_WAIT2, 7), 9);
    }

    #[test]
    fn what_the_policy_resets_is_told_from_every_other_end() {
        for marks in [RESET_BY_POLICY, RESET_BY_POLICY | TIMED_OUT | CLOSED_BY_APPLICATION] {
            assert_eq!(connect_failure(marks, 1, false), ConnectFailure::Drained);
            for state in 1..12 {
                assert_eq!(close_reason(state, marks, 1, false), CloseReason::Drained);
            }
        }
    }

    #[test]
    fn giving_up_retransmitting_is_a_timeout_whatever_the_state() {
        for state in 1..12 {
            assert_eq!(close_reason(state, TIMED_OUT, 0, false), CloseReason::Timeout);
        }
    }
}
