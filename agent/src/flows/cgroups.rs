//! Which cgroup id is which workload, kept from scans of the cgroup v2 file system.
//!
//! The id of a cgroup is the inode number of its directory. Knows no maps and no clock: the caller says what
//! time it is and when to look again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::identity::{self, Workload};

/// How long a deleted cgroup keeps its name: late counters and events still belong to it.
pub const TOMBSTONE: Duration = Duration::from_secs(60);

/// The shortest time between two scans that a miss may cause. One scan of 1 000 cgroups takes some 20 ms.
pub const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Directories one scan visits at most. The kernel allows 65 535 cgroups below one another by default.
pub const MAX_CGROUPS: usize = 65_536;

/// Ids that were looked for in vain and are remembered, so that each is counted once.
const MAX_MISSING: usize = 8_192;

/// What keeps the agent from naming clients.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The hierarchy cannot be listed.
    #[error("cannot list the cgroups under {}: {source}; is the cgroup v2 hierarchy mounted there, and readable?", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are more cgroups than one scan visits.
    #[error("more than {MAX_CGROUPS} cgroups under {}; clients in the others are shown as unknown", path.display())]
    TooMany {
        /// The mount.
        path: PathBuf,
    },
}

#[derive(Debug)]
struct Known {
    workload: Arc<Workload>,
    /// The cgroup of the whole pod, container or unit.
    client: u64,
    /// When a scan found it gone.
    gone_at: Option<Duration>,
}

/// The cgroups of this host by id.
#[derive(Debug)]
pub struct Cgroups {
    mount: PathBuf,
    known: HashMap<u64, Known>,
    live: HashSet<Arc<Workload>>,
    missing: HashSet<u64>,
    unresolved: u64,
    scanned_at: Option<Duration>,
    unknown: Arc<Workload>,
}

impl Cgroups {
    /// An empty cache over the hierarchy mounted at `mount`; the first [`Cgroups::resolve`] or
    /// [`Cgroups::rescan`] fills it.
    pub fn new(mount: PathBuf) -> Self {
        Self {
            mount,
            known: HashMap::new(),
            live: HashSet::new(),
            missing: HashSet::new(),
            unresolved: 0,
            scanned_at: None,
            unknown: Arc::new(Workload::unknown()),
        }
    }

    /// The client that owns this cgroup. An id not seen before causes a scan, at most one per
    /// [`SCAN_INTERVAL`]. `now` is any monotonic time.
    pub fn resolve(&mut self, cgroup: u64, now: Duration) -> Client {
        let may_scan = self.scanned_at.is_none_or(|at| now.saturating_sub(at) >= SCAN_INTERVAL);
        if !self.known.contains_key(&cgroup)
            && may_scan
            && let Err(error) = self.rescan(now)
        {
            tracing::warn!(%error, "cannot name a client");
        }
        match self.known.get(&cgroup) {
            Some(known) => Client { workload: Arc::clone(&known.workload), live: known.gone_at.is_none() },
            None => {
                if self.missing.len() < MAX_MISSING && self.missing.insert(cgroup) {
                    self.unresolved += 1;
                }
                Client { workload: Arc::clone(&self.unknown), live: false }
            }
        }
    }

    /// Reads the hierarchy again: new cgroups are learned, those that are gone keep their name for
    /// [`TOMBSTONE`]. Call it every few seconds, besides what misses cause.
    ///
    /// # Errors
    /// Where the root cannot be listed nothing changes; where there are too many cgroups, those that fit are known.
    pub fn rescan(&mut self, now: Duration) -> Result<(), IdentityError> {
        self.scanned_at = Some(now);
        let found = scan(&self.mount)?;
        let complete = found.len() < MAX_CGROUPS;
        let ids: HashMap<&str, u64> = found.iter().map(|(path, id)| (path.as_str(), *id)).collect();
        for (path, id) in &found {
            // A directory that is still there keeps its path: cgroups are never renamed.
            if let Some(known) = self.known.get_mut(id) {
                known.gone_at = None;
                continue;
            }
            let client = ids.get(identity::pod_level(path)).copied().unwrap_or(*id);
            let workload = Arc::new(identity::workload_of(path));
            self.known.insert(*id, Known { workload, client, gone_at: None });
        }
        let present: HashSet<u64> = ids.into_values().collect();
        self.known.retain(|id, known| {
            if !present.contains(id) {
                known.gone_at.get_or_insert(now);
            }
            known.gone_at.is_none_or(|at| now.saturating_sub(at) < TOMBSTONE)
        });
        self.missing.retain(|id| !present.contains(id));
        if self.missing.len() >= MAX_MISSING {
            self.missing.clear();
        }
        let live = self.known.values().filter(|known| known.gone_at.is_none());
        self.live = live.map(|known| Arc::clone(&known.workload)).collect();
        if complete { Ok(()) } else { Err(IdentityError::TooMany { path: self.mount.clone() }) }
    }

    /// Whether some cgroup of this workload was there at the last scan. What is unknown counts as there: its
    /// counters belong to nobody who could go.
    pub fn is_live(&self, workload: &Workload) -> bool {
        workload.kind == identity::WorkloadKind::Unknown || self.live.contains(workload)
    }

    /// Every workload that had a cgroup at the last scan, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.live.iter().map(|workload| &**workload)
    }

    /// Whether this cgroup was there at the last scan.
    pub fn is_there(&self, cgroup: u64) -> bool {
        self.known.get(&cgroup).is_some_and(|known| known.gone_at.is_none())
    }

    /// Cgroup ids looked for and never found, each counted once.
    pub fn unresolved(&self) -> u64 {
        self.unresolved
    }

    /// The clients' cgroups (pods, containers, units) that exist: id and workload. A cgroup that follows no
    /// convention is none: most of them are slices, and what runs in `system.slice` is not one client.
    pub fn clients(&self) -> impl Iterator<Item = (u64, &Arc<Workload>)> {
        let is_client = |id: &u64, known: &Known| {
            known.client == *id && known.workload.kind != identity::WorkloadKind::Cgroup
        };
        let live =
            self.known.iter().filter(move |(id, known)| known.gone_at.is_none() && is_client(id, known));
        live.map(|(id, known)| (*id, &known.workload))
    }
}

/// Every directory under the mount with its inode number, by its path from the mount, `/` first.
fn scan(mount: &Path) -> Result<Vec<(String, u64)>, IdentityError> {
    let failed = |source| IdentityError::List { path: mount.to_owned(), source };
    let mut found = vec![("/".to_owned(), fs::metadata(mount).map_err(failed)?.ino())];
    let mut next = 0;
    while next < found.len() && found.len() < MAX_CGROUPS {
        let path = found[next].0.clone();
        next += 1;
        let entries = match fs::read_dir(mount.join(path.trim_start_matches('/'))) {
            Ok(entries) => entries,
            Err(error) if next == 1 => return Err(failed(error)),
            // Deleted since its parent was listed.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || found.len() >= MAX_CGROUPS {
                continue;
            }
            let name = entry.file_name();
            found.push((format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy()), entry.ino()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).expect("the directory was made").ino()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_leaf_resolves_to_its_unit_and_only_the_unit_is_a_client() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let unit = root.path().join("system.slice/nginx.service");
        fs::create_dir_all(unit.join("workers")).expect("directories");
        let mut cgroups = Cgroups::new(root.path().to_owned());

        let client = cgroups.resolve(inode(&unit.join("workers")), at(1));
        assert_eq!((&*client.workload.name, client.live), ("nginx", true));
        let clients: Vec<u64> = cgroups.clients().map(|(id, _)| id).collect();
        assert_eq!(clients, [inode(&unit)]);
        assert_eq!(cgroups.unresolved(), 0);
    }

    #[test]
    fn a_deleted_cgroup_keeps_its_name_for_a_minute() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let unit = root.path().join("shop.service");
        fs::create_dir(&unit).expect("a directory");
        let id = inode(&unit);
        let mut cgroups = Cgroups::new(root.path().to_owned());
        let workload = cgroups.resolve(id, at(1)).workload;
        fs::remove_dir(&unit).expect("an empty directory");

        cgroups.rescan(at(10)).expect("the root is there");
        let late = cgroups.resolve(id, at(69));
        assert_eq!((&*late.workload.name, late.live), ("shop", false));
        assert!(!cgroups.is_live(&workload));

        cgroups.rescan(at(70)).expect("the root is there");
        assert_eq!(*cgroups.resolve(id, at(70)).workload, Workload::unknown());
    }

    #[test]
    fn a_miss_scans_at_most_once_a_second_and_is_counted_once() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut cgroups = Cgroups::new(root.path().to_owned());
        assert_eq!(*cgroups.resolve(u64::MAX, at(5)).workload, Workload::unknown());
        let unit = root.path().join("shop.service");
        fs::create_dir(&unit).expect("a directory");
        let id = inode(&unit);

        assert!(!cgroups.resolve(id, at(5)).live, "the last scan was just now");
        let found = cgroups.resolve(id, at(6));
        assert_eq!((&*found.workload.name, found.live), ("shop", true));
        assert!(!cgroups.resolve(u64::MAX, at(6)).live);
        assert_eq!(cgroups.unresolved(), 2);
    }

    #[test]
    fn a_missing_mount_is_an_error_that_names_it() {
        let mut cgroups = Cgroups::new("/nowhere/cgroup".into());
        let error = cgroups.rescan(at(0)).expect_err("there is no such directory");
        assert!(error.to_string().contains("/nowhere/cgroup"), "{error}");
    }
}
