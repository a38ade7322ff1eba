//! What is wrong with a file, and where. Knows nothing of what the file is about.

use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use serde::Serialize;

/// Problems (and warnings) reported of one file. A file with more has one cause more often than twenty.
pub const MAX_REPORTED: usize = 20;

/// Characters of the file repeated in a message.
const MAX_QUOTED: usize = 64;

/// A place in a file: line and column from 1, the column counted in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Position {
    /// Where a file begins.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong, or that the author may not have meant. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named to Segue.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The field, as in `services[3].backends[0].weight`.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.field, self.message)
    }
}

/// The first [`MAX_REPORTED`] problems of a file in the order of their places, and how many there are in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: Arc<str>,
    first: Vec<Problem>,
    total: usize,
}

impl Problems {
    pub(super) fn new(file: Arc<str>) -> Self {
        Self { file, first: Vec::new(), total: 0 }
    }

    /// Adds a problem; nothing is formatted for one that comes after the last that is kept.
    pub(super) fn add(&mut self, at: Position, field: impl Display, message: impl Display) {
        self.total += 1;
        let place = self.first.partition_point(|kept| (kept.line, kept.column) <= (at.line, at.column));
        if place >= MAX_REPORTED {
            return;
        }
        self.first.truncate(MAX_REPORTED - 1);
        self.first.insert(
            place,
            Problem {
                file: Arc::clone(&self.file),
                line: at.line,
                column: at.column,
                field: field.to_string(),
                message: message.to_string(),
            },
        );
    }

    /// Forgets all but the first `total` problems; those after must come later in the file.
    pub(super) fn forget_after(&mut self, total: usize) {
        self.first.truncate(total);
        self.total = total;
    }

    /// Moves places beyond the text (the parser names the line after the last for what is missing at the end)
    /// to the end of the line, or of the last line.
    pub(super) fn keep_within(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n");
        let body = text.strip_suffix(['\n', '\r']).unwrap_or(&text);
        let ends: Vec<u32> = body
            .split(['\n', '\r'])
            .map(|line| u32::try_from(line.chars().count()).unwrap_or(u32::MAX - 1) + 1)
            .collect();
        for problem in &mut self.first {
            match ends.get(problem.line as usize - 1) {
                Some(end) => problem.column = problem.column.min(*end),
                None => {
                    problem.line = u32::try_from(ends.len()).unwrap_or(u32::MAX);
                    problem.column = ends.last().copied().unwrap_or(1);
                }
            }
        }
    }

    /// The problems kept, in the order of their places.
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// [`Problems::first`], by value.
    pub(super) fn into_first(self) -> Vec<Problem> {
        self.first
    }

    /// How many there are beyond [`Problems::first`].
    pub fn further(&self) -> usize {
        self.total - self.first.len()
    }

    /// How many there are in all.
    pub fn total(&self) -> usize {
        self.total
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.first.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{problem}")?;
        }
        match self.further() {
            0 => Ok(()),
            further => write!(f, "\n{}: and {further} more", self.file),
        }
    }
}

/// What is found while a file is read.
pub(super) struct Findings {
    /// What makes the file unusable.
    pub(super) problems: Problems,
    /// What its author may not have meant.
    pub(super) warnings: Problems,
}

impl Findings {
    pub(super) fn new(file: &Arc<str>) -> Self {
        Self { problems: Problems::new(Arc::clone(file)), warnings: Problems::new(Arc::clone(file)) }
    }
}

/// Text of the file as a message repeats it: in quotes, on one line, cut where it is long.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for (index, character) in self.0.chars().enumerate() {
            if index == MAX_QUOTED {
                f.write_str("...")?;
                break;
            }
            match character {
                '"' => f.write_char('"')?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_twenty_places_are_kept_whatever_the_order_of_arrival() {
        let mut problems = Problems::new("f".into());
        for line in (1..=50).rev() {
            problems.add(Position { line, column: 1 }, "x", line);
        }
        let lines: Vec<u32> = problems.first().iter().map(|problem| problem.line).collect();
        assert_eq!(lines, (1..=20).collect::<Vec<_>>());
        assert_eq!(problems.further(), 30);
        assert!(problems.to_string().ends_with("\nf: and 30 more"));
    }

    #[test]
    fn what_the_file_says_is_repeated_on_one_line_and_cut() {
        assert_eq!(Quoted("a\nb\u{1b}").to_string(), "\"a\\nb\\u{1b}\"");
        assert_eq!(Quoted(&"x".repeat(65)).to_string(), format!("\"{}...\"", "x".repeat(64)));
    }
}
