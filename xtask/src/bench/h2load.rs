//! h2load as a client of comparisons, for HTTP/2 and TLS: runs it, and reads what it says. Every request must be answered with 200 and
//! as many bytes as the server is known to say. It does not know what is between client and server.
//!
//! Where it is to keep to a rate, it writes a line for each request, of which times are taken. They count from when it sent the
//! request: a server that stalls is asked less meanwhile, and looks a little better for it than by our own client.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, anyhow, bail};

use super::client::{Answers, cpu_us_of, histogram};
use super::{affinity, cpus};
use crate::backends::Speech;
use crate::node::{Node, Place};

/// The program and Debian's package of it.
pub(super) const PROGRAM: (&str, &str) = ("h2load", "nghttp2-client");

/// A turn of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) place: Place,
    pub(super) target: SocketAddrV4,
    pub(super) speech: Speech,
    pub(super) connections: usize,
    /// Streams of each connection at a time.
    pub(super) streams: usize,
    /// Requests in all.
    pub(super) requests: u64,
    /// Requests a second; `None`: as fast as answers come.
    pub(super) rate: Option<u64>,
    /// Bytes of an answer's body.
    pub(super) body_bytes: usize,
}

impl Turn {
    /// Runs it on a node and waits until it is over.
    pub(super) fn run(&self, node: &Node) -> anyhow::Result<Answers> {
        let program = crate::host::program(PROGRAM.0).context("h2load is not installed")?;
        let mut command = node.command(&program, self.place)?;
        command.args(["--requests", &self.requests.to_string(), "--max-concurrent-streams"]);
        command.args([&self.streams.to_string(), "--clients", &self.connections.to_string()]);
        let log = node.directory().join("h2load.log");
        if let Some(rate) = self.rate {
            let each = rate.div_ceil(self.connections as u64);
            command.args(["--rps", &each.to_string(), "--log-file"]).arg(&log);
        }
        let scheme = if self.speech == Speech::Https { "https" } else { "http" };
        if self.speech != Speech::Http2 {
            command.arg("--h1");
        }
        command.arg(format!("{scheme}://{}/", self.target)).stdin(Stdio::null());
        // It adds to what is there.
        let _ = fs::remove_file(&log);
        let before_us = cpu_us_of(&node.root_cgroup())?;
        let output = run_on_last_cpu(&mut command)?;
        let cpu_us = cpu_us_of(&node.root_cgroup())? - before_us;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("h2load failed: {said}{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let (count, seconds) = self.read(&said).with_context(|| format!("h2load said: {said}"))?;
        let times =
            if self.rate.is_some() { read_times(&log)? } else { histogram().context("no histogram")? };
        Ok(Answers { count, failed: 0, seconds, cpu_us, times })
    }

    /// How many requests were answered, and within how many seconds.
    fn read(&self, said: &str) -> anyhow::Result<(u64, f64)> {
        // `status codes: 600 2xx, 0 3xx, 0 4xx, 0 5xx`.
        let good = number_before(said, "status codes:", " 2xx").context("no status codes")?;
        // `finished in 1.02s, 588.24 req/s, 1.20MB/s`: the time itself is printed in a unit that depends on it.
        let per_second = number_before(said, "finished in", " req/s").context("no rate")?;
        // `traffic: 1.2MB (1234567) total, 123B (456) headers (space savings 90.00%), 789B (1011) data`.
        let data = number_before(said, "traffic:", ") data").context("no traffic")?;
        let expected = self.requests as f64;
        if good != expected || data != expected * self.body_bytes as f64 {
            bail!("{good} good answers of {expected}, {data} bytes of bodies of {} each", self.body_bytes);
        }
        Ok((self.requests, expected / per_second))
    }
}

/// Runs a command to its end; it inherits where its starting thread may run. The server has the first CPU.
fn run_on_last_cpu(command: &mut Command) -> anyhow::Result<Output> {
    let run = || {
        // Where that is not allowed, it runs anyway.
        let _ = affinity::pin(0, cpus().saturating_sub(1));
        command.output().context("cannot run h2load")
    };
    thread::scope(|scope| scope.spawn(run).join()).map_err(|_| anyhow!("a thread panicked"))?
}

/// The number that stands right before `unit` in the line that begins like this.
fn number_before(said: &str, line: &str, unit: &str) -> Option<f64> {
    let line = said.lines().find_map(|said| said.strip_prefix(line))?;
    let before = &line[..line.find(unit)?];
    let number = before.rsplit(|character: char| !(character.is_ascii_digit() || character == '.')).next()?;
    number.parse().ok()
}

/// The times of all requests, out of its log: start, status and microseconds by tabs.
fn read_times(log: &Path) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let text = fs::read_to_string(log).with_context(|| format!("no log of h2load at {}", log.display()))?;
    let mut times = histogram().context("no histogram")?;
    for line in text.lines() {
        let took_us = line.split('\t').nth(2).and_then(|took| took.parse::<u64>().ok());
        times
            .saturating_record(took_us.with_context(|| format!("h2load's log has {line:?}"))?.max(1) * 1_000);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SAID: &str = "\
finished in 20.57ms, 29165.86 req/s, 5.27MB/s
requests: 600 total, 600 started, 600 done, 600 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 600 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 111.04KB (113709) total, 59.77KB (61209) headers (space savings 36.24%), 2.93KB (3000) data
";

    fn turn(requests: u64, body_bytes: usize) -> Turn {
        Turn {
            place: Place::Beside,
            target: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80),
            speech: Speech::Http2,
            connections: 1,
            streams: 1,
            requests,
            rate: None,
            body_bytes,
        }
    }

    #[test]
    fn what_it_says_is_read_and_compared_with_what_was_asked() {
        let (count, seconds) = turn(600, 5).read(SAID).unwrap();
        assert_eq!(count, 600);
        assert!((seconds - 0.02057).abs() < 0.0001, "{seconds}");
        for (requests, body_bytes) in [(601, 5), (600, 6)] {
            let error = turn(requests, body_bytes).read(SAID).unwrap_err();
            assert!(error.to_string().contains("600 good answers"), "{error}");
        }
        assert!(turn(600, 5).read("finished in 1s").is_err());
    }

    #[test]
    fn times_are_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(&log, "1700000000000000\t200\t150\n1700000000000100\t200\t250\n").unwrap();
        let times = read_times(&log).unwrap();
        assert_eq!(times.len(), 2);
        assert!((249_000..=251_000).contains(&times.max()), "{}", times.max());
        fs::write(&log, "something else\n").unwrap();
        assert!(read_times(&log).unwrap_err().to_string().contains("something else"));
    }
}
