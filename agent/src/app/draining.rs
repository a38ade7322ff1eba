//! Resets the open connections of backends that are out for longer than their policy allows. What is due is decided by
//! [`Ledger`], which sockets that means is found by the kernel's walk, and they are ended through [`ResetSockets`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_ebpf::abi::{Backend, BackendStatus, OpenSocket};

use super::observer::Observer;
use crate::clock;
use crate::desired::{Departure, ServiceName};
use crate::draining::{self, Ledger, Out, Rule};
use crate::flows::identity;
use crate::kernel::{Counters, Fate, ResetSockets, describe_socket};
use crate::reconcile::{Directory, ServiceEntry};

/// Connections reset in one round; the rest follow with the next. Clients that all come back in one moment would be the
/// next trouble.
const MAX_RESETS: usize = 4_096;

/// What resets came to, since the agent started.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// Connections reset, by service and by why their backend was out.
    pub(super) done: BTreeMap<(ServiceName, Departure), u64>,
    /// Connections that could not be reset, by cause. Each try counts.
    pub(super) failed: BTreeMap<&'static str, u64>,
}

/// The names of the causes for which a connection is not reset.
const OUT_OF_REACH: &str = "network_namespace";
const REFUSED: &str = "refused";

/// The duty.
pub(super) struct Draining {
    observer: Arc<Observer>,
    ledger: Ledger,
    sockets: Box<dyn ResetSockets>,
    /// What could not be done was said.
    complained: bool,
}

impl Draining {
    pub(super) fn new(observer: Arc<Observer>, sockets: Box<dyn ResetSockets>) -> Self {
        Self { observer, ledger: Ledger::default(), sockets, complained: false }
    }

    /// One look, a second after the last. `retired` are the backends that left their service.
    pub(super) fn round<'a>(&mut self, retired: impl Iterator<Item = (u32, &'a Backend)>) {
        let now_ns = clock::monotonic_ns();
        let due = {
            let counters = self.observer.counters_now();
            let directory = self.observer.directory();
            let out = who_is_out(retired, directory, &counters, now_ns);
            let round = self.ledger.round(now_ns, &out, |id| counters.backend(id).drain);
            for (backend, drain) in round.write {
                counters.set_drain(backend, drain);
            }
            round.due
        };
        self.observer.set_leaving(self.ledger.leaving());
        if due {
            self.reset(now_ns);
        }
    }

    fn reset(&mut self, now_ns: u64) {
        let found = self.observer.counters_now().due_sockets();
        let found = match found {
            Some(Ok(found)) => found,
            Some(Err(error)) => return self.complain(&format!("cannot walk over sockets: {error}")),
            None => return self.complain("this kernel does not let the agent walk over sockets"),
        };
        let due: Vec<(OpenSocket, Departure)> = found
            .into_iter()
            .filter(draining::may_reset)
            .filter_map(|socket| self.ledger.why_due(&socket, now_ns).map(|why| (socket, why)))
            .take(MAX_RESETS)
            .collect();
        if due.is_empty() {
            return;
        }
        let sockets: Vec<OpenSocket> = due.iter().map(|(socket, _)| *socket).collect();
        let fates = self.sockets.reset(&sockets);
        self.account(&due, &fates);
    }

    /// Counts what became of the sockets, and says it: one line for each backend.
    fn account(&mut self, due: &[(OpenSocket, Departure)], fates: &[Fate]) {
        let mut by_backend: BTreeMap<u32, (&OpenSocket, Departure, u64)> = BTreeMap::new();
        let mut trouble = None;
        {
            let mut resets = self.observer.resets();
            for ((socket, why), fate) in due.iter().zip(fates) {
                match fate {
                    Fate::Reset => {
                        by_backend.entry(socket.backend).or_insert((socket, *why, 0)).2 += 1;
                        let service = service_name(self.observer.directory(), socket.service);
                        *resets.done.entry((service, *why)).or_default() += 1;
                    }
                    Fate::Gone => {}
                    Fate::OutOfReach => {
                        *resets.failed.entry(OUT_OF_REACH).or_default() += 1;
                        trouble.get_or_insert((socket, *fate));
                    }
                    Fate::Refused(_) => {
                        *resets.failed.entry(REFUSED).or_default() += 1;
                        trouble.get_or_insert((socket, *fate));
                    }
                }
            }
        }
        for (socket, why, connections) in by_backend.into_values() {
            tracing::info!(
                service = &*service_name(self.observer.directory(), socket.service),
                backend = %std::net::SocketAddr::from(socket.chosen),
                reason = why.name(),
                connections,
                "open connections reset"
            );
        }
        match trouble {
            Some((socket, Fate::Refused(errno))) => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.complain(&format!("{} cannot be reset: {error}", describe_socket(socket)));
            }
            Some((socket, _)) => self.complain(&format!(
                "{} cannot be reset: its network namespace (inode {}) cannot be entered; the agent needs \
                 CAP_SYS_ADMIN, CAP_SYS_PTRACE and the host's /proc",
                describe_socket(socket),
                socket.netns
            )),
            None => self.complained = false,
        }
    }

    /// Says once what stays the same every second.
    fn complain(&mut self, trouble: &str) {
        if !self.complained {
            tracing::warn!(
                "open connections of a backend that is out are kept: {trouble}; tried again every second"
            );
        }
        self.complained = true;
    }
}

fn service_name(directory: &Directory, service: u32) -> ServiceName {
    directory.service(service).map_or_else(|| identity::UNKNOWN.into(), |entry| Arc::clone(&entry.spec.name))
}

/// Every backend that is out: those that left, and of the services whose policy cares, those that are draining or
/// ejected.
fn who_is_out<'a>(
    retired: impl Iterator<Item = (u32, &'a Backend)>,
    directory: &Directory,
    counters: &Counters,
    now_ns: u64,
) -> Vec<Out> {
    let mut out: Vec<Out> = retired
        .map(|(id, record)| {
            let rule = directory.service(record.service).map_or(Rule::Unknown, |entry| {
                Rule::of(entry.spec.policy.draining.as_ref(), Departure::Removed)
            });
            let Backend { service, endpoint, generation, .. } = *record;
            Out { id, service, endpoint, generation, departure: Departure::Removed, rule }
        })
        .collect();
    let left: BTreeSet<u32> = out.iter().map(|backend| backend.id).collect();
    directory.each_service(|entry| {
        if entry.spec.policy.draining.is_some() {
            out.extend(of_service(entry, counters, now_ns).filter(|backend| !left.contains(&backend.id)));
        }
    });
    out
}

/// The backends of a service that are out though they belong to it.
fn of_service(entry: &ServiceEntry, counters: &Counters, now_ns: u64) -> impl Iterator<Item = Out> {
    let draining = entry.spec.policy.draining.as_ref();
    let looks_at = |departure| draining.is_some_and(|spec| spec.on.contains(&departure));
    let policy = looks_at(Departure::Ejected).then(|| counters.policy(entry.id)).flatten();
    entry.backends.iter().filter_map(move |backend| {
        let departure = if backend.record.status != BackendStatus::Ready as u16 {
            Departure::Draining
        } else {
            let policy = policy.as_ref()?;
            let verdict = counters.backend(backend.id).verdict;
            let cell = counters.backend_state(backend.id).cell;
            draining::is_ejected(&policy.breaker, verdict, cell, now_ns).then_some(Departure::Ejected)?
        };
        let rule = Rule::of(draining, departure);
        let Backend { service, endpoint, generation, .. } = backend.record;
        Some(Out { id: backend.id, service, endpoint, generation, departure, rule })
    })
}
