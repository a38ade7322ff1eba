//! The specimen's edges and requests.

use std::sync::Arc;

use agent_ebpf::abi::{AppProtocol, Direction, Histogram, Method, TransitionReason};

use super::{Specimen, histogram, workload};
use crate::flows::record::Happening;
use crate::flows::requests::RequestRow;
use crate::flows::{EdgeView, Record, RequestView, Requests, Tally, Workload, identity};

/// Two edges, and the sum of those beyond the limit.
pub(super) fn edges() -> Vec<EdgeView> {
    let edge = EdgeView {
        client: workload("/system.slice/nginx.service"),
        service: "shop/payment".into(),
        port: 443,
        version: Some("v1".into()),
        overflow: false,
        opened: 1_234,
        active: 12,
        closed: Tally::from([1_200, 2, 19, 1, 0, 3]),
        failed: Tally::from([3, 1, 0, 1, 0, 0]),
        sent_bytes: 7_340_032,
        received_bytes: 2_254_857_830,
        retransmits: 41,
        connect: histogram(2, &[700, 400, 120, 14]).into(),
        connect_failed: histogram(4, &[3, 0, 0, 2]).into(),
        rtt: histogram(0, &[100, 600, 80]).into(),
        requests: requests().into_iter().take(1).map(|view| view.requests).collect(),
    };
    let batch = EdgeView {
        client: workload("/system.slice/system-batch.slice/batch@night \"2\".service"),
        version: Some("v2".into()),
        failed: Tally::default(),
        connect_failed: Histogram::default().into(),
        opened: 88,
        ..edge.clone()
    };
    let overflow = EdgeView {
        client: Arc::new(Workload::unknown()),
        service: identity::UNKNOWN.into(),
        port: 0,
        version: None,
        overflow: true,
        ..edge.clone()
    };
    vec![batch, edge, overflow]
}

/// What was asked for on the first of them, what was answered, and the sum of what is beyond the limit.
pub(super) fn requests() -> Vec<RequestView> {
    let row = |status, counts: &[u64]| RequestRow {
        operation: Method::Get as u8,
        status,
        duration: histogram(4, counts),
    };
    let rows = vec![row(200, &[900, 250, 40]), row(404, &[30]), row(503, &[0, 2, 5])];
    let client = RequestView {
        direction: Direction::Outbound,
        workload: workload("/system.slice/nginx.service"),
        service: "shop/payment".into(),
        port: 443,
        version: Some("v1".into()),
        overflow: false,
        requests: Requests {
            protocol: AppProtocol::Http1,
            count: 1_227,
            errors: 7,
            by_status: [("200".into(), 1_190), ("404".into(), 30), ("503".into(), 7)].into(),
            duration: histogram(4, &[930, 252, 45]).into(),
            rows,
        },
    };
    let server = RequestView {
        direction: Direction::Inbound,
        service: "".into(),
        port: 8080,
        version: None,
        ..client.clone()
    };
    let calls = |view: &RequestView| {
        let rows = [(0, &[11, 80][..]), (14, &[2])];
        let rows =
            rows.map(|(status, counts)| RequestRow { operation: Method::Post as u8, ..row(status, counts) });
        let requests = Requests {
            protocol: AppProtocol::Grpc,
            count: 93,
            errors: 2,
            by_status: [("OK".into(), 91), ("UNAVAILABLE".into(), 2)].into(),
            duration: histogram(4, &[13, 80]).into(),
            rows: rows.into(),
        };
        RequestView { requests, ..view.clone() }
    };
    let (client_calls, server_calls) = (calls(&client), calls(&server));
    let mut overflow = RequestView { overflow: true, service: identity::UNKNOWN.into(), ..client.clone() };
    overflow.requests.rows.truncate(1);
    vec![client, server, client_calls, server_calls, overflow]
}

/// A breaker that opened.
pub(super) fn breaker_opened() -> Arc<Record> {
    let happening = Happening::BreakerOpened(TransitionReason::ConsecutiveFailures);
    Arc::new(Record { happening, ..(*Specimen::default().record()).clone() })
}
