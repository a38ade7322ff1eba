//! What becomes of the open connections of backends that are out: keeps them in mind, and says which are due to be
//! reset. Pure: the moment, who is out, and what a predecessor wrote down come as values.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_ebpf::abi::{
    BreakerMode, BreakerPolicy, BreakerState, CellWord, Drain, Endpoint, OpenSocket, Protocol, Verdict,
};
use agent_ebpf::decide::flow::tcp_state;

use crate::desired::{Departure, DrainingSpec};

/// A backend that is out at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The backend's id.
    pub id: u32,
    /// Its service's id.
    pub service: u32,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Which use of the id this is.
    pub generation: u32,
    /// Why it is out.
    pub departure: Departure,
    /// What the policy says of its connections.
    pub rule: Rule,
}

/// What a policy says of the open connections of a backend that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// They are kept.
    Keep,
    /// They are reset so long after the backend went out.
    ResetAfter(Duration),
    /// Nobody knows the policy any more: what was decided before holds.
    Unknown,
}

impl Leaving {
    /// How long until its connections are reset, in milliseconds; `None`: they are kept.
    pub fn resets_in_ms(&self, now_ns: u64) -> Option<u64> {
        self.reset_at_ns.map(|at_ns| at_ns.saturating_sub(now_ns).div_ceil(1_000_000))
    }
}

impl Rule {
    /// What a policy says of this departure.
    pub fn of(spec: Option<&DrainingSpec>, departure: Departure) -> Self {
        let spec = spec.filter(|spec| spec.on.contains(&departure));
        spec.map_or(Self::Keep, |spec| Self::ResetAfter(spec.reset_after))
    }
}

/// Whether a breaker, or an order about it, keeps new connections away from its backend.
///
/// A half-open one counts: what it admits are probes, which are younger than the ejection.
pub fn is_ejected(policy: &BreakerPolicy, verdict: Verdict, cell: CellWord, now_ns: u64) -> bool {
    match verdict.mode(now_ns).unwrap_or_else(|| policy.mode()) {
        BreakerMode::ForcedOpen => true,
        BreakerMode::Enforce => cell.state() != BreakerState::Closed,
        BreakerMode::Off | BreakerMode::Observe | BreakerMode::ForcedClosed => false,
    }
}

/// Whether a socket may be reset: it can be told from every other, and is connected where its connection was sent. A UDP
/// socket that its application disconnected is not.
pub fn may_reset(socket: &OpenSocket) -> bool {
    let connected = match Protocol::from_raw(socket.protocol) {
        Some(Protocol::Udp) => socket.state == tcp_state::ESTABLISHED,
        Some(Protocol::Tcp) => socket.state != tcp_state::CLOSE,
        None => false,
    };
    connected && socket.cookie != 0 && socket.remote == socket.chosen && socket.local.port_be != 0
}

/// A backend that is out, as it is kept in mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its service's id.
    pub service: u32,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Which use of the id this is.
    pub generation: u32,
    /// Why it is out.
    pub departure: Departure,
    /// When its connections are reset, on the monotonic clock in nanoseconds; `None`: they are kept.
    pub reset_at_ns: Option<u64>,
    since_ns: u64,
    word: Drain,
}

/// The backends that are out.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    leaving: BTreeMap<u32, Leaving>,
    /// What a predecessor wrote down was looked at.
    adopted: bool,
}

/// What one look comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What is to be written down, by backend.
    pub write: Vec<(u32, Drain)>,
    /// There are backends whose deadline is over.
    pub due: bool,
}

impl Ledger {
    /// Takes in who is out now. `found` gives what is written down for a backend; the first call goes on from that, so
    /// that a new agent forgets no deadline.
    pub fn round(&mut self, now_ns: u64, out: &[Out], found: impl Fn(u32) -> Drain) -> Round {
        let mut before = std::mem::take(&mut self.leaving);
        let mut round = Round::default();
        for backend in out {
            let known = before.remove(&backend.id);
            let known = known.filter(|known| known.generation == backend.generation);
            let written = known.map_or_else(|| found(backend.id), |known| known.word);
            let goes_on = known.filter(|known| known.departure == backend.departure);
            let adopted = Some(written).filter(|word| !self.adopted && *word != Drain::NONE);
            let since_ns = match (goes_on, adopted) {
                (Some(known), _) => known.since_ns,
                (None, Some(word)) => word.since_ns().min(now_ns),
                (None, None) => now_ns,
            };
            let word = match backend.rule {
                Rule::Keep => Drain::NONE,
                Rule::ResetAfter(after) => {
                    Drain::new(since_ns, u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
                }
                Rule::Unknown if known.is_some() || !self.adopted => written,
                Rule::Unknown => Drain::NONE,
            };
            if word != written {
                round.write.push((backend.id, word));
            }
            let reset_at_ns = (word != Drain::NONE).then(|| word.deadline_ns());
            round.due |= reset_at_ns.is_some_and(|at_ns| at_ns <= now_ns);
            let Out { id, service, endpoint, generation, departure, .. } = *backend;
            let leaving = Leaving { service, endpoint, generation, departure, reset_at_ns, since_ns, word };
            self.leaving.insert(id, leaving);
        }
        // Those that came back.
        let back = before.into_iter().filter(|(_, leaving)| leaving.word != Drain::NONE);
        round.write.extend(back.map(|(id, _)| (id, Drain::NONE)));
        self.adopted = true;
        round
    }

    /// Every backend that is out, by id.
    pub fn leaving(&self) -> &BTreeMap<u32, Leaving> {
        &self.leaving
    }

    /// Why the backend of this socket is out; `None` where it is not, or not for long enough.
    pub fn why_due(&self, socket: &OpenSocket, now_ns: u64) -> Option<Departure> {
        let leaving = self.leaving.get(&socket.backend)?;
        let due = leaving.generation == socket.backend_generation
            && leaving.reset_at_ns.is_some_and(|at_ns| at_ns <= now_ns);
        due.then_some(leaving.departure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const RESET: Rule = Rule::ResetAfter(Duration::from_secs(30));

    fn out(rule: Rule) -> [Out; 1] {
        let endpoint = Endpoint::default();
        [Out { id: 5, service: 1, endpoint, generation: 2, departure: Departure::Removed, rule }]
    }

    fn nothing(_: u32) -> Drain {
        Drain::NONE
    }

    fn socket() -> OpenSocket {
        let remote = "10.1.0.5:80".parse::<std::net::SocketAddr>().expect("an address").into();
        let local = "10.1.0.9:4000".parse::<std::net::SocketAddr>().expect("an address").into();
        OpenSocket {
            cookie: 77,
            backend: 5,
            backend_generation: 2,
            local,
            remote,
            chosen: remote,
            protocol: Protocol::Tcp as u8,
            state: tcp_state::ESTABLISHED,
            ..OpenSocket::default()
        }
    }

    #[test]
    fn connections_are_due_when_the_deadline_is_over_and_not_before() {
        let mut ledger = Ledger::default();
        let first = ledger.round(100 * SECOND_NS, &out(RESET), nothing);
        assert_eq!(first, Round { write: vec![(5, Drain::new(100 * SECOND_NS, 30_000))], due: false });
        let before = ledger.round(129 * SECOND_NS, &out(RESET), nothing);
        assert_eq!(before, Round::default());
        assert_eq!(ledger.why_due(&socket(), 129 * SECOND_NS), None);
        let after = ledger.round(130 * SECOND_NS, &out(RESET), nothing);
        assert_eq!(after, Round { write: vec![], due: true });
        assert_eq!(ledger.why_due(&socket(), 130 * SECOND_NS), Some(Departure::Removed));
        let other = OpenSocket { backend_generation: 3, ..socket() };
        assert_eq!(ledger.why_due(&other, 130 * SECOND_NS), None);
    }

    #[test]
    fn without_a_rule_connections_are_kept_for_good() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.round(SECOND_NS, &out(Rule::Keep), nothing), Round::default());
        assert_eq!(ledger.round(u64::MAX / 2, &out(Rule::Keep), nothing), Round::default());
        assert_eq!(ledger.leaving()[&5].reset_at_ns, None);
    }

    #[test]
    fn a_new_agent_goes_on_with_the_deadline_it_finds() {
        let written = Drain::new(100 * SECOND_NS, 30_000);
        for rule in [RESET, Rule::Unknown] {
            let mut ledger = Ledger::default();
            let round = ledger.round(120 * SECOND_NS, &out(rule), |_| written);
            assert_eq!(round, Round::default(), "{rule:?}");
            assert_eq!(ledger.leaving()[&5].reset_at_ns, Some(130 * SECOND_NS));
        }
    }

    #[test]
    fn what_an_earlier_owner_of_an_id_left_written_means_nothing_later() {
        let stale = Drain::new(SECOND_NS, 1_000);
        let mut ledger = Ledger::default();
        ledger.round(50 * SECOND_NS, &[], |_| stale);
        let round = ledger.round(100 * SECOND_NS, &out(RESET), |_| stale);
        assert_eq!(round, Round { write: vec![(5, Drain::new(100 * SECOND_NS, 30_000))], due: false });
        let mut ledger = Ledger::default();
        ledger.round(50 * SECOND_NS, &[], |_| stale);
        let round = ledger.round(100 * SECOND_NS, &out(Rule::Unknown), |_| stale);
        assert_eq!(round, Round { write: vec![(5, Drain::NONE)], due: false });
    }

    #[test]
    fn a_backend_that_comes_back_in_time_keeps_its_connections() {
        let mut ledger = Ledger::default();
        ledger.round(100 * SECOND_NS, &out(RESET), nothing);
        let back = ledger.round(110 * SECOND_NS, &[], nothing);
        assert_eq!(back, Round { write: vec![(5, Drain::NONE)], due: false });
        // Out again, the time begins anew.
        ledger.round(120 * SECOND_NS, &out(RESET), nothing);
        assert_eq!(ledger.leaving()[&5].reset_at_ns, Some(150 * SECOND_NS));
    }

    #[test]
    fn a_changed_policy_counts_from_the_moment_the_backend_went_out() {
        let mut ledger = Ledger::default();
        ledger.round(100 * SECOND_NS, &out(RESET), nothing);
        let shorter = Rule::ResetAfter(Duration::from_secs(5));
        assert!(ledger.round(110 * SECOND_NS, &out(shorter), nothing).due);
        let kept = ledger.round(111 * SECOND_NS, &out(Rule::Keep), nothing);
        assert_eq!(kept, Round { write: vec![(5, Drain::NONE)], due: false });
    }

    #[test]
    fn another_reason_begins_anew_so_that_younger_connections_have_their_time_too() {
        let mut ledger = Ledger::default();
        let ejected = [Out { departure: Departure::Ejected, ..out(RESET)[0] }];
        ledger.round(100 * SECOND_NS, &ejected, nothing);
        ledger.round(129 * SECOND_NS, &out(RESET), nothing);
        assert_eq!(ledger.leaving()[&5].reset_at_ns, Some(159 * SECOND_NS));
    }

    #[test]
    fn a_policy_speaks_of_the_departures_it_names() {
        let spec = DrainingSpec { on: vec![Departure::Ejected], reset_after: Duration::from_secs(30) };
        assert_eq!(Rule::of(Some(&spec), Departure::Ejected), RESET);
        assert_eq!(Rule::of(Some(&spec), Departure::Removed), Rule::Keep);
        assert_eq!(Rule::of(None, Departure::Ejected), Rule::Keep);
    }

    #[test]
    fn only_what_keeps_connections_away_is_an_ejection() {
        let policy = |mode: BreakerMode| BreakerPolicy { mode: mode as u8, ..BreakerPolicy::DEFAULT };
        let open = CellWord::open(1, 100);
        let ejected = |mode, verdict, cell| is_ejected(&policy(mode), verdict, cell, SECOND_NS);
        assert!(ejected(BreakerMode::Enforce, Verdict::NONE, open));
        assert!(ejected(BreakerMode::Enforce, Verdict::NONE, CellWord::half_open(1, 100)));
        assert!(!ejected(BreakerMode::Enforce, Verdict::NONE, CellWord::CLEAN));
        assert!(!ejected(BreakerMode::Observe, Verdict::NONE, open));
        assert!(!ejected(BreakerMode::Off, Verdict::NONE, open));
        let order = |mode| Verdict::new(mode, 2 * SECOND_NS);
        assert!(ejected(BreakerMode::Off, order(BreakerMode::ForcedOpen), CellWord::CLEAN));
        assert!(!ejected(BreakerMode::Enforce, order(BreakerMode::ForcedClosed), open));
    }

    #[test]
    fn a_socket_is_reset_only_where_it_is_still_connected_as_it_was_sent() {
        assert!(may_reset(&socket()));
        let udp = OpenSocket { protocol: Protocol::Udp as u8, ..socket() };
        assert!(may_reset(&udp));
        for kept in [
            OpenSocket { cookie: 0, ..socket() },
            OpenSocket { remote: Default::default(), ..socket() },
            OpenSocket { state: tcp_state::CLOSE, ..socket() },
            OpenSocket { state: tcp_state::CLOSE, ..udp },
            OpenSocket { remote: Default::default(), ..udp },
            OpenSocket { protocol: 132, ..socket() },
        ] {
            assert!(!may_reset(&kept), "{kept:?}");
        }
    }
}
