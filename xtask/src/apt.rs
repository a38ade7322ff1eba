//! What Debian's and Ubuntu's package lists say, and installing from them without starting the services that
//! packages bring. It does not know what Segue needs.

mod suite;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context;

use crate::step::Step;

pub(crate) use suite::Suite;

/// Older lists may name package versions the mirror no longer has.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Debian's hook that decides whether a package may start its service: exit status 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Put here by `cargo xtask setup` while it installs; it removes it again.\nexit 101\n";

/// A package with `core` for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BpfCore {
    /// The package of the libraries.
    pub(crate) library: String,
    /// The package of the compiler they belong to.
    pub(crate) compiler: String,
    /// The compiler's LLVM major version.
    pub(crate) llvm: u32,
}

/// What can be installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Available {
    /// The newest compiler with a `core` for the BPF target.
    pub(crate) bpf_core: Option<BpfCore>,
    /// Major versions of LLVM, ascending.
    pub(crate) llvm: Vec<u32>,
}

/// Whether the system installs packages with apt.
pub(crate) fn exists() -> bool {
    crate::host::program("apt-get").is_some()
}

/// Whether the package lists are older than a day or were never fetched.
pub(crate) fn lists_are_stale() -> bool {
    let directory = Path::new("/var/lib/apt/lists");
    let fetched = fs::read_dir(directory).is_ok_and(|mut entries| {
        entries
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
    });
    let age = fs::metadata(directory)
        .and_then(|metadata| metadata.modified())
        .map(|modified| SystemTime::now().duration_since(modified).unwrap_or_default());
    !fetched || age.is_ok_and(|age| age > LISTS_MAX_AGE)
}

/// Fetches the package lists.
pub(crate) fn update() -> Step {
    Step::new("fetching apt's package lists", "some seconds", "apt-get -q update").needing_root()
}

/// Installs packages and nothing they merely recommend. Never removes one: where a package cannot live beside
/// what is installed, apt says so and stops.
pub(crate) fn install(what: &str, takes: &'static str, packages: &[String]) -> Step {
    let words = format!("apt-get -q install -y --no-install-recommends --no-remove {}", packages.join(" "));
    Step::new(format!("installing {what}"), takes, &words)
        .needing_root()
        .with("DEBIAN_FRONTEND", "noninteractive")
}

/// Asks apt what there is. `oldest_rust` is the oldest compiler that can build Segue, as (major, minor).
pub(crate) fn available(oldest_rust: (u32, u32)) -> anyhow::Result<Available> {
    let names = apt_cache(&["pkgnames"])?;
    let mut llvm: Vec<u32> = names.lines().filter_map(llvm_dev_major).collect();
    llvm.sort_unstable();
    llvm.dedup();
    let mut best: Option<((u32, u32), BpfCore)> = None;
    for library in names.lines().filter(|name| is_bpf_core(name)) {
        let compiler = library.replace("libstd-rust", "rustc").replace("-dev-bpf", "");
        let Some(version) = candidate_version(&apt_cache(&["policy", library])?) else { continue };
        if version < oldest_rust || best.as_ref().is_some_and(|(known, _)| *known >= version) {
            continue;
        }
        let closure = apt_cache(&["depends", "--recurse", "--important", &compiler])?;
        let Some(llvm) = libllvm_major(&closure) else { continue };
        best = Some((version, BpfCore { library: library.to_owned(), compiler, llvm }));
    }
    Ok(Available { bpf_core: best.map(|(_, core)| core), llvm })
}

fn apt_cache(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("apt-cache").args(arguments).output().context("cannot run apt-cache")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `libstd-rust-web-dev-bpf` and `libstd-rust-dev-bpf`, but no library of one fixed version.
fn is_bpf_core(name: &str) -> bool {
    name.starts_with("libstd-rust-") && name.ends_with("dev-bpf")
}

fn llvm_dev_major(name: &str) -> Option<u32> {
    name.strip_prefix("llvm-")?.strip_suffix("-dev")?.parse().ok()
}

/// Reads `1.96` from the line `  Candidate: 1.96.0+dfsg1-1`.
fn candidate_version(policy: &str) -> Option<(u32, u32)> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The major version of the newest `libllvmNN` among the dependencies.
fn libllvm_major(closure: &str) -> Option<u32> {
    let names = closure.lines().filter_map(|line| line.trim().rsplit(' ').next());
    names
        .filter_map(|name| name.strip_prefix("libllvm"))
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .max()
}

/// While it lives, packages that are installed do not start their services.
pub(crate) struct NoServices {
    ours: bool,
}

impl NoServices {
    /// Puts the hook in place, unless the administrator has one of their own.
    pub(crate) fn new() -> io::Result<Self> {
        // One that was left behind by a run that was killed is ours as well.
        let ours = match fs::read_to_string(POLICY) {
            Ok(text) => text == POLICY_TEXT,
            Err(_) => {
                fs::write(POLICY, POLICY_TEXT)?;
                fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
                true
            }
        };
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: cannot remove {POLICY}: {error}; services of packages will not start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_dependencies() {
        let closure =
            "rustc-web\n  Depends: libstd-rust-web-dev\nlibstd-rust-web-1.96\n  Depends: libllvm22\n";
        assert_eq!(libllvm_major(closure), Some(22));
        assert_eq!(libllvm_major("  Depends: libllvm19t64\n"), Some(19));
        assert_eq!(libllvm_major("  Depends: libc6\n"), None);
    }

    #[test]
    fn the_candidate_version_is_the_one_apt_would_install() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(candidate_version(policy), Some((1, 96)));
        assert_eq!(candidate_version("rustc-web:\n  Candidate: (none)\n"), None);
    }

    #[test]
    fn package_names_are_told_apart() {
        assert!(is_bpf_core("libstd-rust-web-dev-bpf"));
        assert!(is_bpf_core("libstd-rust-dev-bpf"));
        assert!(!is_bpf_core("libstd-rust-web-dev-windows"));
        assert_eq!(llvm_dev_major("llvm-22-dev"), Some(22));
        assert_eq!(llvm_dev_major("llvm-dev"), None);
        assert_eq!(llvm_dev_major("llvm-22"), None);
    }
}
