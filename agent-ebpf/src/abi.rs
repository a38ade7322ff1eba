//! The layout of every map key, map value and event, compiled into both sides.
//!
//! Rules: `repr(C)`, explicit padding, no `bool`, `enum`, `Option` or `usize`, an assertion of the size under
//! each struct. Any change to a layout here raises [`ABI_VERSION`]; `cargo xtask tidy` compares a fingerprint.

pub mod address;
pub mod admission;
pub mod affinity;
pub mod breaker;
pub mod connection;
pub mod conversation;
pub mod drain;
pub mod edge;
pub mod event;
pub mod hook;
pub mod http2;
pub mod kafka;
pub mod limits;
pub mod load;
pub mod lookup;
pub mod operation;
pub mod other;
pub mod outcome;
pub mod redis;
pub mod request;
pub mod request_event;
pub mod sample;
pub mod service;
pub mod settings;
pub mod sql;
pub mod tls;

pub use address::{Address, Endpoint, FrontendKey, Protocol};
pub use admission::{ClientKey, Limit, Limits, RateWord, ServiceLimits, Usage};
pub use affinity::{AffinityKey, AffinityValue, FailedOn};
pub use breaker::{BreakerMode, BreakerPolicy, BreakerState, CellWord, Probe, TransitionReason, WindowWord};
pub use connection::{Connection, Datagrams, Phase, Translation};
pub use drain::{Drain, OpenSocket, SocketOffsets};
pub use edge::{CloseReason, ConnectFailure, Edge, EdgeKey, HISTOGRAM_BUCKETS, Histogram};
pub use event::{Event, EventKind};
pub use hook::Hook;
pub use http2::{Http2, Stream, Walk, Walker};
pub use load::LatencyWord;
pub use lookup::{
    Lookup, LookupRoom, LookupStatus, LookupStream, Lookups, RecordType, ServedLookups, Waiting,
};
pub use operation::{Method, StatusName, operation_name};
pub use outcome::{Loss, Outcome};
pub use request::{AppProtocol, Direction, Exchange, RequestKey, Requests, Scratch, Stage, Unparsed};
pub use request_event::{RequestEvent, RequestHead, RequestPlace, RequestRecord};
pub use sample::Sample;
pub use service::{
    Algorithm, Backend, BackendState, BackendStatus, Policy, ServiceState, ServiceWord, Slot, Subset, Verdict,
};
pub use settings::Settings;
pub use tls::{TlsCall, TlsCallKind, TlsKey, TlsSession};

/// Version of the layouts in this module. Pinned maps live in a directory of this number; a loader never opens
/// maps of another one.
#[cfg(not(feature = "other-layouts"))]
pub const ABI_VERSION: u32 = 1;

/// The version of the layouts that tests upgrade to.
#[cfg(feature = "other-layouts")]
pub const ABI_VERSION: u32 = other::VERSION;

/// Declares a field-less enum that crosses the kernel boundary as a `u8`: its numbers, and the one name that
/// configuration, metric labels, tables and documentation share. Numbers are append-only.
macro_rules! named_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $number:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $($(#[$vmeta])* $variant = $number,)+ }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The variant with this number, or `None` for a number this build does not know.
            #[inline(always)]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The name used in configuration, metric labels, tables and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The variant with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|variant| variant.name() == name)
            }
        }
    };
}
pub(crate) use named_enum;
