//! HAProxy's configuration.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{Balance, CONNECT_TIMEOUT_MS, FAILURES, INTERVAL_MS, Layer, Proxy, workers};

/// The file's text. `retries` stays at its default of 3, all to the same server unless `option redispatch` says
/// otherwise.
pub(super) fn config(proxy: Proxy, listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let mode = match proxy.layer {
        Layer::Tcp => "tcp",
        Layer::Http => "http",
    };
    let balance = match proxy.balance {
        Balance::RoundRobin => "roundrobin",
        Balance::Least => "leastconn",
    };
    let redispatch = if proxy.retry { "  option redispatch 1\n" } else { "" };
    let check = if proxy.detect {
        format!(
            "  default-server check inter {INTERVAL_MS} fall 3 rise 2 observe layer4 error-limit {FAILURES} on-error mark-down\n"
        )
    } else {
        String::new()
    };
    let mut text = format!(
        "global\n  maxconn 8000\n  nbthread {}\n\
         defaults\n  mode {mode}\n{redispatch}  timeout connect {CONNECT_TIMEOUT_MS}\n  timeout client 30s\n  timeout server 30s\n\
         listen payment\n  bind {listen}\n  balance {balance}\n{check}",
        workers()
    );
    for (index, backend) in backends.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  server s{index} {backend}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Kind;

    #[test]
    fn a_proxy_that_only_balances_checks_nothing() {
        let plain = Proxy {
            kind: Kind::Haproxy,
            layer: Layer::Tcp,
            balance: Balance::Least,
            retry: false,
            detect: false,
        };
        let backends = ["127.0.0.1:1".parse().unwrap()];
        let text = config(plain, backends[0], &backends);
        assert!(text.contains("balance leastconn\n  server s0 127.0.0.1:1\n"), "{text}");
        assert!(!text.contains("check") && !text.contains("redispatch"), "{text}");
        let text = config(Proxy { retry: true, detect: true, ..plain }, backends[0], &backends);
        assert!(
            text.contains("error-limit 5 on-error mark-down") && text.contains("option redispatch 1"),
            "{text}"
        );
    }
}
