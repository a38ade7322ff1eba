//! DNS (RFC 1035): the number, the type and the outcome of lookups, from the bytes of each message up to the end of its
//! question. Names are passed over, and records are not read.
//!
//! A message is read byte by byte where a byte matters and left out where none does, and reading can stop behind any byte:
//! what a segment of a connection ends with, the next one goes on with. [`pending`] knows which lookups wait.

pub mod pending;

use crate::abi::Unparsed;
use crate::abi::lookup::{LookupStatus, ROOM_BYTES, Reading, ReadingStep, RecordType};

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing yet: more of it is to come.
    More,
    /// A lookup.
    Asked {
        /// Its number.
        id: u16,
        /// What for.
        record_type: RecordType,
    },
    /// The answer to one.
    Answered {
        /// Its number.
        id: u16,
        /// How it ended.
        status: LookupStatus,
    },
    /// Something else that servers of names are told: a change, a notice.
    Other,
    /// It is no message of DNS, or a wrong one.
    Lost(Unparsed),
}

impl Message {
    /// As one number: what a program's function gives its caller.
    #[inline(always)]
    pub const fn to_raw(self) -> u32 {
        let (what, with, id) = match self {
            Self::More => (0, 0, 0),
            Self::Asked { id, record_type } => (1, record_type as u32, id),
            Self::Answered { id, status } => (2, status as u32, id),
            Self::Other => (3, 0, 0),
            Self::Lost(reason) => (4, reason as u32, 0),
        };
        what << 24 | with << 16 | id as u32
    }

    /// What such a number says. One that says nothing is a message with more to come.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "masked to what was packed")]
    pub const fn from_raw(raw: u32) -> Self {
        let (with, id) = ((raw >> 16 & 0xff) as u8, (raw & 0xffff) as u16);
        match raw >> 24 {
            1 => Self::Asked { id, record_type: record_type(with as u16) },
            2 => match LookupStatus::from_raw(with) {
                Some(status) => Self::Answered { id, status },
                None => Self::Answered { id, status: LookupStatus::Other },
            },
            3 => Self::Other,
            4 => match Unparsed::from_raw(with) {
                Some(reason) => Self::Lost(reason),
                None => Self::Lost(Unparsed::Malformed),
            },
            _ => Self::More,
        }
    }
}

/// Which messages one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Lookups.
    Client,
    /// Answers.
    Server,
}

/// Bytes of a header (RFC 1035, section 4.1.1).
const HEADER: u16 = 12;
/// A name is at most so long, its last label of no bytes included (RFC 1035, section 2.3.4).
const MAX_NAME: u16 = 255;
const IS_ANSWER: u16 = 1 << 15;
const OPCODE: u16 = 0b1111 << 11;
/// What is zero in every message (RFC 1035, section 4.1.1, as RFC 2535, section 6.1, leaves it), and what is in a change (RFC
/// 2136, section 2.2): a text that happens to have the number of one has not. Of lookups it is not asked for.
const ZERO: u16 = 0x0040;
const UPDATE_ZERO: u16 = 0x07f0;
const RESPONSE_CODE: u16 = 0b1111;

/// More bytes than one message has that matter: 2 of the length, 6 of the header, 128 labels, 2 of the type.
const MAX_STEPS: u32 = 144;

/// Whether a lookup that ended so says that the server failed: it could not or would not answer, or did not.
#[inline(always)]
pub const fn is_server_error(status: u16) -> bool {
    const SERVER_FAILED: u16 = LookupStatus::ServFail as u16;
    const REFUSED: u16 = LookupStatus::Refused as u16;
    const NO_ANSWER: u16 = LookupStatus::NoAnswer as u16;
    matches!(status, SERVER_FAILED | REFUSED | NO_ANSWER)
}

/// Before the first byte of a datagram of so many bytes. `None` where that cannot be a message.
#[inline(always)]
pub const fn datagram(bytes: u32) -> Option<Reading> {
    if bytes < HEADER as u32 || bytes > u16::MAX as u32 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "compared before")]
    let rest = bytes as u16 - 1;
    Some(Reading {
        skip: 0,
        rest,
        id: 0,
        flags: 0,
        high: 0,
        name_bytes: 0,
        step: ReadingStep::IdHigh as u8,
        _pad: [0; 3],
    })
}

/// Before the first byte of what one side of a connection says.
pub const STREAM: Reading = Reading {
    skip: 0,
    rest: 0,
    id: 0,
    flags: 0,
    high: 0,
    name_bytes: 0,
    step: ReadingStep::LengthHigh as u8,
    _pad: [0; 3],
};

/// Passes over what does not matter of so many bytes that come next; gives how many that are.
#[inline(always)]
pub const fn pass_over(reading: &mut Reading, bytes: u32) -> u32 {
    let skip = reading.skip as u32;
    if skip > bytes {
        #[allow(clippy::cast_possible_truncation, reason = "no more than it was before")]
        let left = (skip - bytes) as u16;
        reading.skip = left;
        return bytes;
    }
    reading.skip = 0;
    skip
}

/// Where it is kept how far a message is read.
///
/// The kernel keeps it in a map and takes in bytes by a function of its own: of what is in a register its verifier follows
/// each value that is possible through every turn of the loop in [`read`].
pub trait Kept {
    /// Bytes to pass over before the next that matters.
    fn skip(&self) -> u16;
    /// Now so many.
    fn set_skip(&mut self, skip: u16);
    /// Takes in the byte that matters, as [`take`] does.
    fn take(&mut self, side: Side, byte: u8) -> Message;
}

/// Reads on in the first `length` bytes until a message says something; gives what, and how many bytes were read or passed
/// over. Behind a message on a connection comes the next: to be called again with what was left.
#[inline(always)]
pub fn read(kept: &mut impl Kept, side: Side, bytes: &[u8; ROOM_BYTES], length: usize) -> (Message, usize) {
    let mut at = 0;
    let mut turn = 0;
    while turn < MAX_STEPS {
        turn += 1;
        let next = at + kept.skip() as usize;
        if next >= length {
            #[allow(clippy::cast_possible_truncation, reason = "no more than it was before")]
            kept.set_skip((next - length) as u16);
            return (Message::More, length);
        }
        at = next + 1;
        // The mask is for the verifier: no more than `bytes` has were said to be there.
        match kept.take(side, bytes[next & (ROOM_BYTES - 1)]) {
            Message::More => {}
            said => return (said, at),
        }
    }
    (Message::Lost(Unparsed::Malformed), at)
}

/// Takes in the next byte that matters.
#[inline(always)]
pub const fn take(reading: &mut Reading, side: Side, byte: u8) -> Message {
    let byte = byte as u16;
    let Some(step) = ReadingStep::from_raw(reading.step) else { return Message::Lost(Unparsed::Malformed) };
    match step {
        ReadingStep::LengthHigh => {
            reading.high = byte << 8;
            reading.skip = 0;
            reading.step = ReadingStep::LengthLow as u8;
            Message::More
        }
        ReadingStep::LengthLow => {
            reading.rest = reading.high | byte;
            reading.name_bytes = 0;
            if reading.rest < HEADER {
                return Message::Lost(Unparsed::Malformed);
            }
            go_on(reading, ReadingStep::IdHigh, 0)
        }
        ReadingStep::IdHigh => {
            reading.id = byte << 8;
            go_on(reading, ReadingStep::IdLow, 0)
        }
        ReadingStep::IdLow => {
            reading.id |= byte;
            go_on(reading, ReadingStep::FlagsHigh, 0)
        }
        ReadingStep::FlagsHigh => {
            reading.flags = byte << 8;
            go_on(reading, ReadingStep::FlagsLow, 0)
        }
        ReadingStep::FlagsLow => {
            reading.flags |= byte;
            flags(reading, side)
        }
        ReadingStep::QuestionsHigh => {
            reading.high = byte << 8;
            go_on(reading, ReadingStep::QuestionsLow, 0)
        }
        // Nobody asks two questions at once (RFC 9619).
        ReadingStep::QuestionsLow if reading.high | byte != 1 => Message::Lost(Unparsed::Malformed),
        // Behind three more counts.
        ReadingStep::QuestionsLow => go_on(reading, ReadingStep::Label, 6),
        ReadingStep::Label => label(reading, byte),
        ReadingStep::TypeHigh => {
            reading.high = byte << 8;
            go_on(reading, ReadingStep::TypeLow, 0)
        }
        // The class is behind it.
        ReadingStep::TypeLow if reading.rest < 2 => Message::Lost(Unparsed::Malformed),
        ReadingStep::TypeLow => {
            let record_type = record_type(reading.high | byte);
            end(reading, Message::Asked { id: reading.id, record_type })
        }
    }
}

/// What the flags say: an answer needs no more.
#[inline(always)]
const fn flags(reading: &mut Reading, side: Side) -> Message {
    let is_answer = reading.flags & IS_ANSWER != 0;
    if is_answer != matches!(side, Side::Server) {
        return Message::Lost(Unparsed::OtherProtocol);
    }
    match (reading.flags & OPCODE) >> 11 {
        0 => {}
        5 if reading.flags & UPDATE_ZERO != 0 => return Message::Lost(Unparsed::OtherProtocol),
        _ if reading.flags & ZERO != 0 => return Message::Lost(Unparsed::OtherProtocol),
        // Inverse lookups, status, notices, changes and stateful operations, by the numbers of IANA.
        1 | 2 | 4 | 5 | 6 => return end(reading, Message::Other),
        _ => return Message::Lost(Unparsed::OtherProtocol),
    }
    match side {
        Side::Server => {
            let status = status(reading.flags & RESPONSE_CODE);
            end(reading, Message::Answered { id: reading.id, status })
        }
        Side::Client => go_on(reading, ReadingStep::QuestionsHigh, 0),
    }
}

/// The length of a label; 0 ends the name.
#[inline(always)]
const fn label(reading: &mut Reading, byte: u16) -> Message {
    reading.name_bytes = reading.name_bytes.saturating_add(byte + 1);
    // A label is at most 63 bytes long. What has an upper bit set points somewhere, which the first name of a message cannot.
    if byte > 63 || reading.name_bytes > MAX_NAME {
        return Message::Lost(Unparsed::Malformed);
    }
    let next = if byte == 0 { ReadingStep::TypeHigh } else { ReadingStep::Label };
    go_on(reading, next, byte)
}

/// The next byte that matters is `skip` bytes on, if the message is so long.
#[inline(always)]
const fn go_on(reading: &mut Reading, step: ReadingStep, skip: u16) -> Message {
    if reading.rest <= skip {
        return Message::Lost(Unparsed::Malformed);
    }
    reading.rest -= skip + 1;
    reading.skip = skip;
    reading.step = step as u8;
    Message::More
}

/// Nothing more of the message matters.
#[inline(always)]
const fn end(reading: &mut Reading, said: Message) -> Message {
    reading.skip = reading.rest;
    reading.rest = 0;
    reading.step = ReadingStep::LengthHigh as u8;
    said
}

#[inline(always)]
const fn record_type(number: u16) -> RecordType {
    #[allow(clippy::cast_possible_truncation, reason = "compared before")]
    let named = if number <= 255 { RecordType::from_raw(number as u8) } else { None };
    match named {
        Some(record_type) => record_type,
        None => RecordType::Other,
    }
}

#[inline(always)]
const fn status(code: u16) -> LookupStatus {
    #[allow(clippy::cast_possible_truncation, reason = "four bits")]
    match LookupStatus::from_raw(code as u8) {
        Some(status) => status,
        None => LookupStatus::Other,
    }
}

#[cfg(test)]
mod tests;
