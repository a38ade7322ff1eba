//! A datagram of an unconnected UDP socket: it goes to a backend, and the next ones to the same.

use agent_ebpf::abi::limits::MAX_TRANSLATIONS;
use agent_ebpf::abi::{BackendStatus, Endpoint, FrontendKey, Hook, Outcome, Protocol, Translation};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::choice::is_left_alone;
use super::datagrams::keep;
use super::limits;
use super::select::{Found, Selection, refuse_as_asked, select};
use super::{ALLOW, REFUSE};
use crate::context::{Family, Moment, SocketAddress};
use crate::{emit, maps};

/// Attach point `cgroup/sendmsg4`, kernel 4.18.
#[cgroup_sock_addr(sendmsg4)]
fn segue_sendmsg4(context: SockAddrContext) -> i32 {
    run(Hook::Sendmsg4, &context, Family::V4)
}

/// Attach point `cgroup/sendmsg6`, kernel 4.18.
#[cgroup_sock_addr(sendmsg6)]
fn segue_sendmsg6(context: SockAddrContext) -> i32 {
    run(Hook::Sendmsg6, &context, Family::V6)
}

#[inline(always)]
fn run(hook: Hook, context: &SockAddrContext, family: Family) -> i32 {
    let outcome = send(&SocketAddress::new(context, family));
    emit::outcome(hook, outcome);
    if matches!(outcome, Outcome::Inconsistent | Outcome::StorageFailed) {
        emit::surprise(context, hook, outcome);
    }
    if matches!(outcome, Outcome::NoBackend) { REFUSE } else { ALLOW }
}

#[inline(always)]
fn send(call: &SocketAddress) -> Outcome {
    let requested = call.endpoint();
    let Some(service) = maps::service_of(&FrontendKey::new(requested, Protocol::Udp as u8)) else {
        return Outcome::Unmanaged;
    };
    if is_left_alone() {
        return Outcome::OptedOut;
    }
    let Some(socket) = call.socket() else { return Outcome::Unsupported };
    let Some(datagrams) = maps::datagrams_or_new(socket) else { return Outcome::StorageFailed };

    if let Some(chosen) = followed(&datagrams.translations, &requested) {
        call.set_endpoint(&chosen);
        return Outcome::Followed;
    }
    let selection = select(service, limits::DATAGRAM, Moment::now());
    match (selection.found, maps::backend(selection.id)) {
        (Found::Backend, Some(backend)) => {
            let translation = Translation {
                requested,
                chosen: backend.endpoint,
                service: selection.service,
                backend: selection.id,
                backend_generation: backend.generation,
            };
            keep(datagrams, &translation);
            count(service, &selection);
            call.set_endpoint(&translation.chosen);
            if selection.affine { Outcome::Affine } else { Outcome::Selected }
        }
        (Found::Nothing, _) => {
            if let Some(state) = maps::service_state(service) {
                maps::add(&mut state.no_backend, 1);
            }
            refuse_as_asked(service);
            Outcome::NoBackend
        }
        _ => Outcome::Inconsistent,
    }
}

#[inline(always)]
fn count(service: u32, selection: &Selection) {
    if let Some(state) = maps::backend_state(selection.id) {
        maps::add(&mut state.selections, 1);
    }
    if let Some(state) = maps::service_state(service) {
        maps::add(&mut state.selected, 1);
        if selection.affine {
            maps::add(&mut state.affine, 1);
        }
    }
}

/// Where this socket's datagrams to `requested` went before, if that backend still takes them.
#[inline(always)]
fn followed(translations: &[Translation; MAX_TRANSLATIONS], requested: &Endpoint) -> Option<Endpoint> {
    for translation in translations {
        if translation.requested == *requested {
            let backend = maps::backend(translation.backend)?;
            let holds = backend.service == translation.service
                && backend.generation == translation.backend_generation
                && backend.status == BackendStatus::Ready as u16;
            return if holds { Some(translation.chosen) } else { None };
        }
    }
    None
}
