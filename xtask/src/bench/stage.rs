//! What a benchmark runs on: a node of its own and, for a comparison, the proxies. Knows nothing of what is measured.

use std::fs;

use anyhow::Context;

use crate::node::Node;
use crate::peers::Binaries;
use crate::{build, host, setup};

/// A node with as many ports as there are: a long run opens more connections than the default range has.
pub(super) fn node() -> anyhow::Result<Node> {
    let node = Node::new("bench")?;
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    node.within(|| fs::write(path, "1024 65535").with_context(|| format!("cannot write {path}")))?;
    Ok(node)
}

/// A release build of Segue, the proxies where they are to be compared with, and a node.
pub(super) fn comparison(with_proxies: bool) -> anyhow::Result<(Option<Binaries>, Node)> {
    host::check_ebpf()?;
    setup::toolchain()?;
    build::segue(true)?;
    let binaries = if with_proxies { Some(Binaries::install()?) } else { None };
    Ok((binaries, node()?))
}
