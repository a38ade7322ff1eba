//! The `segue` command.

fn main() -> std::process::ExitCode {
    segue_agent::cli::main()
}
