//! Records of the event ring: any bytes become a record that can be shown and read back, or an error.

use std::sync::Arc;

use agent_ebpf::abi::{Event, EventKind, Protocol};
use segue_agent::flows::{Client, Names, Record, ServiceLabel, Workload};

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

fn bytes_of(event: &Event) -> Vec<u8> {
    // SAFETY: an event is plain data without hidden padding, which its size assertion says.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(event).cast::<u8>(), size_of::<Event>()) }.to_vec()
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
