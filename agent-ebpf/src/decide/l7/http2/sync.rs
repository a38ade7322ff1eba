//! Finds the next frame on a side whose frames were not walked so far: one whose connection was open before anybody looked,
//! or of which a part was not seen.
//!
//! A segment proves that it begins with a frame when all it holds is frames, from its first byte to its last, with types,
//! flags, lengths and streams as RFC 9113 has them. One that does not is passed over.

use super::frames::{HEAD_BYTES, Head};
use crate::abi::http2::WINDOW_BYTES;

/// Frames of a segment that are looked at.
const MAX_FRAMES: u32 = 16;

/// Frames that must be in order where a segment is longer than what is looked at of it.
const FRAMES_IN_A_ROW: u32 = 4;

/// What a segment turns out to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing that could be told.
    Unknown,
    /// A frame.
    Frame,
    /// The first frame of a request.
    Request,
}

/// What a segment of `end` bytes begins with, of which `window` holds the first `length`.
#[inline(always)]
pub const fn begin(window: &[u8; WINDOW_BYTES], length: u32, end: u32) -> Begin {
    let (mut at, mut frames) = (0_u32, 0);
    let mut is_request = false;
    while frames < MAX_FRAMES {
        if at == end && frames > 0 || at.saturating_add(HEAD_BYTES as u32) > length && frames >= FRAMES_IN_A_ROW {
            return if is_request { Begin::Request } else { Begin::Frame };
        }
        if at.saturating_add(HEAD_BYTES as u32) > length {
            return Begin::Unknown;
        }
        let head = head_at(window, at as usize);
        if !head.is_plain() {
            return Begin::Unknown;
        }
        if frames == 0 {
            is_request = head.begins_block() && head.stream & 1 == 1;
        }
        at = at.saturating_add(HEAD_BYTES as u32 + head.length);
        frames += 1;
    }
    if is_request { Begin::Request } else { Begin::Frame }
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
