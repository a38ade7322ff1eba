//! What the agent's metrics count, summed by labels, as tests compare it with what clients and servers counted themselves.

use std::collections::BTreeMap;

use super::Agent;

impl Agent<'_> {
    /// What a metric counts, summed by the values of these labels; a label that a sample has not is empty.
    ///
    /// # Panics
    /// When the metrics are not served.
    pub fn counted<const N: usize>(
        &self,
        metric: &str,
        labels: &[(&str, &str)],
        by: [&str; N],
    ) -> BTreeMap<[String; N], u64> {
        let mut counts = BTreeMap::new();
        for sample in self.metrics().matching(metric, labels) {
            let values = by.map(|name| sample.labels.get(name).cloned().unwrap_or_default());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let count = sample.value as u64;
            *counts.entry(values).or_default() += count;
        }
        counts
    }

    /// The same by one label.
    ///
    /// # Panics
    /// When the metrics are not served.
    pub fn counted_by(&self, metric: &str, name: &str) -> BTreeMap<String, u64> {
        self.counted(metric, &[], [name]).into_iter().map(|([value], count)| (value, count)).collect()
    }

    /// Connections on which something was not counted as a request, by reason; those that there were.
    ///
    /// # Panics
    /// When the metrics are not served.
    pub fn unparsed(&self) -> BTreeMap<String, u64> {
        let mut reasons = self.counted_by("segue_l7_unparsed_total", "reason");
        reasons.retain(|_, count| *count > 0);
        reasons
    }
}
