//! Totals by edge as text: connections, or the requests on them.

use std::fmt::Write;

use agent_ebpf::abi::CloseReason;

use super::client_name;
use crate::cli::table::{Cell, HEADING, Table, bytes, duration};
use crate::flows::tally::Reason;
use crate::flows::{Distribution, EdgeView, Requests, Tally};

const NONE: &str = "No connections to services so far.\n";
const NONE_SELECTED: &str = "No flows that were selected, so far.\n";

/// What is said where there is nothing to show.
pub(super) fn nothing(is_selected: bool) -> &'static str {
    if is_selected { NONE_SELECTED } else { NONE }
}

fn ends(edge: &EdgeView) -> (String, String) {
    match edge.overflow {
        true => ("(all others)".to_owned(), "(all others)".to_owned()),
        false => (client_name(&edge.client), format!("{}:{}", edge.service, edge.port)),
    }
}

fn resets(edge: &EdgeView) -> u64 {
    edge.closed.get(CloseReason::RstLocal) + edge.closed.get(CloseReason::RstRemote)
}

fn quantiles(of: &Distribution) -> [Cell; 2] {
    [of.p50_ns, of.p99_ns].map(|ns| Cell::or_dash(ns.map(duration)))
}

/// One row of connections per edge.
pub(super) fn connections(edges: &[EdgeView]) -> String {
    let headings = &[
        "CLIENT",
        "SERVICE",
        "VERSION",
        ">OPENED",
        ">ACTIVE",
        ">FAILED",
        ">RESETS",
        ">RESENT",
        ">SENT",
        ">RECEIVED",
        ">CONNECT p50",
        ">CONNECT p99",
        ">RTT p50",
        ">RTT p99",
    ];
    let mut table = Table::new(headings);
    for edge in edges {
        let (client, service) = ends(edge);
        let [connect_p50, connect_p99] = quantiles(&edge.connect);
        let [rtt_p50, rtt_p99] = quantiles(&edge.rtt);
        table.row([
            client.into(),
            service.into(),
            Cell::or_dash(edge.version.as_deref()),
            edge.opened.into(),
            edge.active.into(),
            Cell::bad_count(edge.failed.total()),
            Cell::bad_count(resets(edge)),
            edge.retransmits.into(),
            bytes(edge.sent_bytes).into(),
            bytes(edge.received_bytes).into(),
            connect_p50,
            connect_p99,
            rtt_p50,
            rtt_p99,
        ]);
    }
    table.to_string()
}

/// `200: 1190, 404: 30`.
fn statuses(requests: &Requests) -> String {
    let counts: Vec<_> =
        requests.by_status.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    counts.join(", ")
}

/// One row of requests per edge and protocol.
pub(super) fn requests(edges: &[EdgeView]) -> String {
    let headings =
        &["CLIENT", "SERVICE", "VERSION", "PROTOCOL", ">REQUESTS", ">ERRORS", ">p50", ">p99", "STATUS"];
    let mut table = Table::new(headings);
    for (edge, requests) in edges.iter().flat_map(|edge| edge.requests.iter().map(move |part| (edge, part))) {
        let (client, service) = ends(edge);
        let [p50, p99] = quantiles(&requests.duration);
        table.row([
            client.into(),
            service.into(),
            Cell::or_dash(edge.version.as_deref()),
            requests.protocol.name().into(),
            requests.count.into(),
            Cell::bad_count(requests.errors),
            p50,
            p99,
            statuses(requests).into(),
        ]);
    }
    table.to_string()
}

/// One line per edge, unaligned.
pub(super) fn compact(edges: &[EdgeView]) -> String {
    let mut text = String::new();
    for edge in edges {
        let (client, service) = ends(edge);
        let version = edge.version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{client} → {service}{version}  opened {}, active {}, failed {}, resets {}",
            edge.opened,
            edge.active,
            edge.failed.total(),
            resets(edge)
        );
        for part in &edge.requests {
            let _ = write!(text, ", {} {} with {} errors", part.protocol.name(), part.count, part.errors);
        }
        text.push('\n');
    }
    text
}

/// `refused: 3, timeout: 1`, or `0`.
fn reasons<R: Reason>(tally: Tally<R>) -> String {
    let counted = tally.iter().filter(|(_, count)| *count > 0);
    let counted: Vec<_> = counted.map(|(reason, count)| format!("{}: {count}", reason.name())).collect();
    if counted.is_empty() { "0".to_owned() } else { counted.join(", ") }
}

/// Everything about one edge, a line for each thing.
pub(super) fn dict(edge: &EdgeView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{HEADING}{name:>14}{HEADING:#}: {value}");
    };
    let (client, service) = ends(edge);
    line("CLIENT", client);
    line("SERVICE", service);
    if let Some(version) = &edge.version {
        line("VERSION", version.to_string());
    }
    line("OPENED", edge.opened.to_string());
    line("ACTIVE", edge.active.to_string());
    line("FAILED", reasons(edge.failed));
    line("CLOSED", reasons(edge.closed));
    line("SENT", bytes(edge.sent_bytes));
    line("RECEIVED", bytes(edge.received_bytes));
    line("RETRANSMITS", edge.retransmits.to_string());
    let mut times = |name: &str, of: &Distribution| {
        if let (Some(p50), Some(p99)) = (of.p50_ns, of.p99_ns) {
            line(name, format!("p50 {}, p99 {}", duration(p50), duration(p99)));
        }
    };
    times("CONNECT", &edge.connect);
    times("CONNECT FAILED", &edge.connect_failed);
    times("RTT", &edge.rtt);
    for part in &edge.requests {
        let _ = writeln!(
            text,
            "{HEADING}{:>14}{HEADING:#}: {} requests, {} errors; {}",
            part.protocol.name().to_uppercase(),
            part.count,
            part.errors,
            statuses(part)
        );
        if let (Some(p50), Some(p99)) = (part.duration.p50_ns, part.duration.p99_ns) {
            let _ = writeln!(
                text,
                "{HEADING}{:>14}{HEADING:#}: p50 {}, p99 {}",
                "ANSWERED IN",
                duration(p50),
                duration(p99)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::cli::table::plain;

    fn edges() -> Vec<EdgeView> {
        Specimen::default().edges().expect("a specimen")
    }

    #[test]
    fn totals_have_a_line_per_edge() {
        let expected = "\
CLIENT           SERVICE           VERSION  OPENED  ACTIVE  FAILED  RESETS  RESENT   SENT  RECEIVED  CONNECT p50  CONNECT p99  RTT p50  RTT p99
batch@night \"2\"  shop/payment:443  v2           88      12       0      21      41  7 MiB   2.1 GiB      60.2 µs       286 µs  23.7 µs  60.9 µs
nginx            shop/payment:443  v1         1234      12       5      21      41  7 MiB   2.1 GiB      60.2 µs       286 µs  23.7 µs  60.9 µs
(all others)     (all others)      -          1234      12       5      21      41  7 MiB   2.1 GiB      60.2 µs       286 µs  23.7 µs  60.9 µs
";
        assert_eq!(plain(&connections(&edges())), expected);
    }

    #[test]
    fn requests_have_a_line_per_edge_and_protocol() {
        let text = plain(&requests(&edges()[1..2]));
        let expected = "\
CLIENT  SERVICE           VERSION  PROTOCOL  REQUESTS  ERRORS     p50      p99  STATUS
nginx   shop/payment:443  v1       http1         1227       7  213 µs  1.2 ms  200: 1190, 404: 30, 503: 7
";
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>()[..9],
            expected.split_whitespace().collect::<Vec<_>>()[..9]
        );
        assert!(text.contains("http1         1227       7"), "{text}");
        assert!(text.ends_with("200: 1190, 404: 30, 503: 7\n"), "{text}");
    }

    #[test]
    fn an_edge_is_one_line_or_a_line_for_each_thing() {
        let edges = edges();
        let line = plain(&compact(&edges[1..2]));
        assert_eq!(
            line,
            "nginx → shop/payment:443 (v1)  opened 1234, active 12, failed 5, resets 21, http1 1227 with 7 errors\n"
        );
        let text = plain(&dict(&edges[1]));
        assert!(text.contains("        FAILED: refused: 3, timeout: 1, no_backend: 1\n"), "{text}");
        assert!(
            text.contains("         HTTP1: 1227 requests, 7 errors; 200: 1190, 404: 30, 503: 7\n"),
            "{text}"
        );
        assert!(plain(&dict(&edges[0])).contains("        FAILED: 0\n"));
    }
}
