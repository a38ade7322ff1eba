//! Finds the next frame on a side whose frames were not walked so far: one whose connection was open before anybody looked,
//! or of which a part was not seen.
//!
//! A segment proves that it begins with a frame when all it holds is frames, from its first byte to its last, with types,
//! flags, lengths and streams as RFC 9113 has them. One that does not is passed over.

use super::frames::{HEAD_BYTES, Head};
use crate::abi::Walker;
use crate::abi::http2::WINDOW_BYTES;

/// Frames of a segment that are looked at.
pub const MAX_FRAMES: u32 = 16;

/// Frames that must be in order where a segment is longer than what is looked at of it.
const FRAMES_IN_A_ROW: u32 = 4;

/// In `found`: the first frame is one of a request.
const REQUEST: u32 = 1 << 16;

/// What a segment turns out to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Begin {
    /// Nothing that could be told.
    Unknown = 0,
    /// A frame.
    Frame = 1,
    /// The first frame of a request.
    Request = 2,
}

/// Looks at the next frame of a window that begins with a segment, from `at` 0 and `found` 0 on; `None` until it can be told.
#[inline(always)]
pub const fn look_on(walker: &mut Walker) -> Option<Begin> {
    let frames = walker.found & (REQUEST - 1);
    let is_past = walker.at.saturating_add(HEAD_BYTES as u32) > walker.length;
    if walker.at == walker.end && frames > 0 || is_past && frames >= FRAMES_IN_A_ROW || frames >= MAX_FRAMES {
        return Some(if walker.found & REQUEST != 0 { Begin::Request } else { Begin::Frame });
    }
    if is_past {
        return Some(Begin::Unknown);
    }
    let head = head_at(&walker.window, walker.at as usize);
    if !head.is_plain() {
        return Some(Begin::Unknown);
    }
    if frames == 0 && head.begins_block() && head.stream & 1 == 1 {
        walker.found |= REQUEST;
    }
    walker.at = walker.at.saturating_add(HEAD_BYTES as u32 + head.length);
    walker.found += 1;
    None
}

#[inline(always)]
const fn head_at(window: &[u8; WINDOW_BYTES], at: usize) -> Head {
    const MASK: usize = WINDOW_BYTES - 1;
    let mut first_bits = 0;
    let mut stream = 0;
    let mut turn = 0;
    while turn < HEAD_BYTES as usize {
        let byte = window[(at + turn) & MASK];
        if turn < 5 {
            first_bits = first_bits << 8 | byte as u64;
        } else {
            stream = stream << 8 | byte as u32;
        }
        turn += 1;
    }
    Head::new(first_bits, stream)
}
