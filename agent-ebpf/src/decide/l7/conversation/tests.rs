//! Requests that wait for their answers, against a queue; words found in eight bytes at a time, against going over them.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::abi::conversation::SLACK_BYTES;

#[derive(Clone, Copy, Debug)]
enum Turn {
    Ask(u8),
    Answer,
    Later,
}

proptest! {
    /// Whatever is asked and answered in order: each answer is that of the oldest request without one, with its operation and
    /// its time. Runs of the same operation take one place.
    #[test]
    fn answers_in_order_are_those_of_the_oldest_requests(
        turns in prop::collection::vec(
            prop_oneof![(0_u8..3).prop_map(Turn::Ask), Just(Turn::Answer), Just(Turn::Later)], 0..400),
        began in prop_oneof![Just(0_u64), Just((1 << 44) - 3), any::<u64>()],
    ) {
        let mut conversation = Conversation::NEW;
        let mut model: VecDeque<(u8, u64)> = VecDeque::new();
        let mut now = began;
        let mut has_answered = false;
        for turn in turns {
            match turn {
                Turn::Later => (now, has_answered) = (now.wrapping_add(1), false),
                // In the kernel an answer comes in a packet of its own, so that time has passed.
                Turn::Ask(_) if has_answered => {}
                Turn::Ask(operation) => {
                    let runs = model.iter().zip(model.iter().skip(1)).filter(|(one, next)| one != next).count()
                        + usize::from(!model.is_empty());
                    let is_same = model.back() == Some(&(operation, now));
                    let has_room = ask_in_order(&mut conversation, operation, now);
                    prop_assert_eq!(has_room, is_same || runs < MAX_FLIGHTS);
                    if has_room {
                        model.push_back((operation, now));
                    }
                }
                Turn::Answer => {
                    has_answered = true;
                    let expected = model.pop_front().map(|(operation, asked)| Answered {
                        operation, status: 7, duration_ns: now.wrapping_sub(asked),
                    });
                    prop_assert_eq!(answer(&mut conversation, 7, now), expected);
                }
            }
        }
    }
}

#[test]
fn a_tag_finds_its_request_and_older_ones_are_never_answered() {
    let mut conversation = Conversation::NEW;
    for tag in 4_090..4_100 {
        assert!(ask(&mut conversation, 1, tag, u64::from(tag)));
    }
    let found = answer_tagged(&mut conversation, 4_097, 0, 4_100);
    assert_eq!(found, Some(Answered { operation: 1, status: 0, duration_ns: 3 }));
    assert_eq!(waiting(&conversation), 2, "those after it still wait");
    assert_eq!(answer_tagged(&mut conversation, 4_097, 0, 4_100), None, "an answer to an older one, again");
    assert_eq!(waiting(&conversation), 2);
    assert_eq!(answer_tagged(&mut conversation, 4_101, 0, 4_101), None, "one that was not remembered");
    assert_eq!(waiting(&conversation), 0, "answers come in order: those before it never will be answered");
}

#[test]
fn words_are_compared_in_capitals_and_as_a_whole() {
    let mut room = [0; ROOM_BYTES + SLACK_BYTES];
    room[..12].copy_from_slice(b"select*from ");
    assert_eq!(letters(&room, 0, 12), word(b"SELECT"));
    assert_eq!(letters(&room, 0, 3), word(b"SEL"), "not behind the end");
    assert_eq!(letters(&room, 7, 12), word(b"FROM"));
    room[..9].copy_from_slice(b"TRUNCATED");
    assert_eq!(letters(&room, 0, 9), word(b"TRUNCATE"));
}

proptest! {
    /// Words of eight bytes find the letters that going over them one by one does.
    #[test]
    fn letters_are_those_that_going_over_them_finds(
        bytes in prop::collection::vec(prop_oneof![3 => prop::sample::select(&b"AZaz"[..]), 1 => any::<u8>()], 8),
        length in 0_usize..12,
    ) {
        let mut room = [b'q'; ROOM_BYTES + SLACK_BYTES];
        room[..8].copy_from_slice(&bytes);
        let expected: Vec<u8> = room[..length.min(8)].iter().take_while(|byte| byte.is_ascii_alphabetic())
            .map(u8::to_ascii_uppercase).collect();
        prop_assert_eq!(letters(&room, 0, length), word(&expected));
        prop_assert_eq!(count_letters(&room, 0, length), expected.len());
    }

    /// The bytes before the first that was found.
    #[test]
    fn what_lies_before_the_first_is_found(bytes in prop::array::uniform8(prop_oneof![3 => 0_u8..0x80, 1 => any::<u8>()])) {
        let first = bytes.iter().position(|byte| byte & 0x80 != 0).unwrap_or(8);
        let expected: [u8; 8] = std::array::from_fn(|at| if at < first { 0xff } else { 0 });
        prop_assert_eq!(before_first(u64::from_le_bytes(bytes)), u64::from_le_bytes(expected));
    }
}
