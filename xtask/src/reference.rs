//! `cargo xtask reference`: rewrites the parts of docs/ that are made from the code, and the dashboards. Of the docs, the
//! tests that compare the two do the writing; which parts these are is not known here.

use anyhow::{Context, bail};

use crate::{build, dashboards};

/// Told to the tests that compare the documentation with the code.
const UPDATE: &str = "SEGUE_UPDATE_REFERENCE";

/// Lets the agent's unit tests rewrite what they compare, then compares once more. Dashboards are made of what the docs
/// say, so they come last.
pub(crate) fn run() -> anyhow::Result<()> {
    for update in ["1", "0"] {
        let mut command = build::cargo();
        command.args(["test", "--quiet", "--package", "segue-agent", "--lib"]);
        if update == "1" {
            command.env(UPDATE, update);
        } else {
            command.env_remove(UPDATE);
        }
        if !command.status().context("cannot run cargo")?.success() {
            bail!("the agent's unit tests failed");
        }
    }
    dashboards::write()
}
