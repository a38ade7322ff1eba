//! The walk over frames (RFC 9113, section 4). Knows where their parts are; what is in a block of fields is
//! [`fields`](super::fields)' business, and what becomes of a stream [`streams`](super::streams)'.

use super::{PREFACE, Step, fields};
use crate::abi::http2::{BLOCK_ENDS_STREAM, BLOCK_IS_PROMISE, FieldPart, FramePart, SETTLED, WINDOW_BYTES};
use crate::abi::{Method, Walk, Walker};

// Types of frames, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: u8 = 9;

/// The head of a frame.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) length: u32,
    kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

impl Head {
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "parts of 40 bits")]
    pub(super) const fn new(first_bits: u64, stream: u32) -> Self {
        Self {
            length: (first_bits >> 16) as u32 & 0xff_ffff,
            kind: (first_bits >> 8) as u8,
            flags: first_bits as u8,
            // The highest bit is reserved and to be ignored (section 4.1).
            stream: stream & 0x7fff_ffff,
        }
    }

    /// Whether its stream and its length are such as its type demands (section 6).
    #[inline(always)]
    pub(super) const fn is_sound(&self) -> bool {
        let of_connection = self.stream == 0;
        match self.kind {
            DATA | HEADERS | PUSH_PROMISE | CONTINUATION => !of_connection,
            PRIORITY => !of_connection && self.length == 5,
            RST_STREAM => !of_connection && self.length == 4,
            SETTINGS => {
                of_connection && self.length.is_multiple_of(6) && (self.flags & ACK == 0 || self.length == 0)
            }
            PING => of_connection && self.length == 8,
            GOAWAY => of_connection && self.length >= 8,
            WINDOW_UPDATE => self.length == 4,
            // Extensions are to be ignored (section 5.5).
            _ => true,
        }
    }

    /// Whether it is one that RFC 9113 names, with no flag that it does not.
    #[inline(always)]
    pub(super) const fn is_plain(&self) -> bool {
        let flags = match self.kind {
            DATA => END_STREAM | PADDED,
            HEADERS => END_STREAM | END_HEADERS | PADDED | HAS_PRIORITY,
            SETTINGS | PING => ACK,
            PUSH_PROMISE => END_HEADERS | PADDED,
            CONTINUATION => END_HEADERS,
            _ => 0,
        };
        self.kind <= CONTINUATION && self.flags & !flags == 0 && self.is_sound()
    }

    /// Whether it begins a block of fields.
    #[inline(always)]
    pub(super) const fn begins_block(&self) -> bool {
        self.kind == HEADERS
    }
}

/// Walks one step: a frame's head, a field, a stretch of what does not matter, or one byte where these are cut.
#[inline(always)]
pub const fn step(walker: &mut Walker) -> Step {
    match walker.walk.part {
        0 => head(walker),
        1 => preface(walker),
        2 => pad_length(walker),
        3 => prefix(walker),
        4 => block(walker),
        5 => code(walker),
        _ => rest(walker),
    }
}

/// The next byte of the window, if there is one.
#[inline(always)]
pub(super) const fn next(walker: &mut Walker) -> Option<u8> {
    if walker.at >= walker.length {
        return None;
    }
    let byte = walker.window[walker.at as usize & (WINDOW_BYTES - 1)];
    walker.at += 1;
    Some(byte)
}

#[inline(always)]
const fn preface(walker: &mut Walker) -> Step {
    let Some(byte) = next(walker) else { return Step::Dry };
    // The mask is for the verifier; what it would hide is met by the comparison below.
    let at = walker.walk.filled as usize & 31;
    if at >= PREFACE.len() || byte != preface_byte(at) {
        return Step::Foreign;
    }
    walker.walk.filled += 1;
    if walker.walk.filled as usize == PREFACE.len() {
        walker.walk.filled = 0;
        walker.walk.part = FramePart::Head as u8;
    }
    Step::Onward
}

/// A byte of the preface, out of three words: a table would lie in a map of its own.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "one byte")]
const fn preface_byte(at: usize) -> u8 {
    const fn word(from: usize) -> u64 {
        let mut word = 0;
        let mut at = 0;
        while at < 8 {
            word |= (PREFACE[from + at] as u64) << (8 * at);
            at += 1;
        }
        word
    }
    let word = if at < 8 {
        const { word(0) }
    } else if at < 16 {
        const { word(8) }
    } else {
        const { word(16) }
    };
    (word >> (8 * (at & 7))) as u8
}

#[inline(always)]
const fn head(walker: &mut Walker) -> Step {
    let mut turn = 0;
    while turn < HEAD_BYTES {
        let Some(byte) = next(walker) else { return Step::Dry };
        let walk = &mut walker.walk;
        if walk.filled == 0 {
            walk.began_at_ns = walker.now_ns;
            walk.frame = 0;
            walk.stream = 0;
        }
        if walk.filled < 5 {
            walk.frame = walk.frame << 8 | byte as u64;
        } else {
            walk.stream = walk.stream << 8 | byte as u32;
        }
        walk.filled += 1;
        if walk.filled >= HEAD_BYTES {
            walk.filled = 0;
            // Where the head began, also where a segment before had a part of it.
            let sequence = walker.sequence.wrapping_add(walker.done).wrapping_add(walker.at);
            return begin(walk, sequence.wrapping_sub(HEAD_BYTES as u32));
        }
        turn += 1;
    }
    Step::Onward
}

/// A frame begins at this TCP sequence number, whose head was read.
#[inline(always)]
const fn begin(walk: &mut Walk, sequence: u32) -> Step {
    let head = Head::new(walk.frame, walk.stream);
    walk.stream = head.stream;
    walk.left = head.length;
    walk.padding = 0;
    walk.prefix = 0;
    if walk.marks & SETTLED == 0 {
        // Something else may begin with the same preface; this is what it does not go on with (section 3.4).
        if head.kind != SETTINGS || head.flags & ACK != 0 || !head.is_sound() {
            return Step::Foreign;
        }
        walk.marks |= SETTLED;
    }
    let is_continued = head.kind == CONTINUATION;
    if !head.is_sound()
        || (walk.block_stream != 0) != is_continued
        || is_continued && walk.block_stream != head.stream
    {
        return Step::Malformed;
    }
    match head.kind {
        HEADERS | PUSH_PROMISE => {
            walk.block_sequence = sequence;
            begin_block(walk, head)
        }
        CONTINUATION => {
            walk.part = FramePart::Fields as u8;
            Step::Onward
        }
        RST_STREAM => {
            walk.number = 0;
            walk.part = FramePart::Code as u8;
            Step::Onward
        }
        DATA => {
            pass_over(walk);
            if head.flags & END_STREAM != 0 { Step::End } else { Step::Onward }
        }
        _ => {
            pass_over(walk);
            Step::Onward
        }
    }
}

/// A frame with the beginning of a block begins.
#[inline(always)]
const fn begin_block(walk: &mut Walk, head: Head) -> Step {
    walk.block_stream = head.stream;
    walk.block_began_at_ns = walk.began_at_ns;
    walk.marks &= !(BLOCK_ENDS_STREAM | BLOCK_IS_PROMISE);
    walk.field = FieldPart::Begin as u8;
    walk.status = 0;
    walk.grpc_status = 0;
    walk.method = Method::Other as u8;
    walk.told = 0;
    if head.kind == PUSH_PROMISE {
        walk.marks |= BLOCK_IS_PROMISE;
        walk.prefix = 4;
    } else {
        if head.flags & END_STREAM != 0 {
            walk.marks |= BLOCK_ENDS_STREAM;
        }
        if head.flags & HAS_PRIORITY != 0 {
            walk.prefix = 5;
        }
    }
    if head.flags & PADDED != 0 {
        walk.part = FramePart::PadLength as u8;
    } else {
        walk.part = FramePart::Prefix as u8;
    }
    Step::Onward
}

#[inline(always)]
const fn pad_length(walker: &mut Walker) -> Step {
    if walker.walk.left == 0 {
        return Step::Malformed;
    }
    let Some(byte) = next(walker) else { return Step::Dry };
    walker.walk.left -= 1;
    walker.walk.padding = byte;
    walker.walk.part = FramePart::Prefix as u8;
    Step::Onward
}

/// Priority and promised stream say nothing that is counted.
#[inline(always)]
const fn prefix(walker: &mut Walker) -> Step {
    let walk = &mut walker.walk;
    if (walk.prefix as u32 + walk.padding as u32) > walk.left {
        return Step::Malformed;
    }
    if walk.prefix == 0 {
        walk.part = FramePart::Fields as u8;
        return Step::Onward;
    }
    if walker.at >= walker.length {
        return Step::Dry;
    }
    walker.at += 1;
    walk.prefix -= 1;
    walk.left -= 1;
    Step::Onward
}

/// A piece of a block of fields.
#[inline(always)]
const fn block(walker: &mut Walker) -> Step {
    let walk = &mut walker.walk;
    let padding = walk.padding as u32;
    if walk.left > padding {
        return fields::step(walker);
    }
    pass_over(walk);
    let head = Head::new(walk.frame, walk.stream);
    if head.flags & END_HEADERS == 0 {
        return Step::Onward;
    }
    walk.block_stream = 0;
    if walk.field != FieldPart::Begin as u8 {
        return Step::Malformed;
    }
    Step::Block
}

#[inline(always)]
const fn code(walker: &mut Walker) -> Step {
    let Some(byte) = next(walker) else { return Step::Dry };
    let walk = &mut walker.walk;
    walk.number = walk.number << 8 | byte as u32;
    walk.left = walk.left.saturating_sub(1);
    if walk.left > 0 {
        return Step::Onward;
    }
    pass_over(walk);
    Step::Reset
}

/// Nothing more of the frame matters.
#[inline(always)]
const fn pass_over(walk: &mut Walk) {
    walk.part = if walk.left == 0 { FramePart::Head as u8 } else { FramePart::Rest as u8 };
}

/// Passes over what does not matter, also past the window.
#[inline(always)]
const fn rest(walker: &mut Walker) -> Step {
    let there = walker.end.saturating_sub(walker.at);
    if there == 0 {
        return Step::Dry;
    }
    let bytes = if there < walker.walk.left { there } else { walker.walk.left };
    walker.at += bytes;
    walker.walk.left -= bytes;
    pass_over(&mut walker.walk);
    if walker.at >= walker.length { Step::Dry } else { Step::Onward }
}
