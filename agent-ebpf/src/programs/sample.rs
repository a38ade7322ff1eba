//! A walk over all sockets that talk to a service: bytes of connections that are still open, and the true number
//! of connections per backend. Runs only when the agent reads it; costs the data path nothing.

use agent_ebpf::abi::{Hook, Outcome, Phase, Protocol, Sample};

use crate::context::{RawVisit, TcpCounts, Visit};
use crate::emit;

/// Attach point `iter/bpf_sk_storage_map`, kernel 5.10. Returning 0 goes on with the walk.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn segue_sample(context: *mut RawVisit) -> i32 {
    let visit = Visit::new(context);
    let Some(connection) = visit.connection() else { return 0 };
    if connection.phase == Phase::Released as u8 {
        emit::outcome(Hook::Sample, Outcome::Ignored);
        return 0;
    }
    let counts = if connection.protocol == Protocol::Tcp as u8 {
        visit.counts(connection)
    } else {
        TcpCounts::default()
    };
    visit.report(&Sample {
        cgroup: connection.cgroup,
        sent_bytes: counts.sent_bytes,
        received_bytes: counts.received_bytes,
        service: connection.service,
        version: connection.version,
        backend: connection.backend,
        backend_generation: connection.backend_generation,
        rtt_us: counts.rtt_us,
        retransmits: counts.retransmits,
        phase: connection.phase,
        protocol: connection.protocol,
        marks: connection.marks,
        _pad: [0; 5],
        client: connection.client,
    });
    emit::outcome(Hook::Sample, Outcome::Sampled);
    0
}
