//! The client of comparisons: one thread, many connections, in a process of its own and of a release build, so that
//! the client is as small a part of what is measured as it can be. Three ways to ask: as fast as answers come on open
//! connections, at a rate on open connections, and with a connection for each request. Every answer is compared with
//! what the servers are known to say; one with other bytes ends it. It does not know what is between it and them.
//!
//! At a rate a request counts from when it was due, also where no connection was free to send it: a server that
//! stalls must not look fast for being asked less while it does. What was due and never answered counts as having
//! taken until the end.

mod exchange;
mod socket;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::load::now_ns;
use super::probe::{Range, next};
use super::{affinity, cpus};
use crate::build;
use crate::node::{Node, Place};
use exchange::{Exchange, Progress};
use socket::Poller;

/// Beyond it a time is recorded as this long: no turn takes longer.
const LONGEST_NS: u64 = 60_000_000_000;

/// Significant digits of recorded times.
const DIGITS: u8 = 3;

/// How long to wait for events where nothing is due.
const IDLE_WAIT: Duration = Duration::from_millis(10);

/// After this long without any answer, a turn is given up.
const STALL: Duration = Duration::from_secs(10);

/// What the client does; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// As fast as answers come, on open connections.
    Keepalive,
    /// So many requests a second, on open connections.
    Rate,
    /// As fast as answers come, a connection for each request.
    Connect,
}

/// What to ask, and how.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_enum)]
    mode: Mode,
    /// The first address to ask.
    first: SocketAddrV4,
    /// The last; each connection goes to a random one.
    last: Ipv4Addr,
    #[arg(long)]
    connections: usize,
    /// Requests a second, of mode `rate`.
    #[arg(long, default_value_t = 1)]
    rate: u64,
    #[arg(long)]
    warm_up_ms: u64,
    #[arg(long)]
    measure_ms: u64,
    /// A body that a server may answer with.
    #[arg(long)]
    expect: Vec<String>,
    /// The cgroup whose processor time is told.
    #[arg(long)]
    cgroup: PathBuf,
}

/// A turn of a client.
#[derive(Clone, Debug)]
pub(super) struct Turn<'a> {
    pub(super) mode: Mode,
    pub(super) place: Place,
    pub(super) target: Range,
    pub(super) connections: usize,
    /// Requests a second; only of [`Mode::Rate`].
    pub(super) rate: u64,
    pub(super) warm_up: Duration,
    pub(super) measure: Duration,
    pub(super) bodies: &'a [String],
}

/// What came of a turn.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// Answers within the measured time, all of them with the right bytes.
    pub(super) count: u64,
    /// Requests that came to nothing: the connection failed, or whoever is in between said so.
    pub(super) failed: u64,
    /// The measured time.
    pub(super) seconds: f64,
    /// Processor time of the whole node while it lasted: client, servers, what is between them, and the kernel in
    /// their names.
    pub(super) cpu_us: f64,
    /// Nanoseconds from the start of each request (from when it was due) to its answer.
    pub(super) times: Histogram<u64>,
}

/// Builds the client with optimisations; what runs the benchmarks is a debug build.
pub(super) fn build() -> anyhow::Result<()> {
    let mut command = build::cargo();
    command.args(["build", "--quiet", "--release", "--package", "xtask"]);
    if !command.status().context("cannot run cargo")?.success() {
        bail!("building the client failed");
    }
    Ok(())
}

impl Turn<'_> {
    /// Runs it on a node and waits until it is over.
    pub(super) fn run(&self, node: &Node) -> anyhow::Result<Answers> {
        let binary = build::binary(true).with_file_name("xtask");
        let mut command = node.command(&binary, self.place)?;
        let mode = self.mode.to_possible_value().context("a mode without a name")?;
        command.args(["bench-client", mode.get_name()]);
        command.args([self.target.first.to_string(), self.target.last.to_string()]);
        command.args(["--connections", &self.connections.to_string(), "--rate", &self.rate.to_string()]);
        command.args(["--warm-up-ms", &self.warm_up.as_millis().to_string()]);
        command.args(["--measure-ms", &self.measure.as_millis().to_string()]);
        for body in self.bodies {
            command.args(["--expect", body]);
        }
        command.arg("--cgroup").arg(node.root_cgroup());
        let output = command.stdin(Stdio::null()).output().context("cannot run the client")?;
        if !output.status.success() {
            bail!("the client failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let value = serde_json::from_slice(&output.stdout).context("the client printed something else")?;
        Answers::read(&value).context("the client left something out")
    }
}

impl Answers {
    fn read(value: &Value) -> Option<Self> {
        let mut times = histogram()?;
        for pair in value["times"].as_array()? {
            times.record_n(pair[0].as_u64()?, pair[1].as_u64()?).ok()?;
        }
        Some(Self {
            count: value["count"].as_u64()?,
            failed: value["failed"].as_u64()?,
            seconds: value["seconds"].as_f64()?,
            cpu_us: value["cpu_us"].as_f64()?,
            times,
        })
    }
}

pub(super) fn histogram() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).ok()
}

/// Asks as told, and prints what came of it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // The server has the first CPU; see the plan of the comparison. A client that may not be pinned runs anyway.
    let _ = affinity::pin(0, cpus().saturating_sub(1));
    socket::wake_on_time();
    let mut client = Client::new(arguments)?;
    let value = client.run()?;
    println!("{value}");
    Ok(())
}

struct Client<'a> {
    arguments: &'a Arguments,
    request: Vec<u8>,
    poller: Poller,
    slots: Vec<Exchange>,
    /// Slots that wait for something to send.
    free: Vec<usize>,
    random: u64,
    times: Histogram<u64>,
    count: u64,
    failed: u64,
    /// When measuring begins and ends.
    begin_ns: u64,
    end_ns: u64,
}

impl<'a> Client<'a> {
    fn new(arguments: &'a Arguments) -> anyhow::Result<Self> {
        let connection = if arguments.mode == Mode::Connect { "close" } else { "keep-alive" };
        Ok(Self {
            arguments,
            request: format!("GET / HTTP/1.1\r\nHost: bench\r\nConnection: {connection}\r\n\r\n")
                .into_bytes(),
            poller: Poller::new().context("cannot make an epoll instance")?,
            slots: Vec::new(),
            free: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id()),
            times: histogram().context("no histogram")?,
            count: 0,
            failed: 0,
            begin_ns: 0,
            end_ns: 0,
        })
    }

    fn run(&mut self) -> anyhow::Result<Value> {
        for slot in 0..self.arguments.connections {
            let exchange = self.connect(slot)?;
            self.slots.push(exchange);
            self.free.push(slot);
        }
        let start_ns = now_ns();
        self.begin_ns = start_ns + self.arguments.warm_up_ms * 1_000_000;
        self.end_ns = self.begin_ns + self.arguments.measure_ms * 1_000_000;
        let mut cpu_us = None;
        let mut heard_ns = start_ns;
        let mut due = Schedule { start_ns, rate: self.arguments.rate.max(1), sent: 0 };
        loop {
            let now = now_ns();
            if now >= self.begin_ns && cpu_us.is_none() {
                cpu_us = Some(cpu_us_of(&self.arguments.cgroup)?);
            }
            if now >= self.end_ns {
                break;
            }
            self.send(now, &mut due)?;
            if self.serve(self.patience(now, &due))? {
                heard_ns = now;
            } else if now.saturating_sub(heard_ns) > ns(STALL) {
                bail!("no answer from {} for {STALL:?}", self.arguments.first);
            }
        }
        let cpu_us = cpu_us_of(&self.arguments.cgroup)? - cpu_us.unwrap_or_default();
        self.count_unanswered(&due);
        let times: Vec<Value> = self
            .times
            .iter_recorded()
            .map(|step| json!([step.value_iterated_to(), step.count_at_value()]))
            .collect();
        let seconds = Duration::from_millis(self.arguments.measure_ms).as_secs_f64();
        Ok(
            json!({ "count": self.count, "failed": self.failed, "seconds": seconds, "cpu_us": cpu_us, "times": times }),
        )
    }

    fn connect(&mut self, slot: usize) -> anyhow::Result<Exchange> {
        let low = self.arguments.first.ip().to_bits();
        let span = u64::from(self.arguments.last.to_bits().saturating_sub(low)) + 1;
        let ip = low + u32::try_from(next(&mut self.random) % span)?;
        let address = SocketAddrV4::new(Ipv4Addr::from_bits(ip), self.arguments.first.port());
        let stream = socket::connect(address).with_context(|| format!("connect to {address}"))?;
        self.poller.add(&stream, slot).context("cannot watch a socket")?;
        Ok(Exchange::new(stream, self.arguments.mode == Mode::Connect))
    }

    /// Sends on free connections what may be sent now.
    fn send(&mut self, now: u64, due: &mut Schedule) -> anyhow::Result<()> {
        while let Some(slot) = self.free.pop() {
            let at_ns = match self.arguments.mode {
                Mode::Rate if due.next_ns() > now => {
                    self.free.push(slot);
                    return Ok(());
                }
                Mode::Rate => due.next_ns(),
                Mode::Keepalive | Mode::Connect => now,
            };
            due.sent += 1;
            if !self.slots[slot].begin(at_ns, &self.request) {
                self.renew(slot)?;
                // Trying again at once might be for ever.
                return Ok(());
            }
        }
        Ok(())
    }

    /// How long the next events may be awaited.
    fn patience(&self, now: u64, due: &Schedule) -> Duration {
        match self.arguments.mode {
            Mode::Rate if !self.free.is_empty() => Duration::from_nanos(due.next_ns().saturating_sub(now)),
            _ => IDLE_WAIT,
        }
    }

    /// Reads what has come; whether that was an answer.
    fn serve(&mut self, patience: Duration) -> anyhow::Result<bool> {
        let mut any = false;
        for slot in self.poller.wait(patience).context("cannot wait for events")? {
            match self.slots[slot].advance(&self.request, &self.arguments.expect)? {
                Progress::Waiting => {}
                Progress::Answered => {
                    any = true;
                    let now = now_ns();
                    self.record(self.slots[slot].begun_ns(), now);
                    if self.arguments.mode == Mode::Connect {
                        let fresh = self.connect(slot)?;
                        self.slots[slot] = fresh;
                    }
                    self.free.push(slot);
                }
                Progress::Failed => self.renew(slot)?,
            }
        }
        Ok(any)
    }

    /// Another connection in the place of one that failed.
    fn renew(&mut self, slot: usize) -> anyhow::Result<()> {
        self.failed += 1;
        self.slots[slot] = self.connect(slot)?;
        self.free.push(slot);
        Ok(())
    }

    fn record(&mut self, begun_ns: u64, now: u64) {
        if (self.begin_ns..self.end_ns).contains(&now) {
            self.count += 1;
        }
        // A request belongs to the time it was due in, so that one that waits longer is not lost.
        let belongs = if self.arguments.mode == Mode::Rate { begun_ns } else { now };
        if (self.begin_ns..self.end_ns).contains(&belongs) {
            self.times.saturating_record(now.saturating_sub(begun_ns).max(1));
        }
    }

    /// What was due in the measured time and has no answer, sent or not.
    fn count_unanswered(&mut self, due: &Schedule) {
        if self.arguments.mode != Mode::Rate {
            return;
        }
        let sent = self.slots.iter().filter(|slot| slot.is_busy()).map(Exchange::begun_ns);
        let unsent = (due.sent..).map(|number| due.at_ns(number)).take_while(|at| *at < self.end_ns);
        for at_ns in sent.chain(unsent).filter(|at| *at >= self.begin_ns).collect::<Vec<_>>() {
            self.times.saturating_record(self.end_ns.saturating_sub(at_ns).max(1));
        }
    }
}

/// When requests are due.
struct Schedule {
    start_ns: u64,
    rate: u64,
    sent: u64,
}

impl Schedule {
    fn next_ns(&self) -> u64 {
        self.at_ns(self.sent)
    }

    fn at_ns(&self, number: u64) -> u64 {
        self.start_ns + number * 1_000_000_000 / self.rate
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The processor time that a cgroup of version 2 and those below it have used.
pub(super) fn cpu_us_of(cgroup: &Path) -> anyhow::Result<f64> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    used.and_then(|used| used.trim().parse().ok()).with_context(|| format!("no usage in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    /// Answers two requests on one connection and then nothing.
    fn serve_two() -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            for _ in 0..2 {
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na\n").unwrap();
            }
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    }

    fn arguments(mode: Mode, first: SocketAddrV4, cgroup: &Path) -> Arguments {
        Arguments {
            mode,
            first,
            last: *first.ip(),
            connections: 1,
            rate: 1_000,
            warm_up_ms: 0,
            measure_ms: 200,
            expect: vec!["a\n".into()],
            cgroup: cgroup.to_path_buf(),
        }
    }

    #[test]
    fn what_was_due_and_never_answered_counts_as_having_taken_until_the_end() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("cpu.stat"), "usage_usec 5\n").unwrap();
        let arguments = arguments(Mode::Rate, serve_two(), cgroup.path());
        let value = Client::new(&arguments).unwrap().run().unwrap();
        let answers = Answers::read(&value).unwrap();
        assert_eq!(answers.count, 2);
        assert_eq!(answers.times.len(), 200, "one is due in each millisecond");
        let p50 = answers.times.value_at_quantile(0.5);
        assert!((80_000_000..=110_000_000).contains(&p50), "the last hundred wait longer than {p50} ns");
    }

    #[test]
    fn an_answer_with_other_bytes_is_an_error() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("cpu.stat"), "usage_usec 5\n").unwrap();
        let mut arguments = arguments(Mode::Keepalive, serve_two(), cgroup.path());
        arguments.expect = vec!["b\n".into()];
        let error = Client::new(&arguments).unwrap().run().unwrap_err();
        assert!(format!("{error:#}").contains("other bytes"), "{error:#}");
    }
}
