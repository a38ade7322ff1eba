//! Corrects counts of open connections that drifted, and forgets clients that are gone. Knows no clock: whoever calls
//! decides how often.

use std::collections::BTreeSet;

use agent_ebpf::abi::admission::PER_SERVICE;
use agent_ebpf::abi::{ClientKey, Sample, Usage};

use super::drift::{Count, Drift, counts_of};
use crate::kernel::{Counters, MapError, Open};
use crate::reconcile::Directory;

/// Compares all counts with the connections there are, and corrects those that are wrong for good. Gives the map of
/// each that was corrected.
///
/// # Errors
/// The clients cannot be listed or written.
pub(super) fn heal(
    counters: &mut Counters,
    directory: &Directory,
    samples: &[Sample],
    drift: &mut Drift,
) -> Result<Vec<&'static str>, MapError> {
    let mut clients = counters.clients()?;
    let mut round = drift.round(samples.iter().flat_map(counts_of));
    directory.each_backend(|backend| {
        let state = counters.backend_state(backend);
        round.compare(Count::Backend(backend, Open::All), state.active);
        round.compare(Count::Backend(backend, Open::Pending), state.pending);
    });
    for entry in directory.services() {
        if entry.spec.policy.limits.scopes() & PER_SERVICE != 0 {
            let usage = counters.service_state(entry.id).usage;
            round.compare(Count::Service(entry.id, Open::All), usage.active);
            round.compare(Count::Service(entry.id, Open::Pending), usage.pending);
        }
    }
    for (key, usage) in &clients {
        round.compare(Count::Client(*key, Open::All), usage.active);
        round.compare(Count::Client(*key, Open::Pending), usage.pending);
    }
    let mut maps = Vec::new();
    for (count, difference) in round.wrong() {
        maps.push(match count {
            Count::Backend(backend, kind) => {
                counters.correct_backend(backend, kind, difference);
                "BACKEND_STATE"
            }
            Count::Service(service, kind) => {
                counters.correct_service(service, kind, difference);
                "SERVICE_STATE"
            }
            Count::Client(key, kind) => {
                if let Ok(at) = clients.binary_search_by_key(&key, |(key, _)| *key) {
                    clients[at].1 = corrected(clients[at].1, kind, difference);
                    counters.correct_client(&key, &clients[at].1)?;
                }
                "CLIENTS"
            }
        });
        tracing::warn!(?count, difference, "corrected a count of open connections");
    }
    Ok(maps)
}

fn corrected(usage: Usage, kind: Open, difference: i64) -> Usage {
    match kind {
        Open::All => Usage { active: usage.active.wrapping_add_signed(difference), ..usage },
        Open::Pending => Usage { pending: usage.pending.wrapping_add_signed(difference), ..usage },
    }
}

/// Clients that use nothing and whose cgroup was not there at the last look. A cgroup that was made a moment ago is
/// not known yet; so one look is not enough.
#[derive(Default)]
pub(super) struct Clients {
    gone: BTreeSet<ClientKey>,
}

impl Clients {
    /// Forgets those that were gone at the last look and are still; gives how many are left.
    ///
    /// # Errors
    /// The clients cannot be listed or removed.
    pub(super) fn sweep(
        &mut self,
        counters: &mut Counters,
        is_there: impl Fn(u64) -> bool,
    ) -> Result<u64, MapError> {
        let clients = counters.clients()?;
        let gone = self.gone_again(&clients, is_there);
        for key in &gone {
            counters.remove_client(key)?;
        }
        Ok(clients.len().saturating_sub(gone.len()) as u64)
    }

    fn gone_again(
        &mut self,
        clients: &[(ClientKey, Usage)],
        is_there: impl Fn(u64) -> bool,
    ) -> Vec<ClientKey> {
        let idle = clients.iter().filter(|(_, usage)| usage.active == 0 && usage.pending == 0);
        let now: BTreeSet<ClientKey> =
            idle.map(|(key, _)| *key).filter(|key| !is_there(key.client)).collect();
        let again = now.intersection(&self.gone).copied().collect();
        self.gone = now;
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_forgotten_when_it_was_gone_twice_and_uses_nothing() {
        let (gone, busy, alive) = (ClientKey::new(1, 9), ClientKey::new(2, 9), ClientKey::new(3, 9));
        let used = Usage { active: 1, ..Usage::default() };
        let all = [(gone, Usage::default()), (busy, used), (alive, Usage::default())];
        let mut clients = Clients::default();
        assert_eq!(clients.gone_again(&all, |client| client == 3), []);
        assert_eq!(clients.gone_again(&all, |client| client == 3), [gone]);
        assert_eq!(clients.gone_again(&all, |client| client != 2), []);
        assert_eq!(clients.gone_again(&all, |client| client == 3), []);
    }

    #[test]
    fn a_correction_changes_one_count() {
        let usage = Usage { active: 5, pending: 2, ..Usage::default() };
        assert_eq!(corrected(usage, Open::All, -3), Usage { active: 2, ..usage });
        assert_eq!(corrected(usage, Open::Pending, 1), Usage { pending: 3, ..usage });
    }
}
