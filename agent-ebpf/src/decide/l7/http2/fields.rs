//! Fields as HPACK writes them (RFC 7541), read for what a count needs: status, `grpc-status`, method, and whether the
//! content is gRPC's. Keeps no table: only what an entry means, by the number of its insertion. That entries are evicted
//! changes nothing, since nobody refers to one that was; for the same reason the table's size does not matter.

use super::{Step, frames, huffman};
use crate::abi::http2::{
    FieldPart, HUFFMAN, IS_VALUE, MATCHES, REMEMBERED_FIELDS, TOLD_GRPC, TOLD_UNKNOWN, UNKNOWN_VALUE,
};
use crate::abi::{Method, Walk, Walker};

// How a field is represented (section 6): its first bits.
const INDEXED: u8 = 0;
const INSERTED: u8 = 1;
const RESIZED: u8 = 2;
const LITERAL: u8 = 3;

// What a field is about: the upper four bits of a meaning.
const NOTHING: u16 = 0;
const STATUS: u16 = 1;
const GRPC_STATUS: u16 = 2;
const METHOD: u16 = 3;
const CONTENT_TYPE: u16 = 4;
const UNKNOWN: u16 = 5;

/// Entries of the static table (appendix A).
const STATIC_ENTRIES: u32 = 61;

/// Bits of an index or a length that are read: what is longer than 2²⁸ is no field.
const MAX_SHIFT: u8 = 21;

const fn meaning(about: u16, value: u16) -> u16 {
    about << 12 | value & 0xfff
}

/// Walks a step within a block of which there is something left.
#[inline(always)]
pub(super) const fn step(walker: &mut Walker) -> Step {
    if walker.walk.field == FieldPart::Text as u8 {
        return text(walker);
    }
    let Some(byte) = frames::next(walker) else { return Step::Dry };
    let walk = &mut walker.walk;
    walk.left = walk.left.saturating_sub(1);
    match walk.field {
        0 => begin(walk, byte),
        1 => {
            if !more(walk, byte) {
                return if walk.shift > MAX_SHIFT { Step::Malformed } else { Step::Onward };
            }
            indexed(walk)
        }
        2 => {
            walk.marks &= !HUFFMAN;
            if byte & 0x80 != 0 {
                walk.marks |= HUFFMAN;
            }
            walk.number = (byte & 0x7f) as u32;
            if walk.number == 0x7f {
                walk.shift = 0;
                walk.field = FieldPart::LengthMore as u8;
                return Step::Onward;
            }
            begin_text(walk)
        }
        _ => {
            if !more(walk, byte) {
                return if walk.shift > MAX_SHIFT { Step::Malformed } else { Step::Onward };
            }
            begin_text(walk)
        }
    }
}

/// The first byte of a field.
#[inline(always)]
const fn begin(walk: &mut Walk, byte: u8) -> Step {
    let (representation, mask) = if byte & 0x80 != 0 {
        (INDEXED, 0x7f)
    } else if byte & 0x40 != 0 {
        (INSERTED, 0x3f)
    } else if byte & 0x20 != 0 {
        (RESIZED, 0x1f)
    } else {
        (LITERAL, 0x0f)
    };
    walk.representation = representation;
    walk.number = (byte & mask) as u32;
    if byte & mask == mask {
        walk.shift = 0;
        walk.field = FieldPart::Index as u8;
        return Step::Onward;
    }
    indexed(walk)
}

/// Adds a byte to a number (section 5.1); gives whether it was the last.
#[inline(always)]
const fn more(walk: &mut Walk, byte: u8) -> bool {
    walk.number = walk.number.wrapping_add(((byte & 0x7f) as u32) << (walk.shift & 31));
    walk.shift += 7;
    byte & 0x80 == 0
}

/// The index is known.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of a handful of things, and short lengths")]
const fn indexed(walk: &mut Walk) -> Step {
    let index = walk.number;
    match walk.representation {
        INDEXED => {
            if index == 0 {
                return Step::Malformed;
            }
            walk.field = FieldPart::Begin as u8;
            tell(walk, meaning_of(walk, index));
        }
        RESIZED => walk.field = FieldPart::Begin as u8,
        _ => {
            walk.field = FieldPart::Length as u8;
            walk.marks &= !IS_VALUE;
            walk.about = NOTHING as u8;
            if index != 0 {
                walk.marks |= IS_VALUE;
                walk.about = (meaning_of(walk, index) >> 12) as u8;
            }
        }
    }
    Step::Onward
}

/// What an entry means.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of a handful of things, and short lengths")]
const fn meaning_of(walk: &Walk, index: u32) -> u16 {
    if index > STATIC_ENTRIES {
        let age = index - STATIC_ENTRIES - 1;
        if age >= walk.inserted || age >= REMEMBERED_FIELDS as u32 {
            return meaning(UNKNOWN, 0);
        }
        return walk.meanings[(walk.inserted - 1 - age) as usize & (REMEMBERED_FIELDS - 1)];
    }
    match index {
        2 => meaning(METHOD, Method::Get as u16),
        3 => meaning(METHOD, Method::Post as u16),
        8 => meaning(STATUS, 200),
        9 => meaning(STATUS, 204),
        10 => meaning(STATUS, 206),
        11 => meaning(STATUS, 304),
        12 => meaning(STATUS, 400),
        13 => meaning(STATUS, 404),
        14 => meaning(STATUS, 500),
        31 => meaning(CONTENT_TYPE, 0),
        _ => meaning(NOTHING, 0),
    }
}

/// Takes in what a field means.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "methods are numbered within a byte")]
const fn tell(walk: &mut Walk, meant: u16) {
    let value = meant & 0xfff;
    match meant >> 12 {
        STATUS => walk.status = value,
        GRPC_STATUS => walk.grpc_status = value,
        METHOD => walk.method = value as u8,
        CONTENT_TYPE if value != 0 => walk.told |= TOLD_GRPC,
        UNKNOWN => walk.told |= TOLD_UNKNOWN,
        _ => {}
    }
}

/// The length of a string is known.
#[inline(always)]
const fn begin_text(walk: &mut Walk) -> Step {
    walk.text_left = walk.number;
    walk.gathered = 0;
    walk.text_high = 0;
    walk.text_low = 0;
    walk.marks &= !MATCHES;
    walk.field = FieldPart::Text as u8;
    if walk.text_left == 0 { end_text(walk) } else { Step::Onward }
}

/// Bytes of a string that are looked at: `application/grpc` and one more.
const GATHERED: u8 = 17;

/// What a content type of gRPC begins with.
const GRPC_CONTENT: &[u8] = b"application/grpc";

/// Whether the bytes of the string matter.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of a handful of things, and short lengths")]
const fn is_wanted(walk: &Walk) -> bool {
    if walk.gathered >= GATHERED {
        return false;
    }
    if walk.marks & IS_VALUE != 0 {
        return walk.about != NOTHING as u8 && walk.about != UNKNOWN as u8;
    }
    // Names of other lengths are passed over: those of `about_of_name`, as they are and as they are coded.
    if walk.marks & HUFFMAN != 0 {
        matches!(walk.number, 5 | 8 | 9)
    } else {
        matches!(walk.number, 7 | 11 | 12)
    }
}

/// A piece of a string.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of a handful of things, and short lengths")]
const fn text(walker: &mut Walker) -> Step {
    if walker.at >= walker.length {
        return Step::Dry;
    }
    if is_wanted(&walker.walk) {
        let Some(byte) = frames::next(walker) else { return Step::Dry };
        let walk = &mut walker.walk;
        if walk.about == CONTENT_TYPE as u8 {
            compare_content(walk, byte);
        }
        walk.text_high = walk.text_high << 8 | walk.text_low >> 56;
        walk.text_low = walk.text_low << 8 | byte as u64;
        walk.gathered += 1;
        walk.left = walk.left.saturating_sub(1);
        walk.text_left = walk.text_left.saturating_sub(1);
        return if walk.text_left == 0 { end_text(walk) } else { Step::Onward };
    }
    let there = walker.length.saturating_sub(walker.at);
    let walk = &mut walker.walk;
    let in_frame = walk.left.saturating_sub(walk.padding as u32);
    let mut bytes = if there < in_frame { there } else { in_frame };
    if walk.text_left < bytes {
        bytes = walk.text_left;
    }
    walker.at += bytes;
    walk.left -= bytes;
    walk.text_left -= bytes;
    if walk.text_left == 0 { end_text(walk) } else { Step::Onward }
}

/// Whether a content type is gRPC's, told by what comes behind its beginning: `application/grpc-web` is not.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of a handful of things, and short lengths")]
const fn compare_content(walk: &mut Walk, byte: u8) {
    const CODE: huffman::Code = huffman::code(GRPC_CONTENT);
    let is_coded = walk.marks & HUFFMAN != 0;
    let length = if is_coded { CODE.length } else { GRPC_CONTENT.len() as u32 };
    if walk.gathered as u32 != length {
        return;
    }
    let is_dash = if is_coded { byte >> 2 == huffman::DASH } else { byte == b'-' };
    if is_grpc(walk, length) && !is_dash {
        walk.marks |= MATCHES;
    }
}

/// Whether the bytes that are gathered, so many of them, begin a content type of gRPC.
#[inline(always)]
const fn is_grpc(walk: &Walk, gathered: u32) -> bool {
    const CODE: huffman::Code = huffman::code(GRPC_CONTENT);
    const PLAIN: huffman::Code = huffman::plain(GRPC_CONTENT);
    let wanted = if walk.marks & HUFFMAN != 0 { CODE } else { PLAIN };
    gathered == wanted.length && walk.text_low == wanted.low && walk.text_high == wanted.high
}

/// A string is at its end.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "numbers of a handful of things, and short lengths")]
const fn end_text(walk: &mut Walk) -> Step {
    if walk.marks & IS_VALUE == 0 {
        walk.about = about_of_name(walk) as u8;
        walk.marks |= IS_VALUE;
        walk.field = FieldPart::Length as u8;
        return Step::Onward;
    }
    walk.field = FieldPart::Begin as u8;
    let meant = meaning(walk.about as u16, value(walk));
    tell(walk, meant);
    if walk.representation == INSERTED {
        // Nothing refers to a number so high: the count of a connection's insertions does not come round in its life.
        walk.meanings[walk.inserted as usize & (REMEMBERED_FIELDS - 1)] = meant;
        walk.inserted = walk.inserted.wrapping_add(1);
    }
    Step::Onward
}

/// What the name that was read says the field is about. All but `grpc-status` are in the static table, and hardly anybody
/// spells them out.
#[inline(always)]
const fn about_of_name(walk: &Walk) -> u16 {
    let is_coded = walk.marks & HUFFMAN != 0;
    macro_rules! known {
        ($($text:literal => $about:expr),+ $(,)?) => {
            $(
                let wanted =
                    if is_coded { const { huffman::code($text) } } else { const { huffman::plain($text) } };
                if walk.gathered as u32 == wanted.length
                    && walk.text_low == wanted.low
                    && walk.text_high == wanted.high
                {
                    return $about;
                }
            )+
        };
    }
    known!(
        b"grpc-status" => GRPC_STATUS,
        b":status" => STATUS,
        b":method" => METHOD,
        b"content-type" => CONTENT_TYPE,
    );
    NOTHING
}

/// What a value says, by what the field is about.
#[inline(always)]
const fn value(walk: &Walk) -> u16 {
    let is_coded = walk.marks & HUFFMAN != 0;
    match walk.about as u16 {
        STATUS => match huffman::number(walk.text_low, walk.gathered, is_coded) {
            Some(status) if status >= 100 && status < 600 => status,
            _ => UNKNOWN_VALUE,
        },
        GRPC_STATUS => match huffman::number(walk.text_low, walk.gathered, is_coded) {
            // Plus one, so that none is 0.
            Some(status) if status <= super::grpc::MAX_STATUS => status + 1,
            _ => UNKNOWN_VALUE,
        },
        METHOD => huffman::method(walk.text_low, walk.gathered, is_coded) as u16,
        CONTENT_TYPE => {
            let is_grpc = walk.marks & MATCHES != 0 || is_grpc(walk, walk.gathered as u32);
            is_grpc as u16
        }
        _ => 0,
    }
}
