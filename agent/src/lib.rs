//! Segue's agent, in the order in which intent flows down and observation flows up.
//!
//! ```text
//!  file ──► discovery ─► desired ─► compile ─► reconcile ─► kernel ═══════╗
//!                                   (pure)                                ║ maps
//!                                                                         ▼
//!                                                           programs (agent-ebpf)
//!  metrics ◄──┬── flows ◄──────────────────────── kernel::events ◄════════╝
//!  admin   ◄──┘
//! ```
//!
//! `app` is the only module that knows every other; `event` lists what can wake its loop.

pub mod admin;
pub mod app;
pub mod canary;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod config;
pub mod desired;
pub mod discovery;
pub mod draining;
pub mod event;
pub mod flows;
pub mod governor;
pub mod kernel;
pub mod metrics;
pub mod otlp;
pub mod readiness;
pub mod reconcile;
pub mod rollout;
pub mod shutdown;
pub mod traces;
