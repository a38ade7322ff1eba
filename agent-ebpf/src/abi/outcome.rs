//! How a program's run ended. Every exit of every program records exactly one outcome.

use super::named_enum;

named_enum! {
    /// How one run of a program ended. Numbers are append-only: dashboards of old agents keep their meaning.
    pub enum Outcome {
        /// The destination belongs to no service: untouched.
        Unmanaged = 0 => "unmanaged",
        /// A backend was chosen by the service's algorithm.
        Selected = 1 => "selected",
        /// A backend was chosen by the client's affinity.
        Affine = 2 => "affine",
        /// A datagram followed the choice its socket made before.
        Followed = 3 => "followed",
        /// Refused: the service is known and nothing is usable.
        NoBackend = 4 => "no_backend",
        /// Untouched: the tables named something that is not there.
        Inconsistent = 5 => "inconsistent",
        /// Untouched: no room to remember what the application asked for.
        StorageFailed = 6 => "storage_failed",
        /// Untouched: neither TCP nor UDP, or no socket.
        Unsupported = 7 => "unsupported",
        /// The application sees the address it asked for.
        Restored = 8 => "restored",
        /// The peer is none of ours: untouched.
        PeerUnmanaged = 9 => "peer_unmanaged",
        /// A socket event that counts nothing.
        Ignored = 10 => "ignored",
        /// A connection was watched from its first SYN.
        Watched = 11 => "watched",
        /// A handshake ended well.
        Opened = 12 => "opened",
        /// A handshake failed.
        Failed = 13 => "failed",
        /// A connection ended.
        Closed = 14 => "closed",
        /// A reservation was given back with its socket.
        Released = 15 => "released",
        /// An open connection's bytes were counted.
        Sampled = 16 => "sampled",
        /// An open connection was found that is due to be reset.
        Due = 17 => "due",
        /// Refused: a limit on connections is reached.
        Limited = 18 => "limited",
        /// A request began.
        Asked = 19 => "asked",
        /// A request was answered.
        Answered = 20 => "answered",
        /// A connection is not followed any further.
        Unparsed = 21 => "unparsed",
        /// Untouched: the destination belongs to a service, and the client is to be left alone.
        OptedOut = 22 => "opted_out",
    }
}

named_enum! {
    /// What could not be recorded.
    pub enum Loss {
        /// The event ring was full.
        Event = 0 => "ring",
        /// The edge table was full.
        Edge = 1 => "edges",
        /// The affinity table refused an entry.
        Affinity = 2 => "affinity",
        /// Not a loss: events that were written, so that written = read + in flight can be checked.
        EventWritten = 3 => "ring_written",
        /// The table of clients was full: a connection was let through without counting towards its client's limits.
        Client = 4 => "clients",
        /// The bucket of a rate was changed by others so often that a connection was refused without a look.
        Contended = 5 => "contended",
        /// The ring of requests was full.
        Request = 6 => "request_ring",
    }
}
