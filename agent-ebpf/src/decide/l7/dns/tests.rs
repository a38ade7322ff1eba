//! The reader of messages against one that has them whole.

use proptest::prelude::*;

use super::*;

impl Kept for Reading {
    fn skip(&self) -> u16 {
        self.skip
    }
    fn set_skip(&mut self, skip: u16) {
        self.skip = skip;
    }
    fn take(&mut self, side: Side, byte: u8) -> Message {
        take(self, side, byte)
    }
}

/// A message with this header and this behind it.
fn message(id: u16, flags: u16, questions: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, questions, 0, 0, 1] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(rest);
    bytes
}

/// The question for this name, and what EDNS adds.
fn question(name: &str, record_type: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(record_type.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn lookup(id: u16, name: &str, record_type: u16) -> Vec<u8> {
    message(id, 0x0100, 1, &question(name, record_type))
}

fn answer(id: u16, code: u16) -> Vec<u8> {
    message(id, 0x8180 | code, 1, &question("a.example", 1))
}

fn room(bytes: &[u8]) -> [u8; ROOM_BYTES] {
    let mut room = [0xee; ROOM_BYTES];
    room[..bytes.len()].copy_from_slice(bytes);
    room
}

/// What a datagram says.
fn of_datagram(side: Side, bytes: &[u8]) -> Message {
    let Some(mut reading) = datagram(u32::try_from(bytes.len()).expect("a datagram")) else {
        return Message::Lost(Unparsed::Malformed);
    };
    let seen = &bytes[..bytes.len().min(ROOM_BYTES)];
    read(&mut reading, side, &room(seen), seen.len()).0
}

fn asked(id: u16, record_type: RecordType) -> Message {
    Message::Asked { id, record_type }
}

fn answered(id: u16, status: LookupStatus) -> Message {
    Message::Answered { id, status }
}

const MALFORMED: Message = Message::Lost(Unparsed::Malformed);

#[test]
fn a_lookup_has_a_number_and_a_type() {
    for (number, record_type) in [
        (1, RecordType::A),
        (28, RecordType::Aaaa),
        (65, RecordType::Https),
        (255, RecordType::Any),
        (0, RecordType::Other),
        (257, RecordType::Other),
        (0x0101, RecordType::Other),
        (0xffff, RecordType::Other),
    ] {
        let said = of_datagram(Side::Client, &lookup(0xabcd, "www.example.org", number));
        assert_eq!(said, asked(0xabcd, record_type), "{number}");
    }
    assert_eq!(of_datagram(Side::Client, &lookup(1, "", 2)), asked(1, RecordType::Ns), "the root");
}

#[test]
fn an_answer_has_a_number_and_a_status() {
    for code in 0..16 {
        let status =
            LookupStatus::from_raw(u8::try_from(code).expect("small")).unwrap_or(LookupStatus::Other);
        assert_eq!(of_datagram(Side::Server, &answer(0x1234, code)), answered(0x1234, status), "{code}");
    }
    // A server that could not read the question does not repeat it.
    let bare = message(9, 0x8001, 0, &[]);
    assert_eq!(of_datagram(Side::Server, &bare), answered(9, LookupStatus::FormErr));
}

#[test]
fn the_longest_name_is_read_and_one_byte_more_is_not() {
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "y".repeat(61));
    let bytes = lookup(1, &longest, 16);
    assert_eq!(bytes.len(), 12 + 255 + 4 + 11);
    assert_eq!(of_datagram(Side::Client, &bytes), asked(1, RecordType::Txt));
    let many = vec!["z"; 127].join(".");
    assert_eq!(of_datagram(Side::Client, &lookup(1, &many, 16)), asked(1, RecordType::Txt), "most labels");
    assert_eq!(of_datagram(Side::Client, &lookup(1, &format!("{longest}y"), 16)), MALFORMED);
    assert_eq!(of_datagram(Side::Client, &lookup(1, &format!("{many}.z"), 16)), MALFORMED);
}

#[test]
fn what_is_no_single_question_is_malformed() {
    let fine = question("a.example", 1);
    for questions in [0, 2, 256, 257, 0xffff] {
        assert_eq!(of_datagram(Side::Client, &message(1, 0, questions, &fine)), MALFORMED, "{questions}");
    }
    // A pointer to the name itself, one behind a label, and the kinds of labels nobody uses any more.
    for name in [&[0xc0, 12][..], &[1, b'a', 0xc0, 12], &[0x40, 1, 0], &[0x80, 0]] {
        let bytes = message(1, 0, 1, &[name, &[0, 1, 0, 1]].concat());
        assert_eq!(of_datagram(Side::Client, &bytes), MALFORMED, "{name:?}");
    }
}

#[test]
fn a_datagram_that_ends_early_is_malformed_wherever_it_does() {
    let whole = lookup(1, "www.example.org", 28);
    let question_ends = whole.len() - 11;
    for length in 0..whole.len() {
        let said = of_datagram(Side::Client, &whole[..length]);
        let expected = if length < question_ends { MALFORMED } else { asked(1, RecordType::Aaaa) };
        assert_eq!(said, expected, "{length} bytes");
    }
    let whole = answer(1, 0);
    for length in 0..whole.len() {
        let said = of_datagram(Side::Server, &whole[..length]);
        let expected = if length < 12 { MALFORMED } else { answered(1, LookupStatus::NoError) };
        assert_eq!(said, expected, "{length} bytes");
    }
}

#[test]
fn who_speaks_like_the_other_side_speaks_something_else() {
    let other = Message::Lost(Unparsed::OtherProtocol);
    assert_eq!(of_datagram(Side::Client, &answer(1, 0)), other);
    assert_eq!(of_datagram(Side::Server, &lookup(1, "a.example", 1)), other);
}

#[test]
fn changes_and_notices_are_no_lookups() {
    for opcode in 1..16 {
        let flags = opcode << 11;
        let is_known = [1, 2, 4, 5, 6].contains(&opcode);
        let expected = if is_known { Message::Other } else { Message::Lost(Unparsed::OtherProtocol) };
        assert_eq!(of_datagram(Side::Client, &message(1, flags, 1, &question("a", 6))), expected);
        assert_eq!(of_datagram(Side::Server, &message(1, 0x8000 | flags, 1, &[])), expected);
    }
}

#[test]
fn what_was_said_reads_back_from_its_number() {
    let mut all = vec![Message::More, Message::Other];
    all.extend(RecordType::ALL.iter().map(|&record_type| asked(0xfedc, record_type)));
    all.extend(LookupStatus::ALL.iter().map(|&status| answered(0x0102, status)));
    all.extend(Unparsed::ALL.iter().map(|&reason| Message::Lost(reason)));
    for said in all {
        assert_eq!(Message::from_raw(said.to_raw()), said);
    }
}

/// What a connection says, its bytes coming in pieces of these lengths (the last one repeated).
fn of_stream(side: Side, bytes: &[u8], pieces: &[usize]) -> Vec<Message> {
    let mut reading = STREAM;
    let mut said = Vec::new();
    let mut pieces = pieces.iter().copied();
    let mut piece = 1;
    let mut rest = bytes;
    while !rest.is_empty() {
        piece = pieces.next().unwrap_or(piece);
        let (mut now, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        while !now.is_empty() {
            let (message, read) = read(&mut reading, side, &room(now), now.len());
            now = &now[read..];
            match message {
                Message::More => assert!(now.is_empty(), "stopped before the end"),
                Message::Lost(_) => {
                    said.push(message);
                    return said;
                }
                message => said.push(message),
            }
        }
    }
    said
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let framed = |message: &Vec<u8>| {
        let length = u16::try_from(message.len()).expect("a message");
        [&length.to_be_bytes()[..], message].concat()
    };
    messages.iter().flat_map(framed).collect()
}

#[test]
fn messages_on_a_connection_are_read_in_pieces_of_any_length() {
    let asks = framed(&[
        lookup(1, "www.example.org", 1),
        message(2, 5 << 11, 1, &question("example.org", 6)),
        lookup(3, "www.example.org", 28),
    ]);
    let expected = vec![asked(1, RecordType::A), Message::Other, asked(3, RecordType::Aaaa)];
    for piece in 1..=asks.len() {
        assert_eq!(of_stream(Side::Client, &asks, &[piece]), expected, "pieces of {piece}");
        assert_eq!(of_stream(Side::Client, &asks, &[piece, 1]), expected, "{piece}, then single bytes");
        assert_eq!(of_stream(Side::Client, &asks, &[piece, asks.len()]), expected, "{piece}, then the rest");
    }
    let tells = framed(&[answer(3, 3), answer(1, 0), message(2, 0xa800, 0, &[])]);
    let expected =
        vec![answered(3, LookupStatus::NxDomain), answered(1, LookupStatus::NoError), Message::Other];
    for piece in 1..=tells.len() {
        assert_eq!(of_stream(Side::Server, &tells, &[piece]), expected, "pieces of {piece}");
    }
}

#[test]
fn a_message_on_a_connection_is_as_long_as_it_says() {
    let whole = lookup(1, "www.example.org", 28);
    let question_ends = whole.len() - 11;
    for length in 0..question_ends {
        let claimed = u16::try_from(length).expect("short");
        let bytes = [&claimed.to_be_bytes()[..], &whole].concat();
        assert_eq!(of_stream(Side::Client, &bytes, &[bytes.len()]), [MALFORMED], "{length}");
        assert_eq!(of_stream(Side::Client, &bytes, &[1]), [MALFORMED], "{length}, in single bytes");
    }
    // 64 KiB of padding are passed over.
    let long = [&[0xff, 0xff][..], &whole, &vec![0; 0xffff - whole.len()]].concat();
    let twice = [long, framed(&[lookup(2, "b", 1)])].concat();
    for piece in [1, 100, ROOM_BYTES] {
        let said = of_stream(Side::Client, &twice, &[piece]);
        assert_eq!(said, [asked(1, RecordType::Aaaa), asked(2, RecordType::A)]);
    }
}

#[test]
fn another_protocol_on_the_port_is_told_at_once() {
    for said in [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"EHLO example.org\r\n"] {
        let told = of_stream(Side::Client, said, &[said.len()]);
        assert!(matches!(told[..], [Message::Lost(_)]), "{said:?}: {told:?}");
    }
}

/// What a whole message says, as one reads it who has all of it.
fn reference(side: Side, bytes: &[u8]) -> Message {
    let word = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    if bytes.len() < 12 {
        return MALFORMED;
    }
    let (id, flags) = (word(0).unwrap(), word(2).unwrap());
    if (flags >= 0x8000) != (side == Side::Server) {
        return Message::Lost(Unparsed::OtherProtocol);
    }
    match flags >> 11 & 15 {
        0 => {}
        1 | 2 | 4 | 6 if flags & 0x0040 == 0 => return Message::Other,
        5 if flags & 0x07f0 == 0 => return Message::Other,
        _ => return Message::Lost(Unparsed::OtherProtocol),
    }
    if side == Side::Server {
        return answered(id, status(flags & 15));
    }
    if word(4) != Some(1) {
        return MALFORMED;
    }
    let mut at = 12;
    loop {
        match bytes.get(at) {
            None | Some(64..) => return MALFORMED,
            Some(0) => break,
            Some(&length) => at += 1 + usize::from(length),
        }
    }
    match (word(at + 1), word(at + 3)) {
        (Some(number), Some(_)) if at - 12 < 255 => asked(id, record_type(number)),
        _ => MALFORMED,
    }
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

/// Bytes that are a message now and then: some fields right, names of any labels, cut anywhere.
fn almost_a_message() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![Just(0x0100_u16), Just(0x8180), Just(0x8183), any::<u16>()];
    let questions = prop_oneof![4 => Just(1_u16), 1 => any::<u16>()];
    let labels = prop::collection::vec(prop_oneof![4 => 1_usize..12, 1 => 0_usize..200], 0..40);
    let tail = prop::collection::vec(any::<u8>(), 0..40);
    (any::<u16>(), flags, questions, labels, tail, 0_usize..600).prop_map(
        |(id, flags, questions, labels, tail, cut)| {
            let mut rest = Vec::new();
            for length in labels {
                rest.push(u8::try_from(length).unwrap());
                rest.extend(std::iter::repeat_n(b'n', length));
            }
            rest.push(0);
            rest.extend(tail);
            let mut bytes = message(id, flags, questions, &rest);
            bytes.truncate(cut);
            bytes
        },
    )
}

proptest! {
    /// Whatever a datagram holds, it says what it says to one who has all of it.
    #[test]
    fn datagrams_say_what_the_reference_reads(
        side in side(),
        bytes in prop_oneof![almost_a_message(), prop::collection::vec(any::<u8>(), 0..400)],
    ) {
        prop_assert_eq!(of_datagram(side, &bytes), reference(side, &bytes));
    }

    /// On a connection they say the same one after the other, however its bytes are cut, up to the first wrong one.
    #[test]
    fn connections_say_what_their_messages_say(
        side in side(),
        messages in prop::collection::vec(almost_a_message(), 1..5),
        pieces in prop::collection::vec(1_usize..ROOM_BYTES, 1..30),
    ) {
        let bytes = framed(&messages);
        let said = of_stream(side, &bytes, &pieces);
        let mut expected = Vec::new();
        for message in &messages {
            expected.push(reference(side, message));
            if matches!(expected.last(), Some(Message::Lost(_))) {
                break;
            }
        }
        prop_assert_eq!(said, expected);
    }
}
