//! What a selector compares with: names with `*`, statuses, and what became of a connection. Pure.

use std::fmt;

use agent_ebpf::abi::{CloseReason, ConnectFailure, TransitionReason};

use crate::flows::EdgeView;
use crate::flows::record::Happening;
use crate::rollout::Cause;

/// A name in which `*` stands for anything, also for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern as it was written.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The name it stands for; `None` where it holds a `*`.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(self.0.as_str())
    }

    /// Whether the whole of `name` is as written.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        // `split` gives at least one part.
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// Whether `namespace/name` or `name` alone is as written; the namespace may be empty.
    pub fn matches_name(&self, namespace: &str, name: &str) -> bool {
        self.matches(name) || !namespace.is_empty() && self.matches(&format!("{namespace}/{name}"))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Statuses from one to another: `404`, `5xx`, `5+`, `500-504`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    low: u16,
    high: u16,
}

impl Statuses {
    /// The statuses meant; `None` where none can be, since they go from 100 to 599.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let class = |digits: &str| digits.parse().ok().filter(|class| (1..=5_u16).contains(class));
        let one = |digits: &str| digits.parse().ok().filter(|status| (100..=599_u16).contains(status));
        let (low, high) = if let Some(digits) = text.strip_suffix("xx") {
            let class = class(digits)?;
            (class * 100, class * 100 + 99)
        } else if let Some(digits) = text.strip_suffix('+') {
            (class(digits).map(|class| class * 100).or_else(|| one(digits))?, 599)
        } else if let Some((low, high)) = text.split_once('-') {
            (one(low)?, one(high)?)
        } else {
            (one(&text)?, one(&text)?)
        };
        (low <= high).then_some(Self { low, high })
    }

    /// Whether it is one of these.
    pub fn holds(self, status: u16) -> bool {
        (self.low..=self.high).contains(&status)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low == self.high {
            true => write!(f, "{}", self.low),
            false => write!(f, "{}-{}", self.low, self.high),
        }
    }
}

/// Words for several outcomes at once, and what they stand for.
const GROUPS: [(&str, &str); 4] = [
    ("established", "opened"),
    ("reset", "closed by a reset, of either side"),
    ("breaker", "breakers that opened, probe or closed"),
    ("rollout", "steps of canaries"),
];

/// Every name of an event.
const EVENTS: [&str; 13] = [
    Happening::Opened.name(),
    Happening::Failed(ConnectFailure::Refused).name(),
    Happening::Closed(CloseReason::Fin).name(),
    Happening::Request.name(),
    Happening::Served.name(),
    Happening::BreakerOpened(TransitionReason::ALL[0]).name(),
    Happening::BreakerHalfOpen(TransitionReason::ALL[0]).name(),
    Happening::BreakerClosed(TransitionReason::ALL[0]).name(),
    Happening::RolloutSteppedUp.name(),
    Happening::RolloutPromoted.name(),
    Happening::RolloutRolledBack(Cause::ALL[0]).name(),
    Happening::RolloutPaused.name(),
    Happening::RolloutResumed.name(),
];

/// What became of a connection, a backend or a canary: the name of an event, of a reason, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(&'static str);

impl Verdict {
    /// Every name there is, those of groups and events before those of reasons.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let reasons = ConnectFailure::ALL.iter().map(|reason| reason.name());
        let reasons = reasons.chain(CloseReason::ALL.iter().map(|reason| reason.name()));
        let reasons = reasons.chain(TransitionReason::ALL.iter().map(|reason| reason.name()));
        let reasons = reasons.chain(Cause::ALL.iter().map(|cause| cause.name()));
        GROUPS.iter().map(|(name, _)| *name).chain(EVENTS).chain(reasons)
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        Self::names().find(|name| *name == text).map(Self)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// Whether this is what happened.
    pub fn is_of(self, happening: Happening) -> bool {
        let by_reset = |reason| matches!(reason, CloseReason::RstLocal | CloseReason::RstRemote);
        match self.0 {
            "established" => happening == Happening::Opened,
            "reset" => matches!(happening, Happening::Closed(reason) if by_reset(reason)),
            "breaker" => happening.is_of_breaker(),
            "rollout" => happening.is_of_service(),
            name => name == happening.name() || name == happening.reason(),
        }
    }

    /// It is the name of what happens to single requests.
    pub fn is_only_of_requests(self) -> bool {
        self.0 == Happening::Request.name() || self.0 == Happening::Served.name()
    }

    /// Whether it happened to at least one connection of an edge.
    pub fn occurred_on(self, edge: &EdgeView) -> bool {
        let failed = ConnectFailure::ALL
            .iter()
            .any(|&reason| edge.failed.get(reason) > 0 && self.is_of(Happening::Failed(reason)));
        let closed = CloseReason::ALL
            .iter()
            .any(|&reason| edge.closed.get(reason) > 0 && self.is_of(Happening::Closed(reason)));
        failed || closed || edge.opened > 0 && self.is_of(Happening::Opened)
    }
}

/// The known words most like a mistyped one, the most alike first; empty where none is.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    /// As many as a person reads.
    const MOST: usize = 3;
    let word = word.to_lowercase();
    if word.is_empty() || word.len() > 128 {
        return Vec::new();
    }
    let distance = |name: &str| {
        let name = name.to_lowercase();
        let bare = name.rsplit('/').next().unwrap_or(&name).to_owned();
        let least = strsim::damerau_levenshtein(&name, &word).min(strsim::damerau_levenshtein(&bare, &word));
        // One letter in four may be wrong; a part of a name is likely meant as that.
        let limit = 1 + word.chars().count() / 4;
        match least {
            least if least <= limit => Some(least),
            _ if word.chars().count() > 2 && name.contains(&word) => Some(limit + 1),
            _ => None,
        }
    };
    let mut alike: Vec<_> =
        known.into_iter().filter_map(|name| distance(name).map(|far| (far, name))).collect();
    alike.sort_unstable();
    alike.dedup();
    alike.into_iter().take(MOST).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;

    #[test]
    fn a_star_stands_for_anything_and_the_rest_for_itself() {
        let matches = |pattern: &str, name: &str| Pattern::new(pattern).matches(name);
        for (pattern, name) in
            [("a", "a"), ("*", ""), ("*", "x/y"), ("a*", "abc"), ("*c", "abc"), ("a*c*e", "abcde"), ("", "")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("", "a"), ("a*", "ba"), ("*a", "ab"), ("ab*ba", "aba")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_is_meant_with_its_namespace_or_in_any() {
        let matches = |pattern: &str| Pattern::new(pattern).matches_name("shop", "payment");
        assert!(["payment", "shop/payment", "shop/*", "pay*", "*/payment"].iter().all(|text| matches(text)));
        assert!(!["shop", "other/payment", "/payment", "pay"].iter().any(|text| matches(text)));
        assert!(Pattern::new("dns").matches_name("", "dns"));
    }

    #[test]
    fn statuses_are_one_a_class_or_a_range() {
        let holds = |text: &str, status| Statuses::parse(text).expect("statuses").holds(status);
        assert!(holds("404", 404) && !holds("404", 405));
        assert!(holds("5xx", 503) && holds("5XX", 599) && !holds("5xx", 499));
        assert!(holds("4+", 400) && holds("4+", 503) && holds("502+", 502) && !holds("502+", 501));
        assert!(holds("500-504", 504) && !holds("500-504", 505));
        for wrong in ["", "600", "99", "xx", "0xx", "6xx", "504-500", "5x", "+", "-", "4 04", "٥xx"] {
            assert_eq!(Statuses::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_outcome_has_a_word_and_groups_hold_several() {
        for happening in [
            Happening::Opened,
            Happening::Failed(ConnectFailure::NoBackend),
            Happening::Closed(CloseReason::RstLocal),
            Happening::BreakerOpened(TransitionReason::ALL[0]),
            Happening::RolloutRolledBack(Cause::ResetRatio),
            Happening::RolloutPaused,
        ] {
            let verdict = Verdict::parse(happening.name()).expect("each event has its word");
            assert!(verdict.is_of(happening));
            let reason = happening.reason();
            assert!(reason.is_empty() || Verdict::parse(reason).expect("each reason").is_of(happening));
        }
        let reset = Verdict::parse("RESET").expect("a word");
        assert!(reset.is_of(Happening::Closed(CloseReason::RstRemote)));
        assert!(!reset.is_of(Happening::Closed(CloseReason::Fin)));
        assert!(
            Verdict::parse("breaker")
                .expect("a word")
                .is_of(Happening::BreakerClosed(TransitionReason::ALL[0]))
        );
        assert_eq!(Verdict::parse("dropped"), None);
    }

    #[test]
    fn an_edge_has_the_outcomes_that_were_counted_on_it() {
        let edges = Specimen::default().edges().expect("a specimen");
        let occurred = |edge: &EdgeView, name| Verdict::parse(name).expect("a word").occurred_on(edge);
        assert!(["established", "reset", "closed"].iter().all(|name| occurred(&edges[0], name)));
        assert!(!occurred(&edges[0], "refused"));
        assert!(occurred(&edges[1], "refused") && occurred(&edges[1], "failed"));
        assert!(!occurred(&edges[1], "breaker_opened"));
    }

    #[test]
    fn the_nearest_names_are_given_and_no_strange_ones() {
        let known = ["shop/payment", "shop/cart", "dns", "shop/payment-standby"];
        assert_eq!(nearest("paymnt", known), ["shop/payment"]);
        assert_eq!(nearest("shop/paymet", known), ["shop/payment"]);
        assert_eq!(nearest("pay", known), ["shop/payment", "shop/payment-standby"]);
        assert_eq!(nearest("zzz", known), [""; 0]);
        assert_eq!(nearest("", known), [""; 0]);
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_trying_every_way_would(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            fn reference(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) =>
                        reference(rest, name) || !name.is_empty() && reference(pattern, &name[1..]),
                    (Some((wanted, rest)), Some((found, after))) => wanted == found && reference(rest, after),
                    _ => false,
                }
            }
            prop_assert_eq!(Pattern::new(&pattern).matches(&name), reference(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn what_statuses_say_of_themselves_means_the_same(text in "\\PC{0,8}") {
            if let Some(statuses) = Statuses::parse(&text) {
                prop_assert_eq!(Statuses::parse(&statuses.to_string()), Some(statuses));
            }
        }
    }
}
