//! What Segue is to reach beside its peers, and whether it did. An aim that was missed fails nothing.

use serde_json::{Value, json};

use super::contestant::{ENVOY_TCP, HAPROXY_TCP, IPTABLES, System};
use super::report::Comparison;
use crate::bench::rounded;
use crate::bench::spread::Spread;

/// One aim.
pub(super) struct Aim {
    what: String,
    aim: f64,
    at_least: bool,
    unit: &'static str,
    measured: Spread,
}

/// The aims for which something was measured.
pub(super) fn of(comparison: &Comparison) -> Vec<Aim> {
    let (one, many) = (&comparison.one, &comparison.many);
    let at_least = |what: &str, aim, measured: Option<Spread>| {
        measured.map(|measured| Aim { what: what.to_owned(), aim, at_least: true, unit: "×", measured })
    };
    let segue = System::Segue;
    let ratios = [
        at_least(
            "requests on open connections, against direct",
            0.99,
            one.keepalive.ratio(segue, System::Direct),
        ),
        at_least("new connections, against direct", 0.97, one.connect.ratio(segue, System::Direct)),
        at_least("new connections, 1 service, against iptables", 1.0, one.connect.ratio(segue, IPTABLES)),
        at_least(
            "new connections, many services, against iptables",
            1.5,
            many.connect.ratio(segue, IPTABLES),
        ),
        at_least("new connections, against HAProxy tcp", 2.0, one.connect.ratio(segue, HAPROXY_TCP)),
        at_least("new connections, against Envoy tcp_proxy", 3.0, one.connect.ratio(segue, ENVOY_TCP)),
    ];
    let mut aims: Vec<Aim> = ratios.into_iter().flatten().collect();
    if let Some((rate, series)) = one.rates.first()
        && let Some(measured) = series.added_p99_us(segue)
    {
        let what = format!("99th percentile beyond direct's, at {rate} requests/s");
        aims.push(Aim { what, aim: 20.0, at_least: false, unit: "µs", measured });
    }
    for (when, percent) in &comparison.weights.idle_percent {
        let measured = Spread { median: *percent, min: *percent, max: *percent };
        let what = format!("idle agent, many services, {when}, of a core");
        aims.push(Aim { what, aim: 0.3, at_least: false, unit: "%", measured });
    }
    aims
}

/// What can be said of an aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    /// The rounds lie further apart than what is asked for: a quieter machine has to tell.
    NotTold,
}

impl Aim {
    /// Whether the median reached it.
    fn verdict(&self) -> Verdict {
        let Spread { median, min, max } = self.measured;
        let met = if self.at_least { median >= self.aim } else { median <= self.aim };
        match met {
            _ if (min..=max).contains(&self.aim) && max - min > 2.0 * self.aim => Verdict::NotTold,
            true => Verdict::Met,
            false => Verdict::Missed,
        }
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        format!(
            "  {:<55} {:>8} {} ({} to {}), aim {} {}: {}",
            self.what,
            rounded(self.measured.median),
            self.unit,
            rounded(self.measured.min),
            rounded(self.measured.max),
            if self.at_least { "≥" } else { "≤" },
            rounded(self.aim),
            match self.verdict() {
                Verdict::Met => "met",
                Verdict::Missed => "missed",
                Verdict::NotTold => "not told, the rounds differ by more",
            }
        )
    }

    /// For programs.
    pub(super) fn as_json(&self) -> Value {
        json!({
            "what": self.what, "aim": self.aim, "at_least": self.at_least, "unit": self.unit,
            "measured": self.measured.as_json(), "met": (self.verdict() != Verdict::NotTold).then(|| self.verdict() == Verdict::Met),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_by_the_median_from_its_side() {
        let measured = Spread { median: 0.98, min: 0.9, max: 1.1 };
        let mut aim = Aim { what: "x".into(), aim: 0.99, at_least: true, unit: "×", measured };
        assert!(aim.line().ends_with("aim ≥ 0.99: missed"), "{}", aim.line());
        aim.at_least = false;
        assert_eq!((aim.verdict(), aim.as_json()["met"].as_bool()), (Verdict::Met, Some(true)));
    }

    #[test]
    fn rounds_that_lie_further_apart_than_the_aim_tell_nothing() {
        let measured = Spread { median: -2_600.0, min: -77_000.0, max: 4_200.0 };
        let aim = Aim { what: "x".into(), aim: 20.0, at_least: false, unit: "µs", measured };
        assert_eq!((aim.verdict(), aim.as_json()["met"].as_bool()), (Verdict::NotTold, None));
    }
}
