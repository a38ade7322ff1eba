//! The kernel tier: the agent, its programs and real sockets. One module per hook or subject.
//!
//! Run by `cargo xtask test --tier kernel`, as root.

mod addresses;
mod balance;
mod breaker;
mod breaker_model;
mod breaker_orders;
mod choice;
mod config_live;
mod connect;
mod crash;
mod daemon_set;
mod dashboards;
mod differential;
mod draining;
mod faults;
mod flows;
mod full_maps;
mod getpeername;
mod harness;
mod kubernetes;
mod limits;
mod mass_deletion;
mod memory;
mod metrics;
mod neighbours;
mod node_faults;
mod node_resources;
mod otlp;
mod pods;
mod programs_nobody_here_wrote;
mod recvmsg;
mod request_signals;
mod requests;
mod restart;
mod rollout;
mod security;
mod security_workloads;
mod sendmsg;
mod service_map;
mod service_map_picture;
mod soak;
mod sock_ops;
mod sock_release;
mod top;
mod traces;
