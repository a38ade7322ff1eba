//! What processes weigh: resident memory, memory of eBPF maps, processor time. Knows nothing of what they do.

use std::collections::HashSet;
use std::fs;

use anyhow::Context;

/// Resident memory of a process.
pub(super) fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(kib / 1024.0)
}

/// Memory of the maps a process holds, as the kernel accounts it.
pub(super) fn maps_mib(pid: u32) -> anyhow::Result<f64> {
    let mut seen = HashSet::new();
    let mut bytes = 0.0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("the agent is gone")?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if let (Some(id), Some(memory)) = (field("map_id:"), field("memlock:"))
            && seen.insert(id.to_owned())
        {
            bytes += memory.parse::<f64>().context("memlock is no number")?;
        }
    }
    Ok(bytes / f64::from(1 << 20))
}

/// Processor time of all threads of a process that still live, in nanoseconds.
pub(super) fn cpu_ns(pid: u32) -> anyhow::Result<f64> {
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?.flatten() {
        // `RUNNING WAITING TIMES`; a thread that has just ended has none.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split(' ').next().and_then(|running| running.parse::<f64>().ok()).unwrap_or_default();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_weight_and_no_maps() {
        let id = std::process::id();
        assert!(resident_mib(id).unwrap() > 0.5 && cpu_ns(id).unwrap() > 0.0);
        assert_eq!(maps_mib(id).unwrap(), 0.0);
        assert!(resident_mib(0).is_err());
    }
}
