//! What the guests said, as a table or as JSON, and what of it is a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

/// How a test may begin to say that a kernel lacks what it is about.
const ABSENT: &str = "this kernel has no ";

/// How it went on one kernel.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The series, as in `6.1`.
    pub(crate) series: String,
    /// What `uname -r` says there.
    release: String,
    /// Features of `segue status`: name, whether the kernel has it, what happens without.
    features: Vec<(String, bool, String)>,
    /// Instructions the verifier processed, by program; none where the kernel does not say.
    pub(crate) instructions: BTreeMap<String, u64>,
    programs: usize,
    /// Checks of the pass at the root cgroup, and why they failed.
    checks: Vec<(String, Option<String>)>,
    passed: usize,
    failed: Vec<String>,
    /// What tests had to do without, with what they expected instead; each said once.
    absent: BTreeSet<String>,
    /// The guest came to its end.
    complete: bool,
}

impl Outcome {
    /// What came of it, in a line.
    pub(crate) fn in_short(&self) -> String {
        let (checks, tests) = (self.checks.len(), self.passed + self.failed.len());
        let mut short = format!("{} of {checks} checks", self.good_checks());
        if tests > 0 {
            short += &format!(" and {} of {tests} tests passed", self.passed);
        } else {
            short += " passed";
        }
        if !self.complete {
            short += "; it did not come to its end";
        }
        short
    }

    /// How many checks at the root cgroup passed.
    pub(crate) fn good_checks(&self) -> usize {
        self.checks.iter().filter(|(_, why)| why.is_none()).count()
    }

    /// Reads what a guest said.
    pub(crate) fn read(series: &str, said: &str) -> Self {
        let mut outcome = Self { series: series.to_owned(), ..Self::default() };
        for line in said.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("release", release) => release.clone_into(&mut outcome.release),
                ("status", status) => outcome.read_status(status),
                ("check", check) => match check.split_once(" failed: ") {
                    Some((name, why)) => outcome.checks.push((name.to_owned(), Some(why.to_owned()))),
                    None => outcome.checks.push((check.trim_end_matches(" ok").to_owned(), None)),
                },
                ("test", line) => outcome.read_test(line),
                ("end", _) => outcome.complete = true,
                _ => {}
            }
        }
        outcome
    }

    fn read_status(&mut self, status: &str) {
        let status: Value = serde_json::from_str(status).unwrap_or_default();
        for feature in status["features"].as_array().into_iter().flatten() {
            self.features.push((
                feature["name"].as_str().unwrap_or_default().to_owned(),
                feature["found"].as_bool().unwrap_or_default(),
                feature["without"].as_str().unwrap_or_default().to_owned(),
            ));
        }
        for program in status["programs"].as_array().into_iter().flatten() {
            self.programs += usize::from(program["attached"].as_bool().unwrap_or_default());
            if let (Some(name), Some(count)) =
                (program["name"].as_str(), program["verified_instructions"].as_u64())
            {
                self.instructions.insert(name.to_owned(), count);
            }
        }
    }

    fn read_test(&mut self, line: &str) {
        if let Some((_, reason)) = line.split_once(ABSENT) {
            self.absent.insert(reason.to_owned());
        }
        // A test's own output may stand before its result on the same line.
        if line.starts_with("test ") && line.ends_with(" ... ok") {
            self.passed += 1;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|test| test.strip_suffix(" ... FAILED")) {
            self.failed.push(name.to_owned());
        }
    }
}

/// What went wrong, one line each.
pub(crate) fn problems(outcomes: &[Outcome]) -> Vec<String> {
    let mut problems = Vec::new();
    for outcome in outcomes {
        let series = &outcome.series;
        for (name, why) in &outcome.checks {
            if let Some(why) = why {
                problems.push(format!("Linux {series}: {name}: {why}"));
            }
        }
        problems.extend(outcome.failed.iter().map(|name| format!("Linux {series}: test {name} failed")));
        if !outcome.complete {
            problems.push(format!("Linux {series}: the guest did not come to its end; see its console"));
        } else if outcome.checks.is_empty() {
            problems.push(format!("Linux {series}: nothing was checked"));
        }
    }
    problems
}

/// One row for each kernel and one for each program's instructions.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(outcomes.iter().map(|outcome| outcome.series.clone()));
    let row = |name: &str, cell: &dyn Fn(&Outcome) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(outcomes.iter().map(cell));
        row
    };
    rows.push(row("release", &|outcome| outcome.release.clone()));
    for (name, _, _) in outcomes
        .iter()
        .max_by_key(|outcome| outcome.features.len())
        .into_iter()
        .flat_map(|outcome| &outcome.features)
    {
        rows.push(row(name, &|outcome| {
            let found = outcome.features.iter().find(|(known, _, _)| known == name);
            found.map_or("?", |(_, found, _)| if *found { "yes" } else { "fallback" }).to_owned()
        }));
    }
    rows.push(row("programs attached", &|outcome| outcome.programs.to_string()));
    rows.push(row("checks at the root", &|outcome| {
        format!("{}/{}", outcome.good_checks(), outcome.checks.len())
    }));
    rows.push(row("tests passed", &|outcome| outcome.passed.to_string()));
    rows.push(row("tests failed", &|outcome| outcome.failed.len().to_string()));
    rows.push(row("tests do without", &|outcome| outcome.absent.len().to_string()));
    let mut programs: Vec<&String> =
        outcomes.iter().flat_map(|outcome| outcome.instructions.keys()).collect();
    programs.sort();
    programs.dedup();
    for program in programs {
        rows.push(row(program, &|outcome| {
            outcome.instructions.get(program).map_or_else(|| "-".to_owned(), u64::to_string)
        }));
    }
    let mut text = render(&rows);
    for outcome in outcomes {
        for (name, _, without) in outcome.features.iter().filter(|(_, found, _)| !found) {
            let _ = writeln!(text, "{}: without {name}, {without}", outcome.series);
        }
        for reason in &outcome.absent {
            let _ = writeln!(text, "{}: tests did without {reason}", outcome.series);
        }
    }
    text
}

fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().map(|row| row.get(column).map_or(0, String::len)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The same for programs.
pub(crate) fn json(outcomes: &[Outcome]) -> Value {
    let kernels: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let features: Vec<Value> = outcome
                .features
                .iter()
                .map(|(name, found, without)| json!({ "name": name, "found": found, "without": without }))
                .collect();
            let checks: Vec<Value> = outcome
                .checks
                .iter()
                .map(|(name, why)| json!({ "name": name, "ok": why.is_none(), "why": why }))
                .collect();
            json!({
                "series": outcome.series,
                "release": outcome.release,
                "features": features,
                "programs_attached": outcome.programs,
                "checks": checks,
                "passed": outcome.passed,
                "failed": outcome.failed,
                "absent": outcome.absent,
                "instructions": outcome.instructions,
                "complete": outcome.complete,
            })
        })
        .collect();
    json!({ "kernels": kernels })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "release 5.10.0-x\n\
        status {\"features\":[{\"name\":\"errno\",\"found\":false,\"without\":\"EPERM\"}],\
        \"programs\":[{\"name\":\"segue_connect4\",\"attached\":true,\"verified_instructions\":900}]}\n\
        check tcp over IPv4 ok\ncheck udp failed: no answer\n\
        test test a::b ... ok\ntest test a::c ... FAILED\ntest this kernel has no errno: EPERM is expected\nend\n";

    #[test]
    fn a_guests_words_become_a_table() {
        let outcome = Outcome::read("5.10", SAID);
        assert_eq!(outcome.instructions["segue_connect4"], 900);
        assert_eq!((outcome.passed, outcome.failed.len(), outcome.absent.len()), (1, 1, 1));
        let text = table(&[outcome]);
        assert!(text.contains("errno               fallback\n"), "{text}");
        assert!(text.contains("checks at the root  1/2\n"), "{text}");
        assert!(text.contains("5.10: without errno, EPERM\n"), "{text}");
    }

    #[test]
    fn failures_and_a_guest_that_does_not_end_are_problems() {
        assert_eq!(problems(&[Outcome::read("5.10", SAID)]).len(), 2);
        let cut = SAID.replace("end\n", "");
        assert_eq!(problems(&[Outcome::read("5.10", &cut)]).len(), 3);
        assert_eq!(problems(&[Outcome::read("5.10", "end\n")]).len(), 1);
    }
}
