//! `segue rollout`: canaries and how they do, and an operator's orders about them.

use std::process::ExitCode;

use super::client::{Client, ConnectArgs};
use super::table::{BAD, Cell, GOOD, Output, Table, WARN, duration, print, print_json};
use crate::admin::view::{RolloutRequest, RolloutView, Rollouts, SampleView};
use crate::rollout::{Order, Phase, Verdict};

/// Canaries, or an order about one.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  segue rollout                        which canaries are tried out, and how they do\n  \
                  segue rollout shop/payment -o json   the same of one service, for a script\n  \
                  segue rollout pause shop/payment     keep its share as it is; it is still compared\n  \
                  segue rollout resume shop/payment    let its share grow again, or begin anew after a rollback\n  \
                  segue rollout promote shop/payment   give it every connection now\n  \
                  segue rollout rollback shop/payment  take its share away now\n\n\
                  A canary is the version that `policy.canary` of a service names. While it does worse than its \
                  baseline, beyond chance, it is rolled back by itself. What became of it outlives the agent, and ends \
                  when the split or the canary of the service is written anew.\n\n\
                  Exit code: 0 done, 1 the agent cannot be asked, knows no such canary, or refuses the order, \
                  2 typed wrongly."
)]
pub struct RolloutArgs {
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
    /// Keep the share of a canary as it is; it is still compared and may be rolled back
    Pause(TargetArgs),
    /// Let the share of a paused canary grow again, or begin anew with one that was rolled back
    Resume(TargetArgs),
    /// Give a canary every connection; it is compared no more
    Promote(TargetArgs),
    /// Take a canary's share away
    Rollback(TargetArgs),
}

/// Whom an order is about.
#[derive(Clone, Debug, clap::Args)]
struct TargetArgs {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Which agent to ask
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Asks or orders, and writes the answer. Exit code 1 where the agent cannot be asked or refuses.
pub async fn run(args: &RolloutArgs) -> ExitCode {
    match &args.order {
        None => list(args).await,
        Some(OrderCommand::Pause(target)) => give(Order::Pause, target).await,
        Some(OrderCommand::Resume(target)) => give(Order::Resume, target).await,
        Some(OrderCommand::Promote(target)) => give(Order::Promote, target).await,
        Some(OrderCommand::Rollback(target)) => give(Order::Rollback, target).await,
    }
}

async fn list(args: &RolloutArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    let mut rollouts = match client.get::<Rollouts>("/v1/rollouts").await {
        Ok(answer) => answer.rollouts,
        Err(error) => return error.report(),
    };
    if let Some(unknown) =
        args.names.iter().find(|name| rollouts.iter().all(|rollout| *rollout.service != ***name))
    {
        anstream::eprintln!(
            "{BAD}segue:{BAD:#} the agent knows no canary of a service `{unknown}`; `segue rollout` lists all"
        );
        return ExitCode::FAILURE;
    }
    rollouts
        .retain(|rollout| args.names.is_empty() || args.names.iter().any(|name| **name == *rollout.service));
    match args.output {
        Output::Json => print_json(&Rollouts { rollouts }),
        Output::Table => print(&overview(&rollouts)),
    }
}

async fn give(order: Order, target: &TargetArgs) -> ExitCode {
    let request = RolloutRequest { service: target.service.clone(), order };
    let client = Client::new(target.connect.socket.clone());
    match client.post::<_, RolloutView>("/v1/rollout", &request).await {
        Ok(rollout) => match target.output {
            Output::Json => print_json(&rollout),
            Output::Table => print(&format!("{}: {}\n", rollout.service, rollout.summary)),
        },
        Err(error) => error.report(),
    }
}

/// One line per canary, and below it why those were rolled back that were.
fn overview(rollouts: &[RolloutView]) -> String {
    if rollouts.is_empty() {
        return "No canaries: no service has `canary` in its policy.\n".to_owned();
    }
    let headings = &[
        "SERVICE",
        "VERSION",
        "BASELINE",
        "PHASE",
        ">WEIGHT",
        "STEP",
        "NEXT STEP",
        "VERDICT",
        ">TRIED",
        ">FAILED",
        ">RESET",
        ">ANSWERED",
        ">ERRORS",
        ">CONNECT p99",
    ];
    let mut table = Table::new(headings);
    for rollout in rollouts {
        table.row([
            rollout.service.as_ref().into(),
            rollout.version.as_ref().into(),
            rollout.baseline.as_ref().into(),
            phase(rollout.phase),
            weight(rollout).into(),
            Cell::or_dash(rollout.step.map(|step| format!("{step} of {}", rollout.steps.len()))),
            next_step(rollout),
            verdict(rollout),
            pair(rollout, |sample| sample.tried).into(),
            pair(rollout, |sample| sample.failed).into(),
            pair(rollout, |sample| sample.reset).into(),
            pair(rollout, |sample| sample.answered).into(),
            pair(rollout, |sample| sample.errors).into(),
            connect_p99(rollout).into(),
        ]);
    }
    let mut text = table.to_string();
    for rollout in rollouts.iter().filter(|rollout| rollout.reason.is_some()) {
        text.push_str(&format!("\n{BAD}{}: {}{BAD:#}\n", rollout.service, rollout.summary));
    }
    text
}

/// The canary's part of the connections.
pub(super) fn weight(rollout: &RolloutView) -> String {
    format!("{}.{} %", rollout.weight_permille / 10, rollout.weight_permille % 10)
}

fn phase(phase: Phase) -> Cell {
    let style = match phase {
        Phase::Progressing | Phase::Promoted => GOOD,
        Phase::Paused => WARN,
        Phase::RolledBack => BAD,
    };
    Cell::styled(phase.name(), style)
}

fn next_step(rollout: &RolloutView) -> Cell {
    Cell::or_dash(rollout.next_step_in_ms.map(|ms| match ms {
        0 => "when there are enough connections".to_owned(),
        ms => format!("in {}", duration(ms.saturating_mul(1_000_000))),
    }))
}

fn verdict(rollout: &RolloutView) -> Cell {
    match (rollout.verdict, rollout.cause) {
        (_, Some(cause)) => Cell::styled(cause.name(), BAD),
        (Verdict::Fine, None) => Cell::styled(Verdict::Fine.name(), GOOD),
        (verdict, None) => verdict.name().into(),
    }
}

/// A count of the canary, and of the baseline beside it.
fn pair(rollout: &RolloutView, count: fn(&SampleView) -> u64) -> String {
    format!("{} / {}", count(&rollout.of_canary), count(&rollout.of_baseline))
}

fn connect_p99(rollout: &RolloutView) -> String {
    let [own, other] = [rollout.of_canary, rollout.of_baseline]
        .map(|sample| sample.connect_p99_ns.map_or_else(|| "-".to_owned(), duration));
    format!("{own} / {other}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::specimen::rollout;
    use crate::cli::table::plain;
    use crate::rollout::Cause;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RolloutArgs,
    }

    #[test]
    fn canaries_are_listed_beside_their_baselines_and_rollbacks_with_their_reason() {
        let back = RolloutView {
            service: "shop/search".into(),
            phase: Phase::RolledBack,
            weight_permille: 0,
            steps: Vec::new(),
            step: None,
            next_step_in_ms: None,
            verdict: Verdict::Decided,
            cause: Some(Cause::ResetRatio),
            reason: Some("reset_ratio: 9 of 60 were reset".to_owned()),
            summary: "v2 was rolled back: reset_ratio: 9 of 60 were reset".to_owned(),
            ..rollout()
        };
        let expected = "\
SERVICE       VERSION  BASELINE  PHASE        WEIGHT  STEP    NEXT STEP  VERDICT         TRIED  FAILED  RESET   ANSWERED  ERRORS      CONNECT p99
shop/payment  v2       v1        progressing  10.0 %  2 of 3  in 80 s    fine         88 / 790   1 / 4  0 / 2  300 / 900   2 / 5  210 µs / 190 µs
shop/search   v2       v1        rolled_back   0.0 %  -       -          reset_ratio  88 / 790   1 / 4  0 / 2  300 / 900   2 / 5  210 µs / 190 µs

shop/search: v2 was rolled back: reset_ratio: 9 of 60 were reset
";
        assert_eq!(plain(&overview(&[rollout(), back])), expected);
        assert!(overview(&[]).starts_with("No canaries"));
    }

    #[test]
    fn an_order_is_a_verb_before_the_service() {
        let typed = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
        let args = typed("rollout promote shop/payment").expect("an order");
        assert!(
            matches!(args.order, Some(OrderCommand::Promote(target)) if target.service == "shop/payment")
        );
        let args = typed("rollout shop/payment -o json").expect("a list");
        assert!(args.order.is_none() && args.names == ["shop/payment"], "{args:?}");
        assert!(typed("rollout rollback").is_err() && typed("rollout pause a b").is_err());
    }
}
