//! Rollouts and their register from the first look to the last. Knows no file.

use agent_ebpf::abi::{EdgeKey, Protocol};
use proptest::prelude::*;

use super::*;
use crate::desired::{self, GuardSpec, PolicySpec, ServiceSpec, SourceKind};

fn at(ms: u64) -> Moment {
    let wall = Timestamp::from_millisecond(i64::try_from(ms).expect("a small number")).expect("a time");
    Moment { monotonic: Duration::from_millis(ms), wall }
}

fn split(shares: &[(&str, u32)]) -> Vec<VersionShare> {
    shares.iter().map(|&(version, share)| VersionShare { version: version.into(), share }).collect()
}

fn canary(steps: &[u8]) -> Arc<CanarySpec> {
    Arc::new(CanarySpec {
        version: "v2".into(),
        baseline: "v1".into(),
        guard: GuardSpec { window: Duration::from_secs(1), ..GuardSpec::default() },
        steps: steps.to_vec(),
        every: Duration::from_secs(2),
    })
}

fn spec(shares: &[(&str, u32)], canary: &Arc<CanarySpec>) -> Arc<ServiceSpec> {
    let policy =
        PolicySpec { split: split(shares), canary: Some(Arc::clone(canary)), ..PolicySpec::default() };
    let (name, protocol) = ("shop/payment".into(), Protocol::Tcp);
    Arc::new(ServiceSpec { name, protocol, frontends: Vec::new(), backends: Vec::new(), policy })
}

/// Two versions that get connections, a hundred of each in every look, of which so many fail.
struct Traffic {
    total: [Counts; 2],
}

impl Traffic {
    fn new() -> Self {
        Self { total: [Counts::default(); 2] }
    }

    fn look(&mut self, canary_failed: u64, baseline_failed: u64) -> Vec<Reading> {
        let failed = [canary_failed, baseline_failed];
        for (total, failed) in self.total.iter_mut().zip(failed) {
            total.failed += failed;
            total.opened += 100 - failed;
        }
        let keys = ["v2", "v1"].map(|version| EdgeKey { cgroup: 9, service: 7, version: name_id(version) });
        keys.into_iter().zip(self.total).collect()
    }
}

fn rollout(steps: &[u8]) -> Rollout {
    Rollout::new(&split(&[("v1", 95), ("v2", 5)]), &canary(steps), at(0))
}

fn parts(rollout: &Rollout) -> Vec<u32> {
    rollout.shares().iter().map(|share| share.share).collect()
}

#[test]
fn a_good_canary_goes_through_its_steps_and_is_promoted() {
    let (mut rollout, mut traffic) = (rollout(&[5, 50, 100]), Traffic::new());
    let mut story = Vec::new();
    for ms in (0..10_000).step_by(500) {
        if let Some(transition) = rollout.observe(at(ms), &traffic.look(0, 0)) {
            story.push((ms, transition, parts(&rollout)));
        }
    }
    let expected =
        [(2_000, Transition::SteppedUp, vec![50, 50]), (4_000, Transition::Promoted, vec![0, 100])];
    assert_eq!(story, expected);
    assert_eq!(rollout.state().phase, Phase::Promoted);
}

#[test]
fn a_bad_canary_is_rolled_back_with_figures() {
    let (mut rollout, mut traffic) = (rollout(&[5, 100]), Traffic::new());
    assert_eq!(parts(&rollout), [95, 5]);
    assert_eq!(rollout.observe(at(0), &traffic.look(90, 0)), None, "what was before says nothing");
    let transition = rollout.observe(at(500), &traffic.look(90, 1));
    assert_eq!(transition, Some(Transition::RolledBack(Cause::ConnectFailureRatio)));
    assert_eq!((parts(&rollout), rollout.weight_permille()), (vec![100, 0], 0));
    let told = rollout.to_string();
    assert!(told.starts_with("v2 was rolled back: connect_failure_ratio: 90 of 100 failed"), "{told}");
    assert_eq!(rollout.observe(at(9_000), &traffic.look(0, 0)), None, "it stays out");
}

#[test]
fn without_connections_a_step_waits() {
    let (mut rollout, mut traffic) = (rollout(&[5, 50]), Traffic::new());
    let readings = traffic.look(0, 0);
    for ms in (0..20_000).step_by(500) {
        assert_eq!(rollout.observe(at(ms), &readings), None);
    }
    assert_eq!(rollout.verdict(), Verdict::TooFew);
    assert_eq!(rollout.observe(at(20_000), &traffic.look(0, 0)), Some(Transition::SteppedUp));
    assert_eq!(rollout.next_step_in(Duration::from_secs(20)), None, "there is no further step");
}

#[test]
fn without_steps_the_split_stays_and_is_guarded() {
    let mut rollout = rollout(&[]);
    let mut traffic = Traffic::new();
    for ms in (0..20_000).step_by(500) {
        assert_eq!(rollout.observe(at(ms), &traffic.look(1, 1)), None);
    }
    assert_eq!((parts(&rollout), rollout.verdict()), (vec![95, 5], Verdict::Fine));
    assert!(rollout.observe(at(20_500), &traffic.look(100, 1)).is_some());
    assert_eq!(parts(&rollout), [100, 0]);
}

#[test]
fn the_others_share_the_rest_as_they_were_written() {
    let three = split(&[("v0", 30), ("v1", 60), ("v2", 5)]);
    let shares = |percent| -> Vec<u32> {
        shares(&three, &"v2".into(), percent).iter().map(|share| share.share).collect()
    };
    assert_eq!(shares(0), [100, 200, 0]);
    assert_eq!(shares(25), [75, 150, 75]);
    assert_eq!(shares(100), [0, 0, 300]);
}

#[test]
fn a_paused_canary_keeps_its_share_and_is_still_guarded() {
    let (mut rollout, mut traffic) = (rollout(&[5, 100]), Traffic::new());
    assert_eq!(rollout.order(Order::Pause, at(0)), Ok(Some(Transition::Paused)));
    for ms in (0..9_000).step_by(500) {
        assert_eq!(rollout.observe(at(ms), &traffic.look(0, 0)), None);
    }
    assert!(matches!(rollout.observe(at(9_000), &traffic.look(99, 0)), Some(Transition::RolledBack(_))));
    assert_eq!(rollout.order(Order::Pause, at(9_500)), Err(WrongPhase(Phase::RolledBack)));
}

#[test]
fn a_canary_that_is_resumed_after_a_rollback_begins_anew_without_the_old_evidence() {
    let (mut rollout, mut traffic) = (rollout(&[5, 100]), Traffic::new());
    rollout.observe(at(0), &traffic.look(0, 0));
    rollout.observe(at(100), &traffic.look(99, 0));
    assert_eq!(rollout.order(Order::Resume, at(200)), Ok(Some(Transition::Resumed)));
    assert_eq!(rollout.observe(at(300), &traffic.look(0, 0)), None);
    assert_eq!(rollout.observe(at(400), &traffic.look(0, 0)), None);
    assert_eq!(
        (rollout.state().phase, rollout.state().step, parts(&rollout)),
        (Phase::Progressing, 0, vec![95, 5])
    );
}

#[test]
fn an_operator_promotes_and_rolls_back_in_every_phase() {
    let mut rollout = rollout(&[5, 100]);
    assert_eq!(rollout.order(Order::Promote, at(0)), Ok(Some(Transition::Promoted)));
    assert_eq!(rollout.order(Order::Promote, at(1)), Ok(None));
    assert_eq!(rollout.order(Order::Resume, at(1)), Err(WrongPhase(Phase::Promoted)));
    assert_eq!(rollout.order(Order::Rollback, at(2)), Ok(Some(Transition::RolledBack(Cause::Operator))));
    assert_eq!(rollout.to_string(), "v2 was rolled back: an operator's order");
    assert_eq!(rollout.order(Order::Promote, at(3)), Ok(Some(Transition::Promoted)));
    assert_eq!(rollout.state().reason, "");
}

/// A register in which the canary of `shop/payment` was rolled back.
fn rolled_back() -> (Register, Arc<ServiceSpec>) {
    let asked = spec(&[("v1", 95), ("v2", 5)], &canary(&[]));
    let mut register = Register::default();
    register.admit(SourceKind::File, desired::Change::Upsert(Arc::clone(&asked)), at(0));
    assert!(register.order("shop/payment", Order::Rollback, at(1)).expect("a canary").is_ok());
    (register, asked)
}

fn shares_of(change: &desired::Change) -> Vec<u32> {
    let spec = match change {
        desired::Change::Upsert(spec) => spec,
        desired::Change::Reset(specs) => &specs[0],
        desired::Change::Remove(name) => panic!("{name} was removed"),
    };
    spec.policy.split.iter().map(|share| share.share).collect()
}

#[test]
fn a_rollback_changes_the_service_and_is_told_once() {
    let (mut register, asked) = rolled_back();
    let changes = register.take_changes();
    assert_eq!(changes.len(), 1);
    assert_eq!(shares_of(&desired::Change::Upsert(Arc::clone(&changes[0].spec))), [100, 0]);
    assert_eq!(changes[0].spec.frontends, asked.frontends);
    assert!(register.take_changes().is_empty() && register.watched().is_empty());
    let (_, tallies) = register.rollout("shop/payment").expect("a rollout");
    assert_eq!(tallies.rolled_back, [0, 0, 0, 0, 1]);
}

#[test]
fn a_rollback_holds_through_other_edits_and_ends_with_one_of_the_split_or_the_canary() {
    let (mut register, asked) = rolled_back();
    let mut other = ServiceSpec::clone(&asked);
    other.policy.refuse_errno = 1;
    assert_eq!(
        shares_of(&register.admit(SourceKind::File, desired::Change::Reset(vec![Arc::new(other)]), at(2))),
        [100, 0]
    );
    for edited in
        [spec(&[("v1", 90), ("v2", 10)], &canary(&[])), spec(&[("v1", 95), ("v2", 5)], &canary(&[7]))]
    {
        let (mut register, _) = rolled_back();
        let change = register.admit(SourceKind::File, desired::Change::Upsert(Arc::clone(&edited)), at(2));
        assert_ne!(shares_of(&change), [100, 0]);
        assert_eq!(register.watched().len(), 1);
    }
}

#[test]
fn a_new_agent_takes_over_what_the_last_one_wrote_down() {
    let (register, asked) = rolled_back();
    let text = serde_json::to_string(&register.saved()).expect("JSON");
    let restore = || Register::restored(serde_json::from_str(&text).expect("its own text"));

    let mut same = restore();
    assert_eq!(same.saved(), register.saved(), "kept until the services are known");
    assert_eq!(
        shares_of(&same.admit(SourceKind::File, desired::Change::Reset(vec![Arc::clone(&asked)]), at(9))),
        [100, 0]
    );
    assert_eq!(same.saved(), register.saved());

    let mut edited = restore();
    let next = spec(&[("v1", 90), ("v2", 10)], &canary(&[]));
    assert_eq!(
        shares_of(&edited.admit(SourceKind::File, desired::Change::Reset(vec![next]), at(9))),
        [90, 10]
    );

    let mut gone = restore();
    gone.admit(SourceKind::File, desired::Change::Reset(Vec::new()), at(9));
    gone.forget_left();
    assert!(gone.saved().is_empty());
}

#[test]
fn a_service_without_a_canary_stays_the_very_same() {
    let mut plain = ServiceSpec::clone(&spec(&[("v1", 1)], &canary(&[])));
    plain.policy.canary = None;
    let plain = Arc::new(plain);
    let mut register = Register::default();
    let desired::Change::Upsert(same) =
        register.admit(SourceKind::File, desired::Change::Upsert(Arc::clone(&plain)), at(0))
    else {
        panic!("another change");
    };
    assert!(Arc::ptr_eq(&same, &plain));
    assert!(register.order("shop/payment", Order::Pause, at(0)).is_none());
}

proptest! {
    #[test]
    fn shares_add_up_and_the_canary_has_its_part(
        own in 0_u32..=1_000_000, others in prop::collection::vec(1_u32..=1_000_000, 1..4), percent in 0_u8..=100,
    ) {
        let mut written = split(&[("v2", own)]);
        written.extend(others.iter().enumerate().map(|(at, &share)| VersionShare {
            version: format!("other{at}").into(), share
        }));
        let got = shares(&written, &"v2".into(), percent);
        let total: u64 = got.iter().map(|share| u64::from(share.share)).sum();
        prop_assert!(total > 0);
        prop_assert_eq!(u64::from(got[0].share) * 100, total * u64::from(percent));
        for pair in got[1..].iter().zip(&others).collect::<Vec<_>>().windows(2) {
            let [(one, as_written), (other, other_as_written)] = pair else { unreachable!() };
            prop_assert_eq!(
                u64::from(one.share) * u64::from(**other_as_written),
                u64::from(other.share) * u64::from(**as_written)
            );
        }
    }

    #[test]
    fn a_canary_never_steps_up_early_nor_back(
        looks in prop::collection::vec((1_u64..3_000, 0_u64..10), 1..60)
    ) {
        let (mut rollout, mut traffic) = (rollout(&[5, 20, 60, 100]), Traffic::new());
        let (mut now, mut last_step, mut share) = (0, 0, rollout.weight_permille());
        for (passed, failed) in looks {
            now += passed;
            match rollout.observe(at(now), &traffic.look(failed, 0)) {
                Some(Transition::SteppedUp | Transition::Promoted) => {
                    prop_assert!(now - last_step >= 2_000);
                    prop_assert!(rollout.weight_permille() > share);
                    (last_step, share) = (now, rollout.weight_permille());
                }
                Some(_) => prop_assert_eq!(rollout.weight_permille(), 0),
                None => {}
            }
        }
    }
}
