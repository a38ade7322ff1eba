//! What is walked, against conversations that are written by a coder of HPACK nobody here wrote, cut anywhere.

use httlib_hpack::Encoder;
use proptest::prelude::*;

use super::*;
use crate::abi::http2::{
    BLOCK_ENDS_STREAM, BLOCK_IS_PROMISE, IS_ANSWERED, TOLD_GRPC, TOLD_UNKNOWN, UNKNOWN_VALUE, WINDOW_BYTES,
};
use crate::abi::{Connection, Method, RequestKey, Walker};

/// What a side says.
#[derive(Clone, Debug)]
enum Piece {
    Block { stream: u32, fields: Vec<(Vec<u8>, Vec<u8>, u8)>, ends: bool, cuts: Vec<usize>, extras: u8 },
    Promise { fields: Vec<(Vec<u8>, Vec<u8>, u8)> },
    Data { stream: u32, bytes: usize, ends: bool },
    Reset { stream: u32, code: u32 },
    Other { kind: u8, bytes: usize },
    Resize(u32),
}

/// What is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Block { stream: u32, ends: bool, status: u16, grpc_status: u16, method: u8, is_grpc: bool, promise: bool },
    End(u32),
    Reset(u32, u32),
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a length").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn fields_of(encoder: &mut Encoder<'_>, fields: &[(Vec<u8>, Vec<u8>, u8)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value, flags) in fields {
        encoder.encode((name.clone(), value.clone(), *flags), &mut block).expect("a field");
    }
    block
}

/// The pieces as bytes.
fn write(pieces: &[Piece]) -> Vec<u8> {
    let mut encoder = Encoder::with_dynamic_size(4_096);
    let mut bytes = frame(4, 0, 0, &[]);
    let mut resized = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Block { stream, fields, ends, cuts, extras } => {
                let mut block = std::mem::take(&mut resized);
                block.extend(fields_of(&mut encoder, fields));
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (block.len() + 1)).collect();
                cuts.sort_unstable();
                cuts.push(block.len());
                let mut from = 0;
                for (turn, &to) in cuts.iter().enumerate() {
                    let last = u8::from(turn + 1 == cuts.len()) * 4;
                    if turn > 0 {
                        bytes.extend(frame(9, last, *stream, &block[from..to]));
                    } else {
                        let mut payload = Vec::new();
                        let padding = if extras & 1 != 0 { usize::from(*extras) } else { 0 };
                        if extras & 1 != 0 {
                            payload.push(*extras);
                        }
                        if extras & 2 != 0 {
                            payload.extend([0, 0, 0, 3, 7]);
                        }
                        payload.extend(&block[..to]);
                        payload.extend(vec![0; padding]);
                        let flags = last | u8::from(*ends) | (extras & 1) << 3 | (extras & 2) << 4;
                        bytes.extend(frame(1, flags, *stream, &payload));
                    }
                    from = to;
                }
            }
            Piece::Promise { fields } => {
                let mut payload = vec![0, 0, 0, 2];
                payload.append(&mut resized);
                payload.extend(fields_of(&mut encoder, fields));
                bytes.extend(frame(5, 4, 1, &payload));
            }
            Piece::Data { stream, bytes: length, ends } => {
                bytes.extend(frame(0, u8::from(*ends), *stream, &vec![0x5a; *length]));
            }
            Piece::Reset { stream, code } => bytes.extend(frame(3, 0, *stream, &code.to_be_bytes())),
            Piece::Other { kind: 8, .. } => bytes.extend(frame(8, 0, 3, &[0, 0, 1, 0])),
            Piece::Other { kind: 6, .. } => bytes.extend(frame(6, 1, 0, &[7; 8])),
            Piece::Other { kind: 7, .. } => bytes.extend(frame(7, 0, 0, &[0; 11])),
            Piece::Other { kind, bytes: length } => bytes.extend(frame(*kind, 0xff, 5, &vec![1; *length])),
            Piece::Resize(size) => {
                resized.clear();
                encoder.update_max_dynamic_size(*size, &mut resized).expect("a size");
            }
        }
    }
    bytes
}

/// What is to be told, from the pieces alone.
fn expected(pieces: &[Piece]) -> Vec<Told> {
    let mut told = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Block { stream, fields, ends, .. } => told.push(block(*stream, fields, *ends, false)),
            Piece::Promise { fields } => told.push(block(1, fields, false, true)),
            Piece::Data { stream, ends: true, .. } => told.push(Told::End(*stream)),
            Piece::Reset { stream, code } => told.push(Told::Reset(*stream, *code)),
            _ => {}
        }
    }
    told
}

fn block(stream: u32, fields: &[(Vec<u8>, Vec<u8>, u8)], ends: bool, promise: bool) -> Told {
    let text = |name: &[u8]| {
        let found = fields.iter().rfind(|field| field.0 == name);
        found.map(|field| String::from_utf8(field.1.clone()).expect("a text"))
    };
    let number = |text: String, valid: std::ops::Range<u16>| {
        text.parse().ok().filter(|number| text.len() <= 3 && valid.contains(number))
    };
    let status = text(b":status").map_or(0, |text| number(text, 100..600).unwrap_or(UNKNOWN_VALUE));
    let grpc_status =
        text(b"grpc-status").map_or(0, |text| number(text, 0..17).map_or(UNKNOWN_VALUE, |number| number + 1));
    let method = text(b":method").map_or(Method::Other, |text| {
        Method::ALL.iter().copied().find(|method| method.name() == text).unwrap_or(Method::Other)
    });
    // One of them is enough: nobody says two.
    let is_grpc = fields.iter().any(|(name, value, _)| {
        let rest = value.strip_prefix(b"application/grpc");
        name == b"content-type" && rest.is_some_and(|rest| rest.first() != Some(&b'-'))
    });
    Told::Block { stream, ends, status, grpc_status, method: method as u8, is_grpc, promise }
}

/// One that knows nothing.
fn walker() -> Walker {
    Walker {
        walk: Walk::NEW,
        set: [Stream::NONE; 4],
        connection: Connection::default(),
        key: RequestKey::default(),
        now_ns: 1,
        duration_ns: 0,
        asked_at_ns: 0,
        asked_sequence: 0,
        asks: 0,
        skips: 0,
        sequence: 0,
        is_judged: 0,
        at: 0,
        length: 0,
        end: 0,
        is_taken: 1,
        number: 0,
        said_at: 0,
        said_bytes: 0,
        done: 0,
        found: 0,
        window: [0; WINDOW_BYTES],
    }
}

/// The sequence number of the first byte that is walked: numbers come round within what follows.
const FIRST: u32 = u32::MAX - 100;

/// Walks `bytes` in segments of these lengths, then the rest; what was told, and how it ended.
fn walk(walk: Walk, bytes: &[u8], segments: &[usize]) -> (Vec<Told>, Step, Walk) {
    let (told, _, step, walk) = walk_to_end(walk, bytes, segments);
    (told, step, walk)
}

/// The same, with the places at which the blocks that were told began, by their sequence numbers.
fn walk_to_end(walk: Walk, bytes: &[u8], segments: &[usize]) -> (Vec<Told>, Vec<usize>, Step, Walk) {
    let mut walker = Walker { walk, ..walker() };
    let (mut told, mut starts) = (Vec::new(), Vec::new());
    let (mut from, mut segments) = (0, segments.iter().copied());
    while from < bytes.len() {
        let segment = segments.next().unwrap_or(usize::MAX).clamp(1, bytes.len() - from);
        let end_of_segment = from + segment;
        walker.now_ns += 1;
        let begin = u32::try_from(from).expect("a length");
        walker.sequence = FIRST.wrapping_add(begin);
        while from < end_of_segment {
            walker.done = u32::try_from(from).expect("a length") - begin;
            let length = WINDOW_BYTES.min(end_of_segment - from);
            walker.window = [0; WINDOW_BYTES];
            walker.window[..length].copy_from_slice(&bytes[from..from + length]);
            walker.length = u32::try_from(length).expect("a length");
            walker.end = u32::try_from(end_of_segment - from).expect("a length");
            walker.at = 0;
            loop {
                let before = (walker.at, walker.walk);
                match step(&mut walker) {
                    Step::Dry => break,
                    Step::Onward => assert!(before != (walker.at, walker.walk), "no progress"),
                    Step::Block => {
                        starts.push(walker.walk.block_sequence.wrapping_sub(FIRST) as usize);
                        told.push(Told::Block {
                            stream: walker.walk.stream,
                            ends: walker.walk.marks & BLOCK_ENDS_STREAM != 0,
                            status: walker.walk.status,
                            grpc_status: walker.walk.grpc_status,
                            method: walker.walk.method,
                            is_grpc: walker.walk.told & TOLD_GRPC != 0,
                            promise: walker.walk.marks & BLOCK_IS_PROMISE != 0,
                        });
                    }
                    Step::End => told.push(Told::End(walker.walk.stream)),
                    Step::Reset => told.push(Told::Reset(walker.walk.stream, walker.walk.number)),
                    stop => return (told, starts, stop, walker.walk),
                }
            }
            assert!(walker.at >= walker.length && walker.at <= walker.end, "{} of {}", walker.at, length);
            from += walker.at as usize;
        }
    }
    (told, starts, Step::Dry, walker.walk)
}

/// Where the frames that begin a block are, by the lengths of frames alone.
fn starts_of(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (0, Vec::new());
    while at < bytes.len() {
        if [1, 5].contains(&bytes[at + 3]) {
            starts.push(at);
        }
        at += 9 + u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
    }
    starts
}

fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, u8)> {
    let known = prop_oneof![
        (
            Just(":status"),
            prop_oneof![
                (100_u16..600).prop_map(|status| status.to_string()),
                prop::sample::select(vec!["200", "503", "404", "1", "9999", "x", ""]).prop_map(str::to_owned)
            ]
        ),
        (
            Just("grpc-status"),
            prop_oneof![
                (0_u16..18).prop_map(|status| status.to_string()),
                prop::sample::select(vec!["1000", "", "ok"]).prop_map(str::to_owned)
            ]
        ),
        (
            Just(":method"),
            prop::sample::select(Method::ALL.to_vec()).prop_map(|method| method.name().to_owned())
        ),
        (
            Just("content-type"),
            prop::sample::select(vec![
                "application/grpc",
                "application/grpc+proto",
                "application/grpc;x",
                "application/grpc-web",
                "application/grpc-web+proto",
                "application/grp",
                "application/json",
                "text/html; charset=utf-8",
            ])
            .prop_map(str::to_owned)
        ),
        ("[a-z-]{0,12}", "[ -~]{0,40}").prop_map(|(name, value)| ("x-other", format!("{name}{value}"))),
    ];
    let other = ("[a-z-]{1,12}", "[ -~]{0,400}").prop_filter("a name of its own", |(name, _)| {
        !["grpc-status", "content-type"].contains(&name.as_str())
    });
    let flags = prop::sample::select(vec![0x0_u8, 0x1, 0x2, 0x3, 0x4, 0x7, 0x8, 0xb, 0x10, 0x13, 0x14, 0x17]);
    (
        prop_oneof![
            4 => known.prop_map(|(name, value)| (name.to_owned(), value)),
            1 => other,
        ],
        flags,
    )
        .prop_map(|((name, value), flags)| (name.into_bytes(), value.into_bytes(), flags))
}

fn piece() -> impl Strategy<Value = Piece> {
    let stream = (0_u32..50).prop_map(|number| number * 2 + 1);
    let fields = || {
        prop::collection::vec(field(), 0..8).prop_map(|fields| {
            let mut names = std::collections::HashSet::new();
            fields.into_iter().filter(|field| names.insert(field.0.clone())).collect::<Vec<_>>()
        })
    };
    prop_oneof![
        6 => (stream.clone(), fields(), any::<bool>(), prop::collection::vec(0_usize..500, 0..3), any::<u8>())
            .prop_map(|(stream, fields, ends, cuts, extras)| Piece::Block { stream, fields, ends, cuts, extras }),
        1 => fields().prop_map(|fields| Piece::Promise { fields }),
        3 => (stream.clone(), 0_usize..3_000, any::<bool>())
            .prop_map(|(stream, bytes, ends)| Piece::Data { stream, bytes, ends }),
        1 => (stream, any::<u32>()).prop_map(|(stream, code)| Piece::Reset { stream, code }),
        1 => (prop::sample::select(vec![6_u8, 7, 8, 10, 200]), 0_usize..50)
            .prop_map(|(kind, bytes)| Piece::Other { kind, bytes }),
        1 => (0_u32..5_000).prop_map(Piece::Resize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is said, and wherever it is cut: what is told is what was written.
    #[test]
    fn what_is_told_is_what_was_written(
        pieces in prop::collection::vec(piece(), 0..30),
        segments in prop::collection::vec(prop_oneof![1_usize..4, 1_usize..60, 1_usize..2_000], 0..400),
    ) {
        let bytes = write(&pieces);
        let (told, starts, step, walk) = walk_to_end(Walk::NEW, &bytes, &segments);
        prop_assert_eq!(step, Step::Dry);
        prop_assert_eq!(told, expected(&pieces));
        prop_assert_eq!(starts, starts_of(&bytes));
        prop_assert_eq!((walk.part, walk.filled), (FramePart::Head as u8, 0), "at a frame's end");
    }

    /// Garbage, or a conversation that is cut off, or of which a byte is another: no panic, and every walk ends.
    #[test]
    fn nothing_that_is_said_stops_a_walk(
        pieces in prop::collection::vec(piece(), 0..6),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        segments in prop::collection::vec(1_usize..300, 0..50),
    ) {
        let mut bytes = write(&pieces);
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(garbage);
        walk(Walk::NEW, &bytes, &segments);
    }

    /// From whichever frame on a side is read, what it tells of a field is true, or that it is not known.
    #[test]
    fn a_side_that_is_joined_tells_nothing_wrong(
        pieces in prop::collection::vec(piece(), 1..12),
        joined in any::<prop::sample::Index>(),
    ) {
        let before = joined.index(pieces.len());
        let all = write(&pieces);
        let mut from = write(&pieces[..before]).len();
        // A change of the table's size is written at the beginning of the next block.
        if pieces[..before].iter().any(|piece| matches!(piece, Piece::Resize(_))) {
            from = frame(4, 0, 0, &[]).len();
        }
        let rest = expected(&pieces);
        let mut lost = Walk::NEW;
        lost.lose_way();
        lost.find_way();
        let (told, step, walk) = walk(lost, &all[from..], &[]);
        prop_assert_eq!(step, Step::Dry);
        for (told, written) in told.iter().rev().zip(rest.iter().rev()) {
            match (told, written) {
                (
                    Told::Block { stream, ends, status, grpc_status, method, .. },
                    Told::Block { stream: s, ends: e, status: st, grpc_status: g, method: m, .. },
                ) => {
                    prop_assert_eq!((stream, ends), (s, e));
                    prop_assert!(*status == 0 || status == st || *st == 0);
                    prop_assert!(*grpc_status == 0 || grpc_status == g);
                    prop_assert!(*method == Method::Other as u8 || method == m);
                }
                _ => prop_assert_eq!(told, written),
            }
        }
        let _ = walk;
    }
}

#[test]
fn a_truncated_conversation_tells_what_is_whole_at_every_byte() {
    let fields = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec(), 0x17))
            .collect()
    };
    let pieces = [
        Piece::Block {
            stream: 1,
            fields: fields(&[(":method", "POST"), ("content-type", "application/grpc"), ("te", "trailers")]),
            ends: false,
            cuts: vec![3, 9],
            extras: 3,
        },
        Piece::Data { stream: 1, bytes: 7, ends: true },
        Piece::Block {
            stream: 3,
            fields: fields(&[(":method", "PUT")]),
            ends: true,
            cuts: vec![],
            extras: 0,
        },
    ];
    let (bytes, expected) = (write(&pieces), expected(&pieces));
    for cut in 0..=bytes.len() {
        let (told, step, _) = walk(Walk::NEW, &bytes[..cut], &[1; 1_000]);
        assert_eq!(step, Step::Dry, "{cut}");
        assert_eq!(told, expected[..told.len()], "{cut}");
        assert_eq!(told.len() == 3, cut == bytes.len(), "{cut}");
    }
}

#[test]
fn a_preface_is_followed_by_settings_or_is_another_protocols() {
    let settings = frame(4, 0, 0, &[0; 12]);
    for filled in 0..=PREFACE.len() {
        let mut begun = Walk::NEW;
        begun.expect_preface(u8::try_from(filled).expect("a length"));
        if filled < PREFACE.len() {
            let bytes = [&PREFACE[filled..], &settings].concat();
            let (_, step, walk) = walk(begun, &bytes, &[1; 100]);
            assert_eq!((step, walk.part), (Step::Dry, FramePart::Head as u8), "{filled}");
            let mut wrong = bytes.clone();
            wrong[0] ^= 1;
            assert_eq!(self::walk(begun, &wrong, &[]).1, Step::Foreign);
        }
    }
    // yamux goes on with a head of twelve bytes: version, type, flags, stream, length.
    let yamux = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    let mut begun = Walk::NEW;
    begun.expect_preface(0);
    assert_eq!(walk(begun, &[&PREFACE[..], &yamux].concat(), &[]).1, Step::Foreign);
    assert_eq!(walk(Walk::NEW, &frame(4, 1, 0, &[]), &[]).1, Step::Foreign, "an acknowledgement of nothing");
}

#[test]
fn what_breaks_the_rules_is_malformed() {
    let settings = frame(4, 0, 0, &[]);
    for (what, bytes) in [
        ("a block on no stream", frame(1, 4, 0, &[0x88])),
        ("another frame within a block", [frame(1, 0, 1, &[0x88]), frame(0, 0, 1, &[])].concat()),
        ("the block of another stream within it", [frame(1, 0, 1, &[0x88]), frame(9, 4, 3, &[])].concat()),
        ("a continuation of nothing", frame(9, 4, 1, &[0x88])),
        ("padding longer than its frame", frame(1, 4 | 8, 1, &[9, 0x88])),
        ("no room for the length of the padding", frame(1, 4 | 8, 1, &[])),
        ("no room for the priority", frame(1, 4 | 0x20, 1, &[0, 0])),
        ("a field that is cut off", frame(1, 4, 1, &[0x48, 3, b'2'])),
        ("the index 0", frame(1, 4, 1, &[0x80])),
        ("a number without an end", frame(1, 4, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("a reset of another length", frame(3, 0, 1, &[0; 5])),
        ("a ping of a stream", frame(6, 0, 1, &[0; 8])),
    ] {
        let (told, step, _) = walk(Walk::NEW, &[&settings[..], &bytes].concat(), &[]);
        assert_eq!((told, step), (vec![], Step::Malformed), "{what}");
    }
}

#[test]
fn an_index_of_what_nobody_saw_is_told_to_be_unknown() {
    let (_, step, after) = walk(Walk::NEW, &[frame(4, 0, 0, &[]), frame(1, 4, 1, &[0xbe])].concat(), &[]);
    assert_eq!((step, after.told, after.status), (Step::Dry, TOLD_UNKNOWN, 0));
}

#[test]
fn a_long_body_is_passed_over_without_a_look() {
    let mut walk =
        walk(Walk::NEW, &[frame(4, 0, 0, &[]), frame(0, 0, 1, &[0; 90])[..30].to_vec()].concat(), &[]).2;
    assert!(walk.pass(68), "a part of it");
    assert!(!walk.pass(1), "its last byte is the end of a frame");
    assert_eq!(walk.left, 1);
    let mut new = Walk::NEW;
    assert!(!new.pass(0), "there is nothing to pass over");
}

mod finding_a_frame {
    use super::super::sync::{Begin, MAX_FRAMES, look_on};
    use super::*;

    fn look(bytes: &[u8]) -> Begin {
        let length = bytes.len().min(WINDOW_BYTES);
        let mut walker = Walker {
            length: u32::try_from(length).expect("a length"),
            end: u32::try_from(bytes.len()).expect("a length"),
            ..walker()
        };
        walker.window[..length].copy_from_slice(&bytes[..length]);
        for _ in 0..=MAX_FRAMES {
            if let Some(begin) = look_on(&mut walker) {
                return begin;
            }
        }
        panic!("a look that does not end")
    }

    #[test]
    fn a_segment_of_whole_frames_is_known() {
        let request = frame(1, 5, 7, &[0x82, 0x84]);
        assert_eq!(look(&request), Begin::Request);
        assert_eq!(look(&[&request[..], &frame(0, 0, 1, &[0; 3_000])].concat()), Begin::Request);
        assert_eq!(look(&[frame(4, 1, 0, &[]), request.clone()].concat()), Begin::Frame);
        assert_eq!(look(&request.repeat(90)), Begin::Request, "longer than the window");
        assert_eq!(look(&request[1..]), Begin::Unknown);
        assert_eq!(look(&request[..10]), Begin::Unknown);
        assert_eq!(look(&[]), Begin::Unknown);
    }

    #[test]
    fn other_protocols_are_not_taken_for_it() {
        for other in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"Q\0\0\0\x0dSELECT 1\0",
            b"\x09\0\0\0\x03SELECT 1",
            b"\0\0\0\x14\0\x12\0\x03\0\0\0\x01\0\x05kafka\0\0\0\0\0",
            b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01",
        ] {
            assert_eq!(look(other), Begin::Unknown, "{}", other.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn noise_is_hardly_ever_taken_for_it(bytes in prop::collection::vec(any::<u8>(), 0..1_500)) {
            // A head of nine bytes of noise that fits its segment is one in more than 2⁴⁰.
            prop_assert_eq!(look(&bytes), Begin::Unknown);
        }
    }
}

mod a_stream {
    use super::super::streams::{self, Answer, UNSEEN};
    use super::*;
    use crate::abi::http2::{STREAM_SETS, STREAM_WAYS};

    fn request(told: u8) -> Walk {
        Walk { stream: 5, block_began_at_ns: 100, method: Method::Post as u8, told, ..Walk::NEW }
    }

    fn block(status: u16, grpc_status: Option<u16>, ends: bool, at_ns: u64) -> Walk {
        let marks = if ends { BLOCK_ENDS_STREAM } else { 0 };
        let grpc_status = grpc_status.map_or(0, |status| status + 1);
        Walk { stream: 5, block_began_at_ns: at_ns, status, grpc_status, marks, ..Walk::NEW }
    }

    fn answer(is_grpc: bool, status: u16, duration_ns: u64) -> Option<Answer> {
        Some(Answer { is_grpc, method: Method::Post as u8, status, duration_ns })
    }

    #[test]
    fn of_http_counts_once_when_its_answer_begins() {
        let mut stream = streams::asked(&request(0));
        assert_eq!(streams::answered(&mut stream, &block(103, None, false, 120)), None, "an interim answer");
        assert_eq!(streams::answered(&mut stream, &block(201, None, false, 150)), answer(false, 201, 50));
        assert_eq!(streams::answered(&mut stream, &block(0, None, true, 180)), None, "trailers");
        assert_eq!(stream.number, 0, "its place is free");
    }

    #[test]
    fn of_grpc_counts_when_it_ends() {
        let mut stream = streams::asked(&request(TOLD_GRPC));
        assert_eq!(streams::answered(&mut stream, &block(200, None, false, 150)), None);
        assert_eq!(streams::answered(&mut stream, &block(0, Some(5), true, 400)), answer(true, 5, 300));
        assert_eq!(stream.number, 0);
        let mut stream = streams::asked(&request(TOLD_GRPC));
        assert_eq!(streams::answered(&mut stream, &block(200, Some(14), true, 150)), answer(true, 14, 50));
    }

    #[test]
    fn of_grpc_that_ends_without_a_status_has_the_one_its_client_gives_it() {
        for (http, grpc) in [(503, 14), (404, 12), (200, 2)] {
            let mut stream = streams::asked(&request(TOLD_GRPC));
            assert_eq!(streams::answered(&mut stream, &block(http, None, true, 150)), answer(true, grpc, 50));
            let mut stream = streams::asked(&request(TOLD_GRPC));
            streams::answered(&mut stream, &block(http, None, false, 150));
            assert_eq!(streams::ended(&mut stream, 200), answer(true, grpc, 100));
        }
        for (code, grpc) in [(7, 14), (8, 1), (2, 13), (11, 8)] {
            let mut stream = streams::asked(&request(TOLD_GRPC));
            assert_eq!(streams::reset(&mut stream, code, 200), answer(true, grpc, 100));
        }
    }

    #[test]
    fn whose_status_nobody_could_read_says_so() {
        let unread = |walk: Walk| Walk { told: TOLD_UNKNOWN, ..walk };
        let mut stream = streams::asked(&request(0));
        let told = streams::answered(&mut stream, &unread(block(0, None, false, 150)));
        assert_eq!(told, answer(false, UNSEEN, 50));
        let mut stream = streams::asked(&request(TOLD_GRPC));
        streams::answered(&mut stream, &block(200, None, false, 150));
        let told = streams::answered(&mut stream, &unread(block(0, None, true, 300)));
        assert_eq!(told, answer(true, UNSEEN, 200));
    }

    #[test]
    fn of_http_that_is_reset_is_not_counted() {
        let mut stream = streams::asked(&request(0));
        assert_eq!((streams::reset(&mut stream, 8, 200), stream.number), (None, 0));
    }

    #[test]
    fn a_promise_answers_nothing() {
        let mut stream = streams::asked(&request(0));
        let promise = Walk { marks: BLOCK_IS_PROMISE, ..block(0, None, false, 150) };
        assert_eq!(streams::answered(&mut stream, &promise), None);
        assert_eq!(stream.marks & IS_ANSWERED, 0);
    }

    #[test]
    fn begins_with_a_block_of_a_number_that_is_new_and_a_clients() {
        let after = |highest| Walk { highest, ..request(0) };
        assert!(streams::is_request(&after(3)));
        assert!(!streams::is_request(&after(5)), "trailers of a request");
        assert!(!streams::is_request(&Walk { stream: 6, ..after(3) }));
    }

    proptest! {
        #[test]
        fn has_its_place_and_streams_in_a_row_have_each_their_own(first in 0_u32..1 << 29) {
            let mut sets = [[Stream::NONE; STREAM_WAYS]; STREAM_SETS];
            let numbers = (0..u32::try_from(STREAM_SETS * STREAM_WAYS).expect("a number")).map(|next| (first + next) * 2 + 1);
            for number in numbers.clone() {
                let set = &mut sets[streams::set(number)];
                prop_assert_eq!(streams::way(set, number), STREAM_WAYS);
                set[streams::way(set, 0)].number = number;
            }
            for number in numbers {
                let set = &sets[streams::set(number)];
                prop_assert_eq!(set[streams::way(set, number)].number, number);
                prop_assert_eq!(streams::way(set, 0), STREAM_WAYS, "all are taken");
            }
        }
    }
}
