//! The standard metrics of the agent's process, from `/proc/self`.

use std::fmt;
use std::fs;

use super::sheet::{Metric, Sheet};

const CPU: Metric =
    Metric::counter("process_cpu_seconds_total", &[], "User and system CPU time the agent spent.");
const RESIDENT: Metric = Metric::gauge("process_resident_memory_bytes", &[], "Memory of the agent in RAM.");
const VIRTUAL: Metric = Metric::gauge("process_virtual_memory_bytes", &[], "Address space of the agent.");
const VIRTUAL_MAX: Metric = Metric::gauge(
    "process_virtual_memory_max_bytes",
    &[],
    "Address space the agent may have; 1.8e19 without a limit.",
);
const OPEN_FDS: Metric = Metric::gauge("process_open_fds", &[], "File descriptors the agent holds.");
const MAX_FDS: Metric = Metric::gauge("process_max_fds", &[], "File descriptors the agent may hold.");
const THREADS: Metric = Metric::gauge("process_threads", &[], "Threads of the agent.");
const START: Metric = Metric::gauge(
    "process_start_time_seconds",
    &[],
    "When the agent started, in seconds since the start of 1970.",
);

/// The metrics of this subject.
pub(super) const METRICS: &[&Metric] =
    &[&CPU, &RESIDENT, &VIRTUAL, &VIRTUAL_MAX, &OPEN_FDS, &MAX_FDS, &THREADS, &START];

/// What `/proc` says of this process.
#[derive(Debug, PartialEq)]
pub(super) struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    virtual_max_bytes: u64,
    open_fds: u64,
    max_fds: u64,
    threads: u64,
    started_seconds: f64,
}

impl Process {
    /// Reads `/proc`; `None` where it is not mounted or not readable.
    pub(super) fn read() -> Option<Self> {
        let text = |path| fs::read_to_string(path).ok();
        let open_fds = u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
        let stat = text("/proc/self/stat")?;
        let limits = text("/proc/self/limits")?;
        let boot = text("/proc/stat")?;
        let ticks = rustix::param::clock_ticks_per_second();
        let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
        // Listing the directory holds one descriptor of its own.
        Self::parse(&stat, &limits, &boot, ticks, page_bytes, open_fds.saturating_sub(1))
    }

    #[expect(clippy::cast_precision_loss, reason = "ticks since boot stay below 2^53 for millions of years")]
    fn parse(
        stat: &str,
        limits: &str,
        boot: &str,
        ticks_per_second: u64,
        page_bytes: u64,
        open_fds: u64,
    ) -> Option<Self> {
        // The second field is the name in brackets and may hold spaces and brackets itself.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Fields as proc(5) numbers them, of which the first two are before the bracket.
        let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
        let limit = |name: &str| -> Option<u64> {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            let soft = line.split_whitespace().next()?;
            if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
        };
        let booted: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            resident_bytes: field(24)? * page_bytes,
            virtual_bytes: field(23)?,
            virtual_max_bytes: limit("Max address space")?,
            open_fds,
            max_fds: limit("Max open files")?,
            threads: field(20)?,
            started_seconds: booted as f64 + seconds(field(22)?),
        })
    }
}

/// Writes every metric of this subject.
pub(super) fn write(sheet: &mut Sheet<'_>, process: &Process) -> fmt::Result {
    sheet.counter(&CPU, [(Vec::new(), process.cpu_seconds)])?;
    for (metric, value) in [
        (&RESIDENT, process.resident_bytes),
        (&VIRTUAL, process.virtual_bytes),
        (&VIRTUAL_MAX, process.virtual_max_bytes),
        (&OPEN_FDS, process.open_fds),
        (&MAX_FDS, process.max_fds),
        (&THREADS, process.threads),
    ] {
        sheet.gauge(metric, [(Vec::new(), value)])?;
    }
    sheet.gauge(&START, [(Vec::new(), process.started_seconds)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_by_the_fields_of_proc() {
        let stat = "4711 (seg) ue) S 1 4711 4711 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 7 0 1000 12345678 321 \
                    18446744073709551615 1 1 0 0";
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        let process = Process::parse(stat, limits, "cpu 1 2\nbtime 1700000000\n", 100, 4096, 12);
        let expected = Process {
            cpu_seconds: 3.0,
            resident_bytes: 321 * 4096,
            virtual_bytes: 12_345_678,
            virtual_max_bytes: u64::MAX,
            open_fds: 12,
            max_fds: 1024,
            threads: 7,
            started_seconds: 1_700_000_010.0,
        };
        assert_eq!(process, Some(expected));
        assert_eq!(Process::parse("4711 (segue) S 1", limits, "btime 1\n", 100, 4096, 12), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let process = Process::read().expect("/proc is mounted");
        assert!(process.resident_bytes > 0 && process.open_fds > 0 && process.threads > 0);
    }
}
