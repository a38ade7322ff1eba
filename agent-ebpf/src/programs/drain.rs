//! A walk over all sockets that talk to a service, for those whose backend is out for longer than the policy lets their
//! connections live. Runs only when the agent reads it, which it does only where something is due.

use agent_ebpf::abi::connection::{CLOSED_BY_APPLICATION, RESET_BY_POLICY};
use agent_ebpf::abi::{Hook, Outcome, Phase};
use agent_ebpf::decide::drain;

use crate::context::{self, RawVisit, Visit};
use crate::{emit, maps};

/// Attach point `iter/bpf_sk_storage_map`, kernel 5.10. Returning 0 goes on with the walk.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn segue_drain(context: *mut RawVisit) -> i32 {
    let visit = Visit::new(context);
    if visit.is_over() {
        return 0;
    }
    let outcome = report_if_due(&visit);
    emit::outcome(Hook::Drain, outcome);
    0
}

#[inline(always)]
fn report_if_due(visit: &Visit) -> Outcome {
    let Some(connection) = visit.connection_mut() else { return Outcome::Ignored };
    // What its application left behind is on its way out by itself.
    if connection.phase == Phase::Released as u8 || connection.marks & CLOSED_BY_APPLICATION != 0 {
        return Outcome::Ignored;
    }
    let Some(backend) = maps::backend(connection.backend) else { return Outcome::Inconsistent };
    // The id may have a new owner by now.
    if backend.service != connection.service || backend.generation != connection.backend_generation {
        return Outcome::Ignored;
    }
    if !drain::is_due(backend.drain, connection.started_at_ns, context::now_ns()) {
        return Outcome::Ignored;
    }
    let Some(socket) = visit.open_socket(connection) else { return Outcome::Ignored };
    // How the connection ends must not be held against the backend, nor be taken for the peer's doing.
    connection.marks |= RESET_BY_POLICY;
    visit.report(&socket);
    Outcome::Due
}
