//! Programs of others on the hooks Segue uses, wherever they act on the managed processes, and who of all of them has
//! the first look at an address and who the last. Changes nothing.
//!
//! The kernel runs the programs of a cgroup before those of its ancestors, and those of one cgroup in the order in which
//! they were attached, but for what asked to come earlier (`BPF_F_PREORDER`). So it is asked for the order, and not
//! told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use agent_ebpf::abi::Hook;

use super::bpf;
use super::cgroup::{Cgroup, mount_point};
use super::hooks::{ATTACHMENTS, Attachment};

/// Cgroups below the managed one that are looked at. Of more than these, only the first are.
const MAX_DESCENDANTS: usize = 4_096;

/// When a neighbour runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Before Segue: what it leads elsewhere, Segue sees there.
    Before,
    /// After Segue: it sees where Segue leads, and has the last word.
    After,
    /// The kernel does not say.
    Unknown,
}

impl Order {
    /// Each of them.
    pub const ALL: &'static [Self] = &[Self::Before, Self::After, Self::Unknown];

    /// The name used in tables, JSON and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Unknown => "unknown",
        }
    }
}

/// A program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The hook.
    pub hook: Hook,
    /// When it runs.
    pub order: Order,
    /// The kernel's id of it.
    pub id: u32,
    /// Its name, at most 15 bytes; empty where that is not to be had.
    pub program: String,
    /// The cgroup it is attached to.
    pub cgroup: PathBuf,
}

impl Neighbour {
    /// Whose it is, as far as its name tells.
    pub fn owner(&self) -> Option<&'static str> {
        OWNERS.iter().find(|(start, _)| self.program.starts_with(start)).map(|(_, owner)| *owner)
    }

    /// Whether it can lead connections elsewhere.
    pub fn may_translate(&self) -> bool {
        translates(self.hook)
    }
}

/// How the names of programs begin that others are known to attach here.
const OWNERS: [(&str, &str); 9] = [
    ("cil_sock", "Cilium"),
    ("sock4_", "Cilium"),
    ("sock6_", "Cilium"),
    ("calico_", "Calico"),
    ("cali_ctlb", "Calico"),
    ("cgroup_connect", "Kmesh"),
    ("cgroup_sendmsg", "Kmesh"),
    ("mb_", "Merbridge"),
    ("sd_", "systemd"),
];

const fn translates(hook: Hook) -> bool {
    matches!(hook, Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6)
}

/// Everybody else's programs that act on processes of the managed cgroup itself: its own and those of its ancestors.
/// `ours` are the ids of Segue's programs.
pub(super) fn here(cgroup: &Cgroup, ours: &BTreeMap<Hook, u32>) -> Vec<Neighbour> {
    // From the managed cgroup up to the root, with what is attached where.
    let top = mount_point().unwrap_or_default();
    let above = cgroup.path().ancestors().skip(1).take_while(|path| path.starts_with(&top));
    let above: Vec<(PathBuf, File)> =
        above.filter_map(|path| Some((path.to_owned(), File::open(path).ok()?))).collect();
    let mut found = Vec::new();
    for attachment in &ATTACHMENTS {
        let attach_type = attachment.attach_type;
        let own = bpf::attached(cgroup.fd(), attach_type).unwrap_or_default();
        // A kernel that does not say who acts here (or a program that others may override) leaves what is attached here.
        let effective = bpf::effective(cgroup.fd(), attach_type).unwrap_or_else(|_| own.clone());
        let owner_of = |id: u32| {
            if own.contains(&id) {
                return cgroup.path().to_owned();
            }
            let has = |(_, file): &&(PathBuf, File)| {
                bpf::attached(file.as_fd(), attach_type).unwrap_or_default().contains(&id)
            };
            above.iter().find(has).map_or_else(|| top.clone(), |(path, _)| path.clone())
        };
        found.extend(
            others(attachment, &effective, ours)
                .map(|(id, order)| neighbour(attachment, id, order, owner_of(id))),
        );
    }
    found
}

/// Everybody else's programs that may translate addresses for a part of the managed processes: those attached to cgroups
/// below the managed one.
pub(super) fn below(cgroup: &Cgroup, ours: &BTreeMap<Hook, u32>) -> Vec<Neighbour> {
    let mut found = Vec::new();
    for path in descendants(cgroup.path()) {
        let Ok(directory) = File::open(&path) else { continue };
        for attachment in ATTACHMENTS.iter().filter(|attachment| translates(attachment.hook)) {
            found.extend(of_one(directory.as_fd(), &path, attachment, ours));
        }
    }
    found
}

fn of_one(
    cgroup: BorrowedFd<'_>,
    path: &Path,
    attachment: &Attachment,
    ours: &BTreeMap<Hook, u32>,
) -> Vec<Neighbour> {
    let own = bpf::attached(cgroup, attachment.attach_type).unwrap_or_default();
    if own.is_empty() {
        return Vec::new();
    }
    let effective = bpf::effective(cgroup, attachment.attach_type).unwrap_or_default();
    let orders: BTreeMap<u32, Order> = others(attachment, &effective, ours).collect();
    let its = own.into_iter().filter(|id| ours.get(&attachment.hook) != Some(id));
    its.map(|id| {
        let order = orders.get(&id).copied().unwrap_or(Order::Unknown);
        neighbour(attachment, id, order, path.to_owned())
    })
    .collect()
}

/// Everybody's but ours of the programs that run one after the other, each with when it runs.
fn others<'a>(
    attachment: &Attachment,
    effective: &'a [u32],
    ours: &BTreeMap<Hook, u32>,
) -> impl Iterator<Item = (u32, Order)> + use<'a> {
    let ours = ours.get(&attachment.hook).copied();
    let our_place = effective.iter().position(|id| Some(*id) == ours);
    effective.iter().enumerate().filter(move |(_, id)| Some(**id) != ours).map(move |(place, id)| {
        let order = match our_place {
            Some(our_place) if place < our_place => Order::Before,
            Some(_) => Order::After,
            None => Order::Unknown,
        };
        (*id, order)
    })
}

fn neighbour(attachment: &Attachment, id: u32, order: Order, cgroup: PathBuf) -> Neighbour {
    Neighbour { hook: attachment.hook, order, id, program: bpf::program_name(id), cgroup }
}

fn descendants(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while next < found.len() && found.len() <= MAX_DESCENDANTS {
        // What was removed since its parent was listed has none.
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = (MAX_DESCENDANTS + 1).saturating_sub(found.len());
        let more: Vec<PathBuf> = directories.take(room).map(|entry| entry.path()).collect();
        found.extend(more);
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect4() -> &'static Attachment {
        ATTACHMENTS.iter().find(|attachment| attachment.hook == Hook::Connect4).expect("is attached")
    }

    #[test]
    fn who_runs_before_and_after_is_told_by_the_place_among_all() {
        let ours = BTreeMap::from([(Hook::Connect4, 7)]);
        let orders = |effective: &[u32]| others(connect4(), effective, &ours).collect::<Vec<_>>();
        assert_eq!(orders(&[3, 7, 4]), [(3, Order::Before), (4, Order::After)]);
        assert_eq!(orders(&[7]), []);
        assert_eq!(orders(&[3]), [(3, Order::Unknown)]);
    }

    #[test]
    fn programs_are_known_by_how_their_names_begin() {
        let named = |program: &str| {
            neighbour(connect4(), u32::MAX, Order::Before, PathBuf::new()).owner_named(program)
        };
        assert_eq!(named("cil_sock4_connec"), Some("Cilium"));
        assert_eq!(named("calico_connect_"), Some("Calico"));
        assert_eq!(named("cgroup_connect4"), Some("Kmesh"));
        assert_eq!(named("neighbour"), None);
        assert_eq!(named(""), None);
    }

    impl Neighbour {
        fn owner_named(mut self, program: &str) -> Option<&'static str> {
            program.clone_into(&mut self.program);
            self.owner()
        }
    }

    #[test]
    fn every_directory_below_is_looked_at() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("a/b")).expect("directories");
        fs::write(root.path().join("a/cgroup.procs"), "").expect("a file");
        let mut found = descendants(root.path());
        found.sort();
        assert_eq!(found, ["a", "a/b"].map(|path| root.path().join(path)));
        assert_eq!(descendants(&root.path().join("none")), Vec::<PathBuf>::new());
    }
}
