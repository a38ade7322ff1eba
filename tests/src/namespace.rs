//! A network and mount namespace of a test's own: `lo` and nothing else, no way out, a private bpffs.
//!
//! Neither namespace has a name. Both live as long as a file descriptor or a process holds them, so that a test
//! process that is killed leaves no interface, mount, pin or attached program behind. Knows nothing of cgroups.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// The first service address of the tests: RFC 2544 benchmark space, routed nowhere.
const SENTINEL: &str = "198.18.0.10:9";

/// A network and a mount namespace.
#[derive(Debug)]
pub struct Namespace {
    network: File,
    mount: File,
}

impl Namespace {
    /// Makes the namespaces, brings `lo` up and mounts a bpffs at `bpffs`, if given, which only this namespace sees.
    ///
    /// # Panics
    /// When a step is refused, or when a service address could leave the namespace.
    pub fn new(bpffs: Option<&Path>) -> Self {
        let namespace = std::thread::scope(|scope| {
            scope.spawn(|| build(bpffs)).join().expect("the thread that builds a namespace ended")
        })
        .unwrap_or_else(|error| panic!("cannot make a namespace (root with CAP_SYS_ADMIN?): {error}"));
        namespace.run(assert_no_way_out);
        namespace
    }

    /// Runs `work` on a thread inside both namespaces. Sockets made there stay there.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let handle = self.handle();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                handle.enter().expect("a thread of root may enter a namespace it made");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What a child process needs to enter. Valid as long as `self` is.
    pub fn handle(&self) -> Handle {
        Handle { network: self.network.as_raw_fd(), mount: self.mount.as_raw_fd() }
    }

    /// A path that names the network namespace to other programs as long as this process lives.
    pub fn network_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd())
    }

    /// Sets a sysctl of the network namespace, as in `("net/ipv4/tcp_syn_retries", "1")`.
    ///
    /// # Panics
    /// When the kernel does not know it or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys").join(key), value)
                .unwrap_or_else(|error| panic!("cannot set sysctl {key} to {value}: {error}"));
        });
    }

    /// Lets a SYN that is not answered be sent a second time only, a second after the first.
    ///
    /// # Panics
    /// As [`Namespace::sysctl`] does.
    pub fn retry_syn_once(&self) {
        self.sysctl("net/ipv4/tcp_syn_retries", "1");
        // Kernel 6.5. Older ones double the wait from the first SYN on, which is what is asked for here.
        let linear = "net/ipv4/tcp_syn_linear_timeouts";
        if self.run(|| Path::new("/proc/sys").join(linear).exists()) {
            self.sysctl(linear, "0");
        }
    }
}

/// The way into a [`Namespace`] for a thread or a forked child.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    network: RawFd,
    mount: RawFd,
}

impl Handle {
    /// Moves the calling thread inside. Only makes system calls, so it may run between fork and exec.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: unshare and setns take plain integers; the descriptors are open while the Namespace lives.
        // CLONE_FS is needed before a thread may change its mount namespace.
        unsafe {
            checked(libc::unshare(libc::CLONE_FS))?;
            checked(libc::setns(self.mount, libc::CLONE_NEWNS))?;
            checked(libc::setns(self.network, libc::CLONE_NEWNET))
        }
    }
}

fn build(bpffs: Option<&Path>) -> io::Result<Namespace> {
    // SAFETY: unshare takes an integer; this thread has no other use than to be moved.
    checked(unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS | libc::CLONE_NEWNET) })?;
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)?;
    if let Some(bpffs) = bpffs {
        std::fs::create_dir_all(bpffs)?;
        mount(Some("bpf"), bpffs, Some("bpf"), 0)?;
    }
    bring_up("lo")?;
    Ok(Namespace {
        network: File::open("/proc/thread-self/ns/net")?,
        mount: File::open("/proc/thread-self/ns/mnt")?,
    })
}

fn assert_no_way_out() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket in a fresh namespace");
    let refused = socket.connect(SENTINEL).err().and_then(|error| error.raw_os_error());
    assert_eq!(
        refused,
        Some(libc::ENETUNREACH),
        "a service address can leave the test namespace; stopping here"
    );
}

fn mount(source: Option<&str>, target: &Path, kind: Option<&str>, flags: libc::c_ulong) -> io::Result<()> {
    let text = |value: &str| CString::new(value).expect("no NUL in a path of ours");
    let source = source.map(text);
    let kind = kind.map(text);
    let target = text(&target.to_string_lossy());
    let pointer = |value: &Option<CString>| value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
    // SAFETY: all pointers are NUL-terminated strings that outlive the call, or null where mount(2) allows it.
    checked(unsafe {
        libc::mount(pointer(&source), target.as_ptr(), pointer(&kind), flags, std::ptr::null())
    })
}

fn bring_up(interface: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid: it is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("small flags");
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
