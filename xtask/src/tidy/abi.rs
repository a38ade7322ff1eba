//! Guards the layouts that live in pinned maps: a change of code under `agent-ebpf/src/abi` needs another
//! `ABI_VERSION`, or a running node would read old maps with new eyes. It compares text without comments and
//! does not know what a layout is.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use super::rust_source::{Blank, before_tests, blanked};
use super::{Finding, SourceFile};

const RECORD: &str = "agent-ebpf/abi.fingerprint";
const SOURCE: &str = "agent-ebpf/src/abi.rs";
const SOURCES: &str = "agent-ebpf/src/abi/";

/// The version and a hash of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    version: u32,
    hash: u64,
}

impl Fingerprint {
    /// Of the sources; `None` where there is no ABI.
    fn of(files: &[SourceFile]) -> Option<Self> {
        let main = files.iter().find(|file| file.path == SOURCE)?;
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for file in files.iter().filter(|file| file.path == SOURCE || file.path.starts_with(SOURCES)) {
            let code = blanked(&file.text, Blank::Comments);
            let words = before_tests(&code).split_whitespace();
            // FNV-1a: this guards against forgetting, not against forgery.
            for byte in words.flat_map(|word| word.bytes().chain([b' '])) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Some(Self { version: version(&main.text)?, hash })
    }

    fn parse(record: &str) -> Option<Self> {
        let field = |name| record.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            version: field("version ")?.parse().ok()?,
            hash: u64::from_str_radix(field("hash ")?, 16).ok()?,
        })
    }

    fn to_record(self) -> String {
        format!(
            "Written by `cargo xtask tidy --bless` after ABI_VERSION was raised.\nversion {}\nhash {:016x}\n",
            self.version, self.hash
        )
    }
}

fn version(source: &str) -> Option<u32> {
    let (_, rest) = source.split_once("ABI_VERSION: u32 = ")?;
    rest.split(';').next()?.trim().parse().ok()
}

/// Whether the recorded fingerprint is that of the sources.
pub(super) fn check(files: &[SourceFile]) -> Option<Finding> {
    let now = Fingerprint::of(files)?;
    let recorded =
        files.iter().find(|file| file.path == RECORD).and_then(|file| Fingerprint::parse(&file.text));
    let advice = match recorded {
        Some(recorded) if recorded == now => return None,
        Some(recorded) if recorded.version == now.version => {
            "code changed under the same ABI_VERSION; raise it and run `cargo xtask tidy --bless` (add \
             --unreleased while no release carries this version)"
        }
        _ => "the version is not recorded; run `cargo xtask tidy --bless`",
    };
    Some(Finding { file: SOURCE.into(), line: 1, rule: "abi", advice: advice.into() })
}

/// Records the sources' fingerprint. Refuses another hash for a version that is recorded, unless that version
/// is `unreleased`.
pub(super) fn bless(root: &Path, files: &[SourceFile], unreleased: bool) -> anyhow::Result<()> {
    let now = Fingerprint::of(files).with_context(|| format!("{SOURCE} has no ABI_VERSION"))?;
    let path = root.join(RECORD);
    let recorded = fs::read_to_string(&path).ok().and_then(|text| Fingerprint::parse(&text));
    if let Some(recorded) = recorded
        && recorded.version == now.version
        && recorded != now
        && !unreleased
    {
        bail!(
            "version {} is recorded with other code; raise ABI_VERSION in {SOURCE}, or add --unreleased while no \
             release carries it",
            now.version
        );
    }
    fs::write(&path, now.to_record()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(version: u32, layout: &str) -> Vec<SourceFile> {
        vec![
            SourceFile {
                path: SOURCE.into(),
                text: format!("//! A.\npub const ABI_VERSION: u32 = {version};\n"),
            },
            SourceFile { path: format!("{SOURCES}edge.rs"), text: layout.into() },
        ]
    }

    fn with_record(mut files: Vec<SourceFile>, of: &[SourceFile]) -> Vec<SourceFile> {
        let text = Fingerprint::of(of).unwrap().to_record();
        files.push(SourceFile { path: RECORD.into(), text });
        files
    }

    #[test]
    fn comments_white_space_and_tests_are_no_layout() {
        let before = sources(1, "struct A { x: u32 }\n");
        let after = sources(1, "/// Doc.\nstruct A {\n    x: u32 // x\n}\n\n#[cfg(test)]\nmod tests {}\n");
        assert_eq!(check(&with_record(after, &before)), None);
    }

    #[test]
    fn a_layout_that_changes_under_the_same_version_is_found() {
        let before = sources(1, "struct A { x: u32 }");
        let finding = check(&with_record(sources(1, "struct A { x: u64 }"), &before)).unwrap();
        assert!(finding.advice.contains("raise it"), "{finding}");
    }

    #[test]
    fn a_raised_version_must_be_recorded() {
        let before = sources(1, "struct A { x: u32 }");
        let finding = check(&with_record(sources(2, "struct A { x: u64 }"), &before)).unwrap();
        assert!(finding.advice.contains("not recorded"), "{finding}");
    }

    #[test]
    fn blessing_the_same_version_needs_the_word_unreleased() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("agent-ebpf")).unwrap();
        bless(root.path(), &sources(1, "struct A { x: u32 }"), false).unwrap();
        bless(root.path(), &sources(1, "struct A { x: u32 }"), false).unwrap();
        let changed = sources(1, "struct A { x: u64 }");
        assert!(bless(root.path(), &changed, false).is_err());
        bless(root.path(), &changed, true).unwrap();
        bless(root.path(), &sources(2, "struct A { x: u8 }"), false).unwrap();
        let record = fs::read_to_string(root.path().join(RECORD)).unwrap();
        assert_eq!(Fingerprint::parse(&record), Fingerprint::of(&sources(2, "struct A { x: u8 }")));
    }
}
