//! `segue flows`: who talks to which service, in totals or event by event.

mod events;
mod moment;
mod selectors;
mod totals;

use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::client::{Client, ClientError, ConnectArgs};
use super::table::{BAD, DIM, WARN, print, print_json};
use crate::admin::view::{Flows, FollowLine, Recent};
use crate::flows::{MemoryView, Record, Workload};
use selectors::Selectors;

/// How flows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A line to read along
    Compact,
    /// Columns
    Table,
    /// For scripts: everything, exact; of single events an object a line
    Json,
    /// For people: everything, a line for each thing
    Dict,
}

/// Who talks to which service: totals of all connections since the agent first saw them, or single events.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Values of one selector are alternatives, different selectors must all hold:\n  \
    segue flows                                          totals by client and service\n  \
    segue flows --to-service shop/payment --status 5xx   who got how many of these answers\n  \
    segue flows --verdict refused --verdict timeout      the edges on which that happened\n  \
    segue flows -f --from-workload nginx                 connections as they open, fail and close\n  \
    segue flows -f --requests                            and each request as it is answered\n  \
    segue flows -f --status 5xx --to-service payment     only such requests\n  \
    segue flows -f --not --to-service dns --not --verdict fin\n  \
    segue flows --last 20 --verdict breaker              what breakers did lately\n  \
    segue flows --since 5m --namespace 'shop*' -o json   for scripts, an object a line\n\n\
    Events: opened, failed, closed, request, served, breaker_opened, breaker_half_open, breaker_closed, rollout_…; a verdict is one \
    of these, a reason (refused, timeout, no_backend, fin, rst_remote, …), established or reset.\n\n\
    The agent remembers the newest 4096 events. What breakers and canaries do is always among them; single \
    connections, also those that failed, are only recorded while somebody follows (-f), or with \
    `segue run --record-flows`. Requests are always counted; one by one they are only shown as they \
    are answered, and not remembered. Totals are always complete.\n\n\
    Exit code: 0 answered, 1 the agent cannot be asked or knows no such name, 2 typed wrongly.")]
pub struct FlowsArgs {
    /// Show connections as they open, fail and close, until interrupted
    #[arg(short, long, conflicts_with = "until")]
    pub follow: bool,
    /// Show requests too, one by one as they are answered: `request` where a workload of this node asks, `served` where it
    /// answers. A selector of requests (--status, --method, --protocol http) shows them alone
    #[arg(long, requires = "follow")]
    pub requests: bool,
    /// Show the newest N events that are remembered and selected; with -f, before those that happen
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Show remembered events since then: 5m (ago), 12:30, 2026-03-01T12:30:00Z
    #[arg(long, value_name = "TIME", value_parser = moment_of)]
    pub since: Option<Timestamp>,
    /// Show remembered events until then
    #[arg(long, value_name = "TIME", value_parser = moment_of)]
    pub until: Option<Timestamp>,
    /// How to print [default: table; compact for events]
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,
    /// Which flows
    #[command(flatten)]
    pub selectors: Selectors,
    /// Which agent to ask
    #[command(flatten)]
    pub connect: ConnectArgs,
}

fn moment_of(text: &str) -> Result<Timestamp, String> {
    moment::parse(text, Timestamp::now(), &TimeZone::system())
}

impl FlowsArgs {
    /// Single events are asked for, not totals.
    fn wants_events(&self) -> bool {
        self.follow || self.last.is_some() || self.since.is_some() || self.until.is_some()
    }

    /// The path to ask, with everything that was typed.
    fn path(&self) -> String {
        let path = match (self.follow, self.wants_events()) {
            (true, _) => "/v1/flows/follow",
            (false, true) => "/v1/flows/recent",
            (false, false) => "/v1/flows",
        };
        let mut query = self.selectors.query();
        query.extend(self.requests.then(|| "requests=true".to_owned()));
        query.extend(self.last.map(|last| format!("last={last}")));
        query.extend(self.since.map(|since| format!("since={since}")));
        query.extend(self.until.map(|until| format!("until={until}")));
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
    }
}

/// Asks the agent and writes the answer. Exit code 1 where it cannot be asked, 2 where what was typed makes no sense.
pub async fn run(args: &FlowsArgs) -> ExitCode {
    let selector = &args.selectors.0;
    let fits = match (args.follow, args.wants_events()) {
        (true, _) => Ok(()),
        (false, true) => selector.fits_remembered(),
        (false, false) => selector.fits_totals(),
    };
    if let Err(error) = fits {
        anstream::eprintln!("{BAD}segue:{BAD:#} {error}");
        return ExitCode::from(2);
    }
    let client = Client::new(args.connect.socket.clone());
    let answered = match (args.follow, args.wants_events()) {
        (true, _) => follow(args, &client).await,
        (false, true) => recent(args, &client).await,
        (false, false) => edges(args, &client).await,
    };
    answered.unwrap_or_else(|error| error.report())
}

async fn edges(args: &FlowsArgs, client: &Client) -> Result<ExitCode, ClientError> {
    let flows: Flows = client.get(&args.path()).await?;
    let form = args.output.unwrap_or(Form::Table);
    let text = match form {
        Form::Json => return Ok(print_json(&flows)),
        _ if flows.edges.is_empty() => totals::nothing(args.selectors.0.pairs().next().is_some()).to_owned(),
        Form::Table if args.selectors.0.is_of_requests() => totals::requests(&flows.edges),
        Form::Table => totals::connections(&flows.edges),
        Form::Compact => totals::compact(&flows.edges),
        Form::Dict => flows.edges.iter().map(totals::dict).collect::<Vec<_>>().join(events::SEPARATOR),
    };
    Ok(print(&text))
}

async fn recent(args: &FlowsArgs, client: &Client) -> Result<ExitCode, ClientError> {
    let Recent { memory, records } = client.get(&args.path()).await?;
    let mut writer = Writer::new(args);
    let mut text = writer.begin(Some(&memory));
    records.iter().for_each(|record| text += &writer.event(record));
    Ok(print(&text))
}

async fn follow(args: &FlowsArgs, client: &Client) -> Result<ExitCode, ClientError> {
    let mut lines = client.lines(&args.path()).await?;
    let mut writer = Writer::new(args);
    let mut code = print(&writer.begin(None));
    while code == ExitCode::SUCCESS {
        let Some(text) = lines.next().await? else {
            anstream::eprintln!("{DIM}the agent stopped{DIM:#}");
            break;
        };
        let line: FollowLine =
            serde_json::from_str(&text).map_err(|error| ClientError::Answer(error.to_string()))?;
        code = match line {
            _ if writer.form == Form::Json => print(&format!("{text}\n")),
            FollowLine::Record(record) => print(&writer.event(&record)),
            FollowLine::Memory { memory } => print(&writer.begin(Some(&memory))),
            FollowLine::Lost { lost } => {
                print(&format!("{WARN}… {lost} events lost: this reader was too slow{WARN:#}\n"))
            }
        };
    }
    Ok(code)
}

/// Writes events in one form.
struct Writer {
    form: Form,
    zone: TimeZone,
    written: bool,
    headed: bool,
}

impl Writer {
    fn new(args: &FlowsArgs) -> Self {
        let form = args.output.unwrap_or(Form::Compact);
        Self { form, zone: TimeZone::system(), written: false, headed: false }
    }

    /// What comes before events. What the memory holds is told beside the output, for scripts in it.
    fn begin(&mut self, memory: Option<&MemoryView>) -> String {
        match (memory, self.form) {
            (Some(memory), Form::Json) => one_line(&FollowLine::Memory { memory: memory.clone() }),
            (Some(memory), _) => {
                anstream::eprintln!("{DIM}{}{DIM:#}", events::about(memory, &self.zone));
                self.headings()
            }
            (None, _) => self.headings(),
        }
    }

    fn headings(&mut self) -> String {
        match self.form == Form::Table && !std::mem::replace(&mut self.headed, true) {
            true => events::headings(),
            false => String::new(),
        }
    }

    fn event(&mut self, record: &Record) -> String {
        let is_first = !std::mem::replace(&mut self.written, true);
        match self.form {
            Form::Compact => events::compact(record, &self.zone),
            Form::Table => events::row(record, &self.zone),
            Form::Json => one_line(record),
            Form::Dict if is_first => events::dict(record, &self.zone),
            Form::Dict => format!("{}{}", events::SEPARATOR, events::dict(record, &self.zone)),
        }
    }
}

fn one_line(value: &impl serde::Serialize) -> String {
    // Records are plain values, which can always be written.
    serde_json::to_string(value).map(|text| text + "\n").unwrap_or_default()
}

/// The namespace only where there is more than the host.
pub(super) fn client_name(client: &Workload) -> String {
    workload_name(&client.namespace, &client.name)
}

/// The same for the two parts of a name.
pub(super) fn workload_name(namespace: &str, name: &str) -> String {
    if namespace == crate::flows::identity::HOST_NAMESPACE {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::specimen::Specimen;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Typed {
        #[command(flatten)]
        flows: FlowsArgs,
    }

    fn args(words: &str) -> FlowsArgs {
        Typed::parse_from(words.split_whitespace()).flows
    }

    #[test]
    fn what_was_typed_becomes_one_question() {
        assert_eq!(args("").path(), "/v1/flows");
        assert_eq!(args("--status 404").path(), "/v1/flows?http-status=404");
        assert_eq!(args("-f").path(), "/v1/flows/follow");
        assert_eq!(args("-f --requests").path(), "/v1/flows/follow?requests=true");
        assert!(Typed::try_parse_from(["--requests"]).is_err());
        assert_eq!(
            args("-f --last 3 --not --to-service dns").path(),
            "/v1/flows/follow?not.to-service=dns&last=3"
        );
        let path = args("--since 2026-03-01T12:00:00Z --until 2026-03-01T13:00:00Z").path();
        assert_eq!(path, "/v1/flows/recent?since=2026-03-01T12:00:00Z&until=2026-03-01T13:00:00Z");
        assert!(Typed::try_parse_from(["-f", "--until", "5m"]).is_err());
        assert!(Typed::try_parse_from(["--since", "yesterday"]).is_err());
    }

    #[test]
    fn events_are_written_in_the_form_asked_for() {
        let record = Specimen::default().record();
        let written = |words: &str| {
            let mut writer = Writer::new(&args(words));
            super::super::table::plain(
                &(writer.begin(None) + &writer.event(&record) + &writer.event(&record)),
            )
        };
        assert_eq!(written("-f").lines().count(), 2);
        let table = written("-f -o table");
        assert_eq!(table.lines().count(), 3);
        assert!(table.starts_with("TIME "), "{table}");
        let json = written("-f -o json");
        assert!(json.lines().all(|line| serde_json::from_str::<Record>(line).is_ok()), "{json}");
        assert_eq!(written("-f -o dict").matches(events::SEPARATOR).count(), 1);
    }

    #[test]
    fn a_client_outside_the_host_is_named_with_its_namespace() {
        assert_eq!(client_name(&Workload::unknown()), "unknown/unknown");
    }
}
