//! What Prometheus reads, and what is sent to who does not. The only module that names `prometheus_client`.
//!
//! A metric is a [`sheet::Metric`] in the file of its subject and the line there that fills it in. Values are read from
//! [`Observe`] at each scrape; nothing is kept between scrapes but the count of failed reads.

mod agent;
mod balancing;
mod breaker;
mod connections;
mod draining;
mod kernel;
mod kubernetes;
mod limits;
mod overhead;
mod process;
mod reference;
mod requests;
mod rollout;
mod sheet;
mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use crate::admin::{Observe, ObserveError};
pub use reference::reference;
pub use sheet::{Family, Kind, Point, Value};
use sheet::{Metric, Sheet};
pub use text::Format;

/// Every metric, by subject.
const SUBJECTS: &[(&str, &[&Metric])] = &[
    ("Connections", connections::METRICS),
    ("Requests", requests::METRICS),
    ("Load balancing", balancing::METRICS),
    ("Circuit breaking", breaker::METRICS),
    ("Limits on connections", limits::METRICS),
    ("Draining", draining::METRICS),
    ("Canaries", rollout::METRICS),
    ("Kubernetes", kubernetes::METRICS),
    ("Kernel side", kernel::METRICS),
    ("Cost of observing", overhead::METRICS),
    ("Agent", agent::METRICS),
    ("Process", process::METRICS),
];

/// What a scrape reads through [`Observe`], as a label of `segue_scrape_errors_total`.
const READS: [&str; 5] = ["edges", "services", "status", "counters", "requests"];

/// All metrics of one agent.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    scrape: Arc<Scrape>,
}

impl Exposition {
    /// The metrics of what `observe` shows.
    pub fn new(observe: Arc<dyn Observe>) -> Self {
        let mut registry = Registry::default();
        let scrape = Arc::new(Scrape { observe, errors: Default::default() });
        registry.register_collector(Box::new(Collected(Arc::clone(&scrape))));
        Self { registry, scrape }
    }

    /// Reads everything and hands on each metric, in the order of the text. Reads kernel maps: call it where blocking is
    /// allowed.
    pub fn each(&self, take: &mut dyn FnMut(Family)) {
        let written = self.scrape.write(&mut Sheet::of_values(take));
        debug_assert!(written.is_ok(), "values are not formatted");
    }

    /// Reads everything and writes it down. Reads kernel maps: call it where blocking is allowed.
    ///
    /// # Errors
    /// Only what formatting into a string can fail with. A subject that cannot be read is left out, logged and
    /// counted in `segue_scrape_errors_total`.
    pub fn render(&self, format: Format) -> Result<String, fmt::Error> {
        let mut open_metrics = String::new();
        prometheus_client::encoding::text::encode(&mut open_metrics, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics => open_metrics,
            Format::Prometheus => text::to_prometheus(&open_metrics),
        })
    }
}

/// Reads [`Observe`] once per scrape.
struct Scrape {
    observe: Arc<dyn Observe>,
    errors: [AtomicU64; READS.len()],
}

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scrape").field("errors", &self.errors).finish_non_exhaustive()
    }
}

impl Scrape {
    fn read<T>(&self, subject: usize, result: Result<T, ObserveError>) -> Option<T> {
        result
            .inspect_err(|error| {
                tracing::warn!(%error, "a scrape leaves out {}", READS[subject]);
                self.errors[subject].fetch_add(1, Ordering::Relaxed);
            })
            .ok()
    }

    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        if let Some(edges) = self.read(0, self.observe.edges()) {
            connections::write(sheet, &edges)?;
        }
        if let Some(requests) = self.read(4, self.observe.requests()) {
            requests::write(sheet, &requests)?;
        }
        if let Some(services) = self.read(1, self.observe.services()) {
            balancing::write(sheet, &services)?;
            breaker::write(sheet, &services)?;
            limits::write(sheet, &services)?;
            rollout::write(sheet, &services)?;
        }
        if let Some(status) = self.read(2, self.observe.status()) {
            kernel::write_status(sheet, &status)?;
            agent::write_status(sheet, &status)?;
            kubernetes::write(sheet, status.kubernetes.as_ref())?;
            overhead::write(sheet, status.budget.as_ref())?;
        }
        if let Some(counters) = self.read(3, self.observe.counters()) {
            requests::write_unparsed(sheet, &counters.unparsed)?;
            draining::write(sheet, &counters)?;
            kernel::write_counters(sheet, &counters)?;
            agent::write_counters(sheet, &counters)?;
        }
        let errors = self.errors.iter().map(|count| count.load(Ordering::Relaxed));
        agent::write_scrape_errors(sheet, READS.into_iter().zip(errors))?;
        if let Some(process) = process::Process::read() {
            process::write(sheet, &process)?;
        }
        Ok(())
    }
}

/// What the registry of text owns of a [`Scrape`].
#[derive(Debug)]
struct Collected(Arc<Scrape>);

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.0.write(&mut Sheet::new(encoder))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::admin::specimen::Specimen;

    fn rendered(specimen: Specimen, format: Format) -> String {
        Exposition::new(Arc::new(specimen)).render(format).expect("a string takes anything")
    }

    /// Name, label names and value of each sample.
    fn samples(text: &str) -> Vec<(String, BTreeSet<String>, f64)> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
                let names =
                    labels.map(|label| label.split_once('=').expect("a label has a value").0.to_owned());
                (name.to_owned(), names.collect(), value.parse().expect("a number"))
            })
            .collect()
    }

    fn family(sample: &str) -> &'static Metric {
        let all = SUBJECTS.iter().flat_map(|(_, metrics)| metrics.iter());
        let is_it = |metric: &&&Metric| {
            sample == metric.name
                || metric.is_histogram()
                    && ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|suffix| sample.strip_suffix(suffix).is_some_and(|base| base == metric.name))
        };
        all.copied().find(|metric| is_it(&metric)).unwrap_or_else(|| panic!("{sample} is in no table"))
    }

    #[test]
    fn every_metric_of_the_tables_is_exposed_with_its_labels_and_no_other() {
        let text = rendered(Specimen::default(), Format::Prometheus);
        let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (name, labels, _) in samples(&text) {
            seen.entry(family(&name).name).or_default().extend(labels);
        }
        for (subject, metrics) in SUBJECTS {
            for metric in *metrics {
                let mut labels =
                    seen.remove(metric.name).unwrap_or_else(|| panic!("no {} sample", metric.name));
                labels.remove("le");
                if *subject == "Connections" {
                    assert!(labels.remove("otel_metric_overflow"), "{} has no overflow series", metric.name);
                }
                if *subject == "Requests" {
                    labels.remove("otel_metric_overflow");
                }
                let declared: BTreeSet<String> = metric.labels.iter().map(ToString::to_string).collect();
                assert_eq!(labels, declared, "{}", metric.name);
            }
        }
    }

    #[test]
    fn the_prometheus_text_keeps_its_rules() {
        let text = rendered(Specimen::default(), Format::Prometheus);
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
        let mut typed = BTreeSet::new();
        let mut current = "";
        let mut helped = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                helped = rest.split_once(' ').expect("a help text").0;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(helped, name, "HELP and TYPE stand together");
                assert!(typed.insert(name), "{name} has one block");
                assert!(kind != "counter" || name.ends_with("_total"), "{name}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                current = name;
            } else {
                let name = line.split(['{', ' ']).next().expect("a name");
                assert_eq!(family(name).name, current, "samples follow their TYPE: {line}");
            }
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn no_series_appears_twice() {
        let text = rendered(Specimen::default(), Format::Prometheus);
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let series = line.rsplit_once(' ').expect("a value").0;
            assert!(seen.insert(series), "{series}");
        }
    }

    #[test]
    fn histograms_are_cumulative_and_end_with_their_count() {
        let text = rendered(Specimen::default(), Format::Prometheus);
        let mut last = (String::new(), 0.0);
        let mut infinite = 0;
        for line in text.lines().filter(|line| line.starts_with("segue_tcp_connect_duration_seconds_bucket{"))
        {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (le, rest) = series.split_once(',').expect("le comes first");
            let value: f64 = value.parse().expect("a number");
            if rest == last.0 {
                assert!(value >= last.1, "{line}");
            }
            last = (rest.to_owned(), value);
            if le.ends_with("le=\"+Inf\"") {
                infinite += 1;
                let count = format!("segue_tcp_connect_duration_seconds_count{{{rest} {value}");
                assert!(text.contains(&count), "{count}");
            }
        }
        assert!(infinite > 2, "the specimen has several edges");
    }

    #[test]
    fn values_say_what_the_text_says() {
        let exposition = Exposition::new(Arc::new(Specimen::default()));
        let text = exposition.render(Format::Prometheus).expect("a string takes anything");
        // What the process is like changes between two readings.
        let is_steady = |name: &str| !name.starts_with("process_");
        let total = |samples: &[(String, BTreeSet<String>, f64)], name: &str| {
            let its = samples.iter().filter(|(sample, ..)| sample == name);
            its.fold((0, 0.0), |(count, sum), (_, _, value)| (count + 1, sum + value))
        };
        let samples = samples(&text);
        let mut seen = 0;
        exposition.each(&mut |family| {
            seen += 1;
            let labels: BTreeSet<_> = family.points.iter().map(|point| &point.labels).collect();
            assert_eq!(labels.len(), family.points.len(), "no point of {} is there twice", family.name);
            let mut values = (0, 0.0);
            let mut buckets = 0.0;
            for point in &family.points {
                values.0 += 1;
                values.1 += match &point.value {
                    Value::Integer(value) => *value as f64,
                    Value::Float(value) => *value,
                    Value::Distribution { count, buckets: of_it, .. } => {
                        buckets += of_it.iter().map(|(_, count)| *count as f64).sum::<f64>();
                        *count as f64
                    }
                };
            }
            let name = match family.kind {
                Kind::Histogram => format!("{}_count", family.name),
                Kind::Counter | Kind::Gauge => family.name.to_owned(),
            };
            assert!(family.kind != Kind::Histogram || buckets == values.1, "{name}");
            assert!(!is_steady(&name) || total(&samples, &name) == values, "{name}: {values:?}");
        });
        assert_eq!(seen, text.lines().filter(|line| line.starts_with("# TYPE ")).count());
    }

    #[test]
    fn open_metrics_name_counters_without_total_and_end_with_eof() {
        let text = rendered(Specimen::default(), Format::OpenMetrics);
        assert!(text.contains("# TYPE segue_tcp_connections_opened counter\n"));
        assert!(text.contains("\nsegue_tcp_connections_opened_total{"));
        assert!(text.contains("# UNIT segue_tcp_sent_bytes bytes\n"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted() {
        let exposition = Exposition::new(Arc::new(Specimen { broken: true, ..Specimen::default() }));
        let first = exposition.render(Format::Prometheus).expect("a string takes anything");
        assert!(!first.contains("segue_tcp_"));
        assert!(first.contains("segue_scrape_errors_total{subject=\"edges\"} 1\n"), "{first}");
        let second = exposition.render(Format::Prometheus).expect("a string takes anything");
        assert!(second.contains("segue_scrape_errors_total{subject=\"edges\"} 2\n"));
        assert!(second.contains("segue_build_info{"), "the rest is still there");
    }
}
