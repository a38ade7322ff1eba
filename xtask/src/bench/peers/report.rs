//! What was measured of the systems, and how it is shown. It runs nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::aims::{self, Aim};
use super::contestant::System;
use crate::bench::client::Answers;
use crate::bench::matrix::Matrix;
use crate::bench::spread::Spread;
use crate::bench::{Output, Row, as_json, table};

const MAXIMUM: [&str; 10] =
    ["1/s", "min", "max", "× direct", "× min", "× max", "CPU, µs each", "p50, µs", "p99, µs", "failed"];

const AT_RATE: [&str; 7] =
    ["p50, µs", "p99, µs", "p99.9, µs", "p99 min", "p99 max", "p99 added", "CPU, µs each"];

/// The rounds of all systems at one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(Vec<(System, Vec<Answers>)>);

/// All that was measured among so many services.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) services: u32,
    pub(super) keepalive: Series,
    pub(super) connect: Series,
    /// At so many requests a second.
    pub(super) rates: Vec<(u64, Series)>,
}

/// What it all weighs.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    pub(super) resident_mib: Vec<(&'static str, f64)>,
    pub(super) maps_mib: Vec<(&'static str, f64)>,
    /// How long loading many services took.
    pub(super) load_ms: Vec<(System, Vec<f64>)>,
    /// The idle agent's part of one CPU.
    pub(super) idle_percent: Vec<(&'static str, f64)>,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) one: Part,
    pub(super) many: Part,
    pub(super) weights: Weights,
    pub(super) note: String,
}

/// Answers a second.
#[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 answers")]
pub(super) fn rate(answers: &Answers) -> f64 {
    answers.count as f64 / answers.seconds
}

#[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 answers")]
fn cpu_us(answers: &Answers) -> f64 {
    answers.cpu_us / answers.count as f64
}

#[expect(clippy::cast_precision_loss, reason = "no turn lasts 2^52 ns")]
fn time_us(answers: &Answers, quantile: f64) -> f64 {
    answers.times.value_at_quantile(quantile) as f64 / 1000.0
}

impl Series {
    /// Without any rounds.
    pub(super) fn new(systems: &[System]) -> Self {
        Self(systems.iter().map(|system| (*system, Vec::new())).collect())
    }

    /// Takes a round of the system at this place.
    pub(super) fn add(&mut self, place: usize, answers: Answers) {
        self.0[place].1.push(answers);
    }

    fn of(&self, system: System) -> &[Answers] {
        self.0.iter().find(|(known, _)| *known == system).map_or(&[], |(_, rounds)| rounds)
    }

    fn spread(&self, system: System, figure: impl Fn(&Answers) -> f64) -> Option<Spread> {
        Spread::of(&self.of(system).iter().map(figure).collect::<Vec<_>>())
    }

    /// What comes of the figures of a system and another one, round by round.
    fn paired(
        &self,
        system: System,
        other: System,
        figure: impl Fn(&Answers) -> f64,
        combine: impl Fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let pairs = self.of(system).iter().zip(self.of(other));
        Spread::of(&pairs.map(|(this, that)| combine(figure(this), figure(that))).collect::<Vec<_>>())
    }

    /// Answers a second.
    pub(super) fn per_second(&self, system: System) -> Option<Spread> {
        self.spread(system, rate)
    }

    /// Answers a second, divided by another system's of the same round.
    pub(super) fn ratio(&self, system: System, other: System) -> Option<Spread> {
        self.paired(system, other, rate, |this, that| this / that)
    }

    /// Microseconds within which 99 of 100 are answered, beyond direct's of the same round.
    pub(super) fn added_p99_us(&self, system: System) -> Option<Spread> {
        self.paired(system, System::Direct, |answers| time_us(answers, 0.99), |this, that| this - that)
    }

    /// Microseconds within which this part is answered.
    pub(super) fn quantile_us(&self, system: System, quantile: f64) -> Option<Spread> {
        self.spread(system, |answers| time_us(answers, quantile))
    }

    /// Processor time of the whole node for each answer.
    pub(super) fn cpu_us(&self, system: System) -> Option<Spread> {
        self.spread(system, cpu_us)
    }

    /// Requests that came to nothing, of all rounds.
    #[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 requests")]
    fn failed(&self, system: System) -> f64 {
        self.of(system).iter().map(|answers| answers.failed as f64).sum()
    }

    /// The systems, in the order of tables.
    pub(super) fn systems(&self) -> impl Iterator<Item = System> + '_ {
        self.0.iter().map(|(system, _)| *system)
    }

    fn maxima(&self, title: String) -> Matrix {
        let mut matrix = Matrix::new(title, &MAXIMUM);
        for system in self.systems() {
            let (reached, ratio) = (self.per_second(system), self.ratio(system, System::Direct));
            let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
            let figures = vec![
                reached.map(|spread| spread.median.round()),
                reached.map(|spread| spread.min.round()),
                reached.map(|spread| spread.max.round()),
                median(ratio),
                ratio.map(|ratio| ratio.min),
                ratio.map(|ratio| ratio.max),
                median(self.cpu_us(system)),
                median(self.quantile_us(system, 0.5)),
                median(self.quantile_us(system, 0.99)),
                Some(self.failed(system)),
            ];
            matrix.rows.push((system.name().to_owned(), figures));
        }
        matrix
    }

    fn at_rate(&self, title: String, all: &Self) -> Matrix {
        let mut matrix = Matrix::new(title, &AT_RATE);
        for system in all.systems() {
            let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
            let p99 = self.quantile_us(system, 0.99);
            let figures = vec![
                median(self.quantile_us(system, 0.5)),
                median(p99),
                median(self.quantile_us(system, 0.999)),
                p99.map(|p99| p99.min),
                p99.map(|p99| p99.max),
                median(self.added_p99_us(system)),
                median(self.cpu_us(system)),
            ];
            matrix.rows.push((system.name().to_owned(), figures));
        }
        matrix
    }
}

impl Part {
    fn matrices(&self) -> Vec<Matrix> {
        let among =
            if self.services == 1 { "1 service".into() } else { format!("{} services", self.services) };
        let mut matrices = vec![
            self.keepalive.maxima(format!("requests on open connections, {among}")),
            self.connect.maxima(format!("new connections, a request on each, {among}")),
        ];
        for (rate, series) in &self.rates {
            matrices.push(
                series.at_rate(format!("at {rate} requests/s on open connections, {among}"), &self.keepalive),
            );
        }
        matrices
    }
}

impl Weights {
    /// Adds a time that loading took.
    pub(super) fn loaded(&mut self, system: System, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        match self.load_ms.iter_mut().find(|(known, _)| *known == system) {
            Some((_, times)) => times.push(ms),
            None => self.load_ms.push((system, vec![ms])),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, mib) in &self.resident_mib {
            rows.push(Row::new("resident memory after the load", *name, "MiB", &[*mib]));
        }
        for (name, mib) in &self.maps_mib {
            rows.push(Row::new("memory of Segue's maps", *name, "MiB", &[*mib]));
        }
        for (system, times) in &self.load_ms {
            rows.push(Row::new("loading many services", system.name(), "ms", times));
        }
        for (when, percent) in &self.idle_percent {
            rows.push(Row::new("idle agent, many services, of a core", *when, "%", &[*percent]));
        }
        rows
    }
}

impl Comparison {
    /// Prints all of it.
    pub(super) fn print(&self, output: Output) {
        let matrices: Vec<Matrix> = self.one.matrices().into_iter().chain(self.many.matrices()).collect();
        let (rows, aims) = (self.weights.rows(), aims::of(self));
        match output {
            Output::Table => {
                println!("{}", table(&rows));
                matrices.iter().for_each(|matrix| println!("\n{}", matrix.table()));
                println!("\naims\n{}", aims.iter().map(Aim::line).collect::<Vec<_>>().join("\n"));
                println!("\n{}", self.note);
            }
            Output::Json => {
                let mut value = as_json(&rows);
                value["tables"] = matrices.iter().map(Matrix::as_json).collect();
                value["aims"] = aims.iter().map(Aim::as_json).collect();
                value["spreads"] = json!({ "one": self.one.as_json(), "many": self.many.as_json() });
                value["note"] = json!(self.note);
                println!("{value:#}");
            }
        }
    }
}

impl Part {
    fn as_json(&self) -> Value {
        let maxima = |series: &Series| -> Value {
            series
                .systems()
                .map(|system| {
                    json!({
                        "system": system.name(),
                        "per_second": series.per_second(system).map(Spread::as_json),
                        "ratio": series.ratio(system, System::Direct).map(Spread::as_json),
                        "cpu_us": series.cpu_us(system).map(Spread::as_json),
                    })
                })
                .collect()
        };
        json!({ "services": self.services, "keepalive": maxima(&self.keepalive), "connect": maxima(&self.connect) })
    }
}
