//! The agent on a node: started, ready, killed, asked. It knows the command line and nothing of what is inside.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Node, Place, Process};

/// Where the agent listens within the namespace.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

const READY_LIMIT: Duration = Duration::from_secs(30);

/// `segue run` on a node.
pub(crate) struct Agent<'n> {
    node: &'n Node,
    binary: PathBuf,
    process: Process,
}

impl<'n> Agent<'n> {
    /// Starts `binary` with the node's config and waits until it is ready, doing something `meanwhile` again and
    /// again.
    pub(crate) fn start(
        node: &'n Node,
        binary: &Path,
        meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::start_with(node, binary, &[], meanwhile)
    }

    /// The same with more arguments.
    pub(crate) fn start_with(
        node: &'n Node,
        binary: &Path,
        more: &[&str],
        mut meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut command = node.command(binary, Place::Beside)?;
        command
            .arg("run")
            .args([Path::new("--config"), &config_path(node)])
            .args([Path::new("--cgroup"), &node.managed_cgroup()])
            .args(["--listen", &LISTEN.to_string()])
            .args([Path::new("--socket"), &socket_path(node)])
            .args([Path::new("--bpffs"), &node.bpffs()])
            .args(more)
            .stdout(Stdio::null());
        let process = Process::start("segue run", &mut command, &node.directory().join("agent.log"))?;
        let mut agent = Self { node, binary: binary.to_path_buf(), process };
        agent.process.wait_until("ready", READY_LIMIT, || {
            meanwhile()?;
            node.within(|| Ok(is_ready()))
        })?;
        Ok(agent)
    }

    /// The agent's process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the agent with SIGKILL. The kernel programs stay.
    pub(crate) fn kill(self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// What `segue ARGUMENTS --socket …` prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--socket").arg(socket_path(self.node));
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The node's config file.
pub(crate) fn config_path(node: &Node) -> PathBuf {
    node.directory().join("segue.yaml")
}

/// The agent's admin socket.
pub(crate) fn socket_path(node: &Node) -> PathBuf {
    node.directory().join("segue.sock")
}

/// Replaces the node's config file in one step.
pub(crate) fn write_config(node: &Node, text: &str) -> anyhow::Result<()> {
    let path = config_path(node);
    let next = path.with_extension("next");
    fs::write(&next, text).with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, &path).with_context(|| format!("cannot replace {}", path.display()))
}

/// Whether `/readyz` says 200.
fn is_ready() -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&LISTEN, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
