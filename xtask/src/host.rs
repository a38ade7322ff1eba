//! What this host offers: rights, the cgroup v2 mount, a kernel that loads eBPF programs, programs on `PATH`.
//! It looks and changes nothing.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, bail};

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where an executable of this name is: on `PATH` or in the directories of system daemons, which an ordinary
/// user's `PATH` leaves out.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// Where cgroup v2 is mounted.
pub(crate) fn cgroup_mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    cgroup_mount_in(&mounts).context(
        "cgroup v2 is not mounted; mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified` or start the \
         system with systemd.unified_cgroup_hierarchy=1",
    )
}

/// Reads lines as in `30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw`.
fn cgroup_mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split(' ').next()?;
        (kind == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Checks root, cgroup v2 and that the kernel loads a program of the kind Segue consists of.
pub(crate) fn check_ebpf() -> anyhow::Result<()> {
    if !is_root() {
        bail!("not root: loading eBPF programs, cgroups and network namespaces need it; use sudo");
    }
    let mount = cgroup_mount()?;
    if !Path::new(&mount).join("cgroup.procs").exists() {
        bail!("{} does not look like a cgroup v2 mount: it has no cgroup.procs", mount.display());
    }
    load_trivial_program().context(
        "this kernel does not load eBPF programs of type cgroup/sock_addr; Segue needs Linux 5.10 or later \
         with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF, and CAP_BPF (check that no container or lockdown \
         policy takes it away)",
    )
}

/// Loads `return 1` as a cgroup/connect4 program and lets it go again.
fn load_trivial_program() -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
    const BPF_CGROUP_INET4_CONNECT: u32 = 10;
    /// `r0 = 1; exit`, in the instruction layout of a little-endian host.
    const PROGRAM: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    const LICENSE: &[u8; 4] = b"GPL\0";

    /// The first fields of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
    #[repr(C)]
    #[derive(Default)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }

    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        insn_cnt: 2,
        insns: PROGRAM.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        expected_attach_type: BPF_CGROUP_INET4_CONNECT,
        ..ProgLoad::default()
    };
    // SAFETY: the attributes, the program and the license outlive the call, and the size is that of the struct.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<ProgLoad>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nothing else owns it.
    unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_mount_is_found_in_unified_and_hybrid_layouts() {
        let unified = "25 30 0:23 / /sys rw - sysfs sysfs rw\n\
                       30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_mount_in(unified), Some(PathBuf::from("/sys/fs/cgroup")));
        let hybrid = "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        assert_eq!(cgroup_mount_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup_mount_in("25 30 0:23 / /sys rw - sysfs sysfs rw\n"), None);
    }

    #[test]
    fn programs_are_looked_for_on_the_path() {
        assert!(program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(program("no-such-program-here"), None);
    }
}
