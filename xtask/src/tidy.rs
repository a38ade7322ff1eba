//! `cargo xtask tidy`: the invariants of the source tree that no compiler checks. The rules are in `rules`
//! (Rust) and `text` (everything); what a kernel map looks like is guarded by `abi`.

mod abi;
mod rules;
mod rust_source;
mod text;

use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, bail};

use crate::workspace;

/// Names of directories (and of the file `.git` in a work tree) that hold nothing of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// Larger files are data, not source.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How to tidy.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Record the layouts of the kernel maps, after raising `ABI_VERSION`.
    #[arg(long)]
    bless: bool,
    /// Record them under the same version. Right only while no release carries that version.
    #[arg(long, requires = "bless")]
    unreleased: bool,
}

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.advice)
    }
}

/// A file of the tree; `path` is relative to the root, with `/` between its parts.
struct SourceFile {
    path: String,
    text: String,
}

/// Checks the tree, or records the layouts.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = workspace();
    if arguments.bless {
        return abi::bless(&root, &files(&root)?, arguments.unreleased);
    }
    if !check(&root)? {
        bail!("the tree is not tidy");
    }
    Ok(())
}

/// Prints what is wrong in the tree under `root`; whether nothing is.
pub(crate) fn check(root: &Path) -> anyhow::Result<bool> {
    let files = files(root)?;
    let mut findings: Vec<Finding> = files.iter().flat_map(text::check).collect();
    findings.extend(files.iter().flat_map(|file| text::check_links(file, root)));
    findings.extend(files.iter().filter(|file| file.path.ends_with(".rs")).flat_map(rules::check));
    findings.extend(abi::check(&files));
    findings.sort();
    findings.iter().for_each(|finding| println!("{finding}"));
    Ok(findings.is_empty())
}

/// Every text file under `root`, in the order of paths.
fn files(root: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let listing =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in listing {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let (path, kind) = (entry.path(), entry.file_type().context("cannot tell a file's type")?);
            if SKIPPED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && entry.metadata().is_ok_and(|data| data.len() <= MAX_FILE_BYTES) {
                let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                if let Ok(text) = String::from_utf8(bytes) {
                    let relative = path.strip_prefix(root).unwrap_or(&path);
                    found.push(SourceFile { path: relative.to_string_lossy().into_owned(), text });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_file_line_rule_and_what_to_do() {
        let finding =
            Finding { file: "agent/src/x.rs".into(), line: 7, rule: "unsafe", advice: "move it".into() };
        assert_eq!(finding.to_string(), "agent/src/x.rs:7: unsafe: move it");
    }

    #[test]
    fn build_output_and_binary_files_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("target")).unwrap();
        fs::create_dir_all(root.path().join("agent/src")).unwrap();
        fs::write(root.path().join("target/x.rs"), "x").unwrap();
        fs::write(root.path().join("agent/src/lib.rs"), "//! Library.\n").unwrap();
        fs::write(root.path().join("logo.bin"), [0xff, 0xfe]).unwrap();
        let paths: Vec<String> = files(root.path()).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, ["agent/src/lib.rs"]);
    }

    #[test]
    fn a_tree_that_breaks_a_rule_is_not_tidy() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("agent/src")).unwrap();
        fs::write(root.path().join("agent/src/lib.rs"), "//! Library.\n").unwrap();
        assert!(check(root.path()).unwrap());
        fs::write(root.path().join("agent/src/utils.rs"), "//! Things.\n").unwrap();
        assert!(!check(root.path()).unwrap());
    }
}
