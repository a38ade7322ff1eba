//! How long a backend's handshakes take, kept for the algorithms that compare. Knows nothing of breakers.

use agent_ebpf::abi::Connection;
use agent_ebpf::decide::balance::peak_ewma;

use super::breaker::Report;
use crate::context::Moment;
use crate::maps;

/// Keeps how long handshakes take. Two CPUs may overwrite each other's sample, which an average can bear.
#[inline(always)]
pub(super) fn keep(connection: &Connection, report: Report, now: Moment) {
    let Some(state) = maps::backend_state(connection.backend) else { return };
    match report {
        Report::Established { connect_ns, .. } => {
            let connect_us = connect_ns / 1_000;
            let connect_us = if connect_us > u32::MAX as u64 { u32::MAX } else { connect_us as u32 };
            state.latency = peak_ewma::observe(state.latency, connect_us, now.ticks());
            state.progress_ticks = u64::from(now.ticks());
        }
        Report::Failed(_) => {
            state.latency = peak_ewma::penalise(state.latency, now.ticks());
            state.progress_ticks = u64::from(now.ticks());
        }
        Report::Good | Report::Slow | Report::Abandoned => {}
    }
}
