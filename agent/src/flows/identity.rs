//! Whose cgroup is it: workload names from the paths that container runtimes and systemd give to cgroups.
//!
//! Pure rules on text. Knows no file system and no Kubernetes API: a pod is named by its UID here, and by its
//! owner once a source has told it ([`super::pods`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name of a workload, in bytes. Names of units can have 255, paths 4 096.
pub const MAX_NAME_BYTES: usize = 128;

/// The namespace of what runs on the host and not in Kubernetes.
pub const HOST_NAMESPACE: &str = "host";

/// The namespace of pods before their UID is known, and the name of what could not be found.
pub const UNKNOWN: &str = "unknown";

/// The client of a connection, as labels and tables name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Workload {
    /// The Kubernetes namespace, `host` outside Kubernetes, `unknown` where it is not known.
    pub namespace: Arc<str>,
    /// The name, at most [`MAX_NAME_BYTES`] bytes, without control characters.
    pub name: Arc<str>,
    /// What it is.
    pub kind: WorkloadKind,
}

/// What a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// A Kubernetes pod that nothing owns, or whose owner is not known.
    Pod,
    /// The pods of a Deployment.
    Deployment,
    /// The pods of a StatefulSet.
    StatefulSet,
    /// The pods of a DaemonSet.
    DaemonSet,
    /// The pods of a ReplicaSet that belongs to no Deployment.
    ReplicaSet,
    /// The pods of a Job that nobody scheduled.
    Job,
    /// The pods of the Jobs of a CronJob.
    CronJob,
    /// The pods of a controller of another kind.
    Controller,
    /// A container outside Kubernetes.
    Container,
    /// A systemd service or scope.
    Unit,
    /// The login sessions and the service manager of one user.
    Session,
    /// A cgroup that follows no known convention; its name is its path.
    Cgroup,
    /// A cgroup that was gone before it was seen.
    Unknown,
}

impl WorkloadKind {
    /// The name in JSON and in ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Deployment => "deployment",
            Self::StatefulSet => "stateful_set",
            Self::DaemonSet => "daemon_set",
            Self::ReplicaSet => "replica_set",
            Self::Job => "job",
            Self::CronJob => "cron_job",
            Self::Controller => "controller",
            Self::Container => "container",
            Self::Unit => "unit",
            Self::Session => "session",
            Self::Cgroup => "cgroup",
            Self::Unknown => UNKNOWN,
        }
    }
}

impl Workload {
    /// The workload of connections whose cgroup was never seen.
    pub fn unknown() -> Self {
        Self { namespace: UNKNOWN.into(), name: UNKNOWN.into(), kind: WorkloadKind::Unknown }
    }

    /// The workload of a pod that is known: its namespace and what owns it, or its own name.
    pub fn of_pod(namespace: &str, name: &str, kind: WorkloadKind) -> Self {
        Self { namespace: label_text(namespace).into(), name: label_text(name).into(), kind }
    }

    fn on_host(name: &str, kind: WorkloadKind) -> Self {
        Self { namespace: HOST_NAMESPACE.into(), name: label_text(name).into(), kind }
    }
}

/// The workload that owns the cgroup at `path`, given from the root of the cgroup v2 hierarchy.
pub fn workload_of(path: &str) -> Workload {
    place(path).0
}

/// The part of `path` that is the client's cgroup: that of the pod, container or unit, not the leaf below it.
pub fn pod_level(path: &str) -> &str {
    place(path).1
}

/// Whether cgroups of pods or of their containers appear directly below the cgroup at `path`.
pub fn holds_pods(path: &str) -> bool {
    match find_pod(path) {
        Some((_, client)) => components(&path[client.len()..]).count() <= 1,
        None => components(path).any(|(component, _)| component.contains("kubepods")),
    }
}

/// The UID of the pod that owns the cgroup at `path`.
pub fn pod_uid(path: &str) -> Option<String> {
    find_pod(path).map(|(uid, _)| uid)
}

/// The outermost pod wins over the outermost container, which wins over the outermost unit: a pod's container
/// may run a whole systemd of its own, and it is still that pod.
fn place(path: &str) -> (Workload, &str) {
    if let Some((uid, client)) = find_pod(path) {
        let name = label_text(&format!("pod-{uid}"));
        let workload = Workload { namespace: UNKNOWN.into(), name: name.into(), kind: WorkloadKind::Pod };
        return (workload, client);
    }
    if let Some((name, client)) = find_container(path) {
        return (Workload::on_host(&name, WorkloadKind::Container), client);
    }
    if let Some((name, kind, client)) = find_unit(path) {
        return (Workload::on_host(&name, kind), client);
    }
    let whole = if path.trim_matches('/').is_empty() { "/" } else { path };
    (Workload::on_host(whole, WorkloadKind::Cgroup), path)
}

/// Each component of a path with the path up to and including it.
fn components(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut end = 0;
    path.split('/').filter_map(move |component| {
        let start = end;
        end = start + component.len() + 1;
        (!component.is_empty()).then(|| (component, &path[..start + component.len()]))
    })
}

fn find_pod(path: &str) -> Option<(String, &str)> {
    let mut in_kubepods = false;
    for (component, prefix) in components(path) {
        in_kubepods |= component.contains("kubepods");
        if in_kubepods && let Some(uid) = uid_of_component(component) {
            return Some((uid, prefix));
        }
    }
    None
}

/// The UID in `pod<uid>` (cgroupfs driver), in `kubepods-burstable-pod<uid>.slice` (systemd driver), or in
/// `kubepods-pod<uid>.slice:cri-containerd:<id>` (runtime and kubelet disagree on the driver).
fn uid_of_component(component: &str) -> Option<String> {
    let head = component.split(':').next()?;
    let head = head.strip_suffix(".slice").unwrap_or(head);
    let uid = match head.strip_prefix("pod") {
        Some(uid) => uid,
        None => head.rsplit_once("-pod")?.1,
    };
    // The systemd driver writes `_` because `-` nests slices. The UID of a static pod is a hash without dashes.
    let uid = uid.replace('_', "-");
    let is_uuid = uid.len() == 36 && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    let is_hash = uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_uuid || is_hash).then_some(uid)
}

fn find_container(path: &str) -> Option<(String, &str)> {
    let mut parent = "";
    for (component, prefix) in components(path) {
        if let Some(name) = container_name(parent, component) {
            return Some((name, prefix));
        }
        // A unit that runs containers in cgroups of its own is the better name for all of them.
        if component.ends_with(".service") && !is_user_manager(component) {
            return None;
        }
        parent = component;
    }
    None
}

/// `docker-<id>.scope`, `libpod-<id>.scope`, `nerdctl-<id>.scope`, `docker/<id>`, `lxc.payload.<name>` and so on.
fn container_name(parent: &str, component: &str) -> Option<String> {
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return Some(format!("lxc-{name}"));
    }
    if matches!(parent, "lxc" | "lxc.payload") {
        return Some(format!("lxc-{component}"));
    }
    let stem = component.strip_suffix(".scope").unwrap_or(component);
    let (prefix, id) = stem.rsplit_once('-').unwrap_or((parent, stem));
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let runtime = match prefix.trim_start_matches('/') {
        "cri-containerd" | "containerd" => "containerd",
        "docker" => "docker",
        "nerdctl" => "nerdctl",
        "crio" | "crio-conmon" => "crio",
        "libpod" | "libpod-conmon" | "libpod-payload" => "podman",
        _ => "container",
    };
    Some(format!("{runtime}-{}", &id[..12]))
}

fn find_unit(path: &str) -> Option<(String, WorkloadKind, &str)> {
    let mut manager = None;
    for (component, prefix) in components(path) {
        if is_user_manager(component) {
            let user = component.trim_start_matches("user@").trim_end_matches(".service");
            manager = Some((format!("user-{user}"), WorkloadKind::Session, prefix));
        } else if component == "init.scope" && manager.is_some() {
            break;
        } else if component.starts_with("session-") && component.ends_with(".scope") {
            return Some((user_of_session(path), WorkloadKind::Session, prefix));
        } else if let Some(unit) = component.strip_suffix(".service") {
            return Some((service_name(unit), WorkloadKind::Unit, prefix));
        } else if let Some(unit) = component.strip_suffix(".scope") {
            return Some((scope_name(unit), WorkloadKind::Unit, prefix));
        }
    }
    manager
}

fn is_user_manager(component: &str) -> bool {
    component.starts_with("user@") && component.ends_with(".service")
}

/// Sessions are counted up for ever, users are few: a session is named by its user.
fn user_of_session(path: &str) -> String {
    components(path)
        .find_map(|(component, _)| component.strip_suffix(".slice").filter(|name| name.starts_with("user-")))
        .unwrap_or("user")
        .to_owned()
}

/// An instance keeps its name (`foo@bar`), except where systemd starts one per connection or per command.
fn service_name(unit: &str) -> String {
    if is_transient(unit) {
        return "run".to_owned();
    }
    match unit.split_once('@') {
        // `Accept=yes` sockets: `<number>-<local>-<remote>`.
        Some((template, instance)) if is_counted(instance) => unescaped(template),
        _ => unescaped(unit),
    }
}

/// Desktops and terminals end the name of a scope in a PID or a UUID.
fn scope_name(unit: &str) -> String {
    if is_transient(unit) {
        return "run".to_owned();
    }
    let unit = unescaped(unit);
    let uuid_start = unit.len().saturating_sub(37);
    if let Some(tail) = unit.get(uuid_start..).and_then(|tail| tail.strip_prefix('-'))
        && tail.len() == 36
        && tail.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
    {
        return unit[..uuid_start].to_owned();
    }
    match unit.rsplit_once('-') {
        Some((name, pid))
            if !name.is_empty() && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name.to_owned()
        }
        _ => unit,
    }
}

/// `run-u12`, `run-r<hex>` and `run-p34-i56`: what `systemd-run` calls a command without `--unit`.
fn is_transient(unit: &str) -> bool {
    unit.strip_prefix("run-").and_then(|rest| rest.strip_prefix(['u', 'r', 'p'])).is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'i'))
    })
}

/// A number, then two addresses (internet sockets) or a PID and a UID (unix sockets).
fn is_counted(instance: &str) -> bool {
    let Some((number, peers)) = instance.split_once('-') else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(number)
        && peers.split_once('-').is_some_and(|(local, remote)| {
            (local.contains(':') && remote.contains(':')) || (digits(local) && digits(remote))
        })
}

/// systemd writes a byte that may not stand in a unit's name as `\xNN`.
fn unescaped(unit: &str) -> String {
    let mut bytes = Vec::with_capacity(unit.len());
    let mut rest = unit.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = rest.strip_prefix(b"\\x").and_then(|after| after.get(..2));
        match escape.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text fit for a metric label and a table cell: no control characters, bounded, never empty.
fn label_text(text: &str) -> String {
    let mut label = String::with_capacity(text.len().min(MAX_NAME_BYTES));
    for character in text.chars() {
        let shown = if character.is_control() { '_' } else { character };
        if label.len() + shown.len_utf8() >= MAX_NAME_BYTES {
            label.push('~');
            break;
        }
        label.push(shown);
    }
    if label.is_empty() { UNKNOWN.to_owned() } else { label }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "5a2f0c1b7d3e4f60718293a4b5c6d7e8f9010203040506070809a0b1c2d3e4f5";

    /// path with `{id}` for a container id, expected kind, namespace and name, expected client path.
    const PATHS: &[(&str, WorkloadKind, &str, &str)] = &[
        // Kubernetes, systemd driver, the three classes of service.
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice|/cri-containerd-{id}.scope",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b2c3d_1111_2222_3333_444455556666.slice|/crio-{id}.scope/container",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        (
            "/kubepods.slice/kubepods-pod0a1b2c3d_1111_2222_3333_444455556666.slice|/docker-{id}.scope",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        // Kubernetes, cgroupfs driver; a static pod.
        (
            "/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666|/{id}",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        (
            "/kubepods/pod30b1f8b1c2d3e4f5a6b7c8d9e0f10203|/{id}",
            WorkloadKind::Pod,
            "unknown",
            "pod-30b1f8b1c2d3e4f5a6b7c8d9e0f10203",
        ),
        // A runtime that takes the kubelet's slice for a name.
        (
            "/system.slice/containerd.service/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice:cri-containerd:{id}|",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        // A node in a container: the pod is the client, not the node.
        (
            "/system.slice/docker-{id}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod0a1b2c3d_1111_2222_3333_444455556666.slice|/cri-containerd-{id}.scope",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        // A pod that runs containers of its own.
        (
            "/kubepods/besteffort/pod0a1b2c3d-1111-2222-3333-444455556666|/{id}/docker/{id}",
            WorkloadKind::Pod,
            "unknown",
            "pod-0a1b2c3d-1111-2222-3333-444455556666",
        ),
        // Containers outside Kubernetes.
        ("/system.slice/docker-{id}.scope|", WorkloadKind::Container, "host", "docker-5a2f0c1b7d3e"),
        ("/docker/{id}|/worker", WorkloadKind::Container, "host", "docker-5a2f0c1b7d3e"),
        (
            "/machine.slice/libpod-{id}.scope|/container",
            WorkloadKind::Container,
            "host",
            "podman-5a2f0c1b7d3e",
        ),
        (
            "/machine.slice/machine-libpod_pod_{id}.slice/libpod-{id}.scope|",
            WorkloadKind::Container,
            "host",
            "podman-5a2f0c1b7d3e",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope|",
            WorkloadKind::Container,
            "host",
            "podman-5a2f0c1b7d3e",
        ),
        ("/system.slice/nerdctl-{id}.scope|", WorkloadKind::Container, "host", "nerdctl-5a2f0c1b7d3e"),
        ("/system.slice/crio-{id}.scope|", WorkloadKind::Container, "host", "crio-5a2f0c1b7d3e"),
        ("/default/{id}|", WorkloadKind::Container, "host", "container-5a2f0c1b7d3e"),
        ("/lxc.payload.web1|/system.slice/nginx.service", WorkloadKind::Container, "host", "lxc-web1"),
        ("/lxc/web1|", WorkloadKind::Container, "host", "lxc-web1"),
        (
            "/system.slice/docker-{id}.scope|/system.slice/nginx.service",
            WorkloadKind::Container,
            "host",
            "docker-5a2f0c1b7d3e",
        ),
        // systemd units.
        ("/system.slice/nginx.service|", WorkloadKind::Unit, "host", "nginx"),
        ("/system.slice/nginx.service|/workers/3", WorkloadKind::Unit, "host", "nginx"),
        ("/system.slice/shop.service|/libpod-payload-{id}", WorkloadKind::Unit, "host", "shop"),
        (
            "/system.slice/system-postgresql.slice/postgresql@15-main.service|",
            WorkloadKind::Unit,
            "host",
            "postgresql@15-main",
        ),
        ("/system.slice/system-foo.slice/foo@bar.service|", WorkloadKind::Unit, "host", "foo@bar"),
        (
            "/system.slice/system-sshd.slice/sshd@12-10.0.0.1:22-10.0.0.9:51234.service|",
            WorkloadKind::Unit,
            "host",
            "sshd",
        ),
        ("/system.slice/dev\\x2dsync.service|", WorkloadKind::Unit, "host", "dev-sync"),
        ("/system.slice/run-u123.service|", WorkloadKind::Unit, "host", "run"),
        ("/system.slice/run-rb1f2c3d4e5f60718293a4b5c6d7e8f90.scope|", WorkloadKind::Unit, "host", "run"),
        ("/system.slice/runner.service|", WorkloadKind::Unit, "host", "runner"),
        ("/init.scope|", WorkloadKind::Unit, "host", "init"),
        (
            "/machine.slice/systemd-nspawn@web.service|/payload/system.slice/nginx.service",
            WorkloadKind::Unit,
            "host",
            "systemd-nspawn@web",
        ),
        (
            "/machine.slice/machine-qemu\\x2d1\\x2ddb.scope|/libvirt/emulator",
            WorkloadKind::Unit,
            "host",
            "machine-qemu-1-db",
        ),
        // People.
        ("/user.slice/user-1000.slice/session-3.scope|", WorkloadKind::Session, "host", "user-1000"),
        (
            "/user.slice/user-1000.slice/user@1000.service|/init.scope",
            WorkloadKind::Session,
            "host",
            "user-1000",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service|",
            WorkloadKind::Unit,
            "host",
            "sync",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope|",
            WorkloadKind::Unit,
            "host",
            "app-gnome-firefox",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-0a1b2c3d-1111-2222-3333-444455556666.scope|",
            WorkloadKind::Unit,
            "host",
            "vte-spawn",
        ),
        // No convention: the path is the name.
        ("/batch/night|", WorkloadKind::Cgroup, "host", "/batch/night"),
        ("/kubepods/burstable/podlike|", WorkloadKind::Cgroup, "host", "/kubepods/burstable/podlike"),
        ("/|", WorkloadKind::Cgroup, "host", "/"),
    ];

    #[test]
    fn known_path_shapes_name_their_workload_and_its_client_cgroup() {
        for (shape, kind, namespace, name) in PATHS {
            let (client, below) =
                shape.split_once('|').expect("a shape marks where the client's cgroup ends");
            let client = client.replace("{id}", ID);
            let path = format!("{client}{}", below.replace("{id}", ID));
            let expected = Workload { namespace: (*namespace).into(), name: (*name).into(), kind: *kind };
            assert_eq!(workload_of(&path), expected, "{path}");
            assert_eq!(pod_level(&path), client, "{path}");
        }
    }

    #[test]
    fn a_pod_uid_is_found_under_both_drivers() {
        let uid = "0a1b2c3d-1111-2222-3333-444455556666";
        assert_eq!(pod_uid(&format!("/kubepods/pod{uid}/{ID}")).as_deref(), Some(uid));
        let slice = format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"));
        assert_eq!(pod_uid(&slice).as_deref(), Some(uid));
        assert_eq!(pod_uid("/system.slice/nginx.service"), None);
    }

    #[test]
    fn pods_and_containers_appear_below_slices_pods_and_containers() {
        let pod = "/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666";
        for (path, holds) in [
            ("/", false),
            ("/system.slice/nginx.service", false),
            ("/kubepods", true),
            ("/kubepods.slice/kubepods-burstable.slice", true),
            (pod, true),
            (&*format!("{pod}/crio-{ID}.scope"), true),
            (&*format!("{pod}/crio-{ID}.scope/container"), false),
        ] {
            assert_eq!(holds_pods(path), holds, "{path}");
        }
    }

    #[test]
    fn a_long_name_is_cut_and_marked() {
        let name = workload_of(&format!("/{}", "x".repeat(300))).name;
        assert_eq!(name.len(), MAX_NAME_BYTES);
        assert!(name.ends_with('~'));
    }

    proptest! {
        #[test]
        fn any_path_gives_valid_label_text_and_a_prefix_of_itself(
            path in "(/(kubepods|[a-z\\-]{0,9}pod[0-9a-f_\\-]{0,40}|user@[0-9]*|[^/]{0,20})(\\.slice|\\.scope|\\.service|\\\\x2d|:|@)?){0,6}"
        ) {
            let workload = workload_of(&path);
            prop_assert!(!workload.name.is_empty());
            prop_assert!(workload.name.len() <= MAX_NAME_BYTES);
            prop_assert!(!workload.name.chars().any(char::is_control));
            prop_assert!(path.starts_with(pod_level(&path)));
        }

        #[test]
        fn any_text_at_all_gives_valid_label_text(path in any::<String>()) {
            let workload = workload_of(&path);
            prop_assert!(!workload.name.is_empty() && workload.name.len() <= MAX_NAME_BYTES);
            prop_assert!(!workload.name.chars().any(char::is_control));
        }
    }
}
