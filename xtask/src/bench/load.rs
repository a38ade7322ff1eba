//! The benchmarks' load: clients that open a connection for each request, either one after the other or at a rate
//! that does not wait for answers. Each request is a line: when it began, how long it took, who answered.
//!
//! At a rate, a request begins when it is due, also where no client was free to send it: a server that is slow
//! must not look fast by being asked less.

use std::io::{BufRead, BufReader, Write, stdout};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::connection::Connection;
use crate::node::{Node, Place, Process};

/// A client gives up after this: longer than any limit of what is measured.
const LIMIT: Duration = Duration::from_secs(8);

/// How often the records are looked at while something is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What load to be.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Whom to ask.
    target: SocketAddr,
    /// Clients side by side.
    #[arg(long)]
    clients: u32,
    /// Between two requests of a client, where there is no rate.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Requests per second of all clients.
    #[arg(long)]
    rate: Option<u32>,
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Each client waits for its answer, and then this long.
    Pause {
        /// The pause.
        ms: u64,
    },
    /// So many a second, whatever becomes of them.
    Rate {
        /// Of all clients.
        per_second: u32,
    },
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// When it began or was due, of the clock of [`now_ns`].
    pub(crate) begin_ns: u64,
    /// How long until it was answered or failed.
    pub(crate) took_ns: u64,
    /// The name that answered, or why nobody did.
    pub(crate) answer: Result<String, String>,
}

impl Record {
    /// When it was over.
    pub(crate) fn end_ns(&self) -> u64 {
        self.begin_ns + self.took_ns
    }
}

/// The monotonic clock, the same in all processes.
pub(crate) fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the argument is a valid timespec that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A running load, in the managed cgroup of a node.
pub(crate) struct Load {
    process: Process,
    records: Arc<Mutex<Vec<Record>>>,
    reading: JoinHandle<()>,
}

impl Load {
    /// Starts one.
    pub(crate) fn start(node: &Node, target: SocketAddr, clients: u32, pace: Pace) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = node.command(&own, Place::Managed)?;
        command.args(["bench-load", &target.to_string(), "--clients", &clients.to_string()]);
        match pace {
            Pace::Pause { ms } => command.args(["--pause-ms", &ms.to_string()]),
            Pace::Rate { per_second } => command.args(["--rate", &per_second.to_string()]),
        };
        command.stdout(Stdio::piped());
        let mut process = Process::start("the load", &mut command, &node.directory().join("load.log"))?;
        let output = BufReader::new(process.take_stdout().context("the load has no output")?);
        let records = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&records);
        let reading = thread::spawn(move || {
            for record in output.lines().map_while(Result::ok).filter_map(|line| parse(&line)) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            }
        });
        Ok(Self { process, records, reading })
    }

    /// Waits until what has happened so far is enough, at most `limit`; whether it was.
    pub(crate) fn wait_until(
        &mut self,
        limit: Duration,
        mut enough: impl FnMut(&[Record]) -> bool,
    ) -> anyhow::Result<bool> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if enough(&self.records.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(true);
            }
            if let Some(status) = self.process.ended() {
                bail!("the load ended ({status}); its log:\n{}", self.process.log_tail());
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(false)
    }

    /// Ends it. What it had not finished is not among the records.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<Record>> {
        self.process.kill()?;
        // It only reads, and the pipe is closed.
        let _ = self.reading.join();
        Ok(std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Reads `BEGIN TOOK NAME` or `BEGIN TOOK !REASON`. A line that was cut off by the end is nothing.
fn parse(line: &str) -> Option<Record> {
    let mut parts = line.splitn(3, ' ');
    let begin_ns = parts.next()?.parse().ok()?;
    let took_ns = parts.next()?.parse().ok()?;
    let answer = parts.next()?;
    let answer = match answer.strip_prefix('!') {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(answer.to_owned()),
    };
    Some(Record { begin_ns, took_ns, answer })
}

/// Runs until killed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let due = AtomicU64::new(0);
    let begin_ns = now_ns();
    thread::scope(|scope| {
        for _ in 0..arguments.clients {
            scope.spawn(|| {
                loop {
                    let at_ns = match arguments.rate {
                        None => now_ns(),
                        Some(rate) => {
                            let number = due.fetch_add(1, Ordering::Relaxed);
                            let at_ns = begin_ns + number * 1_000_000_000 / u64::from(rate.max(1));
                            thread::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns())));
                            at_ns
                        }
                    };
                    let answer =
                        Connection::open(arguments.target, LIMIT).and_then(|mut one| one.ask("close"));
                    if !say(at_ns, &answer) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(arguments.pause_ms));
                }
            });
        }
    });
    Ok(())
}

/// Prints what became of a request; whether anyone still listens.
fn say(begin_ns: u64, answer: &anyhow::Result<String>) -> bool {
    let took_ns = now_ns().saturating_sub(begin_ns);
    let line = match answer {
        Ok(name) => format!("{begin_ns} {took_ns} {name}\n"),
        Err(error) => format!("{begin_ns} {took_ns} !{}\n", format!("{error:#}").replace('\n', " ")),
    };
    stdout().lock().write_all(line.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_record_and_a_cut_one_is_nothing() {
        let record = parse("100 20 payment-a").unwrap();
        assert_eq!((record.end_ns(), record.answer), (120, Ok("payment-a".into())));
        assert_eq!(parse("100 20 !connect: timed out").unwrap().answer, Err("connect: timed out".into()));
        assert_eq!(parse("100 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let before = now_ns();
        assert!(before > 0 && now_ns() >= before);
    }
}
