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
use super::identity::{self, Workload, WorkloadKind};
use super::pods::{PodChange, Pods};

/// How long a deleted cgroup keeps its name: late counters and events still belong to it.
pub const TOMBSTONE: Duration = Duration::from_secs(60);

/// The shortest time between two scans that a miss may cause. One scan of 1 000 cgroups takes some 20 ms.
pub const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Directories one scan visits at most. The kernel allows 65 535 cgroups below one another by default.
pub const MAX_CGROUPS: usize = 65_536;

/// Directories below which pods appear that are told at most. 250 pods of ten containers each are fewer.
const MAX_NURSERIES: usize = 4_096;

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
    /// The UID of the pod.
    uid: Option<Arc<str>>,
    /// When a scan found it gone.
    gone_at: Option<Duration>,
}

/// The cgroups of this host by id.
#[derive(Debug)]
pub struct Cgroups {
    mount: PathBuf,
    known: HashMap<u64, Known>,
    pods: Pods,
    /// Some source tells whose pods they are.
    expects_pods: bool,
    live: HashSet<Arc<Workload>>,
    /// Directories that were new and below which pods appear.
    nurseries: Vec<PathBuf>,
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
            pods: Pods::default(),
            expects_pods: false,
            live: HashSet::new(),
            nurseries: Vec::new(),
            missing: HashSet::new(),
            unresolved: 0,
            scanned_at: None,
            unknown: Arc::new(Workload::unknown()),
        }
    }

    /// The same where some source tells whose pods they are ([`Cgroups::tell`]).
    #[must_use]
    pub fn expecting_pods(self, expects_pods: bool) -> Self {
        Self { expects_pods, ..self }
    }

    /// Takes in what a source says about pods. Their cgroups have new names from now on.
    pub fn tell(&mut self, change: PodChange, now: Duration) {
        self.pods.apply(change, now);
        for known in self.known.values_mut() {
            if let Some(pod) = known.uid.as_deref().and_then(|uid| self.pods.get(uid)) {
                known.workload = Arc::clone(&pod.workload);
            }
        }
        self.look_who_lives();
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
            Some(known) => Client {
                workload: Arc::clone(&known.workload),
                live: known.gone_at.is_none(),
                is_provisional: self.expects_pods && self.is_unnamed(known),
            },
            None => {
                if self.missing.len() < MAX_MISSING && self.missing.insert(cgroup) {
                    self.unresolved += 1;
                }
                Client { workload: Arc::clone(&self.unknown), live: false, is_provisional: true }
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
        let found = scan(&self.mount, "/")?;
        let complete = found.len() < MAX_CGROUPS;
        let ids: HashMap<&str, u64> = found.iter().map(|(path, id)| (path.as_str(), *id)).collect();
        for (path, id) in &found {
            self.learn_one(path, *id, |client| ids.get(client).copied());
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
        self.look_who_lives();
        if complete { Ok(()) } else { Err(IdentityError::TooMany { path: self.mount.clone() }) }
    }

    /// Learns the cgroup at this path, which was just made, with everything below it. What is gone already, or lies
    /// elsewhere, is passed over. `true` where it taught something.
    pub fn learn(&mut self, path: &Path) -> bool {
        let Ok(relative) = path.strip_prefix(&self.mount) else { return false };
        let from = format!("/{}", relative.to_string_lossy());
        let Ok(found) = scan(&self.mount, &from) else { return false };
        let before = self.known.len();
        let mount = self.mount.clone();
        let id_of = |path: &str| Some(fs::metadata(below(&mount, path)).ok()?.ino());
        for (path, id) in &found {
            self.learn_one(path, *id, id_of);
        }
        self.look_who_lives();
        self.known.len() > before
    }

    fn learn_one(&mut self, path: &str, id: u64, id_of: impl Fn(&str) -> Option<u64>) {
        // A directory that is still there keeps its path: cgroups are never renamed.
        if let Some(known) = self.known.get_mut(&id) {
            known.gone_at = None;
            return;
        }
        let level = identity::pod_level(path);
        let client = if level == path { id } else { id_of(level).unwrap_or(id) };
        let uid: Option<Arc<str>> = identity::pod_uid(path).map(Into::into);
        let workload = match uid.as_deref().and_then(|uid| self.pods.get(uid)) {
            Some(pod) => Arc::clone(&pod.workload),
            None => Arc::new(identity::workload_of(path)),
        };
        self.known.insert(id, Known { workload, client, uid, gone_at: None });
        if self.expects_pods && self.nurseries.len() < MAX_NURSERIES && identity::holds_pods(path) {
            self.nurseries.push(below(&self.mount, path));
        }
    }

    fn look_who_lives(&mut self) {
        let live = self.known.values().filter(|known| known.gone_at.is_none());
        self.live = live.map(|known| Arc::clone(&known.workload)).collect();
    }

    /// It is a pod's, and no source has told whose.
    fn is_unnamed(&self, known: &Known) -> bool {
        known.uid.as_deref().is_some_and(|uid| self.pods.get(uid).is_none())
    }

    /// The directories below which pods and containers appear that were new since the last call.
    pub fn take_nurseries(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.nurseries)
    }

    /// How many pods of this node the source knows.
    pub fn pods(&self) -> usize {
        self.pods.count()
    }

    /// The cgroups of pods that exist and that no source has told about.
    pub fn unnamed_pods(&self) -> impl Iterator<Item = u64> {
        let is_it = |(id, known): &(&u64, &Known)| {
            known.client == **id && known.gone_at.is_none() && self.is_unnamed(known)
        };
        self.known.iter().filter(is_it).map(|(id, _)| *id)
    }

    /// The cgroups of pods that are to be left alone.
    pub fn left_alone(&self) -> impl Iterator<Item = u64> {
        let is_it = |(id, known): &(&u64, &Known)| {
            let pod = known.uid.as_deref().and_then(|uid| self.pods.get(uid));
            known.client == **id && known.gone_at.is_none() && pod.is_some_and(|pod| pod.left_alone)
        };
        self.known.iter().filter(is_it).map(|(id, _)| *id)
    }

    /// Whether some cgroup of this workload was there at the last scan. What is unknown counts as there: its
    /// counters belong to nobody who could go.
    pub fn is_live(&self, workload: &Workload) -> bool {
        workload.kind == WorkloadKind::Unknown || self.live.contains(workload)
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
        let is_client =
            |id: &u64, known: &Known| known.client == *id && known.workload.kind != WorkloadKind::Cgroup;
        let live =
            self.known.iter().filter(move |(id, known)| known.gone_at.is_none() && is_client(id, known));
        live.map(|(id, known)| (*id, &known.workload))
    }
}

/// The path of a cgroup in the file system.
fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Every directory from `from` on with its inode number, by its path from the mount, `from` first.
fn scan(mount: &Path, from: &str) -> Result<Vec<(String, u64)>, IdentityError> {
    let top = below(mount, from);
    let failed = |source| IdentityError::List { path: top.clone(), source };
    let mut found = vec![(from.to_owned(), fs::metadata(&top).map_err(failed)?.ino())];
    let mut next = 0;
    while next < found.len() && found.len() < MAX_CGROUPS {
        let path = found[next].0.clone();
        next += 1;
        let entries = match fs::read_dir(below(mount, &path)) {
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
    use crate::flows::Pod;

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

    const POD: &str = "kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666";
    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    fn told(left_alone: bool) -> PodChange {
        let workload = Arc::new(Workload::of_pod("shop", "payment", WorkloadKind::Deployment));
        PodChange::Upsert(Pod { uid: UID.into(), workload, left_alone })
    }

    #[test]
    fn a_pod_is_renamed_once_a_source_tells_whose_it_is() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let container = root.path().join(POD).join("worker");
        fs::create_dir_all(&container).expect("directories");
        let mut cgroups = Cgroups::new(root.path().to_owned()).expecting_pods(true);
        let before = cgroups.resolve(inode(&container), at(1));
        assert_eq!(&*before.workload.name, &format!("pod-{UID}"));
        assert!(before.is_provisional);
        assert_eq!(cgroups.unnamed_pods().collect::<Vec<_>>(), [inode(&root.path().join(POD))]);

        cgroups.tell(told(false), at(2));
        let named = cgroups.resolve(inode(&container), at(2));
        assert_eq!((&*named.workload.namespace, &*named.workload.name), ("shop", "payment"));
        assert!(
            !named.is_provisional && cgroups.is_live(&named.workload) && !cgroups.is_live(&before.workload)
        );
        assert_eq!(cgroups.unnamed_pods().count(), 0);

        // Its cgroup is gone, and so is the pod: late counters are still its own.
        let id = inode(&container);
        fs::remove_dir_all(root.path().join("kubepods")).expect("directories");
        cgroups.tell(PodChange::Remove(UID.into()), at(3));
        cgroups.rescan(at(4)).expect("the root is there");
        assert_eq!(&*cgroups.resolve(id, at(5)).workload, &*named.workload);
    }

    #[test]
    fn what_was_told_before_names_a_cgroup_that_appears_and_only_the_pods_own_is_left_alone() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut cgroups = Cgroups::new(root.path().to_owned()).expecting_pods(true);
        cgroups.tell(told(true), at(1));
        cgroups.rescan(at(1)).expect("the root is there");
        let container = root.path().join(POD).join("worker");
        fs::create_dir_all(&container).expect("directories");
        assert!(cgroups.learn(&root.path().join("kubepods")));
        assert!(!cgroups.learn(&root.path().join("kubepods")), "there is nothing new");
        assert!(!cgroups.learn(&root.path().join("gone")), "and nothing there");
        assert_eq!(&*cgroups.resolve(inode(&container), at(1)).workload.name, "payment");
        assert_eq!(cgroups.left_alone().collect::<Vec<_>>(), [inode(&root.path().join(POD))]);
        let nurseries = ["kubepods", "kubepods/burstable", POD, &format!("{POD}/worker")];
        assert_eq!(cgroups.take_nurseries(), nurseries.map(|path| root.path().join(path)));
        cgroups.tell(told(false), at(2));
        assert_eq!(cgroups.left_alone().count(), 0);
    }

    #[test]
    fn a_missing_mount_is_an_error_that_names_it() {
        let mut cgroups = Cgroups::new("/nowhere/cgroup".into());
        let error = cgroups.rescan(at(0)).expect_err("there is no such directory");
        assert!(error.to_string().contains("/nowhere/cgroup"), "{error}");
    }
}
