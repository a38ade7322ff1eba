//! How the bytes of a map's key or value are laid out, as data: what one build of Segue tells the next, and how a value is
//! written anew in another shape. Pure. It does not know which maps there are.

use agent_ebpf::abi::Drain;
use agent_ebpf::abi::{
    Address, AffinityKey, AffinityValue, Backend, BackendState, BreakerPolicy, CellWord, ClientKey,
    Connection, Datagrams, Edge, EdgeKey, Endpoint, FailedOn, FrontendKey, Histogram, LatencyWord, Limits,
    Policy, Probe, RateWord, RequestKey, Requests, ServiceLimits, ServiceState, ServiceWord, Settings, Slot,
    Subset, Translation, Usage, Verdict, WindowWord,
};
use serde::{Deserialize, Serialize};

/// The layout of some bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Shape {
    /// A number, or a word that packs several. How it packs them goes by its name.
    Word {
        /// The name of its type.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// So many of a kind, one after the other. More may be added at the end, none in between.
    List {
        /// The kind.
        of: Box<Shape>,
        /// How many.
        count: usize,
    },
    /// Fields, which mean the same wherever they have the same name.
    Record {
        /// Its size.
        bytes: usize,
        /// The fields.
        fields: Vec<Field>,
    },
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Field {
    /// Its name.
    name: String,
    /// Where it begins, in bytes.
    at: usize,
    /// Its own layout.
    shape: Shape,
}

impl Field {
    /// Bytes that only fill a gap.
    fn is_padding(&self) -> bool {
        self.name.starts_with('_')
    }
}

impl Shape {
    /// How many bytes it takes. A description that somebody else wrote may claim any number.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Word { bytes, .. } | Self::Record { bytes, .. } => *bytes,
            Self::List { of, count } => of.bytes().saturating_mul(*count),
        }
    }

    /// Whether every part of a value is a part of the other shape, and the other way round: what a key must be, so that
    /// two of them stay two.
    pub(super) fn has_the_parts_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Word { .. }, Self::Word { .. }) => self == other,
            (Self::List { of, count }, Self::List { of: others, count: many }) => {
                count == many && of.has_the_parts_of(others)
            }
            (Self::Record { fields, .. }, Self::Record { fields: others, .. }) => {
                let within = |some: &[Field], all: &[Field]| {
                    some.iter().filter(|field| !field.is_padding()).all(|field| {
                        let same = all.iter().find(|other| other.name == field.name);
                        same.is_some_and(|other| field.shape.has_the_parts_of(&other.shape))
                    })
                };
                within(fields, others) && within(others, fields)
            }
            _ => false,
        }
    }
}

/// Writes what `from` and `to` have in common out of one value into another; every other byte stays as it is. Whatever the
/// shapes claim, it keeps to the bytes it is given.
pub(super) fn carry(from: &Shape, old: &[u8], to: &Shape, new: &mut [u8]) {
    match (from, to) {
        (Shape::Word { bytes, .. }, Shape::Word { .. }) if from == to => {
            if let (Some(old), Some(new)) = (old.get(..*bytes), new.get_mut(..*bytes)) {
                new.copy_from_slice(old);
            }
        }
        (Shape::List { of, count }, Shape::List { of: target, count: places }) => {
            let (step, target_step) = (of.bytes(), target.bytes());
            if step == 0 || target_step == 0 {
                return;
            }
            let each = old.chunks_exact(step).take(*count);
            let places = new.chunks_exact_mut(target_step).take(*places);
            each.zip(places).for_each(|(old, new)| carry(of, old, target, new));
        }
        (Shape::Record { fields, .. }, Shape::Record { fields: targets, .. }) => {
            for target in targets.iter().filter(|target| !target.is_padding()) {
                let Some(field) = fields.iter().find(|field| field.name == target.name) else { continue };
                if let (Some(old), Some(new)) = (old.get(field.at..), new.get_mut(target.at..)) {
                    carry(&field.shape, old, &target.shape, new);
                }
            }
        }
        _ => {}
    }
}

/// What has a layout.
pub(super) trait Shaped {
    /// Which.
    fn shape() -> Shape;
}

impl<T: Shaped, const N: usize> Shaped for [T; N] {
    fn shape() -> Shape {
        Shape::List { of: Box::new(T::shape()), count: N }
    }
}

/// A layout of a packed word's own. Whoever changes how it is packed gives it another name.
macro_rules! words {
    ($($name:ident),+ $(,)?) => {
        $(impl Shaped for $name {
            fn shape() -> Shape {
                Shape::Word { name: stringify!($name).to_owned(), bytes: size_of::<$name>() }
            }
        })+
    };
}

/// The layout of a structure. A field that is not named here stops the build.
macro_rules! records {
    ($($name:ident { $($field:ident),+ $(,)? })+) => {
        $(impl Shaped for $name {
            fn shape() -> Shape {
                fn of<T: Shaped>(_: fn(&$name) -> &T) -> Shape {
                    T::shape()
                }
                let _all = |value: &$name| { let $name { $($field: _),+ } = value; };
                Shape::Record {
                    bytes: size_of::<$name>(),
                    fields: vec![$(Field {
                        name: stringify!($field).to_owned(),
                        at: std::mem::offset_of!($name, $field),
                        shape: of(|value: &$name| &value.$field),
                    }),+],
                }
            }
        })+
    };
}

words!(
    u8,
    u16,
    u32,
    u64,
    CellWord,
    Drain,
    FailedOn,
    LatencyWord,
    Probe,
    RateWord,
    ServiceWord,
    Verdict,
    WindowWord
);

impl Shaped for Requests {
    fn shape() -> Shape {
        Histogram::shape()
    }
}

records! {
    Address { words_be }
    Endpoint { address, port_be, _pad }
    FrontendKey { address, port_be, protocol, _pad }
    Policy { service, affinity_timeout_ms, algorithm, subset_count, refuse_errno, marks, fallback, connect_timeout_ms, ready_backends, zone, join_ticks, subsets, breaker, limits }
    Subset { share_end, version, first_slot, slot_count, near_slots }
    BreakerPolicy { mode, consecutive_failures, failure_percent, slow_percent, signals, minimum_samples, slow_connect_us, bucket_ticks, open_base_ticks, open_cap_ticks, half_open_ticks, slow_start_ticks, decay_ticks, jitter_percent, probes, successes_to_close, slow_start_min_percent, ejection_cap_percent, panic_percent, avoidance_ticks, slow_answer_us, answer_timeout_us }
    ServiceLimits { backend, service, client }
    Limits { max_connections, max_pending, rate_per_second, rate_burst }
    Slot { backend, alias, keep_below, _pad }
    Backend { endpoint, service, generation, version, status, weight, zone, next, joined_ticks, verdict, drain }
    BackendState { _shift, active, selections, failures, cell, latency, pending, progress_ticks, rate, window }
    ServiceState { cursor, ejected, failed_ticks, selected, affine, no_backend, passed, fallback, avoided, would_avoid, probes, opened, half_opened, closed, capped, panicked, kept_away, near, overflowed, usage, limited, refused_by_limit }
    AffinityKey { client, service, _pad }
    AffinityValue { used_at_ns, backend, generation }
    ClientKey { client, service, _pad }
    Usage { active, pending, rate }
    EdgeKey { cgroup, service, version }
    Edge { opened, closed, failed, sent_bytes, received_bytes, retransmits, connect, connect_failed, rtt }
    Histogram { sum_ns, buckets }
    Settings { follow_until_ns, heartbeat_ns, left_alone, tell_until_ns, tell_below, tell_heads_below }
    Connection { requested, chosen, service, backend, backend_generation, version, cgroup, started_at_ns, phase, protocol, marks, state_at_close, received_at_fin_low, probe, user_timeout_ms, client }
    Translation { requested, chosen, service, backend, backend_generation }
    Datagrams { translations, next }
    RequestKey { cgroup, service, version, port_be, status, protocol, direction, operation, _pad }
}

#[cfg(test)]
mod tests;
