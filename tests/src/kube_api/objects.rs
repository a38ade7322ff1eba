//! Objects as a cluster has them, with what real ones carry besides what a test is about: managed fields, annotations of
//! controllers, owner references.

use serde_json::{Value, json};

/// A Service of type ClusterIP with the one port `http`, 80 to 8080.
pub fn service(namespace: &str, name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": namespace,
            "uid": "6f1c9a8e-6b1f-4f0e-9f0d-2f9e3a1b7c55",
            "labels": { "app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm" },
            "annotations": {
                "meta.helm.sh/release-name": name,
                "kubectl.kubernetes.io/last-applied-configuration": "{\"apiVersion\":\"v1\",\"kind\":\"Service\"}\n",
            },
            "managedFields": managed_fields("helm", "v1", &["f:internalTrafficPolicy", "f:ports", "f:selector"]),
        },
        "spec": {
            "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "internalTrafficPolicy": "Cluster",
            "ipFamilies": [family(cluster_ip)], "ipFamilyPolicy": "SingleStack",
            "ports": [{
                "name": "http", "protocol": "TCP", "port": 80, "targetPort": "http", "appProtocol": "http",
            }],
            "selector": { "app.kubernetes.io/name": name },
            "sessionAffinity": "None", "type": "ClusterIP",
        },
        "status": { "loadBalancer": {} },
    })
}

/// One endpoint: an address, the node it is on, and the zone of that node.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address, without a port.
    pub address: String,
    /// The node's name.
    pub node: String,
    /// The zone's name.
    pub zone: String,
    /// Ready, serving, terminating.
    pub conditions: (bool, bool, bool),
}

impl Endpoint {
    /// An endpoint that is ready, on the node `node-1` in zone `here`.
    pub fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            node: "node-1".to_owned(),
            zone: "here".to_owned(),
            conditions: (true, true, false),
        }
    }

    /// The same endpoint in another zone.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        Self { zone: zone.to_owned(), node: format!("node-{zone}"), ..self }
    }

    /// The same endpoint as it terminates.
    #[must_use]
    pub fn terminating(self) -> Self {
        Self { conditions: (false, true, true), ..self }
    }

    fn json(&self, number: usize) -> Value {
        let (ready, serving, terminating) = self.conditions;
        json!({
            "addresses": [self.address],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            "nodeName": self.node, "zone": self.zone,
            "targetRef": {
                "kind": "Pod", "name": format!("payment-5d9c7b6f4-{number:05}"), "namespace": "shop",
                "uid": "0c1f3b9a-0000-4000-8000-000000000000",
            },
        })
    }
}

/// A slice of a Service, all of whose endpoints listen at `port`.
pub fn slice(namespace: &str, service: &str, suffix: &str, port: u16, endpoints: &[Endpoint]) -> Value {
    let addresses = endpoints.first().map_or("10.0.0.1", |endpoint| &endpoint.address);
    let endpoints: Vec<Value> = endpoints.iter().enumerate().map(|(number, it)| it.json(number)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{suffix}"), "namespace": namespace,
            "generateName": format!("{service}-"),
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
            "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z" },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service, "controller": true,
                "blockOwnerDeletion": true, "uid": "6f1c9a8e-6b1f-4f0e-9f0d-2f9e3a1b7c55",
            }],
            "managedFields": managed_fields(
                "kube-controller-manager", "discovery.k8s.io/v1", &["f:addressType", "f:endpoints", "f:ports"],
            ),
        },
        "addressType": family(addresses),
        "endpoints": endpoints,
        "ports": [{ "name": "http", "protocol": "TCP", "port": port, "appProtocol": "http" }],
    })
}

/// A Node.
pub fn node(name: &str, zone: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                "topology.kubernetes.io/region": "nowhere", "topology.kubernetes.io/zone": zone,
            },
        },
        "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name },
            ],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            "nodeInfo": { "kubeletVersion": "v1.34.1", "osImage": "Debian GNU/Linux 13 (trixie)" },
        },
    })
}

/// A pod on a node, with an owner of a kind and name, as in `("ReplicaSet", "payment-5d9c7b6f4")`.
pub fn pod(namespace: &str, name: &str, uid: &str, node: &str, owner: Option<(&str, &str)>) -> Value {
    let owners: Vec<Value> = owner
        .iter()
        .map(|(kind, name)| {
            json!({
                "apiVersion": if *kind == "Job" { "batch/v1" } else { "apps/v1" }, "kind": kind, "name": name,
                "uid": "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "controller": true, "blockOwnerDeletion": true,
            })
        })
        .collect();
    let hash = owner.and_then(|(_, name)| name.rsplit_once('-')).map_or("none", |(_, hash)| hash);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "generateName": format!("{name}-"),
            "labels": { "app.kubernetes.io/name": name, "pod-template-hash": hash },
            "annotations": { "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z" },
            "ownerReferences": owners,
            "managedFields": managed_fields("kubelet", "v1", &["f:containers", "f:nodeName"]),
        },
        "spec": {
            "nodeName": node, "serviceAccountName": "default", "restartPolicy": "Always",
            "containers": [{ "name": "main", "image": "registry.invalid/main:1", "ports": [{ "containerPort": 8080 }] }],
        },
        "status": { "phase": "Running", "qosClass": "Burstable", "podIP": "10.77.0.9" },
    })
}

/// A Namespace.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
        "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
    })
}

/// A Job that a CronJob made.
pub fn job(namespace: &str, name: &str, cron_job: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "namespace": namespace,
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "CronJob", "name": cron_job, "controller": true,
                "uid": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
            }],
        },
        "spec": { "parallelism": 1 }, "status": { "active": 1 },
    })
}

/// The same object with `segue.dev/manage: "false"`.
#[must_use]
pub fn left_alone(mut object: Value) -> Value {
    object["metadata"]["annotations"]["segue.dev/manage"] = json!("false");
    object
}

/// A TrafficPolicy for a Service.
pub fn policy(namespace: &str, name: &str, service: &str, policy: &Value) -> Value {
    json!({
        "apiVersion": "segue.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "targetRef": { "kind": "Service", "name": service }, "policy": policy },
    })
}

/// A TCPRoute that is attached to a Service and shares its connections out.
pub fn tcp_route(namespace: &str, name: &str, service: &str, backends: &[(&str, u32)]) -> Value {
    let backends: Vec<Value> = backends
        .iter()
        .map(|(name, weight)| json!({ "group": "", "kind": "Service", "name": name, "port": 80, "weight": weight }))
        .collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": service, "port": 80 }],
            "rules": [{ "backendRefs": backends }],
        },
    })
}

/// The path of TrafficPolicies.
pub const POLICIES: &str = "/apis/segue.dev/v1alpha1/trafficpolicies";
/// The path of TCPRoutes.
pub const TCP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1alpha2/tcproutes";
/// The path of HTTPRoutes.
pub const HTTP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn managed_fields(manager: &str, api_version: &str, fields: &[&str]) -> Value {
    let fields: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({}))).collect();
    json!([{
        "manager": manager, "operation": "Update", "apiVersion": api_version, "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": fields },
    }])
}
