//! What observing may cost: a budget, and what is left out while it is passed. It gets samples and gives decisions; it
//! knows no clock, no program and no map.

use std::fmt;

/// How much is observed. Each step down leaves out one thing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detail {
    /// All that was asked for.
    #[default]
    Full,
    /// Connections and requests are told one by one to nobody.
    NoEvents,
    /// Requests are not read: no program looks at packets.
    NoRequests,
    /// Sockets are walked over more rarely, and what is counted is read more rarely.
    RareWalks,
}

impl Detail {
    /// Every step, from the top.
    pub const ALL: &'static [Self] = &[Self::Full, Self::NoEvents, Self::NoRequests, Self::RareWalks];

    /// The name used in metric labels, tables and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NoEvents => "no_events",
            Self::NoRequests => "no_requests",
            Self::RareWalks => "rare_walks",
        }
    }

    /// What is missing with it, in words.
    pub const fn missing(self) -> &'static str {
        match self {
            Self::Full => "nothing is left out",
            Self::NoEvents => "single connections and requests are not told",
            Self::NoRequests => "neither are requests read, nor single connections told",
            Self::RareWalks => {
                "requests are not read, single connections not told, and bytes and round trips rarely read"
            }
        }
    }
}

/// A part of the time of all processors of the host, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u64);

/// The whole.
const WHOLE: u64 = 1_000_000;

impl Share {
    /// What `used_ns` of processor time are of `window_ns` of so many processors; 0 of no time.
    pub fn of(used_ns: u64, window_ns: u64, processors: u64) -> Self {
        let whole = u128::from(window_ns) * u128::from(processors);
        let share = (u128::from(used_ns) * u128::from(WHOLE)).checked_div(whole).unwrap_or_default();
        Self(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// This and another together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// 1 is the whole.
    #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
    pub fn ratio(self) -> f64 {
        self.0 as f64 / WHOLE as f64
    }

    /// Reads a budget, as in `2%` or `0.5%`.
    ///
    /// # Errors
    /// What is wrong with the text, in words.
    pub fn parse_budget(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("\"{text}\" is no budget; write a part of all processors, as in 2% or 0.5%, up to 100%")
        };
        let number = text.strip_suffix('%').ok_or_else(wanted)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || whole.len() > 3 || part.len() > 4 {
            return Err(wanted());
        }
        let value: u64 = format!("{whole}{part:0<4}").parse().map_err(|_| wanted())?;
        if (1..=WHOLE).contains(&value) { Ok(Self(value)) } else { Err(wanted()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2} %", self.ratio() * 100.0)
    }
}

/// Samples over the budget, one after the other, before something is left out: one alone may be a burst.
const PATIENCE: u32 = 3;

/// Samples of at most half the budget, one after the other, before something is taken up again.
const CALM: u32 = 6;

/// The most that wait grows to: it doubles each time that what was taken up had to be left out again.
const MAX_CALM: u32 = 64 * CALM;

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was observed before.
    pub from: Detail,
    /// What is from now on.
    pub to: Detail,
    /// The sample that decided.
    pub share: Share,
}

/// Decides how much is observed.
#[derive(Clone, Debug)]
pub struct Governor {
    budget: Share,
    detail: Detail,
    last: Option<Share>,
    /// Samples over the budget, without another between them.
    over: u32,
    /// Samples of at most half the budget, without another between them.
    calm: u32,
    /// So many of these are awaited before a step up.
    awaited: u32,
    /// Samples since the last step up, while no step down followed.
    since_up: Option<u32>,
    steps_down: u64,
    steps_up: u64,
}

impl Governor {
    /// One that observes everything, until it knows better.
    pub fn new(budget: Share) -> Self {
        Self {
            budget,
            detail: Detail::Full,
            last: None,
            over: 0,
            calm: 0,
            awaited: CALM,
            since_up: None,
            steps_down: 0,
            steps_up: 0,
        }
    }

    /// What all of it may cost.
    pub fn budget(&self) -> Share {
        self.budget
    }

    /// How much is observed.
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// What it cost last.
    pub fn last(&self) -> Option<Share> {
        self.last
    }

    /// Steps taken down and up.
    pub fn steps(&self) -> (u64, u64) {
        (self.steps_down, self.steps_up)
    }

    /// Takes a sample in. `saves` tells of a step whether it would leave anything out: what is not in use costs nothing.
    pub fn sample(&mut self, share: Share, saves: impl Fn(Detail) -> bool) -> Option<Step> {
        self.last = Some(share);
        self.since_up = self.since_up.map(|samples| samples.saturating_add(1));
        if self.since_up.is_some_and(|samples| samples > 2 * self.awaited) {
            // What was taken up can be afforded, and the next doubt begins anew.
            self.since_up = None;
            self.awaited = CALM;
        }
        let is_over = share > self.budget;
        let is_calm = share.0 <= self.budget.0 / 2;
        self.over = if is_over { self.over + 1 } else { 0 };
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        if self.over >= PATIENCE {
            self.over = 0;
            return self.down(share, saves);
        }
        if self.calm >= self.awaited {
            self.calm = 0;
            return self.up(share, saves);
        }
        None
    }

    fn down(&mut self, share: Share, saves: impl Fn(Detail) -> bool) -> Option<Step> {
        let below = Detail::ALL.iter().copied().filter(|detail| *detail > self.detail);
        let to = below.into_iter().find(|detail| saves(*detail))?;
        if self.since_up.take().is_some() {
            self.awaited = (self.awaited * 2).min(MAX_CALM);
        }
        self.steps_down += 1;
        Some(self.turn(to, share))
    }

    fn up(&mut self, share: Share, saves: impl Fn(Detail) -> bool) -> Option<Step> {
        let above = Detail::ALL.iter().rev().copied().filter(|detail| *detail < self.detail);
        let to = above.into_iter().find(|detail| *detail == Detail::Full || saves(*detail))?;
        self.since_up = Some(0);
        self.steps_up += 1;
        Some(self.turn(to, share))
    }

    fn turn(&mut self, to: Detail, share: Share) -> Step {
        let from = std::mem::replace(&mut self.detail, to);
        Step { from, to, share }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Share = Share(20_000);
    const NO_STEP: [u32; 0] = [];

    fn all(_: Detail) -> bool {
        true
    }

    /// Runs so many samples of a load whose cost at each step is known; gives the samples at which a step was taken.
    fn run(
        governor: &mut Governor,
        costs: [u64; 4],
        samples: u32,
        saves: impl Fn(Detail) -> bool,
    ) -> Vec<u32> {
        let cost = |detail: Detail| Share(costs[detail as usize]);
        (0..samples).filter(|_| governor.sample(cost(governor.detail()), &saves).is_some()).collect()
    }

    #[test]
    fn a_load_over_the_budget_steps_down_one_by_one_and_comes_back_when_it_ends() {
        let mut governor = Governor::new(BUDGET);
        assert_eq!(run(&mut governor, [50_000, 40_000, 5_000, 5_000], 8, all), [2, 5]);
        assert_eq!(governor.detail(), Detail::NoRequests);
        run(&mut governor, [0; 4], 2 * CALM, all);
        assert_eq!((governor.detail(), governor.steps()), (Detail::Full, (2, 2)));
    }

    #[test]
    fn a_burst_changes_nothing_and_the_budget_itself_is_within_it() {
        let mut governor = Governor::new(BUDGET);
        for share in [90_000, 90_000, 20_000, 90_000, 90_000, 0] {
            assert_eq!(governor.sample(Share(share), all), None);
        }
        assert_eq!(run(&mut governor, [20_000; 4], 1_000, all), NO_STEP);
    }

    #[test]
    fn what_is_not_in_use_is_passed_over() {
        let mut governor = Governor::new(BUDGET);
        let saves = |detail| detail != Detail::NoEvents;
        run(&mut governor, [50_000; 4], PATIENCE, saves);
        assert_eq!(governor.detail(), Detail::NoRequests);
        run(&mut governor, [0; 4], CALM, saves);
        assert_eq!(governor.detail(), Detail::Full);
        assert_eq!(run(&mut Governor::new(BUDGET), [50_000; 4], 100, |_| false), NO_STEP);
    }

    #[test]
    fn a_budget_is_read_and_a_share_is_of_all_processors() {
        let read = |text: &str| Share::parse_budget(text).map(|share| share.0);
        assert_eq!(read("2%"), Ok(20_000));
        assert_eq!(read("0.25%"), Ok(2_500));
        assert_eq!(read("100%"), Ok(1_000_000));
        for text in ["2", "0%", "-1%", "101%", "%", "1.%", "1.23456%", "٢%", "1e2%"] {
            let error = Share::parse_budget(text).expect_err(text);
            assert!(error.contains("as in 2%"), "{error}");
        }
        assert_eq!(Share::of(20_000_000, 1_000_000_000, 2).to_string(), "1.00 %");
        assert_eq!(Share::of(1, 0, 2), Share(0));
        assert!(Share::of(u64::MAX, 1, 1).ratio() > 1.0);
    }

    /// What a load costs at each step: never more with less detail.
    fn any_costs() -> impl Strategy<Value = [u64; 4]> {
        [0_u64..60_000, 0..60_000, 0..60_000, 0..60_000].prop_map(|mut costs| {
            costs.sort_unstable_by(|left, right| right.cmp(left));
            costs
        })
    }

    proptest! {
        /// However a constant load is made up, detail does not flap: each failed attempt to take something up makes the
        /// next one wait twice as long.
        #[test]
        fn under_a_constant_load_steps_become_rare(costs in any_costs(), before in any_costs(), skipped: bool) {
            let saves = |detail| !(skipped && detail == Detail::NoEvents);
            let mut governor = Governor::new(BUDGET);
            run(&mut governor, before, 500, saves);
            run(&mut governor, costs, 5_000, saves);
            let late = run(&mut governor, costs, 10_000, saves);
            let attempts = 10_000 / MAX_CALM as usize + 1;
            prop_assert!(late.len() <= 2 * attempts, "{late:?}");
        }

        /// A load that all of it is within half the budget for ends with full detail, whatever was before.
        #[test]
        fn a_load_that_can_be_afforded_is_observed_in_full(before in any_costs(), costs in any_costs()) {
            let mut governor = Governor::new(BUDGET);
            run(&mut governor, before, 5_000, all);
            let costs = costs.map(|cost| cost / 6);
            run(&mut governor, costs, 3 * MAX_CALM + 1, all);
            prop_assert_eq!(governor.detail(), Detail::Full);
            prop_assert_eq!(run(&mut governor, costs, 1_000, all), NO_STEP);
        }

        /// A constant load is over the budget only while it is found out, or where nothing is left to leave out.
        #[test]
        fn the_budget_is_kept_where_it_can_be(costs in any_costs()) {
            let mut governor = Governor::new(BUDGET);
            run(&mut governor, costs, 3_000, all);
            let mut over = 0;
            for _ in 0..10_000 {
                let cost = costs[governor.detail() as usize];
                over += u32::from(cost > BUDGET.0 && governor.detail() != Detail::RareWalks);
                governor.sample(Share(cost), all);
            }
            // Each attempt is over for as long as it takes to find out.
            prop_assert!(over <= (10_000 / MAX_CALM + 1) * PATIENCE, "{over}");
        }

        /// Against any samples: a step needs as many in a row as it should, none of which served another step.
        #[test]
        fn each_step_has_its_reason(samples in prop::collection::vec(0_u64..60_000, 0..400)) {
            let mut governor = Governor::new(BUDGET);
            let mut since = 0;
            for (at, sample) in samples.iter().enumerate() {
                since += 1;
                if let Some(step) = governor.sample(Share(*sample), all) {
                    let down = step.to > step.from;
                    let needed = if down { PATIENCE } else { CALM } as usize;
                    prop_assert!(since >= needed);
                    let reasons = &samples[at + 1 - needed..=at];
                    let is_reason =
                        |share: &u64| if down { *share > BUDGET.0 } else { *share <= BUDGET.0 / 2 };
                    prop_assert!(reasons.iter().all(is_reason));
                    since = 0;
                }
            }
        }
    }
}
