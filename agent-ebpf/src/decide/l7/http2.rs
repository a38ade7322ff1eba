//! HTTP/2 (RFC 9113) and gRPC on it: each side's frames are walked from the connection preface on, byte by byte where
//! they are cut, and fields are read as far as a count needs them.
//!
//! No table of HPACK is kept. Which field an index means depends on the number of insertions since, and of the fields that were
//! inserted only the meaning is remembered: a status, a method, a content of gRPC, or nothing. So a block of fields
//! needs no room, its strings are passed over, and nothing leaves the kernel. What that gives up is every other name
//! and value: paths are not known here.
//!
//! Where a connection is joined while it is open, or a part of it was not seen, [`sync`] finds the next frame; what then
//! refers to an insertion from before is told to be unknown.

mod fields;
mod frames;
pub mod grpc;
pub mod huffman;
pub mod streams;
pub mod sync;

pub use frames::step;

use super::{Head, Heard};
use crate::abi::http2::{ASTRAY, FramePart, REMEMBERED_FIELDS, SETTLED};
use crate::abi::request::HEAD_BYTES;
use crate::abi::{Method, Stream, Walk};

/// What a client says first (RFC 9113, section 3.4).
pub const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// There is more in the window.
    Onward = 0,
    /// The window is at its end.
    Dry = 1,
    /// A block of fields is at its end: it is what the walk tells.
    Block = 2,
    /// The stream's side is at its end, without a block.
    End = 3,
    /// The stream is reset, with the code in the walk's `number`.
    Reset = 4,
    /// This is no HTTP/2, whatever it began with.
    Foreign = 5,
    /// It was, and here it breaks the rules.
    Malformed = 6,
}

impl Step {
    /// The step with this number; [`Step::Malformed`] for a number that is none's.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Onward,
            1 => Self::Dry,
            2 => Self::Block,
            3 => Self::End,
            4 => Self::Reset,
            5 => Self::Foreign,
            _ => Self::Malformed,
        }
    }
}

/// Whether a client's first bytes are the preface: [`Heard::Request`] once so much of it is there that it can be nothing
/// else.
#[inline(always)]
pub const fn preface(head: &Head, length: usize) -> Heard {
    const WORDS: [u64; 2] = [word(&PREFACE, 0), word(&PREFACE, 8)];
    let known = if length >= HEAD_BYTES { HEAD_BYTES } else { length };
    let low = word(head, 0) ^ WORDS[0];
    let high = word(head, 8) ^ WORDS[1];
    if known == HEAD_BYTES {
        return if low | high == 0 { Heard::Request(Method::Other as u8) } else { Heard::Nothing };
    }
    let (low_mask, high_mask) = if known >= 8 {
        (u64::MAX, !(u64::MAX << (8 * (known & 7))))
    } else {
        (!(u64::MAX << (8 * known)), 0)
    };
    if known > 0 && low & low_mask | high & high_mask == 0 { Heard::More } else { Heard::Nothing }
}

/// Whether a server's first bytes, said before its client's were seen, are the SETTINGS that HTTP/2 begins with.
#[inline(always)]
pub const fn is_greeting(head: &Head, length: usize) -> bool {
    // Length (at most 40 settings, six bytes each), type, flags, stream.
    length >= 9
        && head[0] == 0
        && head[1] == 0
        && head[2] <= 240
        && head[2].is_multiple_of(6)
        && head[3] == 4
        && head[4] == 0
        && head[5] | head[6] | head[7] | head[8] == 0
}

/// Eight bytes as one word, the first lowest.
#[inline(always)]
const fn word<const BYTES: usize>(bytes: &[u8; BYTES], at: usize) -> u64 {
    let (mut word, mut turn) = (0, 0);
    while turn < 8 {
        word |= (bytes[at + turn] as u64) << (8 * turn);
        turn += 1;
    }
    word
}

impl Walk {
    /// Of a side of which nothing was read.
    pub const NEW: Self = Self {
        frame: 0,
        began_at_ns: 0,
        block_began_at_ns: 0,
        text_high: 0,
        text_low: 0,
        left: 0,
        stream: 0,
        block_stream: 0,
        number: 0,
        text_left: 0,
        inserted: 0,
        highest: 0,
        block_sequence: 0,
        status: 0,
        grpc_status: 0,
        part: FramePart::Head as u8,
        field: 0,
        filled: 0,
        padding: 0,
        prefix: 0,
        shift: 0,
        representation: 0,
        about: 0,
        gathered: 0,
        marks: 0,
        told: 0,
        method: 0,
        meanings: [0; REMEMBERED_FIELDS],
    };

    /// Begins with the connection preface, of which `filled` bytes were read.
    #[inline(always)]
    pub const fn expect_preface(&mut self, filled: u8) {
        self.part = FramePart::Preface as u8;
        self.filled = filled;
    }

    /// Knows no more where a frame begins, nor what was inserted.
    #[inline(always)]
    pub const fn lose_way(&mut self) {
        self.marks = ASTRAY | SETTLED;
        self.inserted = 0;
        self.block_stream = 0;
        self.part = FramePart::Head as u8;
        self.filled = 0;
        self.left = 0;
    }

    /// Knows that a frame begins here.
    #[inline(always)]
    pub const fn find_way(&mut self) {
        self.marks &= !ASTRAY;
    }

    /// Whether it knows where the next frame begins.
    #[inline(always)]
    pub const fn is_astray(&self) -> bool {
        self.marks & ASTRAY != 0
    }

    /// Takes bytes that lie within what is passed over, without a look at them. Gives whether they do.
    #[inline(always)]
    pub const fn pass(&mut self, bytes: u32) -> bool {
        if self.part != FramePart::Rest as u8 || bytes >= self.left {
            return false;
        }
        self.left -= bytes;
        true
    }
}

impl Stream {
    /// None.
    pub const NONE: Self =
        Self { asked_at_ns: 0, asked_sequence: 0, _pad: 0, number: 0, status: 0, method: 0, marks: 0 };
}

#[cfg(test)]
mod tests;
