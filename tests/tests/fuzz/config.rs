//! The configuration file: any bytes are read or refused with places that lie in the file, and what is read can be
//! applied.

use std::path::Path;

use segue_agent::config::{self, ConfigError};
use segue_agent::desired::{Change, Desired, SourceKind};
use segue_agent::kernel::fake::FakeTables;
use segue_agent::reconcile::Reconciler;

use crate::adopt::CAPACITY;
use crate::fuzz;

const TOKENS: &[&str] = &[
    "services:",
    "- name: ",
    "protocol: udp",
    "frontends: [",
    "backends:",
    "address: ",
    "weight: 0",
    "policy: {",
    "algorithm: maglev",
    "split: { v1: 1 }",
    "affinity: { timeout: 1ms }",
    "fallback: ",
    "breaker: {",
    "mode: observe",
    "\"",
    "'",
    ": ",
    "- ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "---\n",
    "...\n",
    "|\n",
    ">-\n",
    "? ",
    "~",
    "null",
    "1e9",
    "0x10",
    "-1",
    "18446744073709551616",
    "99999999999s",
    "0%",
    "101%",
    "[::ffff:127.0.0.1]:80",
    "[fe80::1%eth0]:80",
    "255.255.255.255:65535",
    "\u{feff}",
    "\r\n",
    "\t",
    "\u{2028}",
];

fn check(bytes: &[u8]) {
    let parsed = match config::parse(bytes, Path::new("segue.yaml")) {
        Ok(parsed) => parsed,
        Err(ConfigError::Invalid(problems)) => {
            assert!(problems.total() > 0, "refused without a reason");
            for problem in problems.first() {
                assert!(problem.line >= 1 && problem.column >= 1, "{problem:?}");
                let lines = String::from_utf8_lossy(bytes).split(['\n', '\r']).count();
                assert!(problem.line as usize <= lines, "{problem:?} is beyond {lines} lines");
                assert!(!problem.to_string().chars().any(char::is_control), "{problem:?}");
            }
            return;
        }
        Err(other) => panic!("nothing was opened: {other}"),
    };
    let mut desired = Desired::default();
    desired.apply(SourceKind::File, Change::Reset(parsed.services));
    let mut reconciler = Reconciler::new(FakeTables::new(CAPACITY));
    // What does not fit is refused as a whole.
    if let Ok(report) = reconciler.apply(&desired) {
        assert!(report.failed.is_empty(), "{:?}", report.failed.first().map(|failure| &failure.error));
    }
}

#[test]
fn any_file_is_read_or_refused_with_a_place_in_it() {
    let seeds = [
        include_str!("../../../deploy/examples/segue.yaml"),
        include_str!("../../seeds/config_every_field.yaml"),
        "services: []\n",
    ];
    for seed in seeds {
        assert!(config::parse(seed.as_bytes(), Path::new("seed")).is_ok(), "a seed is a good file:\n{seed}");
    }
    fuzz(&seeds.map(|seed| seed.as_bytes().to_vec()), TOKENS, check);
}
