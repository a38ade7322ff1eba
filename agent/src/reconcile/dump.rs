//! The agent-owned maps as text, by names and addresses instead of ids, so that two dumps are equal when the maps mean
//! the same. Reads nothing but the maps; names come from the directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use agent_ebpf::abi::admission::{PER_BACKEND, PER_CLIENT, PER_SERVICE};
use agent_ebpf::abi::{
    Backend, BackendStatus, FrontendKey, Limits, Policy, Protocol, ServiceWord, Slot, Subset,
};

use super::Directory;
use crate::compile::name_id;
use crate::kernel::{MapError, Tables};

/// Renders `FRONTENDS`, `SERVICES` with what they lead to, and `BACKENDS`. Empty maps give an empty string.
///
/// # Errors
/// The frontends cannot be listed.
pub fn dump(tables: &impl Tables, directory: &Directory) -> Result<String, MapError> {
    let dump = Dump { tables, directory };
    let mut sections = String::new();
    let mut frontends = tables.frontends()?;
    frontends.sort_unstable();
    let frontends: Vec<String> =
        frontends.iter().map(|(key, service)| dump.frontend(key, *service)).collect();
    section(&mut sections, "frontends", &frontends);
    let services = (0..tables.capacity().services).filter_map(|id| dump.service(id));
    let mut services: Vec<String> = services.collect();
    services.sort_unstable();
    section(&mut sections, "services", &services);
    let backends = (0..tables.capacity().backends).filter_map(|id| dump.backend(id));
    let mut backends: Vec<String> = backends.collect();
    backends.sort_unstable();
    section(&mut sections, "backends", &backends);
    Ok(sections)
}

fn section(out: &mut String, title: &str, entries: &[String]) {
    if !entries.is_empty() {
        out.push_str(title);
        out.push('\n');
    }
    for line in entries.iter().flat_map(|entry| entry.lines()) {
        out.push_str("  ");
        out.push_str(line);
        out.push('\n');
    }
}

/// The limits a policy has, each scope as connections / pending / rate / burst; those of the other scopes are left out.
fn limits(policy: &Policy) -> String {
    let scopes = [
        ("backend", PER_BACKEND, policy.limits.backend),
        ("service", PER_SERVICE, policy.limits.service),
        ("client", PER_CLIENT, policy.limits.client),
    ];
    let limited = scopes.iter().filter(|(_, bit, _)| policy.marks & bit != 0);
    limited.fold(String::new(), |text, (scope, _, limits)| {
        let Limits { max_connections, max_pending, rate_per_second, rate_burst } = limits;
        format!("{text}, {scope} limits {max_connections}/{max_pending}/{rate_per_second}/{rate_burst}")
    })
}

struct Dump<'a, T> {
    tables: &'a T,
    directory: &'a Directory,
}

impl<T: Tables> Dump<'_, T> {
    fn service_name(&self, id: u32) -> String {
        match self.directory.service(id) {
            Some(entry) => format!("{} {}", entry.spec.name, entry.family.name()),
            None => format!("unnamed service {id}"),
        }
    }

    fn frontend(&self, key: &FrontendKey, service: u32) -> String {
        let address: SocketAddr = key.endpoint().into();
        let protocol = Protocol::from_raw(key.protocol).map_or("unknown", Protocol::name);
        format!("{address}/{protocol} -> {}", self.service_name(service))
    }

    fn service(&self, id: u32) -> Option<String> {
        let word = self.tables.service(id);
        if word == ServiceWord::NONE {
            return None;
        }
        let mut text = self.service_name(id);
        let Some(index) = word.policy().filter(|&index| index < self.tables.capacity().policies) else {
            text.push_str(": no policy record");
            return Some(text);
        };
        let policy = self.tables.policy(index);
        let algorithm = policy.algorithm().map_or("unknown algorithm", |algorithm| algorithm.name());
        let affinity = match policy.affinity_timeout_ms {
            0 => String::new(),
            timeout_ms => format!(", affinity {timeout_ms} ms"),
        };
        let owner = if policy.service == id { "" } else { ", record of another service" };
        let _ = writeln!(
            text,
            ": {algorithm}{affinity}, errno {}{}{owner}",
            policy.refuse_errno,
            limits(&policy)
        );
        let mut start = 0;
        for subset in policy.subsets.iter().take(usize::from(policy.subset_count)) {
            let end = u64::from(subset.share_end) + 1;
            text.push_str(&self.subset(id, &policy, subset, end.saturating_sub(start)));
            start = start.max(end);
        }
        Some(text)
    }

    fn subset(&self, service: u32, policy: &Policy, subset: &Subset, draws: u64) -> String {
        let version = match (subset.version, policy.subset_count) {
            (0, 1) => "all".to_owned(),
            (version, _) => self.version(service, version).unwrap_or_else(|| "no version".to_owned()),
        };
        let inside = subset.first_slot.checked_add(subset.slot_count);
        if inside.is_none_or(|end| end > self.tables.capacity().slots) {
            return format!("  {}% {version}: a window outside the map\n", percent(draws, 1 << 32));
        }
        let slots = self.tables.slots(subset.first_slot, subset.slot_count);
        let plural = if slots.len() == 1 { "" } else { "s" };
        let mut text = format!("  {}% {version}: {} slot{plural}\n", percent(draws, 1 << 32), slots.len());
        let mut coins: BTreeMap<(SocketAddr, String), u64> = BTreeMap::new();
        for slot in &slots {
            for (backend, count) in coins_of(slot) {
                if backend >= self.tables.capacity().backends {
                    return format!("{text}    a slot with a backend outside the map\n");
                }
                let record = self.tables.backend(backend);
                let foreign = if record.service == service { "" } else { ", of another service" };
                let status = format!("{}{foreign}", status_name(&record));
                *coins.entry((record.endpoint.into(), status)).or_default() += count;
            }
        }
        for ((address, status), count) in coins {
            let share = percent(count, (slots.len() as u64) << 32);
            let _ = writeln!(text, "    {share}% {address} {status}");
        }
        text
    }

    fn version(&self, service: u32, version: u32) -> Option<String> {
        (version != 0).then(|| match self.directory.version(service, version) {
            Some(name) => format!("version {name}"),
            None => "unnamed version".to_owned(),
        })
    }

    fn backend(&self, id: u32) -> Option<String> {
        let record = self.tables.backend(id);
        if record.status == BackendStatus::Vacant as u16 {
            return None;
        }
        let known = self.directory.backend(id).filter(|entry| entry.generation == record.generation);
        let (version, zone) = known.map_or((None, None), |entry| (entry.version, entry.zone));
        let address: SocketAddr = record.endpoint.into();
        let service = self.service_name(record.service);
        let mut text = format!("{service} {address} {}", status_name(&record));
        for (id, what, name) in [(record.version, "version", version), (record.zone, "zone", zone)] {
            if id != 0 {
                let name = name.filter(|name| name_id(name) == id);
                let _ = write!(text, ", {what} {}", name.as_deref().unwrap_or("without a name"));
            }
        }
        Some(text)
    }
}

/// The backends a slot gives, and to how many of the 2³² coins.
fn coins_of(slot: &Slot) -> impl Iterator<Item = (u32, u64)> {
    let kept = u64::from(slot.keep_below) + 1;
    [(slot.backend, kept), (slot.alias, (1 << 32) - kept)].into_iter().filter(|(_, count)| *count > 0)
}

fn status_name(record: &Backend) -> &'static str {
    let status = u8::try_from(record.status).ok().and_then(BackendStatus::from_raw);
    status.map_or("unknown status", BackendStatus::name)
}

/// Hundredths of a percent, rounded, so that rounding in an alias table does not show.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = (u128::from(part) * 10_000 + u128::from(whole) / 2) / u128::from(whole.max(1));
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
