//! Every way in which a file changes, on a real file system. Each waits for an update with a deadline.

use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;

/// Far beyond what a busy machine needs; a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(20);
/// An interval in which no test ends: what it finds, inotify has told.
const NEVER: Duration = Duration::from_secs(3_600);

struct Running {
    updates: mpsc::Receiver<(SourceKind, Update)>,
    task: JoinHandle<()>,
}

fn start(source: FileSource) -> Running {
    let (sender, updates) = mpsc::channel(4);
    Running { updates, task: tokio::spawn(source.run(sender)) }
}

/// A source that does not poll.
fn watching(path: &Path) -> Running {
    start(FileSource { poll_interval: NEVER, ..FileSource::new(path) })
}

impl Running {
    async fn update(&mut self) -> Update {
        let next = tokio::time::timeout(DEADLINE, self.updates.recv()).await;
        next.expect("an update before the deadline").expect("a source that runs").1
    }

    /// The name of the only service of the next update.
    async fn service(&mut self) -> String {
        match self.update().await {
            Update::Changed(Change::Reset(services)) => {
                services.iter().map(|service| service.name.to_string()).collect::<Vec<_>>().join(" ")
            }
            other => panic!("not a reset: {other:?}"),
        }
    }

    async fn rejection(&mut self) -> String {
        match self.update().await {
            Update::Rejected(error) => error.to_string(),
            other => panic!("not a rejection: {other:?}"),
        }
    }
}

fn yaml(name: &str) -> String {
    format!("services:\n- name: {name}\n  frontends: [\"198.18.0.1:80\"]\n  backends: [\"10.0.0.1:80\"]\n")
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

/// Writes beside the file and renames onto it.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    write(&beside, text);
    std::fs::rename(beside, path).expect("renamed");
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A running source on a new file that says `first`.
async fn started() -> (TempDir, PathBuf, Running) {
    let root = directory();
    let path = root.path().join("segue.yaml");
    write(&path, &yaml("first"));
    let mut running = watching(&path);
    assert_eq!(running.service().await, "first");
    (root, path, running)
}

#[tokio::test]
async fn an_edit_in_place_takes_effect() {
    let (_root, path, mut running) = started().await;
    write(&path, &yaml("second"));
    assert_eq!(running.service().await, "second");
    write(&path, &yaml("third"));
    assert_eq!(running.service().await, "third");
}

#[tokio::test]
async fn a_rename_onto_the_file_takes_effect() {
    let (_root, path, mut running) = started().await;
    replace(&path, &yaml("second"));
    assert_eq!(running.service().await, "second");
    replace(&path, &yaml("third"));
    assert_eq!(running.service().await, "third");
}

#[tokio::test]
async fn a_swapped_link_to_a_directory_takes_effect_as_in_a_config_map() {
    let root = directory();
    let root = root.path();
    let publish = |version: &str| {
        std::fs::create_dir(root.join(version)).expect("a directory");
        write(&root.join(version).join("segue.yaml"), &yaml(&version.replace('.', "")));
        symlink(version, root.join("..data_tmp")).expect("a link");
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
    };
    publish("..v1");
    symlink("..data/segue.yaml", root.join("segue.yaml")).expect("a link");
    let mut running = watching(&root.join("segue.yaml"));
    assert_eq!(running.service().await, "v1");
    for (old, new) in [("..v1", "..v2"), ("..v2", "..v3")] {
        publish(new);
        std::fs::remove_dir_all(root.join(old)).expect("removed");
        assert_eq!(running.service().await, new.replace('.', ""));
    }
}

#[tokio::test]
async fn an_edit_behind_a_link_to_another_directory_takes_effect() {
    let root = directory();
    std::fs::create_dir(root.path().join("elsewhere")).expect("a directory");
    let real = root.path().join("elsewhere/real.yaml");
    write(&real, &yaml("first"));
    symlink(&real, root.path().join("segue.yaml")).expect("a link");
    let mut running = watching(&root.path().join("segue.yaml"));
    assert_eq!(running.service().await, "first");
    write(&real, &yaml("second"));
    assert_eq!(running.service().await, "second");
}

#[tokio::test]
async fn a_deleted_file_is_reported_and_takes_effect_when_it_comes_back() {
    let (_root, path, mut running) = started().await;
    std::fs::remove_file(&path).expect("removed");
    assert!(running.rejection().await.contains("cannot be read"));
    write(&path, &yaml("first"));
    assert_eq!(running.service().await, "first");
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_takes_effect_when_it_comes() {
    let root = directory();
    let path = root.path().join("segue.yaml");
    let mut running = watching(&path);
    assert!(running.rejection().await.contains("cannot be read"));
    write(&path, &yaml("first"));
    assert_eq!(running.service().await, "first");
}

#[tokio::test]
async fn a_replaced_directory_takes_effect_and_is_watched_like_the_first() {
    let root = directory();
    let config = root.path().join("config");
    let path = config.join("segue.yaml");
    let fill = |name: &str| {
        std::fs::create_dir(&config).expect("a directory");
        write(&path, &yaml(name));
    };
    fill("first");
    let mut running = start(FileSource::new(&path));
    assert_eq!(running.service().await, "first");
    std::fs::rename(&config, root.path().join("old")).expect("renamed");
    fill("second");
    // Where the source looked while there was no file, it says so first.
    let mut update = running.update().await;
    if matches!(update, Update::Rejected(_)) {
        update = running.update().await;
    }
    assert!(
        matches!(&update, Update::Changed(Change::Reset(new)) if &*new[0].name == "second"),
        "{update:?}"
    );
    write(&path, &yaml("third"));
    assert_eq!(running.service().await, "third");
}

#[tokio::test]
async fn without_inotify_polling_finds_the_change() {
    let root = directory();
    let path = root.path().join("segue.yaml");
    write(&path, &yaml("first"));
    let poll_interval = Duration::from_millis(20);
    let mut running = start(FileSource { path: path.clone(), poll_interval, uses_inotify: false });
    assert_eq!(running.service().await, "first");
    replace(&path, &yaml("second"));
    assert_eq!(running.service().await, "second");
    write(&path, &yaml("the-third"));
    assert_eq!(running.service().await, "the-third");
}

#[tokio::test]
async fn the_same_content_is_reported_once_and_a_good_one_after_a_wrong_one_again() {
    let root = directory();
    let path = root.path().join("segue.yaml");
    write(&path, &yaml("first"));
    let mut lookout = Lookout::new(path.clone(), None);
    assert!(matches!(lookout.settled(async || {}).await, Some(Update::Changed(_))));
    replace(&path, &yaml("first"));
    assert!(lookout.settled(async || {}).await.is_none());
    replace(&path, "services: [");
    match lookout.settled(async || {}).await {
        Some(Update::Rejected(error)) => assert!(error.to_string().contains("segue.yaml:1:"), "{error}"),
        other => panic!("not a rejection: {other:?}"),
    }
    replace(&path, "services: [");
    assert!(lookout.settled(async || {}).await.is_none());
    // Also what was in force before: who listens must learn that the file is good again.
    replace(&path, &yaml("first"));
    assert!(matches!(lookout.settled(async || {}).await, Some(Update::Changed(_))));
}

#[tokio::test]
async fn a_half_written_file_is_given_time() {
    let root = directory();
    let path = root.path().join("segue.yaml");
    let text = yaml("first");
    write(&path, &text[..20]);
    let mut lookout = Lookout::new(path.clone(), None);
    let mut written = 20;
    let update = lookout
        .settled(async || {
            written = text.len().min(written + 30);
            write(&path, &text[..written]);
        })
        .await;
    assert!(matches!(update, Some(Update::Changed(_))), "{update:?}");
}

#[tokio::test]
async fn a_file_that_keeps_changing_and_never_gets_good_is_rejected_in_the_end() {
    let root = directory();
    let path = root.path().join("segue.yaml");
    write(&path, "services: [");
    let mut lookout = Lookout::new(path.clone(), None);
    let mut looks = 0;
    let update = lookout
        .settled(async || {
            looks += 1;
            write(&path, &format!("services: [ # {looks}"));
        })
        .await;
    assert!(matches!(update, Some(Update::Rejected(_))), "{update:?}");
    assert_eq!(looks, MOST_RETRIES);
}

#[tokio::test]
async fn a_source_ends_when_nobody_listens() {
    let (_root, _path, running) = started().await;
    drop(running.updates);
    tokio::time::timeout(DEADLINE, running.task).await.expect("before the deadline").expect("no panic");
}
