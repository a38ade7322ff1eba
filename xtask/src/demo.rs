//! `cargo xtask demo`: Segue at work on real connections, in about a minute. A client that knows only a service
//! address, three backends, a config that changes under load, an agent that is killed and started again, backends
//! that fail. It fails if the answers do not come as the config says, or if a request fails that need not.

mod load;
mod phase;
mod screen;
mod window;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::actors::{self, Act, Actors};
use crate::node::{self, Agent, Node, Place, Process};
use crate::{build, host, setup, workspace};
use phase::{Phase, SERVERS};
use screen::{Screen, Tone, grouped, percent};
use window::Window;

pub(crate) use load::{Arguments as ClientArguments, run as run_client};

/// Reserved for benchmarks, and without a route in the namespace: it leads nowhere but through Segue.
const SERVICE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 10)), 80);

/// The fallback's own address.
const STATIC: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 11)), 80);

const NAMES: [&str; SERVERS] = ["payment-a", "payment-b", "payment-c", "fallback"];

/// The backend that fails first, and the fallback's.
const C: usize = 2;
const FALLBACK: usize = 3;

/// Failures in a row that take a backend out.
const FAILURES: u64 = 3;

/// How long a backend that fails is watched. Its breaker is open for longer: no probe adds to the failures.
const FAULT: Duration = Duration::from_millis(2500);
const OPEN_MS: u64 = 3_000;

/// What the map's rates are of, within that time.
const MAP: Duration = Duration::from_secs(1);

/// For a backend that came back.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);

/// What is watched of it then, in which its share grows.
const RECOVERY: Duration = Duration::from_millis(1500);

const PHASE: Duration = Duration::from_millis(4500);

const REDRAW: Duration = Duration::from_millis(200);

/// How often a line is printed where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// Answers the client may be ahead of the screen.
const QUEUED_ANSWERS: usize = 4096;

/// Set by SIGINT, SIGTERM and SIGHUP.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How to show it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Keep everything running at the end, until Ctrl-C.
    #[arg(long)]
    hold: bool,
}

/// Shows it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host::check_ebpf()?;
    setup::toolchain()?;
    build::segue(false)?;
    catch_signals();
    let node = Node::new("demo")?;
    let mut show = Show::begin(&node)?;
    show.acts()?;
    let outcome = show.summary();
    if arguments.hold {
        let hints = show.hints();
        show.screen.print(&hints);
        while !INTERRUPTED.load(Ordering::Relaxed) {
            show.follow_answers(REDRAW);
        }
    } else {
        show.screen.print("`cargo xtask demo --hold` keeps everything running, to look around in.");
    }
    outcome
}

fn check_interrupted() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted; everything was cleaned up");
    }
    Ok(())
}

fn catch_signals() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// A running demo. Its fields end in this order: client, agent, servers.
struct Show<'n> {
    node: &'n Node,
    screen: Screen,
    answers: Receiver<String>,
    _client: Process,
    agent: Option<Agent<'n>>,
    actors: Actors,
    window: Window,
    segue: PathBuf,
    begin: Instant,
    /// When the last line was printed where there is no terminal.
    plain_at: Instant,
    phases: Vec<Phase>,
    /// Answers on the connection that stays open, its backend, and how often it broke.
    held: u64,
    held_by: Option<String>,
    held_failed: u64,
    last_error: Option<String>,
}

impl<'n> Show<'n> {
    fn begin(node: &'n Node) -> anyhow::Result<Self> {
        let mut screen = Screen::new();
        let actors = Actors::start(node, &NAMES)?;
        node::write_config(node, &config([1, 1, 1]))?;
        let segue = build::binary(false);
        let agent = Agent::start(node, &segue, check_interrupted)?;
        let title = screen.paint(Tone::Strong, "Segue demo");
        screen.print(&format!(
            "{title}: service shop/payment at {SERVICE}, behind it three servers at {} to {}.\n\
             The client knows only {SERVICE}, to which there is no route. Agent: process {}.",
            actors::address(0),
            actors::address(2).port(),
            agent.id()
        ));
        let (client, answers) = start_client(node)?;
        Ok(Self {
            node,
            screen,
            answers,
            _client: client,
            agent: Some(agent),
            actors,
            window: Window::open(node)?,
            segue,
            begin: Instant::now(),
            plain_at: Instant::now(),
            phases: Vec::new(),
            held: 0,
            held_by: None,
            held_failed: 0,
            last_error: None,
        })
    }

    fn acts(&mut self) -> anyhow::Result<()> {
        self.act("Act 1: the config changes under load");
        self.phase("three of weight 1", [1, 1, 1])?;
        self.phase("weights 8, 1, 1", [8, 1, 1])?;
        self.phase("payment-c removed", [1, 1, 0])?;
        self.act("Act 2: the agent dies under load");
        if let Some(agent) = self.agent.take() {
            agent.kill()?;
        }
        self.phase("agent killed (SIGKILL)", [1, 1, 0])?;
        let (node, segue) = (self.node, self.segue.clone());
        // The load goes on while the agent starts.
        self.agent = Some(Agent::start(node, &segue, || self.watch(Duration::ZERO))?);
        self.phase("agent back, payment-c too", [1, 1, 1])?;
        self.act("Act 3: the backends fail under load");
        self.screen.print(&format!("  In a browser on this host, as it happens: {}", self.window.url()));
        self.failure("payment-c refuses", "payment-c is back", Act::Refuse)?;
        self.failure("payment-c is a black hole", "payment-c is back again", Act::Swallow)?;
        self.failure("payment-c resets", "payment-c is back to stay", Act::Reset)?;
        self.death()
    }

    /// One backend fails, and comes back.
    fn failure(&mut self, title: &'static str, back: &'static str, act: Act) -> anyhow::Result<()> {
        // Each client may be on its way while the breaker opens.
        self.begin_phase(Phase::of_failure(title, [true, true, false, false], FAILURES + load::CLIENTS));
        let time = if matches!(act, Act::Refuse) { FAULT - MAP - MAP / 2 } else { FAULT };
        self.actors.play(C, act)?;
        self.watch(time)?;
        if time < FAULT {
            self.map()?;
        }
        self.begin_phase(Phase::of_failure(back, [true, true, true, false], 0));
        self.actors.play(C, Act::ANSWER)?;
        self.watch_recovery()
    }

    /// The map, as text, of the time since just before.
    fn map(&mut self) -> anyhow::Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let shown = agent.ask(&["map", "--over", &MAP.as_secs().to_string()])?;
        self.screen.print(&format!("$ segue map\n{}", shown.trim_end()));
        Ok(())
    }

    /// All backends fail, and come back.
    fn death(&mut self) -> anyhow::Result<()> {
        let allowed = 3 * FAILURES + load::CLIENTS;
        self.begin_phase(Phase::of_failure("all three refuse", [false, false, false, true], allowed));
        for index in 0..FALLBACK {
            self.actors.play(index, Act::Refuse)?;
        }
        self.watch(FAULT)?;
        self.begin_phase(Phase::of_failure("all three are back", [true, true, true, false], 0));
        for index in 0..FALLBACK {
            self.actors.play(index, Act::ANSWER)?;
        }
        self.watch_recovery()
    }

    /// Watches until those answer that should, and a little longer.
    fn watch_recovery(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RECOVERY_LIMIT;
        let in_force = |phase: &Phase| phase.in_force().is_some();
        while !self.phases.last().is_some_and(in_force) && Instant::now() < deadline {
            self.watch(REDRAW)?;
        }
        self.watch(RECOVERY)
    }

    fn act(&mut self, title: &str) {
        let title = self.screen.paint(Tone::Strong, title);
        self.screen.print(&format!("\n{title}"));
    }

    /// Puts the weights into force, if they are others than before, and shows what comes of it.
    fn phase(&mut self, title: &'static str, weights: [u64; 3]) -> anyhow::Result<()> {
        let [a, b, c] = weights;
        self.begin_phase(Phase::new(title, [a, b, c, 0]));
        node::write_config(self.node, &config(weights))?;
        self.watch(PHASE)
    }

    fn begin_phase(&mut self, phase: Phase) {
        // What came in meanwhile belongs to the phase before.
        self.follow_answers(Duration::ZERO);
        self.phases.push(phase);
        self.screen.keep();
    }

    /// Shows what happens, for this long, at least once.
    fn watch(&mut self, time: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + time;
        loop {
            check_interrupted()?;
            self.follow_answers(REDRAW.min(deadline.saturating_duration_since(Instant::now())));
            if self.screen.is_live() {
                let table = self.table();
                self.screen.draw(&table);
            } else if self.plain_at.elapsed() >= PLAIN_EVERY {
                self.plain_at = Instant::now();
                let line = self.plain_line();
                self.screen.print(&line);
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
    }

    /// Takes in what the client says, for this long.
    fn follow_answers(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(line) => self.take_in(&line),
                // Also with no time at all, everything that has come in is taken.
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.last_error = Some("the client has ended".into());
                    thread::sleep(left);
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, line: &str) {
        if let Some(held) = line.strip_prefix('=') {
            if let Some(error) = held.strip_prefix('!') {
                self.held_failed += 1;
                self.last_error = Some(format!("on the open connection: {error}"));
            } else {
                self.held += 1;
                self.held_by = Some(held.to_owned());
            }
            return;
        }
        let Some(phase) = self.phases.last_mut() else { return };
        if let Some(backend) = NAMES.iter().position(|name| *name == line) {
            phase.answered(backend);
        } else {
            phase.failed += 1;
            self.last_error = Some(line.trim_start_matches('!').to_owned());
        }
    }

    fn table(&self) -> Vec<String> {
        let Some(phase) = self.phases.last() else { return Vec::new() };
        let screen = &self.screen;
        let failed = format!("{} failed", phase.failed);
        let tone = if phase.failed <= phase.allowed { Tone::Good } else { Tone::Bad };
        let mut lines = vec![format!(
            "  {:<25} {:>5.1} s  {:>7} requests  {}",
            phase.title,
            self.begin.elapsed().as_secs_f64(),
            grouped(phase.total()),
            screen.paint(tone, &failed)
        )];
        for (index, name) in NAMES.iter().enumerate() {
            let (part, whole) = (phase.answers[index], phase.total());
            lines.push(format!(
                "    {name}  {} {:>8}",
                screen.bar(Tone::Backend(index), part, whole),
                percent(part, whole)
            ));
        }
        lines
    }

    fn plain_line(&self) -> String {
        let Some(phase) = self.phases.last() else { return String::new() };
        let shares: Vec<String> = NAMES
            .iter()
            .zip(phase.answers)
            .map(|(name, part)| format!("{name} {:>7}", percent(part, phase.total())))
            .collect();
        format!(
            "  {:<25} {:>4.0} s  {:>7} requests  {} failed  {}",
            phase.title,
            self.begin.elapsed().as_secs_f64(),
            grouped(phase.total()),
            phase.failed,
            shares.join("  ")
        )
    }

    /// Prints what happened, what the agent says, and how to look around. An error if anything went wrong.
    fn summary(&mut self) -> anyhow::Result<()> {
        let table = self.summary_table();
        self.screen.print(&format!("\n{table}"));
        let mut faults: Vec<String> = self.phases.iter().filter_map(Phase::fault).collect();
        if self.held_failed > 0 || self.held == 0 {
            faults.push("the open connection broke".into());
        }
        if let Some(agent) = &self.agent {
            for command in ["services", "breaker", "flows"] {
                let shown = agent.ask(&[command])?;
                let prompt = self.screen.paint(Tone::Strong, &format!("$ segue {command}"));
                self.screen.print(&format!("{prompt}\n{}", shown.trim_end()));
                self.screen.print("");
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        if let Some(error) = &self.last_error {
            faults.push(format!("the last error was: {error}"));
        }
        bail!("not as it should be:\n  {}", faults.join("\n  "))
    }

    fn summary_table(&self) -> String {
        let screen = &self.screen;
        let heading = format!(
            "{:<25} {:>8} {:>6} {:>9} {:>9} {:>9} {:>9} {:>8}",
            "What happened", "requests", "failed", NAMES[0], NAMES[1], NAMES[2], NAMES[3], "in force"
        );
        let mut lines = vec![screen.paint(Tone::Strong, &heading)];
        let mut before = None;
        for phase in &self.phases {
            let share = |index: usize| percent(phase.answers[index], phase.total());
            let changed = before.replace(phase.weights).is_some_and(|weights| weights != phase.weights);
            let in_force = match phase.in_force() {
                Some(time) if changed => format!("{:.2} s", time.as_secs_f64()),
                None => "never".into(),
                Some(_) => String::new(),
            };
            lines.push(format!(
                "{:<25} {:>8} {:>6} {:>9} {:>9} {:>9} {:>9} {in_force:>8}",
                phase.title,
                grouped(phase.total()),
                phase.failed,
                share(0),
                share(1),
                share(2),
                share(3)
            ));
        }
        lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
        let requests: u64 = self.phases.iter().map(Phase::total).sum();
        let failed: u64 = self.phases.iter().map(|phase| phase.failed).sum();
        let allowed: u64 = self.phases.iter().map(|phase| phase.allowed).sum();
        let tone = if failed <= allowed { Tone::Good } else { Tone::Bad };
        lines.push(format!(
            "\n{} requests on as many connections, {}. {FAILURES} in a row open a breaker; with {} clients at most {allowed} \
             may fail.",
            grouped(requests),
            screen.paint(tone, &format!("{failed} failed")),
            load::CLIENTS
        ));
        let by = self.held_by.as_deref().unwrap_or("nobody");
        lines.push(match self.held_failed {
            0 => format!(
                "One connection stayed open all the time: {} answers, all by {by}.",
                grouped(self.held)
            ),
            broken => format!("The connection that should stay open broke {broken} times."),
        });
        lines.join("\n") + "\n"
    }

    /// Commands to look around with while it is held.
    fn hints(&self) -> String {
        let segue = relative(&self.segue);
        let socket = node::socket_path(self.node);
        let (segue, socket) = (segue.display(), socket.display());
        let namespace = self.node.namespace_path();
        format!(
            "Everything keeps running until Ctrl-C. To look around, in another terminal:\n\
             \x20 {segue} status --socket {socket}\n\
             \x20 {segue} flows -f --socket {socket}\n\
             \x20 {segue} top --socket {socket}\n\
             \x20 nsenter --net={} curl -s http://127.0.0.1:9464/metrics\n\
             \x20 $EDITOR {}\n\
             The service map, in a browser: {}",
            namespace.display(),
            node::config_path(self.node).display(),
            self.window.url()
        )
    }
}

/// The config with these weights; a backend of weight 0 is left out. One that joins has its whole share at once, and
/// a client that failed is not kept from the backend: what is shown is the breaker.
fn config(weights: [u64; 3]) -> String {
    let mut text = format!(
        "services:\n  - name: shop/payment\n    frontends: [\"{SERVICE}\"]\n    policy:\n      algorithm: round_robin\n      \
         connect_timeout: 500ms\n      fallback: shop/payment-static\n      slow_start: 0s\n      \
         breaker: {{ consecutive_failures: {FAILURES}, failure_ratio: 0%, jitter: 0%, open: {OPEN_MS}ms, open_max: {OPEN_MS}ms, \
         slow_start: 3s, negative_affinity: 0s }}\n    backends:\n"
    );
    for (index, weight) in weights.into_iter().enumerate().filter(|(_, weight)| *weight > 0) {
        let address = actors::address(index);
        text.push_str(&format!("      - {{ address: \"{address}\", weight: {weight} }}\n"));
    }
    text + &format!(
        "  - name: shop/payment-static\n    frontends: [\"{STATIC}\"]\n    backends: [\"{}\"]\n",
        actors::address(FALLBACK)
    )
}

/// A path as it is typed in the workspace.
fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(workspace()).unwrap_or(path).to_path_buf()
}

/// Starts the client in the managed cgroup; what it says comes line by line.
fn start_client(node: &Node) -> anyhow::Result<(Process, Receiver<String>)> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = node.command(&own, Place::Managed)?;
    command.args(["demo-client", &SERVICE.to_string()]).stdout(Stdio::piped());
    let mut client = Process::start("the client", &mut command, &node.directory().join("client.log"))?;
    let output = client.take_stdout().context("the client has no output")?;
    let (sender, answers) = sync_channel(QUEUED_ANSWERS);
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok((client, answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_leaves_out_a_backend_without_weight() {
        let text = config([8, 1, 0]);
        assert!(text.contains("127.0.0.1:901\", weight: 8"), "{text}");
        assert!(text.contains("127.0.0.1:902\", weight: 1"), "{text}");
        assert!(!text.contains(":903"), "{text}");
    }
}
