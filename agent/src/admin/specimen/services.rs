//! The specimen's backends, their breakers, and what is decided about them.

use agent_ebpf::abi::{BackendStatus, BreakerState};

use super::super::view::{BackendView, CellView, HeldView, RolloutView, SampleView};
use super::{address, ago};
use crate::rollout::{Cause, Phase, Verdict};

pub(super) fn backend(socket: &str, version: &str, zone: &str, status: BackendStatus) -> BackendView {
    BackendView {
        address: address(socket),
        version: (!version.is_empty()).then(|| version.into()),
        zone: (!zone.is_empty()).then(|| zone.into()),
        weight: 10,
        status,
        active: 4,
        selections: 1_201,
        failures: 3,
        breaker: closed(),
        resets_in_ms: (status == BackendStatus::Draining).then_some(21_000),
    }
}

/// A canary at the second of its three steps.
pub(crate) fn rollout() -> RolloutView {
    RolloutView {
        service: "shop/payment".into(),
        version: "v2".into(),
        baseline: "v1".into(),
        phase: Phase::Progressing,
        weight_permille: 100,
        steps: vec![5, 10, 100],
        step: Some(2),
        next_step_in_ms: Some(80_000),
        verdict: Verdict::Fine,
        cause: None,
        reason: None,
        changed_at: ago(220),
        summary: "v2 gets 10.0 % (step 2 of 3), does no worse than v1".to_owned(),
        minimum_samples: 50,
        window_ms: 30_000,
        of_canary: SampleView {
            tried: 88,
            failed: 1,
            ended: 80,
            reset: 0,
            answered: 300,
            errors: 2,
            connect_p99_ns: Some(210_000),
        },
        of_baseline: SampleView {
            tried: 790,
            failed: 4,
            ended: 760,
            reset: 2,
            answered: 900,
            errors: 5,
            connect_p99_ns: Some(190_000),
        },
        stepped_up: 1,
        promoted: 0,
        rolled_back: Cause::ALL.iter().map(|cause| (*cause, 0)).collect(),
    }
}

/// A breaker that holds nothing against its backend.
pub(super) fn closed() -> CellView {
    CellView {
        state: BreakerState::Closed,
        consecutive_failures: 0,
        opened: 0,
        next_probe_in_ms: None,
        good: 118,
        failed: 0,
        slow: 0,
        order: None,
    }
}

/// A breaker that opened twice in a row.
pub(super) fn open() -> CellView {
    CellView {
        state: BreakerState::Open,
        opened: 2,
        next_probe_in_ms: Some(7_200),
        good: 4,
        failed: 21,
        ..closed()
    }
}

/// A service that a file suddenly does not name any more.
pub(crate) fn held() -> HeldView {
    HeldView {
        source: Some("file".to_owned()),
        service: Some("shop/cart".into()),
        frontends: vec![address("10.96.0.11:80")],
        loss: crate::desired::guard::Loss::Service,
        backends: Some(3),
        held_for_ms: 90_000,
    }
}
