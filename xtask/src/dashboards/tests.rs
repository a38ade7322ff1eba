//! The tables against the committed dashboards, and every query against the table of metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::*;

/// Labels that Prometheus and not the agent gives, or that a query makes itself.
const NOT_OF_A_METRIC: [&str; 4] = ["instance", "job", "le", "otel_metric_overflow"];

/// Each metric of docs/metrics.md with its labels. That table is held against the agent's own by a test there.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(crate::workspace().join("docs/metrics.md")).expect("docs/metrics.md");
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ticked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let name = ticked(cells[1]).remove(0);
        all.insert(name, ticked(cells[4]).into_iter().collect());
    }
    assert!(all.len() > 50, "the table of metrics was read");
    all
}

/// Every selector of a query: the metric's name and the labels it is matched by.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let beginnings = [
        "segue_",
        "process_",
        "http_client_",
        "http_server_",
        "rpc_client_",
        "rpc_server_",
        "dns_",
        "db_client_",
        "messaging_client_",
    ];
    for (at, _) in beginnings.iter().flat_map(|beginning| query.match_indices(beginning)) {
        if at > 0 && query[..at].ends_with(is_name) {
            continue;
        }
        let name: String = query[at..].chars().take_while(|c| is_name(*c)).collect();
        let rest = &query[at + name.len()..];
        let matchers =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let labels = matchers.split(", ").filter(|matcher| !matcher.is_empty());
        let labels = labels.map(|matcher| matcher.chars().take_while(|c| is_name(*c)).collect()).collect();
        found.push((name, labels));
    }
    found
}

/// The labels a query groups by.
fn grouped(query: &str) -> BTreeSet<String> {
    let groups = query.split(" by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(", ")).map(str::to_owned).collect()
}

/// What is wrong with a query, by the table of metrics.
fn wrong(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut labels_of_all = BTreeSet::from(NOT_OF_A_METRIC.map(str::to_owned));
    for (name, matched) in selectors(query) {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let Some(labels) = metrics.get(&name).or_else(|| metrics.get(base?)) else {
            complaints.push(format!("{name} is no metric"));
            continue;
        };
        labels_of_all.extend(labels.iter().cloned());
        for label in matched {
            if !labels.contains(&label) && !NOT_OF_A_METRIC.contains(&label.as_str()) {
                complaints.push(format!("{name} has no label {label}"));
            }
        }
    }
    for label in grouped(query).difference(&labels_of_all) {
        complaints.push(format!("nothing in it has the label {label}"));
    }
    complaints
}

#[test]
fn the_committed_dashboards_are_what_the_tables_say() {
    for dashboard in ALL {
        let file = dashboard.file();
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == grafana::json(dashboard),
            "{} is out of date; run `cargo xtask reference`",
            file.display()
        );
    }
}

#[test]
fn every_query_of_the_dashboards_asks_for_metrics_and_labels_that_there_are() {
    let metrics = documented();
    let mut complaints = Vec::new();
    for dashboard in ALL {
        for panel in dashboard.rows.iter().flat_map(|row| row.panels) {
            for query in panel.queries {
                let wrong = wrong(&dashboard.expanded(query.text), &metrics);
                complaints.extend(
                    wrong.into_iter().map(|what| format!("{}: {}: {what}", dashboard.name, panel.title)),
                );
            }
        }
    }
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn a_renamed_metric_and_a_lost_label_are_noticed() {
    let metrics = documented();
    assert_eq!(wrong("sum by (reason) (rate(segue_gone_total[5m]))", &metrics).len(), 2);
    assert_eq!(wrong(r#"segue_config_rejected{instance="a", zone="b"}"#, &metrics).len(), 1);
    assert_eq!(wrong("sum by (le) (segue_tcp_rtt_seconds_bucket)", &metrics), [""; 0]);
}

#[test]
fn every_metric_is_on_a_dashboard_or_on_the_list_of_those_that_are_not() {
    // Said by others of the same subject, or of no use as a picture.
    // Those of Kubernetes exist only with `--kubernetes`; the test that asks every panel for data has no cluster. Those of the
    // budget exist only with `--overhead-budget`.
    const NOT_SHOWN: [&str; 18] = [
        "segue_kubernetes_connection",
        "segue_kubernetes_errors_total",
        "segue_kubernetes_events_total",
        "segue_kubernetes_lists_total",
        "segue_kubernetes_objects",
        "segue_kubernetes_services_noted",
        "segue_kubernetes_snapshot_timestamp_seconds",
        "segue_observation_detail",
        "segue_observation_steps_total",
        "segue_otlp_exports_total",
        "segue_overhead_budget_ratio",
        "segue_overhead_ratio",
        "segue_otlp_spans_headless_total",
        "segue_otlp_spans_total",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
        "process_threads",
        "process_start_time_seconds",
    ];
    let queries: Vec<&str> = ALL
        .iter()
        .flat_map(|dashboard| dashboard.rows.iter())
        .flat_map(|row| row.panels.iter())
        .flat_map(|panel| panel.queries.iter())
        .map(|query| query.text)
        .collect();
    let shown: BTreeSet<String> = queries
        .iter()
        .flat_map(|text| selectors(text))
        .flat_map(|(name, _)| {
            let base =
                ["_bucket", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned);
            [Some(name), base].into_iter().flatten()
        })
        .collect();
    let metrics = documented();
    let missing: Vec<&String> =
        metrics.keys().filter(|name| !shown.contains(*name) && !NOT_SHOWN.contains(&name.as_str())).collect();
    assert_eq!(missing, [""; 0], "give them a panel, or say here why not");
}

#[test]
fn panels_say_what_they_show_and_fill_their_rows() {
    for dashboard in ALL {
        for row in dashboard.rows {
            for panel in row.panels {
                let of = format!("{}: {}", dashboard.name, panel.title);
                assert!(panel.says.ends_with('.'), "{of}");
                assert!((1..=24).contains(&panel.width) && !panel.queries.is_empty(), "{of}");
                let marks: Vec<f64> = panel.marks.iter().map(|(from, _)| *from).collect();
                assert!(marks.is_sorted(), "{of}");
            }
        }
    }
}

/// Every alert of the rules: its name, its expression with all lines, and its annotations.
fn alerts() -> Vec<(String, String, BTreeMap<String, String>)> {
    let file = crate::workspace().join("deploy/prometheus/segue-alerts.yaml");
    let text = fs::read_to_string(file).expect("the alert rules");
    let of_one = |block: &str| {
        let (name, rest) = block.split_once('\n').expect("an alert has lines");
        let (expr, rest) = rest
            .split_once("expr:")
            .expect("an expr")
            .1
            .split_once("\n        for:")
            .or_else(|| rest.split_once("expr:")?.1.split_once("\n        labels:"))
            .expect("what comes after an expr");
        let annotations = rest.split_once("annotations:\n").expect("annotations").1;
        let keys = annotations.lines().filter_map(|line| line.strip_prefix("          ")?.split_once(": "));
        let keys = keys.filter(|(key, _)| !key.contains(' '));
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        (name.trim().to_owned(), expr.to_owned(), keys)
    };
    text.split("- alert: ").skip(1).map(of_one).collect()
}

#[test]
fn every_alert_asks_for_metrics_there_are_and_leads_to_a_section_of_the_runbook() {
    let metrics = documented();
    let runbook = fs::read_to_string(crate::workspace().join("docs/operations.md")).expect("the runbook");
    let tests = fs::read_to_string(crate::workspace().join("deploy/prometheus/segue-alerts.test.yaml"));
    let tests = tests.expect("the tests of the rules");
    let alerts = alerts();
    assert!(alerts.len() > 10, "the rules were read");
    for (name, expr, annotations) in alerts {
        assert_eq!(wrong(&expr, &metrics), [""; 0], "{name}: {expr}");
        let keys: Vec<&str> = annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["description", "runbook", "summary"], "{name}");
        let section = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(annotations["runbook"], section, "{name}");
        assert!(runbook.contains(&format!("\n### {name}\n")), "docs/operations.md has no section {name}");
        let tested = format!("alertname: {name}\n        exp_alerts:\n");
        assert!(tests.contains(&tested), "no test in which {name} fires");
    }
}
