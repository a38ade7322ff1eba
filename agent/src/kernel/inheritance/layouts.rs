//! What one build's maps look like, as text that it leaves beside them for the next, and what becomes of each map when
//! another build takes over. Reads and writes nothing itself.

use std::collections::BTreeMap;

use agent_ebpf::abi::{
    AffinityKey, AffinityValue, Backend, BackendState, ClientKey, Connection, Datagrams, Edge, EdgeKey,
    FailedOn, FrontendKey, Hook, Loss, Outcome, Policy, RequestKey, Requests, ServiceState, ServiceWord,
    Settings, Slot, Unparsed, Usage,
};
use serde::{Deserialize, Serialize};

use super::super::bpf::entries::Make;
use super::shape::{Shape, Shaped};

/// One map's keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MapLayout {
    /// Its keys.
    pub(super) key: Shape,
    /// Its values.
    pub(super) value: Shape,
    /// What its indices stand for, where that is not what another map says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    indices: Vec<String>,
}

/// Every map that may be inherited, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layouts {
    maps: BTreeMap<String, MapLayout>,
}

/// Maps that refer to each other's entries, and that the agent writes in an order its readers rely on: they are
/// inherited together.
const TABLES: [&str; 7] = ["FRONTENDS", "SERVICES", "POLICIES", "SLOTS", "BACKENDS", "WORKLOADS", "SETTINGS"];

/// Maps that begin anew with every layout: records under way to an agent that is gone, room for a program that runs, and
/// what a connection is in the middle of saying, which it finds its way back into.
#[cfg(test)]
const ANEW: [&str; 12] = [
    "EVENTS",
    "REQUEST_EVENTS",
    "SCRATCH",
    "LOOKUP_ROOM",
    "WALKERS",
    "DESK",
    "EXCHANGES",
    "LOOKUPS",
    "SERVED_LOOKUPS",
    "LOOKUP_STREAMS",
    "HTTP2",
    "CONVERSATIONS",
];

/// What becomes of a predecessor's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is the same map: what both builds' programs do to it meanwhile is done to one.
    Shared,
    /// What both have of each entry is copied into a new map.
    Copied,
    /// The new one begins empty.
    Anew,
}

/// A map, as its build describes it and as the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side<'a> {
    pub(super) layout: &'a MapLayout,
    pub(super) make: Make,
}

impl Side<'_> {
    /// The kernel knows of no fields, and a description may be wrong: they must agree about the sizes.
    fn is_sound(&self) -> bool {
        u64::from(self.make.key_bytes) == self.layout.key.bytes() as u64
            && u64::from(self.make.value_bytes) == self.layout.value.bytes() as u64
    }
}

/// A predecessor's map beside ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) theirs: Option<Side<'a>>,
    pub(super) ours: Option<Side<'a>>,
}

impl Pair<'_> {
    fn is_same(&self) -> bool {
        self.theirs.is_some() && self.theirs == self.ours
    }

    fn is_copied(&self) -> bool {
        let (Some(theirs), Some(ours)) = (self.theirs, self.ours) else { return false };
        theirs.make.kind == ours.make.kind
            && can_be_copied(ours.make.kind)
            && theirs.is_sound()
            && ours.is_sound()
            && theirs.layout.indices == ours.layout.indices
            && ours.layout.key.has_the_parts_of(&theirs.layout.key)
    }
}

/// Arrays and hashes. Not the storage of sockets, to which only programs write, nor arrays per CPU, whose indices have names: with
/// the same names they are shared.
fn can_be_copied(kind: u32) -> bool {
    matches!(kind, ARRAY | HASH | PERCPU_HASH | LRU_HASH)
}

/// Whether keys are indices and every entry is there from the beginning.
pub(super) fn is_array(kind: u32) -> bool {
    matches!(kind, ARRAY | PERCPU_ARRAY)
}

/// Whether there is a value for every CPU.
pub(super) fn is_per_cpu(kind: u32) -> bool {
    matches!(kind, PERCPU_HASH | PERCPU_ARRAY)
}

// include/uapi/linux/bpf.h, enum bpf_map_type
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_HASH: u32 = 5;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;

/// What becomes of each map.
pub(super) fn fates<'a>(pairs: &BTreeMap<&'a str, Pair<'_>>) -> BTreeMap<&'a str, Fate> {
    let is_same = |name: &str| pairs.get(name).is_some_and(Pair::is_same);
    let tables_are_same = TABLES.iter().all(|name| is_same(name));
    let fate = |(name, pair): (&&'a str, &Pair<'_>)| {
        let may_be_shared = !TABLES.contains(name) || tables_are_same;
        let fate = match pair {
            pair if pair.is_same() && may_be_shared => Fate::Shared,
            pair if pair.is_copied() => Fate::Copied,
            _ => Fate::Anew,
        };
        (*name, fate)
    };
    pairs.iter().map(fate).collect()
}

impl Layouts {
    /// Those of this build.
    pub(super) fn own() -> Self {
        let mut maps = BTreeMap::new();
        let mut add = |name: &str, key: Shape, value: Shape, indices: Vec<String>| {
            maps.insert(name.to_owned(), MapLayout { key, value, indices });
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let outcomes: Vec<String> = Hook::ALL
            .iter()
            .flat_map(|hook| {
                Outcome::ALL.iter().map(move |outcome| format!("{} {}", hook.name(), outcome.name()))
            })
            .collect();
        let losses: Vec<&str> = Loss::ALL.iter().map(|loss| loss.name()).collect();
        let unparsed: Vec<&str> = Unparsed::ALL.iter().map(|reason| reason.name()).collect();
        add("FRONTENDS", FrontendKey::shape(), u32::shape(), Vec::new());
        add("SERVICES", u32::shape(), ServiceWord::shape(), Vec::new());
        add("POLICIES", u32::shape(), Policy::shape(), Vec::new());
        add("SLOTS", u32::shape(), Slot::shape(), Vec::new());
        add("BACKENDS", u32::shape(), Backend::shape(), Vec::new());
        add("BACKEND_STATE", u32::shape(), BackendState::shape(), Vec::new());
        add("SERVICE_STATE", u32::shape(), ServiceState::shape(), Vec::new());
        add("AFFINITY", AffinityKey::shape(), AffinityValue::shape(), Vec::new());
        add("AVOIDANCES", AffinityKey::shape(), FailedOn::shape(), Vec::new());
        add("CLIENTS", ClientKey::shape(), Usage::shape(), Vec::new());
        add("WORKLOADS", u64::shape(), u32::shape(), Vec::new());
        add("EDGES", EdgeKey::shape(), Edge::shape(), Vec::new());
        add("OUTCOMES", u32::shape(), u64::shape(), outcomes);
        add("LOSSES", u32::shape(), u64::shape(), names(&losses));
        add("SETTINGS", u32::shape(), Settings::shape(), Vec::new());
        add("CONNECTIONS", u32::shape(), Connection::shape(), Vec::new());
        add("DATAGRAMS", u32::shape(), Datagrams::shape(), Vec::new());
        add("REQUESTS", RequestKey::shape(), Requests::shape(), Vec::new());
        add("UNPARSED", u32::shape(), u64::shape(), names(&unparsed));
        Self { maps }
    }

    /// One map's.
    pub(super) fn of(&self, map: &str) -> Option<&MapLayout> {
        self.maps.get(map)
    }

    /// The text that is left beside the maps.
    pub(super) fn to_text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads such a text; zeros may follow. `None` where it is none.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|&byte| byte != 0)?;
        serde_json::from_slice(&text[..=end]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::hooks::MAPS;
    use super::*;

    fn make(kind: u32, layout: &MapLayout, entries: u32) -> Make {
        let size = |shape: &Shape| u32::try_from(shape.bytes()).unwrap();
        Make { kind, key_bytes: size(&layout.key), value_bytes: size(&layout.value), entries, flags: 0 }
    }

    fn layout(value: Shape) -> MapLayout {
        MapLayout { key: u32::shape(), value, indices: Vec::new() }
    }

    #[test]
    fn every_map_is_described_or_begins_anew() {
        let own = Layouts::own();
        for map in MAPS {
            assert_ne!(own.of(map).is_some(), ANEW.contains(&map), "{map}: describe it, or list it in ANEW");
        }
        assert_eq!(own.maps.len() + ANEW.len(), MAPS.len());
    }

    #[test]
    fn the_text_reads_back_also_with_zeros_after_it() {
        let own = Layouts::own();
        let mut text = own.to_text();
        text.extend([0; 100]);
        assert_eq!(Layouts::from_text(&text), Some(own));
        assert_eq!(Layouts::from_text(&[0; 16]), None);
        assert_eq!(Layouts::from_text(b"{\"maps\": 3}"), None);
    }

    #[test]
    fn what_is_the_same_is_shared_what_changed_is_copied_and_what_is_unknown_begins_anew() {
        let (state, edge) = (layout(BackendState::shape()), layout(Edge::shape()));
        let side = |layout, make| Side { layout, make };
        let pair = |theirs, ours| Pair { theirs: Some(theirs), ours: Some(ours) };
        let same = side(&state, make(ARRAY, &state, 100));
        let pairs = BTreeMap::from([
            ("BACKEND_STATE", pair(same, same)),
            ("larger", pair(side(&state, make(ARRAY, &state, 50)), same)),
            ("changed", pair(side(&edge, make(ARRAY, &edge, 100)), same)),
            ("of another type", pair(side(&state, make(HASH, &state, 100)), same)),
            ("lies about its size", pair(side(&edge, make(ARRAY, &state, 100)), same)),
            ("of sockets", pair(side(&edge, make(24, &edge, 0)), side(&state, make(24, &state, 0)))),
            ("new", Pair { theirs: None, ours: Some(same) }),
        ]);
        let fates = fates(&pairs);
        assert_eq!(
            fates,
            BTreeMap::from([
                ("BACKEND_STATE", Fate::Shared),
                ("larger", Fate::Copied),
                ("changed", Fate::Copied),
                ("of another type", Fate::Anew),
                ("lies about its size", Fate::Anew),
                ("of sockets", Fate::Anew),
                ("new", Fate::Anew),
            ])
        );
    }

    #[test]
    fn indices_that_stand_for_something_else_are_not_taken_over() {
        let named = |names: &[&str]| MapLayout {
            key: u32::shape(),
            value: u64::shape(),
            indices: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let (before, after) = (named(&["a", "b"]), named(&["a", "c"]));
        let pair = Pair {
            theirs: Some(Side { layout: &before, make: make(PERCPU_ARRAY, &before, 2) }),
            ours: Some(Side { layout: &after, make: make(PERCPU_ARRAY, &after, 2) }),
        };
        assert_eq!(fates(&BTreeMap::from([("OUTCOMES", pair)]))["OUTCOMES"], Fate::Anew);
    }

    #[test]
    fn the_tables_are_shared_together_or_not_at_all() {
        let own = Layouts::own();
        let mut pairs: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
        for name in TABLES {
            let layout = own.of(name).unwrap();
            let one = Some(Side { layout, make: make(ARRAY, layout, 8) });
            pairs.insert(name, Pair { theirs: one, ours: one });
        }
        assert!(fates(&pairs).values().all(|&fate| fate == Fate::Shared));
        let policies = own.of("POLICIES").unwrap();
        pairs.get_mut("POLICIES").unwrap().ours =
            Some(Side { layout: policies, make: make(ARRAY, policies, 9) });
        assert!(fates(&pairs).values().all(|&fate| fate == Fate::Copied));
    }
}
