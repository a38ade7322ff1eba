//! `segue flows`: who talks to which service, in totals or, with `-f`, as it happens.

use std::process::ExitCode;

use jiff::tz::TimeZone;

use super::client::{Client, ClientError, ConnectArgs};
use super::table::{BAD, Cell, DIM, GOOD, Output, Table, WARN, bytes, duration, print, print_json};
use crate::admin::view::{Flows, FollowLine};
use crate::flows::record::Happening;
use crate::flows::{Distribution, EdgeView, Record, Workload};

/// Connections by client and service.
#[derive(Clone, Debug, clap::Args)]
pub struct FlowsArgs {
    /// Show connections as they open, fail and close, until interrupted; with `-o json`, one object a line
    #[arg(short, long)]
    pub follow: bool,
    /// Show only clients whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub client: Option<String>,
    /// Show only services whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub service: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which agent to ask
    #[command(flatten)]
    pub connect: ConnectArgs,
}

impl FlowsArgs {
    fn wants(&self, client: &Workload, service: &str) -> bool {
        let holds = |text: &str, part: &Option<String>| part.as_ref().is_none_or(|part| text.contains(part));
        holds(&client_name(client), &self.client) && holds(service, &self.service)
    }
}

/// Asks the agent and writes the answer. Exit code 1 where it cannot be asked.
pub async fn run(args: &FlowsArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    if args.follow {
        return match follow(args, &client).await {
            Ok(code) => code,
            Err(error) => error.report(),
        };
    }
    let mut edges = match client.get::<Flows>("/v1/flows").await {
        Ok(answer) => answer.edges,
        Err(error) => return error.report(),
    };
    edges.retain(|edge| args.wants(&edge.client, &edge.service));
    match args.output {
        Output::Json => print_json(&Flows { edges }),
        Output::Table => print(&totals(&edges)),
    }
}

async fn follow(args: &FlowsArgs, client: &Client) -> Result<ExitCode, ClientError> {
    let mut lines = client.lines("/v1/flows/follow").await?;
    let zone = TimeZone::system();
    while let Some(text) = lines.next().await? {
        let line: FollowLine =
            serde_json::from_str(&text).map_err(|error| ClientError::Answer(error.to_string()))?;
        if matches!(&line, FollowLine::Record(record) if !args.wants(&record.client, &record.service)) {
            continue;
        }
        let code = match (args.output, &line) {
            (Output::Json, _) => print(&format!("{text}\n")),
            (Output::Table, FollowLine::Record(record)) => print(&happening(record, &zone)),
            (Output::Table, FollowLine::Lost { lost }) => {
                print(&format!("{WARN}… {lost} events lost: this reader was too slow{WARN:#}\n"))
            }
        };
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    anstream::eprintln!("{DIM}the agent stopped{DIM:#}");
    Ok(ExitCode::SUCCESS)
}

/// The namespace only where there is more than the host.
fn client_name(client: &Workload) -> String {
    if *client.namespace == *crate::flows::identity::HOST_NAMESPACE {
        client.name.to_string()
    } else {
        format!("{}/{}", client.namespace, client.name)
    }
}

/// One line per edge.
fn totals(edges: &[EdgeView]) -> String {
    if edges.is_empty() {
        return "No connections to services so far.\n".to_owned();
    }
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
        use agent_ebpf::abi::CloseReason::{RstLocal, RstRemote};
        let resets = edge.closed.get(RstLocal) + edge.closed.get(RstRemote);
        let (client, service) = if edge.overflow {
            ("(all others)".to_owned(), "(all others)".into())
        } else {
            (client_name(&edge.client), format!("{}:{}", edge.service, edge.port))
        };
        let quantiles = |of: &Distribution| [of.p50_ns, of.p99_ns].map(|ns| Cell::or_dash(ns.map(duration)));
        let [connect_p50, connect_p99] = quantiles(&edge.connect);
        let [rtt_p50, rtt_p99] = quantiles(&edge.rtt);
        table.row([
            client.into(),
            service.into(),
            Cell::or_dash(edge.version.as_deref()),
            edge.opened.into(),
            edge.active.into(),
            Cell::bad_count(edge.failed.total()),
            Cell::bad_count(resets),
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

/// One line of `-f`: time, who, to what, what happened.
fn happening(record: &Record, zone: &TimeZone) -> String {
    let time = record.time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f");
    let version = record.version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
    let backend = record.backend.map(|address| format!(" {DIM}{address}{DIM:#}")).unwrap_or_default();
    let style = match record.happening {
        Happening::Opened => GOOD,
        Happening::Failed(_) => BAD,
        Happening::Closed(agent_ebpf::abi::CloseReason::Fin) => DIM,
        Happening::Closed(_) | Happening::BreakerHalfOpen(_) => WARN,
        Happening::BreakerOpened(_) => BAD,
        Happening::BreakerClosed(_) => GOOD,
        Happening::RolloutSteppedUp | Happening::RolloutPromoted | Happening::RolloutResumed => GOOD,
        Happening::RolloutRolledBack(_) => BAD,
        Happening::RolloutPaused => WARN,
    };
    let reason = record.happening.reason();
    let what = format!("{} {reason}", record.happening.name());
    let lasted = match record.happening {
        Happening::Opened => format!("in {}", duration(record.duration_ns)),
        Happening::Failed(_) => format!("after {}", duration(record.duration_ns)),
        Happening::BreakerOpened(_)
        | Happening::BreakerHalfOpen(_)
        | Happening::BreakerClosed(_)
        | Happening::RolloutSteppedUp
        | Happening::RolloutPromoted
        | Happening::RolloutRolledBack(_)
        | Happening::RolloutPaused
        | Happening::RolloutResumed => String::new(),
        Happening::Closed(_) => format!(
            "after {}, sent {}, received {}",
            duration(record.duration_ns),
            bytes(record.sent_bytes),
            bytes(record.received_bytes)
        ),
    };
    let client = match record.happening.is_of_service() {
        true => String::new(),
        false => format!("{} → ", client_name(&record.client)),
    };
    let service = &record.service;
    let what = what.trim_end();
    format!("{DIM}{time}{DIM:#}  {client}{service}{version}{backend}  {style}{what}{style:#} {lasted}\n")
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::ConnectFailure;

    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::cli::table::plain;

    fn args(client: Option<&str>, service: Option<&str>) -> FlowsArgs {
        FlowsArgs {
            follow: false,
            client: client.map(str::to_owned),
            service: service.map(str::to_owned),
            output: Output::Table,
            connect: ConnectArgs { socket: "/none".into() },
        }
    }

    #[test]
    fn totals_have_a_line_per_edge() {
        let edges = Specimen::default().edges().expect("a specimen");
        let expected = "\
CLIENT           SERVICE           VERSION  OPENED  ACTIVE  FAILED  RESETS  RESENT   SENT  RECEIVED  CONNECT p50  CONNECT p99  RTT p50  RTT p99
batch@night \"2\"  shop/payment:443  v2           88      12       0      21      41  7 MiB   2.1 GiB      60.2 µs       286 µs  23.7 µs  60.9 µs
nginx            shop/payment:443  v1         1234      12       5      21      41  7 MiB   2.1 GiB      60.2 µs       286 µs  23.7 µs  60.9 µs
(all others)     (all others)      -          1234      12       5      21      41  7 MiB   2.1 GiB      60.2 µs       286 µs  23.7 µs  60.9 µs
";
        assert_eq!(plain(&totals(&edges)), expected);
        assert_eq!(totals(&[]), "No connections to services so far.\n");
    }

    #[test]
    fn each_event_is_one_line_that_reads_from_left_to_right() {
        let mut record = (*Specimen::default().record()).clone();
        let line = |record: &Record| plain(&happening(record, &TimeZone::UTC));
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
    fn what_became_of_a_canary_names_no_client() {
        let mut record = (*Specimen::default().record()).clone();
        record.happening = Happening::RolloutRolledBack(crate::rollout::Cause::ResetRatio);
        record.backend = None;
        let line = plain(&happening(&record, &TimeZone::UTC));
        assert_eq!(line.trim_end(), "12:00:00.000  shop/payment (v2)  rollout_rolled_back reset_ratio");
    }

    #[test]
    fn filters_take_parts_of_names() {
        let record = Specimen::default().record();
        let wants = |client, service| args(client, service).wants(&record.client, &record.service);
        assert!(wants(None, None));
        assert!(wants(Some("ngi"), Some("payment")));
        assert!(!wants(Some("apache"), None));
        assert!(!wants(None, Some("cart")));
    }

    #[test]
    fn a_client_outside_the_host_is_named_with_its_namespace() {
        assert_eq!(client_name(&Workload::unknown()), "unknown/unknown");
    }
}
