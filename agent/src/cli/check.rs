//! `segue check`: says whether a configuration file is good, without an agent and without privileges. Knows
//! nothing of what is in force.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::config::{self, Config, ConfigError, Problem};

use super::Output;

/// Check a configuration file: report every problem with its line, or what the file holds.
///
/// Exits with 0 for a file that can be used and 1 for one that cannot.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Checks `args.file` and prints what was found: a summary on standard output, problems on standard error; in
/// JSON everything on standard output. The code is 0 for a good file and 1 for any other.
pub fn run(args: &CheckArgs, output: Output) -> ExitCode {
    match report(&args.file, output, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        // Where nothing can be printed, nothing can be said about it either.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// The file, as named on the command line.
    file: String,
    /// Whether it can be used.
    ok: bool,
    #[serde(flatten)]
    counts: Option<Counts>,
    /// Why it could not be read as a configuration at all.
    error: Option<String>,
    problems: &'a [Problem],
    /// Problems beyond those listed.
    further_problems: usize,
    warnings: &'a [Problem],
    /// Warnings beyond those listed.
    further_warnings: usize,
}

/// What a good file holds.
#[derive(Clone, Copy, Serialize)]
struct Counts {
    services: usize,
    frontends: usize,
    backends: usize,
}

impl Counts {
    fn of(config: &Config) -> Self {
        let services = &config.services;
        Self {
            services: services.len(),
            frontends: services.iter().map(|service| service.frontends.len()).sum(),
            backends: services.iter().map(|service| service.backends.len()).sum(),
        }
    }
}

/// Whether the file is good, once everything is printed.
fn report(file: &Path, output: Output, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<bool> {
    let result = config::load(file);
    match (output, &result) {
        (Output::Table, Ok(config)) => summary(file, config, out)?,
        (Output::Table, Err(error)) => writeln!(err, "{error}")?,
        (Output::Json, _) => json(file, &result, out)?,
    }
    out.flush()?;
    Ok(result.is_ok())
}

fn summary(file: &Path, config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let Counts { services, frontends, backends } = Counts::of(config);
    write!(
        out,
        "{}: ok: {}, {}, {}",
        file.display(),
        counted(services, "service"),
        counted(frontends, "frontend"),
        counted(backends, "backend")
    )?;
    match config.warnings.len() + config.further_warnings {
        0 => writeln!(out)?,
        warnings => writeln!(out, ", {}", counted(warnings, "warning"))?,
    }
    for warning in &config.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    if config.further_warnings > 0 {
        writeln!(out, "warning: {}: and {} more", file.display(), config.further_warnings)?;
    }
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn json(file: &Path, result: &Result<Config, ConfigError>, out: &mut dyn Write) -> io::Result<()> {
    let mut report = Report {
        file: file.display().to_string(),
        ok: result.is_ok(),
        counts: None,
        error: None,
        problems: &[],
        further_problems: 0,
        warnings: &[],
        further_warnings: 0,
    };
    match result {
        Ok(config) => {
            report.counts = Some(Counts::of(config));
            report.warnings = &config.warnings;
            report.further_warnings = config.further_warnings;
        }
        Err(ConfigError::Invalid(problems)) => {
            report.problems = problems.first();
            report.further_problems = problems.further();
        }
        Err(other) => report.error = Some(other.to_string()),
    }
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Whether a file with this text is good, and what is printed on standard output and standard error; the
    /// file is called `segue.yaml` there.
    fn checked(text: &str, output: Output) -> (bool, String, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("segue.yaml");
        std::fs::write(&file, text).expect("written");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let good = report(&file, output, &mut out, &mut err).expect("printed");
        let printed = |bytes| {
            let text = String::from_utf8(bytes).expect("UTF-8");
            text.replace(&format!("{}/", directory.path().display()), "")
        };
        (good, printed(out), printed(err))
    }

    fn as_json(text: &str) -> (bool, Value) {
        let (good, out, err) = checked(text, Output::Json);
        assert_eq!(err, "");
        (good, serde_json::from_str(&out).expect("JSON"))
    }

    const GOOD: &str =
        "services:\n- name: a\n  frontends: [\"198.18.0.1:80\", \"198.18.0.2:80\"]\n  backends: []\n";
    const WARNING: &str =
        "services[0].backends: is empty; every connect to this service is refused until there are backends";

    #[test]
    fn a_good_file_is_summed_up_with_its_warnings() {
        let expected = format!(
            "segue.yaml: ok: 1 service, 2 frontends, 0 backends, 1 warning\nwarning: segue.yaml:2:9: {WARNING}\n"
        );
        assert_eq!(checked(GOOD, Output::Table), (true, expected, String::new()));
        let expected = "segue.yaml: ok: 0 services, 0 frontends, 0 backends\n".into();
        assert_eq!(checked("services: []", Output::Table), (true, expected, String::new()));
    }

    #[test]
    fn problems_go_to_standard_error() {
        let (good, out, err) = checked("services:\n- nmae: a\n", Output::Table);
        assert_eq!((good, out.as_str(), err.lines().count()), (false, "", 4));
        assert!(
            err.starts_with("segue.yaml:2:3: services[0].nmae: is not a known field; did you mean `name`?\n")
        );
    }

    #[test]
    fn json_says_the_same() {
        let (message, field) = (&WARNING["services[0].backends: ".len()..], "services[0].backends");
        let (good, mut value) = as_json(GOOD);
        value["warnings"][0]["file"] = "f".into();
        value["file"] = "f".into();
        let expected = json!({
            "file": "f", "ok": true, "services": 1, "frontends": 2, "backends": 0, "error": null,
            "problems": [], "further_problems": 0, "further_warnings": 0,
            "warnings": [{ "file": "f", "line": 2, "column": 9, "field": field, "message": message }],
        });
        assert_eq!((good, value), (true, expected));
        let (good, value) = as_json(&("services:\n".to_owned() + &"- {}\n".repeat(10)));
        assert_eq!((good, &value["ok"], &value["further_problems"]), (false, &json!(false), &json!(10)));
        assert_eq!(value["problems"].as_array().map(Vec::len), Some(20));
        assert_eq!(value["problems"][0]["line"], 2);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        for output in [Output::Table, Output::Json] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let missing = Path::new("/nonexistent/segue.yaml");
            assert!(!report(missing, output, &mut out, &mut err).expect("printed"));
            let text = String::from_utf8([out, err].concat()).expect("UTF-8");
            assert!(text.contains("/nonexistent/segue.yaml: cannot be read: No such file"), "{text}");
        }
    }
}
