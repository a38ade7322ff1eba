//! What a Service and all that belongs to it mean: services to balance, and notes on what is left out. Pure: it looks at
//! objects and gives values.
//!
//! Each port of a Service is a service of its own, called `namespace/name:port`, or `namespace/name` where the port has no
//! name.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_ebpf::abi::limits::MAX_SUBSETS;

use crate::desired::{BackendSpec, PolicySpec, ServiceName, ServiceSpec, VersionShare};

use super::objects::{
    Endpoint, Nearness, Node, ObjectKey, Route, RouteBackend, Service, ServicePort, ServiceType, Slice,
    Transport,
};
use super::policy::{Entry, Reason, Verdict, assign};

/// A client's affinity is kept as long as Kubernetes allows at most, a day.
const LONGEST_AFFINITY_S: u32 = 24 * 60 * 60;
/// Where an endpoint is that is for another zone than this node's, and says no zone.
const ELSEWHERE: &str = "elsewhere";

/// What a Service is translated among.
pub(super) trait Cluster {
    /// This node, once it is known.
    fn node(&self) -> Option<&Node>;
    /// The zone of this node.
    fn zone(&self) -> Option<&Arc<str>>;
    /// Where the agent itself reaches the API server.
    fn api_server(&self) -> Option<SocketAddr>;
    /// A Service.
    fn service(&self, key: &ObjectKey) -> Option<&Service>;
    /// The slices of a Service, in a fixed order.
    fn slices(&self, key: &ObjectKey) -> impl Iterator<Item = &Slice>;
    /// The policies for a Service.
    fn policies(&self, key: &ObjectKey) -> impl Iterator<Item = &Entry>;
    /// The routes attached to a Service.
    fn routes(&self, key: &ObjectKey) -> impl Iterator<Item = &Route>;
}

/// What a Service means.
#[derive(Debug, Default)]
pub(super) struct Translation {
    /// One service for each port that is balanced.
    pub(super) specs: Vec<Arc<ServiceSpec>>,
    /// What is left out, and why.
    pub(super) notes: Vec<String>,
    /// What becomes of the policies for it.
    pub(super) verdicts: Vec<(ObjectKey, Verdict)>,
    /// Other Services whose endpoints it uses.
    pub(super) uses: Vec<ObjectKey>,
}

/// Why a Service as a whole is left alone; `None` where it is balanced.
fn left_alone(service: &Service) -> Option<String> {
    if service.left_alone {
        return Some("has segue.dev/manage: \"false\"".into());
    }
    if let Some(proxy) = &service.other_proxy {
        return Some(format!("is looked after by the proxy {proxy}"));
    }
    if service.service_type == ServiceType::ExternalName {
        return Some("is of type ExternalName: a name for DNS, without an address".into());
    }
    if service.headless || service.cluster_ips.is_empty() {
        return Some("is headless: clients get the addresses of its pods from DNS".into());
    }
    None
}

/// Translates a Service.
pub(super) fn translate(cluster: &impl Cluster, service: &Service) -> Translation {
    let mut translation = Translation::default();
    if let Some(why) = left_alone(service) {
        for entry in cluster.policies(&service.key) {
            let message = format!("Service {} {why}", service.key.name);
            let verdict = Verdict::new(entry, Reason::NotManaged, message);
            translation.verdicts.push((entry.object.key.clone(), verdict));
        }
        translation.notes.push(why);
        return translation;
    }
    let (policies, verdicts) = assign(service, cluster.policies(&service.key));
    translation.verdicts = verdicts;
    let mut told: BTreeMap<&ObjectKey, Vec<String>> = BTreeMap::new();
    for port in &service.ports {
        let entry = policies.get(&port.name).copied();
        let before = translation.notes.len();
        if let Some(spec) = translate_port(cluster, service, port, entry, &mut translation) {
            translation.specs.push(Arc::new(spec));
        }
        if let Some(entry) = entry {
            let told = told.entry(&entry.object.key).or_default();
            told.extend(entry.read.iter().flat_map(|read| read.warnings.iter().cloned()));
            told.extend(translation.notes[before..].iter().cloned());
        }
    }
    for (key, notes) in told {
        let Some(entry) = policies.values().find(|entry| entry.object.key == *key) else { continue };
        let mut notes = notes;
        notes.dedup();
        let message =
            if notes.is_empty() { "in force".to_owned() } else { format!("in force; {}", notes.join("; ")) };
        translation.verdicts.push((key.clone(), Verdict::new(entry, Reason::Accepted, message)));
    }
    translation
}

/// What a service is called that stands for a port of a Service.
pub(super) fn name(key: &ObjectKey, port: &str) -> ServiceName {
    match port {
        "" => key.to_string().into(),
        port => format!("{key}:{port}").into(),
    }
}

fn translate_port(
    cluster: &impl Cluster,
    service: &Service,
    port: &ServicePort,
    policy: Option<&Entry>,
    translation: &mut Translation,
) -> Option<ServiceSpec> {
    let Some(transport) = port.protocol else {
        translation.notes.push(format!("port {} is neither TCP nor UDP", port.port));
        return None;
    };
    let frontends = frontends(cluster, service, port);
    if cluster.api_server().is_some_and(|server| transport == Transport::Tcp && frontends.contains(&server)) {
        translation.notes.push(format!(
            "port {} is how the agent itself reaches the API server, which must work also where the agent's view is old",
            port.port
        ));
        return None;
    }
    let mut spec = ServiceSpec {
        name: name(&service.key, &port.name),
        protocol: transport.into(),
        frontends,
        backends: Vec::new(),
        policy: policy.and_then(|entry| Some(entry.read.as_ref().ok()?.spec.clone())).unwrap_or_default(),
    };
    spec.policy.fallback = fallback(cluster, service, port, &spec.policy, translation);
    if spec.policy.affinity_timeout.is_none() {
        let seconds = service.affinity_timeout_s.map(|seconds| seconds.clamp(1, LONGEST_AFFINITY_S));
        spec.policy.affinity_timeout = seconds.map(|seconds| Duration::from_secs(seconds.into()));
    }
    if spec.policy.split.is_empty() {
        spec.policy.split = shares_of_route(cluster, service, port, translation);
    }
    let near = if spec.policy.split.is_empty() {
        let found = found(cluster, &service.key, port, service.is_local);
        let near = nearest(cluster, service.nearness, &found);
        spec.backends = backends_of(cluster, &found, near, None);
        near
    } else {
        split_backends(cluster, service, port, &mut spec, translation)
    };
    spec.policy.prefers_zone |= near != Near::Anywhere;
    spec.backends.shrink_to_fit();
    Some(spec)
}

/// The addresses at which a port is asked for.
fn frontends(cluster: &impl Cluster, service: &Service, port: &ServicePort) -> Vec<SocketAddr> {
    let mut frontends: Vec<SocketAddr> =
        service.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, port.port)).collect();
    // Anybody who may write a Service may write any address into it: only what is this node's is believed.
    let of_node: &[IpAddr] = cluster.node().map(|node| &node.addresses[..]).unwrap_or_default();
    let external = service.external_ips.iter().filter(|ip| of_node.contains(ip));
    let external: Vec<SocketAddr> = external.map(|ip| SocketAddr::new(*ip, port.port)).collect();
    let by_node: Vec<SocketAddr> = match (port.node_port, service.service_type) {
        (0, _) | (_, ServiceType::ClusterIp | ServiceType::ExternalName) => Vec::new(),
        (node_port, _) => of_node.iter().map(|ip| SocketAddr::new(*ip, node_port)).collect(),
    };
    for frontend in external.into_iter().chain(by_node) {
        // Only where the Service has that family: there are no endpoints of the other.
        let has_family = service.cluster_ips.iter().any(|ip| ip.is_ipv4() == frontend.is_ipv4());
        if has_family && !frontends.contains(&frontend) {
            frontends.push(frontend);
        }
    }
    frontends
}

/// The endpoints of a port of a Service that may get connections, each once, with their ports, and whether they take new
/// ones.
fn found<'a>(
    cluster: &'a impl Cluster,
    key: &ObjectKey,
    port: &ServicePort,
    is_local: bool,
) -> Vec<(SocketAddr, &'a Endpoint, bool)> {
    let mut places: HashMap<SocketAddr, usize> = HashMap::new();
    let mut found: Vec<(SocketAddr, &Endpoint)> = Vec::new();
    for slice in cluster.slices(key) {
        let ports = slice.ports.iter().filter(|it| it.name == port.name && it.protocol == port.protocol);
        for slice_port in ports {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.is_here || !is_local) {
                let address = SocketAddr::new(endpoint.address, slice_port.port);
                let place = *places.entry(address).or_insert(found.len());
                match found.get_mut(place) {
                    None => found.push((address, endpoint)),
                    // While an endpoint moves from one slice to another it is in both; the better one is right.
                    Some((_, known)) if rank(endpoint) > rank(known) => *known = endpoint,
                    Some(_) => {}
                }
            }
        }
    }
    found.sort_by_key(|(address, _)| *address);
    // Those that terminate answer still, and are asked where nobody else is there.
    let any_ready = found.iter().any(|(_, endpoint)| endpoint.ready);
    let is_of_use = |endpoint: &Endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating);
    let found = found.into_iter().filter(|(_, endpoint)| is_of_use(endpoint));
    found.map(|(address, endpoint)| (address, endpoint, endpoint.ready || !any_ready)).collect()
}

fn rank(endpoint: &Endpoint) -> (bool, bool) {
    (endpoint.ready, endpoint.serving)
}

/// Which endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    /// None.
    Anywhere,
    /// Those whose zone is this node's.
    Zone,
    /// Those whose hints name this node's zone.
    Hinted,
    /// Those that are for this node.
    Node,
}

/// Hints hold only where every endpoint that takes connections has one: else the control plane is just changing its mind.
fn nearest(cluster: &impl Cluster, wanted: Nearness, found: &[(SocketAddr, &Endpoint, bool)]) -> Near {
    let mut open = found.iter().filter(|(.., open)| *open).map(|(_, endpoint, _)| *endpoint).peekable();
    if open.peek().is_none() {
        return Near::Anywhere;
    }
    let is_for_here =
        |endpoint: &Endpoint| endpoint.for_here || (endpoint.is_here && wanted == Nearness::Node);
    if open.clone().any(is_for_here) {
        return Near::Node;
    }
    let Some(zone) = cluster.zone() else { return Near::Anywhere };
    let names_zone =
        |endpoint: &Endpoint| endpoint.for_zones.as_ref().is_some_and(|zones| zones.contains(zone));
    if open.clone().all(|endpoint| endpoint.for_zones.is_some()) && open.clone().any(names_zone) {
        return Near::Hinted;
    }
    match wanted {
        Nearness::Any => Near::Anywhere,
        Nearness::Zone | Nearness::Node => Near::Zone,
    }
}

/// The zone an endpoint counts as being in; this node's for those that are preferred.
fn zone_of(cluster_zone: Option<&Arc<str>>, near: Near, endpoint: &Endpoint) -> Option<Arc<str>> {
    let Some(here) = cluster_zone else { return endpoint.zone.clone() };
    let is_near = match near {
        Near::Anywhere | Near::Zone => return endpoint.zone.clone(),
        Near::Hinted => endpoint.for_zones.as_ref().is_some_and(|zones| zones.contains(here)),
        Near::Node => endpoint.for_here || endpoint.is_here,
    };
    if is_near {
        return Some(Arc::clone(here));
    }
    let other = endpoint.zone.as_ref().filter(|zone| *zone != here);
    Some(other.cloned().unwrap_or_else(|| ELSEWHERE.into()))
}

/// Backends, all of one version.
fn backends_of(
    cluster: &impl Cluster,
    found: &[(SocketAddr, &Endpoint, bool)],
    near: Near,
    version: Option<&Arc<str>>,
) -> Vec<BackendSpec> {
    let backend = |&(address, endpoint, open): &(SocketAddr, &Endpoint, bool)| BackendSpec {
        address,
        weight: 1,
        zone: zone_of(cluster.zone(), near, endpoint),
        version: version.cloned(),
        draining: !open,
    };
    found.iter().map(backend).collect()
}

/// The service that takes over: of the same namespace, by the port of the same name, or by its only one.
fn fallback(
    cluster: &impl Cluster,
    service: &Service,
    port: &ServicePort,
    policy: &PolicySpec,
    translation: &mut Translation,
) -> Option<ServiceName> {
    let wanted = policy.fallback.as_ref()?;
    let key = match wanted.split_once('/') {
        None => service.key.beside(wanted),
        Some((namespace, name)) if *namespace == *service.key.namespace => service.key.beside(name),
        Some(_) => {
            translation.notes.push(format!("fallback {wanted} is in another namespace, and is not used"));
            return None;
        }
    };
    if key == service.key {
        translation.notes.push(format!("fallback {wanted} is the Service itself, and is not used"));
        return None;
    }
    translation.uses.push(key.clone());
    let Some(other) = cluster.service(&key).filter(|other| left_alone(other).is_none()) else {
        translation
            .notes
            .push(format!("fallback {wanted} is no Service that is balanced here, and is not used"));
        return None;
    };
    let Some(other_port) = port_like(other, port, None) else {
        translation
            .notes
            .push(format!("fallback {wanted} has no port like port {}, and is not used", port.port));
        return None;
    };
    Some(name(&key, &other_port.name))
}

/// The port of another Service that stands for this one: the one that is named, else that of the same name, of the same
/// number, or the only one.
fn port_like<'a>(other: &'a Service, port: &ServicePort, named: Option<u16>) -> Option<&'a ServicePort> {
    let of_protocol = || other.ports.iter().filter(|it| it.protocol == port.protocol);
    if let Some(named) = named {
        return of_protocol().find(|it| it.port == named);
    }
    let by_name = of_protocol().find(|it| it.name == port.name);
    let by_number = || of_protocol().find(|it| it.port == port.port);
    let only = || of_protocol().next().filter(|_| of_protocol().count() == 1);
    by_name.or_else(by_number).or_else(only)
}

/// The shares of the oldest route for a port that can be carried out.
fn shares_of_route(
    cluster: &impl Cluster,
    service: &Service,
    port: &ServicePort,
    translation: &mut Translation,
) -> Vec<VersionShare> {
    let mut routes: Vec<&Route> =
        cluster.routes(&service.key).filter(|it| is_for(it, service, port)).collect();
    routes.sort_by(|one, other| (&one.created, &one.key).cmp(&(&other.created, &other.key)));
    for route in routes {
        match carried_out(route, service, port) {
            Ok(shares) => return shares,
            Err(why) => {
                let kind = route.kind().name().trim_end_matches('s');
                translation.notes.push(format!("{kind} {} {why}", route.key));
            }
        }
    }
    Vec::new()
}

fn is_for(route: &Route, service: &Service, port: &ServicePort) -> bool {
    route.parents.iter().any(|parent| {
        parent.service == service.key
            && parent.section.as_ref().is_none_or(|section| *section == port.name)
            && parent.port.is_none_or(|number| number == port.port)
    })
}

/// The versions of a route are the Services it names.
fn carried_out(route: &Route, service: &Service, port: &ServicePort) -> Result<Vec<VersionShare>, String> {
    if route.key.namespace != service.key.namespace {
        return Err("is in another namespace than the Service; only routes beside it are carried out".into());
    }
    if let Some(obstacle) = &route.obstacle {
        return Err(obstacle.to_string());
    }
    if !route.is_http && port.protocol != Some(Transport::Tcp) {
        return Err(format!("is for TCP, and port {} is not", port.port));
    }
    if route.backends.iter().any(|backend| backend.service.namespace != service.key.namespace) {
        return Err("names a backend of another namespace; name Services beside it".into());
    }
    if route.backends.len() > MAX_SUBSETS {
        return Err(format!("has more than {MAX_SUBSETS} backends; remove some"));
    }
    let mut shares: Vec<VersionShare> = Vec::with_capacity(route.backends.len());
    for RouteBackend { service, weight, .. } in &route.backends {
        if shares.iter().any(|share| share.version == service.name) {
            return Err(format!("names Service {} twice; keep one of the two", service.name));
        }
        shares.push(VersionShare { version: Arc::clone(&service.name), share: *weight });
    }
    if shares.iter().all(|share| share.share == 0) {
        return Err("gives every backend weight 0; give one a weight".into());
    }
    Ok(shares)
}

/// The endpoints of the Services that a split names: each Service is a version.
fn split_backends(
    cluster: &impl Cluster,
    service: &Service,
    port: &ServicePort,
    spec: &mut ServiceSpec,
    translation: &mut Translation,
) -> Near {
    let named_port = |version: &str| {
        let mut routes = cluster.routes(&service.key).filter(|it| is_for(it, service, port));
        routes.find_map(|route| route.backends.iter().find(|it| *it.service.name == *version)?.port)
    };
    let mut versions = Vec::new();
    for share in &spec.policy.split {
        let key = service.key.beside(&share.version);
        translation.uses.push(key.clone());
        let Some(other) = cluster.service(&key) else {
            translation
                .notes
                .push(format!("{} is no Service of this namespace; its share goes to the others", key.name));
            continue;
        };
        let Some(other_port) = port_like(other, port, named_port(&share.version)) else {
            let note =
                format!("{} has no port like port {}; its share goes to the others", key.name, port.port);
            translation.notes.push(note);
            continue;
        };
        let found = found(cluster, &key, other_port, service.is_local);
        if found.is_empty() {
            translation.notes.push(format!("{} has no endpoints; its share goes to the others", key.name));
        }
        versions.push((Arc::clone(&share.version), found));
    }
    let all: Vec<_> = versions.iter().flat_map(|(_, found)| found.iter().copied()).collect();
    let near = nearest(cluster, service.nearness, &all);
    let mut seen = HashMap::new();
    for (version, found) in &versions {
        for backend in backends_of(cluster, found, near, Some(version)) {
            match seen.insert(backend.address, version) {
                None => spec.backends.push(backend),
                Some(first) => {
                    let note = format!("{} is an endpoint of both {first} and {version}", backend.address);
                    seen.insert(backend.address, first);
                    translation.notes.push(note);
                }
            }
        }
    }
    near
}
