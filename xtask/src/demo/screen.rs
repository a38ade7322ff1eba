//! What the demo shows: a small table that is redrawn in place on a terminal, a line a second elsewhere. Colours
//! only on a terminal, and not with NO_COLOR. It does not know what the numbers mean.

use std::io::{IsTerminal, Write, stdout};

/// Characters of a full bar.
const BAR_WIDTH: u64 = 40;

/// Where the demo writes.
pub(crate) struct Screen {
    terminal: bool,
    colour: bool,
    /// Lines of the table that stand above the cursor.
    drawn: usize,
}

/// What a text is coloured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A title.
    Strong,
    /// Something of little weight.
    Faint,
    /// The backend with this index.
    Backend(usize),
    /// A failure.
    Bad,
    /// A success.
    Good,
}

impl Screen {
    /// The standard output.
    pub(crate) fn new() -> Self {
        let terminal = stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, colour, drawn: 0 }
    }

    /// Whether the table is redrawn in place.
    pub(crate) fn is_live(&self) -> bool {
        self.terminal
    }

    /// The text in the colour of a tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Backend(index) => ["32", "36", "35"][index % 3],
            Tone::Bad => "1;31",
            Tone::Good => "1;32",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A bar for `part` of `whole`.
    pub(crate) fn bar(&self, tone: Tone, part: u64, whole: u64) -> String {
        let cells = (part * BAR_WIDTH + whole / 2).checked_div(whole).unwrap_or(0).min(BAR_WIDTH);
        let full: String = (0..cells).map(|_| '█').collect();
        let empty: String = (cells..BAR_WIDTH).map(|_| '·').collect();
        format!("{}{}", self.paint(tone, &full), self.paint(Tone::Faint, &empty))
    }

    /// Draws the table over the one before.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push_str(&format!("\r\x1b[K{line}\n"));
        }
        self.drawn = lines.len();
        write(&text);
    }

    /// Leaves what was drawn where it is.
    pub(crate) fn keep(&mut self) {
        self.drawn = 0;
    }

    /// Prints lines that stay. What was drawn stays above them.
    pub(crate) fn print(&mut self, text: &str) {
        self.keep();
        write(&format!("{text}\n"));
    }
}

/// A closed output is no reason to stop in the middle: the end cleans up.
fn write(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Digits in groups of three, as in `12 345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A share in percent with one decimal; a dash where there is nothing to share.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match (part * 1000 + whole / 2).checked_div(whole) {
        Some(tenths) => format!("{}.{} %", tenths / 10, tenths % 10),
        None => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen { terminal: false, colour: false, drawn: 0 };

    #[test]
    fn numbers_and_shares_are_easy_to_read() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(2, 2), "100.0 %");
        assert_eq!(percent(0, 0), "–");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let filled = |part, whole| PLAIN.bar(Tone::Good, part, whole).matches('█').count();
        assert_eq!([filled(0, 10), filled(5, 10), filled(10, 10), filled(0, 0)], [0, 20, 40, 0]);
    }

    #[test]
    fn there_are_colours_only_where_they_are_wanted() {
        assert_eq!(PLAIN.paint(Tone::Bad, "x"), "x");
        let coloured = Screen { colour: true, ..PLAIN };
        assert!(coloured.paint(Tone::Bad, "x").contains('\x1b'));
    }
}
