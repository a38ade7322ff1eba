//! The functions of HTTP/1, held against a small client and server that speak in turn, cut at every byte.

use proptest::prelude::*;

use super::*;
use crate::abi::AppProtocol;

fn head(bytes: &[u8]) -> (Head, usize) {
    let mut head = [0; 2 * HEAD_BYTES];
    let length = bytes.len().min(HEAD_BYTES);
    head[..length].copy_from_slice(&bytes[..length]);
    (head, length)
}

fn known(stage: Stage, is_followed: bool, method: Method) -> Known {
    Known { protocol: AppProtocol::Http1, stage, operation: method as u8, is_followed }
}

fn hear_request(stage: Stage, is_followed: bool, bytes: &[u8]) -> Heard {
    let (head, length) = head(bytes);
    request(known(stage, is_followed, Method::Get), &head, length)
}

fn hear_answer(stage: Stage, is_followed: bool, method: Method, bytes: &[u8]) -> Heard {
    let (head, length) = head(bytes);
    answer(known(stage, is_followed, method), &head, length)
}

#[test]
fn requests_are_told_by_their_method() {
    for &method in Method::ALL {
        if method != Method::Other {
            let line = format!("{} / HTTP/1.1\r\n", method.name());
            assert_eq!(
                hear_request(Stage::Idle, false, line.as_bytes()),
                Heard::Request(method as u8),
                "{line}"
            );
        }
    }
    for line in ["PROPFIND /dav HTTP/1.1", "M-SEARCH * HTTP/1.1", "QUERY /x HTTP/1.1"] {
        assert_eq!(
            hear_request(Stage::Idle, false, line.as_bytes()),
            Heard::Request(Method::Other as u8),
            "{line}"
        );
    }
}

#[test]
fn what_is_no_request_is_another_protocol() {
    for bytes in [
        &b"*1\r\n$4\r\nPING\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"get / HTTP/1.1",
        b"G3T / HTTP/1.1",
        b" GET /",
        b"A B",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"THIS-IS-FAR-TOO-LONG / HTTP/1.1",
    ] {
        let expected = Heard::Lost(Unparsed::OtherProtocol);
        assert_eq!(hear_request(Stage::Idle, false, bytes), expected, "{}", bytes.escape_ascii());
        // On a connection that is known to speak HTTP it is the rest of something.
        assert_eq!(hear_request(Stage::Answered, true, bytes), Heard::Nothing);
    }
}

#[test]
fn answers_are_told_by_their_status() {
    for (line, expected) in [
        ("HTTP/1.1 200 OK\r\n", Heard::Answer(200)),
        ("HTTP/1.0 404 Not Found\r\n", Heard::Answer(404)),
        ("HTTP/1.1 599 \r\n", Heard::Answer(599)),
        ("HTTP/1.1 100 Continue\r\n", Heard::Interim),
        ("HTTP/1.1 103 Early Hints\r\n", Heard::Interim),
        ("HTTP/1.1 101 Switching", Heard::LastAnswer(101)),
        ("HTTP/1.1 20", Heard::More),
        ("HTTP/1.1 600 What\r\n", Heard::Lost(Unparsed::OtherProtocol)),
        ("HTTP/1.1 099 What\r\n", Heard::Lost(Unparsed::OtherProtocol)),
        ("HTTP/2.0 200 OK\r\n", Heard::Lost(Unparsed::OtherProtocol)),
        ("HTTP/1.2 200 OK\r\n", Heard::Lost(Unparsed::OtherProtocol)),
        ("-ERR unknown", Heard::Lost(Unparsed::OtherProtocol)),
    ] {
        assert_eq!(hear_answer(Stage::Asked, false, Method::Get, line.as_bytes()), expected, "{line}");
    }
    assert_eq!(
        hear_answer(Stage::Asked, true, Method::Get, b"garbage garbage"),
        Heard::Lost(Unparsed::Malformed)
    );
}

#[test]
fn a_tunnel_is_the_last_thing_a_connection_answers() {
    let line = b"HTTP/1.1 200 Connection established\r\n";
    assert_eq!(hear_answer(Stage::Asked, true, Method::Connect, line), Heard::LastAnswer(200));
    assert_eq!(
        hear_answer(Stage::Asked, true, Method::Connect, b"HTTP/1.1 403 Forbidden\r\n"),
        Heard::Answer(403)
    );
}

#[test]
fn a_second_request_before_the_answer_is_pipelining_unless_it_may_be_a_body() {
    let next = b"GET /b HTTP/1.1\r\n";
    let (bytes, length) = head(next);
    assert_eq!(
        request(known(Stage::Asked, true, Method::Get), &bytes, length),
        Heard::Lost(Unparsed::Pipelined)
    );
    assert_eq!(request(known(Stage::Asked, true, Method::Post), &bytes, length), Heard::Nothing);
    assert!(is_pipelined(Method::Head as u8, &bytes));
    assert!(!is_pipelined(Method::Put as u8, &bytes));
    assert_eq!(
        hear_answer(Stage::Answered, true, Method::Get, b"HTTP/1.1 200 OK\r\n"),
        Heard::Lost(Unparsed::Pipelined),
        "an answer nobody asked for"
    );
}

#[test]
fn a_server_that_speaks_first_speaks_something_else() {
    assert_eq!(
        hear_answer(Stage::Idle, false, Method::Other, b"220 mail ESMTP\r\n"),
        Heard::Lost(Unparsed::OtherProtocol)
    );
    assert_eq!(hear_answer(Stage::Idle, true, Method::Other, b"the rest of an answer"), Heard::Nothing);
}

#[test]
fn the_head_of_a_message_ends_behind_its_empty_line() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(head_end(bytes, 0, bytes.len()), Some(25));
    assert_eq!(head_end(bytes, 25, bytes.len()), Some(bytes.len()));
    assert_eq!(head_end(bytes, 0, 24), None, "its last byte is not there yet");
    assert_eq!(head_end(b"no end", 0, 6), None);
}

/// What the programs do with what they heard, without sockets.
struct Follower {
    stage: Stage,
    is_known: bool,
    method: Method,
    kept: Vec<u8>,
    counted: Vec<(Method, u16)>,
    lost: Option<Unparsed>,
}

impl Follower {
    fn new() -> Self {
        Self {
            stage: Stage::Idle,
            is_known: false,
            method: Method::Other,
            kept: Vec::new(),
            counted: Vec::new(),
            lost: None,
        }
    }

    fn piece(&mut self, asks: bool, piece: &[u8]) {
        if self.stage == Stage::Ended || piece.is_empty() {
            return;
        }
        let mut bytes = [0; 2 * HEAD_BYTES];
        let added = piece.len().min(HEAD_BYTES);
        bytes[..self.kept.len()].copy_from_slice(&self.kept);
        bytes[self.kept.len()..self.kept.len() + added].copy_from_slice(&piece[..added]);
        let length = self.kept.len() + added;
        let known = known(self.stage, self.is_known, self.method);
        let heard = if asks { request(known, &bytes, length) } else { answer(known, &bytes, length) };
        self.kept.clear();
        match heard {
            Heard::More => self.kept.extend_from_slice(&bytes[..length]),
            Heard::Request(method) => {
                self.stage = Stage::Asked;
                self.method = Method::from_raw(method).expect("a method");
            }
            Heard::Interim => {
                self.stage = Stage::Interim;
                if let Some(end) = head_end(piece, 0, piece.len()).filter(|end| *end < piece.len()) {
                    self.piece(asks, &piece[end..]);
                }
            }
            Heard::Answer(status) => {
                self.is_known = true;
                self.stage = Stage::Answered;
                self.counted.push((self.method, status));
            }
            Heard::LastAnswer(status) => {
                self.stage = Stage::Ended;
                self.counted.push((self.method, status));
            }
            Heard::Lost(reason) => {
                self.stage = Stage::Ended;
                self.lost = Some(reason);
            }
            Heard::Nothing => {}
        }
    }

    fn pieces(&mut self, asks: bool, message: &[u8], cuts: &[usize]) {
        let mut from = 0;
        for cut in cuts.iter().copied().filter(|cut| *cut < message.len()).chain([message.len()]) {
            if cut > from {
                self.piece(asks, &message[from..cut]);
                from = cut;
            }
        }
    }
}

fn methods() -> impl Strategy<Value = (Method, String)> {
    prop_oneof![
        prop::sample::select(&Method::ALL[1..]).prop_map(|method| (method, method.name().to_owned())),
        Just((Method::Other, "PROPFIND".to_owned())),
    ]
}

proptest! {
    // Each case may be hundreds of thousands of pieces.
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However the messages of a connection are cut, also byte by byte, each request is counted once, with its method and
    /// status; head lines of 64 KiB, interim answers and bodies change nothing.
    #[test]
    fn exchanges_in_turn_are_counted_however_they_are_cut(
        exchanges in prop::collection::vec(
            (methods(), 200_u16..600, 0_usize..3, prop::collection::vec(32_u8..127, 0..40), any::<bool>()),
            1..5
        ),
        cuts in prop::collection::btree_set(1_usize..200, 0..20),
        bytewise: bool,
    ) {
        let cuts: Vec<usize> = if bytewise { (1..70_000).collect() } else { cuts.into_iter().collect() };
        let mut follower = Follower::new();
        let mut expected = Vec::new();
        for ((method, name), status, interims, body, is_long) in exchanges {
            if method == Method::Connect && status < 300 {
                continue;
            }
            let filler = if is_long { "a".repeat(65_000) } else { "x".to_owned() };
            let request = format!("{name} /{filler} HTTP/1.1\r\nhost: a\r\n\r\n");
            follower.pieces(true, request.as_bytes(), &cuts);
            for _ in 0..interims {
                follower.pieces(false, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", &cuts);
            }
            let mut answer = format!("HTTP/1.1 {status} Text\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            answer.extend(&body);
            follower.pieces(false, &answer, &cuts);
            expected.push((method, status));
        }
        prop_assert_eq!(follower.lost, None);
        prop_assert_eq!(follower.counted, expected);
    }

}

proptest! {
    /// Whatever the bytes: an answer, and never a request out of nothing that has no method.
    #[test]
    fn any_bytes_are_told_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..40), stage in prop::sample::select(Stage::ALL), known: bool
    ) {
        let heard = hear_request(stage, known, &bytes);
        if matches!(heard, Heard::Request(_)) {
            prop_assert!(bytes[..bytes.len().min(HEAD_BYTES)].contains(&b' '));
        }
        let heard = hear_answer(stage, known, Method::Get, &bytes);
        if let Heard::Answer(status) = heard {
            prop_assert!((200..600).contains(&status) && bytes.starts_with(b"HTTP/1."));
        }
    }
}
