//! The table of all metrics as documentation.

use std::fmt::Write;

use super::SUBJECTS;

/// The text of `docs/metrics.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from agent/src/metrics: run the unit tests with SEGUE_UPDATE_REFERENCE=1 to rewrite it. -->\n\n\
         The agent serves these at `/metrics`, as Prometheus text 0.0.4, or as OpenMetrics 1.0.0 where the scraper \
         asks for it. Values are read from the kernel at each scrape.\n\n\
         - An *edge* is one workload on this node connecting to one version of one service. `src_workload` is a \
         systemd unit, a container, or what owns a pod (a Deployment, a CronJob); `src_namespace` is `host` outside \
         Kubernetes and `unknown` for a pod of which only the UID is known. A label without a value is the same as no label.\n\
         - Totals do not fall while the edge exists, also when its cgroup is replaced or the agent evicts kernel \
         entries. A series is dropped 60 s after its workload or its service is gone.\n\
         - Beyond the limit on edges (10 000 by default), edges are summed in one series with the only label \
         `otel_metric_overflow=\"true\"`, beside `reason`, `outcome` or `origin`.\n\
         - Histograms have 11 bounds from 32 µs to 33.6 s, each four times the one before.\n",
    );
    for (subject, metrics) in SUBJECTS {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n## {subject}\n\n| Metric | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n"
        );
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                metric.name,
                metric.kind.name(),
                metric.unit_name(),
                labels.join(" "),
                metric.help
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::metrics::sheet::Kind;

    #[test]
    fn the_documentation_is_what_the_tables_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("SEGUE_UPDATE_REFERENCE").is_some_and(|value| value == "1") {
            std::fs::write(&path, reference()).expect("docs is writable");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == reference(),
            "docs/metrics.md is out of date; run the unit tests with SEGUE_UPDATE_REFERENCE=1"
        );
    }

    #[test]
    fn names_and_help_texts_keep_the_rules() {
        let mut names = BTreeSet::new();
        for metric in SUBJECTS.iter().flat_map(|(_, metrics)| metrics.iter()) {
            assert!(names.insert(metric.name), "{} is declared once", metric.name);
            assert!(
                ["segue_", "process_", "http_", "dns_"].iter().any(|prefix| metric.name.starts_with(prefix))
            );
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            let of_samples = ["_count", "_sum", "_bucket"];
            assert!(!of_samples.iter().any(|suffix| metric.name.ends_with(suffix)), "{}", metric.name);
            assert!(metric.kind != Kind::Histogram || metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert!(!metric.help.contains(['\n', '\\', '|']), "{}", metric.name);
        }
    }
}
