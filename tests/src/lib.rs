//! The harness of the scenario and kernel tiers.
//!
//! A kernel test builds a [`world::World`]: a network and mount namespace with nothing but `lo`, a scratch
//! cgroup the programs are attached to, and a private bpffs. Servers, the agent and real programs live in it
//! and go with it, also when a test panics or the whole test process is killed.

pub mod agent;
pub mod browser;
pub mod cgroup;
pub mod client;
pub mod config_map;
pub mod counters;
pub mod exposition;
pub mod foreign;
pub mod kernel;
pub mod kube_api;
pub mod namespace;
pub mod nginx;
pub mod otlp;
pub mod pinned;
pub mod pods;
pub mod program;
pub mod prometheus;
pub mod scenario;
pub mod server;
pub mod service;
pub mod sockopt;
pub mod wait;
pub mod world;
