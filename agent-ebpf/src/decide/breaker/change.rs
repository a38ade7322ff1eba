//! What an event changed in a breaker, as the programs count it and tell it.

use crate::abi::{BreakerState, CellWord, TransitionReason};

/// A change of state, from the stored one to the new one.
///
/// Where a deadline had passed unseen, the steps are told as one, with the last one's reason: half-open to
/// half-open is a period without an answer, the open time after it, and a new period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: BreakerState,
    /// The state after.
    pub to: BreakerState,
    /// Why.
    pub reason: TransitionReason,
}

/// What an event changed beside the counts: the state, or nothing though it would have opened if one more backend
/// might be ejected. One word, all of it always written, for the same reason as with `Admission`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change(u32);

const MOVED: u32 = 1;
const CAPPED: u32 = 2;

impl Change {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The state.
    #[inline(always)]
    pub const fn moved(from: BreakerState, to: BreakerState, reason: TransitionReason) -> Self {
        Self::numbered(from as u32, to as u32, reason)
    }

    #[inline(always)]
    pub(super) const fn numbered(from: u32, to: u32, reason: TransitionReason) -> Self {
        Self(MOVED | from << 8 | to << 16 | (reason as u32) << 24)
    }

    /// Nothing, but it would have opened for this reason.
    #[inline(always)]
    pub const fn capped_by(reason: TransitionReason) -> Self {
        Self(CAPPED | (reason as u32) << 24)
    }

    /// From one word to the next: the state, if it is another one and there is a reason for it.
    #[inline(always)]
    pub(super) const fn between(stored: CellWord, new: CellWord, reason: Option<TransitionReason>) -> Self {
        match reason {
            Some(reason) if stored.state_number() != new.state_number() => {
                Self::numbered(stored.state_number(), new.state_number(), reason)
            }
            _ => Self::NONE,
        }
    }

    /// All of it as a number, for a program to take apart without branches: 1 in the low byte where the state
    /// changed, then the states before and after and the reason, a byte each.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        self.0
    }

    /// The transition, if the state changed.
    #[inline(always)]
    pub const fn transition(self) -> Option<Transition> {
        if self.0 & 0xff != MOVED {
            return None;
        }
        match self.reason() {
            Some(reason) => Some(Transition { from: state(self.0 >> 8), to: state(self.0 >> 16), reason }),
            None => None,
        }
    }

    /// Why it would have opened, if only the ejection cap kept it from that.
    #[inline(always)]
    pub const fn capped(self) -> Option<TransitionReason> {
        if self.0 & 0xff == CAPPED { self.reason() } else { None }
    }

    /// Whether the backend was not ejected (open or half-open) and is now.
    #[inline(always)]
    pub const fn ejects(self) -> bool {
        self.0 & 0xff == MOVED && self.0 >> 8 & 0xff == 0 && self.0 >> 16 & 0xff != 0
    }

    /// Whether the backend was ejected and is not any more. The window is to be emptied: it tells of the time before.
    #[inline(always)]
    pub const fn returns(self) -> bool {
        self.0 & 0xff == MOVED && self.0 >> 8 & 0xff != 0 && self.0 >> 16 & 0xff == 0
    }

    #[inline(always)]
    const fn reason(self) -> Option<TransitionReason> {
        TransitionReason::from_raw((self.0 >> 24) as u8)
    }
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the low byte is the state")]
const fn state(byte: u32) -> BreakerState {
    match BreakerState::from_raw(byte as u8) {
        Some(state) => state,
        None => BreakerState::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_gives_back_what_was_put_in() {
        for (&from, &to) in
            BreakerState::ALL.iter().flat_map(|from| BreakerState::ALL.iter().map(move |to| (from, to)))
        {
            for &reason in TransitionReason::ALL {
                let change = Change::moved(from, to, reason);
                assert_eq!(change.transition(), Some(Transition { from, to, reason }));
                assert_eq!(change.capped(), None);
                assert_eq!(Change::capped_by(reason).capped(), Some(reason));
                assert_eq!(Change::capped_by(reason).transition(), None);
            }
        }
        assert_eq!((Change::NONE.transition(), Change::NONE.capped()), (None, None));
    }

    #[test]
    fn a_change_says_whether_the_backend_was_ejected_or_returned() {
        use BreakerState::{Closed, HalfOpen, Open};
        let all = [Closed, Open, HalfOpen];
        for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
            let change = Change::moved(from, to, TransitionReason::Forced);
            assert_eq!(change.ejects(), from == Closed && to != Closed, "{from:?} {to:?}");
            assert_eq!(change.returns(), from != Closed && to == Closed, "{from:?} {to:?}");
        }
        for quiet in [Change::NONE, Change::capped_by(TransitionReason::Forced)] {
            assert!(!quiet.ejects() && !quiet.returns());
        }
    }
}
