//! Single events as text: one line each to read along, columns, or everything.

use std::fmt::Write;

use agent_ebpf::abi::CloseReason;
use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::client_name;
use crate::cli::table::{BAD, DIM, GOOD, HEADING, WARN, bytes, duration};
use crate::flows::record::Happening;
use crate::flows::{MemoryView, Record};

/// What `-o dict` puts between two events.
pub(super) const SEPARATOR: &str = "------------\n";

fn clock(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string()
}

fn style(record: &Record) -> Style {
    match record.happening {
        _ if record.request.as_ref().is_some_and(|request| request.is_error) => BAD,
        Happening::Opened => GOOD,
        Happening::Failed(_) => BAD,
        Happening::Closed(CloseReason::Fin) => DIM,
        Happening::Request | Happening::Served => GOOD,
        Happening::Closed(_) | Happening::BreakerHalfOpen(_) => WARN,
        Happening::BreakerOpened(_) => BAD,
        Happening::BreakerClosed(_) => GOOD,
        Happening::RolloutSteppedUp | Happening::RolloutPromoted | Happening::RolloutResumed => GOOD,
        Happening::RolloutRolledBack(_) => BAD,
        Happening::RolloutPaused => WARN,
    }
}

/// It is about a connection, which took time and moved bytes.
fn is_of_connection(happening: Happening) -> bool {
    happening.is_of_request()
        || matches!(happening, Happening::Opened | Happening::Failed(_) | Happening::Closed(_))
}

/// Who is at the client's end; `None` where the event is about nobody's connection. Of a request that came in, it is an
/// address.
fn client(record: &Record) -> Option<String> {
    match &record.request {
        _ if record.happening.is_of_service() => None,
        Some(request) if record.happening == Happening::Served => Some(request.peer.to_string()),
        _ => Some(client_name(&record.client)),
    }
}

/// Why, or of a request what was asked and answered.
fn reason(record: &Record) -> String {
    match &record.request {
        Some(request) => format!("{} {}", request.operation, request.status),
        None => record.happening.reason().to_owned(),
    }
}

/// One line to read along: time, who, to what, what happened.
pub(super) fn compact(record: &Record, zone: &TimeZone) -> String {
    let time = clock(record.time, zone);
    let version = record.version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
    let backend = record.backend.map(|address| format!(" {DIM}{address}{DIM:#}")).unwrap_or_default();
    let style = style(record);
    let what = format!("{} {}", record.happening.name(), reason(record));
    let lasted = match record.happening {
        Happening::Opened => format!("in {}", duration(record.duration_ns)),
        Happening::Failed(_) => format!("after {}", duration(record.duration_ns)),
        Happening::Closed(_) => format!(
            "after {}, sent {}, received {}",
            duration(record.duration_ns),
            bytes(record.sent_bytes),
            bytes(record.received_bytes)
        ),
        Happening::Request | Happening::Served => format!("in {}", duration(record.duration_ns)),
        _ => String::new(),
    };
    let client = client(record).map(|client| format!("{client} → ")).unwrap_or_default();
    let service = &record.service;
    let what = what.trim_end();
    format!("{DIM}{time}{DIM:#}  {client}{service}{version}{backend}  {style}{what}{style:#} {lasted}\n")
}

/// Columns of fixed width, since nobody knows what is still to come: the name, the width, and whether it is of numbers.
const COLUMNS: [(&str, usize, bool); 9] = [
    ("TIME", 12, false),
    ("CLIENT", 22, false),
    ("SERVICE", 22, false),
    ("BACKEND", 21, false),
    ("EVENT", 17, false),
    ("REASON", 20, false),
    ("TOOK", 8, true),
    ("SENT", 8, true),
    ("RECEIVED", 8, true),
];

fn columns(cells: &[String; 9], styles: [Style; 9]) -> String {
    let mut line = String::new();
    let last = COLUMNS.len() - 1;
    for (index, ((cell, style), (_, width, is_number))) in cells.iter().zip(styles).zip(COLUMNS).enumerate() {
        let padding = width.saturating_sub(cell.chars().count());
        let (before, after) = if is_number { (padding, 0) } else { (0, padding) };
        let gap = if index == last { "" } else { "  " };
        // Writing to a string does not fail.
        let _ = write!(line, "{:before$}{style}{cell}{style:#}{:after$}{gap}", "", "");
    }
    line.push('\n');
    line
}

/// The names of the columns.
pub(super) fn headings() -> String {
    columns(&COLUMNS.map(|(name, ..)| name.to_owned()), [HEADING; 9])
}

/// One row of the table.
pub(super) fn row(record: &Record, zone: &TimeZone) -> String {
    let happening = record.happening;
    let dash = || "-".to_owned();
    let client = client(record).unwrap_or_else(dash);
    let service = match &record.version {
        Some(version) => format!("{} ({version})", record.service),
        None => record.service.to_string(),
    };
    let reason = Some(reason(record)).filter(|reason| !reason.is_empty()).unwrap_or_else(dash);
    let took = if is_of_connection(happening) { duration(record.duration_ns) } else { dash() };
    let moved = |count: u64| if matches!(happening, Happening::Closed(_)) { bytes(count) } else { dash() };
    let plain = Style::new();
    let bold = style(record);
    columns(
        &[
            clock(record.time, zone),
            client,
            service,
            record.backend.map_or_else(dash, |address| address.to_string()),
            happening.name().to_owned(),
            reason,
            took,
            moved(record.sent_bytes),
            moved(record.received_bytes),
        ],
        [DIM, plain, plain, DIM, bold, bold, plain, plain, plain],
    )
}

/// Everything about one event, a line for each thing.
pub(super) fn dict(record: &Record, zone: &TimeZone) -> String {
    let happening = record.happening;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{HEADING}{name:>11}{HEADING:#}: {value}");
    };
    line("TIME", record.time.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string());
    line("EVENT", happening.name().to_owned());
    if !happening.reason().is_empty() {
        line("REASON", happening.reason().to_owned());
    }
    if let Some(request) = &record.request {
        line("SPOKEN", request.protocol.name().to_owned());
        line("ASKED", request.operation.to_string());
        line("ANSWERED", request.status.to_string());
        line("FROM", request.peer.to_string());
    }
    if !happening.is_of_service() && happening != Happening::Served {
        let client = &record.client;
        line("CLIENT", format!("{}/{}", client.namespace, client.name));
    }
    line("SERVICE", record.service.to_string());
    if let Some(version) = &record.version {
        line("VERSION", version.to_string());
    }
    line("PROTOCOL", record.protocol.name().to_owned());
    line("REQUESTED", record.requested.to_string());
    if let Some(backend) = record.backend {
        line("BACKEND", backend.to_string());
    }
    if is_of_connection(happening) {
        line("TOOK", duration(record.duration_ns));
    }
    if matches!(happening, Happening::Closed(_)) {
        line("SENT", bytes(record.sent_bytes));
        line("RECEIVED", bytes(record.received_bytes));
        line("RETRANSMITS", record.retransmits.to_string());
    }
    if let Some(rtt_us) = record.rtt_us {
        line("RTT", duration(u64::from(rtt_us) * 1_000));
    }
    text
}

/// What the memory holds and what it cannot, for who reads its events.
pub(super) fn about(memory: &MemoryView, zone: &TimeZone) -> String {
    let held = match memory.forgotten {
        0 => format!("the agent remembers {} events of at most {}", memory.held, memory.capacity),
        forgotten => {
            format!("the agent remembers the newest {} events, {forgotten} older ones fell out", memory.held)
        }
    };
    let oldest = memory.oldest.map(|oldest| format!(", back to {}", clock(oldest, zone))).unwrap_or_default();
    let recorded = match (memory.recorded_from, memory.recorded_to) {
        (None, _) => "single connections were never recorded, since nobody followed".to_owned(),
        (Some(from), None) => {
            format!("single connections are recorded since {}", clock(from, zone))
        }
        (Some(from), Some(to)) => format!(
            "single connections were last recorded from {} to {}, while somebody followed",
            clock(from, zone),
            clock(to, zone)
        ),
    };
    format!("{held}{oldest}; {recorded}; breakers and canaries always are")
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::ConnectFailure;

    use super::*;
    use crate::admin::specimen::{Specimen, now};
    use crate::cli::table::plain;

    fn record() -> Record {
        (*Specimen::default().record()).clone()
    }

    #[test]
    fn each_event_is_one_line_that_reads_from_left_to_right() {
        let mut record = record();
        let line = |record: &Record| plain(&compact(record, &TimeZone::UTC));
        assert_eq!(
            line(&record),
            "12:00:00.000  nginx → shop/payment (v2) 10.1.0.7:8443  closed rst_remote after 1.2 s, \
             sent 1.5 KiB, received 20 MiB\n"
        );
        record.happening = Happening::Opened;
        assert!(line(&record).ends_with("  opened in 1.2 s\n"));
        record.happening = Happening::Failed(ConnectFailure::NoBackend);
        record.backend = None;
        record.version = None;
        assert_eq!(line(&record), "12:00:00.000  nginx → shop/payment  failed no_backend after 1.2 s\n");
    }

    #[test]
    fn a_request_says_what_was_asked_and_answered_and_who_asked() {
        let specimen = Specimen::default();
        let record = (*specimen.request()).clone();
        assert_eq!(
            plain(&compact(&record, &TimeZone::UTC)),
            "12:00:00.000  nginx → shop/payment (v2) 10.1.0.7:8443  request POST 503 in 2.3 ms\n"
        );
        let text = plain(&dict(&record, &TimeZone::UTC));
        for part in [
            "SPOKEN: http1\n",
            "ASKED: POST\n",
            "ANSWERED: 503\n",
            "FROM: 10.0.0.1:40000\n",
            "CLIENT: host/nginx\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let served =
            Record { happening: Happening::Served, service: "host/web".into(), version: None, ..record };
        let line = plain(&compact(&served, &TimeZone::UTC));
        assert!(line.contains("  10.0.0.1:40000 → host/web 10.1.0.7:8443  served POST 503 in"), "{line}");
        assert!(!plain(&dict(&served, &TimeZone::UTC)).contains("CLIENT"));
        let row = plain(&row(&served, &TimeZone::UTC));
        assert!(row.contains("served") && row.contains("POST 503") && row.contains("2.3 ms"), "{row}");
    }

    #[test]
    fn what_became_of_a_canary_names_no_client() {
        let happening = Happening::RolloutRolledBack(crate::rollout::Cause::ResetRatio);
        let record = Record { happening, backend: None, ..record() };
        let line = plain(&compact(&record, &TimeZone::UTC));
        assert_eq!(line.trim_end(), "12:00:00.000  shop/payment (v2)  rollout_rolled_back reset_ratio");
        assert!(!plain(&dict(&record, &TimeZone::UTC)).contains("CLIENT"));
    }

    #[test]
    fn rows_stand_under_their_headings() {
        let text = plain(&(headings() + &row(&record(), &TimeZone::UTC)));
        let expected = "\
TIME          CLIENT                  SERVICE                 BACKEND                EVENT              REASON                    TOOK      SENT  RECEIVED
12:00:00.000  nginx                   shop/payment (v2)       10.1.0.7:8443          closed             rst_remote               1.2 s   1.5 KiB    20 MiB
";
        assert_eq!(text, expected);
    }

    #[test]
    fn everything_about_an_event_is_a_line_each() {
        let expected = "       TIME: 2026-03-01T12:00:00.000000+00:00
      EVENT: closed
     REASON: rst_remote
     CLIENT: host/nginx
    SERVICE: shop/payment
    VERSION: v2
   PROTOCOL: tcp
  REQUESTED: 10.96.0.10:443
    BACKEND: 10.1.0.7:8443
       TOOK: 1.2 s
       SENT: 1.5 KiB
   RECEIVED: 20 MiB
RETRANSMITS: 2
        RTT: 410 µs
";
        assert_eq!(plain(&dict(&record(), &TimeZone::UTC)), expected);
    }

    #[test]
    fn the_memory_says_what_it_holds_and_what_it_cannot() {
        let about = |memory: &MemoryView| about(memory, &TimeZone::UTC);
        let mut memory = MemoryView { capacity: 4_096, ..MemoryView::default() };
        let text = about(&memory);
        assert!(
            text.starts_with("the agent remembers 0 events of at most 4096; single connections were never"),
            "{text}"
        );
        memory = MemoryView { held: 9, forgotten: 4, oldest: Some(now()), ..memory };
        memory.recorded_from = Some(now());
        let text = about(&memory);
        assert!(text.contains("newest 9 events, 4 older ones fell out, back to 12:00:00.000"), "{text}");
        assert!(text.contains("are recorded since 12:00:00.000"), "{text}");
        memory.recorded_to = Some(now());
        assert!(about(&memory).contains("last recorded from 12:00:00.000 to 12:00:00.000"));
    }
}
