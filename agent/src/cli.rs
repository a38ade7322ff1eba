//! The command line: what a person types. What they read is made by the modules below.

pub mod accept;
pub mod breaker;
pub mod check;
pub mod client;
pub mod explain;
pub mod flows;
pub mod map;
pub mod rollout;
pub mod services;
pub mod status;
pub mod table;
pub mod top;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

pub use table::Output;

use crate::admin::page;
use crate::config::duration_within;
use crate::discovery::kubernetes;
use crate::governor::Share;
use crate::{app, canary, kernel, otlp};

/// The control socket's default place.
pub const DEFAULT_SOCKET: &str = "/run/segue/segue.sock";

/// The default place of what outlives the agent.
const DEFAULT_STATE: &str = "/var/lib/segue";

/// Takes connections to service addresses at connect(), in the kernel, and sends each to a backend of the service
#[derive(Debug, Parser)]
#[command(name = "segue", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Start here:\n  segue check segue.yaml               is the configuration right?\n  \
                        segue run --config segue.yaml        balance every process of this host\n  \
                        segue status                         does it work, and what does the kernel lack?\n  \
                        segue services                       who answers for whom, and how much\n  \
                        segue breaker                        which backends are held back, and why\n  \
                        segue rollout                        which canaries are tried out, and how they do\n  \
                        segue flows -f                       connections as they open, fail and close\n  \
                        segue top                            services live, by what happens to them now")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: load the data plane, follow the configuration, serve metrics
    Run(Box<RunArgs>),
    /// Check a configuration file, without root and without touching anything
    #[command(after_help = "Exit code: 0 the file can be used, 1 it cannot, 2 typed wrongly.")]
    Check {
        #[command(flatten)]
        args: check::CheckArgs,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show whether it works: programs, kernel features, maps, configuration, the test connection
    Status(status::StatusArgs),
    /// Show services with their frontends, backends, connections and selections
    Services(services::ServicesArgs),
    /// Show which backends are held back and why, or order one in or out (open, close, auto)
    Breaker(breaker::BreakerArgs),
    /// Show canaries and how they do, or give an order about one (pause, resume, promote, rollback)
    Rollout(rollout::RolloutArgs),
    /// Accept a mass deletion that was held back: what sources took away goes
    Accept(accept::AcceptArgs),
    /// Explain what the next connections to a service would do, and why
    Explain(explain::ExplainArgs),
    /// Show who talks to which service, in totals or (-f) connection by connection
    Flows(flows::FlowsArgs),
    /// Watch services live: rate, success, times, open connections, breakers; drill into one
    Top(top::TopArgs),
    /// Show who talks to which service and what stands behind it, as a table or a drawing
    Map(map::MapArgs),
    /// Remove the data plane: detach every program and delete every map
    Unload(UnloadArgs),
    /// Make one test connection inside a cgroup (the agent calls this itself)
    #[command(hide = true)]
    Canary {
        /// The cgroup to enter
        cgroup: PathBuf,
    },
}

/// Which requests are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Reading {
    /// Those of every connection whose protocol is understood.
    #[default]
    Auto,
    /// None: no program looks at packets.
    Off,
}

/// Arguments of `segue run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The data plane keeps working when the agent ends, whatever way it ends. \
                        `segue unload` removes it.\nThe log goes to the standard error output. SEGUE_LOG sets its level: error, \
                        warn, info (the default) or debug.\n\nExit code: 0 told to leave by SIGTERM or SIGINT, 1 it could not start \
                        or go on, 2 typed wrongly.")]
pub struct RunArgs {
    /// The file with the services; it is watched, and an edit takes effect by itself
    #[arg(long, value_name = "FILE", required_unless_present = "kubernetes")]
    config: Option<PathBuf>,
    /// Take the Services of a Kubernetes cluster, also beside a file, whose services come first where names are the same
    #[arg(long)]
    kubernetes: bool,
    /// How to reach the API server; without it, as a pod does
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// This node's name in the cluster [default: $NODE_NAME, else the host's name]
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    node: Option<String>,
    /// The cgroup (version 2) whose processes are managed [default: the root, that is every process]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Address of /metrics, /healthz and /readyz, and of the service map, a page for a browser
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    listen: SocketAddr,
    /// Let the page of another agent read this one's service map, as in http://node-a:9464; `*` lets every page that this
    /// host's users open read it
    #[arg(long, value_name = "ORIGIN", value_parser = map_origin)]
    map_origin: Vec<String>,
    /// Unix socket of the admin API
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// BPF file system that holds maps and links; mounted if it is not
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Whether requests (HTTP) on connections to services, and to servers of this node, are read, for their metrics
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    requests: Reading,
    /// Read requests inside TLS as well, of every process that uses this library of OpenSSL, as in
    /// /usr/lib/x86_64-linux-gnu/libssl.so.3; may be given more than once, and a container's own copy is another, as in
    /// /proc/PID/root/usr/lib/libssl.so.3. Each call of OpenSSL then takes some microseconds longer, in all of these processes
    #[arg(long, value_name = "LIBSSL", env = "SEGUE_OBSERVE_TLS", value_delimiter = ':')]
    observe_tls: Vec<PathBuf>,
    /// Record connections one by one also while nobody follows, so that `segue flows --last` and `--since` know them; the
    /// kernel then sends, and the agent reads, two events for each
    #[arg(long)]
    record_flows: bool,
    /// The zone this node is in, as the zones of backends are written; for services with `locality: prefer_zone`
    /// [default: with --kubernetes, what the Node says]
    #[arg(long, value_name = "ZONE", env = "SEGUE_ZONE")]
    zone: Option<String>,
    /// Directory for what outlives the agent: how far canaries have come, what the cluster was like. Made when there is
    /// something to keep
    #[arg(long, value_name = "PATH", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Send the metrics by OTLP (HTTP, protobuf) as well, to /v1/metrics below this URL, as in http://collector:4318; with
    /// https the receiver must be one that this host trusts, or $SSL_CERT_FILE says
    #[arg(long, value_name = "URL", value_parser = otlp::Endpoint::parse)]
    otlp: Option<otlp::Endpoint>,
    /// How often they are sent
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = otlp::interval, requires = "otlp")]
    otlp_interval: Duration,
    /// A header of each request, as in authorization="Bearer …"; it is never logged, but every process of this host can
    /// read it here: $SEGUE_OTLP_HEADERS takes them as well, one a line
    #[arg(long, value_name = "NAME=VALUE", value_parser = otlp::Header::parse, requires = "otlp")]
    otlp_header: Vec<otlp::Header>,
    /// What observing may cost, as a part of the time of all processors, as in 2%: while Segue's programs and the agent take
    /// more, single connections are not told, then requests not read, then open sockets walked over rarely. What
    /// programs take is only known with CAP_SYS_ADMIN
    #[arg(long, value_name = "PERCENT", env = "SEGUE_OVERHEAD_BUDGET", value_parser = Share::parse_budget)]
    overhead_budget: Option<Share>,
    /// How often that is looked at, for a second at most
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = overhead_interval)]
    overhead_interval: Duration,
    /// Send spans of this share of requests as well, as in 1%, to /v1/traces: one of the side that asks, one of the side that
    /// answers, joined across nodes and to the trace the application is in, which is read where requests begin
    #[arg(long, value_name = "SHARE", value_parser = otlp::share, requires = "otlp")]
    otlp_traces: Option<f64>,
    /// Give spans the path of their request (url.path), never its query: paths may hold names and secrets
    #[arg(long, requires = "otlp_traces")]
    otlp_trace_paths: bool,
    /// Hold no deletion back, however large: not when most services, or most backends of one, are gone all at once
    #[arg(long)]
    accept_mass_deletion: bool,
}

/// Arguments of `segue unload`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Connections that are open go on. New connections to service addresses are left alone from then on, \
                        that is, they fail.\nAn agent that runs must be stopped first.\n\nExit code: 0 it is gone, or \
                        was not there; 1 it could not be removed, or an agent runs; 2 typed wrongly."
)]
pub struct UnloadArgs {
    /// BPF file system that holds maps and links
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Then stay until told to leave, for a pod that shows by being there that its node is done
    #[arg(long)]
    stay: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command that was typed. Exit codes: 0 done, 1 failed or something is wrong, 2 typed wrongly, and 3
/// where `status` reached an agent that needs a look.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match command {
        Command::Run(args) => run(*args),
        Command::Check { args, output } => return check::run(&args, output),
        Command::Status(args) => return ask(status::run(&args)),
        Command::Services(args) => return ask(services::run(&args)),
        Command::Breaker(args) => return ask(breaker::run(&args)),
        Command::Rollout(args) => return ask(rollout::run(&args)),
        Command::Accept(args) => return ask(accept::run(&args)),
        Command::Explain(args) => return ask(explain::run(&args)),
        Command::Flows(args) => return ask(flows::run(&args)),
        Command::Top(args) => return ask(top::run(&args)),
        Command::Map(args) => return ask(map::run(&args)),
        Command::Unload(args) => unload(&args),
        Command::Canary { cgroup } => {
            kernel::drop_capabilities();
            canary::child(&cgroup).map_err(Into::into)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("segue: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line, without those that the error's own text has already told.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    init_log();
    let zone = args.zone.filter(|zone| !zone.is_empty());
    let kubernetes = args.kubernetes.then(|| kubernetes::Options {
        kubeconfig: args.kubeconfig,
        node: args.node,
        zone: zone.clone(),
        state: args.state.clone(),
    });
    let otlp = match args.otlp {
        Some(endpoint) => Some(otlp_options(endpoint, args.otlp_interval, args.otlp_header)?),
        None => None,
    };
    if args.otlp_traces.is_some() && args.requests == Reading::Off {
        anyhow::bail!(
            "--otlp-traces makes spans of requests, and --requests off reads none; leave one of them out"
        );
    }
    let tls_libraries: Vec<_> =
        args.observe_tls.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
    if !tls_libraries.is_empty() && args.requests == Reading::Off {
        anyhow::bail!(
            "--observe-tls reads requests inside TLS, and --requests off reads none; leave one of them out"
        );
    }
    let traces = args.otlp_traces.map(|share| otlp::Tracing { share, with_paths: args.otlp_trace_paths });
    let otlp = otlp.map(|otlp| otlp::Options { traces, ..otlp });
    let options = app::Options {
        config: args.config,
        kubernetes,
        cgroup: args.cgroup,
        listen: args.listen,
        socket: args.socket,
        bpffs: args.bpffs,
        reads_requests: args.requests == Reading::Auto,
        tls_libraries,
        records_flows: args.record_flows,
        zone,
        state: args.state,
        map_origins: args.map_origin,
        otlp,
        overhead: args.overhead_budget.map(|share| app::Budget { share, interval: args.overhead_interval }),
        accept_mass_deletion: args.accept_mass_deletion,
    };
    let beginnings = app::Beginnings::settle();
    let readers = beginnings.readers();
    // Two workers: the control loop may read maps for milliseconds while the other answers. The control loop itself runs
    // on this thread, and no other is given what loading takes.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(move || readers.settle())
        .enable_all()
        .build()?
        .block_on(app::run(options, beginnings))
}

/// Where metrics are sent, with the headers of the environment before those that were typed, which win.
fn otlp_options(
    endpoint: otlp::Endpoint,
    interval: Duration,
    typed: Vec<otlp::Header>,
) -> anyhow::Result<otlp::Options> {
    let lines = std::env::var(otlp::HEADERS_VARIABLE).unwrap_or_default();
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    let mut headers = lines
        .map(otlp::Header::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow::anyhow!("${} is wrong: {error}, one a line", otlp::HEADERS_VARIABLE))?;
    headers.extend(typed);
    let trust =
        endpoint.is_secret().then(otlp::Trust::of_this_host).transpose().map_err(anyhow::Error::msg)?;
    Ok(otlp::Options { endpoint, interval, headers, trust, traces: None })
}

/// How often the cost of observing is looked at.
fn overhead_interval(text: &str) -> Result<Duration, String> {
    duration_within(text, &(Duration::from_millis(200)..=Duration::from_secs(3_600)), "10s")
}

/// A page's origin, or `*`.
fn map_origin(text: &str) -> Result<String, String> {
    match text == "*" || page::is_origin(text) {
        true => Ok(text.to_owned()),
        false => Err("give scheme, host and port, as in http://node-a:9464, or *".to_owned()),
    }
}

/// Runs a command that asks the agent.
fn ask(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("segue: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to stderr, one line an event, in colour only on a terminal.
fn init_log() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEGUE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_target(false)
        .with_writer(std::io::stderr)
        // It would tell on the same output, and end the agent where that is a file on a full disk.
        .log_internal_errors(false)
        .init();
}

fn unload(args: &UnloadArgs) -> anyhow::Result<()> {
    let unloaded = kernel::unload(&args.bpffs)?;
    match args.output {
        Output::Json => {
            println!("{}", serde_json::json!({ "links": unloaded.links, "maps": unloaded.maps }));
        }
        Output::Table if unloaded.links + unloaded.maps == 0 => println!("nothing was loaded"),
        Output::Table => {
            println!("detached {} programs, removed {} maps", unloaded.links, unloaded.maps);
        }
    }
    if args.stay { stay() } else { Ok(()) }
}

/// Does nothing until SIGTERM or SIGINT.
fn stay() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminated.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let told = kernel::KernelError::Bpffs {
            path: "/sys/fs/bpf".into(),
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let text = with_causes(&anyhow::Error::new(told));
        assert_eq!(text.matches("Operation not permitted").count(), 1, "{text}");
        let untold = Err::<(), _>(io::Error::from_raw_os_error(libc::ENOENT)).context("cannot read the maps");
        let text = with_causes(&untold.expect_err("an error"));
        assert_eq!(text, "cannot read the maps: No such file or directory (os error 2)");
    }
}
