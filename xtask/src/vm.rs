//! `cargo xtask vm`: boots other kernels and runs Segue on them: the agent on the root cgroup, as in production, and
//! the kernel tier. What is checked in the guest is `guest`'s business.

mod budget;
mod guest;
mod image;
mod kernels;
mod machine;
mod report;
mod selection;

use std::fs::File;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;

pub(crate) use guest::{Arguments as GuestArguments, run as run_guest};
use image::Image;
pub(crate) use kernels::Series;
use machine::Accelerator;
use report::Outcome;

use crate::{build, host, workspace};

/// Modules that the tests or the agent may need, in the order in which they can be loaded.
const MODULES: [&str; 4] = ["inet_diag", "tcp_diag", "udp_diag", "veth"];

/// Programs the kernel tier runs, as far as this machine has them.
const PROGRAMS: [&str; 25] = [
    "sh",
    "sleep",
    "find",
    "ip",
    "nginx",
    "redis-server",
    "redis-cli",
    "dnsmasq",
    "dig",
    "nc",
    "curl",
    "openssl",
    "bpftool",
    "cat",
    "nft",
    "setpriv",
    "unshare",
    "mount",
    "touch",
    "ls",
    "rm",
    "mv",
    "chown",
    "prlimit",
    "ss",
];

/// Parts of Python's library that no test needs.
const PYTHON_WITHOUT: [&str; 8] =
    ["__pycache__", "test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip", "dist-packages"];

/// What to boot, and what to run there.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which kernels.
    #[arg(long, value_enum, default_value_t = Series::All)]
    kernel: Series,
    /// Run only tests whose name contains this; may be given again. By itself: those that say something about a kernel.
    #[arg(long)]
    test: Vec<String>,
    /// Run the whole kernel tier.
    #[arg(long, conflicts_with = "test")]
    every_test: bool,
    /// Only load the programs and run the pass at the root cgroup.
    #[arg(long, conflicts_with_all = ["test", "every_test"])]
    no_tests: bool,
    /// Take the agent as it is built for tests, which saves building it with optimisations. Its kernel programs are the same.
    #[arg(long)]
    unoptimised: bool,
    /// How much longer tests may wait than on an ordinary machine; by itself 1 with KVM and 8 without.
    #[arg(long)]
    patience: Option<u32>,
    /// Minutes after which a guest is given up.
    #[arg(long, default_value_t = 40)]
    limit_minutes: u64,
    /// Write what the verifier processed into the budget instead of comparing.
    #[arg(long)]
    bless: bool,
    /// How to print the table.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What to do with which kernels.
struct Plan {
    kernels: Vec<Series>,
    /// Parts of the names of the tests to run; an empty list is all of them. `None`: no tests.
    tests: Option<Vec<String>>,
    optimised: bool,
    patience: Option<u32>,
    limit: Duration,
}

impl Plan {
    fn of(arguments: &Arguments) -> Self {
        let kernels = match arguments.kernel {
            Series::All => Series::EACH.to_vec(),
            one => vec![one],
        };
        let tests = match (arguments.no_tests, arguments.every_test || !arguments.test.is_empty()) {
            (true, _) => None,
            (false, true) => Some(arguments.test.clone()),
            (false, false) => Some(selection::names().map(str::to_owned).collect()),
        };
        Self {
            kernels,
            tests,
            optimised: !arguments.unoptimised,
            patience: arguments.patience,
            limit: Duration::from_secs(60 * arguments.limit_minutes),
        }
    }

    /// Every kernel, without tests, with the agent that the other tiers have built already.
    fn short() -> Self {
        Self {
            kernels: Series::EACH.to_vec(),
            tests: None,
            optimised: false,
            patience: None,
            limit: SHORT_LIMIT,
        }
    }
}

/// How long a guest of the short form may take: a minute is usual where the processor is emulated.
const SHORT_LIMIT: Duration = Duration::from_secs(6 * 60);

/// The part of the matrix that is a tier of its own: whether each kernel takes every program within its
/// budget, and what an agent on the root cgroup does there. How many checks passed, and what is wrong.
pub(crate) fn short() -> anyhow::Result<(usize, Vec<String>)> {
    let outcomes = matrix(&Plan::short())?;
    print!("{}", report::table(&outcomes));
    let mut problems = report::problems(&outcomes);
    problems.extend(budget::check(&workspace().join(budget::FILE), &outcomes)?);
    Ok((outcomes.iter().map(Outcome::good_checks).sum(), problems))
}

/// Why this machine cannot run the matrix, where it cannot.
pub(crate) fn obstacle() -> Option<&'static str> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("the kernels of the matrix are for x86-64, and so must be what runs on them");
    }
    (!crate::apt::exists())
        .then_some("the kernels of the matrix come from Debian, by apt-get, which is not here")
}

/// Runs the matrix. An error where anything failed or a program is over its budget.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let outcomes = matrix(&Plan::of(arguments))?;
    match arguments.output {
        Format::Table => print!("{}", report::table(&outcomes)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report::json(&outcomes))?),
    }
    let mut problems = report::problems(&outcomes);
    let path = workspace().join(budget::FILE);
    if arguments.bless {
        budget::bless(&path, &outcomes)?;
    } else {
        problems.extend(budget::check(&path, &outcomes)?);
    }
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    Ok(())
}

fn matrix(plan: &Plan) -> anyhow::Result<Vec<Outcome>> {
    if let Some(obstacle) = obstacle() {
        bail!("{obstacle}");
    }
    let scratch = kernels::cache()?.join("guest");
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let _turn = take_turn(&scratch)?;
    let programs = build_programs(plan.tests.as_deref(), plan.optimised)?;
    let mut guests = Vec::new();
    for &series in &plan.kernels {
        let kernel = kernels::kernel(series)?;
        let root = scratch.join(format!("{}.cpio", series.name()));
        write_image(&programs, plan.tests.as_deref().unwrap_or_default(), &kernel.modules, &scratch, &root)?;
        guests.push(Guest { series, kernel: kernel.image, root });
    }
    let Some(first) = guests.first() else { return Ok(Vec::new()) };
    let accelerator = Accelerator::find(kernels::emulator()?, &first.kernel, &first.root);
    // What emulates keeps one processor of this machine busy, whatever the guest has; one that is not emulated has them all.
    let at_once = match accelerator {
        Accelerator::Kvm => 1,
        Accelerator::Tcg => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    let queue = Mutex::new(guests.iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(guest) = next() {
            outcomes.push((guest.series, guest.run(plan, accelerator)?));
        }
        anyhow::Ok(outcomes)
    };
    let ended = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(guests.len())).map(|_| scope.spawn(work)).collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a guest's thread panicked"))?);
        ended.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut outcomes: Vec<_> = ended.into_iter().flatten().collect();
    outcomes.sort_by_key(|(series, _)| plan.kernels.iter().position(|known| known == series));
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// A machine to boot.
struct Guest {
    series: Series,
    kernel: PathBuf,
    root: PathBuf,
}

impl Guest {
    fn run(&self, plan: &Plan, accelerator: Accelerator) -> anyhow::Result<Outcome> {
        let name = self.series.name();
        let patience = plan.patience.unwrap_or(if accelerator == Accelerator::Kvm { 1 } else { 8 });
        let mut words = vec![format!("--patience={patience}")];
        if plan.tests.is_none() {
            words.push("--no-tests".into());
        }
        eprintln!("vm: Linux {name} (its console: {})", self.root.with_extension("log").display());
        let begun = Instant::now();
        let said =
            machine::boot(kernels::emulator()?, accelerator, &self.kernel, &self.root, &words, plan.limit)?;
        let outcome = Outcome::read(name, &said);
        eprintln!("vm: Linux {name}: {}, after {} s", outcome.in_short(), begun.elapsed().as_secs());
        Ok(outcome)
    }
}

/// Runs one after the other: two at once would take each other's root file systems and reports. The turn ends with the file.
fn take_turn(scratch: &Path) -> anyhow::Result<File> {
    let path = scratch.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("vm: another run is under way; waiting for its end");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// What was built here and runs there.
struct Programs {
    segue: PathBuf,
    xtask: PathBuf,
    client: Option<PathBuf>,
    tests: Option<PathBuf>,
}

fn build_programs(tests: Option<&[String]>, optimised: bool) -> anyhow::Result<Programs> {
    if let Some(filters) = tests {
        build::for_kernel_tier(filters.iter().map(String::as_str))?;
    }
    build::segue(optimised)?;
    let segue = build::binary(optimised);
    let xtask = std::env::current_exe().context("no path of this program")?;
    if tests.is_none() {
        return Ok(Programs { segue, xtask, client: None, tests: None });
    }
    let mut command = build::cargo();
    command
        .args(["test", "--no-run", "--package", "segue-tests", "--test", "kernel"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    expect(output.status, "building the kernel tier")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tests = executable(&text, "kernel").context("cargo names no program of the kernel tier")?;
    let client = build::binary(false).with_file_name("socket-client");
    Ok(Programs { segue, xtask, client: Some(client), tests: Some(tests) })
}

fn expect(status: ExitStatus, what: &str) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// The program of the target `name`, as cargo's messages say.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

fn write_image(
    programs: &Programs,
    filters: &[String],
    modules: &Path,
    scratch: &Path,
    to: &Path,
) -> anyhow::Result<()> {
    let mut image = Image::new();
    // More than a kernel's command line takes.
    image.file(guest::FILTERS, 0o644, filters.join("\n").as_bytes());
    image.stripped(&programs.segue, guest::SEGUE, scratch)?;
    image.stripped(&programs.xtask, "/init", scratch)?;
    if let (Some(client), Some(tests)) = (&programs.client, &programs.tests) {
        image.stripped(client, "/target/debug/socket-client", scratch)?;
        let other = client.with_file_name("segue-other-layouts");
        if other.exists() {
            image.stripped(&other, guest::OTHER_SEGUE, scratch)?;
        }
        image.stripped(tests, guest::TESTS, scratch)?;
        for name in PROGRAMS {
            if let Some(program) = host::program(name) {
                image.program(&program, &format!("/usr/bin/{name}"))?;
            }
        }
        add_python(&mut image)?;
    } else if let Some(ip) = host::program("ip") {
        image.program(&ip, "/usr/bin/ip")?;
    }
    for (place, name) in MODULES.into_iter().enumerate() {
        image.module(modules, name, place)?;
    }
    image.write(to)
}

/// Adds the system's Python with its library.
fn add_python(image: &mut Image) -> anyhow::Result<()> {
    let python = Path::new("/usr/bin/python3");
    let Ok(output) = std::process::Command::new(python)
        .args(["-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"])
        .output()
    else {
        return Ok(());
    };
    image.program(python, "/usr/bin/python3")?;
    let library = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    image.tree(Path::new(&library), &|name| PYTHON_WITHOUT.contains(&name) || name.starts_with("config-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_test_target_is_found_among_cargos_messages() {
        let messages = "{\"target\":{\"name\":\"a\"},\"executable\":\"/x/a\"}\nno json\n\
                        {\"target\":{\"name\":\"kernel\"},\"executable\":null}\n\
                        {\"target\":{\"name\":\"kernel\"},\"executable\":\"/x/kernel-1\"}\n";
        assert_eq!(executable(messages, "kernel"), Some(PathBuf::from("/x/kernel-1")));
        assert_eq!(executable(messages, "other"), None);
    }
}
