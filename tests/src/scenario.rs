//! Stories about services: what an operator or an orchestrator does, and what the maps say after it. A story is a text
//! file; this module reads it, [`Teller`] acts it out on maps in memory that fail now and then.
//!
//! A line that starts in the first column is a step; lines indented by four belong to the step above; `#` starts a
//! comment line. The steps:
//!
//! ```text
//! capacity MAP ENTRIES   (first of all) a small map: frontends, services, policies, slots, backends
//! faults PERCENT         so many of a hundred map writes fail from here on; 10 without this step
//! apply                  the configuration below is all there is now
//! crash WRITES           the agent dies in its next apply after so many writes; the next agent adopts and applies
//! restart                the agent is replaced by one that adopts the maps
//! connections ADDRESS N  the backend has so many open connections
//! foreign ADDRESS        somebody else adds a TCP frontend
//! repair                 the agent compares the maps with its intent
//! expect maps            the maps say this
//! expect problems        the last apply had these problems
//! ```
//!
//! With `SEGUE_UPDATE_SCENARIOS=1` what is expected is rewritten to what is.

mod teller;

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

pub use teller::Teller;

const INDENT: &str = "    ";

/// One step of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A map has only so many entries.
    Capacity(String, u32),
    /// So many of a hundred writes fail.
    Faults(u64),
    /// This configuration, as YAML.
    Apply(String),
    /// The next apply ends after so many writes.
    Crash(u64),
    /// A new agent takes over.
    Restart,
    /// A backend has so many open connections.
    Connections(SocketAddr, u64),
    /// A frontend nobody here put in.
    Foreign(SocketAddr),
    /// Drift is looked for.
    Repair,
    /// What the maps should say.
    ExpectMaps(String),
    /// What should have been wrong with the last apply.
    ExpectProblems(String),
}

/// A line of a story, so that it can be written back as it was.
#[derive(Clone, Debug)]
enum Part {
    /// A comment or an empty line.
    Text(String),
    /// The line a step starts with, and its number from 1.
    Step(String, usize, Step),
}

/// A story.
#[derive(Clone, Debug)]
pub struct Story {
    parts: Vec<Part>,
}

impl Story {
    /// Reads a story.
    ///
    /// # Errors
    /// A line that is no step, with its number.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut lines = text.lines().zip(1..).peekable();
        while let Some((line, number)) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                parts.push(Part::Text(line.to_owned()));
                continue;
            }
            let mut block = String::new();
            while let Some((inner, _)) = lines.next_if(|(line, _)| line.starts_with(INDENT)) {
                block.push_str(&inner[INDENT.len()..]);
                block.push('\n');
            }
            let step = step(line, block).with_context(|| format!("line {number}: {line:?}"))?;
            parts.push(Part::Step(line.to_owned(), number, step));
        }
        Ok(Self { parts })
    }

    /// The steps, each with the number of its line.
    pub fn steps(&self) -> impl Iterator<Item = (usize, &Step)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Step(_, number, step) => Some((*number, step)),
            Part::Text(_) => None,
        })
    }

    /// Replaces what the step of this line expects.
    pub fn rewrite(&mut self, line: usize, actual: &str) {
        for part in &mut self.parts {
            if let Part::Step(_, number, Step::ExpectMaps(text) | Step::ExpectProblems(text)) = part
                && *number == line
            {
                actual.clone_into(text);
            }
        }
    }

    /// The story as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(line) => {
                    let _ = writeln!(text, "{line}");
                }
                Part::Step(line, _, step) => {
                    let _ = writeln!(text, "{line}");
                    for inner in step.block().lines() {
                        let _ = writeln!(text, "{INDENT}{inner}");
                    }
                }
            }
        }
        text
    }
}

impl Step {
    fn block(&self) -> &str {
        match self {
            Self::Apply(text) | Self::ExpectMaps(text) | Self::ExpectProblems(text) => text,
            _ => "",
        }
    }
}

fn step(line: &str, block: String) -> Result<Step> {
    let words: Vec<&str> = line.split(' ').collect();
    let takes_block = matches!(words[..], ["apply"] | ["expect", _]);
    ensure!(takes_block || block.is_empty(), "this step has nothing below it");
    Ok(match words[..] {
        ["capacity", map, entries] => Step::Capacity(map.to_owned(), entries.parse()?),
        ["faults", percent] => Step::Faults(percent.parse()?),
        ["apply"] => Step::Apply(block),
        ["crash", writes] => Step::Crash(writes.parse()?),
        ["restart"] => Step::Restart,
        ["connections", address, count] => Step::Connections(address.parse()?, count.parse()?),
        ["foreign", address] => Step::Foreign(address.parse()?),
        ["repair"] => Step::Repair,
        ["expect", "maps"] => Step::ExpectMaps(block),
        ["expect", "problems"] => Step::ExpectProblems(block),
        _ => bail!("no such step"),
    })
}
