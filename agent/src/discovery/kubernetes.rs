//! Services from an API server of Kubernetes: Services, EndpointSlices and this Node become services with backends,
//! TrafficPolicies and routes their rules, and the pods of this node the names of clients. Asks, watches, and goes on asking; what objects mean is [`translate`]'s.
//!
//! While no API server answers, what was known last stays: in the maps, and for an agent that starts meanwhile in a
//! snapshot on disk.

mod client;
pub mod crd;
mod jobs;
mod lenient;
pub mod objects;
pub mod pods;
mod policy;
mod snapshot;
mod source;
mod standing;
pub mod state;
mod status;
mod translate;
mod watch;
mod wire;

pub use client::{KubernetesError, Options};
pub use policy::{Reason, Verdict};
pub use source::KubernetesSource;
pub use standing::{Connection, KindStanding, Standing, Trouble};
pub use watch::decode;
