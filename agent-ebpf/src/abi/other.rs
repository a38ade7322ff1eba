//! What differs in the feature `other-layouts`: a build with other layouts of some maps, which tests upgrade to and back
//! from. No release has it. A test only: nothing else may ask for the feature.

/// How many words lie before the others in `BackendState`.
const SHIFT: usize = if cfg!(feature = "other-layouts") { 1 } else { 0 };

/// The words at the beginning of `BackendState`; in a release there are none.
pub type Shift = [u64; SHIFT];

/// How many more entries `POLICIES` and `AFFINITY` have.
pub const MORE_ENTRIES: u32 = if cfg!(feature = "other-layouts") { 64 } else { 0 };

/// The version of these layouts, which no release will reach.
#[cfg(feature = "other-layouts")]
pub const VERSION: u32 = u32::MAX;
