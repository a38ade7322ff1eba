//! Inputs from seeds: bytes changed, cut out, doubled, moved, and mixed with another seed or with words the target
//! knows. Knows no format.

use proptest::prelude::*;

/// One change, at places given as parts of 2¹⁶ of the length.
#[derive(Clone, Debug)]
enum Change {
    Set(u16, u8),
    Flip(u16, u8),
    /// A whole word at an aligned place: numbers at which arithmetic turns over.
    Word(u16, u32),
    Insert(u16, Vec<u8>),
    Cut(u16, u16),
    Copy(u16, u16, u16),
    Repeat(u16, u16, u8),
}

/// The longest piece that is cut, copied or repeated, and the longest input that still grows.
const MAX_PIECE: usize = 64;
const MAX_INPUT: usize = 64 * 1024;

/// Inputs made from these seeds and tokens.
pub(crate) fn inputs(seeds: &[Vec<u8>], tokens: &[&str]) -> impl Strategy<Value = Vec<u8>> {
    let tokens: Vec<Vec<u8>> = tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
    let seed = prop::sample::select(seeds.to_vec());
    let other =
        prop::option::weighted(0.2, (prop::sample::select(seeds.to_vec()), any::<u16>(), any::<u16>()));
    (seed, other, prop::collection::vec(change(tokens), 0..8)).prop_map(|(mut input, other, changes)| {
        if let Some((other, at, from)) = other {
            input.truncate(place(&input, at));
            input.extend_from_slice(&other[place(&other, from)..]);
        }
        changes.iter().for_each(|change| apply(&mut input, change));
        input
    })
}

fn change(tokens: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    let at = any::<u16>;
    let byte =
        || prop_oneof![any::<u8>(), prop::sample::select(vec![0, 1, 9, 10, 13, 34, 39, 92, 127, 128, 255])];
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(u32::MAX - 1),
        Just(1 << 31),
        0_u32..16,
        any::<u32>()
    ];
    let token = prop_oneof![
        4 => prop::sample::select(tokens),
        1 => prop::collection::vec(any::<u8>(), 1..8),
        1 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
    ];
    prop_oneof![
        2 => (at(), byte()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (at(), word).prop_map(|(at, word)| Change::Word(at, word)),
        3 => (at(), token).prop_map(|(at, token)| Change::Insert(at, token)),
        2 => (at(), at()).prop_map(|(at, length)| Change::Cut(at, length)),
        2 => (at(), at(), at()).prop_map(|(from, length, to)| Change::Copy(from, length, to)),
        1 => (at(), at(), any::<u8>()).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
    ]
}

fn apply(input: &mut Vec<u8>, change: &Change) {
    let piece = |input: &[u8], at: u16, length: u16| {
        let from = place(input, at);
        let length = 1 + usize::from(length) % MAX_PIECE;
        from..(from + length).min(input.len())
    };
    match change {
        Change::Set(at, byte) => {
            let at = place(input, *at);
            if let Some(place) = input.get_mut(at) {
                *place = *byte;
            }
        }
        Change::Flip(at, bit) => {
            let at = place(input, *at);
            if let Some(place) = input.get_mut(at) {
                *place ^= 1 << bit;
            }
        }
        Change::Word(at, word) => {
            let at = place(input, *at) & !3;
            if let Some(place) = input.get_mut(at..at + 4) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        Change::Insert(at, bytes) => {
            let at = place(input, *at);
            input.splice(at..at, bytes.iter().copied());
        }
        Change::Cut(at, length) => {
            input.drain(piece(input, *at, *length));
        }
        Change::Copy(from, length, to) => {
            let bytes = input[piece(input, *from, *length)].to_vec();
            let to = place(input, *to);
            input.splice(to..to, bytes);
        }
        Change::Repeat(at, length, times) => {
            let piece = piece(input, *at, *length);
            let bytes = input[piece.clone()].repeat(usize::from(*times));
            if input.len() + bytes.len() <= MAX_INPUT {
                input.splice(piece.end..piece.end, bytes);
            }
        }
    }
}

fn place(input: &[u8], part: u16) -> usize {
    ((input.len() + 1) * usize::from(part)) >> 16
}
