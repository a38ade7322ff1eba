//! The tables of `docs/config.md`, from the enums and limits that decide. Knows no file.

use std::fmt::Write as _;

use agent_ebpf::abi::limits::{MAX_FALLBACKS, MAX_SUBSETS};
use agent_ebpf::abi::{Algorithm, BreakerMode, BreakerPolicy};
use agent_ebpf::decide::breaker::{Signal, SignalSet};

use crate::desired::{Departure, PolicySpec};

use super::breaker::{self, BreakerField};
use super::canary::{self, CanaryField, GuardField};
use super::check::{BACKENDS, FRONTENDS, SERVICES};
use super::draining::{self, DrainingField};
use super::limits::{CONNECTIONS, LimitField, LimitsField, RATE};
use super::reader::Fields;
use super::service::{AffinityField, BackendField, PolicyField, ServiceField};
use super::value::{
    AFFINITY_TIMEOUT, CONNECT_TIMEOUT, DEFAULT_WEIGHT, MAX_LABEL, RefuseWith, SHARES, WEIGHTS, show_duration,
};
use super::{MAX_FILE_BYTES, MAX_REPORTED, RootField};

/// The reference of the file format, in Markdown: every field, algorithm, errno, default and limit.
pub fn reference() -> String {
    let mut text = String::new();
    fields::<RootField>(&mut text, "The file");
    fields::<ServiceField>(&mut text, "`services[]`");
    fields::<PolicyField>(&mut text, "`services[].policy`");
    fields::<AffinityField>(&mut text, "`services[].policy.affinity`");
    fields::<LimitsField>(&mut text, "`services[].policy.limits`");
    fields::<LimitField>(&mut text, "`services[].policy.limits.backend`, `.service` and `.client`");
    fields::<DrainingField>(&mut text, "`services[].policy.draining`");
    let departures = Departure::ALL.iter().map(|departure| {
        let name = marked(departure.name(), draining::DEFAULT_ON.contains(departure));
        [name, departure_meaning(*departure).to_owned()]
    });
    table(&mut text, "`draining.on`", ["Name", "Which backends"], departures);
    fields::<CanaryField>(&mut text, "`services[].policy.canary`");
    fields::<GuardField>(&mut text, "`services[].policy.canary.guard`");
    table(&mut text, "The values of `canary`", ["Field", "Value"], canary::values());
    fields::<BreakerField>(&mut text, "`services[].policy.breaker`");
    let title = "The values of `breaker`";
    table(&mut text, title, ["Field", "Value"], breaker::values());
    let modes = BreakerMode::ALL.iter().map(|mode| {
        let name = marked(mode.name(), *mode == BreakerPolicy::DEFAULT.mode());
        [name, mode_meaning(*mode).to_owned()]
    });
    table(&mut text, "`mode`", ["Name", "What the breaker does"], modes);
    let signals = breaker::known_signals().map(|signal| {
        let name = marked(signal.name(), SignalSet::DEFAULT.contains(signal));
        [name, signal_meaning(signal).to_owned()]
    });
    table(&mut text, "`signals`", ["Name", "What happened"], signals);
    fields::<BackendField>(&mut text, "`services[].backends[]`");
    let default = PolicySpec::default();
    let algorithms = Algorithm::ALL.iter().map(|algorithm| {
        let name = marked(algorithm.name(), *algorithm == default.algorithm);
        [name, algorithm_meaning(*algorithm).to_owned()]
    });
    table(&mut text, "`algorithm`", ["Name", "How a backend is chosen"], algorithms);
    let errnos = RefuseWith::ALL.iter().map(|errno| {
        let name = marked(errno.name(), errno.errno() == default.refuse_errno);
        [name, errno.errno().to_string()]
    });
    table(&mut text, "`refuse_with`", ["Name", "Number"], errnos);
    table(&mut text, "Limits and defaults", ["What", "Value"], limits());
    text
}

fn fields<F: Fields>(text: &mut String, title: &str) {
    let rows = F::ALL.iter().map(|field| [format!("`{}`", field.name()), field.meaning().to_owned()]);
    table(text, title, ["Field", "Meaning"], rows);
}

fn table(text: &mut String, title: &str, heads: [&str; 2], rows: impl IntoIterator<Item = [String; 2]>) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "### {title}\n\n| {} | {} |\n| --- | --- |", heads[0], heads[1]);
    for [name, meaning] in rows {
        let _ = writeln!(text, "| {name} | {meaning} |");
    }
    text.push('\n');
}

fn marked(name: &str, is_default: bool) -> String {
    match is_default {
        true => format!("`{name}` (default)"),
        false => format!("`{name}`"),
    }
}

fn algorithm_meaning(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Random => "Each connection goes to a random backend, in proportion to the weights.",
        Algorithm::RoundRobin => {
            "Connections go round the backends in a fixed sequence in which weights are interleaved."
        }
        Algorithm::Maglev => {
            "A client keeps its backend while it is there; losing one backend moves few other clients."
        }
        Algorithm::LeastConnections => "Of two random backends, the one with fewer open connections.",
        Algorithm::PeakEwma => {
            "Of two random backends, the one with the lower product of connect latency and open connections."
        }
    }
}

fn departure_meaning(departure: Departure) -> &'static str {
    match departure {
        Departure::Removed => "Those the service does not name any more, or whose service is gone.",
        Departure::Draining => "Those marked `draining: true`, or with weight 0.",
        Departure::Ejected => {
            "Those whose breaker opened, until it closes, and those an operator ordered out."
        }
    }
}

fn mode_meaning(mode: BreakerMode) -> &'static str {
    match mode {
        BreakerMode::Off => "Nothing.",
        BreakerMode::Observe => {
            "Decides and counts what it would have done; every connection goes where it would go."
        }
        BreakerMode::Enforce => "Decides, and keeps connections away from the backends that are out.",
        BreakerMode::ForcedOpen => {
            "All backends of the service are out: its fallback gets the connections, or they are refused."
        }
        BreakerMode::ForcedClosed => "None is out, and what was held against them is forgotten.",
    }
}

fn signal_meaning(signal: Signal) -> &'static str {
    match signal {
        Signal::Refused => "The backend answered the handshake with a reset.",
        Signal::Timeout => "The handshake got no answer in time.",
        Signal::Unreachable => "The network said there is no way to the backend.",
        Signal::ResetEarly => "The backend reset the connection before its first byte.",
        Signal::Reset => "The backend reset the connection after its first byte.",
        Signal::RetransmissionTimeout => "An open connection on which what was sent was never acknowledged.",
        Signal::SlowConnect => "A handshake was slow.",
        Signal::Http5xx => "An HTTP answer with a status of 500 or more.",
        Signal::GrpcStatus => {
            "A call of gRPC that ends with UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE or DATA_LOSS."
        }
        Signal::SlowAnswer => "An answer took too long.",
        Signal::NoAnswer => "A request got no answer in time.",
    }
}

fn limits() -> Vec<[String; 2]> {
    let row = |what: &str, value: String| [what.to_owned(), value];
    let [on, reset_after] = draining::values();
    vec![
        row("services", format!("at most {SERVICES}; one with IPv4 and IPv6 frontends counts twice")),
        row("frontends of all services", format!("at most {FRONTENDS}")),
        row("backends of all services", format!("at most {BACKENDS}")),
        row("versions in a `split`", format!("at most {MAX_SUBSETS}")),
        row("a share in a `split`", format!("{} to {}", SHARES.start(), SHARES.end())),
        row("`weight`", format!("{} to {}, default {DEFAULT_WEIGHT}", WEIGHTS.start(), WEIGHTS.end())),
        row(
            "`affinity.timeout`",
            format!(
                "{} to {}, without `affinity` none",
                show_duration(*AFFINITY_TIMEOUT.start()),
                show_duration(*AFFINITY_TIMEOUT.end())
            ),
        ),
        row(
            "`connect_timeout`",
            format!(
                "{} to {}, by default none",
                show_duration(*CONNECT_TIMEOUT.start()),
                show_duration(*CONNECT_TIMEOUT.end())
            ),
        ),
        row(
            "`limits.….connections`, `pending`",
            format!("{} to {}, by default none", CONNECTIONS.start(), CONNECTIONS.end()),
        ),
        row("`limits.….rate`, `burst`", format!("{} to {}, by default none", RATE.start(), RATE.end())),
        on,
        reset_after,
        row("services in a chain of fallbacks", format!("at most {MAX_FALLBACKS}, the first included")),
        row("each part of a service's name, a zone, a version", format!("1 to {MAX_LABEL} characters")),
        row("size of the file", format!("at most {} MiB", MAX_FILE_BYTES >> 20)),
        row("problems reported at a time", MAX_REPORTED.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BEGIN: &str = "<!-- reference: begin -->\n";
    const END: &str = "<!-- reference: end -->\n";

    #[test]
    fn the_documentation_says_what_the_code_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
        let text = std::fs::read_to_string(&file).expect("docs/config.md");
        let (before, rest) = text.split_once(BEGIN).expect("the mark where the reference begins");
        let (written, after) = rest.split_once(END).expect("the mark where the reference ends");
        let current = format!("\n{}", reference());
        if std::env::var_os("SEGUE_UPDATE_REFERENCE").is_some() {
            std::fs::write(&file, format!("{before}{BEGIN}{current}{END}{after}")).expect("written");
            return;
        }
        assert_eq!(written, current, "run this test with SEGUE_UPDATE_REFERENCE=1 to write docs/config.md");
    }
}
