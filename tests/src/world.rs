//! Everything one kernel test owns: namespace, cgroups, bpffs, a directory. It all goes when the world goes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::agent::{Agent, Cluster};
use crate::cgroup::ScratchCgroup;
use crate::client::Client;
use crate::namespace::Namespace;
use crate::program::{Finished, Program};
use crate::server::{BlackHole, Server};
use crate::service::{Service, config};
use crate::wait::eventually;

/// The unit a client runs in unless a test says otherwise.
pub const CHECKOUT: &str = "system.slice/checkout.service";

/// The address of a [`Neighbour`].
pub const NEIGHBOUR: &str = "10.77.0.2";

/// Another small host, one wire away: unlike what listens on `lo`, it can fall silent.
#[derive(Debug)]
pub struct Neighbour {
    namespace: Namespace,
}

impl Neighbour {
    /// Its namespace, for servers to run in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Takes its address away: what is sent to it arrives there and is dropped without a word. Cutting the wire
    /// instead would be noticed by the sender.
    pub fn fall_silent(&self) {
        self.namespace.run(|| run_ip(&["address", "del", &format!("{NEIGHBOUR}/24"), "dev", "wire"]));
    }
}

/// Connects two hosts, 10.77.0.1 and [`NEIGHBOUR`]. What has no route on either does not leave it by this.
fn lay_wire(near: &Namespace, far: &Namespace) {
    let path = far.network_path();
    near.run(|| run_ip(&["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &path]));
    for (host, address) in [(near, "10.77.0.1"), (far, NEIGHBOUR)] {
        host.run(|| {
            run_ip(&["address", "add", &format!("{address}/24"), "dev", "wire"]);
            run_ip(&["link", "set", "wire", "up"]);
        });
    }
}

/// A test's own small host.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: processes first, with their cgroup, then what they used.
    cgroup: ScratchCgroup,
    managed: PathBuf,
    outside: PathBuf,
    namespace: Namespace,
    directory: TempDir,
}

impl World {
    /// Makes an empty world.
    ///
    /// # Panics
    /// When not run by root, or when a part of it cannot be made.
    #[allow(
        clippy::new_without_default,
        reason = "a world is no plain value: it makes cgroups and namespaces"
    )]
    pub fn new() -> Self {
        // SAFETY: geteuid takes nothing and cannot fail.
        let user = unsafe { libc::geteuid() };
        assert_eq!(user, 0, "the kernel tier needs root: run it by `sudo cargo xtask test`");
        let directory =
            tempfile::Builder::new().prefix("segue-test-").tempdir().expect("a temporary directory");
        let namespace = Namespace::new(Some(&directory.path().join("bpffs")));
        let cgroup = ScratchCgroup::new();
        let (managed, outside) = (cgroup.child("managed"), cgroup.child("outside"));
        Self { cgroup, managed, outside, namespace, directory }
    }

    /// A number that no other world of this process has.
    pub fn number(&self) -> u32 {
        self.cgroup.number()
    }

    /// The network and mount namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The cgroup the programs are attached to.
    pub fn managed_cgroup(&self) -> &Path {
        &self.managed
    }

    /// A directory for files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The private bpffs; only the namespace sees what is in it.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.path().join("bpffs")
    }

    /// Starts an agent with these services and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time, with its log.
    pub fn agent(&self, services: &[Service]) -> Agent<'_> {
        let file = self.directory().join("segue.yaml");
        std::fs::write(&file, config(services)).expect("a configuration file can be written");
        self.agent_on(&file)
    }

    /// Starts an agent on a configuration file and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time, with its log.
    pub fn agent_on(&self, file: &Path) -> Agent<'_> {
        Agent::start(self, file, &[])
    }

    /// Starts an agent with these services by way of another program that becomes it, as in `setpriv … --`, and waits
    /// until it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time, with its log.
    pub fn agent_by(&self, starter: &[&str], services: &[Service]) -> Agent<'_> {
        let file = self.directory().join("segue.yaml");
        std::fs::write(&file, config(services)).expect("a configuration file can be written");
        Agent::start(self, &file, starter)
    }

    /// Starts an agent that follows a cluster, and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time, with its log.
    pub fn agent_of_cluster(&self, cluster: Cluster) -> Agent<'_> {
        let mut agent = Agent::of_cluster(self, cluster);
        agent.restart();
        agent
    }

    /// An agent that follows a cluster, not started yet.
    pub fn agent_unstarted(&self, cluster: Cluster) -> Agent<'_> {
        Agent::of_cluster(self, cluster)
    }

    /// Makes a host at [`NEIGHBOUR`], in the same network 10.77.0.0/24 as this one, which has 10.77.0.1.
    ///
    /// # Panics
    /// When the wire cannot be made.
    pub fn neighbour(&self) -> Neighbour {
        let neighbour = Neighbour { namespace: Namespace::new(None) };
        lay_wire(&self.namespace, &neighbour.namespace);
        neighbour
    }

    /// Makes another world the host at [`NEIGHBOUR`], as [`World::neighbour`] does: two nodes, each with an agent of its own.
    ///
    /// # Panics
    /// When the wire cannot be made.
    pub fn wire_to(&self, far: &Self) {
        lay_wire(&self.namespace, &far.namespace);
    }

    /// A TCP server that says its name.
    pub fn tcp(&self, name: &str, at: &str) -> Server {
        Server::tcp(&self.namespace, name, at)
    }

    /// A UDP server that says its name.
    pub fn udp(&self, name: &str, at: &str) -> Server {
        Server::udp(&self.namespace, name, at)
    }

    /// An HTTP server that says its name.
    pub fn http(&self, name: &str, at: &str) -> Server {
        Server::http(&self.namespace, name, at)
    }

    /// A TCP port that never answers.
    pub fn black_hole(&self, at: &str) -> BlackHole {
        BlackHole::new(&self.namespace, at)
    }

    /// A client in the managed cgroup, in the unit `checkout.service`.
    pub fn client(&self) -> Client {
        self.client_in(CHECKOUT)
    }

    /// A client in a cgroup below the managed one.
    pub fn client_in(&self, unit: &str) -> Client {
        Client::start(self.namespace.handle(), &self.managed_child(unit))
    }

    /// A client in the managed cgroup whose network is another one.
    pub fn client_within(&self, namespace: &Namespace) -> Client {
        Client::start(namespace.handle(), &self.managed_child(CHECKOUT))
    }

    /// A client the programs do not see.
    pub fn client_outside(&self) -> Client {
        Client::start(self.namespace.handle(), &self.outside)
    }

    /// Runs a program in the managed cgroup to its end.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: &[A]) -> Finished {
        self.start(program, arguments).finish()
    }

    /// Starts a program in the managed cgroup.
    pub fn start<A: AsRef<OsStr>>(&self, program: &str, arguments: &[A]) -> Program {
        self.start_in(CHECKOUT, program, arguments)
    }

    /// Starts a program in a cgroup below the managed one.
    pub fn start_in<A: AsRef<OsStr>>(&self, unit: &str, program: &str, arguments: &[A]) -> Program {
        let mut command = Command::new(program);
        command.args(arguments);
        Program::start(command, self.namespace.handle(), &self.managed_child(unit))
    }

    /// Starts a program in the namespace, but where the programs do not see it.
    pub fn start_outside(&self, command: Command) -> Program {
        Program::start(command, self.namespace.handle(), &self.outside)
    }

    /// Runs a program in the namespace, but where the programs do not see it, to its good end.
    pub fn run_outside(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments);
        self.start_outside(command).finish().expect_success()
    }

    /// Waits until something accepts TCP connections at `address`.
    ///
    /// # Panics
    /// When nothing does within 10 s, with what the program said.
    pub fn await_listener(&self, address: &str, program: &Program) {
        eventually(&format!("a listener at {address}"), Duration::from_secs(10), || {
            self.namespace
                .run(|| std::net::TcpStream::connect(address).map(drop))
                .map_err(|error| format!("{error}\n{}", program.output()))
        });
    }

    /// Removes a cgroup below the managed one, once what runs there has ended.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn remove_cgroup(&self, path: &Path) {
        self.cgroup.remove_child(path);
    }

    /// Takes the managed cgroup away with everything below it, and makes it again under the same name.
    ///
    /// # Panics
    /// When something is still in it.
    pub fn remake_managed_cgroup(&self) {
        self.cgroup.remove_child(&self.managed);
        self.cgroup.child("managed");
    }

    /// A cgroup below the managed one, made if need be.
    pub fn managed_child(&self, relative: &str) -> PathBuf {
        self.cgroup.child(&format!("managed/{relative}"))
    }
}

/// Runs `ip` in the network namespace of the calling thread.
pub(crate) fn run_ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
}

/// A binary of the workspace: cargo puts it beside the directory of the test executable.
///
/// # Panics
/// When it was not built.
pub fn beside_test(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this executable");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let binary = profile.join(name);
    assert!(
        binary.exists(),
        "{} is missing: build the workspace first, or run `cargo xtask test`",
        binary.display()
    );
    binary
}
