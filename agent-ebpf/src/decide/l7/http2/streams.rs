//! Streams under way: when each was asked, and what is counted of it when.
//!
//! An HTTP answer counts when its first fields come, as that of HTTP/1 does. A call of gRPC counts when its stream ends: its
//! status is in the trailers, and `rpc.*.call.duration` of OpenTelemetry is the whole call. Which of both a stream is, its
//! content type tells.

use super::grpc;
use crate::abi::http2::{
    BLOCK_ENDS_STREAM, BLOCK_IS_PROMISE, IS_ANSWERED, IS_COUNTED, IS_GRPC, STREAM_SETS, STREAM_WAYS,
    TOLD_GRPC, UNKNOWN_VALUE,
};
use crate::abi::{Stream, Walk};

/// The status of an answer that told none that could be read: its fields refer to what was said before anybody looked.
pub const UNSEEN: u16 = UNKNOWN_VALUE;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is a call of gRPC.
    pub is_grpc: bool,
    /// A `Method` by number.
    pub method: u8,
    /// HTTP's status, or gRPC's; [`UNSEEN`].
    pub status: u16,
    /// From the first byte of the request to the first byte of the answer's fields, or of the trailers of a call.
    pub duration_ns: u64,
}

/// The set in which a stream of this number lies.
#[inline(always)]
pub const fn set(number: u32) -> usize {
    // Numbers of a client are odd.
    (number >> 1) as usize & (STREAM_SETS - 1)
}

/// Where in its set a stream lies; [`STREAM_WAYS`]: nowhere. 0 finds a free place.
#[inline(always)]
pub const fn way(set: &[Stream; STREAM_WAYS], number: u32) -> usize {
    let mut way = 0;
    while way < STREAM_WAYS && set[way].number != number {
        way += 1;
    }
    way
}

/// Whether a block of the client asks for something that was not asked for yet: one of a lower number is the trailers of a
/// request (RFC 9113, section 5.1.1).
#[inline(always)]
pub const fn is_request(walk: &Walk) -> bool {
    walk.stream & 1 == 1 && walk.stream > walk.highest
}

/// The stream that a block of the client begins.
#[inline(always)]
pub const fn asked(walk: &Walk) -> Stream {
    Stream {
        asked_at_ns: walk.block_began_at_ns,
        asked_sequence: walk.block_sequence,
        _pad: 0,
        number: walk.stream,
        status: 0,
        method: walk.method,
        marks: if walk.told & TOLD_GRPC != 0 { IS_GRPC } else { 0 },
    }
}

/// Whether somebody waits for its answer: the first fields of one of HTTP, the end of a call of gRPC.
#[inline(always)]
pub const fn is_unanswered(stream: &Stream) -> bool {
    stream.number != 0 && stream.marks & IS_COUNTED == 0
}

/// A block of the server, on this stream.
#[inline(always)]
pub const fn answered(stream: &mut Stream, walk: &Walk) -> Option<Answer> {
    if walk.marks & BLOCK_IS_PROMISE != 0 {
        return None;
    }
    let ends = walk.marks & BLOCK_ENDS_STREAM != 0;
    let is_interim = walk.status >= 100 && walk.status < 200 && !ends;
    if is_interim {
        return None;
    }
    if stream.marks & IS_ANSWERED == 0 {
        stream.marks |= IS_ANSWERED;
        stream.status = if walk.status == 0 { UNSEEN } else { walk.status };
    }
    let is_grpc = stream.marks & IS_GRPC != 0;
    let counts = stream.marks & IS_COUNTED == 0 && (ends || !is_grpc);
    let status = if !is_grpc {
        stream.status
    } else if walk.grpc_status == 0 {
        unsent(stream, walk.told != 0)
    } else if walk.grpc_status == UNKNOWN_VALUE {
        grpc::UNKNOWN
    } else {
        walk.grpc_status - 1
    };
    let answer = Answer {
        is_grpc,
        method: stream.method,
        status,
        duration_ns: walk.block_began_at_ns.saturating_sub(stream.asked_at_ns),
    };
    stream.marks |= if counts { IS_COUNTED } else { 0 };
    if ends {
        stream.number = 0;
    }
    if counts { Some(answer) } else { None }
}

/// The status of a call whose trailers told none. `is_partial`: they told something that refers to what nobody saw.
#[inline(always)]
const fn unsent(stream: &Stream, is_partial: bool) -> u16 {
    if is_partial || stream.status == UNSEEN { UNSEEN } else { grpc::status_of_http(stream.status) }
}

/// The server ends the stream with its data.
#[inline(always)]
pub const fn ended(stream: &mut Stream, now_ns: u64) -> Option<Answer> {
    stream.number = 0;
    if stream.marks & (IS_GRPC | IS_COUNTED) != IS_GRPC {
        return None;
    }
    let status = unsent(stream, false);
    Some(call(stream, status, now_ns))
}

/// Either side resets the stream, with this code. Of HTTP, what was not answered is not counted, as with HTTP/1.
#[inline(always)]
pub const fn reset(stream: &mut Stream, code: u32, now_ns: u64) -> Option<Answer> {
    stream.number = 0;
    if stream.marks & (IS_GRPC | IS_COUNTED) != IS_GRPC {
        return None;
    }
    Some(call(stream, grpc::status_of_reset(code), now_ns))
}

#[inline(always)]
const fn call(stream: &Stream, status: u16, now_ns: u64) -> Answer {
    Answer {
        is_grpc: true,
        method: stream.method,
        status,
        duration_ns: now_ns.saturating_sub(stream.asked_at_ns),
    }
}
