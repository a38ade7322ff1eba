//! Puts the segments of one direction into the order of their bytes.

use crate::abi::request::Position;

/// How much of a segment is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Bytes at the beginning that were read before.
    pub skip: u32,
    /// Bytes after these; 0: none is new, or it is not their turn.
    pub length: u32,
}

impl Fresh {
    const NONE: Self = Self { skip: 0, length: 0 };
}

/// The position of a direction of which this segment is the first that is seen.
#[inline(always)]
pub const fn start(sequence: u32) -> Position {
    Position { next: sequence, ahead_start: 0, ahead_end: 0 }
}

/// Whether this place comes after the next byte that is awaited: there is a gap between them.
#[inline(always)]
pub const fn is_before(position: &Position, sequence: u32) -> bool {
    sequence.wrapping_sub(position.next).cast_signed() > 0
}

/// Takes in a segment of `length` bytes, and tells which of them are the next ones.
///
/// A segment that comes before its turn is not read: the kernel hands it on later without asking again. It is
/// remembered as one stretch, so that what comes after it is not taken for another gap. Of two gaps in the same flight the
/// second is then passed over, with what it held.
#[inline(always)]
pub const fn advance(position: &mut Position, sequence: u32, length: u32) -> Fresh {
    let end = sequence.wrapping_add(length);
    let ahead = sequence.wrapping_sub(position.next).cast_signed();
    if ahead > 0 {
        if position.ahead_start == position.ahead_end {
            position.ahead_start = sequence;
            position.ahead_end = end;
        } else if end.wrapping_sub(position.ahead_end).cast_signed() > 0 {
            position.ahead_end = end;
        }
        return Fresh::NONE;
    }
    if end.wrapping_sub(position.next).cast_signed() <= 0 {
        return Fresh::NONE;
    }
    let skip = ahead.wrapping_neg().cast_unsigned();
    position.next = end;
    if position.ahead_start != position.ahead_end && end.wrapping_sub(position.ahead_start).cast_signed() >= 0
    {
        if position.ahead_end.wrapping_sub(end).cast_signed() > 0 {
            position.next = position.ahead_end;
        }
        position.ahead_end = position.ahead_start;
    }
    Fresh { skip, length: length.wrapping_sub(skip) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fresh(skip: u32, length: u32) -> Fresh {
        Fresh { skip, length }
    }

    #[test]
    fn segments_in_order_are_new_as_a_whole() {
        let mut position = start(u32::MAX - 4);
        assert_eq!(advance(&mut position, u32::MAX - 4, 10), fresh(0, 10), "across the end of the numbers");
        assert_eq!(advance(&mut position, 5, 10), fresh(0, 10));
        assert_eq!(position.next, 15);
    }

    #[test]
    fn what_comes_again_is_not_new_and_what_overlaps_is_new_in_part() {
        let mut position = start(100);
        advance(&mut position, 100, 50);
        assert_eq!(advance(&mut position, 100, 50), Fresh::NONE);
        assert_eq!(advance(&mut position, 120, 10), Fresh::NONE);
        assert_eq!(advance(&mut position, 140, 30), fresh(10, 20));
        assert_eq!(position.next, 170);
    }

    #[test]
    fn a_place_behind_a_gap_is_told_from_the_next_one_also_across_the_end_of_the_numbers() {
        let position = start(u32::MAX - 1);
        assert!(!is_before(&position, u32::MAX - 1) && !is_before(&position, u32::MAX - 100));
        assert!(is_before(&position, u32::MAX) && is_before(&position, 5));
    }

    #[test]
    fn what_comes_before_its_turn_waits_for_the_gap_to_close() {
        let mut position = start(0);
        assert_eq!(advance(&mut position, 10, 10), Fresh::NONE);
        assert_eq!(advance(&mut position, 20, 10), Fresh::NONE);
        assert_eq!(advance(&mut position, 0, 10), fresh(0, 10), "the one that was missing");
        assert_eq!(position.next, 30, "and what came ahead is behind");
        assert_eq!(advance(&mut position, 30, 5), fresh(0, 5));
    }

    #[test]
    fn a_segment_that_fills_more_than_the_gap_is_taken_whole() {
        let mut position = start(0);
        advance(&mut position, 10, 10);
        assert_eq!(advance(&mut position, 0, 40), fresh(0, 40));
        assert_eq!(position.next, 40);
        assert_eq!(position.ahead_start, position.ahead_end);
    }

    proptest! {
        /// Whatever the order in which segments of one flight come, and however often: the position ends behind the last, and
        /// no byte is told to be new twice.
        #[test]
        fn every_flight_ends_at_its_end(
            start_at: u32,
            lengths in prop::collection::vec(1_u32..2_000, 1..12),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut begins = Vec::new();
            let mut at = start_at;
            for length in &lengths {
                begins.push((at, *length));
                at = at.wrapping_add(*length);
            }
            let mut position = start(start_at);
            let mut new = 0_u64;
            let shuffled: Vec<_> = order.iter().map(|index| *index.get(&begins)).collect();
            for (sequence, length) in shuffled.into_iter().chain(begins.iter().copied()) {
                let fresh = advance(&mut position, sequence, length);
                prop_assert!(fresh.skip + fresh.length == length || fresh == Fresh::NONE);
                new += u64::from(fresh.length);
            }
            prop_assert_eq!(position.next, at);
            prop_assert!(new <= u64::from(at.wrapping_sub(start_at)));
        }
    }
}
