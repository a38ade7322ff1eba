//! Limits on connections: takes a place under each before a connection goes, and gives it back however it ends.
//!
//! Counts are words that all CPUs change by atomic steps; `decide::limits` says whether there is room. What is taken
//! is never more than the limit. Each global function takes numbers only, and the verifier reads it once.

use agent_ebpf::abi::admission::{PER_BACKEND, PER_CLIENT, PER_SERVICE};
use agent_ebpf::abi::connection::COUNTED_BY_SERVICE;
use agent_ebpf::abi::limits::MAX_SWAP_TRIES;
use agent_ebpf::abi::{ClientKey, Connection, Limit, Limits, Loss, Phase, Policy, RateWord};
use agent_ebpf::decide::limits;

use super::breaker::Asking;
use super::choice::segue_client;
use crate::context::Moment;
use crate::maps;

/// No limit is in the way.
pub(crate) const FREE: u32 = 0;

/// What a service and its client gave to one connection, as one number: the number of the [`Limit`] that is in the
/// way, plus one, or [`FREE`]; above it, the scopes in which a place was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    /// Nothing was asked for.
    pub(crate) const NONE: Self = Self(0);

    #[inline(always)]
    const fn of(scopes: u32, limit: u32) -> Self {
        Self(scopes << 8 | limit)
    }

    /// The limit that is in the way, as a number from 1; or [`FREE`].
    #[inline(always)]
    pub(crate) const fn limit(self) -> u32 {
        self.0 & 0xff
    }

    #[inline(always)]
    const fn has(self, scope: u8) -> bool {
        self.0 >> 8 & scope as u32 != 0
    }

    /// What was taken at the backend.
    #[inline(always)]
    pub(crate) const fn at_backend(is_counted: bool) -> Self {
        if is_counted { Self::of(PER_BACKEND as u32, FREE) } else { Self::NONE }
    }

    /// Both.
    #[inline(always)]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The connection is counted at the backend already.
    #[inline(always)]
    pub(crate) const fn is_counted(self) -> bool {
        self.has(PER_BACKEND)
    }

    /// The connection counts for the service.
    #[inline(always)]
    pub(crate) const fn marks(self) -> u8 {
        if self.has(PER_SERVICE) { COUNTED_BY_SERVICE } else { 0 }
    }

    /// The client the connection counts for; 0: none.
    #[inline(always)]
    pub(crate) const fn client(self, client: u64) -> u64 {
        if self.has(PER_CLIENT) { client } else { 0 }
    }
}

/// Whether a limit is one on a client.
#[inline(always)]
pub(crate) const fn is_clients(limit: u32) -> bool {
    limit > Limit::ClientConnections as u32
}

/// How a backend is asked for: no handshake follows.
pub(crate) const CONNECTED: u32 = 0;
/// A handshake follows.
pub(crate) const HANDSHAKE: u32 = 1;
/// A datagram of a socket that is not connected: no connection, which no limit holds for.
pub(crate) const DATAGRAM: u32 = 2;
/// Beside these: that a limit is reached is not counted, it was before.
pub(crate) const QUIET: u32 = 4;

/// The client whose limits a connection is under; 0 where the service does not limit its clients.
#[inline(always)]
pub(crate) fn client_of(policy: &Policy, caller: u32) -> u64 {
    if caller & DATAGRAM == 0 && policy.marks & PER_CLIENT != 0 { segue_client() } else { 0 }
}

/// Takes a place for a connection under the limits of its client and of the service, or none under either.
#[inline(always)]
pub(crate) fn enter(service: u32, policy: &Policy, client: u64, caller: u32, now: Moment) -> Place {
    if caller & DATAGRAM != 0 || policy.marks & (PER_SERVICE | PER_CLIENT) == 0 {
        return Place::NONE;
    }
    Place(segue_enter(service, client, now.ns, caller & HANDSHAKE))
}

/// See [`enter`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_enter(service: u32, client: u64, now_ns: u64, has_handshake: u32) -> u32 {
    let (Some(policy), Some(state)) = (maps::policy_of(service), maps::service_state(service)) else {
        return FREE;
    };
    let pending = has_handshake != 0;
    let mut scopes = 0;
    if policy.marks & PER_CLIENT != 0 && client != 0 {
        if let Some(usage) = maps::client_or_new(&ClientKey::new(client, service)) {
            let kind = take(
                &mut usage.active,
                &mut usage.pending,
                &mut usage.rate,
                &policy.limits.client,
                now_ns,
                pending,
            );
            if kind != FREE {
                return Place::of(0, reached(service, Limit::ClientConnections as u32 + kind)).0;
            }
            scopes = u32::from(PER_CLIENT);
        }
    }
    if policy.marks & PER_SERVICE != 0 {
        let usage = &mut state.usage;
        let kind = take(
            &mut usage.active,
            &mut usage.pending,
            &mut usage.rate,
            &policy.limits.service,
            now_ns,
            pending,
        );
        if kind != FREE {
            let what = PLACE | TOKEN | if pending { PENDING } else { 0 };
            segue_leave(service, if scopes == 0 { 0 } else { client }, 0, what);
            return Place::of(0, reached(service, Limit::ServiceConnections as u32 + kind)).0;
        }
        scopes |= u32::from(PER_SERVICE);
    }
    Place::of(scopes, FREE).0
}

/// A place among the connections.
const PLACE: u32 = 1;
/// A place among those whose handshake is under way.
const PENDING: u32 = 2;
/// A token of the rate.
const TOKEN: u32 = 4;

/// Gives back what [`enter`] took: to the client unless it is 0, to the service if `of_service` is not 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_leave(service: u32, client: u64, of_service: u32, what: u32) -> u32 {
    if client != 0 {
        if let Some(usage) = maps::client(&ClientKey::new(client, service)) {
            give_back(&mut usage.active, &mut usage.pending, what);
            if let Some(policy) = maps::policy_of(service) {
                put_token_back(&mut usage.rate, &policy.limits.client, what);
            }
        }
    }
    if of_service != 0 {
        if let Some(state) = maps::service_state(service) {
            give_back(&mut state.usage.active, &mut state.usage.pending, what);
            if let Some(policy) = maps::policy_of(service) {
                put_token_back(&mut state.usage.rate, &policy.limits.service, what);
            }
        }
    }
    FREE
}

/// Gives back the places of a connection that does not go after all.
#[inline(always)]
pub(crate) fn leave(service: u32, place: Place, client: u64, caller: u32) {
    undo(service, place.client(client), place.marks(), caller & HANDSHAKE != 0);
}

/// The same for one whose socket could not remember it.
#[inline(always)]
pub(crate) fn undo(service: u32, client: u64, marks: u8, has_handshake: bool) {
    let of_service = u32::from(marks & COUNTED_BY_SERVICE);
    if client != 0 || of_service != 0 {
        segue_leave(service, client, of_service, PLACE | TOKEN | if has_handshake { PENDING } else { 0 });
    }
}

/// Gives the service and the client back the place of a connection that ends.
#[inline(always)]
pub(crate) fn release(connection: &Connection) {
    let of_service = u32::from(connection.marks & COUNTED_BY_SERVICE);
    if connection.client != 0 || of_service != 0 {
        let what = PLACE | if connection.phase == Phase::Established as u8 { 0 } else { PENDING };
        segue_leave(connection.service, connection.client, of_service, what);
    }
}

/// Gives the service and the client back the place of a handshake that is done.
#[inline(always)]
pub(crate) fn established(connection: &Connection) {
    let of_service = u32::from(connection.marks & COUNTED_BY_SERVICE);
    if connection.client != 0 || of_service != 0 {
        segue_leave(connection.service, connection.client, of_service, PENDING);
    }
}

/// Whether [`enter_backend`] counts a connection at the backend, which is otherwise done once it is certain that it
/// goes.
#[inline(always)]
pub(crate) fn counts_at_backend(policy: &Policy, caller: u32) -> bool {
    caller & DATAGRAM == 0 && policy.marks & PER_BACKEND != 0
}

/// Takes a place under the limits of a backend. Before its breaker is asked, so that no probe is spent on one that is
/// full. [`FREE`], or the limit that is in the way as in [`Place::limit`].
#[inline(always)]
pub(crate) fn enter_backend(asking: &Asking, id: u32, caller: u32) -> u32 {
    if !counts_at_backend(asking.policy, caller) {
        return FREE;
    }
    segue_enter_backend(asking.service, id, asking.now.ns, caller)
}

/// Gives a backend back what [`enter_backend`] took, where its breaker refuses.
#[inline(always)]
pub(crate) fn leave_backend(asking: &Asking, id: u32, caller: u32) {
    if counts_at_backend(asking.policy, caller) {
        segue_leave_backend(asking.service, id, caller & HANDSHAKE);
    }
}

/// See [`enter_backend`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_enter_backend(service: u32, id: u32, now_ns: u64, caller: u32) -> u32 {
    let (Some(policy), Some(state)) = (maps::policy_of(service), maps::backend_state(id)) else {
        return FREE;
    };
    let (is_first, has_handshake) = (maps::read(&state.pending) == 0, caller & HANDSHAKE != 0);
    let limits = &policy.limits.backend;
    let kind = take(&mut state.active, &mut state.pending, &mut state.rate, limits, now_ns, has_handshake);
    if kind != FREE {
        let limit = Limit::BackendConnections as u32 + kind;
        return if caller & QUIET != 0 { limit } else { reached(service, limit) };
    }
    if is_first && has_handshake {
        state.progress_ticks = u64::from(Moment { ns: now_ns }.ticks());
    }
    FREE
}

/// Gives a backend back what [`enter_backend`] took for a connection that does not go.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segue_leave_backend(service: u32, id: u32, has_handshake: u32) -> u32 {
    let Some(state) = maps::backend_state(id) else { return FREE };
    let what = PLACE | TOKEN | if has_handshake != 0 { PENDING } else { 0 };
    give_back(&mut state.active, &mut state.pending, what);
    if let Some(policy) = maps::policy_of(service) {
        put_token_back(&mut state.rate, &policy.limits.backend, what);
    }
    FREE
}

/// Gives a backend back what [`enter_backend`] took for a connection that its socket could not remember.
#[inline(always)]
pub(crate) fn undo_at_backend(service: u32, id: u32, has_handshake: bool) {
    segue_leave_backend(service, id, u32::from(has_handshake));
}

/// Takes all of a connection's places, or none. [`FREE`], or 1, 2, 3: connections, pending, rate.
#[inline(always)]
fn take(
    active: &mut u64,
    pending: &mut u64,
    rate: &mut RateWord,
    limits: &Limits,
    now_ns: u64,
    has_handshake: bool,
) -> u32 {
    if !take_one(active, limits.max_connections) {
        return 1;
    }
    if has_handshake && !take_one(pending, limits.max_pending) {
        give_back(active, pending, PLACE);
        return 2;
    }
    if !take_token(rate, limits, now_ns) {
        give_back(active, pending, PLACE | if has_handshake { PENDING } else { 0 });
        return 3;
    }
    FREE
}

#[inline(always)]
fn take_one(count: &mut u64, most: u32) -> bool {
    if most == 0 {
        maps::add(count, 1);
        return true;
    }
    // Looks first, so that a crowd at a limit does not count itself up for nothing; what decides is the number before
    // the adding, which no two CPUs get.
    if limits::take(maps::read(count), most).is_none() {
        return false;
    }
    if limits::take(maps::fetch_add(count, 1), most).is_some() {
        return true;
    }
    maps::add(count, u64::MAX);
    false
}

#[inline(always)]
fn take_token(rate: &mut RateWord, of: &Limits, now_ns: u64) -> bool {
    if of.rate_per_second == 0 {
        return true;
    }
    let mut tries = 0;
    while tries < MAX_SWAP_TRIES {
        let old = maps::read(&rate.0);
        let Some(new) = limits::take_token(RateWord(old), of, now_ns) else { return false };
        if maps::swap(&mut rate.0, old, new.0) {
            return true;
        }
        tries += 1;
    }
    maps::lost(Loss::Contended);
    false
}

#[inline(always)]
fn give_back(active: &mut u64, pending: &mut u64, what: u32) {
    if what & PENDING != 0 {
        maps::add(pending, u64::MAX);
    }
    if what & PLACE != 0 {
        maps::add(active, u64::MAX);
    }
}

/// Lost to others too often, the token stays spent: the rate is then a little lower for a moment.
#[inline(always)]
fn put_token_back(rate: &mut RateWord, of: &Limits, what: u32) {
    if what & TOKEN == 0 || of.rate_per_second == 0 {
        return;
    }
    let mut tries = 0;
    while tries < MAX_SWAP_TRIES {
        let old = maps::read(&rate.0);
        if maps::swap(&mut rate.0, old, limits::put_token_back(RateWord(old), of).0) {
            return;
        }
        tries += 1;
    }
}

/// Counts that a limit was reached, and gives its number back. 1 is the first.
#[inline(always)]
fn reached(service: u32, limit: u32) -> u32 {
    if let Some(state) = maps::service_state(service) {
        if let Some(counter) = state.limited.get_mut(maps::unproven(limit as usize - 1)) {
            maps::add(counter, 1);
        }
    }
    limit
}
