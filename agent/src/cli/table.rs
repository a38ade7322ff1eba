//! What a person reads: aligned columns, and quantities in units of a readable size.
//!
//! Text carries its colours; [`print`] leaves them out where the output is no terminal or `NO_COLOR` is set.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// Headings.
pub const HEADING: Style = Style::new().bold();
/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What deserves a look.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default();
/// What matters less.
pub const DIM: Style = Style::new().dimmed();
const PLAIN: Style = Style::new();

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts: everything, exact.
    Json,
}

/// One place of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    /// A count that is bad news unless it is zero.
    pub fn bad_count(count: u64) -> Self {
        Self::styled(count.to_string(), if count == 0 { DIM } else { BAD })
    }

    /// Nothing to say.
    pub fn dash() -> Self {
        Self::styled("-", DIM)
    }

    /// The text, or a dash where there is none.
    pub fn or_dash(text: Option<impl Into<String>>) -> Self {
        text.map_or_else(Self::dash, |text| Self::styled(text, PLAIN))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::styled(text, PLAIN)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::styled(text, PLAIN)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        count.to_string().into()
    }
}

/// Rows under headings. A heading that starts with `>` aligns its column to the right.
#[derive(Clone, Debug)]
pub struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row, one cell per heading.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headings.len(), "a row has a cell per heading");
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to_right: Vec<bool> = self.headings.iter().map(|heading| heading.starts_with('>')).collect();
        let headings: Vec<Cell> =
            self.headings.iter().map(|name| Cell::styled(name.trim_start_matches('>'), HEADING)).collect();
        let mut widths = vec![0; headings.len()];
        for row in std::iter::once(&headings).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.text.chars().count().max(*width);
            }
        }
        for row in std::iter::once(&headings).chain(&self.rows) {
            for (column, cell) in row.iter().enumerate() {
                let padding = widths[column] - cell.text.chars().count();
                let (before, after) = if to_right[column] { (padding, 0) } else { (0, padding) };
                let is_last = column + 1 == row.len();
                let after = if is_last { 0 } else { after + 2 };
                let (on, off) = (cell.style.render(), cell.style.render_reset());
                write!(formatter, "{:before$}{on}{}{off}{:after$}", "", cell.text, "")?;
            }
            formatter.write_str("\n")?;
        }
        Ok(())
    }
}

/// Writes to the standard output. A reader that closes the pipe early (`head`) is no error.
pub fn print(text: &str) -> ExitCode {
    let mut output = anstream::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{BAD}segue:{BAD:#} cannot write the output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => {
            anstream::eprintln!("{BAD}segue:{BAD:#} cannot write the answer as JSON: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes in binary units: `512 B`, `1.5 KiB`, `20 MiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)])
}

/// A short duration given in nanoseconds: `16 µs`, `1.2 ms`, `33.6 s`.
pub fn duration(ns: u64) -> String {
    if ns < 1_000_000_000 * 120 {
        return scaled(ns, &[("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)]);
    }
    let seconds = ns / 1_000_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Three digits at most before the unit, one after the point below ten.
fn scaled(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units.iter().rev().find(|(_, size)| value >= *size);
    let (unit, size) = fitting.or(units.first()).copied().unwrap_or(("", 1));
    let tenths = (u128::from(value) * 10 + u128::from(size) / 2) / u128::from(size);
    if tenths.is_multiple_of(10) || tenths >= 1_000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// The output without colours, as a pipe gets it.
#[cfg(test)]
pub(super) fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(&["NAME", ">COUNT", "NOTE"]);
        table.row(["a".into(), 12_345_u64.into(), Cell::or_dash(None::<&str>)]);
        table.row(["longer→".into(), Cell::bad_count(7), "x".into()]);
        let expected = "NAME     COUNT  NOTE\n\
                        a        12345  -\n\
                        longer→      7  x\n";
        assert_eq!(plain(&table.to_string()), expected);
    }

    #[test]
    fn colours_are_in_the_text_and_end_where_they_should() {
        let mut table = Table::new(&["A"]);
        table.row([Cell::styled("x", BAD)]);
        assert!(table.to_string().ends_with("\u{1b}[31mx\u{1b}[0m\n"), "{:?}", table.to_string());
    }

    #[test]
    fn quantities_have_a_readable_size() {
        let sizes = [0, 512, 1_536, 20 << 20, 2_254_857_830].map(bytes);
        assert_eq!(sizes, ["0 B", "512 B", "1.5 KiB", "20 MiB", "2.1 GiB"]);
        let times = [0, 16_000, 1_234_567, 33_554_432_000, 180_000_000_000, 7_380_000_000_000].map(duration);
        assert_eq!(times, ["0 ns", "16 µs", "1.2 ms", "33.6 s", "3 min", "2 h 3 min"]);
        assert_eq!(duration(93_600_000_000_000), "1 d 2 h");
        assert!(!bytes(u64::MAX).is_empty() && !duration(u64::MAX).is_empty());
    }
}
