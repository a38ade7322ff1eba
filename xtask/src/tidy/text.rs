//! The rules for every text file: no loose ends, nothing of the machine it was written on, no dead links.

use std::path::Path;

use super::{Finding, SourceFile};

/// Words that mean unfinished work. Written in parts, as this file is checked, too.
const UNFINISHED: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("dbg", "!")];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Hosts of package registries: which mirror a machine uses is not the project's business.
const REGISTRIES: [&str; 9] = [
    concat!("deb.deb", "ian.org"),
    concat!("security.deb", "ian.org"),
    concat!("archive.ub", "untu.com"),
    concat!("crates", ".io"),
    concat!("static.rust", "-lang.org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("proxy.go", "lang.org"),
];

/// Written by cargo, with the registry's name in every entry.
const GENERATED: [&str; 1] = ["Cargo.lock"];

/// Everything wrong with one text file, but for its links.
pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    if GENERATED.iter().any(|name| file.path.ends_with(name)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let mut add = |rule, advice: String| {
            findings.push(Finding { file: file.path.clone(), line: index + 1, rule, advice });
        };
        if let Some(word) = UNFINISHED.iter().find(|word| has_word(line, word)) {
            add("unfinished", format!("`{word}`: do it, or leave it out"));
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|path| has_path(line, path)) {
            add(
                "machine",
                format!("`{path}` exists on one machine only; use a path relative to the repository"),
            );
        }
        if let Some(host) = REGISTRIES.iter().find(|host| line.contains(*host)) {
            add(
                "registry",
                format!("`{host}`: leave it to each machine's configuration where packages come from"),
            );
        }
    }
    findings
}

/// Links of a Markdown file to files that are not there.
pub(super) fn check_links(file: &SourceFile, root: &Path) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let directory = root.join(&file.path).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut findings = Vec::new();
    let mut in_code = false;
    for (index, line) in file.text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for target in links(line) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !is_elsewhere && !directory.join(path).exists() {
                let advice = format!("{target} does not exist; links are relative to the file they are in");
                findings.push(Finding { file: file.path.clone(), line: index + 1, rule: "link", advice });
            }
        }
    }
    findings
}

/// The targets of `[text](target)` and `[text](target "title")`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        target.split_whitespace().next()
    })
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part)
            && (word.ends_with('!') || !line[at + word.len()..].starts_with(is_part))
    })
}

/// Whether an absolute path begins so; `a/home/b` and addresses on the web do not.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at]
            .ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '~' | '*'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(path: &str, text: &str) -> Vec<&'static str> {
        let file = SourceFile { path: path.into(), text: text.into() };
        check(&file).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_comments() {
        for word in UNFINISHED {
            assert_eq!(rules_of("agent/src/x.rs", &format!("// {word} later\n")), ["unfinished"], "{word}");
        }
        assert_eq!(rules_of("docs/x.md", &format!("mk{}tor\n", UNFINISHED[0])), [""; 0]);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for path in MACHINE_PATHS {
            assert_eq!(rules_of("docs/x.md", &format!("see {path}x\n")), ["machine"], "{path}");
            assert_eq!(rules_of("docs/x.md", &format!("see a{path}x\n")), [""; 0], "{path}");
        }
    }

    #[test]
    fn registries_are_found_except_where_cargo_writes_them() {
        let line = format!("https://{}/x\n", REGISTRIES[3]);
        assert_eq!(rules_of("docs/x.md", &line), ["registry"]);
        assert_eq!(rules_of("Cargo.lock", &line), [""; 0]);
    }

    #[test]
    fn dead_links_are_found_and_living_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join("docs/here.md"), "x").unwrap();
        let text = "[a](here.md) [b](here.md#part) [c](https://example.org/x) [d](#part)\n\
                    [e](gone.md \"title\")\n```\n[f](gone.md)\n```\n";
        let file = SourceFile { path: "docs/x.md".into(), text: text.into() };
        let findings = check_links(&file, root.path());
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].line, findings[0].rule), (2, "link"));
    }
}
