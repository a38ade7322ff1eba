//! The specimen's edges and requests.

use std::sync::Arc;

use agent_ebpf::abi::kafka::KafkaApi;
use agent_ebpf::abi::lookup::DNS_PORT;
use agent_ebpf::abi::redis::{RedisCommand, RedisStatus};
use agent_ebpf::abi::sql::SqlOperation;
use agent_ebpf::abi::{
    AppProtocol, Direction, Histogram, LookupStatus, Method, RecordType, TransitionReason,
};

use super::{Specimen, histogram, workload};
use crate::flows::record::Happening;
use crate::flows::requests::{NAME_SERVERS, RequestRow};
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
    let others = [
        (AppProtocol::Redis, 6_379, RedisCommand::Get as u8, RedisStatus::Wrongtype as u16),
        (AppProtocol::Postgresql, 5_432, SqlOperation::Select as u8, u16::from_be_bytes(*b"23")),
        (AppProtocol::Mysql, 3_306, SqlOperation::Insert as u8, 1_062),
        (AppProtocol::Kafka, 9_092, KafkaApi::Fetch as u8, 0),
    ];
    let others = others.map(|(protocol, port, operation, status)| {
        let rows = vec![RequestRow { operation, status, duration: histogram(1, &[20, 3]) }];
        let by_status = [(rows[0].status_name(protocol), 23)].into();
        let errors = if status == 0 { 0 } else { 23 };
        let duration = histogram(1, &[20, 3]).into();
        let requests = Requests { protocol, count: 23, errors, by_status, duration, rows };
        [
            RequestView { port, requests: requests.clone(), ..client.clone() },
            RequestView { port, requests, ..server.clone() },
        ]
    });
    let mut overflow = RequestView { overflow: true, service: identity::UNKNOWN.into(), ..client.clone() };
    overflow.requests.rows.truncate(1);
    let mut all = vec![client, client_calls, server, server_calls];
    all.extend(others.into_iter().flatten());
    all.push(overflow);
    [all, lookups()].concat()
}

/// Lookups of names, asked of a server that is no service and answered by one.
fn lookups() -> Vec<RequestView> {
    let row = |record_type, status, counts: &[u64]| RequestRow {
        operation: record_type as u8,
        status: status as u16,
        duration: histogram(2, counts),
    };
    let rows = vec![
        row(RecordType::A, LookupStatus::NoError, &[300, 20]),
        row(RecordType::Aaaa, LookupStatus::NxDomain, &[40]),
        row(RecordType::A, LookupStatus::ServFail, &[0, 0, 0, 3]),
    ];
    let asked = RequestView {
        direction: Direction::Outbound,
        workload: workload("/system.slice/nginx.service"),
        service: NAME_SERVERS.into(),
        port: DNS_PORT,
        version: None,
        overflow: false,
        requests: Requests {
            protocol: AppProtocol::Dns,
            count: 363,
            errors: 3,
            by_status: [("NOERROR".into(), 320), ("NXDOMAIN".into(), 40), ("SERVFAIL".into(), 3)].into(),
            duration: histogram(2, &[340, 20, 0, 3]).into(),
            rows,
        },
    };
    let answered = RequestView {
        direction: Direction::Inbound,
        workload: workload("/system.slice/resolver.service"),
        service: "".into(),
        ..asked.clone()
    };
    vec![asked, answered]
}

/// A breaker that opened.
pub(super) fn breaker_opened() -> Arc<Record> {
    let happening = Happening::BreakerOpened(TransitionReason::ConsecutiveFailures);
    Arc::new(Record { happening, ..(*Specimen::default().record()).clone() })
}
