//! What reconciling costs at the size Segue is built for.

use std::time::{Duration, Instant};

use agent_ebpf::abi::limits;

use super::*;

const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;

fn service(number: u32, backends: u32) -> Arc<ServiceSpec> {
    let ip = |net: u8, number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        SocketAddr::from(([net + high, middle, low, 1], 80))
    };
    let backend = |place| BackendSpec {
        address: ip(20, number * BACKENDS + place),
        weight: 1,
        zone: None,
        version: None,
        draining: false,
    };
    Arc::new(ServiceSpec {
        name: format!("shop/service-{number}").into(),
        protocol: Protocol::Tcp,
        frontends: vec![ip(10, number)],
        backends: (0..backends).map(backend).collect(),
        policy: PolicySpec::default(),
    })
}

/// Time this thread spent on a CPU, which a busy machine stretches less; exact to a few milliseconds.
fn on_cpu() -> Duration {
    let fields = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(fields.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "a measurement: run it alone, in release, with --ignored --nocapture"]
fn ten_thousand_services_of_ten_backends() {
    let capacity = Capacity {
        frontends: limits::MAX_FRONTENDS,
        services: limits::MAX_SERVICES,
        policies: limits::MAX_POLICIES,
        slots: limits::MAX_SLOTS,
        backends: limits::MAX_BACKENDS,
    };
    let mut desired = Desired::default();
    desired.apply(
        SourceKind::File,
        Change::Reset((0..SERVICES).map(|number| service(number, BACKENDS)).collect()),
    );
    let mut reconciler = Reconciler::new(FakeTables::new(capacity));
    let timed = |what: &str, work: &mut dyn FnMut()| -> Duration {
        let start = on_cpu();
        work();
        let took = on_cpu() - start;
        println!("{what}: {took:?}");
        took
    };
    let first = timed("first apply", &mut || assert_eq!(reconciler.apply(&desired).unwrap().pending, 0));
    let mut changes: Vec<Duration> = (0..200)
        .map(|round| {
            desired.apply(
                SourceKind::File,
                Change::Upsert(service(round * 47, if round % 2 == 0 { 9 } else { 8 })),
            );
            let start = Instant::now();
            let report = reconciler.apply(&desired).unwrap();
            let took = start.elapsed();
            assert!(report.written.services == 1 && report.failed.is_empty());
            took
        })
        .collect();
    changes.sort_unstable();
    println!("one change: median {:?}, 99 % {:?}", changes[100], changes[198]);
    timed("idle", &mut || assert_eq!(reconciler.idle().pending, 0));
    timed("repair", &mut || assert_eq!(reconciler.repair().repaired.total(), 0));
    let mut next = Reconciler::new(reconciler.into_tables());
    timed("adopt", &mut || assert_eq!(next.adopt().unwrap().unsound, 0));
    timed("first apply after a restart", &mut || {
        assert_eq!(next.apply(&desired).unwrap().written.total(), 0);
    });
    // Above what was measured in release (100 ms and 60 µs) by enough for a slower machine.
    assert!(first < Duration::from_secs(1) && changes[100] < Duration::from_millis(1));
}
