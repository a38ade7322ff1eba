//! Counts by reason: as many as the kernel keeps, under the names the reasons have everywhere.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use agent_ebpf::abi::{CloseReason, ConnectFailure};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A closed set of reasons that the kernel counts by number.
pub trait Reason: Copy + 'static {
    /// Every reason, in the order of its number.
    const ALL: &'static [Self];
    /// The name in labels, tables and JSON.
    fn name(self) -> &'static str;
    /// The number, which is its place among the counts.
    fn index(self) -> usize;
}

macro_rules! reason {
    ($name:ty) => {
        impl Reason for $name {
            const ALL: &'static [Self] = <$name>::ALL;
            fn name(self) -> &'static str {
                <$name>::name(self)
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
reason!(CloseReason);
reason!(ConnectFailure);

/// Reasons one tally has room for; both sets have this many.
pub const REASONS: usize = 6;
const _: () = assert!(CloseReason::ALL.len() == REASONS && ConnectFailure::ALL.len() == REASONS);

/// A count for each reason. In JSON an object: `{"refused": 3, …}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Tally<R> {
    counts: [u64; REASONS],
    reason: PhantomData<fn() -> R>,
}

impl<R> Clone for Tally<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Tally<R> {}

impl<R> Default for Tally<R> {
    fn default() -> Self {
        Self::from([0; REASONS])
    }
}

impl<R> From<[u64; REASONS]> for Tally<R> {
    fn from(counts: [u64; REASONS]) -> Self {
        Self { counts, reason: PhantomData }
    }
}

impl<R: Reason> Tally<R> {
    /// The count of one reason.
    pub fn get(&self, reason: R) -> u64 {
        self.counts[reason.index()]
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (R, u64)> {
        R::ALL.iter().map(|reason| (*reason, self.get(*reason)))
    }
}

impl<R: Reason> Serialize for Tally<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(reason, count)| (reason.name(), count)))
    }
}

impl<'de, R: Reason> Deserialize<'de> for Tally<R> {
    /// Names this build does not know are left out: they come from a newer agent.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let mut counts = [0; REASONS];
        for reason in R::ALL {
            counts[reason.index()] = named.get(reason.name()).copied().unwrap_or(0);
        }
        Ok(Self::from(counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_an_object_of_names_in_json_and_comes_back_equal() {
        let tally = Tally::<ConnectFailure>::from([1, 2, 0, 4, 0, 0]);
        let json = serde_json::to_string(&tally).expect("plain numbers");
        assert_eq!(json, r#"{"refused":1,"timeout":2,"unreachable":0,"no_backend":4,"local":0,"drained":0}"#);
        let back: Tally<ConnectFailure> = serde_json::from_str(&json).expect("its own output");
        assert_eq!(back, tally);
        assert_eq!(back.total(), 7);
    }

    #[test]
    fn a_reason_of_a_newer_agent_is_left_out() {
        let tally: Tally<CloseReason> = serde_json::from_str(r#"{"fin":2,"meteor":9}"#).expect("an object");
        assert_eq!(tally.total(), 2);
    }
}
