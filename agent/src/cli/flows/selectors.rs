//! The options that select flows, one for each [`Key`], and `--not` before any of them.

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::cli::explain::encoded;
use crate::flows::Selector;
use crate::flows::selector::Key;

const NOT: &str = "not";

/// The selectors that were typed.
#[derive(Clone, Debug, Default)]
pub struct Selectors(pub Selector);

impl Selectors {
    /// They as the query of a request; empty where there are none.
    pub fn query(&self) -> Vec<String> {
        self.0.pairs().map(|(key, value)| format!("{key}={}", encoded(&value))).collect()
    }
}

impl FromArgMatches for Selectors {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let wrong = |text: String| clap::Error::raw(ErrorKind::ValueValidation, format!("{text}\n"));
        let mut typed: Vec<(usize, Key, String)> = Vec::new();
        for &key in Key::ALL {
            let places = matches.indices_of(key.name()).into_iter().flatten();
            let values = matches.get_many::<String>(key.name()).into_iter().flatten();
            typed.extend(places.zip(values).map(|(at, value)| (at, key, value.clone())));
        }
        typed.sort_by_key(|(at, ..)| *at);
        let mut negations = matches.indices_of(NOT).into_iter().flatten().peekable();
        let mut selector = Selector::default();
        for (at, key, value) in typed {
            let mut negation = "";
            while negations.next_if(|before| *before < at).is_some() {
                negation = "not.";
            }
            selector
                .add(&format!("{negation}{}", key.name()), &value)
                .map_err(|error| wrong(format!("--{}: {error}", key.name())))?;
        }
        if negations.next().is_some() {
            return Err(wrong("--not negates the selector after it, and there is none".to_owned()));
        }
        Ok(Self(selector))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Selectors {
    fn augment_args(command: Command) -> Command {
        let not = Arg::new(NOT)
            .long(NOT)
            .action(ArgAction::Append)
            .num_args(0)
            .default_missing_value("true")
            .value_parser(ValueParser::bool())
            .help("Leave out what the next selector matches")
            .help_heading("Selectors");
        let options = Key::ALL.iter().map(|key| {
            let option = Arg::new(key.name())
                .long(key.name())
                .value_name(key.value_name())
                .action(ArgAction::Append)
                .help(key.help().trim())
                .help_heading("Selectors");
            if *key == Key::HttpStatus { option.visible_alias("status") } else { option }
        });
        command.args(options.chain([not]))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &str) -> Result<Vec<String>, clap::Error> {
        let command = Selectors::augment_args(Command::new("flows").no_binary_name(true));
        let matches = command.try_get_matches_from(words.split_whitespace())?;
        Ok(Selectors::from_arg_matches(&matches)?.query())
    }

    #[test]
    fn not_negates_the_selector_after_it_and_no_other() {
        let query =
            typed("--to-service shop/* --not --verdict fin --from-workload nginx --not --verdict=drained");
        let expected =
            ["to-service=shop/%2A", "not.verdict=fin", "from-workload=nginx", "not.verdict=drained"];
        assert_eq!(query.expect("selectors"), expected);
        assert_eq!(typed("--not --not --to-port 80").expect("selectors"), ["not.to-port=80"]);
        assert_eq!(typed("").expect("none"), [""; 0]);
    }

    #[test]
    fn a_status_has_two_names() {
        let expected = ["http-status=500-599", "http-status=404"];
        assert_eq!(typed("--status 5xx --http-status 404").expect("selectors"), expected);
    }

    #[test]
    fn what_is_typed_wrongly_is_said_at_once() {
        for (words, part) in [
            ("--to-port 80 --not", "there is none"),
            ("--verdict refusd", "did you mean `refused`"),
            ("--protocol sctp", "--protocol: `sctp` is no protocol"),
            ("--to-ip host", "an address"),
        ] {
            let error = typed(words).expect_err("typed wrongly");
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
