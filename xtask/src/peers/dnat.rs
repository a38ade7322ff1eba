//! Service addresses translated by the kernel's packet filter, as kube-proxy has it done: with iptables, a rule for
//! each service and chains for service and endpoints; with nftables, one map from addresses to chains. The rules are
//! in the chain of what the host itself sends. What is sent through them is not known here.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddrV4;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::node::{Node, Place};
use crate::{host, setup};

/// A service address and where connections to it go, with equal chances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// What clients connect to, with TCP.
    pub(crate) frontend: SocketAddrV4,
    /// Where they get.
    pub(crate) backends: Vec<SocketAddrV4>,
}

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// iptables on nf_tables, the distributions' default.
    Iptables,
    /// nftables.
    Nftables,
}

/// Installs what is missing of iptables, nftables and ip.
pub(crate) fn install() -> anyhow::Result<()> {
    setup::programs(&[("iptables-nft-restore", "iptables"), ("nft", "nftables"), ("ip", "iproute2")])
}

/// What iptables and nft say of their versions.
pub(crate) fn versions() -> anyhow::Result<String> {
    let version = |name: &str| -> anyhow::Result<String> {
        let path = host::program(name).with_context(|| format!("{name} is not installed"))?;
        let output =
            Command::new(path).arg("--version").output().with_context(|| format!("cannot run {name}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
    };
    Ok(format!("{}, {}", version("iptables-nft")?, version("nft")?))
}

/// Lets packets to these addresses be sent within the namespace: without a route they would not get as far as the
/// rules. An address that nobody translates ends at `lo`.
pub(crate) fn route(node: &Node, network: &str) -> anyhow::Result<()> {
    let ip = host::program("ip").context("ip is not installed")?;
    let mut command = node.command(&ip, Place::Beside)?;
    command.args(["route", "replace", network, "dev", "lo", "src", "127.0.0.1"]);
    run(&mut command)
}

impl Filter {
    /// Puts the rules of these services in force; how long that took.
    pub(crate) fn load(self, node: &Node, services: &[Service]) -> anyhow::Result<Duration> {
        let (program, text) = match self {
            Self::Iptables => ("iptables-nft-restore", iptables(services)),
            Self::Nftables => ("nft", nftables(services)),
        };
        let path = node.directory().join(format!("{program}.rules"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let program = host::program(program).with_context(|| format!("{program} is not installed"))?;
        let mut command = node.command(&program, Place::Beside)?;
        match self {
            Self::Iptables => command.arg(&path),
            Self::Nftables => command.arg("-f").arg(&path),
        };
        let begin = Instant::now();
        run(&mut command)?;
        Ok(begin.elapsed())
    }

    /// Takes all rules away, and with them the tracking of connections, which others would pay for.
    pub(crate) fn unload(node: &Node) -> anyhow::Result<()> {
        let nft = host::program("nft").context("nft is not installed")?;
        run(node.command(&nft, Place::Beside)?.args(["flush", "ruleset"]))
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// For iptables-restore. Each of the first n−1 backends is taken with the chance that makes all equal.
fn iptables(services: &[Service]) -> String {
    let mut chains = String::from("*nat\n:SERVICES - [0:0]\n");
    let mut rules = String::from("-A OUTPUT -j SERVICES\n");
    for (number, service) in services.iter().enumerate() {
        let (ip, port) = (service.frontend.ip(), service.frontend.port());
        // Writing to a String cannot fail.
        let _ = writeln!(chains, ":SVC-{number} - [0:0]");
        let _ = writeln!(
            rules,
            "-A SERVICES -d {ip}/32 -p tcp -m comment --comment \"bench/tcp-{number} cluster IP\" -m tcp --dport {port} -j SVC-{number}"
        );
        let count = service.backends.len();
        for (place, backend) in service.backends.iter().enumerate() {
            let chance = if place + 1 < count {
                format!("-m statistic --mode random --probability {:.10} ", chance(count - place))
            } else {
                String::new()
            };
            let _ = writeln!(chains, ":SEP-{number}-{place} - [0:0]");
            let _ = writeln!(rules, "-A SVC-{number} {chance}-j SEP-{number}-{place}");
            let _ =
                writeln!(rules, "-A SEP-{number}-{place} -p tcp -m tcp -j DNAT --to-destination {backend}");
        }
    }
    format!("{chains}{rules}COMMIT\n")
}

fn chance(of: usize) -> f64 {
    1.0 / u32::try_from(of).map_or(f64::INFINITY, f64::from)
}

/// For `nft -f`. The draw is made rule by rule, as in the other: a map for each service's draw loads far slower.
fn nftables(services: &[Service]) -> String {
    let (mut chains, mut elements) = (String::new(), Vec::new());
    for (number, service) in services.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(chains, "  chain svc-{number} {{");
        let count = service.backends.len();
        for (place, backend) in service.backends.iter().enumerate() {
            let draw = if place + 1 < count {
                format!("numgen random mod {} 0 ", count - place)
            } else {
                String::new()
            };
            let _ = writeln!(chains, "    {draw}meta l4proto tcp dnat to {backend}");
        }
        chains.push_str("  }\n");
        let frontend = service.frontend;
        elements.push(format!("      {} . tcp . {} : goto svc-{number}", frontend.ip(), frontend.port()));
    }
    format!(
        "table ip bench {{\n{chains}  map services {{\n    type ipv4_addr . inet_proto . inet_service : verdict\n    \
         elements = {{\n{}\n    }}\n  }}\n  chain output {{\n    type nat hook output priority -100\n    \
         ip daddr . meta l4proto . th dport vmap @services\n  }}\n}}\n",
        elements.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u8) -> Service {
        let backends = (0..3).map(|place| format!("127.1.0.{place}:8081").parse().unwrap()).collect();
        Service { frontend: format!("198.18.0.{number}:80").parse().unwrap(), backends }
    }

    #[test]
    fn iptables_has_a_rule_for_each_service_and_equal_chances() {
        let text = iptables(&[service(1), service(2)]);
        assert_eq!(text.matches("-A SERVICES ").count(), 2);
        assert!(text.contains("-d 198.18.0.2/32 ") && text.contains("-j SVC-1\n"), "{text}");
        assert!(text.contains("-A SVC-0 -m statistic --mode random --probability 0.3333333333 -j SEP-0-0"));
        assert!(text.contains("-A SVC-0 -m statistic --mode random --probability 0.5000000000 -j SEP-0-1"));
        assert!(text.contains("-A SVC-0 -j SEP-0-2\n"), "{text}");
    }

    #[test]
    fn nftables_finds_a_service_in_one_map() {
        let text = nftables(&[service(1), service(2)]);
        assert!(text.contains("198.18.0.1 . tcp . 80 : goto svc-0,\n"), "{text}");
        assert_eq!(text.matches("numgen random mod 3 0 meta l4proto tcp dnat to 127.1.0.0:8081").count(), 2);
        assert_eq!(text.matches("vmap @services").count(), 1);
    }
}
