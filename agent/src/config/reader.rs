//! Reads YAML once, from front to back, keeping the place and the path of every value, and goes on after a
//! value that is wrong. Knows nothing of services; refuses what a configuration does not need (aliases, tags,
//! merge keys, further documents), so that the work is in proportion to the size of the file.

use std::borrow::Cow;
use std::fmt::{self, Display};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::problem::{Findings, Position, Quoted};

/// The names a mapping may use. Declared with [`fields!`].
pub(super) trait Fields: Copy + PartialEq + 'static {
    /// Every field, in the order in which documentation lists them. At most 32.
    const ALL: &'static [Self];

    /// The name in the file.
    fn name(self) -> &'static str;

    /// What it means, in a few words, for the reference.
    fn meaning(self) -> &'static str;
}

/// Declares an enum of the fields of one mapping: their names, and what each means.
macro_rules! fields {
    ($(#[$meta:meta])* enum $name:ident { $($variant:ident = $text:literal: $meaning:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant,)+ }

        impl $crate::config::reader::Fields for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}
pub(super) use fields;

/// The file cannot be read further; the problem is recorded.
#[derive(Debug)]
pub(super) struct Stop;

/// A value, or the beginning of one.
pub(super) struct Node<'a> {
    /// Where it begins.
    pub(super) at: Position,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Null,
    Text(Cow<'a, str>),
    List,
    Mapping,
    /// Something refused; the problem is recorded.
    Refused,
}

/// Text and where it stands.
pub(super) struct Text<'a> {
    pub(super) at: Position,
    pub(super) value: Cow<'a, str>,
}

/// One step of a path such as `services[3].name`.
enum Step {
    Field(&'static str),
    Key(String),
    Index(usize),
}

/// A path as messages show it.
pub(super) struct Path<'a>(&'a [Step]);

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("file");
        }
        for (depth, step) in self.0.iter().enumerate() {
            let name = match step {
                Step::Field(name) => *name,
                Step::Key(name) => name,
                Step::Index(index) => {
                    write!(f, "[{index}]")?;
                    continue;
                }
            };
            write!(f, "{}{name}", if depth == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

/// The reader of one file.
pub(super) struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    path: Vec<Step>,
    /// Problems that a syntax error further on cannot have caused.
    settled: usize,
    /// What is found so far.
    pub(super) findings: Findings,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, findings: Findings) -> Self {
        // Another user of the parser in this build may want comments as events; here they are nothing.
        let options = granit_parser::options! {
            disallow_directives: true, emit_unresolved_aliases: true, emit_comments: false
        };
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            path: Vec::new(),
            settled: 0,
            findings,
        }
    }

    /// Records what is wrong with the value now being read.
    pub(super) fn problem(&mut self, at: Position, message: impl Display) {
        self.findings.problems.add(at, Path(&self.path), message);
    }

    /// Records what is wrong with, or missing from, a field of the mapping now being read.
    pub(super) fn problem_in(&mut self, at: Position, field: impl Display, message: impl Display) {
        match self.path.is_empty() {
            true => self.findings.problems.add(at, field, message),
            false => self.findings.problems.add(at, format_args!("{}.{field}", Path(&self.path)), message),
        }
    }

    /// Says that what was read so far is whole: a syntax error from here on explains nothing in it.
    pub(super) fn settle(&mut self) {
        self.settled = self.findings.problems.total();
    }

    /// Reads the one document of the file; `None` where there is none.
    pub(super) fn document(
        &mut self,
        read: impl FnOnce(&mut Self, Node<'a>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        loop {
            match self.event()?.0 {
                Event::StreamStart => {}
                Event::DocumentStart(..) => break,
                _ => return Ok(false),
            }
        }
        if let Some(root) = self.next()? {
            read(self, root)?;
        }
        loop {
            let (event, at) = self.event()?;
            match event {
                Event::DocumentStart(..) => {
                    let message =
                        "holds a second YAML document; put everything into the first, and remove \"---\"";
                    self.problem(at, message);
                    return Err(Stop);
                }
                Event::StreamEnd => return Ok(true),
                _ => {}
            }
        }
    }

    /// The text of a node, or `None` and a problem saying that `wanted` is to be written.
    pub(super) fn text(&mut self, node: Node<'a>, wanted: impl Display) -> Result<Option<Text<'a>>, Stop> {
        if let Kind::Text(value) = node.kind {
            return Ok(Some(Text { at: node.at, value }));
        }
        self.mismatch(&node, wanted)?;
        Ok(None)
    }

    /// Reads a list, calling `read` for each element. `false`, with a problem recorded, where it is none.
    pub(super) fn list(
        &mut self,
        node: &Node<'a>,
        wanted: impl Display,
        mut read: impl FnMut(&mut Self, usize, Node<'a>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        if !matches!(node.kind, Kind::List) {
            self.mismatch(node, wanted)?;
            return Ok(false);
        }
        for index in 0.. {
            self.path.push(Step::Index(index));
            let Some(element) = self.next()? else {
                self.path.pop();
                break;
            };
            read(self, index, element)?;
            self.path.pop();
        }
        Ok(true)
    }

    /// Reads a mapping with free keys, calling `read` with each key and value.
    pub(super) fn entries(
        &mut self,
        node: &Node<'a>,
        wanted: impl Display,
        mut read: impl FnMut(&mut Self, Text<'a>, Node<'a>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        self.keys(node, wanted, |reader, key| {
            let step = Step::Key(Unquoted(&key.value).to_string());
            let value = reader.value(step)?;
            read(reader, key, value)
        })
    }

    /// Reads a mapping whose keys are `F`, calling `read` with each field and its value. A field whose value is
    /// empty is left out: it counts as not written.
    pub(super) fn mapping<F: Fields>(
        &mut self,
        node: &Node<'a>,
        wanted: impl Display,
        mut read: impl FnMut(&mut Self, F, Node<'a>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        let mut seen = 0_u32;
        self.keys(node, wanted, |reader, key| {
            let known = F::ALL.iter().position(|field| field.name() == key.value);
            let Some(index) = known.filter(|index| seen & (1 << index) == 0) else {
                match known {
                    None => reader.unknown::<F>(&key),
                    Some(_) => reader.problem_in(key.at, &key.value, "is written twice; keep one of the two"),
                }
                let value = reader.value(Step::Key(Unquoted(&key.value).to_string()))?;
                return reader.skip(&value);
            };
            seen |= 1 << index;
            let value = reader.value(Step::Field(F::ALL[index].name()))?;
            match value.kind {
                Kind::Null => Ok(()),
                _ => read(reader, F::ALL[index], value),
            }
        })
    }

    /// Reads a mapping, calling `read` with each key; `read` begins with [`Reader::value`].
    fn keys(
        &mut self,
        node: &Node<'a>,
        wanted: impl Display,
        mut read: impl FnMut(&mut Self, Text<'a>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        if !matches!(node.kind, Kind::Mapping) {
            self.mismatch(node, wanted)?;
            return Ok(false);
        }
        let depth = self.path.len();
        while let Some(key) = self.next()? {
            if let Kind::Text(value) = key.kind {
                read(self, Text { at: key.at, value })?;
            } else {
                self.problem(key.at, "has a key that is not text; write a name before the colon");
                self.skip(&key)?;
                let value = self.value(Step::Key("?".into()))?;
                self.skip(&value)?;
            }
            self.path.truncate(depth);
        }
        Ok(true)
    }

    /// The value after a key; the path leads to it until the next key.
    fn value(&mut self, step: Step) -> Result<Node<'a>, Stop> {
        self.path.push(step);
        // After a key the parser gives a value, an empty one where there is none.
        self.next()?.ok_or(Stop)
    }

    /// Whether a node is text, and not a list or a mapping.
    pub(super) fn is_text(node: &Node<'a>) -> bool {
        matches!(node.kind, Kind::Text(_))
    }

    fn unknown<F: Fields>(&mut self, key: &Text<'a>) {
        let name = key.value.as_ref();
        if name == "<<" {
            let message = "merge keys are not supported; write the fields out";
            return self.problem_in(key.at, name, message);
        }
        let written = Unquoted(name);
        match nearest::<F>(name) {
            Some(near) => {
                self.problem_in(
                    key.at,
                    written,
                    format_args!("is not a known field; did you mean `{near}`?"),
                );
            }
            None => {
                let known = F::ALL.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ");
                let message = format_args!("is not a known field; remove it, known here are {known}");
                self.problem_in(key.at, written, message);
            }
        }
    }

    fn mismatch(&mut self, node: &Node<'a>, wanted: impl Display) -> Result<(), Stop> {
        match &node.kind {
            Kind::Null => self.problem(node.at, format_args!("is empty; write {wanted}")),
            Kind::Text(text) => self.problem(node.at, format_args!("is {}; write {wanted}", Quoted(text))),
            Kind::List => self.problem(node.at, format_args!("is a list; write {wanted}")),
            Kind::Mapping => self.problem(node.at, format_args!("is a mapping; write {wanted}")),
            Kind::Refused => {}
        }
        self.skip(node)
    }

    /// Passes over the rest of a node.
    pub(super) fn skip(&mut self, node: &Node<'a>) -> Result<(), Stop> {
        let mut depth = usize::from(matches!(node.kind, Kind::List | Kind::Mapping));
        while depth > 0 {
            match self.event()?.0 {
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// The next node, or `None` at the end of the list or mapping.
    fn next(&mut self) -> Result<Option<Node<'a>>, Stop> {
        let (event, at) = self.event()?;
        if event.tag().is_some() {
            self.problem(at, "has a YAML tag; remove the word that begins with \"!\"");
        }
        let kind = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if is_null(&text) => Kind::Null,
            Event::Scalar(text, ..) => Kind::Text(text),
            Event::SequenceStart(..) => Kind::List,
            Event::MappingStart(..) => Kind::Mapping,
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.problem(at, "is a YAML alias, which is not supported; write the value out");
                Kind::Refused
            }
            _ => return Ok(None),
        };
        Ok(Some(Node { at, kind }))
    }

    fn event(&mut self) -> Result<(Event<'a>, Position), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, position(span))),
            Some(Err(error)) => {
                self.syntax(&error);
                Err(Stop)
            }
            // The parser ends with `StreamEnd`, after which nobody asks.
            None => Err(Stop),
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        let advice = match error.kind() {
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabInPlainScalar => "indent with spaces",
            ErrorKind::UnclosedQuotedScalar => "close the quotes that open here",
            ErrorKind::DirectiveDisallowed => "remove the line that begins with \"%\"",
            ErrorKind::RecursionLimitExceeded => "nest less deeply",
            _ => "check the indentation, brackets and quotes here and in the lines above",
        };
        // A wrong indentation ends a service early; that its fields are missing is not what to report.
        self.findings.problems.forget_after(self.settled);
        let mark = error.marker();
        let at = Position { line: saturated(mark.line()), column: saturated(mark.col() + 1) };
        self.findings.problems.add(at, "yaml", format_args!("{}; {advice}", error.info()));
    }
}

/// The field a short word most likely means: one letter in four may be wrong.
fn nearest<F: Fields>(word: &str) -> Option<&'static str> {
    if word.len() > 32 {
        return None;
    }
    let word = word.to_lowercase();
    let distances =
        F::ALL.iter().map(|field| (strsim::damerau_levenshtein(field.name(), &word), field.name()));
    distances.min().filter(|(distance, name)| *distance <= 1 + name.len() / 4).map(|(_, name)| name)
}

/// A key as it was written where that is one short word, else quoted.
struct Unquoted<'a>(&'a str);

impl Display for Unquoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match !self.0.is_empty() && self.0.len() <= 64 && self.0.chars().all(is_word) {
            true => f.write_str(self.0),
            false => Quoted(self.0).fmt(f),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn position(span: Span) -> Position {
    Position { line: saturated(span.start.line()), column: saturated(span.start.col() + 1) }
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
