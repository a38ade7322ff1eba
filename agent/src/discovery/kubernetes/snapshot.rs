//! What was known of the cluster, on disk: for an agent that starts while no API server answers. One object a line, between
//! a line that says which format it is and one that says that it is whole. Knows nothing of what the objects mean.
//!
//! It is replaced whole, by a rename, after it has reached the disk.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::objects::Object;

/// The format of the file. One that is not this one is not read.
const FORMAT: u32 = 1;
/// The file's name within the directory for what outlives the agent.
const FILE: &str = "kubernetes.jsonl";
/// A longer line is no object of ours: one slice has at most a thousand endpoints.
const MAX_LINE_BYTES: u64 = 1024 * 1024;
/// More objects are not read: they would not fit into the maps.
const MAX_OBJECTS: usize = 1_000_000;

/// Why there is no snapshot, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    /// It cannot be read.
    #[error("cannot read {}: {source}; may Segue read it?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what this agent, or any, wrote.
    #[error("{} is of no use: {problem}; it is written anew once the API server answers", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It cannot be written.
    #[error("cannot write {}: {source}; may Segue write there, and is the disk full?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    segue_kubernetes: u32,
    /// The API server, so that one cluster's services are not served in another.
    cluster: String,
    written: Timestamp,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct Tail {
    objects: usize,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) objects: Vec<Object>,
    /// How long ago it was written, as far as the clock can be believed.
    pub(super) age: Duration,
}

/// Where the snapshot lies.
#[derive(Clone, Debug)]
pub(super) struct Store {
    directory: PathBuf,
    cluster: String,
}

impl Store {
    pub(super) fn new(directory: &Path, cluster: String) -> Self {
        Self { directory: directory.to_owned(), cluster }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What was written last; `None` where nothing was.
    pub(super) fn read(&self) -> Result<Option<Snapshot>, SnapshotError> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SnapshotError::Read { path, source }),
        };
        let mut lines = Lines { file: BufReader::new(file), path: path.clone() };
        let unusable = |problem: String| SnapshotError::Unusable { path: path.clone(), problem };
        let head = lines.next()?.ok_or_else(|| unusable("it is empty".into()))?;
        let head: Head =
            serde_json::from_str(&head).map_err(|error| unusable(format!("its first line: {error}")))?;
        if head.segue_kubernetes != FORMAT {
            return Err(unusable(format!(
                "it is of format {}, this agent reads {FORMAT}",
                head.segue_kubernetes
            )));
        }
        if head.cluster != self.cluster {
            return Err(unusable(format!(
                "it is of {}, and the API server is {}",
                head.cluster, self.cluster
            )));
        }
        let mut objects = Vec::new();
        while let Some(line) = lines.next()? {
            if let Ok(Tail { objects: count }) = serde_json::from_str(&line) {
                if count != objects.len() {
                    return Err(unusable(format!("{} of {count} objects are there", objects.len())));
                }
                let age = Timestamp::now().duration_since(head.written);
                return Ok(Some(Snapshot { objects, age: age.try_into().unwrap_or_default() }));
            }
            if objects.len() == MAX_OBJECTS {
                return Err(unusable(format!("it has more than {MAX_OBJECTS} objects")));
            }
            let object = serde_json::from_str(&line);
            objects.push(object.map_err(|error| unusable(format!("line {}: {error}", objects.len() + 2)))?);
        }
        Err(unusable("its end is missing".into()))
    }

    /// Replaces what was written. Returns when it is on the disk.
    pub(super) fn write(&self, objects: impl Iterator<Item = Object>) -> Result<(), SnapshotError> {
        let path = self.path();
        self.try_write(&path, objects).map_err(|source| SnapshotError::Write { path, source })
    }

    fn try_write(&self, path: &Path, objects: impl Iterator<Item = Object>) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let fresh = path.with_extension("jsonl.new");
        let mut file = BufWriter::new(File::create(&fresh)?);
        let mut line = |value: &[u8]| file.write_all(value).and_then(|()| file.write_all(b"\n"));
        let head =
            Head { segue_kubernetes: FORMAT, cluster: self.cluster.clone(), written: Timestamp::now() };
        line(&serde_json::to_vec(&head)?)?;
        let mut count = 0;
        for object in objects {
            line(&serde_json::to_vec(&object)?)?;
            count += 1;
        }
        line(&serde_json::to_vec(&Tail { objects: count })?)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

/// The lines of a file, none longer than it may be.
struct Lines {
    file: BufReader<File>,
    path: PathBuf,
}

impl Lines {
    fn next(&mut self) -> Result<Option<String>, SnapshotError> {
        use io::Read as _;
        let mut line = Vec::new();
        let read = self.file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        let count = read.map_err(|source| SnapshotError::Read { path: self.path.clone(), source })?;
        if count == 0 {
            return Ok(None);
        }
        let unusable =
            |problem: &str| SnapshotError::Unusable { path: self.path.clone(), problem: problem.into() };
        if line.pop() != Some(b'\n') {
            return Err(unusable("a line is cut off, or too long"));
        }
        String::from_utf8(line).map(Some).map_err(|_| unusable("it is not text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::kubernetes::objects::{Node, ObjectKey};

    fn node(name: &str) -> Object {
        let key = ObjectKey { namespace: "".into(), name: name.into() };
        Object::Node(Node {
            key,
            zone: Some("a".into()),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
        })
    }

    fn store(directory: &Path) -> Store {
        Store::new(directory, "https://cluster".into())
    }

    #[test]
    fn what_was_written_is_read_and_replaced_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(&directory.path().join("state"));
        assert!(store.read().expect("no file is no error").is_none());
        for names in [&["a", "b"][..], &["c"], &[]] {
            store.write(names.iter().map(|name| node(name))).expect("written");
            let snapshot = store.read().expect("readable").expect("there");
            assert_eq!(snapshot.objects, names.iter().map(|name| node(name)).collect::<Vec<_>>());
        }
        let left = fs::read_dir(directory.path().join("state")).expect("there").count();
        assert_eq!(left, 1, "nothing but the file is left");
    }

    #[test]
    fn a_snapshot_that_is_cut_anywhere_is_of_no_use_and_harms_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        store.write(["a", "b"].iter().map(|name| node(name))).expect("written");
        let whole = fs::read(store.path()).expect("there");
        for length in 0..whole.len() {
            fs::write(store.path(), &whole[..length]).expect("written");
            assert!(matches!(store.read(), Err(SnapshotError::Unusable { .. })), "{length} bytes");
        }
    }

    #[test]
    fn a_snapshot_of_another_cluster_or_another_format_is_not_served() {
        let directory = tempfile::tempdir().expect("a directory");
        store(directory.path()).write(std::iter::once(node("a"))).expect("written");
        let error = Store::new(directory.path(), "https://other".into()).read().expect_err("another");
        assert!(error.to_string().contains("https://cluster"), "{error}");
        let text = fs::read_to_string(store(directory.path()).path()).expect("there");
        fs::write(store(directory.path()).path(), text.replace("kubernetes\":1", "kubernetes\":2"))
            .expect("written");
        let error = store(directory.path()).read().expect_err("another format");
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
