//! Envoy's configuration.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Balance, CONNECT_TIMEOUT_MS, FAILURES, INTERVAL_MS, Layer, OUT_MS, Proxy};

/// Attempts in all where a failed one is repeated: as service meshes set it up, two more.
const ATTEMPTS: u32 = 3;

/// The file's text.
pub(super) fn config(proxy: Proxy, listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let filter = match proxy.layer {
        Layer::Tcp => tcp(proxy.retry),
        Layer::Http => http(proxy.retry),
    };
    let listener = json!({
        "name": "payment", "address": address(listen), "filter_chains": [{ "filters": [filter] }],
    });
    let value =
        json!({ "static_resources": { "listeners": [listener], "clusters": [cluster(proxy, backends)] } });
    format!("{value:#}")
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

fn tcp(retry: bool) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "payment", "cluster": "payment",
            "max_connect_attempts": if retry { ATTEMPTS } else { 1 },
        },
    })
}

fn http(retry: bool) -> Value {
    let mut route = json!({ "cluster": "payment" });
    if retry {
        route["retry_policy"] = json!({
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
            "num_retries": ATTEMPTS - 1,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                },
            }],
            "host_selection_retry_max_attempts": 5,
        });
    }
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type":
                "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "payment",
            "route_config": {
                "virtual_hosts": [{
                    "name": "payment", "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": route }],
                }],
            },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }],
        },
    })
}

fn cluster(proxy: Proxy, backends: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> =
        backends.iter().map(|backend| json!({ "endpoint": { "address": address(*backend) } })).collect();
    let mut cluster = json!({
        "name": "payment", "type": "STATIC",
        "connect_timeout": seconds(CONNECT_TIMEOUT_MS),
        "lb_policy": match proxy.balance {
            Balance::RoundRobin => "ROUND_ROBIN",
            Balance::Least => "LEAST_REQUEST",
        },
        // The default of 1024 would be Envoy's limit here, and not what is measured.
        "circuit_breakers": { "thresholds": [
            { "max_connections": 20_000, "max_pending_requests": 20_000, "max_requests": 20_000, "max_retries": 20_000 },
        ] },
        "load_assignment": { "cluster_name": "payment", "endpoints": [{ "lb_endpoints": endpoints }] },
    });
    if proxy.detect {
        cluster["outlier_detection"] = json!({
            "split_external_local_origin_errors": true,
            "consecutive_local_origin_failure": FAILURES,
            "consecutive_5xx": FAILURES,
            "consecutive_gateway_failure": FAILURES,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": seconds(INTERVAL_MS),
            "base_ejection_time": seconds(OUT_MS),
            "max_ejection_percent": 50,
        });
    }
    cluster
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}s", ms / 1_000, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Kind;

    #[test]
    fn a_config_is_what_the_proxy_is_asked_to_do() {
        let plain = Proxy {
            kind: Kind::Envoy,
            layer: Layer::Tcp,
            balance: Balance::Least,
            retry: false,
            detect: false,
        };
        let backends = ["127.0.0.1:1".parse().unwrap()];
        let of = |proxy| {
            serde_json::from_str::<Value>(&config(proxy, backends[0], &backends)).unwrap()["static_resources"]
                .clone()
        };
        let filter =
            |value: &Value| value["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"].clone();
        let value = of(plain);
        assert_eq!(filter(&value)["max_connect_attempts"], 1);
        assert_eq!(value["clusters"][0]["lb_policy"], "LEAST_REQUEST");
        assert!(value["clusters"][0]["outlier_detection"].is_null());
        let value = of(Proxy { layer: Layer::Http, retry: true, detect: true, ..plain });
        let route = &filter(&value)["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
        assert_eq!(route["retry_policy"]["num_retries"], 2);
        assert_eq!(value["clusters"][0]["outlier_detection"]["base_ejection_time"], "2.000s");
    }
}
