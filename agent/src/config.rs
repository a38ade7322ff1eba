//! The configuration file: what it may say, and what is wrong with it.
//!
//! A file is checked whole and used whole: [`parse`] gives every service or every problem. It knows no maps and
//! nothing of what is in force; `docs/config.md` describes the format.

mod breaker;
mod canary;
mod check;
mod draining;
mod fallback;
mod limits;
mod problem;
mod reader;
mod reference;
mod schema;
mod service;
mod value;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::desired::{PolicySpec, ServiceSpec};

use problem::{Findings, Position};
use reader::{Reader, Stop, fields};
use service::{Service, Totals};

pub use problem::{MAX_REPORTED, Problem, Problems};
pub use reference::reference;
pub use schema::policy as policy_schema;
pub(crate) use value::duration_within;

/// The largest file that is read. As many backends as fit (`abi::limits`), each with everything a backend can
/// say, take a quarter of it.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

fields! {
    /// The file.
    enum RootField {
        Services = "services": "All services. `[]` has none. Required.",
    }
}

/// What a file asks for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The services, in the order of the file.
    pub services: Vec<Arc<ServiceSpec>>,
    /// What its author may not have meant: the first [`MAX_REPORTED`], in the order of the file.
    pub warnings: Vec<Problem>,
    /// How many more there are.
    pub further_warnings: usize,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be opened or read.
    #[error("{}: cannot be read: {source}; check that it exists and that Segue may read it", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else than a regular file.
    #[error("{}: is {kind}, not a regular file; name the file itself", file.display())]
    NotRegular {
        /// The file.
        file: PathBuf,
        /// What it is, with an article.
        kind: &'static str,
    },
    /// It is larger than [`MAX_FILE_BYTES`].
    #[error(
        "{}: is larger than {} MiB, more than any configuration that fits; check that it is the right file",
        file.display(), MAX_FILE_BYTES >> 20
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// It says something that cannot be used.
    #[error("{0}")]
    Invalid(Problems),
}

/// Reads and checks a file.
///
/// # Errors
/// Everything [`ConfigError`] lists. A file that is too large is not read.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    parse(&read(file)?, file)
}

/// The bytes of a regular file of at most [`MAX_FILE_BYTES`].
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    // Without O_NONBLOCK, opening a fifo waits for a writer.
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if let Some(kind) = not_regular(metadata.file_type()) {
        return Err(ConfigError::NotRegular { file: file.to_owned(), kind });
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { file: file.to_owned() });
    }
    let bytes = read_bounded(opened, metadata.len()).map_err(unreadable)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(ConfigError::TooLarge { file: file.to_owned() }),
        false => Ok(bytes),
    }
}

/// One byte more than allowed where the file grew since its size was taken.
fn read_bounded(file: File, expected_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected_bytes).unwrap_or_default());
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_regular(kind: std::fs::FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a named pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

/// Checks the content of a file. `file` is only used to name it.
///
/// # Errors
/// [`ConfigError::Invalid`] with every problem found.
pub fn parse(bytes: &[u8], file: &Path) -> Result<Config, ConfigError> {
    let name: Arc<str> = file.display().to_string().into();
    let mut findings = Findings::new(&name);
    let text = match text(bytes) {
        Ok(text) => text,
        Err((readable, at)) => {
            let message = "is not text; write YAML in UTF-8, and check that it is the right file";
            findings.problems.add(at, "file", message);
            findings.problems.keep_within(readable);
            return Err(ConfigError::Invalid(findings.problems));
        }
    };
    let mut reader = Reader::new(text, findings);
    let services = document(&mut reader);
    let mut findings = reader.findings;
    // After a syntax error, what was read is not the whole.
    if let Ok(services) = &services {
        check::all(&mut findings, services);
    }
    match services {
        Ok(services) if findings.problems.total() == 0 => {
            findings.warnings.keep_within(text);
            let services = services.into_iter().map(|service| Arc::new(service.spec)).collect();
            let further_warnings = findings.warnings.further();
            Ok(Config { services, warnings: findings.warnings.into_first(), further_warnings })
        }
        _ => {
            findings.problems.keep_within(text);
            Err(ConfigError::Invalid(findings.problems))
        }
    }
}

/// Checks the rules of one service by themselves, as text in YAML or JSON, and gives them and what their author may not
/// have meant. Names of services and versions are not looked up.
///
/// # Errors
/// What is wrong, each problem with the field it is about.
pub fn parse_policy(text: &str) -> Result<(PolicySpec, Vec<String>), Vec<String>> {
    let mut reader = Reader::new(text, Findings::new(&"policy".into()));
    let mut service = Service::empty();
    let read =
        reader.document(|reader, node| service::policy(reader, &mut Totals::default(), &node, &mut service));
    let mut findings = reader.findings;
    if read.is_ok() {
        check::policy(&mut findings, &service);
    }
    let sentences = |problems: Problems| -> Vec<String> {
        // Of a service that is alone, and of a text on one line, neither number nor place tells anything.
        let short = |field: &str| field.strip_prefix("services[0].policy.").unwrap_or(field).to_owned();
        problems.into_first().into_iter().map(|it| format!("{}: {}", short(&it.field), it.message)).collect()
    };
    match (read, findings.problems.total()) {
        (Ok(_), 0) => Ok((service.spec.policy, sentences(findings.warnings))),
        _ => Err(sentences(findings.problems)),
    }
}

/// The bytes as text, or the text before the first byte that is none, and the place of that byte.
fn text(bytes: &[u8]) -> Result<&str, (&str, Position)> {
    let (readable, whole) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, true),
        Err(error) => {
            let valid = &bytes[..error.valid_up_to()];
            (std::str::from_utf8(valid).unwrap_or_default(), false)
        }
    };
    let end = match readable.find('\0') {
        Some(end) => end,
        None if whole => return Ok(readable),
        None => readable.len(),
    };
    let readable = &readable[..end];
    let line_start = readable.rfind('\n').map_or(0, |at| at + 1);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX - 1) + 1;
    let at = Position {
        line: number(readable.bytes().filter(|byte| *byte == b'\n').count()),
        column: number(readable[line_start..].chars().count()),
    };
    Err((readable, at))
}

fn document(reader: &mut Reader<'_>) -> Result<Vec<Service>, Stop> {
    let mut services = Vec::new();
    let mut totals = Totals::default();
    let mut root = Some(Position::START);
    reader.document(|reader, node| {
        let at = node.at;
        let is_mapping =
            reader.mapping(&node, "a mapping with `services`", |reader, field, value| match field {
                RootField::Services => {
                    root = None;
                    reader.list(&value, "a list of services, or `[]`", |reader, index, node| {
                        reader.settle();
                        // One beyond the limit is enough to say so, and where.
                        if index > check::SERVICES as usize {
                            return reader.skip(&node);
                        }
                        if let Some(service) = service::read(reader, &mut totals, index, &node)? {
                            check::service(&mut reader.findings, &service);
                            services.push(service);
                        }
                        Ok(())
                    })?;
                    Ok(())
                }
            })?;
        if root.is_some() {
            root = is_mapping.then_some(at);
        }
        Ok(())
    })?;
    if let Some(at) = root {
        reader.problem_in(
            at,
            "services",
            "is missing; write the list of services, or `services: []` for none",
        );
    }
    Ok(services)
}

#[cfg(test)]
mod tests;
