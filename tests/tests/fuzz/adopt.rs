//! Maps as an agent finds them at its start, which anybody with CAP_BPF may have written: they are taken over without
//! a panic, and afterwards hold what they should and nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agent_ebpf::abi::{Address, Backend, BackendStatus, Endpoint, FrontendKey, Policy, ServiceWord, Slot};
use segue_agent::config;
use segue_agent::desired::{Change, Desired};
use segue_agent::kernel::Capacity;
use segue_agent::kernel::fake::{FakeTables, Image};
use segue_agent::reconcile::{Reconciler, dump};

use crate::fuzz;

/// Small, so that every entry is hit now and then.
pub(crate) const CAPACITY: Capacity =
    Capacity { frontends: 64, services: 16, policies: 32, slots: 1_024, backends: 48 };

/// Frontends in an input; the others are free.
const FRONTENDS: usize = 12;

/// Ticks and checks after which nothing should be left to do.
const ROUNDS: usize = 50;

/// Backends and policies in an input.
const IN_USE: usize = 12;

const CONFIG: &str = include_str!("../../seeds/config_every_field.yaml");

/// Plain data whose every bit pattern is a value.
trait Plain: Copy {}
impl Plain for ServiceWord {}
impl Plain for Policy {}
impl Plain for Backend {}
impl Plain for Slot {}
impl Plain for [u32; 6] {}

fn write<T: Plain>(bytes: &mut Vec<u8>, values: &[T]) {
    // SAFETY: plain values without hidden padding, which the size assertions of their layouts say.
    bytes.extend_from_slice(unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
    });
}

/// Takes values off the front of `bytes`; what is missing stays as it is.
fn read<T: Plain>(bytes: &mut &[u8], values: &mut [T]) {
    for value in values {
        let Some((head, tail)) = bytes.split_at_checked(size_of::<T>()) else { return };
        // SAFETY: every bit pattern is a value of these types, and the slice has the value's size.
        *value = unsafe { head.as_ptr().cast::<T>().read_unaligned() };
        *bytes = tail;
    }
}

fn bytes_of(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, &image.services);
    let mut frontends: Vec<[u32; 6]> = image
        .frontends
        .iter()
        .map(|(key, &service)| {
            let [a, b, c, d] = key.address.words_be;
            [a, b, c, d, u32::from(key.port_be) | u32::from(key.protocol) << 16, service]
        })
        .collect();
    frontends.resize(FRONTENDS, [0; 6]);
    write(&mut bytes, &frontends);
    // What is in use lies in front; the rest is found by inputs that grow.
    write(&mut bytes, &image.backends[..IN_USE]);
    write(&mut bytes, &image.policies[..IN_USE]);
    write(&mut bytes, &image.slots[..16]);
    bytes
}

fn image_of(mut bytes: &[u8], like: &Image) -> Image {
    let mut image = like.clone();
    read(&mut bytes, &mut image.services);
    let mut frontends = [[0; 6]; FRONTENDS];
    read(&mut bytes, &mut frontends);
    image.frontends = frontends
        .iter()
        .filter(|words| **words != [0; 6])
        .map(|&[a, b, c, d, port_and_protocol, service]| {
            let [low, high, protocol, _] = port_and_protocol.to_le_bytes();
            let endpoint = Endpoint::new(Address { words_be: [a, b, c, d] }, u16::from_le_bytes([low, high]));
            (FrontendKey::new(endpoint, protocol), service)
        })
        .collect();
    read(&mut bytes, &mut image.backends);
    read(&mut bytes, &mut image.policies);
    read(&mut bytes, &mut image.slots);
    image
}

fn desired() -> Desired {
    let parsed = config::parse(CONFIG.as_bytes(), Path::new("segue.yaml")).expect("a good file");
    let mut desired = Desired::default();
    desired.apply(Change::Reset(parsed.services));
    desired
}

/// What a predecessor that did its work leaves.
fn predecessor() -> Image {
    let mut reconciler = Reconciler::new(FakeTables::new(CAPACITY));
    settle(&mut reconciler, &desired());
    reconciler.into_tables().image().clone()
}

/// Applies, and goes on until nothing is left to do.
fn settle(reconciler: &mut Reconciler<FakeTables>, desired: &Desired) {
    let report = reconciler.apply(desired).unwrap_or_else(|error| panic!("it fits, but: {error}"));
    assert!(report.failed.is_empty(), "{:?}", report.failed.first().map(|failure| &failure.error));
    for _ in 0..ROUNDS {
        let idle = reconciler.idle();
        let repair = reconciler.repair();
        assert!(idle.failed.is_empty() && repair.failed.is_empty(), "memory does not fail");
        if idle.pending == 0 && repair.pending == 0 && repair.repaired.total() == 0 {
            return;
        }
    }
    panic!("something is left to do after {ROUNDS} rounds");
}

/// The backends a program finds behind each frontend, on its way through the maps.
fn reachable(image: &Image) -> Vec<(SocketAddr, u8, BTreeSet<SocketAddr>)> {
    let behind = |&service: &u32| {
        let policy = image.services[service as usize].policy().expect("a service with a frontend");
        let policy = &image.policies[policy as usize];
        assert_eq!(policy.service, service);
        let subsets = &policy.subsets[..usize::from(policy.subset_count)];
        let windows = subsets
            .iter()
            .map(|subset| &image.slots[subset.first_slot as usize..][..subset.slot_count as usize]);
        let mut found = BTreeSet::new();
        for slot in windows.flatten() {
            for id in [slot.backend, slot.alias] {
                let backend = &image.backends[id as usize];
                assert_eq!(backend.service, service, "a slot with a backend of another service");
                found.insert(SocketAddr::from(backend.endpoint));
            }
        }
        found
    };
    image
        .frontends
        .iter()
        .map(|(key, service)| (SocketAddr::from(key.endpoint()), key.protocol, behind(service)))
        .collect()
}

fn check(bytes: &[u8], good: &Image) {
    let mut tables = FakeTables::new(CAPACITY);
    *tables.image_mut() = image_of(bytes, good);
    let mut reconciler = Reconciler::new(tables);
    dump(reconciler.tables(), &reconciler.directory()).expect("the frontends can be listed");
    reconciler.adopt().expect("the frontends can be listed");
    settle(&mut reconciler, &desired());
    assert_eq!(reachable(reconciler.tables().image()), reachable(good));
    settle(&mut reconciler, &Desired::default());
    let used: u32 = reconciler.fill().iter().map(|fill| fill.used).sum();
    assert_eq!(used, 0, "{:?}", reconciler.fill());
    let image = reconciler.tables().image();
    assert!(image.frontends.is_empty(), "{:?}", image.frontends);
    assert!(image.services.iter().all(|word| *word == ServiceWord::NONE), "{:?}", image.services);
    let vacant = |backend: &Backend| backend.status == BackendStatus::Vacant as u16;
    assert!(image.backends.iter().all(vacant), "{:?}", image.backends);
}

#[test]
fn any_maps_are_taken_over_and_mended() {
    let good = Arc::new(predecessor());
    assert!(
        good.backends[IN_USE..].iter().all(|backend| *backend == Backend::default()),
        "all are in the input"
    );
    let seeds = [bytes_of(&good)];
    fuzz(&seeds, &["\0\0\0\0", "\u{1}\0\0\0"], move |bytes| check(bytes, &good));
}
