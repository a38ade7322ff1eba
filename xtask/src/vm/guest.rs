//! What runs inside the guest: the first process, the pass at the root cgroup, the kernel tier. It talks to the host
//! by lines on the second serial port: `status JSON`, `check NAME ok`, `check NAME failed: WHY`, `test LINE`, `end`.
//! It must only ever run there: it attaches to the root cgroup.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Where the guest has what was built.
pub(crate) const SEGUE: &str = "/target/debug/segue";
pub(crate) const OTHER_SEGUE: &str = "/target/debug/segue-other-layouts";
pub(crate) const TESTS: &str = "/target/debug/deps/kernel";
/// Parts of the names of the tests to run, one a line; all without.
pub(crate) const FILTERS: &str = "/etc/segue-tests";
const REPORT: &str = "/dev/ttyS1";
const CONFIG: &str = "/run/segue.yaml";

/// Services whose addresses are routed nowhere, in RFC 2544's range, with a backend that listens and one that refuses.
const SERVICES: &str = "services:
  - name: vm/tcp
    protocol: tcp
    frontends: [\"198.18.0.10:80\", \"[fd00:5e::10]:80\"]
    backends:
      - { address: \"127.0.0.1:8081\" }
      - { address: \"[::1]:8081\" }
  - name: vm/udp
    protocol: udp
    frontends: [\"198.18.0.11:53\"]
    backends:
      - { address: \"127.0.0.1:5353\" }
  - name: vm/refusing
    protocol: tcp
    frontends: [\"198.18.0.12:80\"]
    policy: { breaker: { consecutive_failures: 2, open: 10m } }
    backends:
      - { address: \"127.0.0.1:8082\" }
      - { address: \"127.0.0.1:8081\" }
";

/// What the kernel's command line gives the first process.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How much longer everything may take here.
    #[arg(long)]
    patience: u32,
    /// The child that does the work, while the first process waits for orphans.
    #[arg(long)]
    work: bool,
    /// Do nothing, to see whether a guest comes up.
    #[arg(long)]
    probe: bool,
    /// Leave the kernel tier out.
    #[arg(long)]
    no_tests: bool,
}

/// Runs as the guest's first process, and switches the guest off at the end.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.work {
        let mut report = OpenOptions::new().write(true).open(REPORT).context("no second serial port")?;
        if !arguments.probe
            && let Err(error) = work(arguments, &mut report)
        {
            writeln!(report, "check guest failed: {error:#}")?;
        }
        writeln!(report, "end")?;
        // SAFETY: a valid descriptor; waits until the port has sent everything.
        unsafe { libc::tcdrain(report.as_raw_fd()) };
        return Ok(());
    }
    ensure!(std::process::id() == 1, "only the first process of a guest may do this");
    prepare()?;
    let worker = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--work")
        .env("PATH", "/usr/bin")
        .env("HOME", "/root")
        .env("SEGUE_TEST_PATIENCE", arguments.patience.to_string())
        .spawn()
        .context("cannot start the guest's work")?;
    let worker = libc::pid_t::try_from(worker.id()).context("a pid")?;
    loop {
        // SAFETY: waits for any child; a null status is allowed.
        let ended = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if ended == worker || ended < 0 {
            break;
        }
    }
    // SAFETY: switches this guest off; it has no disks to lose anything on.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    Ok(())
}

/// Mounts what a system has, loads the modules, brings `lo` up.
fn prepare() -> anyhow::Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        mount(kind, target)?;
    }
    let _ = std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd");
    let mut modules: Vec<_> =
        fs::read_dir("/modules").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        let file = File::open(&module).with_context(|| format!("cannot open {}", module.display()))?;
        // SAFETY: a valid descriptor and an empty string of parameters.
        let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        if result != 0 {
            eprintln!("module {}: {}", module.display(), std::io::Error::last_os_error());
        }
    }
    let status = Command::new("/usr/bin/ip").args(["link", "set", "lo", "up"]).status();
    ensure!(status.context("cannot run ip")?.success(), "cannot bring lo up");
    Ok(())
}

fn mount(kind: &str, target: &str) -> anyhow::Result<()> {
    let (kind_text, target_text) = (CString::new(kind)?, CString::new(target)?);
    // SAFETY: NUL-terminated strings that outlive the call; no data.
    let result = unsafe {
        libc::mount(kind_text.as_ptr(), target_text.as_ptr(), kind_text.as_ptr(), 0, std::ptr::null())
    };
    // The kernel may have mounted /dev by itself.
    let error = std::io::Error::last_os_error();
    if result != 0 && error.raw_os_error() != Some(libc::EBUSY) {
        bail!("cannot mount {kind} at {target}: {error}");
    }
    Ok(())
}

fn work(arguments: &Arguments, report: &mut File) -> anyhow::Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    writeln!(report, "release {}", release.trim())?;
    at_the_root(arguments.patience, report)?;
    if !arguments.no_tests {
        kernel_tier(report)?;
    }
    Ok(())
}

/// The real agent on the root cgroup, as in production, under everything it must survive.
fn at_the_root(patience: u32, report: &mut File) -> anyhow::Result<()> {
    fs::write(CONFIG, SERVICES).context("cannot write a configuration")?;
    serve()?;
    let limit = Duration::from_secs(30) * patience;
    let mut agent = start(limit)?;
    let status = segue(&["status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status).context("status is no JSON")?;
    writeln!(report, "status {status}")?;
    warn();
    check(report, "tcp over IPv4", greeted("198.18.0.10:80"))?;
    check(report, "tcp over IPv6", greeted("[fd00:5e::10]:80"))?;
    check(report, "connected udp", answered("198.18.0.11:53"))?;
    check(report, "a refusing backend is taken out", learned())?;
    agent.kill().context("cannot kill the agent")?;
    agent.wait().context("cannot wait for the agent")?;
    check(report, "works without an agent", greeted("198.18.0.10:80"))?;
    let mut agent = start(limit)?;
    check(report, "the next agent takes over", greeted("198.18.0.10:80"))?;
    agent.kill().context("cannot kill the agent")?;
    agent.wait().context("cannot wait for the agent")?;
    segue(&["unload"])?;
    let gone = match TcpStream::connect("198.18.0.10:80") {
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Ok(()),
        other => Err(anyhow::anyhow!("a connection after unloading gave {other:?}")),
    };
    check(report, "nothing stays after unloading", gone)
}

/// Repeats on the console what the agent warned of: why this kernel would not take a program, say, with the end of what
/// its verifier said.
fn warn() {
    const LINES: usize = 60;
    let log = fs::read_to_string("/run/segue.log").unwrap_or_default();
    let said_more = |line: &str| ["TRACE ", "DEBUG ", " INFO "].iter().any(|level| line.contains(level));
    let lines: Vec<&str> = log.lines().filter(|line| !said_more(line)).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| eprintln!("{line}"));
}

fn check(report: &mut File, name: &str, result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Ok(()) => writeln!(report, "check {name} ok")?,
        Err(error) => {
            let log = fs::read_to_string("/run/segue.log").unwrap_or_default();
            eprintln!("{name}: {error:#}\n{log}");
            writeln!(report, "check {name} failed: {}", format!("{error:#}").replace('\n', " "))?;
        }
    }
    Ok(())
}

/// Starts the agent and waits until it is ready.
fn start(limit: Duration) -> anyhow::Result<Child> {
    let log = File::create("/run/segue.log").context("cannot make a log")?;
    let mut agent = Command::new(SEGUE)
        .args(["run", "--config", CONFIG])
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the agent")?;
    let deadline = Instant::now() + limit;
    while !ready() {
        let ended = agent.try_wait().context("cannot wait for the agent")?;
        if ended.is_some() || Instant::now() > deadline {
            let log = fs::read_to_string("/run/segue.log").unwrap_or_default();
            eprintln!("{log}");
            bail!("the agent is not ready: {}", log.replace('\n', " "));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(agent)
}

fn ready() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9464")?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(" 200 "))
}

fn segue(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(SEGUE).args(arguments).output().context("cannot run segue")?;
    // Status says by 3 that it has a problem to report.
    ensure!(
        output.status.success() || output.status.code() == Some(3),
        "segue {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Servers that say one line or echo one datagram.
fn serve() -> anyhow::Result<()> {
    for at in ["127.0.0.1:8081", "[::1]:8081"] {
        let listener = TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = (&stream).write_all(b"hello\n");
            }
        });
    }
    let socket = UdpSocket::bind("127.0.0.1:5353").context("cannot bind a socket")?;
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], from);
        }
    });
    Ok(())
}

/// A connection is greeted, and its peer is the address that was asked for.
fn greeted(address: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    let peer = stream.peer_addr().context("no peer")?.to_string();
    ensure!(peer == address, "the peer of {address} is {peer}");
    let mut line = String::new();
    stream.read_to_string(&mut line).context("no greeting")?;
    ensure!(line == "hello\n", "the greeting is {line:?}");
    Ok(())
}

fn answered(address: &str) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot bind a socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.connect(address).with_context(|| format!("cannot connect to {address}"))?;
    socket.send(b"ping").context("cannot send")?;
    let mut answer = [0; 8];
    let length = socket.recv(&mut answer).context("no answer")?;
    ensure!(&answer[..length] == b"ping", "a wrong answer");
    Ok(())
}

/// After a few failures the breaker of the backend that refuses is open: connections succeed in a row.
fn learned() -> anyhow::Result<()> {
    let mut in_a_row = 0;
    for _ in 0..200 {
        in_a_row = if TcpStream::connect("198.18.0.12:80").is_ok() { in_a_row + 1 } else { 0 };
        if in_a_row == 30 {
            return Ok(());
        }
    }
    bail!("of 200 connections no 30 in a row succeeded")
}

/// Runs the test program and passes on what it says.
fn kernel_tier(report: &mut File) -> anyhow::Result<()> {
    ensure!(Path::new(TESTS).exists(), "the image has no kernel tier");
    let filters = fs::read_to_string(FILTERS).context("the image does not say which tests to run")?;
    let mut child = Command::new(TESTS)
        .args(["--include-ignored", "--format=pretty", "--show-output", "--test-threads=2"])
        .args(filters.lines())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the kernel tier")?;
    let output = child.stdout.take().context("the kernel tier has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the kernel tier says")?;
        writeln!(report, "test {}", String::from_utf8_lossy(&line))?;
    }
    child.wait().context("cannot wait for the kernel tier")?;
    Ok(())
}
