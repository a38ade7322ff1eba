//! `segue services`: what the agent balances, and over which backends.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use agent_ebpf::abi::{BackendStatus, BreakerMode};

use super::client::{Client, ConnectArgs};
use super::table::{BAD, Cell, DIM, GOOD, HEADING, Output, Table, WARN, duration, print, print_json};
use crate::admin::view::{CellView, RolloutView, ServiceView, Services};
use crate::desired::Departure;

/// Services, their frontends and backends.
#[derive(Clone, Debug, clap::Args)]
pub struct ServicesArgs {
    /// Show only these, with all their backends
    #[arg(value_name = "SERVICE")]
    pub names: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which agent to ask
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Asks the agent and writes the answer. Exit code 1 where it cannot be asked or a name is unknown.
pub async fn run(args: &ServicesArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    let mut services = match client.get::<Services>("/v1/services").await {
        Ok(answer) => answer.services,
        Err(error) => return error.report(),
    };
    if !args.names.is_empty() {
        for name in &args.names {
            if !services.iter().any(|service| *service.name == **name) {
                anstream::eprintln!(
                    "{BAD}segue:{BAD:#} the agent knows no service `{name}`; `segue services` lists all"
                );
                return ExitCode::FAILURE;
            }
        }
        services.retain(|service| args.names.iter().any(|name| **name == *service.name));
    }
    match args.output {
        Output::Json => print_json(&Services { services }),
        Output::Table if args.names.is_empty() => print(&overview(&services)),
        Output::Table => print(&services.iter().map(detail).collect::<Vec<_>>().join("\n")),
    }
}

/// One line per service.
fn overview(services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "No services.\n".to_owned();
    }
    let headings = &[
        "SERVICE",
        "PROTOCOL",
        "FRONTEND",
        "ALGORITHM",
        "BACKENDS",
        ">ACTIVE",
        ">SELECTED",
        ">FAILED",
        ">REFUSED",
    ];
    let mut table = Table::new(headings);
    for service in services {
        let frontend = match service.frontends.split_first() {
            Some((first, [])) => first.to_string(),
            Some((first, more)) => format!("{first} +{}", more.len()),
            None => "-".to_owned(),
        };
        let sum = |count: fn(&crate::admin::view::BackendView) -> u64| -> u64 {
            service.backends.iter().map(count).sum()
        };
        table.row([
            service.name.as_ref().into(),
            service.protocol.name().into(),
            frontend.into(),
            service.algorithm.name().into(),
            readiness(service),
            sum(|backend| backend.active).into(),
            (service.counters.selected + service.counters.affine).into(),
            Cell::bad_count(sum(|backend| backend.failures)),
            Cell::bad_count(service.counters.no_backend),
        ]);
    }
    table.to_string()
}

/// Backends by what they get: a backend that is held back is not ready.
fn readiness(service: &ServiceView) -> Cell {
    let held_back = |cell: &CellView| cell.is_held_back(service.breaker_mode);
    let count = |wanted: fn(BackendStatus, bool) -> bool| {
        let backends = service.backends.iter();
        backends.filter(|backend| wanted(backend.status, held_back(&backend.breaker))).count()
    };
    let ready = count(|status, held_back| status == BackendStatus::Ready && !held_back);
    let open = count(|status, held_back| status == BackendStatus::Ready && held_back);
    let draining = count(|status, _| status == BackendStatus::Draining);
    let mut text = format!("{ready} ready");
    for (number, what) in [(open, "open"), (draining, "draining")] {
        if number > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, ", {number} {what}");
        }
    }
    let style = match (service.is_usable() && ready > 0, open + draining) {
        (false, _) => BAD,
        (true, 0) => GOOD,
        (true, _) => WARN,
    };
    Cell::styled(text, style)
}

/// What a backend's breaker does with the next connection, as `segue breaker` shows it, too.
pub(super) fn state(service: &ServiceView, cell: &CellView) -> Cell {
    if service.breaker_mode == BreakerMode::Off && cell.order.is_none() {
        return Cell::dash();
    }
    let name = cell.in_force(service.breaker_mode);
    let text = match cell.order {
        Some(order) => format!("{name} ({} left)", duration(order.ends_in_ms.saturating_mul(1_000_000))),
        None => name.to_owned(),
    };
    let style = match name {
        "closed" => GOOD,
        "open" | "forced_open" => BAD,
        _ => WARN,
    };
    Cell::styled(text, style)
}

/// Everything about one service.
fn detail(service: &ServiceView) -> String {
    let frontends: Vec<String> = service.frontends.iter().map(ToString::to_string).collect();
    let counters = service.counters;
    let mut text = format!("{HEADING}{}{HEADING:#}\n", service.name);
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {DIM}{name:<12}{DIM:#}{value}");
    };
    line("frontends", &format!("{} {}", service.protocol.name(), frontends.join(", ")));
    line("algorithm", service.algorithm.name());
    let affinity = service.affinity_timeout_ms.map(|ms| duration(ms.saturating_mul(1_000_000)));
    line(
        "affinity",
        &affinity.map_or_else(|| "none".to_owned(), |time| format!("{time} after the last connection")),
    );
    if !service.split.is_empty() {
        line("split", &split(service));
    }
    if let Some(rollout) = &service.rollout {
        line("canary", &rollout_line(rollout));
    }
    let connections = format!(
        "{} by algorithm, {} by affinity, {} refused, {} untouched",
        counters.selected, counters.affine, counters.no_backend, counters.passed
    );
    line("connections", &connections);
    line("fallback", &fallback(service));
    line("breaker", &breaker(service));
    for (index, backend) in leaving(service).iter().enumerate() {
        line(if index == 0 { "leaving" } else { "" }, backend);
    }
    if service.backends.is_empty() {
        line("backends", &format!("{BAD}none: connections are refused{BAD:#}"));
        return text;
    }
    let headings =
        &["BACKEND", "VERSION", "ZONE", ">WEIGHT", "STATUS", "STATE", ">ACTIVE", ">SELECTED", ">FAILED"];
    let mut table = Table::new(headings);
    for backend in &service.backends {
        let style = if backend.status == BackendStatus::Ready { GOOD } else { WARN };
        table.row([
            backend.address.to_string().into(),
            Cell::or_dash(backend.version.as_deref()),
            Cell::or_dash(backend.zone.as_deref()),
            u64::from(backend.weight).into(),
            Cell::styled(backend.status.name(), style),
            state(service, &backend.breaker),
            backend.active.into(),
            backend.selections.into(),
            Cell::bad_count(backend.failures),
        ]);
    }
    text.push('\n');
    for line in table.to_string().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// The backends that are out, and what becomes of their open connections.
fn leaving(service: &ServiceView) -> Vec<String> {
    let line = |address: SocketAddr, why: &str, active: u64, resets_in_ms: Option<u64>| {
        let fate = match resets_in_ms {
            Some(0) => "those from before are reset now".to_owned(),
            Some(ms) => format!("those from before are reset in {}", duration(ms.saturating_mul(1_000_000))),
            None => "kept".to_owned(),
        };
        format!("{address} {why}, {active} connections open, {fate}")
    };
    let inside = service.backends.iter().filter(|backend| backend.resets_in_ms.is_some()).map(|backend| {
        let why =
            if backend.status == BackendStatus::Draining { Departure::Draining } else { Departure::Ejected };
        line(backend.address, why.name(), backend.active, backend.resets_in_ms)
    });
    let left = service.left.iter();
    let left = left.map(|it| line(it.address, Departure::Removed.name(), it.active, it.resets_in_ms));
    inside.chain(left).collect()
}

/// What becomes of the canary.
fn rollout_line(rollout: &RolloutView) -> String {
    match rollout.is_problem() {
        true => format!("{BAD}{}{BAD:#}", rollout.summary),
        false => rollout.summary.clone(),
    }
}

fn fallback(service: &ServiceView) -> String {
    match &service.fallback {
        Some(name) => format!("{name}, took {} connections", service.counters.fallback),
        None => "none: connections are refused where nothing is usable".to_owned(),
    }
}

/// The breaker's mode, and what it did.
fn breaker(service: &ServiceView) -> String {
    let counters = service.counters;
    if service.breaker_mode == BreakerMode::Off {
        return "off".to_owned();
    }
    let mut text = format!(
        "{}: opened {}, probed {}, closed {}; {} connections sent elsewhere, {} probes",
        service.breaker_mode.name(),
        counters.opened,
        counters.half_opened,
        counters.closed,
        counters.avoided,
        counters.probes
    );
    let rare = [
        (counters.would_avoid, "would have been avoided"),
        (counters.capped, "kept closed by the ejection cap"),
        (counters.panicked, "sent to ejected backends in panic"),
        (counters.kept_away, "kept from the backend their client had failed on"),
    ];
    for (number, what) in rare {
        if number > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, ", {number} {what}");
        }
    }
    text
}

/// Shares in percent.
fn split(service: &ServiceView) -> String {
    let total: u64 = service.split.iter().map(|part| u64::from(part.share)).sum();
    let percent = |share: u32| {
        let tenths = u64::from(share) * 1_000 / total.max(1);
        if tenths.is_multiple_of(10) {
            format!("{} %", tenths / 10)
        } else {
            format!("{}.{} %", tenths / 10, tenths % 10)
        }
    };
    let parts = service.split.iter().map(|part| format!("{} {}", part.version, percent(part.share)));
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::cli::table::plain;

    fn services() -> Vec<ServiceView> {
        Specimen::default().services().expect("a specimen")
    }

    #[test]
    fn the_overview_has_a_line_per_service() {
        let expected = "\
SERVICE       PROTOCOL  FRONTEND           ALGORITHM    BACKENDS                     ACTIVE  SELECTED  FAILED  REFUSED
shop/payment  tcp       10.96.0.10:443 +1  round_robin  1 ready, 1 open, 1 draining      12      3603       9        1
dns           udp       10.96.0.53:53      maglev       0 ready                           0         0       0        0
";
        assert_eq!(plain(&overview(&services())), expected);
        assert_eq!(overview(&[]), "No services.\n");
    }

    #[test]
    fn a_service_asked_for_by_name_is_shown_with_its_backends() {
        let expected = "\
shop/payment
  frontends   tcp 10.96.0.10:443, [fd00::10]:443
  algorithm   round_robin
  affinity    10 min after the last connection
  split       v1 90 %, v2 10 %
  canary      v2 gets 10.0 % (step 2 of 3), does no worse than v1
  connections 3600 by algorithm, 3 by affinity, 1 refused, 0 untouched
  fallback    shop/payment-standby, took 6 connections
  breaker     enforce: opened 3, probed 2, closed 1; 44 connections sent elsewhere, 5 probes, 1 kept closed by the ejection cap, 2 sent to ejected backends in panic, 7 kept from the backend their client had failed on
  leaving     10.1.0.6:8443 draining, 4 connections open, those from before are reset in 21 s
              10.1.0.4:8443 removed, 2 connections open, kept

  BACKEND        VERSION  ZONE   WEIGHT  STATUS    STATE   ACTIVE  SELECTED  FAILED
  10.1.0.5:8443  v1       eu-1a      10  ready     closed       4      1201       3
  10.1.0.6:8443  v1       eu-1b      10  draining  closed       4      1201       3
  10.1.0.7:8443  v2       eu-1a      10  ready     open         4      1201       3
";
        assert_eq!(plain(&detail(&services()[0])), expected);
    }

    #[test]
    fn a_service_without_backends_says_what_that_means() {
        assert!(plain(&detail(&services()[1])).ends_with("backends    none: connections are refused\n"));
    }
}
