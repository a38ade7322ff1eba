//! What is said on a connection: requests, and the answers to them.
//!
//! A protocol is a file here and a variant of [`AppProtocol`](crate::abi::AppProtocol). Its functions get the first bytes
//! of what one side said and how far the exchange is, and tell what that means. They see no packet: [`position`] has put the
//! bytes into their order before.

pub mod conversation;
pub mod http1;
pub mod kafka;
pub mod mysql;
pub mod position;
pub mod postgresql;
pub mod redis;
mod sql;

use crate::abi::{Method, Unparsed};

/// What bytes of one side mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that matters: the rest of a message.
    Nothing,
    /// The beginning of a message, too short to be told. To be kept, and asked about again with what follows.
    More,
    /// A request began.
    Request(Method),
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
            Self::Request(method) => (2, method as u32),
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
            2 => match Method::from_raw(with as u8) {
                Some(method) => Self::Request(method),
                None => Self::Request(Method::Other),
            },
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

#[cfg(test)]
mod beginnings;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_reads_back_from_its_number() {
        let mut all =
            vec![Heard::Nothing, Heard::More, Heard::Interim, Heard::Answer(599), Heard::LastAnswer(101)];
        all.extend(Method::ALL.iter().map(|&method| Heard::Request(method)));
        all.extend(Unparsed::ALL.iter().map(|&reason| Heard::Lost(reason)));
        for heard in all {
            assert_eq!(Heard::from_raw(heard.to_raw()), heard);
        }
    }
}
