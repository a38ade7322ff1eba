//! Paths of cgroups, which whoever may make a cgroup chooses.

use segue_agent::flows::identity::{MAX_NAME_BYTES, pod_level, pod_uid, workload_of};

use crate::{fuzz, lines};

const TOKENS: &[&str] = &[
    "/",
    "//",
    "..",
    ".slice",
    ".scope",
    ".service",
    "kubepods",
    "kubepods.slice",
    "-pod",
    "pod",
    "cri-containerd-",
    "docker-",
    "crio-",
    "libpod-",
    ":",
    "user-1000",
    "session-1",
    "system.slice",
    "\\x2d",
    "@",
    "-",
    "_",
    "é",
    "\u{7f}",
    "\u{202e}",
    "8f1c3a52-4f4e-4e9e-9d0a-1d2f3a4b5c6d",
    " - ",
    " ",
    "cgroup2",
    "\\040",
    "\n",
];

fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let workload = workload_of(&text);
    for name in [&workload.name, &workload.namespace] {
        assert!(!name.is_empty(), "a workload without a name");
        assert!(name.len() <= MAX_NAME_BYTES, "{} bytes", name.len());
        assert!(!name.chars().any(char::is_control), "{name:?}");
    }
    let client = pod_level(&text);
    assert!(text.starts_with(client), "{client:?} is not above {text:?}");
    // Whoever is below a client is that client.
    assert_eq!(workload_of(client), workload, "of {client:?} and {text:?}");
    assert_eq!(pod_level(client), client);
    if let Some(uid) = pod_uid(&text) {
        assert!(workload.name.contains(uid.as_str()), "{uid} is not in {}", workload.name);
    }
}

#[test]
fn any_path_of_a_cgroup_has_one_client_with_a_name_that_fits_a_label() {
    fuzz(&lines(include_str!("../../seeds/cgroup_paths.txt")), TOKENS, check);
}
