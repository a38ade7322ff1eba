//! Reads one service: its fields, each by itself. What its fields mean together is `check`'s.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_ebpf::abi::Protocol;
use agent_ebpf::abi::limits::MAX_SUBSETS;

use crate::desired::{BackendSpec, PolicySpec, ServiceSpec, VersionShare};

use super::breaker::{self, Breaker};
use super::canary::{self, Canary};
use super::check::{BACKENDS, FRONTENDS};
use super::draining;
use super::limits;
use super::problem::Position;
use super::reader::{Node, Reader, Stop, Text, fields};
use super::value;

fields! {
    /// A service.
    enum ServiceField {
        Name = "name": "`name` or `namespace/name`, in lower-case letters, digits and `-`; unique. The namespace `segue` is Segue's own. Required.",
        Protocol = "protocol": "`tcp` (default) or `udp`, for all frontends and backends.",
        Frontends = "frontends": "The addresses applications ask for, at least one. No two services of a protocol share one. Required.",
        Policy = "policy": "The rules. Each has a default.",
        Backends = "backends": "The servers. `[]` refuses every connect. Required.",
    }
}

fields! {
    /// The rules of a service.
    enum PolicyField {
        Algorithm = "algorithm": "How a backend is chosen.",
        Affinity = "affinity": "Keeps a client (a pod or a unit) on its backend.",
        Split = "split": "Shares by version, as in `{ v1: 95, v2: 5 }`, in any unit; every version must be one that a backend has, in each address family that has a frontend.",
        Canary = "canary": "The version of the split that is tried out, when it is rolled back, and how its share grows. TCP only.",
        RefuseWith = "refuse_with": "What `connect()` fails with where nothing is usable.",
        ConnectTimeout = "connect_timeout": "How long a handshake may take; without it, as long as the kernel tries. TCP only.",
        Fallback = "fallback": "The service, as in `shop/payment-static`, that takes the connections where nothing of this one is usable. Of the same protocol, and with a frontend and a backend in each address family that has a frontend here.",
        Limits = "limits": "How many connections may be open, waiting for their handshake, and new per second. Without it, any number.",
        Draining = "draining": "Resets the open connections of a backend that is out, after a while; without it, they are kept.",
        Locality = "locality": "`prefer_zone` keeps connections in the node's own zone (`segue run --zone`) down to 72% healthy backends there; of fewer, as much as they can carry. `any` (default) does not look at zones.",
        SlowStart = "slow_start": "How long the share of a backend that joins a running service grows to the whole; 0s: the whole at once. Without it, as long as the breaker's `slow_start`; without a breaker, 0s.",
        Requests = "requests": "`off` does not read requests on connections to it: they cost nothing, and nothing is known of them; a breaker then looks at connections only. `auto` (default) reads them where the agent does (`segue run --requests`).",
        Breaker = "breaker": "Takes backends out that fail, and brings them back. `{}` has the defaults; without it, none is taken out.",
    }
}

fields! {
    /// How a client keeps its backend.
    enum AffinityField {
        Timeout = "timeout": "How long after its last connection. Required.",
    }
}

fields! {
    /// A server. `address` alone may be written as a plain string.
    enum BackendField {
        Address = "address": "Where it listens. Unique within the service. Required.",
        Weight = "weight": "Its share among the backends of its version; 0 takes no new connections.",
        Zone = "zone": "The zone it runs in.",
        Version = "version": "The version it runs.",
        Draining = "draining": "`true` keeps its connections and takes no new ones.",
    }
}

const ADDRESS: &str = "an address and a port, as in \"10.0.0.1:80\" or \"[fd00::1]:80\" (in quotes)";

/// Where in the file an element of a list stands.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) at: Position,
    pub(super) index: usize,
}

/// A service as read. Elements that are wrong are left out.
pub(super) struct Service {
    /// Its place among the services of the file.
    pub(super) index: usize,
    /// Where its name stands, or the service where it has none.
    pub(super) at: Position,
    /// What was read; the name is empty where it is missing or wrong.
    pub(super) spec: ServiceSpec,
    /// Where each of `spec.frontends` stands.
    pub(super) frontends: Vec<Mark>,
    /// Where each of `spec.backends` stands.
    pub(super) backends: Vec<Mark>,
    /// Where the split stands.
    pub(super) split_at: Position,
    /// Where each of `spec.policy.split` stands.
    pub(super) shares: Vec<Position>,
    /// Where the connect timeout stands.
    pub(super) connect_timeout_at: Position,
    /// Where the fallback stands.
    pub(super) fallback_at: Position,
    /// Where the limits stand.
    pub(super) limits_at: Position,
    /// Where it says whether requests are read.
    pub(super) requests_at: Position,
    /// Where `draining.on` names `ejected`, if it does.
    pub(super) ejected_at: Option<Position>,
    /// The breaker, and where it stands.
    pub(super) breaker: Option<(Breaker, Position)>,
    /// The canary.
    pub(super) canary: Option<Canary>,
    /// Every backend of the file is in `spec.backends`.
    pub(super) backends_whole: bool,
}

impl Service {
    /// A service of which nothing was read yet.
    pub(super) fn empty() -> Self {
        let at = Position::START;
        Self {
            index: 0,
            at,
            spec: ServiceSpec {
                name: "".into(),
                protocol: Protocol::Tcp,
                frontends: Vec::new(),
                backends: Vec::new(),
                policy: PolicySpec::default(),
            },
            frontends: Vec::new(),
            backends: Vec::new(),
            split_at: at,
            shares: Vec::new(),
            connect_timeout_at: at,
            fallback_at: at,
            limits_at: at,
            requests_at: at,
            ejected_at: None,
            breaker: None,
            canary: None,
            backends_whole: false,
        }
    }
}

/// What the services of a file share: how much of what is limited was read so far, and zones and versions, each
/// held once however many backends name it.
#[derive(Default)]
pub(super) struct Totals {
    frontends: u32,
    backends: u32,
    labels: HashSet<Arc<str>>,
}

impl Totals {
    fn label(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.labels.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.labels.insert(Arc::clone(&new));
        new
    }
}

/// Counts one more; `false` where there is already one too many. Nothing beyond that is kept, so that memory is
/// in proportion to the limits however large the file is.
fn admitted(count: &mut u32, limit: u32) -> bool {
    *count += u32::from(*count <= limit + 1);
    *count <= limit + 1
}

/// Reads the service at `index`. `None`, with a problem recorded, where there is no mapping.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    index: usize,
    node: &Node<'a>,
) -> Result<Option<Service>, Stop> {
    let mut service = Service { index, at: node.at, ..Service::empty() };
    let (mut has_name, mut has_frontends, mut has_backends) = (false, false, false);
    let wanted = "a mapping with name, frontends and backends";
    let is_mapping = reader.mapping(node, wanted, |reader, field, value| match field {
        ServiceField::Name => {
            has_name = true;
            name(reader, value, &mut service)
        }
        ServiceField::Protocol => {
            let protocol = one(reader, value, "tcp or udp", value::protocol)?;
            service.spec.protocol = protocol.unwrap_or(Protocol::Tcp);
            Ok(())
        }
        ServiceField::Frontends => {
            has_frontends = true;
            frontends(reader, totals, &value, &mut service)
        }
        ServiceField::Policy => policy(reader, totals, &value, &mut service),
        ServiceField::Backends => {
            has_backends = true;
            backends(reader, totals, &value, &mut service)
        }
    })?;
    if !is_mapping {
        return Ok(None);
    }
    if !has_name {
        reader.problem_in(node.at, "name", "is missing; write \"name\" or \"namespace/name\"");
    }
    if !has_frontends {
        reader.problem_in(node.at, "frontends", "is missing; write at least one address");
    }
    if !has_backends {
        let message = "is missing; write the servers, or `[]` to refuse every connect";
        reader.problem_in(node.at, "backends", message);
    }
    Ok(Some(service))
}

/// Reads text and makes a value of it; `None`, with a problem recorded, where it is wrong.
pub(super) fn one<'a, T>(
    reader: &mut Reader<'a>,
    node: Node<'a>,
    wanted: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Stop> {
    let Some(Text { at, value }) = reader.text(node, wanted)? else { return Ok(None) };
    match parse(&value) {
        Ok(value) => Ok(Some(value)),
        Err(message) => {
            reader.problem(at, message);
            Ok(None)
        }
    }
}

fn name<'a>(reader: &mut Reader<'a>, node: Node<'a>, service: &mut Service) -> Result<(), Stop> {
    service.at = node.at;
    let checked = |text: &str| value::service_name(text).map(|()| text.into());
    if let Some(name) = one(reader, node, "a name, as in shop/payment", checked)? {
        service.spec.name = name;
    }
    Ok(())
}

fn frontends<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: &Node<'a>,
    service: &mut Service,
) -> Result<(), Stop> {
    let mut count = 0;
    let is_list = reader.list(node, "a list of addresses", |reader, index, node| {
        count += 1;
        if !admitted(&mut totals.frontends, FRONTENDS) {
            return reader.skip(&node);
        }
        let at = node.at;
        if let Some(frontend) = one(reader, node, ADDRESS, value::endpoint)? {
            service.spec.frontends.push(frontend);
            service.frontends.push(Mark { at, index });
        }
        Ok(())
    })?;
    service.spec.frontends.shrink_to_fit();
    if is_list && count == 0 {
        reader.problem(node.at, "is empty; write at least one address");
    }
    Ok(())
}

fn backends<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: &Node<'a>,
    service: &mut Service,
) -> Result<(), Stop> {
    let before = reader.findings.problems.total();
    let mut count = 0;
    reader.list(node, "a list of backends, or `[]`", |reader, index, node| {
        count += 1;
        if !admitted(&mut totals.backends, BACKENDS) {
            return reader.skip(&node);
        }
        if let Some((backend, at)) = backend(reader, totals, node)? {
            service.spec.backends.push(backend);
            service.backends.push(Mark { at, index });
        }
        Ok(())
    })?;
    // The specs stay; what is read after them fills the gaps.
    service.spec.backends.shrink_to_fit();
    service.backends_whole =
        reader.findings.problems.total() == before && service.spec.backends.len() == count;
    Ok(())
}

/// A backend and where its address stands.
fn backend<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: Node<'a>,
) -> Result<Option<(BackendSpec, Position)>, Stop> {
    let mut at = node.at;
    let mut address: Option<SocketAddr> = None;
    let (mut weight, mut zone, mut version, mut draining) = (value::DEFAULT_WEIGHT, None, None, false);
    if Reader::is_text(&node) {
        address = one(reader, node, ADDRESS, value::endpoint)?;
    } else {
        let mut has_address = false;
        let wanted = "an address, or a mapping with address, as in { address: \"10.0.0.1:80\" }";
        let is_mapping = reader.mapping(&node, wanted, |reader, field, value| {
            match field {
                BackendField::Address => {
                    has_address = true;
                    at = value.at;
                    address = one(reader, value, ADDRESS, value::endpoint)?;
                }
                BackendField::Weight => {
                    let read = one(reader, value, "a whole number", value::weight)?;
                    weight = read.unwrap_or(value::DEFAULT_WEIGHT);
                }
                BackendField::Zone => zone = label(reader, totals, value)?,
                BackendField::Version => version = label(reader, totals, value)?,
                BackendField::Draining => {
                    draining = one(reader, value, "true or false", value::switch)?.unwrap_or_default();
                }
            }
            Ok(())
        })?;
        if is_mapping && !has_address {
            reader.problem_in(node.at, "address", format_args!("is missing; write {ADDRESS}"));
        }
    }
    Ok(address.map(|address| (BackendSpec { address, weight, zone, version, draining }, at)))
}

/// Reads a zone or a version.
pub(super) fn label<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: Node<'a>,
) -> Result<Option<Arc<str>>, Stop> {
    one(reader, node, "a name", |text| value::label(text).map(|()| totals.label(text)))
}

/// Reads the rules of a service.
pub(super) fn policy<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: &Node<'a>,
    service: &mut Service,
) -> Result<(), Stop> {
    reader.mapping(node, "a mapping, as in { algorithm: random }", |reader, field, value| {
        match field {
            PolicyField::Algorithm => {
                if let Some(algorithm) = one(reader, value, "the name of an algorithm", value::algorithm)? {
                    service.spec.policy.algorithm = algorithm;
                }
            }
            PolicyField::Affinity => affinity(reader, &value, &mut service.spec.policy)?,
            PolicyField::Split => split(reader, totals, &value, service)?,
            PolicyField::Canary => service.canary = canary::read(reader, totals, &value)?,
            PolicyField::RefuseWith => {
                if let Some(errno) = one(reader, value, "the name of an errno", value::refuse_with)? {
                    service.spec.policy.refuse_errno = errno.errno();
                }
            }
            PolicyField::ConnectTimeout => {
                service.connect_timeout_at = value.at;
                let timeout = one(reader, value, "a duration", value::connect_timeout)?;
                service.spec.policy.connect_timeout = timeout;
            }
            PolicyField::Fallback => {
                service.fallback_at = value.at;
                let checked = |text: &str| value::service_name(text).map(|()| text.into());
                let wanted = "the name of a service, as in shop/payment";
                service.spec.policy.fallback = one(reader, value, wanted, checked)?;
            }
            PolicyField::Limits => {
                service.limits_at = value.at;
                service.spec.policy.limits = limits::read(reader, &value)?;
            }
            PolicyField::Draining => {
                let draining = draining::read(reader, &value)?;
                service.ejected_at = draining.as_ref().and_then(|draining| draining.ejected_at);
                service.spec.policy.draining = draining.map(|draining| draining.spec);
            }
            PolicyField::Locality => {
                let prefers = one(reader, value, "the name of a locality", value::locality)?;
                service.spec.policy.prefers_zone = prefers.unwrap_or_default();
            }
            PolicyField::SlowStart => {
                let time = one(reader, value, "a duration", value::slow_start)?;
                service.spec.policy.slow_start = time;
            }
            PolicyField::Requests => {
                service.requests_at = value.at;
                let reads = one(reader, value, "auto or off", value::requests)?;
                service.spec.policy.reads_requests = reads.unwrap_or(true);
            }
            PolicyField::Breaker => {
                let at = value.at;
                service.breaker = breaker::read(reader, &value)?.map(|breaker| (breaker, at));
            }
        }
        Ok(())
    })?;
    let has_fallback = service.spec.policy.fallback.is_some();
    let breaker = service.breaker.as_ref();
    service.spec.policy.breaker = breaker.map(|(breaker, _)| breaker.policy(has_fallback));
    let canary = service.canary.as_ref().and_then(|canary| canary.spec(service));
    service.spec.policy.canary = canary.map(Arc::new);
    Ok(())
}

fn affinity<'a>(reader: &mut Reader<'a>, node: &Node<'a>, policy: &mut PolicySpec) -> Result<(), Stop> {
    let mut has_timeout = false;
    let is_mapping = reader.mapping(node, "a mapping, as in { timeout: 10m }", |reader, field, value| {
        match field {
            AffinityField::Timeout => {
                has_timeout = true;
                policy.affinity_timeout = one(reader, value, "a duration", value::affinity_timeout)?;
            }
        }
        Ok(())
    })?;
    if is_mapping && !has_timeout {
        reader.problem_in(node.at, "timeout", "is missing; write a duration, as in 10m");
    }
    Ok(())
}

fn split<'a>(
    reader: &mut Reader<'a>,
    totals: &mut Totals,
    node: &Node<'a>,
    service: &mut Service,
) -> Result<(), Stop> {
    service.split_at = node.at;
    let mut count = 0;
    let mut seen = HashSet::new();
    let is_mapping =
        reader.entries(node, "shares by version, as in { v1: 95, v2: 5 }", |reader, key, value| {
            count += 1;
            if count > MAX_SUBSETS + 1 {
                return reader.skip(&value);
            }
            let Some(version) = checked_version(reader, totals, &key) else { return reader.skip(&value) };
            if !seen.insert(Arc::clone(&version)) {
                reader.problem(key.at, "is written twice; keep one of the two");
                return reader.skip(&value);
            }
            if let Some(share) = one(reader, value, "a whole number", value::share)? {
                service.spec.policy.split.push(VersionShare { version, share });
                service.shares.push(key.at);
            }
            Ok(())
        })?;
    if is_mapping && count == 0 {
        reader.problem(node.at, "is empty; write shares by version, or remove it");
    }
    Ok(())
}

fn checked_version(reader: &mut Reader<'_>, totals: &mut Totals, key: &Text<'_>) -> Option<Arc<str>> {
    match value::label(&key.value) {
        Ok(()) => Some(totals.label(&key.value)),
        Err(message) => {
            reader.problem(key.at, message);
            None
        }
    }
}
