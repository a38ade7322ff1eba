//! `cargo xtask bench`: measurements, each against its own control in the same run, interleaved, as medians and
//! ratios. It asserts nothing about time: a number of a shared machine is no verdict.

mod affinity;
mod balance;
mod breaker;
mod chart;
mod churn;
mod client;
mod connect;
mod faults;
mod h2load;
mod kubernetes;
mod load;
mod matrix;
mod observe;
mod peers;
mod probe;
mod receiver;
mod scale;
mod spread;
mod stage;
mod weight;

use std::fs;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use matrix::Matrix;

pub(crate) use client::{Arguments as ClientArguments, run as run_client};
pub(crate) use load::{Arguments as LoadArguments, run as run_load};
pub(crate) use probe::run as run_probe;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// What a connection costs, how long a change takes, what it all weighs.
    Connect(connect::Arguments),
    /// How long a changed endpoint takes into the kernel's maps while many change.
    Churn(churn::Arguments),
    /// How fast a cluster of 10 000 Services and 100 000 endpoints is known, followed, and what that weighs.
    Kubernetes(kubernetes::Arguments),
    /// What a breaker costs, and the same faults through Segue, HAProxy and Envoy.
    Breaker(breaker::Arguments),
    /// Requests and new connections beside iptables, nftables, HAProxy and Envoy.
    Peers(peers::Arguments),
    /// What observing costs: nothing, connections, requests, single flows.
    Observe(observe::Arguments),
    /// From 100 to 100 000 endpoints: loading, changing, connecting, memory.
    Scale(scale::Arguments),
    /// One slow backend of ten, through Segue's algorithms, HAProxy and Envoy.
    Balance(balance::Arguments),
}

/// How to print results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.subject {
        Subject::Connect(arguments) => connect::run(arguments),
        Subject::Churn(arguments) => churn::run(arguments),
        Subject::Kubernetes(arguments) => kubernetes::run(arguments),
        Subject::Breaker(arguments) => breaker::run(arguments),
        Subject::Peers(arguments) => peers::run(arguments),
        Subject::Observe(arguments) => observe::run(arguments),
        Subject::Scale(arguments) => scale::run(arguments),
        Subject::Balance(arguments) => balance::run(arguments),
    }
}

/// One measured quantity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What belongs together.
    pub(crate) group: &'static str,
    /// What was measured.
    pub(crate) name: String,
    /// The median of the samples.
    pub(crate) median: f64,
    /// The 99th percentile, where a tail matters.
    pub(crate) p99: Option<f64>,
    /// Unit of both.
    pub(crate) unit: &'static str,
    /// The median divided by that of the row it is compared with.
    pub(crate) ratio: Option<f64>,
    /// How many samples.
    pub(crate) samples: usize,
}

impl Row {
    /// A row of these samples.
    pub(crate) fn new(
        group: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
    ) -> Self {
        Self {
            group,
            name: name.into(),
            median: quantile(samples, 50),
            p99: None,
            unit,
            ratio: None,
            samples: samples.len(),
        }
    }

    /// The same with the 99th percentile of these samples.
    pub(crate) fn with_p99(mut self, samples: &[f64]) -> Self {
        self.p99 = Some(quantile(samples, 99));
        self
    }

    /// The same, compared with a row.
    pub(crate) fn against(mut self, control: f64) -> Self {
        self.ratio = Some(self.median / control);
        self
    }
}

/// The smallest sample that `percent` of the samples do not exceed; 0 of none.
fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

/// Prints the rows.
pub(crate) fn print(rows: &[Row], output: Output) {
    match output {
        Output::Table => println!("{}", table(rows)),
        Output::Json => println!("{:#}", as_json(rows)),
    }
}

/// Prints rows, then tables of systems side by side.
pub(crate) fn print_with(rows: &[Row], matrices: &[Matrix], note: &str, output: Output) {
    match output {
        Output::Table => {
            println!("{}", table(rows));
            matrices.iter().for_each(|matrix| println!("\n{}", matrix.table()));
            println!("\n{note}");
        }
        Output::Json => {
            let mut value = as_json(rows);
            value["tables"] = matrices.iter().map(Matrix::as_json).collect();
            value["note"] = json!(note);
            println!("{value:#}");
        }
    }
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The kernel's version without what a distribution or a provider adds to it: for pictures that go into the documentation.
fn kernel_version() -> String {
    let release = kernel_release();
    release.split_once('-').map_or(release.as_str(), |(version, _)| version).to_owned()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn as_json(rows: &[Row]) -> serde_json::Value {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            json!({
                "group": row.group, "name": row.name, "median": row.median, "p99": row.p99,
                "unit": row.unit, "ratio": row.ratio, "samples": row.samples,
            })
        })
        .collect();
    json!({ "kernel": kernel_release(), "cpus": cpus(), "rows": rows })
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![format!("kernel {}, {} CPUs; medians", kernel_release(), cpus())];
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            lines.push(format!("\n{group}"));
        }
        let ratio = row.ratio.map_or(String::new(), |ratio| format!("× {ratio:.2}"));
        let p99 = row.p99.map_or(String::new(), |p99| format!("p99 {} {}", rounded(p99), row.unit));
        let line = format!(
            "  {:<width$}  {:>10} {:<6} {ratio:>8}  {p99:<16} n={}",
            row.name,
            rounded(row.median),
            row.unit,
            row.samples
        );
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// As many digits as mean something.
fn rounded(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| quantile(&samples, percent)), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[7.0], 99), 7.0);
        assert_eq!(quantile(&[], 50), 0.0);
    }

    #[test]
    fn a_row_is_compared_with_its_control() {
        let row = Row::new("g", "hit", "µs", &[3.0, 2.0, 4.0]).against(1.5);
        assert_eq!(row.ratio, Some(2.0));
        let text = table(&[row]);
        assert!(text.contains("hit") && text.contains("× 2.00") && text.contains("n=3"), "{text}");
    }

    #[test]
    fn the_json_form_has_every_number_of_the_table() {
        let value = as_json(&[Row::new("g", "x", "ms", &[1.0, 2.0]).with_p99(&[1.0, 2.0]).against(2.0)]);
        assert_eq!(value["rows"][0]["median"], 1.0);
        assert_eq!(value["rows"][0]["p99"], 2.0);
        assert_eq!(value["rows"][0]["ratio"], 0.5);
        assert!(value["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
    }
}
