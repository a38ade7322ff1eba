//! One emulated machine: started, watched, ended. It does not know what its guest says.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often the machine is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Enough for the root file system, the maps and two tests at a time.
const MEMORY_MIB: u32 = 2_048;

/// What the kernel is told. A busy machine runs an emulated one by fits and starts, which the kernel's test of its timer takes
/// for a broken board: it ends in a panic.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";

/// How the emulator runs the guest's two processors: in turns, on one thread. On a thread each, one may translate code while
/// the other changes it, and keep what was there before; a kernel that turns a static branch, as it does whenever a program is
/// attached or run times are measured, then ends in a panic at an `int3` that is gone. QEMU 7.2 and 10.0 both do that, without
/// any eBPF program too (docs/kernels.md).
const EMULATED: &str = "tcg,thread=single";

/// How long a guest that does nothing may take where the processor runs it.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// The emulator, which takes ten times as long.
    Tcg,
}

impl Accelerator {
    /// The processor where that works. Some machines have the device and a guest still never comes up, so one is
    /// booted to see.
    pub(crate) fn find(emulator: Command, kernel: &Path, root: &Path) -> Self {
        if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Self::Tcg;
        }
        let words = ["--patience=1".to_owned(), "--probe".to_owned()];
        match boot(emulator, Self::Kvm, kernel, root, &words, PROBE_LIMIT) {
            Ok(said) if said.contains("end") => Self::Kvm,
            _ => {
                eprintln!("vm: KVM does not run guests here; emulating");
                Self::Tcg
            }
        }
    }
}

/// A child that is killed when nobody waits for it any more.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel with a root file system, whose first process gets `words`, and returns what the guest said on its
/// second serial port. The console goes to a file beside the root file system, with the ending `log`.
pub(crate) fn boot(
    mut emulator: Command,
    accelerator: Accelerator,
    kernel: &Path,
    root: &Path,
    words: &[String],
    limit: Duration,
) -> anyhow::Result<String> {
    let console = root.with_extension("log");
    let report = root.with_extension("report");
    let _ = fs::remove_file(&report);
    let errors = root.with_extension("errors");
    let accelerator = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => EMULATED,
    };
    emulator
        .args(["-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", &MEMORY_MIB.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", report.display()))
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(root)
        .arg("-append")
        .arg(format!("{PARAMETERS} -- vm-guest {}", words.join(" ")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors).with_context(|| format!("cannot make {}", errors.display()))?);
    let mut machine = Machine(emulator.spawn().context("cannot start the emulator")?);
    let deadline = Instant::now() + limit;
    loop {
        let ended = machine.0.try_wait().context("cannot wait for the emulator")?;
        if let Some(status) = ended {
            if !status.success() {
                let said = fs::read_to_string(&errors).unwrap_or_default();
                bail!("the emulator failed ({status}): {}", said.trim());
            }
            break;
        }
        if Instant::now() > deadline {
            eprintln!("vm: given up after {} minutes", limit.as_secs() / 60);
            break;
        }
        thread::sleep(INTERVAL);
    }
    let said = fs::read(&report).with_context(|| format!("cannot read {}", report.display()))?;
    Ok(String::from_utf8_lossy(&said).replace('\r', ""))
}
