//! One metric as the tables declare it, and the writer that puts samples down in its name, type and unit: as text, or as
//! values for who sends them elsewhere.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::flows::{Distribution, histogram};

/// A metric, as it is exposed and documented.
#[derive(Debug)]
pub(super) struct Metric {
    /// The name in the Prometheus text: with unit, and `_total` for counters.
    pub(super) name: &'static str,
    /// Counter, gauge or histogram.
    pub(super) kind: Kind,
    /// The label names.
    pub(super) labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub(super) help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises while the agent and what it counts live.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution of durations, in seconds.
    Histogram,
}

impl Kind {
    /// The name in documentation.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    pub(super) const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    pub(super) const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    pub(super) const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Histogram, labels, help }
    }

    #[cfg(test)]
    pub(super) fn is_histogram(&self) -> bool {
        self.kind == Kind::Histogram
    }

    /// The name without unit and type, and the unit: how the encoder wants it.
    fn parts(&self) -> (&'static str, Option<Unit>) {
        let name = match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        };
        if let Some(base) = name.strip_suffix("_bytes") {
            (base, Some(Unit::Bytes))
        } else if let Some(base) = name.strip_suffix("_seconds") {
            (base, Some(Unit::Seconds))
        } else {
            (name, None)
        }
    }

    /// The unit's name; none for plain counts.
    fn unit(&self) -> Option<&'static str> {
        match self.parts().1 {
            Some(Unit::Bytes) => Some("bytes"),
            Some(Unit::Seconds) => Some("seconds"),
            _ => None,
        }
    }

    /// The unit's name in documentation; empty for plain counts.
    pub(super) fn unit_name(&self) -> String {
        self.parts().1.map_or_else(String::new, |unit| unit.as_str().to_owned())
    }
}

/// A label of one sample.
pub(super) type Label<'a> = (&'static str, Cow<'a, str>);

/// A label from borrowed text.
pub(super) fn label<'a>(name: &'static str, value: &'a str) -> Label<'a> {
    (name, Cow::Borrowed(value))
}

/// A metric and all its samples, as values.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name in the Prometheus text: with unit, and `_total` for counters.
    pub name: &'static str,
    /// What it says, in one sentence.
    pub help: &'static str,
    /// `bytes` or `seconds`; none for plain counts.
    pub unit: Option<&'static str>,
    /// Its type.
    pub kind: Kind,
    /// Its samples.
    pub points: Vec<Point>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// What it says.
    pub value: Value,
}

/// The value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number; counts beyond its range stay at its end.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A distribution, of a histogram.
    Distribution {
        /// How many were seen.
        count: u64,
        /// Their sum.
        sum: f64,
        /// The upper bound of each bucket, the last one infinite, and how many are in this bucket alone.
        buckets: Vec<(f64, u64)>,
    },
}

/// A number that a counter or a gauge can have.
pub(super) trait Number: Copy {
    fn value(self) -> Value;
}

impl Number for u32 {
    fn value(self) -> Value {
        Value::Integer(self.into())
    }
}

impl Number for i64 {
    fn value(self) -> Value {
        Value::Integer(self)
    }
}

impl Number for u64 {
    fn value(self) -> Value {
        Value::Integer(self.try_into().unwrap_or(i64::MAX))
    }
}

impl Number for usize {
    fn value(self) -> Value {
        Value::Integer(self.try_into().unwrap_or(i64::MAX))
    }
}

impl Number for f64 {
    fn value(self) -> Value {
        Value::Float(self)
    }
}

/// Where the samples of one scrape are put down.
pub(super) struct Sheet<'a>(Paper<'a>);

enum Paper<'a> {
    Text(DescriptorEncoder<'a>),
    Values(&'a mut dyn FnMut(Family)),
}

impl<'a> Sheet<'a> {
    /// A sheet of text.
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(Paper::Text(encoder))
    }

    /// A sheet that hands on each metric as it is written.
    pub(super) fn of_values(take: &'a mut dyn FnMut(Family)) -> Self {
        Self(Paper::Values(take))
    }

    /// All samples of a counter. A metric is written once per scrape.
    pub(super) fn counter<'l, V: EncodeCounterValue + Number>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, V)>,
    ) -> fmt::Result {
        let put = |encoder: &mut MetricEncoder<'_>, value: &V| {
            encoder.encode_counter::<NoLabelSet, V, u64>(value, None)
        };
        self.write(metric, samples, put, |value| value.value())
    }

    /// All samples of a gauge.
    pub(super) fn gauge<'l, V: EncodeGaugeValue + Number>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, V)>,
    ) -> fmt::Result {
        let put = |encoder: &mut MetricEncoder<'_>, value: &V| encoder.encode_gauge(value);
        self.write(metric, samples, put, |value| value.value())
    }

    /// All samples of a histogram.
    pub(super) fn histogram<'l>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, &'l Distribution)>,
    ) -> fmt::Result {
        let put = |encoder: &mut MetricEncoder<'_>, distribution: &&Distribution| {
            let buckets = exposed_buckets(distribution);
            encoder.encode_histogram::<NoLabelSet>(
                seconds(distribution.sum_ns),
                distribution.count,
                &buckets,
                None,
            )
        };
        self.write(metric, samples, put, |distribution| Value::Distribution {
            count: distribution.count,
            sum: seconds(distribution.sum_ns),
            buckets: exposed_buckets(distribution),
        })
    }

    fn write<'l, V>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, V)>,
        put: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
        value_of: impl Fn(V) -> Value,
    ) -> fmt::Result {
        let encoder = match &mut self.0 {
            Paper::Text(encoder) => encoder,
            Paper::Values(take) => {
                let owned = |labels: Vec<Label<'l>>| {
                    labels.into_iter().map(|(name, value)| (name, value.into_owned())).collect()
                };
                let point = |(labels, value)| Point { labels: owned(labels), value: value_of(value) };
                take(Family {
                    name: metric.name,
                    help: metric.help,
                    unit: metric.unit(),
                    kind: metric.kind,
                    points: samples.into_iter().map(point).collect(),
                });
                return Ok(());
            }
        };
        let (name, unit) = metric.parts();
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut family = encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                put(&mut family, &value)?;
            } else {
                put(&mut family.encode_family(&labels)?, &value)?;
            }
        }
        Ok(())
    }
}

/// Two kernel buckets in one: 11 bounds from 32 µs to 33.6 s by a factor of 4, which keeps a histogram at 14
/// series. The kernel's full resolution is in the quantiles of the admin API.
fn exposed_buckets(distribution: &Distribution) -> Vec<(f64, u64)> {
    let cells = distribution.histogram.buckets.chunks(2).enumerate();
    cells
        .map(|(pair, cells)| {
            let upper = histogram::bound_ns(2 * pair + 1).map_or(f64::INFINITY, seconds);
            (upper, cells.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)))
        })
        .collect()
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "sums beyond 104 days lose nanoseconds")]
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::Histogram;

    use super::*;

    #[test]
    fn exposed_buckets_hold_every_duration_once() {
        let mut counts = Histogram::default();
        for (bucket, count) in counts.buckets.iter_mut().zip(1..) {
            *bucket = count;
        }
        let exposed = exposed_buckets(&counts.into());
        assert_eq!(exposed.len(), 12);
        assert_eq!(exposed[0], (0.000_032, 1 + 2));
        assert_eq!(exposed[10], (33.554_432, 21 + 22));
        assert_eq!(exposed[11], (f64::INFINITY, 23));
    }

    #[test]
    fn a_name_splits_into_base_and_unit() {
        let parts = |metric: Metric| {
            let (base, unit) = metric.parts();
            (base, unit.map(|unit| unit.as_str().to_owned()))
        };
        assert_eq!(parts(Metric::counter("a_sent_bytes_total", &[], "")), ("a_sent", Some("bytes".into())));
        assert_eq!(parts(Metric::histogram("a_rtt_seconds", &[], "")), ("a_rtt", Some("seconds".into())));
        assert_eq!(parts(Metric::gauge("a_active", &[], "")), ("a_active", None));
    }
}
