//! What the kernel keeps of connections whose TLS is read: calls of OpenSSL that are under way, and what is said on each
//! connection. All of it goes with the agent that put the probes in place.
//!
//! Knows the layouts, and nothing of how OpenSSL is called; that is `programs::tls`.

use super::request::Exchange;

/// Value of `TLS_CALLS`, by thread: a call of OpenSSL that is under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsCall {
    /// Where its `SSL` is, in the process.
    pub ssl: u64,
    /// Where the text is that it writes, or that it reads to.
    pub text_at: u64,
    /// Where it says how much that was; 0 where what it returns says so.
    pub length_at: u64,
    /// When it began, on the monotonic clock.
    pub began_at_ns: u64,
    /// A [`TlsCallKind`] by number.
    pub kind: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<TlsCall>() == 40);

super::named_enum! {
    /// What a call of OpenSSL does.
    pub enum TlsCallKind {
        /// It greets the other side.
        Handshake = 0 => "handshake",
        /// It gives the application what the other side said.
        Read = 1 => "read",
        /// It says something to the other side.
        Write = 2 => "write",
    }
}

/// Key of `TLS_SESSIONS`: an `SSL` of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlsKey {
    /// Where it is, in the process.
    pub ssl: u64,
    /// The process, by its number in the first namespace.
    pub process: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<TlsKey>() == 16);

/// Value of `TLS_SESSIONS`: what is said inside TLS on one connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// How far the exchange is. Its positions mean nothing here: what OpenSSL hands over is in order.
    pub exchange: Exchange,
    /// The cookie of its socket; 0: it was never seen to use one.
    pub cookie: u64,
    /// What the breaker is still to be told, as [`TlsTidings`] reads it; 0: nothing.
    pub tidings: u64,
}

const _: () = assert!(size_of::<TlsSession>() == 120);

/// What the breaker of a backend is told of what was said inside TLS. A probe cannot reach a socket, so it leaves word for the
/// program that sees the next packet of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsTidings {
    /// An answer began.
    Answer {
        /// Its status.
        status: u16,
        /// How long after its request, in microseconds; at most [`TlsTidings::MAX_DURATION_US`].
        duration_us: u64,
    },
    /// What is said is not followed any further: answers are no sign any more.
    Lost,
}

impl TlsTidings {
    /// The longest duration that can be told: 2 years.
    pub const MAX_DURATION_US: u64 = (1 << 46) - 1;

    const LOST: u64 = 2;
    const ANSWER: u64 = 1;

    /// As one word, never 0.
    #[inline(always)]
    pub const fn to_raw(self) -> u64 {
        match self {
            Self::Answer { status, duration_us } => {
                let duration_us =
                    if duration_us > Self::MAX_DURATION_US { Self::MAX_DURATION_US } else { duration_us };
                duration_us << 18 | (status as u64) << 2 | Self::ANSWER
            }
            Self::Lost => Self::LOST,
        }
    }

    /// What such a word says.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the 16 bits that were packed")]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match raw & 3 {
            Self::ANSWER => Some(Self::Answer { status: (raw >> 2) as u16, duration_us: raw >> 18 }),
            Self::LOST => Some(Self::Lost),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_the_breaker_is_told_reads_back_from_its_word(status: u16, duration_us: u64) {
            let told = TlsTidings::Answer { status, duration_us };
            let expected = TlsTidings::Answer { status, duration_us: duration_us.min(TlsTidings::MAX_DURATION_US) };
            prop_assert_eq!(TlsTidings::from_raw(told.to_raw()), Some(expected));
        }
    }

    #[test]
    fn no_word_is_no_tidings() {
        assert_eq!(TlsTidings::from_raw(0), None);
        assert_eq!(TlsTidings::from_raw(TlsTidings::Lost.to_raw()), Some(TlsTidings::Lost));
    }
}
