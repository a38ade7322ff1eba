//! Everything a developer runs: `cargo xtask --help`. One file per subcommand; what a subcommand does is not
//! known here.

mod actors;
mod apt;
mod backends;
mod bench;
mod bpf_toolchain;
mod build;
mod connection;
mod dashboards;
mod deb;
mod demo;
mod faults;
mod fuzz;
mod host;
mod image;
mod manifests;
mod node;
mod peers;
mod python_packages;
mod reference;
mod setup;
mod soak;
mod step;
mod test;
mod tidy;
mod vm;

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
    /// Show Segue at work: real connections, a config that changes, an agent that is killed, backends that fail.
    Demo(demo::Arguments),
    /// Run the test tiers and the lints.
    Test(test::Arguments),
    /// Run the fuzz targets for as long as you like, with seeds no run had before.
    Fuzz(fuzz::Arguments),
    /// Do to a node what goes wrong with nodes, and say what held.
    Faults(faults::Arguments),
    /// Restart, upgrade and kill agents under load, many times.
    Soak(soak::Arguments),
    /// Measure, each thing against its control in the same run.
    Bench(bench::Arguments),
    /// Run Segue on other kernels, in emulated machines.
    Vm(vm::Arguments),
    /// Check the invariants of the source tree that no compiler checks.
    Tidy(tidy::Arguments),
    /// Rewrite the parts of docs/ that are made from the code, and the dashboards.
    Reference,
    /// Rewrite the plain Kubernetes manifests from the Helm chart, and check both.
    Manifests(manifests::Arguments),
    /// Build the container image: a static binary and nothing else.
    Image(build::Carried),
    /// Build the Debian package.
    Deb(build::Carried),
    /// The demo's client.
    #[command(hide = true)]
    DemoClient(demo::ClientArguments),
    /// The servers of benchmarks where there is no nginx.
    #[command(hide = true)]
    Backends(backends::Arguments),
    /// Servers of demo and benchmarks that fail as they are told.
    #[command(hide = true)]
    Actors(actors::Arguments),
    /// The benchmarks' client.
    #[command(hide = true)]
    BenchProbe,
    /// The benchmarks' load.
    #[command(hide = true)]
    BenchLoad(bench::LoadArguments),
    /// The client of comparisons.
    #[command(hide = true)]
    BenchClient(bench::ClientArguments),
    /// The first process of the emulated machines.
    #[command(hide = true)]
    VmGuest(vm::GuestArguments),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoClient(arguments) => demo::run_client(&arguments),
        Command::Backends(arguments) => backends::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Actors(arguments) => actors::run(&arguments),
        Command::BenchProbe => bench::run_probe(),
        Command::BenchLoad(arguments) => bench::run_load(&arguments),
        Command::BenchClient(arguments) => bench::run_client(&arguments),
        Command::Faults(arguments) => faults::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::VmGuest(arguments) => vm::run_guest(&arguments),
        Command::Reference => reference::run(),
        Command::Manifests(arguments) => manifests::run(&arguments),
        Command::Image(carried) => image::run(&carried),
        Command::Deb(carried) => deb::run(&carried),
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
