//! How many instructions the verifier of each kernel may process for each program: the committed file, and how far
//! off it is. The limit of the kernel is a million; what grows towards it should be seen while it is far away.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::report::Outcome;

/// The file, in the workspace.
pub(crate) const FILE: &str = "agent-ebpf/verifier-budget.toml";

/// How far over its budget a program may be, in percent.
const TOLERANCE_PERCENT: u64 = 10;

type Budget = BTreeMap<String, BTreeMap<String, u64>>;

/// What is over the budget or not in it, one line each.
pub(crate) fn check(path: &Path, outcomes: &[Outcome]) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let budget = parse(&text);
    Ok(outcomes
        .iter()
        .flat_map(|outcome| {
            let known = budget.get(&outcome.series);
            outcome.instructions.iter().filter_map(move |(program, &count)| {
                let allowed = known.and_then(|known| known.get(program)).copied();
                over(allowed, count).then(|| {
                    let allowed = allowed.map_or_else(|| "none".to_owned(), |allowed| allowed.to_string());
                    format!(
                        "Linux {}: the verifier processes {count} instructions of {program}, its budget is {allowed}; \
                         make it simpler, or accept it by `cargo xtask vm --bless`",
                        outcome.series
                    )
                })
            })
        })
        .collect())
}

fn over(allowed: Option<u64>, count: u64) -> bool {
    allowed.is_none_or(|allowed| count * 100 > allowed * (100 + TOLERANCE_PERCENT))
}

/// Writes what was processed now; kernels that were not run keep their numbers.
pub(crate) fn bless(path: &Path, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut budget = parse(&fs::read_to_string(path).unwrap_or_default());
    for outcome in outcomes.iter().filter(|outcome| !outcome.instructions.is_empty()) {
        budget.insert(outcome.series.clone(), outcome.instructions.clone());
    }
    fs::write(path, render(&budget)).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads the tables and numbers of the file; anything else in it is a comment.
fn parse(text: &str) -> Budget {
    let mut budget = Budget::new();
    let mut series = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("[\"").and_then(|rest| rest.strip_suffix("\"]")) {
            name.clone_into(&mut series);
        } else if let Some((program, count)) = line.split_once(" = ")
            && let Ok(count) = count.parse()
        {
            budget.entry(series.clone()).or_default().insert(program.to_owned(), count);
        }
    }
    budget
}

fn render(budget: &Budget) -> String {
    let mut text = String::from(
        "# Instructions the verifier processes for each program, by kernel. More than 10 % over these fails\n\
         # `cargo xtask vm`; `cargo xtask vm --bless` writes the file. The kernels' limit is 1000000.\n",
    );
    for (series, programs) in budget {
        let _ = write!(text, "\n[\"{series}\"]\n");
        for (program, count) in programs {
            let _ = writeln!(text, "{program} = {count}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_as_it_was_written() {
        let programs =
            BTreeMap::from([("segue_connect4".to_owned(), 900), ("segue_connect6".to_owned(), 950)]);
        let budget = Budget::from([("6.1".to_owned(), programs.clone()), ("7.2".to_owned(), programs)]);
        assert_eq!(parse(&render(&budget)), budget);
    }

    #[test]
    fn a_tenth_more_is_tolerated_and_an_unknown_program_is_not() {
        assert!(!over(Some(1_000), 1_100));
        assert!(over(Some(1_000), 1_101));
        assert!(over(None, 1));
    }
}
