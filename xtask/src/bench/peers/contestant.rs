//! The systems that are compared, and what has to be done before one can be asked and after. It measures nothing.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::bench::probe::Range;
use crate::node::{Node, Place, Process};
use crate::peers::dnat::{Filter, Service};
use crate::peers::{Balance, Binaries, Kind, Layer, Proxy};

/// The network of service addresses: it is for benchmarks.
pub(super) const NETWORK: &str = "198.18.0.0/15";

/// Service addresses of the first system; the others' follow. Each has its own, as well as backends of its own: where a
/// connection of one has just ended, the server takes no other client's from the same port for a minute, unless
/// that one counts on from it.
const FIRST_FRONTEND: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const MAX_SERVICES: u32 = 16_000;

/// Backends of each service. Every address of 127.0.0.0/8 is the node's own, so that one server can be many.
const FIRST_BACKEND: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
const BACKENDS: u32 = 2;

/// Where the first proxy listens: below 1024, where no client's own port is.
const FIRST_PORT: u16 = 700;

/// A way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// To the server's own address, past everything.
    Direct,
    /// A service of Segue.
    Segue,
    /// A service address that the packet filter translates.
    Filter(Filter),
    /// A proxy, asked at its own address.
    Proxy(Proxy),
}

const fn proxy(kind: Kind, layer: Layer) -> System {
    System::Proxy(Proxy { kind, layer, balance: Balance::RoundRobin, retry: false, detect: false })
}

pub(super) const HAPROXY_TCP: System = proxy(Kind::Haproxy, Layer::Tcp);
pub(super) const HAPROXY_HTTP: System = proxy(Kind::Haproxy, Layer::Http);
pub(super) const ENVOY_TCP: System = proxy(Kind::Envoy, Layer::Tcp);
pub(super) const ENVOY_HTTP: System = proxy(Kind::Envoy, Layer::Http);
pub(super) const IPTABLES: System = System::Filter(Filter::Iptables);
pub(super) const NFTABLES: System = System::Filter(Filter::Nftables);

impl System {
    /// All, in the order of tables.
    pub(super) const ALL: [Self; 8] =
        [Self::Direct, Self::Segue, IPTABLES, NFTABLES, HAPROXY_TCP, HAPROXY_HTTP, ENVOY_TCP, ENVOY_HTTP];

    /// What tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Segue => "Segue",
            Self::Filter(Filter::Iptables) => "iptables",
            Self::Filter(Filter::Nftables) => "nftables",
            Self::Proxy(Proxy { kind: Kind::Haproxy, layer: Layer::Tcp, .. }) => "HAProxy tcp",
            Self::Proxy(Proxy { kind: Kind::Haproxy, layer: Layer::Http, .. }) => "HAProxy http",
            Self::Proxy(Proxy { kind: Kind::Envoy, layer: Layer::Tcp, .. }) => "Envoy tcp_proxy",
            Self::Proxy(Proxy { kind: Kind::Envoy, layer: Layer::Http, .. }) => "Envoy http",
        }
    }

    /// Where its client runs.
    pub(super) fn place(self) -> Place {
        if self == Self::Segue { Place::Managed } else { Place::Beside }
    }

    /// What its client asks, where there are so many services.
    pub(super) fn target(self, services: u32, port: u16) -> Range {
        let range = |first: Ipv4Addr, port, count| Range {
            first: SocketAddrV4::new(first, port),
            last: Ipv4Addr::from_bits(first.to_bits() + count - 1),
        };
        match self {
            Self::Direct => range(self.backend(0), port, services * BACKENDS),
            Self::Segue | Self::Filter(_) => range(self.frontend(0), 80, services),
            Self::Proxy(_) => range(Ipv4Addr::LOCALHOST, self.port(), 1),
        }
    }

    fn port(self) -> u16 {
        FIRST_PORT + u16::try_from(self.number()).unwrap_or_default()
    }

    fn number(self) -> u32 {
        (0..).zip(Self::ALL).find(|(_, system)| *system == self).map_or(0, |(number, _)| number)
    }

    fn frontend(self, service: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_FRONTEND.to_bits() + self.number() * MAX_SERVICES + service)
    }

    fn backend(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_BACKEND.to_bits() + self.number() * MAX_SERVICES * BACKENDS + place)
    }

    /// So many services, with their backends all at the server's port.
    pub(super) fn services(self, count: u32, port: u16) -> Vec<Service> {
        let backend = |place| SocketAddrV4::new(self.backend(place), port);
        (0..count.min(MAX_SERVICES))
            .map(|number| Service {
                frontend: SocketAddrV4::new(self.frontend(number), 80),
                backends: (number * BACKENDS..(number + 1) * BACKENDS).map(backend).collect(),
            })
            .collect()
    }

    /// Makes what is in its way for these services; how long that took, where it takes anything.
    pub(super) fn enter(self, node: &Node, services: &[Service]) -> anyhow::Result<Option<Duration>> {
        match self {
            Self::Filter(filter) => filter.load(node, services).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes it away again, so that the next one does not pay for it.
    pub(super) fn leave(self, node: &Node) -> anyhow::Result<()> {
        match self {
            Self::Filter(_) => Filter::unload(node),
            _ => Ok(()),
        }
    }
}

/// Segue's file for them.
pub(super) fn config(services: &[Service]) -> String {
    let mut text = String::from("services:\n");
    for (number, service) in services.iter().enumerate() {
        let backends: Vec<String> = service.backends.iter().map(|at| format!("\"{at}\"")).collect();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - name: bench/tcp-{number}\n    frontends: [\"{}\"]\n    backends: [{}]\n",
            service.frontend,
            backends.join(", ")
        );
    }
    text
}

/// Starts those proxies that are among these systems, each before backends of its own at the server's port.
pub(super) fn start_proxies(
    node: &Node,
    binaries: &Binaries,
    systems: &[System],
    port: u16,
) -> anyhow::Result<Vec<(System, Process)>> {
    let mut processes = Vec::new();
    for system in systems {
        if let System::Proxy(proxy) = system {
            let backends: Vec<SocketAddr> = system
                .services(1, port)
                .iter()
                .flat_map(|one| &one.backends)
                .copied()
                .map(SocketAddr::V4)
                .collect();
            processes.push((*system, proxy.start(node, binaries, system.port(), &backends)?.0));
        }
    }
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_what_there_is() {
        let services = System::Segue.services(300, 8081);
        let (first, last) = (&services[0], &services[299]);
        let asked = System::Segue.target(300, 8081);
        assert_eq!((asked.first, asked.last), (first.frontend, *last.frontend.ip()));
        let services_of_direct = System::Direct.services(300, 8081);
        let asked = System::Direct.target(300, 8081);
        assert_eq!(asked.first, services_of_direct[0].backends[0]);
        assert_eq!(asked.last, *services_of_direct[299].backends[1].ip());
        assert!(asked.last < *first.backends[0].ip(), "no two systems share a backend");
        let last = ENVOY_HTTP.services(MAX_SERVICES, 8081);
        assert!(last[15_999].frontend.ip() < &Ipv4Addr::new(198, 20, 0, 0));
        assert_eq!(config(&services).matches("- name:").count(), 300);
    }

    #[test]
    fn every_system_has_a_name_and_every_proxy_a_port_of_its_own() {
        let mut names: Vec<&str> = System::ALL.iter().map(|system| system.name()).collect();
        names.dedup();
        assert_eq!(names.len(), System::ALL.len());
        assert_ne!(HAPROXY_TCP.port(), ENVOY_HTTP.port());
    }
}
