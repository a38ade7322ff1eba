//! The two text formats scrapers ask for. The library writes OpenMetrics; older scrapers and lint tools want the
//! Prometheus text format 0.0.4.

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4: what every scraper reads.
    Prometheus,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// The format for a value of the `Accept` header: OpenMetrics where it is named and not refused.
    pub fn accepted_by(accept: &str) -> Self {
        let accepts = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(OPEN_METRICS));
            let refused = parts.filter_map(|part| part.strip_prefix("q=")).any(|q| q.parse() == Ok(0.0_f32));
            named && !refused
        });
        if accepts { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// OpenMetrics text without exemplars as Prometheus text: units and the end mark go, and a counter is called in
/// HELP and TYPE what its samples are called.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    let mut help = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The type, which decides on the name, comes on the next line.
            help = rest.split_once(' ').map(|(_, help)| help);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some(help) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            continue;
        }
        text.extend([line, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_becomes_prometheus_text() {
        let open_metrics = "# HELP a_sent_bytes Bytes.\n# TYPE a_sent_bytes counter\n# UNIT a_sent_bytes bytes\n\
                            a_sent_bytes_total{x=\"# UNIT \"} 3\n\
                            # HELP b Now.\n# TYPE b gauge\nb 1.5\n\
                            # HELP build Built.\n# TYPE build info\nbuild_info{v=\"1\"} 1\n\
                            # TYPE c unknown\nc 0\n# EOF\n";
        let expected = "# HELP a_sent_bytes_total Bytes.\n# TYPE a_sent_bytes_total counter\n\
                        a_sent_bytes_total{x=\"# UNIT \"} 3\n\
                        # HELP b Now.\n# TYPE b gauge\nb 1.5\n\
                        # HELP build_info Built.\n# TYPE build_info gauge\nbuild_info{v=\"1\"} 1\n\
                        # TYPE c untyped\nc 0\n";
        assert_eq!(to_prometheus(open_metrics), expected);
    }

    #[test]
    fn open_metrics_are_served_only_to_who_asks_for_them() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5", Format::OpenMetrics),
            ("text/plain, Application/OpenMetrics-Text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0, text/plain", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted_by(accept), format, "{accept}");
        }
    }
}
