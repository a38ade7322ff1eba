//! Pods as a node has them: a cgroup where the kubelet and a runtime make it, and a network namespace with one wire to
//! the node's bridge. Knows no API server.

use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::namespace::Namespace;
use crate::server::Server;
use crate::world::{World, run_ip};

/// The bridge of a node.
const BRIDGE: &str = "cni0";

/// An id as runtimes give them to containers.
const CONTAINER: &str = "5a2f0c1b7d3e4f60718293a4b5c6d7e8f9010203040506070809a0b1c2d3e4f5";

/// How cgroups are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The systemd driver with containerd.
    Systemd,
    /// The cgroupfs driver with containerd.
    Cgroupfs,
    /// The systemd driver with CRI-O, which runs processes a level deeper.
    Crio,
}

impl Layout {
    /// The cgroups of the pod and of its container, from the root.
    fn paths(self, uid: &str) -> (String, String) {
        let slice = uid.replace('-', "_");
        let systemd = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice");
        let cgroupfs = format!("kubepods/burstable/pod{uid}");
        let (pod, container) = match self {
            Self::Systemd => (systemd, format!("cri-containerd-{CONTAINER}.scope")),
            Self::Cgroupfs => (cgroupfs, CONTAINER.to_owned()),
            Self::Crio => (systemd, format!("crio-{CONTAINER}.scope/container")),
        };
        let container = format!("{pod}/{container}");
        (pod, container)
    }
}

/// A pod's sandbox.
#[derive(Debug)]
pub struct Sandbox<'w> {
    world: &'w World,
    namespace: Namespace,
    address: String,
    cgroup: PathBuf,
    container: String,
}

impl World {
    /// Makes the bridge that pods are plugged into; the node has 10.77.0.1 there.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn bridge(&self) {
        self.namespace().run(|| {
            run_ip(&["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"]);
            run_ip(&["address", "add", "10.77.0.1/24", "dev", BRIDGE]);
            run_ip(&["link", "set", BRIDGE, "up"]);
        });
    }

    /// Makes a pod's cgroup and its network: the address 10.77.0.`number`, and no way to anywhere but the bridge.
    ///
    /// # Panics
    /// When there is no [`World::bridge`], or the kernel refuses.
    pub fn sandbox(&self, uid: &str, layout: Layout, number: u8) -> Sandbox<'_> {
        let namespace = Namespace::new(None);
        let (address, wire) = (format!("10.77.0.{number}"), format!("veth{number}"));
        let far = namespace.network_path();
        self.namespace().run(|| {
            run_ip(&["link", "add", &wire, "type", "veth", "peer", "name", "eth0", "netns", &far]);
            run_ip(&["link", "set", &wire, "master", BRIDGE, "up"]);
        });
        namespace.run(|| {
            run_ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
            run_ip(&["link", "set", "eth0", "up"]);
        });
        let (pod, container) = layout.paths(uid);
        Sandbox { world: self, namespace, address, cgroup: self.managed_child(&pod), container }
    }
}

impl Sandbox<'_> {
    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The cgroup of the pod.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A client in its container.
    pub fn client(&self) -> Client {
        Client::start(self.namespace.handle(), &self.world.managed_child(&self.container))
    }

    /// A TCP server in its network that says its name.
    pub fn tcp(&self, name: &str, port: u16) -> Server {
        Server::tcp(&self.namespace, name, &format!("{}:{port}", self.address))
    }

    /// A UDP server in its network that says its name.
    pub fn udp(&self, name: &str, port: u16) -> Server {
        Server::udp(&self.namespace, name, &format!("{}:{port}", self.address))
    }

    /// Ends whatever runs in it, and takes its cgroup away.
    pub fn remove(self) {
        self.world.remove_cgroup(&self.cgroup);
    }
}
