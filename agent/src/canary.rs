//! The live proof that connections are taken: a test connection to a service of our own.
//!
//! "Attached" proves nothing by itself: links may hold on to a cgroup that nobody is in any more. So the agent
//! connects a UDP socket, which sends no packet, to an address that only the data plane knows, and the kernel must
//! have counted the selection. Where the agent is not itself in the managed cgroup, a child does it there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::Protocol;

use crate::desired::{BackendSpec, PolicySpec, ServiceSpec};

/// The service's name. No configuration can use it: a namespace of ours.
pub const NAME: &str = "segue/canary";

/// The address that is connected to: loopback, so that it can leave no host, and port 9 (discard).
const FRONTEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 83, 71, 85)), 9);
const BACKEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// How long the child may take. Starting a process under full load takes most of it.
const CHILD_TIMEOUT: Duration = Duration::from_secs(5);

/// The service, as every other.
pub fn service() -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec {
        name: NAME.into(),
        protocol: Protocol::Udp,
        frontends: vec![FRONTEND],
        backends: vec![BackendSpec {
            address: BACKEND,
            weight: 1,
            zone: None,
            version: None,
            draining: false,
        }],
        policy: PolicySpec::default(),
    })
}

/// Why the test connection could not be made or did not count.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The socket itself failed.
    #[error("connecting a UDP socket to {FRONTEND} failed: {0}; is the loopback interface up?")]
    Connect(#[source] std::io::Error),
    /// The child could not be run in the managed cgroup.
    #[error("cannot run a test process in {}: {source}", cgroup.display())]
    Child {
        /// The cgroup made for it.
        cgroup: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection was made and the data plane did not see it.
    #[error("a test connection from {} was not taken; are the programs attached to the right cgroup?", cgroup.display())]
    NotTaken {
        /// Where it was made.
        cgroup: PathBuf,
    },
}

/// Makes one connection and returns; what came of it is in the kernel's counters.
///
/// # Errors
/// [`CanaryError::Connect`].
pub fn connect() -> Result<(), CanaryError> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(CanaryError::Connect)?;
    socket.connect(FRONTEND).map_err(CanaryError::Connect)
}

/// Makes one connection from inside the managed cgroup: here, where this process is in it, else in a child that is
/// put into a cgroup below it for that moment.
///
/// # Errors
/// What [`connect`] says, or that the child cannot be run.
pub async fn connect_inside(managed: &Path, mount: &Path) -> Result<(), CanaryError> {
    if own_cgroup(mount).is_some_and(|own| own.starts_with(managed)) {
        return connect();
    }
    let cgroup = managed.join(format!("segue-canary-{}", std::process::id()));
    let fail = |source| CanaryError::Child { cgroup: cgroup.clone(), source };
    match std::fs::create_dir(&cgroup) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail(error)),
        _ => {}
    }
    let result = run_child(&cgroup).await;
    // The directory is busy until the child is reaped, which `run_child` saw to.
    let _ = std::fs::remove_dir(&cgroup);
    result.map_err(fail)
}

async fn run_child(cgroup: &Path) -> std::io::Result<()> {
    let child = tokio::process::Command::new("/proc/self/exe")
        .arg("canary")
        .arg(cgroup)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null())
        .output();
    let output = tokio::time::timeout(CHILD_TIMEOUT, child).await.map_err(std::io::Error::from)??;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// What the child does: enters the cgroup, connects, ends.
///
/// # Errors
/// As [`connect_inside`].
pub fn child(cgroup: &Path) -> Result<(), CanaryError> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")
        .map_err(|source| CanaryError::Child { cgroup: cgroup.to_owned(), source })?;
    connect()
}

/// The cgroup (version 2) this process is in.
fn own_cgroup(mount: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path))
}
