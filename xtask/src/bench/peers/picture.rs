//! The chart of the comparison. It chooses which figures are drawn, and measures nothing.

use super::contestant::System;
use super::report::{Comparison, Series};
use crate::bench::chart::{self, Bar, Panel, grouped, short};
use crate::bench::spread::Spread;
use crate::bench::{cpus, kernel_version};

/// The text of an SVG file.
pub(super) fn draw(comparison: &Comparison) -> anyhow::Result<String> {
    let (one, many) = (&comparison.one, &comparison.many);
    let per_second = |series: &Series| {
        bars(series, |system| {
            let reached = series.per_second(system)?;
            let ratio = series.ratio(system, System::Direct)?;
            Some((reached, format!("{} (× {:.2})", grouped(reached.median), ratio.median)))
        })
    };
    let cpu = |series: &Series| {
        bars(series, |system| {
            let used = series.cpu_us(system)?;
            Some((used, format!("{} µs", short(used.median))))
        })
    };
    let mut panels = vec![
        Panel::Bars("New connections per second, 1 service", per_second(&one.connect)),
        Panel::Bars("New connections per second, many services", per_second(&many.connect)),
        Panel::Bars("Requests per second on open connections", per_second(&one.keepalive)),
        Panel::Bars("Processor time for a new connection, whole node", cpu(&one.connect)),
    ];
    panels.push(Panel::Bars("Processor time for a request, whole node", cpu(&one.keepalive)));
    // The last rate is the one that all can keep up with.
    if let Some((_, series)) = one.rates.last() {
        let p99 = bars(series, |system| {
            let p99 = series.quantile_us(system, 0.99)?;
            Some((p99, format!("{} µs", short(p99.median))))
        });
        panels.push(Panel::Bars("99th percentile at a rate all keep up with", p99));
    }
    let rate = one.rates.last().map_or(String::new(), |(rate, _)| format!("; the rate is {rate} requests/s"));
    let subtitle = format!(
        "Linux {}, {} CPUs; medians, lines from the worst to the best round; many services: {}{rate}",
        kernel_version(),
        cpus(),
        grouped(f64::from(many.services)),
    );
    chart::draw("The same server, reached in different ways", &subtitle, &panels)
}

fn bars(series: &Series, figure: impl Fn(System) -> Option<(Spread, String)>) -> Vec<Bar> {
    series
        .systems()
        .filter_map(|system| {
            let (spread, text) = figure(system)?;
            Some(Bar { name: system.name().to_owned(), spread, text, ours: system == System::Segue })
        })
        .collect()
}
