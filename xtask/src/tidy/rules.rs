//! The rules for Rust files: who may name what, how long a file may be, how it begins. Each rule sees one file.

use super::rust_source::{Blank, before_tests, blanked, lines_with};
use super::{Finding, SourceFile};

const MAX_LINES: usize = 500;

const VAGUE_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// A word that only some places may use.
struct Confined {
    rule: &'static str,
    words: &'static [&'static str],
    /// Where the rule holds, as path prefixes.
    within: &'static [&'static str],
    /// Where the words are at home, as path prefixes.
    except: &'static [&'static str],
    /// Whether test code in a file is bound by the rule, too.
    in_tests: bool,
    advice: &'static str,
}

const CONFINED: [Confined; 6] = [
    Confined {
        rule: "aya",
        words: &["aya", "aya_log", "aya_obj"],
        within: &[""],
        except: &["agent/src/kernel"],
        in_tests: true,
        advice: "only agent/src/kernel may name aya; add what you need to its interface",
    },
    Confined {
        rule: "prometheus",
        words: &["prometheus_client"],
        within: &[""],
        except: &["agent/src/metrics"],
        in_tests: true,
        advice: "only agent/src/metrics may name prometheus_client; hand it plain values",
    },
    Confined {
        rule: "unsafe",
        words: &["unsafe"],
        within: &[""],
        except: &[
            "agent/src/kernel",
            "agent-ebpf/src/context.rs",
            "agent-ebpf/src/context/",
            "agent-ebpf/src/maps.rs",
            "agent-ebpf/src/maps/",
            "agent-ebpf/src/emit.rs",
            "tests/",
            "xtask/",
        ],
        in_tests: false,
        advice: "move it into agent/src/kernel, or on the kernel side into context, maps or emit",
    },
    Confined {
        rule: "pure",
        words: &[
            "tokio",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "Instant::now",
            "SystemTime",
            "rand",
        ],
        within: &[
            "agent/src/desired",
            "agent/src/compile",
            "agent/src/rollout",
            "agent/src/governor",
            "agent/src/traces",
            "agent/src/l7",
            "agent/src/flows/accumulator",
            "agent/src/flows/quantile",
            "agent-ebpf/src/abi",
            "agent-ebpf/src/decide",
        ],
        except: &[],
        in_tests: false,
        advice: "this part has no IO, clock or randomness; take the value as an argument",
    },
    Confined {
        rule: "unbounded",
        words: &["unbounded_channel", "mpsc::channel()"],
        within: &["agent/"],
        except: &[],
        in_tests: false,
        advice: "every queue has a limit, and a metric for what a full one dropped",
    },
    Confined {
        rule: "writer",
        words: &[
            "insert_frontend",
            "remove_frontend",
            "set_service",
            "set_policy",
            "set_slots",
            "set_backend",
        ],
        within: &["agent/src"],
        except: &["agent/src/kernel", "agent/src/reconcile"],
        in_tests: false,
        advice: "only reconcile writes the maps the agent owns",
    },
];

/// Everything wrong with one Rust file.
pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let code = blanked(&file.text, Blank::CommentsAndLiterals);
    let mut findings: Vec<Finding> = CONFINED.iter().flat_map(|rule| confined(rule, file, &code)).collect();
    findings.extend(begins_with_its_purpose(file));
    findings.extend(length(file, &code));
    findings.extend(name(file));
    findings.extend(ignored_without_reason(file, &code));
    findings
}

fn finding(file: &SourceFile, line: usize, rule: &'static str, advice: impl Into<String>) -> Finding {
    Finding { file: file.path.clone(), line, rule, advice: advice.into() }
}

/// The part of a file that is not tests; of a file that is a module of tests, nothing.
fn production<'c>(file: &SourceFile, code: &'c str) -> &'c str {
    if file.path.ends_with("/tests.rs") { "" } else { before_tests(code) }
}

fn confined(rule: &Confined, file: &SourceFile, code: &str) -> Vec<Finding> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.path.starts_with(prefix));
    if !starts(rule.within) || starts(rule.except) {
        return Vec::new();
    }
    let code = if rule.in_tests { code } else { production(file, code) };
    // `#[unsafe(no_mangle)]` marks an attribute and is no unsafe code.
    let code = code.replace("[unsafe(", "[______(");
    let mut findings = Vec::new();
    for word in rule.words {
        for line in lines_with(&code, word) {
            findings.push(finding(file, line, rule.rule, format!("`{word}`: {}", rule.advice)));
        }
    }
    findings
}

fn begins_with_its_purpose(file: &SourceFile) -> Option<Finding> {
    let first = file.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!"))?;
    (!first.starts_with("//!")).then(|| {
        finding(file, 1, "purpose", "begin the file with `//!`: what it is for, what it refuses to know")
    })
}

fn length(file: &SourceFile, code: &str) -> Option<Finding> {
    let lines = production(file, code).lines().count();
    (lines > MAX_LINES).then(|| {
        finding(file, lines, "length", format!("{lines} lines before tests; split it below {MAX_LINES}"))
    })
}

fn name(file: &SourceFile) -> Option<Finding> {
    let vague = file.path.trim_end_matches(".rs").split('/').find(|part| VAGUE_NAMES.contains(part))?;
    Some(finding(file, 1, "name", format!("`{vague}` says nothing; name the module for what it does")))
}

fn ignored_without_reason(file: &SourceFile, code: &str) -> Vec<Finding> {
    let lines = code.lines().enumerate().filter(|(_, line)| line.trim() == "#[ignore]");
    lines
        .map(|(index, _)| {
            finding(
                file,
                index + 1,
                "ignore",
                "say why: `#[ignore = \"kernel tier: …\"]` or `\"measurement: …\"`",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let file = SourceFile { path: path.into(), text: text.into() };
        check(&file).into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn a_file_that_keeps_the_rules_has_no_findings() {
        assert_eq!(rules_of("agent/src/x.rs", "//! X. No aya, no unsafe here.\nfn f() {}\n"), []);
    }

    #[test]
    fn aya_is_named_only_under_kernel() {
        let text = "//! X.\nuse aya::Ebpf;\n";
        assert_eq!(rules_of("agent/src/app.rs", text), [("aya", 2)]);
        assert_eq!(rules_of("agent/src/kernel/load.rs", text), []);
        assert_eq!(rules_of("agent/src/kernel.rs", text), []);
        assert_eq!(rules_of("agent-ebpf/src/maps.rs", "//! X.\nuse aya_ebpf::maps::Array;\n"), []);
    }

    #[test]
    fn prometheus_client_is_named_only_under_metrics() {
        let text = "//! X.\nuse prometheus_client::registry::Registry;\n";
        assert_eq!(rules_of("agent/src/app.rs", text), [("prometheus", 2)]);
        assert_eq!(rules_of("agent/src/metrics/lb.rs", text), []);
    }

    #[test]
    fn unsafe_code_stays_where_it_is_at_home() {
        let text = "//! X.\nfn f() { unsafe { g() } }\n";
        for bad in ["agent/src/app.rs", "agent-ebpf/src/programs/connect.rs", "agent-ebpf/src/abi.rs"] {
            assert_eq!(rules_of(bad, text), [("unsafe", 2)], "{bad}");
        }
        for good in ["agent/src/kernel/mapped.rs", "agent-ebpf/src/context.rs", "tests/src/netns.rs"] {
            assert_eq!(rules_of(good, text), [], "{good}");
        }
    }

    #[test]
    fn attributes_that_are_marked_unsafe_are_no_unsafe_code() {
        let text = "//! X.\n#[unsafe(no_mangle)]\n#[unsafe(link_section = \"license\")]\nstatic X: u8 = 0;\n";
        assert_eq!(rules_of("agent-ebpf/src/main.rs", text), []);
        assert_eq!(rules_of("agent-ebpf/src/lib.rs", "//! X.\n#![forbid(unsafe_code)]\n"), []);
    }

    #[test]
    fn pure_parts_have_no_clock_io_or_randomness_outside_their_tests() {
        for word in ["std::time::Instant::now()", "std::fs::read(x)", "tokio::spawn(x)", "SystemTime::now()"]
        {
            let text = format!("//! X.\nfn f() {{ {word}; }}\n");
            assert_eq!(rules_of("agent/src/compile/ids.rs", &text), [("pure", 2)], "{word}");
            assert_eq!(rules_of("agent/src/app.rs", &text), [], "{word}");
        }
        let text = "//! X.\n#[cfg(test)]\nmod tests {\n    use std::time::SystemTime;\n}\n";
        assert_eq!(rules_of("agent-ebpf/src/decide/flow.rs", text), []);
    }

    #[test]
    fn queues_are_bounded() {
        let text = "//! X.\nlet (a, b) = tokio::sync::mpsc::unbounded_channel();\n";
        assert_eq!(rules_of("agent/src/app.rs", text), [("unbounded", 2)]);
    }

    #[test]
    fn only_reconcile_writes_agent_owned_maps() {
        let text = "//! X.\nfn f(t: &mut impl Tables) { t.set_service(1, word); }\n";
        assert_eq!(rules_of("agent/src/admin.rs", text), [("writer", 2)]);
        assert_eq!(rules_of("agent/src/reconcile/apply.rs", text), []);
    }

    #[test]
    fn a_file_begins_with_its_purpose() {
        assert_eq!(rules_of("agent/src/x.rs", "use x;\n"), [("purpose", 1)]);
        assert_eq!(rules_of("agent/src/x.rs", "#!/usr/bin/env cargo\n\n//! X.\n"), []);
        assert_eq!(rules_of("agent/src/x.rs", ""), []);
    }

    #[test]
    fn a_file_has_at_most_500_lines_before_its_tests() {
        let body = |lines: usize| format!("//! X.\n{}", "fn f() {}\n".repeat(lines - 1));
        assert_eq!(rules_of("agent/src/x.rs", &body(500)), []);
        assert_eq!(rules_of("agent/src/x.rs", &body(501)), [("length", 501)]);
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", body(499), "    fn f() {}\n".repeat(400));
        assert_eq!(rules_of("agent/src/x.rs", &tests), []);
        assert_eq!(rules_of("agent/src/x/tests.rs", &body(501)), []);
    }

    #[test]
    fn modules_have_names_that_say_something() {
        assert_eq!(rules_of("agent/src/utils.rs", "//! X.\n"), [("name", 1)]);
        assert_eq!(rules_of("tests/src/common/mod.rs", "//! X.\n"), [("name", 1)]);
        assert_eq!(rules_of("agent/src/uncommon.rs", "//! X.\n"), []);
    }

    #[test]
    fn an_ignored_test_says_why() {
        let text = "//! X.\n#[test]\n#[ignore]\nfn f() {}\n";
        assert_eq!(rules_of("tests/tests/connect.rs", text), [("ignore", 3)]);
        let text = "//! X.\n#[test]\n#[ignore = \"kernel tier: needs root\"]\nfn f() {}\n";
        assert_eq!(rules_of("tests/tests/connect.rs", text), []);
    }
}
