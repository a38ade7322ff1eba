//! `segue breaker`: the breaker of each backend, and an operator's orders about them.

use std::net::SocketAddr;
use std::process::ExitCode;

use agent_ebpf::abi::BreakerMode;

use super::client::{Client, ConnectArgs};
use super::services::state;
use super::table::{BAD, Cell, Output, Table, duration, print, print_json};
use crate::admin::view::{
    BackendView, CellView, DEFAULT_ORDER_MS, MAX_ORDER_MS, Order, OrderRequest, Ordered, ServiceView,
    Services,
};

/// Breakers, or an order about them.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  segue breaker                                  which backends are held back, and why\n  \
                  segue breaker shop/payment -o json             the same of one service, for a script\n  \
                  segue breaker open shop/payment 10.1.0.5:8443  take one backend out for 5 minutes\n  \
                  segue breaker close shop/payment --for 1h      trust all its backends for an hour\n  \
                  segue breaker auto shop/payment                let the breakers decide again\n\n\
                  STATE is what holds for the next connection. An order (forced_open, forced_closed) stands over \
                  the breaker, is kept by the kernel, outlives the agent, and ends by itself."
)]
pub struct BreakerArgs {
    #[command(subcommand)]
    order: Option<OrderCommand>,
    /// Show only these services
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Which agent to ask
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum OrderCommand {
    /// Give no new connections to a backend, or to all of a service, for a while
    Open(TimedArgs),
    /// Give connections to a backend, or to all of a service, whatever its breaker thinks, for a while
    Close(TimedArgs),
    /// Take an order back: the breaker decides again
    Auto(TargetArgs),
}

/// An order that ends.
#[derive(Clone, Debug, clap::Args)]
struct TimedArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// When the order ends by itself: a whole number with ms, s, m or h, up to 24h
    #[arg(long = "for", value_name = "TIME", value_parser = order_time, default_value = "5m")]
    for_ms: u64,
}

/// Whom an order is about.
#[derive(Clone, Debug, clap::Args)]
struct TargetArgs {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,
    /// One of its backends, as in 10.1.0.5:8443 or [fd00::5]:8443 [default: all of them]
    #[arg(value_name = "BACKEND")]
    backend: Option<SocketAddr>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Which agent to ask
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How long an order holds, in milliseconds.
fn order_time(text: &str) -> Result<u64, String> {
    let example =
        format!("write a whole number with ms, s, m or h, up to 24h, as in {}m", DEFAULT_ORDER_MS / 60_000);
    let unit_at = text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(example),
    };
    let number: u64 = digits.parse().map_err(|_| example.clone())?;
    match number.checked_mul(unit_ms) {
        Some(ms @ 1..=MAX_ORDER_MS) => Ok(ms),
        _ => Err(example),
    }
}

/// Asks or orders, and writes the answer. Exit code 1 where the agent cannot be asked or refuses.
pub async fn run(args: &BreakerArgs) -> ExitCode {
    match &args.order {
        None => list(args).await,
        Some(OrderCommand::Open(timed)) => give(Order::Open, &timed.target, Some(timed.for_ms)).await,
        Some(OrderCommand::Close(timed)) => give(Order::Close, &timed.target, Some(timed.for_ms)).await,
        Some(OrderCommand::Auto(target)) => give(Order::Auto, target, None).await,
    }
}

async fn list(args: &BreakerArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    let mut services = match client.get::<Services>("/v1/services").await {
        Ok(answer) => answer.services,
        Err(error) => return error.report(),
    };
    if let Some(unknown) =
        args.names.iter().find(|name| services.iter().all(|service| *service.name != ***name))
    {
        anstream::eprintln!(
            "{BAD}segue:{BAD:#} the agent knows no service `{unknown}`; `segue services` lists all"
        );
        return ExitCode::FAILURE;
    }
    services.retain(|service| args.names.is_empty() || args.names.iter().any(|name| **name == *service.name));
    match args.output {
        Output::Json => print_json(&rows(&services)),
        Output::Table => print(&cells(&services)),
    }
}

/// A backend's breaker, for scripts.
#[derive(Debug, serde::Serialize)]
struct Row<'a> {
    service: &'a str,
    backend: SocketAddr,
    /// The service's breaker mode.
    mode: &'static str,
    /// What holds for the next connection.
    in_force: &'static str,
    #[serde(flatten)]
    cell: &'a CellView,
}

fn rows(services: &[ServiceView]) -> Vec<Row<'_>> {
    let row = |service, backend| -> Row<'_> {
        let (service, backend): (&ServiceView, &BackendView) = (service, backend);
        Row {
            service: &service.name,
            backend: backend.address,
            mode: service.breaker_mode.name(),
            in_force: backend.breaker.in_force(service.breaker_mode),
            cell: &backend.breaker,
        }
    };
    services.iter().flat_map(|service| service.backends.iter().map(move |one| row(service, one))).collect()
}

/// One line per backend of a service that has a breaker, or about which there is an order.
fn cells(services: &[ServiceView]) -> String {
    let headings = &[
        "SERVICE",
        "BACKEND",
        "MODE",
        "STATE",
        ">IN A ROW",
        ">GOOD",
        ">FAILED",
        ">SLOW",
        ">OPENED",
        "NEXT PROBE",
    ];
    let mut table = Table::new(headings);
    let mut shown = 0;
    for service in services {
        for backend in &service.backends {
            let cell = &backend.breaker;
            if service.breaker_mode == BreakerMode::Off && cell.order.is_none() {
                continue;
            }
            shown += 1;
            table.row([
                service.name.as_ref().into(),
                backend.address.to_string().into(),
                service.breaker_mode.name().into(),
                state(service, cell),
                Cell::bad_count(cell.consecutive_failures.into()),
                u64::from(cell.good).into(),
                Cell::bad_count(cell.failed.into()),
                Cell::bad_count(cell.slow.into()),
                u64::from(cell.opened).into(),
                next_probe(cell),
            ]);
        }
    }
    match (shown, services.is_empty()) {
        (0, true) => "No services.\n".to_owned(),
        (0, false) => "No breakers: no service has `breaker` in its policy.\n".to_owned(),
        _ => table.to_string(),
    }
}

fn next_probe(cell: &CellView) -> Cell {
    Cell::or_dash(cell.next_probe_in_ms.filter(|_| cell.order.is_none()).map(|ms| match ms {
        0 => "with the next connection".to_owned(),
        ms => format!("in {}", duration(ms.saturating_mul(1_000_000))),
    }))
}

async fn give(order: Order, target: &TargetArgs, for_ms: Option<u64>) -> ExitCode {
    let request = OrderRequest { service: target.service.clone(), backend: target.backend, order, for_ms };
    let client = Client::new(target.connect.socket.clone());
    match client.post::<_, Ordered>("/v1/breaker", &request).await {
        Ok(ordered) => match target.output {
            Output::Json => print_json(&ordered),
            Output::Table => print(&answer(&ordered)),
        },
        Err(error) => error.report(),
    }
}

fn answer(ordered: &Ordered) -> String {
    let whom: Vec<String> = ordered.backends.iter().map(ToString::to_string).collect();
    let what = match ordered.order {
        Order::Open => "no new connections to",
        Order::Close => "connections, whatever the breaker thinks, to",
        Order::Auto => "the breaker decides again about",
    };
    let until = match ordered.ends_in_ms {
        Some(ms) => format!(" for {}", duration(ms.saturating_mul(1_000_000))),
        None => String::new(),
    };
    format!("{}{until}: {what} {}\n", ordered.service, whom.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::admin::view::OrderView;
    use crate::cli::table::plain;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BreakerArgs,
    }

    fn typed(line: &str) -> Result<BreakerArgs, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    fn services() -> Vec<ServiceView> {
        Specimen::default().services().expect("a specimen")
    }

    #[test]
    fn cells_are_listed_with_what_holds_now() {
        let mut services = services();
        let order = OrderView { order: Order::Open, ends_in_ms: 240_000 };
        services[0].backends[1].breaker.order = Some(order);
        let expected = "\
SERVICE       BACKEND        MODE     STATE                     IN A ROW  GOOD  FAILED  SLOW  OPENED  NEXT PROBE
shop/payment  10.1.0.5:8443  enforce  closed                           0   118       0     0       0  -
shop/payment  10.1.0.6:8443  enforce  forced_open (4 min left)         0   118       0     0       0  -
shop/payment  10.1.0.7:8443  enforce  open                             0     4      21     0       2  in 7.2 s
";
        assert_eq!(plain(&cells(&services)), expected);
    }

    #[test]
    fn services_without_a_breaker_are_left_out_until_there_is_an_order() {
        let mut services = services();
        services.remove(0);
        assert!(cells(&services).starts_with("No breakers"));
        assert_eq!(cells(&[]), "No services.\n");
    }

    #[test]
    fn a_script_gets_every_backend_with_its_cell() {
        let json = serde_json::to_value(rows(&services())).expect("JSON");
        assert_eq!(json.as_array().map(Vec::len), Some(3));
        assert_eq!(json[2]["service"], "shop/payment");
        assert_eq!(json[2]["in_force"], "open");
        assert_eq!(json[2]["next_probe_in_ms"], 7_200);
    }

    #[test]
    fn an_order_is_a_verb_before_the_service() {
        let args = typed("breaker open shop/payment 10.1.0.5:8443 --for 90s").expect("an order");
        let Some(OrderCommand::Open(open)) = args.order else { panic!("{args:?}") };
        assert_eq!((open.target.service.as_str(), open.for_ms), ("shop/payment", 90_000));
        assert_eq!(open.target.backend, "10.1.0.5:8443".parse().ok());
        let args = typed("breaker close shop/payment").expect("an order");
        let Some(OrderCommand::Close(close)) = args.order else { panic!("{args:?}") };
        assert_eq!((close.target.backend, close.for_ms), (None, DEFAULT_ORDER_MS));
        let args = typed("breaker shop/payment -o json").expect("a list");
        assert!(args.order.is_none() && args.names == ["shop/payment"], "{args:?}");
        assert!(typed("breaker auto").is_err() && typed("breaker open a 10.1.0.5").is_err());
    }

    #[test]
    fn an_order_holds_for_up_to_a_day() {
        let times = ["500ms", "90s", "5m", "24h"].map(|text| order_time(text).expect(text));
        assert_eq!(times, [500, 90_000, 300_000, MAX_ORDER_MS]);
        for wrong in ["0s", "25h", "5", "", "m", "-5m", "99999999999999999999h"] {
            assert!(order_time(wrong).expect_err(wrong).contains("up to 24h"));
        }
    }

    #[test]
    fn the_answer_to_an_order_says_what_holds_and_how_long() {
        let ordered = Ordered {
            service: "shop/payment".into(),
            order: Order::Open,
            backends: vec!["10.1.0.5:8443".parse().expect("an address")],
            ends_in_ms: Some(300_000),
        };
        assert_eq!(answer(&ordered), "shop/payment for 5 min: no new connections to 10.1.0.5:8443\n");
        let lifted = Ordered { order: Order::Auto, ends_in_ms: None, ..ordered };
        assert_eq!(answer(&lifted), "shop/payment: the breaker decides again about 10.1.0.5:8443\n");
    }
}
