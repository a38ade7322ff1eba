//! `segue status`: whether the agent and its kernel side are well, and what there is of them.

use std::fmt::Write;
use std::process::ExitCode;

use jiff::Timestamp;

use super::client::{Client, ConnectArgs};
use super::table::{BAD, Cell, DIM, GOOD, HEADING, Output, Table, WARN, bytes, duration, print, print_json};
use crate::admin::view::{
    BudgetView, CanaryState, ClientsView, MAP_ALMOST_FULL, OtlpView, OverheadView, Status, TracesView,
};

/// Exit code where the agent answers and something needs a look.
pub const EXIT_PROBLEMS: u8 = 3;

/// Programs of others that are shown. The rest is in the JSON.
const MAX_NEIGHBOURS: usize = 50;

/// Health of the agent, its programs and maps.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 all is well, 1 the agent cannot be asked, 3 it answers and needs a look."
)]
pub struct StatusArgs {
    /// Show what the programs cost instead: their runs are timed for one second
    #[arg(long)]
    pub overhead: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which agent to ask
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Asks the agent and writes the answer.
pub async fn run(args: &StatusArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    if args.overhead {
        return overhead(&client, args.output).await;
    }
    let status = match client.get::<Status>("/v1/status").await {
        Ok(status) => status,
        Err(error) => return error.report(),
    };
    let code = match args.output {
        Output::Json => print_json(&status),
        Output::Table => print(&report(&status, Timestamp::now())),
    };
    if code == ExitCode::SUCCESS && !status.problems().is_empty() {
        return ExitCode::from(EXIT_PROBLEMS);
    }
    code
}

/// Asks what the programs cost. Exit code 3 where that cannot be told.
async fn overhead(client: &Client, output: Output) -> ExitCode {
    let view = match client.get::<OverheadView>("/v1/overhead").await {
        Ok(view) => view,
        Err(error) => return error.report(),
    };
    let code = match output {
        Output::Json => print_json(&view),
        Output::Table => print(&costs(&view)),
    };
    if code == ExitCode::SUCCESS && view.reason.is_some() {
        return ExitCode::from(EXIT_PROBLEMS);
    }
    code
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn costs(view: &OverheadView) -> String {
    if let Some(reason) = &view.reason {
        return format!("{BAD}✗ {reason}{BAD:#}\n");
    }
    let window_ns = view.window_ns.max(1) as f64;
    let mut table = Table::new(&["PROGRAM", "HOOK", ">RUNS/S", ">MEAN TIME", ">OF ONE CPU"]);
    let mut row = |name: &str, hook: &str, runs: u64, run_time_ns: u64| {
        table.row([
            name.into(),
            hook.into(),
            format!("{:.0}", runs as f64 / window_ns * 1e9).into(),
            Cell::or_dash(run_time_ns.checked_div(runs).map(duration)),
            format!("{:.3} %", run_time_ns as f64 / window_ns * 100.0).into(),
        ]);
    };
    let (mut runs, mut run_time_ns) = (0_u64, 0_u64);
    for program in &view.programs {
        runs = runs.saturating_add(program.runs);
        run_time_ns = run_time_ns.saturating_add(program.run_time_ns);
        row(&program.name, &program.hook, program.runs, program.run_time_ns);
    }
    row("all", "", runs, run_time_ns);
    format!("{table}\n")
}

fn report(status: &Status, now: Timestamp) -> String {
    let mut text = summary(status, now);
    for (title, table) in [
        ("Canaries", canaries(status)),
        ("Services of the cluster with notes", notes(status)),
        ("Programs", programs(status)),
        ("Maps", maps(status)),
        ("Kernel features", features(status)),
        ("Other programs on the same hooks", neighbours(status)),
    ] {
        let Some(table) = table else { continue };
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{HEADING}{title}{HEADING:#}");
        for line in table.to_string().lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn summary(status: &Status, now: Timestamp) -> String {
    let mut text = format!(
        "{HEADING}Segue {}{HEADING:#}  pid {}, up {}, map layouts of version {}\n",
        status.version,
        status.pid,
        since(status.started, now),
        status.abi
    );
    let problems = status.problems();
    if problems.is_empty() {
        let _ = writeln!(text, "{GOOD}✓ all is well{GOOD:#}");
    }
    for problem in problems {
        let _ = writeln!(text, "{BAD}✗ {problem}{BAD:#}");
    }
    text.push('\n');
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {DIM}{name:<11}{DIM:#}{value}");
    };
    line("cgroup", &status.cgroup);
    line("pins", &status.bpffs);
    let config = &status.config;
    let applied = config.applied_at.map_or_else(
        || "nothing applied yet".to_owned(),
        |at| format!("generation {}, applied {} ago", config.generation, since(at, now)),
    );
    line("config", &format!("{}; {applied}", config.file.as_deref().unwrap_or("no file")));
    if let Some(view) = &status.kubernetes {
        let since = view.since.map(|at| format!(" for {}", since(at, now))).unwrap_or_default();
        let zone = view.zone.as_ref().map(|zone| format!(", zone {zone}")).unwrap_or_default();
        let connection = view.connection.replace('_', " ");
        line("kubernetes", &format!("{}; {connection}{since}; node {}{zone}", view.server, view.node));
        let known = format!(
            "{} Services, {} endpoints, {} policies, {} routes, {} pods here",
            view.services, view.endpoints, view.policies, view.routes, view.pods
        );
        line("", &format!("{known}; {} with notes", view.noted));
    }
    if let Some(view) = &status.budget {
        line("cost", &budget(view, now));
    }
    if let Some(view) = &status.otlp {
        line("otlp", &otlp(view, now));
    }
    if let Some(view) = &status.traces {
        line("traces", &traces(view, now));
    }
    for library in &status.tls {
        line("inside tls", &format!("{}; {}", library.path, library.state));
    }
    line("clients", &clients(&status.clients));
    let canary = &status.canary;
    let when = canary.at.map(|at| format!(", {} ago", since(at, now))).unwrap_or_default();
    let how = match canary.state {
        CanaryState::Pending => "not made yet".to_owned(),
        CanaryState::Ok => format!("{GOOD}reached its backend{GOOD:#}"),
        CanaryState::Failed => format!("{BAD}failed{BAD:#}"),
    };
    line("test call", &format!("{how}{when}"));
    let heartbeat = status.data_plane.heartbeat_age_ms.map_or_else(
        || "never".to_owned(),
        |age_ms| format!("{} ago", duration(age_ms.saturating_mul(1_000_000))),
    );
    let following = if status.data_plane.following { "; connection events are on" } else { "" };
    let confinement = &status.confinement;
    let capabilities = match confinement.capabilities.as_slice() {
        [] => "no capabilities".to_owned(),
        names => names.join(" "),
    };
    let filter =
        if confinement.filtered { "system calls are filtered" } else { "system calls are not filtered" };
    line("may use", &format!("{capabilities}; {filter}"));
    line("heartbeat", &format!("{heartbeat}{following}"));
    text
}

fn budget(view: &BudgetView, now: Timestamp) -> String {
    let took =
        view.share.map_or_else(|| "not known yet".to_owned(), |share| format!("{:.2} %", share * 100.0));
    let whose = if view.untimed.is_some() { " (the agent alone)" } else { "" };
    let detail = view.missing.as_ref().map_or_else(
        || "everything is observed".to_owned(),
        |missing| format!("{WARN}{missing}, for {}{WARN:#}", since(view.since, now)),
    );
    format!("{took}{whose} of the processors, budget {:.2} %; {detail}", view.budget * 100.0)
}

fn otlp(view: &OtlpView, now: Timestamp) -> String {
    let last = view
        .last_ok
        .map_or_else(|| "nothing taken yet".to_owned(), |at| format!("taken {} ago", since(at, now)));
    let counts = view.counts().map(|(outcome, count)| format!("{count} {outcome}")).join(", ");
    let error = view.error.as_ref().map(|error| format!("; {BAD}{error}{BAD:#}")).unwrap_or_default();
    format!("{}; {last}; {counts}{error}", view.endpoint)
}

fn traces(view: &TracesView, now: Timestamp) -> String {
    let spans = view.spans().map(|(outcome, count)| format!("{count} {}", outcome.replace('_', " ")));
    let share = view.share * 100.0;
    format!("{share} % of requests; spans: {}; {}", spans.join(", "), otlp(&view.sending, now))
}

fn clients(view: &ClientsView) -> String {
    let some = [
        (view.left_alone, "pods left alone"),
        (view.pods_unnamed, "pods named by their UID"),
        (view.unresolved, "cgroups gone unnamed"),
    ];
    let workloads = format!("{} workloads", view.workloads);
    let some = some.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    std::iter::once(workloads).chain(some).collect::<Vec<_>>().join(", ")
}

fn canaries(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["SERVICE", "PHASE", "CANARY"]);
    for rollout in &status.rollouts {
        let style = if rollout.is_problem() { BAD } else { GOOD };
        table.row([
            rollout.service.as_ref().into(),
            Cell::styled(rollout.phase.name(), style),
            rollout.summary.as_str().into(),
        ]);
    }
    (!status.rollouts.is_empty()).then_some(table)
}

fn notes(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["SERVICE", "NOTE"]);
    let notes = status.kubernetes.as_ref().map(|view| &view.notes[..]).unwrap_or_default();
    for note in notes {
        table.row([note.service.as_str().into(), note.note.as_str().into()]);
    }
    (!notes.is_empty()).then_some(table)
}

fn programs(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["PROGRAM", "HOOK", "ATTACHED", ">ID", ">RUNS", ">MEAN TIME"]);
    for program in &status.programs {
        let attached = if program.attached { Cell::styled("yes", GOOD) } else { Cell::styled("no", BAD) };
        let mean = match (program.run_time_ns, program.runs) {
            (Some(time), Some(runs)) if runs > 0 => Some(duration(time / runs)),
            _ => None,
        };
        table.row([
            program.name.as_str().into(),
            program.hook.as_str().into(),
            attached,
            Cell::or_dash(program.id.map(|id| id.to_string())),
            Cell::or_dash(program.runs.map(|runs| runs.to_string())),
            Cell::or_dash(mean),
        ]);
    }
    (!status.programs.is_empty()).then_some(table)
}

fn maps(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["MAP", ">ENTRIES", ">MAX", ">USED", ">MEMORY"]);
    for map in &status.maps {
        let used = map.usage();
        let style = if used >= MAP_ALMOST_FULL { WARN } else { anstyle::Style::new() };
        // Storage that belongs to sockets has no limit of its own, and nobody counts it.
        let limited = map.max_entries > 0;
        let share =
            if limited { Cell::styled(format!("{:.0} %", used * 100.0), style) } else { Cell::dash() };
        table.row([
            map.name.as_str().into(),
            Cell::or_dash(limited.then(|| map.entries.to_string())),
            Cell::or_dash(limited.then(|| map.max_entries.to_string())),
            share,
            bytes(map.bytes).into(),
        ]);
    }
    (!status.maps.is_empty()).then_some(table)
}

fn features(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["FEATURE", "FOUND", "WITHOUT IT"]);
    for feature in &status.features {
        let (found, style) = if feature.found { ("yes", GOOD) } else { ("no", WARN) };
        let cost = if feature.found { Cell::styled("-", DIM) } else { feature.without.as_str().into() };
        table.row([feature.name.as_str().into(), Cell::styled(found, style), cost]);
    }
    (!status.features.is_empty()).then_some(table)
}

fn neighbours(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["HOOK", "PROGRAM", ">ID", "OF", "RUNS", "WHO WINS", "CGROUP"]);
    for neighbour in status.neighbours.iter().take(MAX_NEIGHBOURS) {
        let wins = match (neighbour.may_translate, neighbour.order.as_str()) {
            (true, "before") => Cell::styled("it does: what it translates, Segue does not see", WARN),
            (true, "after") => "Segue does, but it has the last word".into(),
            _ => Cell::dash(),
        };
        table.row([
            neighbour.hook.as_str().into(),
            neighbour.program.as_str().into(),
            u64::from(neighbour.id).into(),
            Cell::or_dash(neighbour.owner.clone()),
            neighbour.order.as_str().into(),
            wins,
            neighbour.cgroup.as_str().into(),
        ]);
    }
    (!status.neighbours.is_empty()).then_some(table)
}

/// A time between two moments; zero where the clock was set back.
fn since(then: Timestamp, now: Timestamp) -> String {
    match u64::try_from(now.as_second().saturating_sub(then.as_second())).unwrap_or(0) {
        // `duration` would show a nought with the smallest unit it has.
        0 => "0 s".to_owned(),
        seconds => duration(seconds.saturating_mul(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::{self, Specimen};
    use crate::cli::table::plain;

    fn status() -> Status {
        Specimen::default().status().expect("a specimen")
    }

    #[test]
    fn the_report_says_first_whether_all_is_well() {
        let expected = "\
Segue 0.1.0  pid 4711, up 2 h 3 min, map layouts of version 1
✓ all is well

  cgroup     /sys/fs/cgroup
  pins       /sys/fs/bpf/segue/abi1
  config     /etc/segue/segue.yaml; generation 7, applied 95 s ago
  kubernetes https://10.96.0.1; in sync for 1 h; node node-1, zone eu-1a
             40 Services, 310 endpoints, 3 policies, 1 routes, 31 pods here; 1 with notes
  cost       0.34 % of the processors, budget 2.00 %; everything is observed
  otlp       http://collector:4318/v1/metrics; taken 15 s ago; 480 ok, 1 rejected, 3 failed
  traces     1 % of requests; spans: 9120 sent, 12 rejected, 3 queue full, 40 declined; http://collector:4318/v1/traces; taken 2 s ago; 310 ok, 1 rejected, 2 failed
  inside tls /usr/lib/x86_64-linux-gnu/libssl.so.3; read
  clients    44 workloads, 2 pods left alone, 1 pods named by their UID, 6 cgroups gone unnamed
  test call  reached its backend, 12 s ago
  may use    CAP_NET_ADMIN; system calls are filtered
  heartbeat  400 ms ago

Canaries
  SERVICE       PHASE        CANARY
  shop/payment  progressing  v2 gets 10.0 % (step 2 of 3), does no worse than v1

Services of the cluster with notes
  SERVICE        NOTE
  shop/carts-db  is headless: clients get the addresses of its pods from DNS

Programs
  PROGRAM   HOOK             ATTACHED  ID   RUNS  MEAN TIME
  connect4  cgroup/connect4  yes       61  48211     400 ns
  connect6  cgroup/connect6  yes       62  48211     400 ns
  flow      sock_ops         yes       63      -          -

Maps
  MAP        ENTRIES    MAX  USED   MEMORY
  FRONTENDS      120  32768   0 %  2.5 MiB
  EDGES         4100   8192  50 %   11 MiB
  DATAGRAMS        -      -     -    480 B

Kernel features
  FEATURE      FOUND  WITHOUT IT
  set_retval   yes    -
  tcp_destroy  no     connections of draining backends cannot be reset

Other programs on the same hooks
  HOOK             PROGRAM          ID  OF      RUNS    WHO WINS                                         CGROUP
  cgroup/connect4  cil_sock4_conne  40  Cilium  before  it does: what it translates, Segue does not see  /sys/fs/cgroup
";
        assert_eq!(plain(&report(&status(), specimen::now())), expected);
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let mut status = status();
        status.programs[1].attached = false;
        status.canary.state = CanaryState::Failed;
        status.canary.reason = Some("connection refused".to_owned());
        let text = plain(&report(&status, specimen::now()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "✗ program connect6 is not attached to cgroup/connect6");
        assert_eq!(lines[2], "✗ the test connection did not reach its backend: connection refused");
    }

    #[test]
    fn the_cost_of_all_programs_is_the_last_line() {
        let text = costs(&Specimen::default().overhead());
        let plain = plain(&text);
        let lines: Vec<Vec<&str>> = plain.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["connect4", "cgroup/connect4", "2000", "900", "ns", "0.180", "%"], "{plain}");
        assert_eq!(lines[3], ["connect6", "cgroup/connect6", "0", "-", "0.000", "%"], "{plain}");
        assert_eq!(lines[4], ["all", "20000", "250", "ns", "0.500", "%"], "{plain}");
    }

    #[test]
    fn where_runs_are_not_timed_the_reason_stands_instead() {
        let text = costs(&Specimen { broken: true, ..Specimen::default() }.overhead());
        assert!(text.contains("nobody times them"), "{text}");
    }

    #[test]
    fn a_clock_that_was_set_back_shows_no_age() {
        let later = specimen::now() + std::time::Duration::from_secs(60);
        assert_eq!(since(later, specimen::now()), "0 s");
    }
}
