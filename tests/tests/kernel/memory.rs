//! The agent's own view of the maps: what it takes in memory, and that giving that back loses nothing.

use std::net::{Ipv4Addr, SocketAddr};

use agent_ebpf::abi::{Backend, BackendStatus, FrontendKey, Protocol};
use segue_agent::kernel::{DataPlane, Tables};
use segue_tests::world::World;

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_was_written_is_there_after_its_memory_was_given_back() {
    let world = World::new();
    let (cgroup, bpffs) = (world.managed_cgroup().to_owned(), world.bpffs());
    world.namespace().run(|| {
        let data_plane = DataPlane::load(Some(&cgroup), &bpffs, true, &[]).expect("a data plane");
        let mut tables = data_plane.tables().expect("its maps");
        let capacity = tables.capacity().backends;
        let record =
            |id| Backend { generation: id, status: BackendStatus::Ready as u16, ..Backend::default() };
        // The neighbours of every border between parts that are mapped by themselves, and the last entry.
        let ids: Vec<u32> =
            (1..capacity).filter(|id| matches!(id % 8_192, 0 | 8_191) || id + 1 == capacity).collect();
        for &id in &ids {
            tables.set_backend(id, &record(id)).expect("a write to memory");
        }
        let before = mapped_bytes();
        tables.rest();
        let after = mapped_bytes();
        assert!(before > 4 << 20 && after < 1 << 20, "{before} bytes mapped before, {after} after");
        for &id in &ids {
            assert_eq!(tables.backend(id), record(id));
        }
        assert_eq!(tables.backend(2), Backend::default());
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn all_frontends_are_listed_however_many_there_are() {
    let world = World::new();
    let (cgroup, bpffs) = (world.managed_cgroup().to_owned(), world.bpffs());
    world.namespace().run(|| {
        let data_plane = DataPlane::load(Some(&cgroup), &bpffs, true, &[]).expect("a data plane");
        let mut tables = data_plane.tables().expect("its maps");
        assert_eq!(tables.frontends().expect("an empty list"), []);
        let mut expected = Vec::new();
        // None, a few, and more than one system call gives.
        for number in 0..10_000_u32 {
            let address = SocketAddr::from((Ipv4Addr::from_bits(0xc612_0000 + number), 80));
            let key = FrontendKey::new(address.into(), Protocol::Tcp as u8);
            tables.insert_frontend(&key, number + 1).expect("room for it");
            expected.push((key, number + 1));
            if matches!(number, 0 | 2 | 9_999) {
                let mut listed = tables.frontends().expect("a list");
                listed.sort_unstable();
                expected.sort_unstable();
                assert_eq!(listed, expected);
            }
        }
    });
}

/// Bytes of eBPF maps in this process's address space.
fn mapped_bytes() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the mappings of this process");
    let of_maps = maps.lines().filter(|line| line.ends_with("anon_inode:bpf-map"));
    let bounds = of_maps.filter_map(|line| line.split(' ').next()?.split_once('-'));
    let number = |hex| u64::from_str_radix(hex, 16).expect("an address in hexadecimal");
    bounds.map(|(start, end)| number(end) - number(start)).sum()
}
