//! What is said on a connection: requests, and the answers to them.
//!
//! A protocol is a file here and a variant of [`AppProtocol`](crate::abi::AppProtocol). Its functions get the first bytes
//! of what one side said and how far the exchange is, and tell what that means. They see no packet: [`position`] has put the
//! bytes into their order before.

pub mod conversation;
pub mod dns;
pub mod http1;
pub mod http2;
pub mod kafka;
pub mod mysql;
pub mod position;
pub mod postgresql;
pub mod redis;
mod sql;
pub mod tls;

use crate::abi::redis::RedisStatus;
use crate::abi::request::HEAD_BYTES;
use crate::abi::{AppProtocol, Stage, Unparsed};
use conversation::Begin;

/// The first bytes of what a side says, the rest zero.
pub type Head = [u8; 2 * HEAD_BYTES];

/// The first status of HTTP that is the server's fault (RFC 9110, section 15.6).
const HTTP_SERVER_ERROR: u16 = 500;

/// Whether an answer says that the server failed, and not that what was asked for was wrong. Databases do not say whose
/// fault an error is: each counts.
#[inline(always)]
pub const fn is_server_error(protocol: AppProtocol, status: u16) -> bool {
    match protocol {
        AppProtocol::Unknown | AppProtocol::Http1 => status >= HTTP_SERVER_ERROR,
        AppProtocol::Http2 => status >= HTTP_SERVER_ERROR && status != http2::streams::UNSEEN,
        AppProtocol::Grpc => http2::grpc::is_server_error(status),
        AppProtocol::Dns => dns::is_server_error(status),
        // The cluster's way to say where a key is.
        AppProtocol::Redis if status == RedisStatus::Moved as u16 || status == RedisStatus::Ask as u16 => {
            false
        }
        _ => status != 0,
    }
}

/// What bytes of one side mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that matters: the rest of a message.
    Nothing,
    /// The beginning of a message, too short to be told. To be kept, and asked about again with what follows.
    More,
    /// A request began, for this operation by number.
    Request(u8),
    /// An interim answer: the one that counts is still to come.
    Interim,
    /// The answer began, with this status.
    Answer(u16),
    /// The answer began, and what follows is another protocol.
    LastAnswer(u16),
    /// Nothing more is to be learnt from this connection.
    Lost(Unparsed),
}

impl Heard {
    /// As one number: what a program's function gives its caller.
    #[inline(always)]
    pub const fn to_raw(self) -> u32 {
        let (what, with) = match self {
            Self::Nothing => (0, 0),
            Self::More => (1, 0),
            Self::Request(operation) => (2, operation as u32),
            Self::Interim => (3, 0),
            Self::Answer(status) => (4, status as u32),
            Self::LastAnswer(status) => (5, status as u32),
            Self::Lost(reason) => (6, reason as u32),
        };
        what | with << 8
    }

    /// What such a number says. One that says nothing says that nothing was heard.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "masked to what was packed")]
    pub const fn from_raw(raw: u32) -> Self {
        let with = raw >> 8 & 0xffff;
        match raw & 0xff {
            1 => Self::More,
            2 => Self::Request(with as u8),
            3 => Self::Interim,
            4 => Self::Answer(with as u16),
            5 => Self::LastAnswer(with as u16),
            6 => match Unparsed::from_raw(with as u8) {
                Some(reason) => Self::Lost(reason),
                None => Self::Lost(Unparsed::Malformed),
            },
            _ => Self::Nothing,
        }
    }
}

/// What was heard, and in which protocol; `Unknown` where it is none that is understood, or it cannot be told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What is spoken.
    pub protocol: AppProtocol,
    /// What was said.
    pub heard: Heard,
}

impl Told {
    /// As one number: what a program's function gives its caller.
    #[inline(always)]
    pub const fn to_raw(self) -> u32 {
        self.heard.to_raw() | (self.protocol as u32) << 24
    }

    /// What such a number says.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the uppermost byte is what is wanted")]
    pub const fn from_raw(raw: u32) -> Self {
        let protocol = match AppProtocol::from_raw((raw >> 24) as u8) {
            Some(protocol) => protocol,
            None => AppProtocol::Unknown,
        };
        Self { protocol, heard: Heard::from_raw(raw) }
    }
}

/// What is known of an exchange when one of its sides speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What is spoken, as far as it was told.
    pub protocol: AppProtocol,
    /// How far the exchange is.
    pub stage: Stage,
    /// What was asked for last.
    pub operation: u8,
    /// Requests were answered before on this connection, or it was open before anybody looked: what does not look like the
    /// beginning of a message may be the rest of one.
    pub is_followed: bool,
}

/// What a client's bytes mean.
#[inline(always)]
pub const fn request(known: Known, head: &Head, length: usize) -> Told {
    match known.protocol {
        AppProtocol::Http1 => {
            Told { protocol: AppProtocol::Http1, heard: http1::request(known, head, length) }
        }
        _ => first_words(known, head, length),
    }
}

/// The same while it is not known what is spoken: each protocol is asked in turn. None says yes to another's first words,
/// which a test makes sure of.
#[inline(always)]
const fn first_words(known: Known, head: &Head, length: usize) -> Told {
    // First, since to HTTP/1 the preface of HTTP/2 is a request of a method it does not know.
    match http2::preface(head, length) {
        Heard::Nothing => {}
        heard => return Told { protocol: AppProtocol::Http2, heard },
    }
    let heard = http1::request(known, head, length);
    if matches!(heard, Heard::Request(_)) {
        return Told { protocol: AppProtocol::Http1, heard };
    }
    if matches!(known.stage, Stage::Idle) {
        match conversation::begins(head, length) {
            (protocol, Begin::Yes) => return Told { protocol, heard: Heard::Request(0) },
            (_, Begin::More) => return Told { protocol: AppProtocol::Unknown, heard: Heard::More },
            (_, Begin::No) => {}
        }
    }
    Told { protocol: AppProtocol::Unknown, heard }
}

/// What a server's bytes mean. One that speaks before it was asked is one of HTTP/2, of MySQL, or of none of the protocols that are
/// understood.
#[inline(always)]
pub const fn answer(known: Known, head: &Head, length: usize) -> Told {
    if matches!(known.stage, Stage::Idle) && http2::is_greeting(head, length) {
        return Told { protocol: AppProtocol::Http2, heard: Heard::Nothing };
    }
    if matches!((known.protocol, known.stage, known.is_followed), (AppProtocol::Unknown, Stage::Idle, false))
    {
        match mysql::greets(head, length) {
            Begin::Yes => return Told { protocol: AppProtocol::Mysql, heard: Heard::Nothing },
            Begin::More => return Told { protocol: AppProtocol::Unknown, heard: Heard::More },
            Begin::No => {}
        }
    }
    Told { protocol: known.protocol, heard: http1::answer(known, head, length) }
}

#[cfg(test)]
mod beginnings;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::LookupStatus;

    #[test]
    fn what_was_told_reads_back_from_its_number() {
        for &protocol in AppProtocol::ALL {
            let told = Told { protocol, heard: Heard::Answer(u16::MAX) };
            assert_eq!(Told::from_raw(told.to_raw()), told);
        }
    }

    #[test]
    fn errors_of_a_server_are_no_errors_of_a_client() {
        let is_error = |status| is_server_error(AppProtocol::Http1, status);
        assert_eq!([200, 404, 499, 500, 599].map(is_error), [false, false, false, true, true]);
        let errors =
            LookupStatus::ALL.iter().filter(|&&status| is_server_error(AppProtocol::Dns, status as u16));
        let expected = [LookupStatus::ServFail, LookupStatus::Refused, LookupStatus::NoAnswer];
        assert!(errors.copied().eq(expected), "a name that is not there is none");
    }

    #[test]
    fn a_status_nobody_could_read_is_no_error() {
        use http2::streams::UNSEEN;
        assert!(!is_server_error(AppProtocol::Http2, UNSEEN) && is_server_error(AppProtocol::Http2, 503));
        assert!(!is_server_error(AppProtocol::Grpc, UNSEEN) && is_server_error(AppProtocol::Grpc, 14));
    }

    #[test]
    fn the_first_words_of_http2_are_its_own_at_every_length() {
        let known =
            Known { protocol: AppProtocol::Unknown, stage: Stage::Idle, operation: 0, is_followed: false };
        let said = |text: &[u8]| {
            let mut head = [0; 2 * HEAD_BYTES];
            let length = text.len().min(HEAD_BYTES);
            head[..length].copy_from_slice(&text[..length]);
            request(known, &head, length)
        };
        for length in 1..HEAD_BYTES {
            assert_eq!(said(&http2::PREFACE[..length]).heard, Heard::More, "{length}");
        }
        let told = said(&http2::PREFACE);
        assert_eq!((told.protocol, told.heard), (AppProtocol::Http2, Heard::Request(0)));
        assert_eq!(said(b"PRI * HTTP/1.1\r\n").protocol, AppProtocol::Http1);
        assert_eq!(said(b"PUT / HTTP/1.1\r\n").protocol, AppProtocol::Http1);
    }

    #[test]
    fn a_server_of_http2_may_speak_first() {
        let known =
            Known { protocol: AppProtocol::Unknown, stage: Stage::Idle, operation: 0, is_followed: false };
        let said = |text: &[u8]| {
            let mut head = [0; 2 * HEAD_BYTES];
            head[..text.len()].copy_from_slice(text);
            answer(known, &head, text.len())
        };
        assert_eq!(said(b"\0\0\x0c\x04\0\0\0\0\0\0\x03").protocol, AppProtocol::Http2);
        assert_eq!(said(b"J\0\0\0\x0a8.0.3").protocol, AppProtocol::Mysql);
        for other in [&b"\0\0\x0c\x04\0\0\0\0"[..], b"\0\0\x0d\x04\0\0\0\0\0", b"220 mail\r\n"] {
            let told = said(other);
            assert_eq!(told.heard, Heard::Lost(Unparsed::OtherProtocol), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn what_was_heard_reads_back_from_its_number() {
        let mut all =
            vec![Heard::Nothing, Heard::More, Heard::Interim, Heard::Answer(599), Heard::LastAnswer(101)];
        all.extend([0, 7, u8::MAX].map(Heard::Request));
        all.extend(Unparsed::ALL.iter().map(|&reason| Heard::Lost(reason)));
        for heard in all {
            assert_eq!(Heard::from_raw(heard.to_raw()), heard);
        }
    }
}
