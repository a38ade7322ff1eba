//! For any history of desired states, with and without faults and crashes: no reader ever sees half a service, and
//! the maps end up as if they had been written once.

use proptest::prelude::*;

use super::reader::{Allowed, Pause, check_between_writes, check_slow_readers};
use super::*;

fn backend_spec() -> impl Strategy<Value = BackendSpec> {
    (0u8..6, prop::bool::weighted(0.3), 0u16..4, prop::bool::weighted(0.15), 0u8..3).prop_map(
        |(host, v6, weight, draining, version)| BackendSpec {
            address: if v6 {
                address(&format!("[fd01::{host}]:80"))
            } else {
                address(&format!("10.1.0.{host}:80"))
            },
            weight,
            zone: (host % 2 == 0).then(|| "west".into()),
            version: (version > 0).then(|| format!("v{version}").into()),
            draining,
        },
    )
}

fn policy_spec() -> impl Strategy<Value = PolicySpec> {
    let shares = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(0u32..3, 2)];
    (prop::sample::select(Algorithm::ALL), shares).prop_map(|(algorithm, shares)| PolicySpec {
        algorithm,
        split: (1u32..)
            .zip(shares)
            .map(|(version, share)| VersionShare { version: format!("v{version}").into(), share })
            .collect(),
        ..PolicySpec::default()
    })
}

/// Services of a small world, so that names, frontends and backends meet again in the next state.
fn state() -> impl Strategy<Value = Vec<ServiceSpec>> {
    let service =
        (prop::collection::vec(backend_spec(), 0..5), policy_spec(), prop::collection::vec(0u8..8, 1..4));
    prop::collection::btree_map(0u8..4, service, 0..4).prop_map(|services| {
        let mut taken = BTreeSet::new();
        let specs = services.into_iter().map(|(name, (mut backends, policy, frontends))| {
            backends.sort_by_key(|backend| backend.address);
            backends.dedup_by_key(|backend| backend.address);
            let frontends = frontends.into_iter().filter(|&place| taken.insert(place)).map(|place| {
                if place < 6 {
                    address(&format!("10.0.0.{place}:80"))
                } else {
                    address(&format!("[fd00::{place}]:80"))
                }
            });
            ServiceSpec {
                name: format!("s{name}").into(),
                protocol: Protocol::Tcp,
                frontends: frontends.collect(),
                backends,
                policy,
            }
        });
        specs.collect()
    })
}

fn pauses() -> impl Strategy<Value = Vec<Pause>> {
    prop::collection::vec((1usize..5, 0usize..1_000, 0usize..1_000), 50)
}

/// What the maps say when this state was written to empty ones. Table sizes of `maglev` depend on history; the
/// properties below compare everything else.
fn fresh_text(state: &[ServiceSpec]) -> String {
    without_sizes(&text(&holding(state)))
}

fn without_sizes(text: &str) -> String {
    let line = |line: &str| match (line.find('%'), line.contains(" slot")) {
        // Shares inside a table are right to a slot, and so depend on its size.
        (Some(at), false) => line[at..].to_owned(),
        (Some(_), true) => line[..line.rfind(':').unwrap_or(0)].to_owned(),
        (None, _) => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// What is used of each map but `SLOTS`, whose use depends on the table sizes of `maglev`.
fn used_but_slots(reconciler: &Reconciler<FakeTables>) -> [u32; 4] {
    let [frontends, services, policies, _, backends] = used(reconciler);
    [frontends, services, policies, backends]
}

/// Until nothing is pending, at most as often as any sane fault rate needs.
fn settle(reconciler: &mut Reconciler<FakeTables>) {
    for _ in 0..200 {
        let report = reconciler.idle();
        if report.pending == 0 && report.failed.is_empty() {
            return;
        }
    }
    panic!("still pending after 200 retries");
}

fn slots_named(reconciler: &Reconciler<FakeTables>) -> u32 {
    let image = reconciler.tables().image();
    let records = image.services.iter().filter_map(|word| word.policy());
    let subsets = records.flat_map(|index| image.policies[index as usize].subsets);
    subsets.map(|subset| subset.slot_count).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_reader_finds_the_old_or_the_new_service_between_any_two_writes(old in state(), new in state()) {
        let mut reconciler = holding(&old);
        let start = reconciler.tables().image().clone();
        reconciler.apply(&desired(&new)).unwrap();
        reconciler.idle();
        let log = reconciler.tables_mut().take_log();
        let allowed = Allowed::by(&[&old, &new]);
        check_between_writes(&start, &log, &allowed).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_reader_that_pauses_finds_what_it_was_led_to(
        old in state(), states in prop::collection::vec(state(), 1..4), pauses in pauses()
    ) {
        let mut reconciler = holding(&old);
        let start = reconciler.tables().image().clone();
        for state in &states {
            reconciler.apply(&desired(state)).unwrap();
        }
        reconciler.idle();
        let log = reconciler.tables_mut().take_log();
        let all: Vec<&[ServiceSpec]> = std::iter::once(&old).chain(&states).map(Vec::as_slice).collect();
        check_slow_readers(&start, &log, &pauses, &Allowed::by(&all)).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_history_ends_as_if_it_had_been_written_once(states in prop::collection::vec(state(), 1..5)) {
        let mut reconciler = fresh();
        for state in &states {
            let report = reconciler.apply(&desired(state)).unwrap();
            prop_assert!(report.failed.is_empty() && report.refused.is_empty(), "{report:?}");
        }
        reconciler.idle();
        let last = states.last().unwrap();
        prop_assert_eq!(without_sizes(&text(&reconciler)), fresh_text(last));
        prop_assert_eq!(used_but_slots(&reconciler), used_but_slots(&holding(last)));
        prop_assert_eq!(used(&reconciler)[3], slots_named(&reconciler), "no slot is lost");
    }

    #[test]
    fn faults_delay_and_never_mislead(
        states in prop::collection::vec(state(), 1..4), percent in 1u64..40, seed: u64, pauses in pauses()
    ) {
        let mut reconciler = fresh();
        let start = reconciler.tables().image().clone();
        reconciler.tables_mut().set_faults(Faults::Percent { percent, seed });
        for state in &states {
            reconciler.apply(&desired(state)).unwrap();
        }
        settle(&mut reconciler);
        let log = reconciler.tables_mut().take_log();
        let all: Vec<&[ServiceSpec]> = states.iter().map(Vec::as_slice).collect();
        let allowed = Allowed::by(&all);
        check_between_writes(&start, &log, &allowed).map_err(TestCaseError::fail)?;
        check_slow_readers(&start, &log, &pauses, &allowed).map_err(TestCaseError::fail)?;
        let last = states.last().unwrap();
        prop_assert_eq!(without_sizes(&text(&reconciler)), fresh_text(last));
        prop_assert_eq!(used_but_slots(&reconciler), used_but_slots(&holding(last)));
    }

    #[test]
    fn an_agent_that_dies_after_any_write_is_followed_by_one_that_finishes(
        old in state(), new in state(), third in state(), after in 0u64..60
    ) {
        let mut reconciler = holding(&old);
        let start = reconciler.tables().image().clone();
        reconciler.tables_mut().set_faults(Faults::Dead { after });
        reconciler.apply(&desired(&new)).unwrap();
        let mut next = restarted(reconciler);
        next.apply(&desired(&new)).unwrap();
        next.idle();
        let log = next.tables_mut().take_log();
        let allowed = Allowed::by(&[&old, &new]);
        check_between_writes(&start, &log, &allowed).map_err(TestCaseError::fail)?;
        prop_assert_eq!(without_sizes(&text(&next)), fresh_text(&new));
        prop_assert_eq!(used_but_slots(&next), used_but_slots(&holding(&new)));
        prop_assert_eq!(used(&next)[3], slots_named(&next), "no slot is lost");
        next.apply(&desired(&third)).unwrap();
        next.idle();
        prop_assert_eq!(without_sizes(&text(&next)), fresh_text(&third));
    }

    #[test]
    fn whatever_others_write_is_repaired(
        state in state(), backends in prop::collection::vec((1usize..64, 0u16..4), 0..6),
        words in prop::collection::vec((1usize..16, any::<u8>()), 0..6),
        slots in prop::collection::vec((0usize..64, any::<u32>()), 0..6),
        frontends in prop::collection::vec((0u8..12, 0u32..20), 0..6)
    ) {
        let mut reconciler = holding(&state);
        let expected = without_sizes(&text(&reconciler));
        let image = reconciler.tables_mut().image_mut();
        for (id, status) in backends {
            image.backends[id].status = status;
            image.backends[id].service = u32::from(status);
        }
        for (id, word) in words {
            image.services[id] = ServiceWord(u64::from(word));
        }
        for (place, backend) in slots {
            image.slots[place].backend = backend;
        }
        for (place, id) in frontends {
            image.frontends.insert(FrontendKey::new(address(&format!("10.0.0.{place}:80")).into(), 6), id);
        }
        reconciler.repair();
        prop_assert_eq!(without_sizes(&text(&reconciler)), expected);
        prop_assert_eq!(reconciler.repair().repaired, Counts::default());
    }
}
