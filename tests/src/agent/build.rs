//! Which build of the agent runs. Knows where cargo and `cargo xtask` put them, nothing of what they do.

use std::path::PathBuf;

use crate::world::beside_test;

/// A build of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// The one under test.
    This,
    /// The same with other layouts of some maps, as a release before or after it may have.
    OtherLayouts,
}

impl Build {
    pub(super) fn binary(self) -> PathBuf {
        beside_test(match self {
            Self::This => "segue",
            Self::OtherLayouts => "segue-other-layouts",
        })
    }
}
