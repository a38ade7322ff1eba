//! Where services come from. A source turns what it watches into [`Update`]s on a channel; it knows nothing of
//! other sources, of what is in force, or of maps.
//!
//! A new source is a module here and a variant of [`SourceKind`].

pub mod file;
pub mod kubernetes;

use std::sync::Arc;

use crate::config::ConfigError;
pub use crate::desired::SourceKind;
use crate::desired::{Change, ServiceSpec};
use crate::flows::PodChange;

/// What a source has to say.
#[derive(Debug)]
pub enum Update {
    /// What it wants is different now. The first one is a [`Change::Reset`], and from then on the source is in sync.
    Changed(Change),
    /// What it wanted when it was last asked, while nobody can be asked now: good enough to serve by, and no reason to
    /// make anything smaller.
    Remembered(Vec<Arc<ServiceSpec>>),
    /// What it knows of the pods of this node is different now.
    Pods(PodChange),
    /// The zone this node is in, where the operator named none.
    Zone(Option<Arc<str>>),
    /// What it found cannot be used; what it wanted last still holds. Said once for the same content.
    Rejected(ConfigError),
}
