//! Records of the rings of events and of requests: any bytes become a record that can be shown and read back, or an error.

use std::sync::Arc;

use agent_ebpf::abi::{Event, EventKind, Protocol, RequestEvent, RequestHead, RequestRecord};
use segue_agent::flows::{Client, Names, Record, ServiceLabel, Told, Workload};
use segue_agent::traces::{Became, Traces};

use crate::fuzz;

/// Knows every second id.
struct HalfKnown;

impl Names for HalfKnown {
    fn client(&mut self, _cgroup: u64) -> Client {
        Client::unknown()
    }

    fn is_live(&self, _workload: &Workload) -> bool {
        false
    }

    fn service(&self, id: u32) -> Option<ServiceLabel> {
        id.is_multiple_of(2).then(|| ServiceLabel { name: "shop/payment".into(), port: 80 })
    }

    fn version(&self, _service: u32, version: u32) -> Option<Arc<str>> {
        version.is_multiple_of(2).then(|| "v2".into())
    }
}

fn check(bytes: &[u8]) {
    let zero = "2026-03-01T12:00:00Z".parse().expect("a time");
    match Record::decode(bytes, zero, &mut HalfKnown) {
        Ok(record) => {
            assert_eq!(bytes.len(), size_of::<Event>());
            let text = serde_json::to_string(&record).expect("a record can be written");
            let read: Record = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(read, record);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A record as a program writes it.
fn bytes_of<T: Copy>(record: &T) -> Vec<u8> {
    // SAFETY: records are plain data without hidden padding, which their size assertions say.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// What was told of one request after another, of which the first is how one begins.
fn check_requests(bytes: &[u8]) {
    let zero = "2026-03-01T12:00:00Z".parse().expect("a time");
    let mut traces = Traces::new(u64::MAX, true);
    let (head, rest) = bytes.split_at(bytes.len().min(size_of::<RequestHead>()));
    for record in [head, rest, bytes] {
        match Told::decode(record) {
            Ok(told) => {
                if let Told::Answered(answered) = &told {
                    let shown = Record::of_request(answered, zero, &mut HalfKnown);
                    let text = serde_json::to_string(&shown).expect("a record can be written");
                    let read: Record =
                        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                    assert_eq!(read, shown);
                }
                if let Became::Span { span, .. } = traces.told(&told, zero, &mut HalfKnown) {
                    assert!(
                        span.trace_id != 0
                            && span.id != 0
                            && span.parent_id != Some(0)
                            && span.start <= span.end
                    );
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn any_record_of_the_ring_is_decoded_or_refused() {
    let seeds: Vec<Vec<u8>> = EventKind::ALL
        .iter()
        .map(|&kind| {
            let endpoint = std::net::SocketAddr::from(([10, 1, 0, 7], 8443)).into();
            bytes_of(&Event {
                at_ns: 1_000_000_000,
                duration_ns: 410_000,
                cgroup: 4_711,
                requested: endpoint,
                chosen: endpoint,
                service: 2,
                backend: 3,
                version: 2,
                kind: kind as u8,
                protocol: Protocol::Tcp as u8,
                states: 0x10,
                ..Event::default()
            })
        })
        .collect();
    fuzz(&seeds, &["\0\0\0\0", "\u{1}"], check);
}

#[test]
fn any_record_of_a_request_is_decoded_or_refused() {
    let text = "GET /cart?a=b HTTP/1.1\r\nhost: shop\r\n\
                traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
    let mut bytes = [0; agent_ebpf::abi::request_event::TOLD_BYTES];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    let head = RequestHead {
        kind: RequestRecord::Head as u32,
        sequence: 9,
        cookie: 7,
        length: u32::try_from(text.len()).expect("short"),
        _pad: 0,
        bytes,
    };
    let mut answered = RequestEvent {
        kind: RequestRecord::Answered as u32,
        asked_at_ns: 1_000_000_000,
        duration_ns: 410_000,
        cookie: 7,
        service: 2,
        version: 2,
        status: 200,
        protocol: 1,
        operation: 1,
        ..RequestEvent::default()
    };
    answered.place.sequence = 9;
    let both = [bytes_of(&head), bytes_of(&answered)].concat();
    fuzz(&[both, bytes_of(&head), bytes_of(&answered)], &["traceparent: ", "\r\n", "00-"], check_requests);
}
