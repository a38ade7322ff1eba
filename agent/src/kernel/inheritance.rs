//! What an agent takes over from one of another build whose maps have other layouts: each map that did not change as it is,
//! of the others what both have. Everything here happens before a program is attached, and may be done again from the
//! beginning until then. It does not know what is in the maps.

mod layouts;
mod shape;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::util::nr_cpus;

use super::KernelError;
use super::bpf::{self, entries};
use super::hooks::MAPS;
use super::layout::Layout;
use layouts::{Fate, Layouts, Pair, Side};
use shape::carry;

/// The map that holds what the others look like, for the next build.
pub(super) const LAYOUTS: &str = "LAYOUTS";

/// Enough for any number of maps there will be. What claims to be longer is none of ours.
const MAX_LAYOUTS_BYTES: u32 = 1 << 20;

/// An agent of another build, whose programs are attached and whose maps they use.
#[derive(Debug)]
pub(super) struct Predecessor {
    maps: PathBuf,
    layouts: Layouts,
}

/// What was taken over.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// Maps that both use.
    pub(super) shared: Vec<&'static str>,
    /// Maps whose entries were copied.
    pub(super) copied: Vec<&'static str>,
    /// Maps that begin anew.
    pub(super) anew: Vec<&'static str>,
}

impl Inherited {
    /// Whether there are services among what was taken over.
    pub(super) fn has_tables(&self) -> bool {
        !self.anew.contains(&"SERVICES")
    }
}

impl Predecessor {
    /// The one to take over from. None where a link of this build's own is pinned: then everything was taken over.
    pub(super) fn find(layout: &Layout) -> Option<Self> {
        if is_filled(&layout.links()) {
            return None;
        }
        let attached = |version: &PathBuf| is_filled(&version.join("links"));
        let version = layout.other_versions().into_iter().filter(attached).max()?;
        let maps = version.join("maps");
        let layouts = read_layouts(&maps.join(LAYOUTS)).unwrap_or_default();
        Some(Self { maps, layouts })
    }

    /// Removes the maps that an agent of this build made which did not come to attaching its programs.
    pub(super) fn clear_unused(layout: &Layout) -> Result<(), KernelError> {
        for map in MAPS.iter().chain([&LAYOUTS]) {
            remove(&layout.map(map))?;
        }
        Ok(())
    }

    /// Takes over what it has, into maps that were just made and that nobody uses yet. Those that are shared are pinned in the
    /// place of the new ones, which the caller must open again.
    pub(super) fn hand_over(&self, layout: &Layout) -> Result<Inherited, KernelError> {
        let own = Layouts::own();
        let theirs = open_all(&self.layouts, |map| self.maps.join(map));
        let ours = open_all(&own, |map| layout.map(map));
        let pair = |&map: &&'static str| {
            let (theirs, ours) = (theirs.get(map), ours.get(map));
            (map, Pair { theirs: theirs.map(|opened| opened.side), ours: ours.map(|opened| opened.side) })
        };
        let mut inherited = Inherited::default();
        for (map, fate) in layouts::fates(&MAPS.iter().map(pair).collect()) {
            match (fate, theirs.get(map), ours.get(map)) {
                (Fate::Shared, Some(theirs), _) => {
                    share(theirs.map.as_fd(), &self.maps.join(map), &layout.map(map))?;
                    inherited.shared.push(map);
                }
                (Fate::Copied, Some(theirs), Some(ours)) => {
                    let fail = |source| KernelError::Map { map, path: layout.map(map), source };
                    copy(theirs, ours).map_err(fail)?;
                    inherited.copied.push(map);
                }
                _ => inherited.anew.push(map),
            }
        }
        Ok(inherited)
    }
}

/// A map that is open, with what is known of it.
struct Opened<'a> {
    map: OwnedFd,
    side: Side<'a>,
}

/// The maps that are there and described.
fn open_all<'a>(layouts: &'a Layouts, path: impl Fn(&str) -> PathBuf) -> BTreeMap<&'static str, Opened<'a>> {
    let open = |&map: &&'static str| {
        let layout = layouts.of(map)?;
        let opened = bpf::open_pin(&path(map)).ok()?;
        // What is no map has no description, or one that does not fit.
        let make = entries::make(opened.as_fd()).ok()?;
        Some((map, Opened { map: opened, side: Side { layout, make } }))
    };
    MAPS.iter().filter_map(open).collect()
}

/// Pins a map of theirs in the place of one of ours.
fn share(map: BorrowedFd<'_>, their_pin: &Path, our_pin: &Path) -> Result<(), KernelError> {
    remove(our_pin)?;
    let fail = |source| KernelError::Pins { path: our_pin.to_owned(), source };
    bpf::pin(map, our_pin).map_err(fail)?;
    // It says since when the map counts. Without it, it seems to have counted since now.
    if let Ok(time) = fs::metadata(their_pin).and_then(|metadata| metadata.modified()) {
        let _ = set_modified(our_pin, time);
    }
    Ok(())
}

/// A pin cannot be opened as a file, so its times are set by its name.
fn set_modified(pin: &Path, time: std::time::SystemTime) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    let seconds = i64::try_from(since.as_secs()).map_err(io::Error::other)?;
    let time = Timespec { tv_sec: seconds, tv_nsec: since.subsec_nanos().into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, pin, &times, AtFlags::empty())?)
}

/// Copies what both have of every entry. What their programs change meanwhile may be missed.
fn copy(theirs: &Opened<'_>, ours: &Opened<'_>) -> io::Result<()> {
    /// Entries that are read at a time.
    const BATCH: u32 = 1_024;
    let (from, to) = (theirs.side, ours.side);
    let cpus = match layouts::is_per_cpu(to.make.kind) {
        true => nr_cpus().map_err(|(_, error)| error)?,
        false => 1,
    };
    // The kernel fills up values of CPUs, and no others.
    let one = |bytes: u32| if cpus == 1 { bytes as usize } else { (bytes as usize).next_multiple_of(8) };
    let [key_bytes, our_key_bytes] = [from.make.key_bytes, to.make.key_bytes].map(|bytes| bytes as usize);
    let [old_bytes, new_bytes] = [from.make.value_bytes, to.make.value_bytes].map(one);
    if key_bytes == 0 || old_bytes == 0 || new_bytes == 0 {
        return Ok(());
    }
    let (mut place, sizes) = (None, [key_bytes, old_bytes * cpus]);
    // Each call gets further by a bucket or an entry at least.
    for _ in 0..=u64::from(from.make.entries) * 2 {
        let batch = entries::batch(theirs.map.as_fd(), place, sizes, BATCH)?;
        for (key, old) in batch.keys.chunks_exact(key_bytes).zip(batch.values.chunks_exact(old_bytes * cpus))
        {
            if is_vacant(from, old) {
                continue;
            }
            let mut our_key = vec![0; our_key_bytes];
            carry(&from.layout.key, key, &to.layout.key, &mut our_key);
            let mut new = vec![0; new_bytes * cpus];
            let each = old.chunks_exact(old_bytes).zip(new.chunks_exact_mut(new_bytes));
            each.for_each(|(old, new)| carry(&from.layout.value, old, &to.layout.value, new));
            match entries::update(ours.map.as_fd(), &our_key, &new) {
                // There is no room, or no such index: what is left over is forgotten, as when the map is full.
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {}
                result => result?,
            }
        }
        place = batch.next;
        if place.is_none() {
            break;
        }
    }
    Ok(())
}

/// An entry of an array that says nothing, as most do.
fn is_vacant(side: Side<'_>, value: &[u8]) -> bool {
    layouts::is_array(side.make.kind) && value.iter().all(|&byte| byte == 0)
}

/// Leaves word of what this build's maps look like, beside them.
pub(super) fn leave_word(layout: &Layout) -> Result<(), KernelError> {
    let (path, own) = (layout.map(LAYOUTS), Layouts::own());
    if read_layouts(&path).is_some_and(|there| there == own) {
        return Ok(());
    }
    remove(&path)?;
    let mut text = own.to_text();
    text.resize(text.len().next_multiple_of(8), 0);
    let fail = |source| KernelError::Map { map: LAYOUTS, path: path.clone(), source };
    let map = entries::array_of_one(LAYOUTS, &text).map_err(fail)?;
    bpf::pin(map.as_fd(), &path).map_err(fail)
}

fn read_layouts(pin: &Path) -> Option<Layouts> {
    let map = bpf::open_pin(pin).ok()?;
    let make = entries::make(map.as_fd()).ok()?;
    if !layouts::is_array(make.kind) || layouts::is_per_cpu(make.kind) || make.value_bytes > MAX_LAYOUTS_BYTES
    {
        return None;
    }
    let mut text = vec![0; (make.value_bytes as usize).next_multiple_of(8)];
    entries::lookup(map.as_fd(), &0_u32.to_ne_bytes(), &mut text).ok()?;
    Layouts::from_text(&text)
}

fn is_filled(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

fn remove(pin: &Path) -> Result<(), KernelError> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Pins { path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}
