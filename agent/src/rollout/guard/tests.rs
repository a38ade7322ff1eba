//! Judgements by figures, by properties, and how often they are wrong. Knows no rollout.

use proptest::prelude::*;

use super::*;

fn guard() -> GuardSpec {
    GuardSpec { connect_p99_percent: Some(150), ..GuardSpec::default() }
}

fn connects(failed: u64, of: u64) -> Counts {
    Counts { failed, opened: of - failed, ..Counts::default() }
}

fn handshakes(counts: &[(usize, u64)]) -> Counts {
    let mut connect = Histogram::default();
    counts.iter().for_each(|(bucket, count)| connect.buckets[*bucket] = *count);
    Counts { opened: counts.iter().map(|(_, count)| count).sum(), connect, ..Counts::default() }
}

fn cause(judgement: Judgement) -> Option<Criterion> {
    match judgement {
        Judgement::Worse(finding) => Some(finding.criterion),
        Judgement::TooFew | Judgement::Fine => None,
    }
}

#[test]
fn a_canary_that_refuses_everything_is_worse_at_the_minimum_of_samples() {
    let baseline = connects(0, 50);
    assert_eq!(judge(&guard(), &connects(49, 49), &baseline), Judgement::TooFew);
    let judgement = judge(&guard(), &connects(50, 50), &baseline);
    assert_eq!(cause(judgement), Some(Criterion::ConnectFailureRatio));
}

#[test]
fn a_canary_of_which_a_fifth_fails_is_worse_at_the_minimum_of_samples() {
    let judgement = judge(&guard(), &connects(10, 50), &connects(0, 950));
    assert_eq!(cause(judgement), Some(Criterion::ConnectFailureRatio));
}

#[test]
fn a_canary_that_fails_as_its_baseline_does_is_fine() {
    for percent in [0, 1, 10, 50, 100] {
        let judgement = judge(&guard(), &connects(percent, 100), &connects(percent * 10, 1_000));
        assert_eq!(judgement, Judgement::Fine, "{percent} % of both fail");
    }
}

#[test]
fn what_is_allowed_is_not_worse_however_many_connections_there_are() {
    let million = 1_000_000;
    let baseline = connects(10_000, million);
    assert_eq!(judge(&guard(), &connects(29_000, million), &baseline), Judgement::Fine);
    let judgement = judge(&guard(), &connects(35_000, million), &baseline);
    assert_eq!(cause(judgement), Some(Criterion::ConnectFailureRatio));
}

#[test]
fn resets_count_among_ended_connections_only() {
    let ended = |reset, ended| Counts { reset, ended, ..connects(0, 1_000) };
    assert_eq!(judge(&guard(), &ended(49, 49), &ended(0, 900)), Judgement::Fine, "too few have ended");
    assert_eq!(cause(judge(&guard(), &ended(50, 50), &ended(0, 900))), Some(Criterion::ResetRatio));
}

#[test]
fn answers_are_judged_where_there_are_enough_however_few_the_connections() {
    let answers = |errors, answered| Counts { answered, errors, ..connects(0, 3) };
    let guard = guard();
    assert_eq!(judge(&guard, &answers(49, 49), &answers(0, 900)), Judgement::TooFew);
    assert_eq!(cause(judge(&guard, &answers(50, 50), &answers(0, 900))), Some(Criterion::RequestErrorRatio));
    assert_eq!(judge(&guard, &answers(0, 50), &answers(0, 900)), Judgement::Fine);
    assert_eq!(judge(&guard, &answers(50, 50), &answers(900, 900)), Judgement::Fine, "both are ill");
}

#[test]
fn slow_handshakes_are_those_in_buckets_beyond_a_multiple_of_the_baselines() {
    // 16 µs × 2^9 is 8 ms: the baseline's handshakes take 4 to 8 ms, and slow is from 12 ms.
    let baseline = handshakes(&[(9, 1_000)]);
    assert_eq!(
        judge(&guard(), &handshakes(&[(10, 100)]), &baseline),
        Judgement::Fine,
        "8 to 16 ms may be less"
    );
    let judgement = judge(&guard(), &handshakes(&[(11, 100)]), &baseline);
    assert_eq!(cause(judgement), Some(Criterion::ConnectP99));
    let unasked = GuardSpec { connect_p99_percent: None, ..guard() };
    assert_eq!(judge(&unasked, &handshakes(&[(11, 100)]), &baseline), Judgement::Fine);
}

#[test]
fn handshakes_below_a_millisecond_are_never_slow() {
    let baseline = handshakes(&[(0, 1_000)]);
    assert_eq!(judge(&guard(), &handshakes(&[(6, 100)]), &baseline), Judgement::Fine);
    let judgement = judge(&guard(), &handshakes(&[(7, 100)]), &baseline);
    assert_eq!(cause(judgement), Some(Criterion::ConnectP99));
}

#[test]
fn a_finding_tells_its_figures() {
    let Judgement::Worse(finding) = judge(&guard(), &connects(41, 52), &connects(3, 1_004)) else {
        panic!("a canary of which four fifths fail is worse");
    };
    let expected =
        "41 of 52 failed to connect (78.8 %), 3 of 1004 of the baseline (0.2 %); 2 % more are allowed";
    assert_eq!(finding.to_string(), expected);
}

prop_compose! {
    fn any_counts()(
        of in 0_u64..3_000,
        parts in [0.0_f64..1.0, 0.0..1.0, 0.0..1.0],
        buckets in prop::collection::vec(0_u64..200, HISTOGRAM_BUCKETS + 1),
    ) -> Counts {
        #[expect(
            clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a part of a small number"
        )]
        let part = |part: f64, of: u64| (part * of as f64) as u64;
        let failed = part(parts[0], of);
        let ended = part(parts[1], of - failed);
        let mut connect = Histogram::default();
        connect.buckets.copy_from_slice(&buckets);
        Counts { opened: of - failed, failed, ended, reset: part(parts[2], ended), connect, ..Counts::default() }
    }
}

proptest! {
    #[test]
    fn nothing_is_worse_below_the_minimum_of_samples(canary in any_counts(), baseline in any_counts()) {
        let guard = GuardSpec { minimum_samples: 100_000, ..guard() };
        prop_assert_eq!(judge(&guard, &canary, &baseline), Judgement::TooFew);
    }

    #[test]
    fn what_is_worse_has_its_minimum_and_a_larger_part(canary in any_counts(), baseline in any_counts()) {
        if let Judgement::Worse(finding) = judge(&guard(), &canary, &baseline) {
            prop_assert!(finding.canary.of >= 50 && finding.baseline.of >= 50);
            prop_assert!(finding.canary.permille() > finding.baseline.permille());
        }
    }

    #[test]
    fn one_is_never_worse_than_itself(counts in any_counts()) {
        prop_assert_eq!(cause(judge(&guard(), &counts, &counts)), None);
    }

    #[test]
    fn more_failures_never_help_and_more_of_the_baselines_never_hurt(
        of in 50_u64..2_000, others in 50_u64..2_000, parts in [0.0_f64..1.0, 0.0..1.0], more in 1_u64..50,
    ) {
        #[expect(
            clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a part of a small number"
        )]
        let part = |part: f64, of: u64| (part * of as f64) as u64;
        let (bad, bad_others) = (part(parts[0], of), part(parts[1], others));
        let is_worse = |bad: u64, bad_others: u64| {
            cause(judge(&guard(), &connects(bad.min(of), of), &connects(bad_others.min(others), others))).is_some()
        };
        if is_worse(bad, bad_others) {
            prop_assert!(is_worse(bad + more, bad_others));
        } else {
            prop_assert!(!is_worse(bad, bad_others + more));
        }
    }
}

/// Draws that are the same in every run.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        agent_ebpf::decide::balance::mix(self.0)
    }

    /// How many of so many happen that have a chance of so many in 10 000.
    fn of(&mut self, count: u64, chance: u64) -> u64 {
        (0..count).filter(|_| self.next() % 10_000 < chance).count() as u64
    }
}

/// Rollouts of an hour, looked at once a second through a window of 30 s, of which the guard rolled a canary back:
/// `canary` and `baseline` fail with these chances in 10 000, at two and twenty connections a second.
fn rolled_back(rollouts: u64, canary: u64, baseline: u64) -> u64 {
    const SECONDS: usize = 3_600;
    const WINDOW: usize = 30;
    let sum = |window: &[u64]| window.iter().sum::<u64>();
    (0..rollouts)
        .filter(|seed| {
            let mut draws = Draws(seed << 32);
            let failed: Vec<(u64, u64)> =
                (0..SECONDS).map(|_| (draws.of(2, canary), draws.of(20, baseline))).collect();
            let (ours, others): (Vec<u64>, Vec<u64>) = failed.into_iter().unzip();
            let of = WINDOW as u64;
            ours.windows(WINDOW).zip(others.windows(WINDOW)).any(|(ours, others)| {
                let (canary, baseline) = (connects(sum(ours), 2 * of), connects(sum(others), 20 * of));
                cause(judge(&guard(), &canary, &baseline)).is_some()
            })
        })
        .count() as u64
}

#[test]
fn an_equal_canary_is_hardly_ever_rolled_back_within_an_hour() {
    for chance in [10, 100, 500] {
        let wrongly = rolled_back(100, chance, chance);
        assert!(wrongly <= 1, "{wrongly} of 100 hours where both fail in {chance} of 10 000");
    }
}

#[test]
fn a_canary_of_which_a_quarter_fails_is_always_rolled_back_within_an_hour() {
    assert_eq!(rolled_back(20, 2_500, 100), 20);
}
