//! What the kernel keeps of an HTTP/2 connection: how far each side's frames have been walked, and the streams under way.
//!
//! Knows the layouts; what the bytes mean is `decide::l7::http2`'s business.

use super::connection::Connection;
use super::named_enum;
use super::request::RequestKey;

/// Insertions into a dynamic table of HPACK whose meaning is remembered: the most entries the table has in its default size of
/// 4 096 bytes, each of which takes at least 32 (RFC 7541, section 4.1).
pub const REMEMBERED_FIELDS: usize = 128;

/// Sets of streams of one connection that are followed at a time, by their numbers: with [`STREAM_WAYS`] places each they hold
/// 128 streams, as many as servers allow as a rule. 24 B each.
pub const STREAM_SETS: usize = 32;

/// Streams of a set. Where so many of one set live long, the next of that set is not followed.
pub const STREAM_WAYS: usize = 4;

/// Bytes of a segment that are walked at a time.
pub const WINDOW_BYTES: usize = 1_024;

/// Programs that may be walking on one CPU at a time: a task, an interrupt of it, and what preempted either.
pub const MAX_WALKERS: u32 = 4;

named_enum! {
    /// What of a frame is read next.
    pub enum FramePart {
        /// Its head, of nine bytes.
        Head = 0 => "head",
        /// The client's connection preface, before its first frame.
        Preface = 1 => "preface",
        /// The number of bytes of padding.
        PadLength = 2 => "pad_length",
        /// What comes before the fields of a block: a priority, a promised stream.
        Prefix = 3 => "prefix",
        /// Fields of a block.
        Fields = 4 => "fields",
        /// The code of a reset.
        Code = 5 => "code",
        /// What does not matter.
        Rest = 6 => "rest",
    }
}

named_enum! {
    /// What of a field is read next (RFC 7541, section 6).
    pub enum FieldPart {
        /// Its first byte.
        Begin = 0 => "begin",
        /// More of an index.
        Index = 1 => "index",
        /// The first byte of a string's length.
        Length = 2 => "length",
        /// More of that length.
        LengthMore = 3 => "length_more",
        /// The string.
        Text = 4 => "text",
    }
}

/// How far the frames of one side have been walked. What is gathered is kept from one segment to the next, since a
/// frame, a field, and a number in it may be cut anywhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Length, type and flags of the frame, as far as they are read: 40 bits.
    pub frame: u64,
    /// The last bytes of a string that is read, the last one lowest: those before the last eight. Not beside those: the compiler
    /// would have both zeroed by a loop over bytes.
    pub text_high: u64,
    /// When the first byte of the frame came.
    pub began_at_ns: u64,
    /// See `text_high`: the last eight.
    pub text_low: u64,
    /// When the first byte of the frame came that began the block of fields.
    pub block_began_at_ns: u64,
    /// Bytes left of the frame.
    pub left: u32,
    /// The frame's stream.
    pub stream: u32,
    /// The stream whose block of fields is not at its end; 0: none's.
    pub block_stream: u32,
    /// An index or a length that is being read.
    pub number: u32,
    /// Bytes left of the string.
    pub text_left: u32,
    /// Insertions into the dynamic table so far.
    pub inserted: u32,
    /// The highest stream the client opened.
    pub highest: u32,
    /// The TCP sequence number of the first byte of the frame that began the block of fields.
    pub block_sequence: u32,
    /// The status the block told, 0: none, [`UNKNOWN_VALUE`].
    pub status: u16,
    /// The `grpc-status` the block told plus one, 0: none, [`UNKNOWN_VALUE`].
    pub grpc_status: u16,
    /// A [`FramePart`] by number.
    pub part: u8,
    /// A [`FieldPart`] by number.
    pub field: u8,
    /// Bytes of the head, the preface or the code that are read.
    pub filled: u8,
    /// Bytes of padding at the frame's end.
    pub padding: u8,
    /// Bytes before the block.
    pub prefix: u8,
    /// Bits by which the next byte of a number is shifted.
    pub shift: u8,
    /// How the field is represented: see `decide::l7::http2::fields`.
    pub representation: u8,
    /// What the field is about: the upper half of a meaning.
    pub about: u8,
    /// Bytes of the string that are gathered.
    pub gathered: u8,
    /// [`HUFFMAN`] and those below it.
    pub marks: u8,
    /// What the block told: [`TOLD_GRPC`], [`TOLD_UNKNOWN`].
    pub told: u8,
    /// The method the block told, a `Method` by number.
    pub method: u8,
    /// Meanings of the last insertions, by their number modulo [`REMEMBERED_FIELDS`].
    pub meanings: [u16; REMEMBERED_FIELDS],
}

const _: () = assert!(size_of::<Walk>() == 88 + 2 * REMEMBERED_FIELDS);

/// A value that is there and that is not understood.
pub const UNKNOWN_VALUE: u16 = 0xfff;

/// In `marks`: the string is coded (RFC 7541, section 5.2).
pub const HUFFMAN: u8 = 1;
/// The string is a field's value; otherwise its name.
pub const IS_VALUE: u8 = 2;
/// The string begins as that of gRPC does.
pub const MATCHES: u8 = 4;
/// The first frame, which must be SETTINGS, was there.
pub const SETTLED: u8 = 8;
/// The block ends its side of the stream.
pub const BLOCK_ENDS_STREAM: u8 = 16;
/// The block belongs to a promised request.
pub const BLOCK_IS_PROMISE: u8 = 32;
/// Where the next frame begins is not known.
pub const ASTRAY: u8 = 64;

/// In `told`: the content is gRPC.
pub const TOLD_GRPC: u8 = 1;
/// A field refers to an insertion nobody saw, or that is forgotten.
pub const TOLD_UNKNOWN: u8 = 2;

/// A stream under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// When its request began.
    pub asked_at_ns: u64,
    /// The TCP sequence number of its first byte.
    pub asked_sequence: u32,
    /// Zero.
    pub _pad: u32,
    /// Its number; 0: no stream is here.
    pub number: u32,
    /// The status of its answer, 0 where it is not known.
    pub status: u16,
    /// A `Method` by number.
    pub method: u8,
    /// [`IS_GRPC`] and those below it.
    pub marks: u8,
}

const _: () = assert!(size_of::<Stream>() == 24);

/// In [`Stream::marks`]: a call of gRPC.
pub const IS_GRPC: u8 = 1;
/// It was counted; only its end is awaited.
pub const IS_COUNTED: u8 = 2;
/// Its answer began.
pub const IS_ANSWERED: u8 = 4;

/// Value of `HTTP2`: one connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// What the client says.
    pub asked: Walk,
    /// What the server says.
    pub answered: Walk,
    /// Streams, each in one of the [`STREAM_WAYS`] places of its set.
    pub streams: [[Stream; STREAM_WAYS]; STREAM_SETS],
}

/// Value of `WALKERS`, some per CPU: what a program walks right now. Its functions pass numbers only, and they have no room on
/// their stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walker {
    /// The walk.
    pub walk: Walk,
    /// The streams that may be the one in question.
    pub set: [Stream; STREAM_WAYS],
    /// What the socket remembers of its service, where answers are judged.
    pub connection: Connection,
    /// Whose requests are counted.
    pub key: RequestKey,
    /// Now.
    pub now_ns: u64,
    /// A request that was answered and may be wanted by somebody who follows single ones: how long it took. The rest of it is in
    /// `key` and `asked_sequence`.
    pub duration_ns: u64,
    /// When it began; 0: there is none.
    pub asked_at_ns: u64,
    /// The TCP sequence number of its first byte.
    pub asked_sequence: u32,
    /// 1: it is the client who speaks.
    pub asks: u32,
    /// 1: something behind this segment is not seen.
    pub skips: u32,
    /// The TCP sequence number of the first byte of what is new.
    pub sequence: u32,
    /// 1: answers are told to the breaker. What is zeroed at once is not side by side, as in [`Walk`].
    pub is_judged: u32,
    /// 1 while a program uses it.
    pub is_taken: u32,
    /// Where in `window` the walk is. May be past its end, where something is passed over.
    pub at: u32,
    /// Which walker of its CPU it is.
    pub number: u32,
    /// Bytes in `window`.
    pub length: u32,
    /// Where in the packet what is new begins.
    pub said_at: u32,
    /// Bytes from the beginning of `window` to the end of the segment.
    pub end: u32,
    /// Bytes of what is new.
    pub said_bytes: u32,
    /// Bytes of it before `window`.
    pub done: u32,
    /// Frames that were found where a walk was astray, the first of them shifted above; see `decide::l7::http2::sync`.
    pub found: u32,
    /// Bytes of the segment.
    pub window: [u8; WINDOW_BYTES],
}
