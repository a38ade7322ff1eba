//! The command line: what a person types and reads.

pub mod check;

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines and tables for people.
    #[default]
    Human,
    /// One JSON value for programs.
    Json,
}
