//! Packages of any Debian suite, fetched and unpacked beside the system: nothing is installed, and apt's own lists
//! are left alone. It does not know what the packages are for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Names another mirror of Debian than the one the machine's own apt uses.
const MIRROR_VARIABLE: &str = "SEGUE_DEBIAN_MIRROR";

/// Debian's keys, where its own package puts them.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite, with apt's account of it in a directory of its own.
pub(crate) struct Suite {
    name: &'static str,
    directory: PathBuf,
}

impl Suite {
    /// The suite `name`, kept under `cache`. Fetches its package lists.
    pub(crate) fn open(name: &'static str, cache: &Path) -> anyhow::Result<Self> {
        let suite = Self { name, directory: cache.join("apt").join(name) };
        for directory in ["lists/partial", "archives/partial"] {
            let path = suite.directory.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let line = format!("deb [signed-by={KEYS}] {} {name} main\n", mirror()?);
        fs::write(suite.directory.join("sources.list"), line).context("cannot write a list of sources")?;
        fs::write(suite.directory.join("status"), "").context("cannot write an empty package status")?;
        output(suite.command("apt-get").args(["-q", "update"]))
            .with_context(|| {
                format!(
                    "cannot fetch the package lists of Debian {name}; when the suite has left the mirror, name one that \
                     still has it by {MIRROR_VARIABLE}"
                )
            })?;
        Ok(suite)
    }

    /// The packages that installing `package` on an empty system would bring and whose names `wanted` accepts.
    pub(crate) fn closure(
        &self,
        package: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let plan = output(self.command("apt-get").args([
            "-s",
            "-o",
            "Debug::NoLocking=1",
            "--no-install-recommends",
            "install",
            package,
        ]))
        .with_context(|| {
            format!("Debian {} has no {package}; another mirror may, named by {MIRROR_VARIABLE}", self.name)
        })?;
        let names = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        Ok(names.filter(|name| wanted(name)).map(str::to_owned).collect())
    }

    /// Fetches packages and unpacks them into `target`, which is there only once that is complete.
    pub(crate) fn unpack(&self, packages: &[String], target: &Path) -> anyhow::Result<()> {
        let archives = self.directory.join("archives");
        output(self.command("apt-get").args(["-q", "download"]).args(packages).current_dir(&archives))
            .with_context(|| format!("cannot fetch packages of Debian {}", self.name))?;
        let partial = target.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        let entries =
            fs::read_dir(&archives).with_context(|| format!("cannot list {}", archives.display()))?;
        for archive in entries.flatten().map(|entry| entry.path()) {
            if archive.extension().is_some_and(|ending| ending == "deb") {
                output(Command::new("dpkg").arg("-x").arg(&archive).arg(&partial))
                    .with_context(|| format!("cannot unpack {}", archive.display()))?;
                fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
            }
        }
        fs::rename(&partial, target).with_context(|| format!("cannot make {}", target.display()))
    }

    /// A command of apt that knows this suite and nothing else.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |name: &str| self.directory.join(name).display().to_string();
        for (key, value) in [
            ("Dir::State", place("")),
            ("Dir::State::lists", place("lists")),
            ("Dir::State::status", place("status")),
            ("Dir::Cache", place("")),
            ("Dir::Cache::archives", place("archives")),
            ("Dir::Etc::sourcelist", place("sources.list")),
            ("Dir::Etc::sourceparts", "/nonexistent".into()),
            ("Dir::Etc::preferencesparts", "/nonexistent".into()),
            ("Acquire::Languages", "none".into()),
            ("APT::Sandbox::User", String::new()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }
}

/// Where this machine's apt gets Debian from.
fn mirror() -> anyhow::Result<String> {
    if let Ok(named) = std::env::var(MIRROR_VARIABLE) {
        return Ok(named);
    }
    let targets =
        output(Command::new("apt-get").args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]))
            .context("cannot ask apt where it gets packages from")?;
    debian_mirror(&targets).with_context(|| {
        format!(
            "apt on this machine has no mirror of Debian; run `apt-get update`, or set {MIRROR_VARIABLE} to one"
        )
    })
}

/// Reads lines as in `Debian|Debian|ADDRESS`.
fn debian_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| line.strip_prefix("Debian|Debian|")).map(str::to_owned)
}

/// What a command prints; an error shows what it complained about.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_archive_and_not_of_its_security_updates() {
        let targets = "Debian|Debian-Security|file:/security/\nOther|Other|file:/other/\n\
                       Debian|Debian|file:/archive/\nDebian|Debian|file:/second/\n";
        assert_eq!(debian_mirror(targets).as_deref(), Some("file:/archive/"));
        assert_eq!(debian_mirror("Ubuntu|Ubuntu|file:/u/\n"), None);
    }
}
