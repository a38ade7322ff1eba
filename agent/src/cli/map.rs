//! `segue map`: who talks to which service and what stands behind it, as a table or a drawing. Rates are those of the
//! moment: two readings, a little apart.

mod drawing;
mod window;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use self::drawing::Drawing;
use self::window::{Flow, Health};
use super::client::{Client, ClientError, ConnectArgs};
use super::flows::workload_name;
use super::table::{BAD, Cell, DIM, GOOD, Table, WARN, duration, print, print_json};
use crate::admin::view::ServiceMap;

/// How a map is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For people: a line for each client, service and version.
    #[default]
    Table,
    /// For scripts: totals, exact, of one reading.
    Json,
    /// For Graphviz: `segue map -o dot | dot -Tsvg >map.svg`.
    Dot,
    /// For Mermaid, as in Markdown.
    Mermaid,
}

/// The service map.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Rates, failures and times are of the seconds between two readings; with -o json there are totals of one. \
                        FAILED is the larger of two shares: of connections that failed, of requests answered with 500 or more. \
                        Times are those of requests, or, in brackets, of handshakes where no request was understood.\n\nThe same live, in a browser: \
                        the address of --listen of `segue run`, http://127.0.0.1:9464/ by default."
)]
pub struct MapArgs {
    /// How long to look, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub over: u64,
    /// Show only services whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub service: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
    /// Which agent to ask
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Asks the agent and writes the answer. Exit code 1 where it cannot be asked.
pub async fn run(args: &MapArgs) -> ExitCode {
    match read(args).await {
        Ok((_, map)) if args.output == Form::Json => print_json(&map),
        Ok((before, map)) => {
            let flows = window::flows(&before, &map);
            match args.output {
                Form::Dot => print(&Drawing::new(&map, &flows).dot()),
                Form::Mermaid => print(&Drawing::new(&map, &flows).mermaid()),
                Form::Table | Form::Json => print(&table(&map, &flows)),
            }
        }
        Err(error) => error.report(),
    }
}

/// Two maps, a little apart; twice the same where only totals are wanted.
async fn read(args: &MapArgs) -> Result<(ServiceMap, ServiceMap), ClientError> {
    let client = Client::new(args.connect.socket.clone());
    let before = only(args, client.get::<ServiceMap>("/v1/map").await?);
    if args.output == Form::Json {
        return Ok((before.clone(), before));
    }
    tokio::time::sleep(Duration::from_secs(args.over)).await;
    let after = only(args, client.get::<ServiceMap>("/v1/map").await?);
    Ok((before, after))
}

/// The map without what was not asked for.
fn only(args: &MapArgs, mut map: ServiceMap) -> ServiceMap {
    let Some(part) = &args.service else { return map };
    map.services.retain(|service| service.name.contains(part));
    map.edges.retain(|edge| edge.to.contains(part));
    map
}

fn table(map: &ServiceMap, flows: &[Flow]) -> String {
    if map.services.is_empty() {
        return "No services. Name some in the configuration; `segue check` tells whether it can be used.\n"
            .to_owned();
    }
    let headings = &[
        "CLIENT", "SERVICE", "VERSION", ">ACTIVE", ">CONN/s", ">REQ/s", ">FAILED", ">p50", ">p99", "BACKENDS",
    ];
    let mut table = Table::new(headings);
    let names: BTreeMap<&str, String> = map
        .workloads
        .iter()
        .map(|workload| (&*workload.id, workload_name(&workload.namespace, &workload.name)))
        .collect();
    for flow in flows {
        let traffic = &flow.traffic;
        let style = match traffic.health() {
            Health::Idle => DIM,
            Health::Good => GOOD,
            Health::Hurt => WARN,
            Health::Failing => BAD,
        };
        let time = |quantile| {
            let text = traffic.quantile_ns(quantile).map(duration);
            Cell::or_dash(text.map(|text| if traffic.requests > 0 { text } else { format!("({text})") }))
        };
        table.row([
            names.get(&*flow.from).map_or(&*flow.from, |name| name).into(),
            (&*flow.to).into(),
            Cell::or_dash(flow.version.as_deref()),
            traffic.active.into(),
            rate(traffic.connections_per_second()).into(),
            rate(traffic.requests_per_second()).into(),
            traffic.failed_share().map_or_else(Cell::dash, |share| Cell::styled(percent(share), style)),
            time(0.5),
            time(0.99),
            backends(map, flow),
        ]);
    }
    let called: Vec<&str> = flows.iter().map(|flow| &*flow.to).collect();
    let silent = map.services.iter().filter(|service| !called.contains(&&*service.name)).count();
    let mut text = table.to_string();
    if flows.is_empty() {
        text = "Nobody has connected to a service yet.\n".to_owned();
    }
    if silent > 0 {
        text.push_str(&format!("{DIM}{silent} more services to which nobody has connected{DIM:#}\n"));
    }
    text
}

/// How many backends there are of the version, and how many of them are held back.
fn backends(map: &ServiceMap, flow: &Flow) -> Cell {
    let service = map.services.iter().find(|service| service.name == flow.to);
    let all = || service.into_iter().flat_map(|service| &service.backends);
    let its = || all().filter(|backend| backend.version == flow.version);
    let held_back = its().filter(|backend| backend.held_back).count();
    match (its().count(), held_back) {
        (0, _) => Cell::dash(),
        (count, 0) => Cell::styled(count.to_string(), GOOD),
        (count, held_back) => Cell::styled(format!("{count}, {held_back} held back"), BAD),
    }
}

/// A rate with as many digits as mean something.
fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate == 0.0 || rate >= 9.95 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// A share as percent.
fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent == 0.0 || percent >= 9.95 => format!("{percent:.0} %"),
        percent => format!("{percent:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::cli::table::plain;

    fn args(service: Option<&str>) -> MapArgs {
        MapArgs {
            over: 1,
            service: service.map(str::to_owned),
            output: Form::Table,
            connect: ConnectArgs { socket: "/none".into() },
        }
    }

    #[test]
    fn each_client_service_and_version_has_a_line() {
        let before = Specimen::default().map().expect("a specimen");
        let mut after = before.clone();
        after.monotonic_ms += 2_000;
        after.edges[1].requests[0].count += 44;
        after.edges[1].requests[0].errors += 4;
        after.edges[1].requests[0].duration.buckets[4] += 44;
        after.edges[0].opened += 1;
        after.edges[0].connect.buckets[3] += 1;
        let expected = "\
CLIENT           SERVICE       VERSION  ACTIVE  CONN/s  REQ/s  FAILED      p50       p99  BACKENDS
batch@night \"2\"  shop/payment  v2           12     0.5      0     0 %  (96 µs)  (127 µs)  1, 1 held back
nginx            shop/payment  v1           12       0     22   9.1 %   192 µs    254 µs  2
1 more services to which nobody has connected
";
        assert_eq!(plain(&table(&after, &window::flows(&before, &after))), expected);
    }

    #[test]
    fn without_services_it_says_what_to_do() {
        let mut map = Specimen::default().map().expect("a specimen");
        map.services.clear();
        assert!(table(&map, &[]).contains("segue check"));
    }

    #[test]
    fn a_part_of_a_name_chooses_services_with_their_edges() {
        let map = Specimen::default().map().expect("a specimen");
        assert_eq!(only(&args(Some("dns")), map.clone()).edges, []);
        assert_eq!(only(&args(Some("pay")), map).services.len(), 1);
    }
}
