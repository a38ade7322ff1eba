//! `cargo xtask image`: the container image, built without any base image, and tried before anybody gets it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{build, setup, workspace};

/// Never fetched from anywhere: the name a node finds an image under that was put there by hand.
const NAME: &str = concat!("localhost/segue:", env!("CARGO_PKG_VERSION"));

/// Licences of what the binary holds: the agent's, and the kernel side's, as the image has them.
const LICENSES: [(&str, &str); 3] = [
    ("LICENSE", "LICENSE"),
    ("agent-ebpf/LICENSE-MIT", "LICENSE-MIT-kernel-side"),
    ("agent-ebpf/LICENSE-GPL-2.0", "LICENSE-GPL-2.0-kernel-side"),
];

/// Buildah with a storage of its own, so that nothing is left in the user's.
struct Buildah {
    directory: PathBuf,
}

/// Builds the image, tries it, and writes it as an OCI archive.
pub(crate) fn run(carried: &build::Carried) -> anyhow::Result<()> {
    setup::programs(&[("buildah", "buildah")])?;
    let binary = carried.binary()?;
    let directory = workspace().join("target/image");
    let context = directory.join("context");
    lay_out(&binary, &context)?;
    let archive = directory.join(format!("segue-{}-{}.tar", env!("CARGO_PKG_VERSION"), architecture()));
    if archive.exists() {
        fs::remove_file(&archive).with_context(|| format!("cannot replace {}", archive.display()))?;
    }
    let buildah = Buildah { directory: directory.clone() };
    let file = workspace().join("deploy/image/Containerfile");
    // The same binary of the same commit gives the same image.
    buildah.run(
        Command::new("buildah")
            .args([
                "build",
                "--isolation",
                "chroot",
                "--timestamp",
                &build::commit_time(),
                "--tag",
                NAME,
                "--file",
            ])
            .arg(file)
            .arg(&context),
    )?;
    buildah.try_out()?;
    let digest = directory.join("digest");
    buildah.run(
        Command::new("buildah")
            .args(["push", "--digestfile"])
            .arg(&digest)
            .arg(NAME)
            .arg(format!("oci-archive:{}:{NAME}", archive.display())),
    )?;
    let digest = fs::read_to_string(&digest).context("buildah told no digest")?;
    println!("{}", archive.display());
    println!("  name    {NAME}, for linux/{}", architecture());
    println!("  digest  {}", digest.trim());
    println!(
        "  size    {} as it is sent, {} unpacked",
        mebibytes(layers(&archive)?),
        mebibytes(size_of(&binary)?)
    );
    Ok(())
}

/// What the Containerfile copies.
fn lay_out(binary: &Path, context: &Path) -> anyhow::Result<()> {
    let licenses = context.join("licenses");
    fs::create_dir_all(&licenses).with_context(|| format!("cannot make {}", licenses.display()))?;
    fs::copy(binary, context.join("segue")).with_context(|| format!("cannot copy {}", binary.display()))?;
    for (from, to) in LICENSES {
        fs::copy(workspace().join(from), licenses.join(to)).with_context(|| format!("cannot copy {from}"))?;
    }
    Ok(())
}

impl Buildah {
    /// Runs a command of it and returns what it printed; its own words are shown if it fails.
    fn run(&self, asked: &Command) -> anyhow::Result<String> {
        let mut words = asked.get_args();
        let mut command = Command::new(asked.get_program());
        // `vfs` needs no kernel module and no mount.
        command.args(["--storage-driver", "vfs", "--root"]).arg(self.directory.join("storage"));
        command.arg("--runroot").arg(self.directory.join("run"));
        let verb = words.next().unwrap_or_default().to_string_lossy().into_owned();
        let output =
            command.arg(&verb).args(words).stdin(Stdio::null()).output().context("cannot run buildah")?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("buildah {verb} failed ({}):\n{}", output.status, String::from_utf8_lossy(&said).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs the binary with the image as its whole file system: what it was linked to would be missing there.
    fn try_out(&self) -> anyhow::Result<()> {
        let container = self.run(Command::new("buildah").args(["from", "--pull-never", NAME]))?;
        let examples = format!("{}:/examples:ro", workspace().join("deploy/examples").display());
        let inside = |words: &[&str]| {
            let run = ["run", "--isolation", "chroot", "--volume", &examples, &container, "--", "segue"];
            self.run(Command::new("buildah").args(run).args(words))
        };
        let version = inside(&["--version"])?;
        if version != concat!("segue ", env!("CARGO_PKG_VERSION")) {
            bail!("the image's binary says `{version}` when asked for its version");
        }
        let checked = inside(&["check", "/examples/segue.yaml"])?;
        println!("in the image: {version}; segue check: {checked}");
        Ok(())
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Containers first, with what is mounted in them.
        let _ = self.run(Command::new("buildah").args(["rm", "--all"]));
        let left = ["storage", "run"].map(|name| fs::remove_dir_all(self.directory.join(name)));
        let told = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
        if let Some(error) = left.into_iter().filter_map(Result::err).find(told) {
            eprintln!(
                "warning: cannot remove all of buildah's storage in {}: {error}",
                self.directory.display()
            );
        }
    }
}

/// The size of the layers in an OCI archive, in bytes.
fn layers(archive: &Path) -> anyhow::Result<u64> {
    let blob = |name: &str| -> anyhow::Result<Value> {
        let output =
            Command::new("tar").arg("-xOf").arg(archive).arg(name).output().context("cannot run tar")?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{name} in the archive is no JSON"))
    };
    let index = blob("index.json")?;
    let manifest = index["manifests"][0]["digest"].as_str().context("an index without a manifest")?;
    let manifest = blob(&format!("blobs/{}", manifest.replace(':', "/")))?;
    Ok(manifest["layers"].as_array().into_iter().flatten().filter_map(|layer| layer["size"].as_u64()).sum())
}

fn size_of(file: &Path) -> anyhow::Result<u64> {
    Ok(fs::metadata(file).with_context(|| format!("no {}", file.display()))?.len())
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// This machine's architecture as images and Debian call it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_tenths() {
        assert_eq!(mebibytes(0), "0.0 MiB");
        assert_eq!(mebibytes((1 << 20) * 7 + (1 << 19)), "7.5 MiB");
    }

    #[test]
    fn the_licenses_of_everything_in_the_binary_are_there_to_be_copied() {
        let directory = tempfile::tempdir().unwrap();
        let context = directory.path().join("context");
        lay_out(&workspace().join("LICENSE"), &context).unwrap();
        for (_, name) in LICENSES {
            assert!(context.join("licenses").join(name).is_file(), "{name}");
        }
    }
}
