//! `cargo xtask setup`: installs what building, testing and the demo need, and checks the kernel. It prints
//! every step, and does nothing where nothing is missing.

use anyhow::{Context, bail};

use crate::apt::{self, Available, NoServices};
use crate::bpf_toolchain::{self, Missing};
use crate::host;
use crate::python_packages::Set;
use crate::step::Step;

/// The oldest compiler the workspace accepts (`rust-version`), as (major, minor).
const OLDEST_RUST: (u32, u32) = (1, 90);

/// The release of bpf-linker that Segue is built with, and the LLVM major versions it can be built for.
const LINKER: &str = "bpf-linker@0.13.0";
const LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// Programs that tests, demo and benchmarks run, and the Debian package of each.
const PROGRAMS: [(&str, &str); 29] = [
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("redis-benchmark", "redis-tools"),
    // The server and pgbench lie where no search for programs finds them; this comes with them.
    ("pg_ctlcluster", "postgresql"),
    ("mariadbd", "mariadb-server-core"),
    ("mysqlslap", "mariadb-client"),
    ("kcat", "kcat"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("nc", "netcat-openbsd"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("openssl", "openssl"),
    ("promtool", "prometheus"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ps", "procps"),
    ("nsenter", "util-linux"),
    ("strace", "strace"),
    ("faketime", "faketime"),
    ("tmux", "tmux"),
    ("bpftool", "bpftool"),
    ("dot", "graphviz"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];

/// A client and a server of gRPC, for tests.
const GRPC: Set = Set {
    name: "grpc",
    what: "gRPC's own library for Python, which tests of calls run",
    takes: "20 MB",
    packages: &["grpcio==1.85.3"],
    with_dependencies: true,
    proof: "grpc/__init__.py",
};

/// How to set up.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print the commands and run none.
    #[arg(long)]
    dry_run: bool,
}

/// What was found to be missing on this machine.
#[derive(Debug, Default)]
struct Lack {
    toolchain: Option<Missing>,
    /// cargo's subcommands clippy and fmt.
    components: bool,
    /// Debian packages of programs that are not there.
    packages: Vec<String>,
}

/// What there is to install it with.
#[derive(Debug, Default)]
struct Means {
    /// What apt offers, where there is apt.
    apt: Option<Available>,
    rustup: bool,
    /// cargo-binstall, which fetches released binaries.
    binstall: bool,
}

/// Installs everything that is missing and checks the kernel.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    install(&Lack::of_everything(), arguments.dry_run)?;
    if !arguments.dry_run {
        GRPC.install()?;
    }
    if !arguments.dry_run
        && let Ok(toolchain) = bpf_toolchain::find()
    {
        eprintln!("setup: everything is installed; kernel programs are built with {toolchain}");
    }
    host::check_ebpf()?;
    eprintln!("setup: this kernel loads eBPF programs");
    Ok(())
}

/// Installs what building needs, and nothing else.
pub(crate) fn toolchain() -> anyhow::Result<()> {
    install(&Lack { toolchain: bpf_toolchain::find().err(), ..Lack::default() }, false)
}

/// Installs what building and the unprivileged tests need; with `programs`, also what other tests run.
pub(crate) fn for_tests(programs: bool) -> anyhow::Result<()> {
    let mut lack = Lack::of_everything();
    if !programs {
        lack.packages.clear();
    }
    install(&lack, false)?;
    if programs {
        GRPC.install()?;
    }
    Ok(())
}

/// Installs what of these is missing: programs, each with its Debian package.
pub(crate) fn programs(wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    install(&Lack { packages: missing(wanted), ..Lack::default() }, false)
}

/// The Debian packages of those programs that are not there.
fn missing(wanted: &[(&str, &str)]) -> Vec<String> {
    let absent = wanted.iter().filter(|(program, _)| host::program(program).is_none());
    absent.map(|(_, package)| (*package).to_owned()).collect()
}

impl Lack {
    fn of_everything() -> Self {
        Self {
            toolchain: bpf_toolchain::find().err(),
            components: !has_component("cargo-clippy") || !has_component("cargo-fmt"),
            packages: missing(&PROGRAMS),
        }
    }

    fn is_nothing(&self) -> bool {
        self.toolchain.is_none() && !self.components && self.packages.is_empty()
    }

    fn needs_apt(&self) -> bool {
        self.toolchain.is_some() || !self.packages.is_empty()
    }
}

/// Whether the toolchain in use has this program. rustup puts a stand-in on `PATH` also for those it lacks, so
/// the place beside the cargo that runs us is what counts.
fn has_component(program: &str) -> bool {
    let cargo = std::env::var_os("CARGO").map(std::path::PathBuf::from);
    match cargo.as_ref().and_then(|cargo| cargo.parent()) {
        Some(directory) if directory.join(program).is_file() => true,
        Some(_) if has_rustup() => false,
        _ => host::program(program).is_some(),
    }
}

fn has_rustup() -> bool {
    host::program("rustup").is_some()
}

fn install(lack: &Lack, dry_run: bool) -> anyhow::Result<()> {
    if lack.is_nothing() {
        return Ok(());
    }
    let mut steps = Vec::new();
    let update = lack.needs_apt() && apt::exists() && apt::lists_are_stale();
    if update && (dry_run || !host::is_root()) {
        steps.push(apt::update());
    } else if update {
        apt::update().run()?;
    }
    let means = Means {
        apt: if apt::exists() { Some(apt::available(OLDEST_RUST)?) } else { None },
        rustup: has_rustup(),
        binstall: host::program("cargo-binstall").is_some(),
    };
    steps.extend(plan(lack, &means)?);
    if dry_run {
        steps.iter().for_each(|step| println!("{step}"));
        return Ok(());
    }
    if !host::is_root() && steps.iter().any(|step| step.needs_root) {
        let lines: Vec<String> = steps
            .iter()
            .map(|step| if step.needs_root { format!("  sudo {step}") } else { format!("  {step}") })
            .collect();
        bail!("what is missing can only be installed by root; run this and try again:\n{}", lines.join("\n"));
    }
    run_steps(&steps)
}

fn run_steps(steps: &[Step]) -> anyhow::Result<()> {
    let services = steps.iter().any(|step| step.needs_root).then(NoServices::new).transpose();
    let _services = services.context("cannot keep packages from starting services")?;
    steps.iter().try_for_each(Step::run)?;
    match bpf_toolchain::find() {
        Ok(_) => Ok(()),
        Err(missing) => bail!("after installing, still: {missing}"),
    }
}

/// The commands that install what is missing, in order.
fn plan(lack: &Lack, means: &Means) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    match &lack.toolchain {
        None => {}
        Some(missing @ Missing::NamedCompiler(_)) => bail!("{missing}; unset it or name another"),
        Some(Missing::Compiler) => steps.extend(plan_compiler(means)?),
        Some(Missing::Linker(llvm) | Missing::OldLinker { needs: llvm, .. }) => {
            steps.extend(plan_linker(*llvm, means)?);
        }
    }
    if lack.components {
        if !means.rustup {
            bail!("cargo has no clippy or no fmt; install the packages of your distribution that bring them");
        }
        steps.push(Step::new("installing clippy and rustfmt", "", "rustup component add clippy rustfmt"));
    }
    if !lack.packages.is_empty() {
        if means.apt.is_none() {
            bail!(
                "these Debian packages' programs are missing and there is no apt: {}",
                lack.packages.join(" ")
            );
        }
        steps.push(apt::install(&lack.packages.join(" "), "less than a minute", &lack.packages));
    }
    Ok(steps)
}

/// A distribution's compiler comes first: it is one known release, where nightly is another each day.
fn plan_compiler(means: &Means) -> anyhow::Result<Vec<Step>> {
    if let Some(core) = means.apt.as_ref().and_then(|apt| apt.bpf_core.as_ref()) {
        let packages = [core.compiler.clone(), core.library.clone()];
        let mut steps = vec![apt::install("a compiler for the BPF target", "about 20 seconds", &packages)];
        steps.extend(plan_linker(core.llvm, means)?);
        return Ok(steps);
    }
    if !means.rustup {
        bail!("{}; install rustup, or a distribution's package of rustc with one", Missing::Compiler);
    }
    let words = "rustup toolchain install nightly --profile minimal --component rust-src";
    let mut steps = vec![Step::new("installing nightly with rust-src", "about a minute", words)];
    let newest = means.apt.as_ref().and_then(|apt| apt.llvm.iter().rev().find(|v| LINKER_LLVM.contains(v)));
    steps.extend(plan_linker(newest.copied().unwrap_or(LINKER_LLVM[LINKER_LLVM.len() - 1]), means)?);
    Ok(steps)
}

/// bpf-linker for a compiler of this LLVM major version: a released binary where cargo-binstall is there, else
/// built against the distribution's LLVM.
fn plan_linker(llvm: u32, means: &Means) -> anyhow::Result<Vec<Step>> {
    if means.binstall {
        let words = format!("cargo binstall --no-confirm {LINKER}");
        return Ok(vec![Step::new("installing bpf-linker", "", &words)]);
    }
    let offered = means.apt.as_ref().map_or(&[][..], |apt| &apt.llvm);
    let Some(usable) = offered.iter().find(|v| **v >= llvm && LINKER_LLVM.contains(v)) else {
        bail!(
            "bpf-linker must be built with LLVM {llvm} or later, and no package llvm-{llvm}-dev is to be had here; \
             put a released binary of bpf-linker on PATH, or install cargo-binstall and run this again"
        );
    };
    let libraries = ["llvm-*-dev", "libpolly-*-dev", "zlib1g-dev", "libzstd-dev", "g++"]
        .map(|name| name.replace('*', &usable.to_string()));
    let words = format!("cargo install {LINKER} --no-default-features --features llvm-{usable} --force");
    Ok(vec![
        apt::install(&format!("LLVM {usable}"), "about 30 seconds", &libraries),
        Step::new("installing bpf-linker", "about a minute", &words)
            .with("LLVM_PREFIX", format!("/usr/lib/llvm-{usable}")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apt::BpfCore;

    fn debian() -> Means {
        let core =
            BpfCore { library: "libstd-rust-web-dev-bpf".into(), compiler: "rustc-web".into(), llvm: 22 };
        Means {
            apt: Some(Available { bpf_core: Some(core), llvm: vec![14, 19, 22] }),
            rustup: true,
            binstall: false,
        }
    }

    fn lines(lack: &Lack, means: &Means) -> Vec<String> {
        plan(lack, means).unwrap().iter().map(Step::to_string).collect()
    }

    fn without_toolchain(missing: Missing) -> Lack {
        Lack { toolchain: Some(missing), ..Lack::default() }
    }

    #[test]
    fn a_bare_debian_gets_the_distribution_compiler_and_a_linker_of_the_same_llvm() {
        let lines = lines(&without_toolchain(Missing::Compiler), &debian());
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("rustc-web libstd-rust-web-dev-bpf"), "{lines:?}");
        assert!(lines[1].contains(" llvm-22-dev libpolly-22-dev "), "{lines:?}");
        assert!(lines[2].starts_with("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker@"), "{lines:?}");
        assert!(lines[2].contains("--features llvm-22"), "{lines:?}");
    }

    #[test]
    fn a_machine_with_a_compiler_gets_only_the_linker() {
        let lines = lines(&without_toolchain(Missing::Linker(22)), &debian());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("rustc")), "{lines:?}");
    }

    #[test]
    fn without_a_packaged_compiler_rustup_installs_nightly_with_its_source() {
        let mut means = debian();
        means.apt.as_mut().unwrap().bpf_core = None;
        let lines = lines(&without_toolchain(Missing::Compiler), &means);
        assert!(lines[0].contains("rustup toolchain install nightly"), "{lines:?}");
        assert!(lines[0].contains("rust-src"), "{lines:?}");
    }

    #[test]
    fn a_released_linker_is_preferred_where_it_can_be_fetched() {
        let means = Means { binstall: true, ..debian() };
        let lines = lines(&without_toolchain(Missing::Linker(22)), &means);
        assert_eq!(lines, ["cargo binstall --no-confirm bpf-linker@0.13.0"]);
    }

    #[test]
    fn an_llvm_older_than_the_compiler_is_refused() {
        let mut means = debian();
        means.apt.as_mut().unwrap().llvm = vec![14, 19];
        let error = plan(&without_toolchain(Missing::Linker(22)), &means).unwrap_err();
        assert!(error.to_string().contains("LLVM 22 or later"), "{error}");
    }

    #[test]
    fn missing_programs_are_installed_in_one_step_that_removes_nothing() {
        let lack = Lack { packages: vec!["wrk".into(), "curl".into()], ..Lack::default() };
        let lines = lines(&lack, &debian());
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("--no-remove wrk curl"), "{lines:?}");
    }

    #[test]
    fn nothing_is_planned_where_nothing_is_missing() {
        assert!(Lack::default().is_nothing());
        assert_eq!(plan(&Lack::default(), &debian()).unwrap(), []);
    }
}
