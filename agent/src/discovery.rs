//! Where services come from. A source turns what it watches into [`Update`]s on a channel; it knows nothing of
//! other sources, of what is in force, or of maps.
//!
//! A new source is a module here and a variant of [`SourceKind`].

pub mod file;

use crate::config::ConfigError;
use crate::desired::Change;
use crate::desired::guard::Holds;

/// The sources there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// A configuration file on this host.
    File,
}

impl SourceKind {
    /// Every source.
    pub const ALL: &'static [Self] = &[Self::File];

    /// The name used in metric labels, tables and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
        }
    }

    /// What it may not take away unasked.
    pub const fn holds(self) -> Holds {
        match self {
            Self::File => Holds::WRITTEN,
        }
    }
}

/// What a source has to say.
#[derive(Debug)]
pub enum Update {
    /// What it wants is different now.
    Changed(Change),
    /// What it found cannot be used; what it wanted last still holds. Said once for the same content.
    Rejected(ConfigError),
}
