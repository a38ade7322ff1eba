//! `segue accept`: an operator's word that a mass deletion which was held back is meant.

use std::process::ExitCode;

use super::client::{Client, ConnectArgs};
use super::table::{Cell, Output, Table, duration, print, print_json};
use crate::admin::view::{AcceptRequest, Accepted, HeldView, HeldViews};
use crate::desired::guard::Loss;

/// What is accepted.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Where a source takes away more than half of its services at once (ten or more), or all their backends, \
                  they stay as they were: that is more often an accident than a plan. The same holds for more than half of \
                  the backends of one service in a file. What else the source says is in force. What is held goes when you \
                  accept it, and is held no more when its source names it again.\n\n\
                  Examples:\n  segue accept --dry-run           what is held, and since when\n  \
                  segue accept                     it is meant: let all of it go\n  \
                  segue accept shop/cart shop/pay  only these\n\n\
                  `segue run --accept-mass-deletion` holds nothing.\n\n\
                  Exit code: 0 done, also where nothing was held, 1 the agent cannot be asked or holds nothing of that name, \
                  2 typed wrongly."
)]
pub struct AcceptArgs {
    /// Only these services, or addresses where no name is known [default: all that is held]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Only show what is held
    #[arg(long)]
    dry_run: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Which agent to ask
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Shows or accepts, and writes what. Exit code 1 where the agent cannot be asked or refuses.
pub async fn run(args: &AcceptArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    if args.dry_run {
        let mut held = match client.get::<HeldViews>("/v1/held").await {
            Ok(answer) => answer.held,
            Err(error) => return error.report(),
        };
        held.retain(|view| args.services.is_empty() || args.services.contains(&view.title()));
        return match args.output {
            Output::Json => print_json(&HeldViews { held }),
            Output::Table => print(&overview(&held)),
        };
    }
    let request = AcceptRequest { services: args.services.clone() };
    match client.post::<_, Accepted>("/v1/accept", &request).await {
        Ok(accepted) => match args.output {
            Output::Json => print_json(&accepted),
            Output::Table => print(&told(&accepted)),
        },
        Err(error) => error.report(),
    }
}

fn told(accepted: &Accepted) -> String {
    if accepted.accepted.is_empty() {
        return "Nothing was held back.\n".to_owned();
    }
    format!("{}\nAccepted: this goes now.\n", table(&accepted.accepted))
}

fn overview(held: &[HeldView]) -> String {
    if held.is_empty() {
        return "Nothing is held back.\n".to_owned();
    }
    format!(
        "{}\nAll of it stays as it was until `segue accept`, or until its source names it again.\n",
        table(held)
    )
}

fn table(held: &[HeldView]) -> Table {
    let mut table = Table::new(&["SERVICE", "SOURCE", "WOULD LOSE", ">BACKENDS", ">HELD FOR"]);
    for view in held {
        let loss = match view.loss {
            Loss::Service => "everything",
            Loss::EveryBackend => "every backend",
            Loss::Backends => "most backends",
        };
        table.row([
            view.title().into(),
            Cell::or_dash(view.source.clone()),
            loss.into(),
            Cell::or_dash(view.backends.map(|count| count.to_string())),
            duration(view.held_for_ms.saturating_mul(1_000_000)).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::specimen::held;
    use crate::cli::table::plain;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AcceptArgs,
    }

    #[test]
    fn what_is_held_is_shown_with_what_it_would_lose_and_since_when() {
        let found = HeldView { source: None, service: None, backends: None, ..held() };
        let expected = "\
SERVICE        SOURCE  WOULD LOSE  BACKENDS  HELD FOR
shop/cart      file    everything         3      90 s
10.96.0.11:80  -       everything         -      90 s

All of it stays as it was until `segue accept`, or until its source names it again.
";
        assert_eq!(plain(&overview(&[held(), found])), expected);
        assert_eq!(overview(&[]), "Nothing is held back.\n");
    }

    #[test]
    fn what_was_accepted_is_told_also_where_it_was_nothing() {
        assert!(told(&Accepted { accepted: vec![held()] }).ends_with("Accepted: this goes now.\n"));
        assert_eq!(told(&Accepted::default()), "Nothing was held back.\n");
    }

    #[test]
    fn without_names_everything_is_meant() {
        let typed = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
        assert!(typed("accept").expect("all").services.is_empty());
        let args = typed("accept shop/cart shop/pay -o json").expect("two");
        assert_eq!((args.services.len(), args.dry_run), (2, false));
    }
}
