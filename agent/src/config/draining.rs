//! Reads what becomes of the open connections of a backend that is out. Knows one service, and nothing of how they end.

use std::ops::RangeInclusive;
use std::time::Duration;

use agent_ebpf::abi::Drain;

use super::problem::Position;
use super::reader::{Node, Reader, Stop, fields};
use super::service::one;
use super::value::{self, names, show_duration};
use crate::desired::{Departure, DrainingSpec};

fields! {
    /// What becomes of the open connections of a backend that is out.
    enum DrainingField {
        On = "on": "Which backends this is about.",
        ResetAfter = "reset_after": "How long after the backend went out its open connections are reset; `0s`: at once. Required.",
    }
}

/// How long after a backend went out its connections may live.
pub(super) const RESET_AFTER: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(12 * 3_600);
const _: () = assert!(12 * 3_600 * 1_000 <= Drain::MAX_AFTER_MS);

/// The backends meant where the file names none: those that people take away.
pub(super) const DEFAULT_ON: [Departure; 2] = [Departure::Removed, Departure::Draining];

/// The rules as read.
pub(super) struct Draining {
    /// The rules.
    pub(super) spec: DrainingSpec,
    /// Where `ejected` stands, if the file names it.
    pub(super) ejected_at: Option<Position>,
}

/// Reads the rules; `None`, with a problem recorded, where they are not whole.
pub(super) fn read<'a>(reader: &mut Reader<'a>, node: &Node<'a>) -> Result<Option<Draining>, Stop> {
    let (mut on, mut ejected_at) = (DEFAULT_ON.to_vec(), None);
    let (mut reset_after, mut has_period) = (None, false);
    let is_mapping =
        reader.mapping(node, "a mapping, as in { reset_after: 30s }", |reader, field, value| {
            match field {
                DrainingField::On => {
                    if let Some((named, at)) = departures(reader, &value)? {
                        (on, ejected_at) = (named, at);
                    }
                }
                DrainingField::ResetAfter => {
                    has_period = true;
                    let period = |text: &str| value::duration_within(text, &RESET_AFTER, "30s");
                    reset_after = one(reader, value, "a duration", period)?;
                }
            }
            Ok(())
        })?;
    if is_mapping && !has_period {
        let message = "is missing; write a duration, as in 30s, or remove `draining` to keep connections";
        reader.problem_in(node.at, "reset_after", message);
    }
    Ok(reset_after.map(|reset_after| Draining { spec: DrainingSpec { on, reset_after }, ejected_at }))
}

type Named = (Vec<Departure>, Option<Position>);

fn departures<'a>(reader: &mut Reader<'a>, node: &Node<'a>) -> Result<Option<Named>, Stop> {
    let (mut named, mut ejected_at) = (Vec::new(), None);
    let wanted = "a list, as in [removed, draining, ejected]";
    let is_list = reader.list(node, wanted, |reader, _, node| {
        let at = node.at;
        let departure = |text: &str| {
            let known = Departure::from_name(text);
            known.ok_or_else(|| value::unknown(text, Departure::ALL, Departure::name))
        };
        let Some(departure) = one(reader, node, "one of removed, draining, ejected", departure)? else {
            return Ok(());
        };
        if named.contains(&departure) {
            reader.problem(at, "is written twice; keep one of the two");
            return Ok(());
        }
        if departure == Departure::Ejected {
            ejected_at = Some(at);
        }
        named.push(departure);
        Ok(())
    })?;
    if is_list && named.is_empty() {
        let known = names(Departure::ALL, Departure::name);
        reader.problem(node.at, format_args!("is empty; name one of {known}, or remove `draining`"));
    }
    Ok(is_list.then(|| {
        named.sort_unstable();
        (named, ejected_at)
    }))
}

/// What the reference says of the values.
pub(super) fn values() -> [[String; 2]; 2] {
    [
        ["`draining.on`".to_owned(), format!("default {}", names(&DEFAULT_ON, Departure::name))],
        [
            "`draining.reset_after`".to_owned(),
            format!(
                "{} to {}, without `draining` connections are kept",
                show_duration(*RESET_AFTER.start()),
                show_duration(*RESET_AFTER.end())
            ),
        ],
    ]
}
