//! Builds the kernel object into `$OUT_DIR/segue-dataplane.o`, which the agent embeds.
//!
//! It knows nothing of how a toolchain is installed: without one it says what is missing and stops.

#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use bpf_toolchain::{Compiler, RUSTC_VARIABLE, TARGET, Toolchain, scrub};

/// A build of the same programs for kernels that differ in what no program can find out for itself.
struct Variant {
    /// The object's file name.
    object: &'static str,
    /// What the compiler is told.
    flag: Option<&'static str>,
}

/// Kernels before 5.12 refuse a program that holds a compare-and-swap, even where it is never reached.
const VARIANTS: [Variant; 2] = [
    Variant { object: "segue-dataplane.o", flag: None },
    Variant { object: "segue-dataplane-5.10.o", flag: Some("--cfg=segue_no_compare_and_swap") },
];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    watch(root);
    // `cargo::error` fails the build by itself; ending with a status too would bury it under cargo's dump of
    // everything printed here.
    match bpf_toolchain::find() {
        Ok(toolchain) => {
            println!("cargo::rerun-if-changed={}", toolchain.linker.display());
            for variant in &VARIANTS {
                if let Err(message) = build(root, &toolchain, variant) {
                    message.lines().for_each(|line| println!("cargo::error={line}"));
                }
            }
        }
        Err(missing) => {
            println!("cargo::error=cannot build Segue's kernel programs: {missing}");
            println!("cargo::error=`cargo xtask setup` installs what is missing");
            println!("cargo::error=`cargo xtask setup --dry-run` prints the commands without running them");
        }
    }
}

fn watch(root: &Path) {
    for path in [
        "agent/build.rs",
        "agent-ebpf/src",
        "agent-ebpf/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
        "xtask/src/bpf_toolchain.rs",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-env-changed={RUSTC_VARIABLE}");
}

/// Builds the object. A target directory of its own keeps the inner cargo from waiting for the lock the outer one holds.
fn build(root: &Path, toolchain: &Toolchain, variant: &Variant) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let target_dir = out.join("kernel");
    let mut command =
        build_command(toolchain, &root.join("agent-ebpf/Cargo.toml"), &target_dir, &architecture, variant);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {command:?} for the kernel programs: {error}"))?;
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the kernel programs do not compile ({})\n{diagnostics}", output.status));
    }
    for line in diagnostics.lines().filter(|line| !line.is_empty()) {
        println!("cargo::warning={line}");
    }
    let built = target_dir.join(TARGET).join("release/segue-dataplane");
    let object = out.join(variant.object);
    fs::copy(&built, &object)
        .map(|_| ())
        .map_err(|error| format!("cannot copy {} to {}: {error}", built.display(), object.display()))
}

/// The cargo command that builds the kernel object of the package whose manifest is given. What the programs
/// see of the kernel's registers depends on the architecture.
fn build_command(
    toolchain: &Toolchain,
    manifest: &Path,
    target_dir: &Path,
    architecture: &str,
    variant: &Variant,
) -> Command {
    let mut command = match &toolchain.compiler {
        Compiler::Nightly => {
            let mut command = Command::new("rustup");
            scrub(&mut command);
            command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            command
        }
        Compiler::Prebuilt(rustc) => {
            let mut command = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
            scrub(&mut command);
            // aya-ebpf uses the unstable inline assembly of the BPF target; a distribution's compiler is a
            // stable one.
            command.arg("build").env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            command
        }
    };
    let architecture = format!("--cfg=bpf_target_arch=\"{architecture}\"");
    let mut flags = vec!["-Cdebuginfo=2", "-Clink-arg=--btf", &architecture];
    flags.extend(variant.flag);
    let flags = flags.join("\x1f");
    command
        .args(["--release", "--locked", "--quiet", "--bin", "segue-dataplane", "--target", TARGET])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir)
        .args(env::var_os("CARGO_FEATURE_OTHER_LAYOUTS").map(|_| "--features=other-layouts"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    command
}
