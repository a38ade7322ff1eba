//! Finds what builds the kernel object on this machine: a compiler with `core` for the BPF target, and
//! `bpf-linker`.
//!
//! Also compiled into `agent/build.rs`, so it uses the standard library only. It looks and never installs: that
//! is `cargo xtask setup`.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt, fs};

/// The target of the kernel object on a little-endian host.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Names a compiler to use instead of the ones that are looked for.
pub(crate) const RUSTC_VARIABLE: &str = "SEGUE_BPF_RUSTC";

/// How `core` for the BPF target comes about.
pub(crate) enum Compiler {
    /// rustup's nightly builds `core` from its source.
    Nightly,
    /// This compiler has `core` for the target in its sysroot, as Linux distributions package it.
    Prebuilt(PathBuf),
}

/// Everything that is needed to build the kernel object.
pub(crate) struct Toolchain {
    /// Where `core` comes from.
    pub(crate) compiler: Compiler,
    /// The path of `bpf-linker`.
    pub(crate) linker: PathBuf,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No compiler has `core` for the BPF target, nor its source.
    Compiler,
    /// The compiler named by the variable does not have it.
    NamedCompiler(PathBuf),
    /// No `bpf-linker`. Holds the compiler's LLVM major version.
    Linker(u32),
    /// A `bpf-linker` that reads only what an older LLVM wrote.
    OldLinker {
        /// Where it is.
        path: PathBuf,
        /// The LLVM major version it was built with.
        has: u32,
        /// The compiler's LLVM major version.
        needs: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler => write!(
                f,
                "no Rust compiler here can build for {TARGET}: there is neither a nightly with the rust-src \
                 component nor a compiler with a prebuilt core for that target"
            ),
            Self::NamedCompiler(path) => write!(
                f,
                "{RUSTC_VARIABLE} names {}, which does not run or has no core for {TARGET} in its sysroot",
                path.display()
            ),
            Self::Linker(llvm) => {
                write!(f, "bpf-linker is not installed (it must be built with LLVM {llvm} or later)")
            }
            Self::OldLinker { path, has, needs } => write!(
                f,
                "{} was built with LLVM {has} and cannot read what the compiler's LLVM {needs} writes",
                path.display()
            ),
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.compiler {
            Compiler::Nightly => write!(f, "rustup's nightly with rust-src")?,
            Compiler::Prebuilt(rustc) => write!(f, "{}", rustc.display())?,
        }
        write!(f, " and {}", self.linker.display())
    }
}

/// Looks for a compiler and the linker that goes with it.
pub(crate) fn find() -> Result<Toolchain, Missing> {
    let (compiler, llvm) = find_compiler()?;
    let linker = find_linker().ok_or(Missing::Linker(llvm))?;
    match linker_llvm(&linker) {
        Some(has) if has < llvm => Err(Missing::OldLinker { path: linker, has, needs: llvm }),
        // A linker that does not tell is taken at its word: linking fails with its own message.
        _ => Ok(Toolchain { compiler, linker }),
    }
}

/// The compiler to use, and its LLVM major version.
fn find_compiler() -> Result<(Compiler, u32), Missing> {
    if let Some(named) = env::var_os(RUSTC_VARIABLE).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        return prebuilt(&named).ok_or(Missing::NamedCompiler(named));
    }
    if let Some(llvm) = nightly_with_source() {
        return Ok((Compiler::Nightly, llvm));
    }
    let on_path = on_path("rustc");
    let candidates = on_path.into_iter().chain([PathBuf::from("/usr/bin/rustc")]);
    candidates.filter_map(|rustc| prebuilt(&rustc)).next().ok_or(Missing::Compiler)
}

fn prebuilt(rustc: &Path) -> Option<(Compiler, u32)> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    let has_core = fs::read_dir(libraries).ok()?.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    });
    if !has_core {
        return None;
    }
    let llvm = llvm_of_version(&output(Command::new(rustc).arg("-vV"))?)?;
    Some((Compiler::Prebuilt(rustc.to_path_buf()), llvm))
}

fn nightly_with_source() -> Option<u32> {
    let mut command = Command::new("rustup");
    scrub(&mut command);
    let sysroot = output(command.args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !source.exists() {
        return None;
    }
    let mut command = Command::new("rustup");
    scrub(&mut command);
    llvm_of_version(&output(command.args(["run", "nightly", "rustc", "-vV"]))?)
}

fn llvm_of_version(text: &str) -> Option<u32> {
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

fn find_linker() -> Option<PathBuf> {
    on_path("bpf-linker").or_else(|| {
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
        let found = cargo_home.or(home)?.join("bin/bpf-linker");
        found.exists().then_some(found)
    })
}

/// The LLVM major version a linker was built with. `bpf-linker --version` does not say, but the name of the
/// library it loads, or the producer string of a statically linked LLVM, is in the file.
fn linker_llvm(linker: &Path) -> Option<u32> {
    let bytes = fs::read(linker).ok()?;
    let mut rest = bytes.as_slice();
    // Skipping is fast also in a debug build, which matters for a file of 40 MB.
    while rest.skip_until(b'L').is_ok_and(|skipped| skipped > 0) {
        if let Some(major) = rest.strip_prefix(b"LVM").and_then(llvm_after_name) {
            return Some(major);
        }
    }
    None
}

/// Reads `22` from `.so.22.1`, `-22.so` or `22.1.8`.
fn llvm_after_name(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b".so.").or_else(|| text.strip_prefix(b"-")).unwrap_or(text);
    match digits {
        [tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'.', ..] => {
            Some(u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
        }
        _ => None,
    }
}

/// Removes what an outer cargo, clippy or rustup set for its own compilation.
pub(crate) fn scrub(command: &mut Command) {
    const PREFIXES: [&str; 8] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_ENCODED_",
        "CARGO_FEATURE_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "RUSTC",
    ];
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CLIPPY_ARGS",
        "LD_LIBRARY_PATH",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if NAMES.contains(&&*text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// The first executable of this name on `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path: OsString = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if output.status.success() { String::from_utf8(output.stdout).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_the_name_of_its_library_or_its_producer() {
        let directory = tempfile::tempdir().unwrap();
        let linker = directory.path().join("bpf-linker");
        for (content, expected) in [
            ("\x7fELF LLVMContext libLLVM.so.22.1 libc.so", Some(22)),
            ("LLLVM libLLVM-21.so", Some(21)),
            ("producer LLVM23.1.0-rust", Some(23)),
            ("LLVM LLVM IR LLVM", None),
        ] {
            fs::write(&linker, content).unwrap();
            assert_eq!(linker_llvm(&linker), expected, "{content}");
        }
    }

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_version() {
        assert_eq!(llvm_of_version("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_of_version("rustc 1.96.0\n"), None);
    }

    #[test]
    fn what_is_missing_is_said_with_what_it_is_needed_for() {
        let old = Missing::OldLinker { path: "/usr/bin/bpf-linker".into(), has: 21, needs: 22 };
        assert!(old.to_string().contains("/usr/bin/bpf-linker was built with LLVM 21"), "{old}");
        assert!(Missing::Linker(22).to_string().contains("LLVM 22"));
    }
}
