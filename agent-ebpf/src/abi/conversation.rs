//! What a socket remembers of a protocol whose requests are told apart by walking its messages, and the room a packet
//! is read in.
//!
//! Knows the layouts, and nothing of how a protocol reads; that is `decide::l7`.

use super::RequestKey;

/// Requests a conversation waits for the answers of: a pipeline of one command repeated takes one place, a consumer of
/// Kafka has a handful under way. More of them, and whose answer is whose is not followed.
pub const MAX_FLIGHTS: usize = 32;

/// Bytes of the beginning of a message that are kept until there is more of it. The longest that must be whole to be told
/// are an error of PostgreSQL up to its SQLSTATE, and the header and the name of a Redis command.
pub const CARRY_BYTES: usize = 32;

/// Fresh bytes of a segment that are looked at in one go.
pub const WINDOW_BYTES: usize = 1_024;

/// Room for what was kept, a window, and what a step may look at behind both: a power of two, so that a mask is a bound.
pub const ROOM_BYTES: usize = 2 * WINDOW_BYTES;

/// Windows of one segment: the kernel hands on 64 KiB at most, of which a window may leave [`CARRY_BYTES`] to the next.
pub const MAX_WINDOWS: u32 = 68;

/// Messages, or parts of them, told in one window: as many as fit when each has four bytes.
pub const MAX_STEPS: u32 = 256;

/// Where one side is in what it says. Only packets of that side change it, so that both sides may speak at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The beginning of what could not be told yet.
    pub carry: [u64; CARRY_BYTES / 8],
    /// Bytes in `carry`.
    pub carried: u32,
    /// Bytes to pass over before the next that matter.
    pub skip: u32,
    /// Of the client: requests put into `flights` since the beginning; of the server: those taken out of it.
    pub count: u32,
    /// Of the server: how many of the oldest request's repetitions were answered.
    pub taken: u32,
    /// What is expected next, by the protocol's own numbers; 0 at the beginning.
    pub state: u32,
    /// Parts left of a message, or messages of one kind, as the protocol has it.
    pub left: u32,
    /// How far the session is, by the protocol's own bits.
    pub marks: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Cursor>() == 64);

impl Cursor {
    /// A side that said nothing yet.
    pub const NEW: Self = Self {
        carry: [0; CARRY_BYTES / 8],
        carried: 0,
        skip: 0,
        count: 0,
        taken: 0,
        state: 0,
        left: 0,
        marks: 0,
        _pad: 0,
    };
}

/// Value of `CONVERSATIONS`, beside the exchange of the same socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Requests, each at its count around the end. The client's packets write them.
    pub flights: [u64; MAX_FLIGHTS],
    /// What the client says.
    pub asks: Cursor,
    /// What the server says.
    pub answers: Cursor,
    /// The last eight bytes the server said, the last one lowest; kept where the protocol asks for them.
    pub tail: u64,
}

const _: () = assert!(size_of::<Conversation>() == 392);

impl Conversation {
    /// A conversation of which nothing was heard: all zeros, as the kernel makes it.
    pub const NEW: Self =
        Self { flights: [0; MAX_FLIGHTS], asks: Cursor::NEW, answers: Cursor::NEW, tail: 0 };
}

/// What a packet says, and where in it one is.
pub type Room = [u8; ROOM_BYTES + SLACK_BYTES];

/// What eight bytes from the last place of a room on may reach behind it.
pub const SLACK_BYTES: usize = 8;

/// Desks of a CPU. A program that reads a packet may be interrupted by another one's arrival, and on kernels that preempt
/// themselves by another task's; a third level is room to spare.
pub const DESKS: u32 = 3;

/// Value of `DESK`: what the functions that walk a packet work on, as they can be given numbers only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Desk {
    /// Programs that are at this desk, or look whether it is free.
    pub taken: u64,
    /// What was kept of the segment before, and the window behind it.
    pub room: Room,
    /// The socket's conversation, while a packet of it is read.
    pub conversation: Conversation,
    /// Whose requests they are; operation and status are filled in with each answer.
    pub key: RequestKey,
    /// When the packet was seen, on the monotonic clock.
    pub now_ns: u64,
    /// How far the room is read.
    pub at: u32,
    /// Bytes in the room.
    pub length: u32,
    /// Requests that were counted of this packet.
    pub counted: u32,
    /// Why nothing more is learnt from this connection: an [`Unparsed`](super::Unparsed) by number and 1; 0: it is.
    pub lost: u32,
}

const _: () = assert!(size_of::<Desk>() == ROOM_BYTES + SLACK_BYTES + 392 + 24 + 32);
