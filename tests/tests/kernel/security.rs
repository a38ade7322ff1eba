//! What the agent may do and who may tell it what: capabilities, system calls, pins, the admin socket, its file. The rows of
//! docs/security.md that are about the agent itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::pinned::PinnedMap;
use segue_tests::program::Finished;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::{World, beside_test};

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";

const THREE: &str = "-all,+bpf,+net_admin,+perfmon";

/// One user of no importance, with no groups.
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

fn payment() -> Service {
    Service::tcp("shop/payment").at(PAYMENT).to_address(N1)
}

/// A field of `/proc/PID/task/TID/status`, for each thread, the first one first.
fn of_each_thread(pid: u32, field: &str) -> Vec<String> {
    let mut threads: Vec<(u32, String)> = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("the agent runs")
        .flatten()
        .filter_map(|thread| {
            let number = thread.file_name().to_string_lossy().parse().ok()?;
            // A thread may end between the listing and here.
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            Some((number, value.unwrap_or_default().trim().to_owned()))
        })
        .collect();
    threads.sort_by_key(|(number, _)| *number != pid);
    threads.into_iter().map(|(_, value)| value).collect()
}

fn capabilities(pid: u32, field: &str) -> Vec<u64> {
    let hex = |text: &String| u64::from_str_radix(text, 16).expect("capabilities in hexadecimal");
    of_each_thread(pid, field).iter().map(hex).collect()
}

/// What threads that read maps need for it on this kernel.
fn to_read_maps(world: &World) -> &'static [&'static str] {
    if PinnedMap::open(world, "SETTINGS").takes_no_capability() { &[] } else { &["CAP_BPF"] }
}

fn as_nobody(world: &World, program: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(NOBODY).arg("--").arg(program).args(arguments);
    world.start_outside(command).finish()
}

/// Asks the admin API as somebody else: the status code, and the body.
fn ask_as_nobody(world: &World, agent: &Agent<'_>, arguments: &[&str], path: &str) -> Finished {
    let socket = agent.socket().to_string_lossy().into_owned();
    let url = format!("http://segue{path}");
    let asked = ["-sS", "--max-time", "10", "-w", " %{http_code}", "--unix-socket", &socket, &url];
    as_nobody(world, "curl", &[&asked, arguments].concat())
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_running_agent_has_three_capabilities_on_one_thread_and_those_switched_off() {
    // CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN
    const TO_RESET: u64 = 1 << 12 | 1 << 19 | 1 << 21;
    let world = World::new();
    let agent = world.agent(&[payment()]);
    let pid = agent.pid();
    // Where that takes a capability, each thread that reads maps keeps it, and no other one.
    let reading = to_read_maps(&world);
    let to_read = if reading.is_empty() { 0 } else { 1 << 39 };
    let effective = capabilities(pid, "CapEff");
    assert!(effective.iter().all(|held| *held == to_read), "{effective:x?}");
    let permitted = capabilities(pid, "CapPrm");
    assert!(permitted.len() > 2, "{permitted:x?}");
    assert_eq!(permitted[0], TO_RESET | to_read, "{permitted:x?}");
    assert!(permitted[1..].iter().all(|held| *held == to_read), "{permitted:x?}");
    assert!(of_each_thread(pid, "NoNewPrivs").iter().all(|value| value == "1"));
    // 2 is a filter.
    assert!(of_each_thread(pid, "Seccomp").iter().all(|value| value == "2"));
    let status = agent.status();
    let kept = [reading, &["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]].concat();
    assert_eq!(status["confinement"]["capabilities"], serde_json::json!(kept));
    assert_eq!(status["confinement"]["filtered"], true);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_process_that_times_runs_has_the_capability_for_it_and_no_other() {
    const SYS_ADMIN: u64 = 1 << 21;
    let world = World::new();
    let agent = world.agent(&[payment()]);
    let pid = agent.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the agent runs");
    let child = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .find(|child| of_each_thread(*child, "Name") == ["segue-stopwatch"])
        .unwrap_or_else(|| panic!("no stopwatch among {children}"));
    assert_eq!(capabilities(child, "CapPrm"), [SYS_ADMIN]);
    assert_eq!(of_each_thread(child, "Seccomp"), ["2"]);
    let descriptors = fs::read_dir(format!("/proc/{child}/fd")).expect("the stopwatch runs").count();
    assert_eq!(descriptors, 1);
    drop(agent);
    eventually("the stopwatch to end with its agent", SOON, || {
        if Path::new(&format!("/proc/{child}")).exists() { Err(String::new()) } else { Ok(()) }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn three_capabilities_and_a_read_only_root_are_enough_for_everything_but_timing() {
    let world = World::new();
    let server = world.tcp("n1", N1);
    let directory = world.directory().to_string_lossy().into_owned();
    // Locked memory as the packaged unit has it (LimitMEMLOCK), if one may: kernels before 5.11 count maps and programs as such.
    let script = format!(
        "{{ ulimit -l unlimited || true; }} 2>/dev/null;
         mount --rbind {directory} {directory} && mount -o remount,bind,ro / && ! touch /segue-was-here 2>/dev/null &&
         exec setpriv --bounding-set={THREE} --inh-caps=-all -- \"$@\""
    );
    let starter = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let agent = world.agent_by(&starter, &[payment()]);
    let mut client = world.client();
    assert_eq!(client.greetings(PAYMENT, 3), ["n1"; 3]);
    // Repair: a link that is gone, and what others have attached.
    let version = agent.status()["abi"].as_u64().expect("a version");
    let link = world.bpffs().join(format!("segue/abi{version}/links/connect4"));
    world.run_outside("rm", &[&link.to_string_lossy()]);
    eventually("the link to be there again", SOON, || match client.connect_tcp(PAYMENT) {
        Ok(socket) => {
            client.close(socket);
            Ok(())
        }
        Err(errno) => Err(format!("{errno:?}; {}", agent.log())),
    });
    agent.replace(&config(&[payment(), Service::tcp("shop/more").at("198.18.0.11:80").to(&server)]));
    eventually("the new service", SOON, || {
        client.connect_tcp("198.18.0.11:80").map_err(|e| format!("{e:?}"))
    });
    assert!(agent.metrics().sum("segue_tcp_connections_opened_total", &[]) >= 3.0);
    assert_eq!(agent.metrics().sum("segue_scrape_errors_total", &[]), 0.0);
    assert_eq!(agent.metrics().sum("segue_kernel_feature", &[("feature", "run_times")]), 0.0);
    assert_eq!(agent.metrics().sum("segue_kernel_feature", &[("feature", "network_namespaces")]), 0.0);
    let kept = agent.status()["confinement"]["capabilities"].clone();
    assert_eq!(kept, serde_json::json!([to_read_maps(&world), &["CAP_NET_ADMIN"]].concat()));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_without_a_capability_says_which_and_what_it_is_for() {
    let world = World::new();
    let file = world.directory().join("segue.yaml");
    fs::write(&file, config(&[payment()])).expect("a configuration file can be written");
    for (held, expected) in [
        ("-all,+net_admin,+perfmon", "CAP_BPF is missing, which it takes to load programs and make maps"),
        ("-all,+bpf,+perfmon", "CAP_NET_ADMIN is missing, which it takes to load programs of the kinds"),
        (
            "-all,+bpf,+net_admin",
            "CAP_PERFMON is missing, which it takes to load programs that add to pointers",
        ),
    ] {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set={held}")).args(["--inh-caps=-all", "--"]);
        command.arg(beside_test("segue")).arg("run").arg("--config").arg(&file);
        command.arg("--cgroup").arg(world.managed_cgroup()).arg("--bpffs").arg(world.bpffs());
        command.arg("--socket").arg(world.directory().join("segue.sock"));
        let finished = world.start_outside(command).finish();
        assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains(expected), "{}", finished.stderr);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn nobody_else_can_open_a_pin() {
    let world = World::new();
    let agent = world.agent(&[payment()]);
    open_to_all(world.directory());
    let version = agent.status()["abi"].as_u64().expect("a version");
    let root = world.bpffs().join("segue").to_string_lossy().into_owned();
    let modes = world.run_outside("find", &[&root, "-printf", "%y%m\n"]);
    assert!(modes.lines().count() > 20, "{modes}");
    assert!(modes.lines().all(|mode| ["d700", "f600"].contains(&mode)), "{modes}");
    for arguments in [["-l", root.as_str()], ["-l", &format!("{root}/abi{version}/maps/SERVICES")]] {
        let finished = as_nobody(&world, "ls", &arguments);
        assert!(!finished.status.success() && finished.stderr.contains("Permission denied"), "{finished:?}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn only_root_is_answered_on_the_admin_socket() {
    let world = World::new();
    let agent = world.agent(&[payment()]);
    open_to_all(world.directory());
    let refused = ask_as_nobody(&world, &agent, &[], "/v1/status");
    assert!(!refused.status.success(), "{refused:?}");
    assert!(refused.stdout.ends_with(" 000"), "{refused:?}");
    // Where the file's mode does not keep somebody out, the agent looks who it is.
    fs::set_permissions(agent.socket(), fs::Permissions::from_mode(0o666)).expect("a socket of ours");
    let order = r#"{"service": "shop/payment", "order": "open"}"#;
    for (arguments, path) in [
        (&[][..], "/v1/status"),
        (&[], "/v1/flows/follow"),
        (&[], "/v1/overhead"),
        (&["-d", order], "/v1/breaker"),
        (&[], "/v1/rollouts"),
        (&["-d", r#"{"service": "shop/payment", "order": "promote"}"#], "/v1/rollout"),
        (&[], "/v1/nothing"),
    ] {
        let refused = ask_as_nobody(&world, &agent, arguments, path);
        assert!(refused.stdout.contains("only root"), "{path}: {refused:?}");
        assert!(refused.stdout.ends_with(" 403"), "{path}: {refused:?}");
    }
    let services = agent.services();
    assert!(services[0]["backends"][0]["breaker"]["order"].is_null(), "{services:#?}");
    agent.breaker(&["open", "shop/payment", N1]).expect_success();
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_tcp_listener_takes_no_orders() {
    let world = World::new();
    let agent = world.agent(&[payment()]);
    let order = r#"{"service": "shop/payment", "order": "open"}"#;
    for (method, path) in [
        ("POST", "/v1/breaker"),
        ("POST", "/v1/rollout"),
        ("GET", "/v1/status"),
        ("POST", "/metrics"),
        ("DELETE", "/readyz"),
    ] {
        let url = format!("http://127.0.0.1:9464{path}");
        let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-d", order, &url];
        let code = world.run_outside("curl", &arguments);
        assert!(["404", "405"].contains(&code.as_str()), "{method} {path}: {code}");
    }
    assert!(agent.services()[0]["backends"][0]["breaker"]["order"].is_null());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_hostile_configuration_changes_nothing_and_is_told() {
    let world = World::new();
    let _server = world.tcp("n1", N1);
    let agent = world.agent(&[payment()]);
    let mut client = world.client();
    let huge = format!("services: []\n#{}\n", "x".repeat(65 << 20));
    let aliases = "a: &a [x, x]\nb: &b [*a, *a]\nservices: [*b, *b]\n".to_owned();
    let deep = format!("services: {}", "[".repeat(100_000));
    let quoted = "services:\n  - name: \"shop/\\e[31m\\n\"\n    frontends: [\"198.18.0.12:80\"]\n".to_owned();
    for hostile in [huge, aliases, deep, quoted] {
        let before = agent.metrics().sum("segue_config_apply_failures_total", &[]);
        agent.replace(&hostile);
        eventually("the refusal", SOON, || {
            let now = agent.metrics().sum("segue_config_apply_failures_total", &[]);
            if now > before { Ok(()) } else { Err(format!("{now}; {}", agent.log())) }
        });
        assert_eq!(client.greetings(PAYMENT, 2), ["n1"; 2]);
        let error = agent.status()["config"]["error"].as_str().expect("a reason").to_owned();
        assert!(error.len() < 20_000 && !error.contains('\u{1b}'), "{} bytes: {error:.200}", error.len());
    }
    agent.replace(&config(&[payment()]));
    eventually_equal("no complaint", SOON, &true, || agent.status()["config"]["error"].is_null());
    assert!(!agent.log().contains('\u{1b}'));
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_the_programs_cost_is_timed_while_somebody_asks_and_counted_for_prometheus() {
    let world = World::new();
    let _server = world.tcp("n1", N1);
    let agent = world.agent(&[payment()]);
    let always = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").expect("a sysctl");
    let mut client = world.client();
    client.start_load(PAYMENT, 1_000_000, Duration::ZERO);
    client.await_load(1);
    let overhead = agent.overhead();
    client.stop_load();
    assert!(overhead["reason"].is_null(), "{overhead:#}");
    assert!(
        overhead["window_ns"].as_u64().is_some_and(|window_ns| window_ns >= 1_000_000_000),
        "{overhead:#}"
    );
    let programs = overhead["programs"].as_array().expect("a list of programs");
    let connect =
        programs.iter().find(|program| program["hook"] == "connect4").expect("a program for connect()");
    let number = |field: &str| connect[field].as_u64().expect("a number");
    // A run takes some time, and less than a millisecond.
    let (runs, run_time_ns) = (number("runs"), number("run_time_ns"));
    assert!(runs > 0 && (runs..runs * 1_000_000).contains(&run_time_ns), "{overhead:#}");
    let metrics = agent.metrics();
    let labels = [("program", "segue_connect4")];
    assert!(metrics.sum("segue_bpf_program_runs_total", &labels) >= 1.0, "{}", metrics.text);
    assert!(metrics.sum("segue_bpf_program_run_seconds_total", &labels) > 0.0);
    assert!(metrics.sum("segue_bpf_program_timed_seconds_total", &[]) >= 1.0);
    let now = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").expect("a sysctl");
    assert_eq!(now, always, "the host's own switch is left alone");
}

/// So that what keeps somebody out is what the agent made, and not the directory of the test.
fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("a directory of ours");
}
