//! The Grafana dashboards of `deploy/grafana`, made from the tables in `dashboards/*.rs` by `cargo xtask reference`.
//!
//! A panel is a line or two there: its title, what it says, its unit and its queries. What Grafana wants beside that is in
//! [`grafana`]. Tests hold the committed files against the tables, and the tables against `docs/metrics.md`: a metric that is
//! renamed or loses a label fails a test here.

mod agent;
mod breaker;
mod edge;
mod grafana;
mod overview;
mod service;

use std::path::PathBuf;

use anyhow::Context;

/// Every dashboard, in the order of their links.
const ALL: [&Dashboard; 5] =
    [&overview::DASHBOARD, &service::DASHBOARD, &edge::DASHBOARD, &breaker::DASHBOARD, &agent::DASHBOARD];

/// One dashboard.
struct Dashboard {
    /// What its address and its file are called, after `segue-`.
    name: &'static str,
    title: &'static str,
    /// What question it answers.
    says: &'static str,
    /// What the reader may narrow it down by, beside the data source and the node.
    choices: &'static [Choice],
    rows: &'static [Row],
}

/// A variable of a dashboard, and with it matchers of the queries.
#[derive(Clone, Copy, PartialEq)]
enum Choice {
    /// Namespaces of services.
    Namespace,
    /// Services, several or all.
    Services,
    /// One service.
    OneService,
    /// Workloads that connect.
    Workload,
}

/// Panels under one heading.
struct Row {
    title: &'static str,
    panels: &'static [Panel],
}

/// One panel.
struct Panel {
    title: &'static str,
    /// What it shows and what to make of it.
    says: &'static str,
    view: View,
    unit: Unit,
    /// Of the 24 columns of a dashboard.
    width: u8,
    queries: &'static [Query],
    /// From which value on it wears which colour; green below.
    marks: &'static [(f64, Mark)],
}

/// How a panel shows its queries.
#[derive(Clone, Copy, PartialEq)]
enum View {
    /// The newest value, large.
    Stat,
    /// Lines over time.
    Lines,
    /// Filled areas on top of each other, over time.
    Stack,
    /// A row for each series, a column for each query.
    Table,
    /// How many fell into which bucket, over time.
    Heat,
    /// Nodes and what runs between them; the queries are called `nodes` and `edges`.
    Graph,
    /// The states something was in, over time.
    States,
}

/// What values are, as Grafana calls it.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Count,
    PerSecond,
    Ratio,
    Seconds,
    Bytes,
    BytesPerSecond,
    /// 1 for yes, 0 for no.
    YesNo,
}

/// The colour of a value.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Warning,
    Bad,
    /// For values of which more is better: what is below the next mark is bad.
    Good,
}

/// One query of a panel.
///
/// `@edge`, `@service` and `@node` in a selector stand for the matchers of what the reader chose.
struct Query {
    text: &'static str,
    /// The name of its series, or of its column.
    legend: &'static str,
    /// The unit of its column, where it is another.
    unit: Option<Unit>,
}

const fn query(text: &'static str, legend: &'static str) -> Query {
    Query { text, legend, unit: None }
}

const fn column(text: &'static str, legend: &'static str, unit: Unit) -> Query {
    Query { text, legend, unit: Some(unit) }
}

impl Dashboard {
    fn file(&self) -> PathBuf {
        crate::workspace().join(format!("deploy/grafana/segue-{}.json", self.name))
    }

    /// A query as Grafana gets it.
    fn expanded(&self, text: &str) -> String {
        let node = r#"instance=~"$instance""#.to_owned();
        let mut service = node.clone();
        for choice in self.choices {
            match choice {
                Choice::Namespace => service.push_str(r#", dst_namespace=~"$namespace""#),
                Choice::Services | Choice::OneService => service.push_str(r#", dst_service=~"$service""#),
                Choice::Workload => {}
            }
        }
        let mut edge = service.clone();
        if self.choices.contains(&Choice::Workload) {
            edge.push_str(r#", src_workload=~"$workload""#);
        }
        text.replace("@edge", &edge).replace("@service", &service).replace("@node", &node)
    }
}

/// Writes every dashboard.
pub(crate) fn write() -> anyhow::Result<()> {
    for dashboard in ALL {
        let file = dashboard.file();
        std::fs::write(&file, grafana::json(dashboard))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
