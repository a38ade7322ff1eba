//! Reads what a service says about the version it tries out. What it says together with the split is checked here,
//! too; how a canary is judged is `rollout`'s.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::Protocol;

use crate::desired::{CanarySpec, GuardSpec};

use super::problem::{Findings, Position};
use super::reader::{Fields as _, Node, Reader, Stop, fields};
use super::schema;
use super::service::{Service, Totals, label, one};
use super::value::{self, show_duration};

fields! {
    /// A version that is tried out.
    enum CanaryField {
        Version = "version": "The version of the split that is tried out. Required.",
        Baseline = "baseline": "The version of the split it is compared with. Required where the split has more than two.",
        Guard = "guard": "How much worse than the baseline it may do. Where it does worse, its share goes to the others until the split or the canary is written anew, or an operator says so.",
        Steps = "steps": "Its part of the connections, step by step, as in `[5%, 25%, 100%]`, instead of its share of the split. With 100% it is promoted, and compared no more. Without steps its share stays.",
        Every = "every": "How long a step lasts at least. It lasts longer while there are not enough connections to judge.",
    }
}

fields! {
    /// How much worse than its baseline a canary may do.
    enum GuardField {
        ConnectFailureRatio = "connect_failure_ratio": "How much larger its part of connections that were refused, timed out or found no way may be.",
        ResetRatio = "reset_ratio": "How much larger its part of ended connections that the backend reset, or on which nothing was acknowledged any more, may be.",
        RequestErrorRatio = "request_error_ratio": "How much larger its part of requests that were answered with a status of 500 or more may be, where requests are understood.",
        ConnectP99 = "connect_p99": "How long its handshakes may take, as a multiple of the baseline's 99th percentile, as in `2x`; handshakes of up to a millisecond always may.",
        MinimumSamples = "minimum_samples": "Connections of each of the two, or requests, that the window must hold before anything is decided.",
        Window = "window": "How far back it looks.",
    }
}

const SAMPLES: RangeInclusive<u32> = 10..=100_000;
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3_600);
const DEFAULT_EVERY: Duration = Duration::from_secs(5 * 60);
/// In percent.
const FACTORS: RangeInclusive<u32> = 110..=10_000;
const MAX_STEPS: usize = 20;

/// A canary as read.
pub(super) struct Canary {
    /// Where it stands.
    pub(super) at: Position,
    version: Option<(Arc<str>, Position)>,
    baseline: Option<(Arc<str>, Position)>,
    guard: GuardSpec,
    steps: Vec<(u8, Position)>,
    every: Duration,
    every_at: Position,
}

/// Reads a canary; `None`, with a problem recorded, where there is no mapping.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: &Node<'a>,
) -> Result<Option<Canary>, Stop> {
    let mut canary = Canary {
        at: node.at,
        version: None,
        baseline: None,
        guard: GuardSpec::default(),
        steps: Vec::new(),
        every: DEFAULT_EVERY,
        every_at: node.at,
    };
    let mut has_version = false;
    let wanted = "a mapping with version, as in { version: v2 }";
    let is_mapping = reader.mapping(node, wanted, |reader, field, value| {
        let at = value.at;
        match field {
            CanaryField::Version => {
                has_version = true;
                canary.version = label(reader, totals, value)?.map(|version| (version, at));
            }
            CanaryField::Baseline => {
                canary.baseline = label(reader, totals, value)?.map(|version| (version, at));
            }
            CanaryField::Guard => guard(reader, &value, &mut canary.guard)?,
            CanaryField::Steps => steps(reader, &value, &mut canary.steps)?,
            CanaryField::Every => {
                canary.every_at = at;
                let every =
                    one(reader, value, "a duration", |text| value::duration_within(text, &EVERY, "5m"))?;
                canary.every = every.unwrap_or(DEFAULT_EVERY);
            }
        }
        Ok(())
    })?;
    if is_mapping && !has_version {
        reader.problem_in(node.at, "version", "is missing; name the version that is tried out");
    }
    Ok(is_mapping.then_some(canary))
}

fn guard<'a>(reader: &mut Reader<'a>, node: &Node<'a>, guard: &mut GuardSpec) -> Result<(), Stop> {
    let percent = "a part in percent, as in 2%";
    reader.mapping(node, "a mapping, as in { window: 30s }", |reader, field, value| {
        match field {
            GuardField::ConnectFailureRatio => {
                let read = one(reader, value, percent, value::percent)?;
                guard.connect_failure_percent = read.unwrap_or(guard.connect_failure_percent);
            }
            GuardField::ResetRatio => {
                let read = one(reader, value, percent, value::percent)?;
                guard.reset_percent = read.unwrap_or(guard.reset_percent);
            }
            GuardField::RequestErrorRatio => {
                let read = one(reader, value, percent, value::percent)?;
                guard.request_error_percent = read.unwrap_or(guard.request_error_percent);
            }
            GuardField::ConnectP99 => {
                let read = one(reader, value, "a multiple, as in 2x", |text| value::factor(text, &FACTORS))?;
                guard.connect_p99_percent = read;
            }
            GuardField::MinimumSamples => {
                let read = one(reader, value, "a whole number", |text| value::number(text, &SAMPLES))?;
                guard.minimum_samples = read.unwrap_or(guard.minimum_samples);
            }
            GuardField::Window => {
                let read =
                    one(reader, value, "a duration", |text| value::duration_within(text, &WINDOW, "30s"))?;
                guard.window = read.unwrap_or(guard.window);
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn steps<'a>(reader: &mut Reader<'a>, node: &Node<'a>, steps: &mut Vec<(u8, Position)>) -> Result<(), Stop> {
    let mut count = 0;
    let is_list = reader.list(node, "a list of parts, as in [5%, 25%, 100%]", |reader, _, node| {
        count += 1;
        let at = node.at;
        if count > MAX_STEPS {
            if count == MAX_STEPS + 1 {
                reader.problem(at, format_args!("is one step too many; at most {MAX_STEPS} are possible"));
            }
            return reader.skip(&node);
        }
        let Some(percent) = one(reader, node, "a part in percent, as in 5%", value::percent)? else {
            return Ok(());
        };
        match steps.last() {
            Some((before, _)) if percent <= *before => {
                let message = format_args!("is not more than the step before it, {before}%; let steps rise");
                reader.problem(at, message);
            }
            None if percent == 0 || percent == 100 => {
                reader.problem(at, "is no beginning; begin between 1% and 99%, or leave the canary out");
            }
            _ => steps.push((percent, at)),
        }
        Ok(())
    })?;
    if is_list && count == 0 {
        reader.problem(node.at, "is empty; write parts as in [5%, 25%, 100%], or remove it");
    }
    Ok(())
}

impl Canary {
    /// The canary as it is asked for; `None` where what is needed is missing or wrong, of which there is a problem.
    pub(super) fn spec(&self, service: &Service) -> Option<CanarySpec> {
        let (version, _) = self.version.clone()?;
        let baseline = match &self.baseline {
            Some((baseline, _)) => Arc::clone(baseline),
            None => only_other(service, &version)?,
        };
        let steps = self.steps.iter().map(|(percent, _)| *percent).collect();
        Some(CanarySpec { version, baseline, guard: self.guard, steps, every: self.every })
    }
}

/// The other version of a split of two.
fn only_other(service: &Service, version: &Arc<str>) -> Option<Arc<str>> {
    let split = &service.spec.policy.split;
    let mut others = split.iter().map(|share| &share.version).filter(|other| *other != version);
    let other = others.next()?;
    others.next().is_none().then(|| Arc::clone(other))
}

/// Checks a canary together with the rest of its service.
pub(super) fn check(findings: &mut Findings, service: &Service) {
    let Some(canary) = &service.canary else { return };
    let split = &service.spec.policy.split;
    let mut problem = |at: Position, field: &str, message: &dyn std::fmt::Display| {
        findings.problems.add(
            at,
            format_args!("services[{}].policy.canary{field}", service.index),
            format_args!("{message}"),
        );
    };
    if service.spec.protocol == Protocol::Udp {
        let message = "cannot be judged for udp, what becomes of datagrams is not seen; remove it";
        return problem(canary.at, "", &message);
    }
    if split.is_empty() {
        let message = "needs a `split` that shares the connections between it and its baseline; add one";
        return problem(canary.at, "", &message);
    }
    let share_of =
        |version: &Arc<str>| split.iter().find(|share| share.version == *version).map(|share| share.share);
    let named = [(".version", &canary.version), (".baseline", &canary.baseline)];
    for (field, named) in named {
        let Some((version, at)) = named else { continue };
        match share_of(version) {
            None => problem(*at, field, &format_args!("{version} is no version of the split; correct it")),
            // With steps the share of the canary is what they say.
            Some(0) if field == ".baseline" || canary.steps.is_empty() => {
                let message = format_args!("{version} has share 0 in the split; give it one");
                problem(*at, field, &message);
            }
            Some(_) => {}
        }
    }
    let Some((version, _)) = &canary.version else { return };
    match &canary.baseline {
        Some((baseline, at)) if baseline == version => {
            problem(*at, ".baseline", &"is the canary itself; name the version it is compared with");
        }
        None if only_other(service, version).is_none() => {
            let message = "is missing, and the split has not just one other version; name one of them";
            problem(canary.at, ".baseline", &message);
        }
        None if only_other(service, version).and_then(|other| share_of(&other)) == Some(0) => {
            problem(canary.at, ".baseline", &"has share 0 in the split; give it one");
        }
        _ => {}
    }
    if !canary.steps.is_empty() && canary.every < canary.guard.window {
        let (every, window) = (show_duration(canary.every), show_duration(canary.guard.window));
        let message = format_args!(
            "is {every}, less than the guard's `window`, {window}; a step is judged by what it did itself, \
             raise it, or lower `window`"
        );
        problem(canary.every_at, ".every", &message);
    }
}

/// A canary as a schema of Kubernetes.
pub(super) fn schema(version: &impl Fn(&str) -> serde_json::Value) -> serde_json::Value {
    let guard = |field: GuardField| match field {
        GuardField::ConnectFailureRatio | GuardField::ResetRatio | GuardField::RequestErrorRatio => {
            schema::percent()
        }
        GuardField::ConnectP99 => schema::factor(),
        GuardField::MinimumSamples => schema::integer(&SAMPLES),
        GuardField::Window => schema::duration(&WINDOW),
    };
    schema::object(
        |field: CanaryField| match field {
            CanaryField::Version | CanaryField::Baseline => version(field.meaning()),
            CanaryField::Guard => schema::object(guard, &[], &[]),
            CanaryField::Steps => serde_json::json!({
                "type": "array", "minItems": 1, "maxItems": MAX_STEPS, "items": schema::percent(),
            }),
            CanaryField::Every => schema::duration(&EVERY),
        },
        &["version"],
        &[
            ("!has(self.baseline) || self.baseline != self.version", "baseline is the canary itself"),
            (
                "!has(self.steps) || !has(self.every) || !has(self.guard) || !has(self.guard.window) || \
                 duration(self.every) >= duration(self.guard.window)",
                "every is less than guard.window",
            ),
        ],
    )
}

/// What each field of a guard may say and says by default, for the reference.
pub(super) fn values() -> Vec<[String; 2]> {
    let default = GuardSpec::default();
    let times = |range: &RangeInclusive<Duration>, value: Duration| {
        let [from, to, value] = [*range.start(), *range.end(), value].map(show_duration);
        format!("{from} to {to}, default {value}")
    };
    let guard = |field: GuardField| match field {
        GuardField::ConnectFailureRatio => {
            format!("0% to 100%, default {}%", default.connect_failure_percent)
        }
        GuardField::ResetRatio => format!("0% to 100%, default {}%", default.reset_percent),
        GuardField::RequestErrorRatio => format!("0% to 100%, default {}%", default.request_error_percent),
        GuardField::ConnectP99 => {
            let [from, to] = [*FACTORS.start(), *FACTORS.end()].map(|percent| f64::from(percent) / 100.0);
            format!("{from}x to {to}x, without it not judged")
        }
        GuardField::MinimumSamples => {
            format!("{} to {}, default {}", SAMPLES.start(), SAMPLES.end(), default.minimum_samples)
        }
        GuardField::Window => times(&WINDOW, default.window),
    };
    let guards = GuardField::ALL.iter().map(|field| [format!("`guard.{}`", field.name()), guard(*field)]);
    let steps = format!("at most {MAX_STEPS}, rising, the first 1% to 99%");
    let rest = [
        [format!("`{}`", CanaryField::Steps.name()), steps],
        [
            format!("`{}`", CanaryField::Every.name()),
            times(&EVERY, DEFAULT_EVERY) + "; not less than `guard.window`",
        ],
    ];
    guards.chain(rest).collect()
}
