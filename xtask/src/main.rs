//! Everything a developer runs: `cargo xtask --help`. One file per subcommand; what a subcommand does is not
//! known here.

mod apt;
mod bpf_toolchain;
mod build;
mod host;
mod setup;
mod step;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Builds, tests and shows Segue.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Install what is missing for building and testing, and check that this kernel can run eBPF.
    Setup(setup::Arguments),
    /// Build the agent with its kernel programs.
    Build(build::Arguments),
    /// Run the test tiers and the lints.
    Test(test::Arguments),
    /// Check the invariants of the source tree that no compiler checks.
    Tidy(tidy::Arguments),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn workspace() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().map(PathBuf::from).unwrap_or(package)
}
