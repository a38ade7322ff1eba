//! `segue top`: services by what happens to them now, on a terminal that is drawn anew with each sample, or once for
//! scripts. Samples are what the admin API says anyway; rates are made here.

pub mod draw;
mod growth;
pub mod sample;
pub mod screen;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Zoned;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::client::{Client, ClientError, ConnectArgs};
use super::table::{BAD, Cell, GOOD, Output, Table, WARN, duration, print, print_json};
use crate::admin::view::{Flows, Services};
use draw::Around;
use sample::{Rates, Sample, ServiceRow};
use screen::{Screen, Sort, Wish};

/// Services by what happens to them now: rate, success, times, open connections, breakers. Enter shows the clients and
/// backends of one.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "RATE is of requests where they are understood (HTTP, databases, Kafka), else of connections. Success and times are of \
    the interval between two samples, never since the beginning.\n\n\
    \x20 segue top                             live; keys are shown, ? explains\n  \
    segue top --sort p99 --filter shop/   slowest first, only those\n  \
    segue top --once -o json              one sample, for scripts\n\n\
    NO_COLOR is respected.\n\n\
    Exit code: 0 done, 1 the agent cannot be asked, 2 typed wrongly or no terminal."
)]
pub struct TopArgs {
    /// Take one sample of one interval, print it and end; also with --output
    #[arg(long)]
    once: bool,
    /// How to print what --once took
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// Seconds between two samples, 0.5 to 60
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// The order of services
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Only services whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Which agent to ask
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How soon the agent is asked again where it has not counted anew.
const AGAIN: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.5..=60.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give seconds, 0.5 to 60".to_owned())
}

/// Shows services until told to end. Exit code 1 where the agent cannot be asked, 2 where there is no terminal.
pub async fn run(args: &TopArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    if args.once || args.output.is_some() {
        return match once(args, &client).await {
            Ok(code) => code,
            Err(error) => error.report(),
        };
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        anstream::eprintln!(
            "{BAD}segue:{BAD:#} `segue top` needs a terminal; `segue top --once` prints one sample"
        );
        return ExitCode::from(2);
    }
    // An agent that is not there is told as by any other command, before the terminal is taken.
    let begun = Instant::now();
    let first = match take(&client, begun).await {
        Ok(first) => first,
        Err(error) => return error.report(),
    };
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            anstream::eprintln!("{BAD}segue:{BAD:#} cannot take over the terminal: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = live(args, &client, &mut terminal, (begun, first)).await;
    ratatui::restore();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{BAD}segue:{BAD:#} cannot draw on the terminal: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn take(client: &Client, begun: Instant) -> Result<Sample, ClientError> {
    let services: Services = client.get("/v1/services").await?;
    let flows: Flows = client.get("/v1/flows").await?;
    let at = begun.elapsed();
    let counted_at = flows.counted_at_ms.map_or(at, Duration::from_millis);
    Ok(Sample { at, counted_at, services: services.services, edges: flows.edges })
}

async fn once(args: &TopArgs, client: &Client) -> Result<ExitCode, ClientError> {
    let begun = Instant::now();
    let before = take(client, begun).await?;
    tokio::time::sleep(args.interval).await;
    let mut now = take(client, begun).await?;
    while now.counted_at == before.counted_at {
        tokio::time::sleep(AGAIN).await;
        now = take(client, begun).await?;
    }
    let mut rates = Rates::between(Some(&before), &now);
    let screen = Screen::new(args.sort, &args.filter);
    rates.services = screen.services(&rates).into_iter().cloned().collect();
    Ok(match args.output.unwrap_or_default() {
        Output::Json => print_json(&rates),
        Output::Table => print(&table(&rates.services)),
    })
}

async fn live(
    args: &TopArgs,
    client: &Client,
    terminal: &mut DefaultTerminal,
    (begun, first): (Instant, Sample),
) -> std::io::Result<()> {
    let mut screen = Screen::new(args.sort, &args.filter);
    let (mut before, mut rates) = (first, None);
    let mut around = Around {
        every: duration(u64::try_from(args.interval.as_nanos()).unwrap_or(u64::MAX)),
        colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        ..Around::default()
    };
    let mut pressed = keys();
    let mut due = tokio::time::interval_at(tokio::time::Instant::now() + args.interval, args.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        around.clock = Zoned::now().strftime("%H:%M:%S").to_string();
        terminal.draw(|frame| draw::draw(frame, &screen, rates.as_ref(), &around))?;
        tokio::select! {
            _ = due.tick() => match take(client, begun).await {
                Ok(now) => {
                    around.trouble = None;
                    // The agent counts at most twice a second; what it told before says nothing new.
                    if now.counted_at != before.counted_at && !screen.is_paused {
                        rates = Some(Rates::between(Some(&before), &now));
                        before = now;
                    }
                }
                Err(error) => around.trouble = Some(error.to_string()),
            },
            key = pressed.recv() => match key {
                Some(Input::Key(key)) => {
                    let nothing = Rates::default();
                    if screen.press(key, rates.as_ref().unwrap_or(&nothing)) == Wish::Quit {
                        return Ok(());
                    }
                }
                Some(Input::Resized) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
        }
    }
}

/// What a terminal says.
enum Input {
    Key(KeyEvent),
    Resized,
}

/// Keys as they are pressed; ends with the terminal.
fn keys() -> mpsc::Receiver<Input> {
    /// More than anybody types between two drawings.
    const WAITING: usize = 64;
    let (sender, receiver) = mpsc::channel(WAITING);
    // Reading blocks until a key is pressed: the thread ends with the process.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let input = match event {
                Event::Key(key) if key.kind != KeyEventKind::Release => Input::Key(key),
                Event::Resize(..) => Input::Resized,
                _ => continue,
            };
            if sender.blocking_send(input).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A rate in at most five letters: `0`, `0.4`, `37`, `1.2k`.
fn rate(per_second: f64) -> String {
    match per_second {
        none if none <= 0.0 => "0".to_owned(),
        few if few < 0.05 => "<0.1".to_owned(),
        few if few < 9.95 && few.fract() > 0.0 => format!("{few:.1}").trim_end_matches(".0").to_owned(),
        some if some < 999.5 => format!("{some:.0}"),
        many if many < 99_950.0 => format!("{:.1}k", many / 1e3),
        many if many < 999_500.0 => format!("{:.0}k", many / 1e3),
        many => format!("{:.1}M", many / 1e6),
    }
}

/// A share; only what is all is 100 %.
fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".to_owned(),
        Some(all) if all >= 1.0 => "100%".to_owned(),
        Some(share) => format!("{:.1}%", (share * 1_000.0).floor() / 10.0),
    }
}

fn table(services: &[ServiceRow]) -> String {
    if services.is_empty() {
        return "No services.\n".to_owned();
    }
    let headings =
        &["SERVICE", "OF", ">RATE/s", ">CONN/s", ">SUCCESS", ">p50", ">p95", ">p99", ">OPEN", "BREAKER"];
    let mut table = Table::new(headings);
    for row in services {
        let pace = &row.pace;
        let time = |ns: Option<u64>| Cell::or_dash(ns.map(duration));
        let success = match pace.success {
            None => Cell::dash(),
            Some(share) => {
                let style = if share >= 1.0 {
                    GOOD
                } else if share >= 0.95 {
                    WARN
                } else {
                    BAD
                };
                Cell::styled(percent(Some(share)), style)
            }
        };
        table.row([
            (&*row.name).into(),
            row.carries().into(),
            rate(pace.rate()).into(),
            rate(pace.connects_per_s).into(),
            success,
            time(pace.times.p50_ns),
            time(pace.times.p95_ns),
            time(pace.times.p99_ns),
            pace.open.into(),
            if row.held_back() > 0 { Cell::styled(row.breaker(), BAD) } else { row.breaker().into() },
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::sample::tests::{later, sample};
    use super::*;
    use crate::cli::table::plain;

    #[test]
    fn rates_and_shares_are_short_and_do_not_flatter() {
        let rates = [0.0, 0.01, 0.5, 3.0, 9.96, 37.2, 999.4, 1_234.0, 99_949.0, 123_456.0, 2.5e6].map(rate);
        assert_eq!(rates, ["0", "<0.1", "0.5", "3", "10", "37", "999", "1.2k", "99.9k", "123k", "2.5M"]);
        let shares = [None, Some(1.0), Some(0.99999), Some(0.5), Some(0.0)].map(percent);
        assert_eq!(shares, ["-", "100%", "99.9%", "50.0%", "0.0%"]);
    }

    #[test]
    fn once_is_a_table_of_services() {
        let rates = Rates::between(Some(&sample(0)), &later());
        let expected = "\
SERVICE       OF     RATE/s  CONN/s  SUCCESS     p50     p95   p99  OPEN  BREAKER
shop/payment  http1      50      20    88.2%  768 µs  998 µs  1 ms    24  1/3 open
dns           udp         3       3        -       -       -     -     0  off
";
        assert_eq!(plain(&table(&rates.services)), expected);
        assert_eq!(table(&[]), "No services.\n");
    }

    #[test]
    fn an_interval_is_half_a_second_to_a_minute() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(["0.1", "61", "x", "NaN", "-1", "inf"].iter().all(|text| interval(text).is_err()));
    }
}
