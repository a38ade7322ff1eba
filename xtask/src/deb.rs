//! `cargo xtask deb`: the package for hosts that run Debian or Ubuntu. What its scripts do is in `deploy/debian`.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::{build, host, image, setup, workspace};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nobody's address: who hands packages on puts their own.
const MAINTAINER: &str = "The Segue authors <segue@segue.invalid>";

/// Where the unit of bare hosts looks for the binary, and where the package puts it.
const UNIT_BINARY: &str = "/usr/local/bin/segue";
const BINARY: &str = "/usr/bin/segue";

/// Files of the repository, where the package has them.
const FILES: [(&str, &str); 5] = [
    ("deploy/debian/segue.yaml", "etc/segue/segue.yaml"),
    ("deploy/debian/lintian-overrides", "usr/share/lintian/overrides/segue"),
    ("deploy/examples/segue.yaml", "usr/share/doc/segue/examples/segue.yaml"),
    ("deploy/prometheus/segue-alerts.yaml", "usr/share/doc/segue/examples/segue-alerts.yaml"),
    ("agent-ebpf/LICENSE-GPL-2.0", "usr/share/doc/segue/LICENSE-GPL-2.0-kernel-side"),
];

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the package and tries what is in it.
pub(crate) fn run(carried: &build::Carried) -> anyhow::Result<()> {
    setup::programs(&[("dpkg-deb", "dpkg"), ("gzip", "gzip")])?;
    let binary = carried.binary()?;
    let directory = workspace().join("target/deb");
    let tree = directory.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot replace {}", tree.display()))?;
    }
    lay_out(&binary, &tree)?;
    let name = format!("segue_{VERSION}_{}.deb", image::architecture());
    let package = build::target_directory().join(name);
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree).arg(&package);
    // The same files of the same commit give the same package.
    command.env("SOURCE_DATE_EPOCH", build::commit_time());
    output(&mut command)?;
    try_out(&package, &directory.join("tried"))?;
    let bytes = fs::metadata(&package).with_context(|| format!("no {}", package.display()))?.len();
    println!("{}, {} KiB", package.display(), bytes / 1024);
    Ok(())
}

/// The package's files, and what dpkg is to know of them.
fn lay_out(binary: &Path, tree: &Path) -> anyhow::Result<()> {
    let read = |path: &str| {
        fs::read_to_string(workspace().join(path)).with_context(|| format!("cannot read {path}"))
    };
    put(
        tree,
        "usr/bin/segue",
        0o755,
        &fs::read(binary).with_context(|| format!("no {}", binary.display()))?,
    )?;
    for (from, to) in FILES {
        put(tree, to, 0o644, read(from)?.as_bytes())?;
    }
    let unit = unit(&read("deploy/systemd/segue.service")?)?;
    put(tree, "usr/lib/systemd/system/segue.service", 0o644, unit.as_bytes())?;
    // As a paragraph of the file's format: indented, and a dot for an empty line.
    let license = read("agent-ebpf/LICENSE-MIT")?;
    let license: String = license
        .trim()
        .lines()
        .map(|line| if line.is_empty() { " .\n".into() } else { format!(" {line}\n") })
        .collect();
    let copyright = read("deploy/debian/copyright")?.replace("@MIT@\n", &license);
    put(tree, "usr/share/doc/segue/copyright", 0o644, copyright.as_bytes())?;
    let manual = read("deploy/debian/segue.8")?.replace("@VERSION@", VERSION);
    put(tree, "usr/share/man/man8/segue.8.gz", 0o644, &compressed(manual.as_bytes())?)?;
    let news = compressed(read("CHANGELOG.md")?.as_bytes())?;
    put(tree, "usr/share/doc/segue/CHANGELOG.md.gz", 0o644, &news)?;
    put(tree, "usr/share/doc/segue/changelog.gz", 0o644, &compressed(debian_changelog()?.as_bytes())?)?;
    for script in SCRIPTS {
        put(tree, &format!("DEBIAN/{script}"), 0o755, read(&format!("deploy/debian/{script}"))?.as_bytes())?;
    }
    put(tree, "DEBIAN/conffiles", 0o644, b"/etc/segue/segue.yaml\n")?;
    let control = read("deploy/debian/control")?
        .replace("@VERSION@", VERSION)
        .replace("@MAINTAINER@", MAINTAINER)
        .replace("@ARCHITECTURE@", image::architecture())
        .replace("@SIZE_KIB@", &size_kib(tree)?.to_string());
    put(tree, "DEBIAN/control", 0o644, control.as_bytes())
}

/// What Debian's tools read of a version; people read CHANGELOG.md.
fn debian_changelog() -> anyhow::Result<String> {
    let at = format!("@{}", build::commit_time());
    let date = output(Command::new("date").args(["--rfc-email", "--utc", "--date", &at]))?;
    Ok(format!(
        "segue ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- {MAINTAINER}  {date}\n"
    ))
}

/// The unit as the package has it.
fn unit(text: &str) -> anyhow::Result<String> {
    let rest = text.split_once("\n#\n").context("the unit does not begin with how to install it")?.1;
    if !rest.contains(UNIT_BINARY) {
        bail!("the unit does not start {UNIT_BINARY}");
    }
    Ok(rest.replace(UNIT_BINARY, BINARY))
}

fn put(tree: &Path, to: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    let path = tree.join(to);
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(tree);
        fs::create_dir_all(directory)?;
        // Whatever the umask of who builds it.
        let mut made = Some(directory);
        while let Some(directory) = made.filter(|directory| directory.starts_with(tree)) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
            made = directory.parent();
        }
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Without a name and a time in it, so that the same text gives the same bytes.
fn compressed(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut gzip = Command::new("gzip");
    let mut child =
        gzip.args(["-9n"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run gzip")?;
    let mut input = child.stdin.take().context("gzip has no input")?;
    let bytes = bytes.to_vec();
    // In a thread of its own: with both pipes full, each would wait for the other.
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().context("cannot wait for gzip")?;
    if !output.status.success() || !writer.join().is_ok_and(|written| written.is_ok()) {
        bail!("gzip failed");
    }
    Ok(output.stdout)
}

fn size_kib(tree: &Path) -> anyhow::Result<u64> {
    let output =
        output(Command::new("du").args(["-k", "-s", "--apparent-size", "--exclude=DEBIAN"]).arg(tree))?;
    output.split_whitespace().next().and_then(|size| size.parse().ok()).context("du told no size")
}

/// Unpacks the package and runs what is in it; where lintian is installed, it looks at it as well.
fn try_out(package: &Path, directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot replace {}", directory.display()))?;
    }
    output(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(directory))?;
    let segue = directory.join("usr/bin/segue");
    let version = output(Command::new(&segue).arg("--version"))?;
    let checked = output(Command::new(&segue).arg("check").arg(directory.join("etc/segue/segue.yaml")))?;
    println!("from the package: {version}; segue check: {checked}");
    if let Some(lintian) = host::program("lintian") {
        let mut command = Command::new(lintian);
        // Root of a build machine is as good as anybody.
        command.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]).arg(package);
        output(&mut command)?;
        println!("lintian finds nothing");
    }
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = PathBuf::from(command.get_program());
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{} failed ({}):\n{}", program.display(), output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script with programs that only write down what they were asked, and `segue` ending as told.
    fn run(script: &str, words: &[&str], unload: i32) -> (bool, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for program in ["segue", "systemctl", "deb-systemd-helper", "deb-systemd-invoke", "rm"] {
            let status = if program == "segue" { unload } else { 0 };
            let text = format!("#!/bin/sh\necho {program} \"$@\" >>{}\nexit {status}\n", log.display());
            put(directory.path(), program, 0o755, text.as_bytes()).unwrap();
        }
        let script = workspace().join("deploy/debian").join(script);
        let output =
            Command::new("/bin/sh").arg(script).args(words).env("PATH", directory.path()).output().unwrap();
        let log = fs::read_to_string(log).unwrap_or_default();
        (output.status.success(), log.lines().map(str::to_owned).collect())
    }

    #[test]
    fn an_upgrade_leaves_the_data_plane_alone_and_a_removal_takes_it_away() {
        assert_eq!(run("prerm", &["upgrade", "9.9.9"], 0), (true, vec![]));
        let (ok, said) = run("prerm", &["remove"], 0);
        assert!(ok && said.last().is_some_and(|last| last == "segue unload"), "{said:?}");
        // Nothing would be there to remove it later.
        assert!(!run("prerm", &["remove"], 1).0);
    }

    #[test]
    fn what_the_agent_kept_goes_with_a_purge_and_not_before() {
        let removes = |words: &[&str]| run("postrm", words, 0).1.iter().any(|line| line.starts_with("rm "));
        assert!(removes(&["purge"]));
        assert!(!removes(&["remove"]));
        assert!(!removes(&["upgrade", "9.9.9"]));
    }

    #[test]
    fn a_first_installation_enables_the_service() {
        let (ok, said) = run("postinst", &["configure", ""], 0);
        assert!(ok && said.contains(&"deb-systemd-helper enable segue.service".to_owned()), "{said:?}");
    }

    #[test]
    fn the_unit_of_the_package_starts_the_binary_of_the_package() {
        let text = fs::read_to_string(workspace().join("deploy/systemd/segue.service")).unwrap();
        let unit = unit(&text).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/segue run --config /etc/segue/segue.yaml\n"), "{unit}");
        assert!(!unit.contains("Install the binary"), "{unit}");
        assert!(unit.contains("[Install]"), "{unit}");
    }

    #[test]
    fn everything_is_laid_out_readable_for_all_and_writable_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        lay_out(Path::new("/proc/self/exe"), &tree).unwrap();
        let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode("usr/bin/segue"), mode("etc/segue/segue.yaml"), mode("etc/segue")],
            [0o755, 0o644, 0o755]
        );
        let control = fs::read_to_string(tree.join("DEBIAN/control")).unwrap();
        assert!(control.contains(&format!("\nVersion: {VERSION}\n")) && !control.contains("@M"), "{control}");
    }
}
