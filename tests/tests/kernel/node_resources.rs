//! What the node runs out of, and a clock that jumps: memory, room on disks, a reader of the event ring, time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use segue_tests::agent::{Agent, SOON};
use segue_tests::client::{Client, tally};
use segue_tests::counters::service_state;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal, let_pass};
use segue_tests::world::{World, beside_test};

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";
const DEAD: &str = "127.0.0.1:8089";

fn payment(server: &Server) -> Service {
    let breaker = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 30m, open_max: 30m, negative_affinity: 0s }";
    Service::tcp("shop/payment")
        .at(PAYMENT)
        .policy("algorithm: round_robin")
        .policy(breaker)
        .to(server)
        .to_address(DEAD)
}

/// Opens the dead backend's breaker: one connection of all fails.
fn learn(world: &World, client: &mut Client) {
    let failed = client.attempts(PAYMENT, 10).iter().filter(|attempt| attempt.is_err()).count();
    assert_eq!((failed, service_state(world, PAYMENT).opened), (1, 1));
}

fn goes_on(client: &mut Client) {
    assert_eq!(tally(&client.greetings(PAYMENT, 10)), [("n1", 10)].into());
}

/// A cgroup of the memory controller, in whichever version it is mounted. Removed on drop.
struct MemoryCgroup {
    path: PathBuf,
    limit: &'static str,
}

impl MemoryCgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let of = |kind: &str, controller: &str| {
            let mut lines = mounts.lines().filter_map(|line| line.split_once(" - "));
            let found = lines.find(|(_, what)| what.starts_with(kind) && what.contains(controller));
            found.and_then(|(mount, _)| mount.split(' ').nth(4)).map(PathBuf::from)
        };
        let (root, limit) = match of("cgroup ", "memory") {
            Some(root) => (root, "memory.limit_in_bytes"),
            None => {
                let root = of("cgroup2 ", "").expect("cgroup v2 is mounted");
                fs::write(root.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
                (root, "memory.max")
            }
        };
        let path = root.join(format!("segue-test-memory-{}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self { path, limit }
    }

    fn hold(&self, pid: u32, bytes: u64) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("a cgroup of ours");
        fs::write(self.path.join(self.limit), bytes.to_string()).expect("a limit");
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // A process that was killed leaves a moment later.
        eventually("the memory cgroup to be empty", SOON, || fs::remove_dir(&self.path));
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_that_is_killed_for_want_of_memory_costs_nothing_and_the_next_takes_over() {
    let world = World::new();
    let server = world.tcp("n1", N1);
    let mut agent = world.agent(&[payment(&server)]);
    let mut client = world.client();
    learn(&world, &mut client);
    let memory = MemoryCgroup::new();
    memory.hold(agent.process().pid(), 2 << 20);
    // More than two megabytes to remember.
    let many = (0..4_000).map(|number| {
        let at = format!("198.18.{}.{}:80", 10 + number / 200, number % 200 + 1);
        Service::tcp(&format!("many/{number}")).at(&at).to(&server)
    });
    agent.edit(&config(&std::iter::once(payment(&server)).chain(many).collect::<Vec<_>>()));
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(agent.await_end().signal(), Some(libc::SIGKILL), "the kernel kills it");
    goes_on(&mut client);
    drop(memory);
    agent.restart();
    goes_on(&mut client);
    assert_eq!(service_state(&world, PAYMENT).opened, 1, "the breaker stays open");
    assert_eq!(client.attempts("198.18.29.200:80", 1).iter().filter(|attempt| attempt.is_ok()).count(), 1);
}

/// A file system of so many kilobytes that only the world sees.
fn small_disk(world: &World, at: &Path, kilobytes: u32) {
    fs::create_dir_all(at).expect("a directory");
    world.run_outside(
        "mount",
        &["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "none", &at.to_string_lossy()],
    );
}

fn shell(world: &World, script: &str) -> String {
    world.run_outside("sh", &["-c", script])
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn full_disks_cost_the_log_and_what_canaries_remember_and_nothing_else() {
    let world = World::new();
    let server = world.tcp("n1", N1);
    let canary = |steps: &str| {
        let service = Service::tcp("shop/canary").at("198.18.0.12:80").policy("split: { v1: 9, v2: 1 }");
        let service = service.policy(&format!("canary: {{ version: v2, steps: [{steps}] }}"));
        service.to_with(&server, "version: v1").to_address_with("127.0.0.1:8082", "version: v2")
    };
    let _v2 = world.tcp("v2", "127.0.0.1:8082");
    let mut agent = world.agent(&[payment(&server)]);
    agent.terminate();
    let (state, logs) = (agent.state_directory(), world.directory().join("logs"));
    small_disk(&world, &state, 16);
    small_disk(&world, &logs, 16);
    let fill = |directory: &Path| {
        shell(&world, &format!("cat /dev/zero > {}/waste 2>/dev/null || true", directory.display()));
    };
    fill(&logs);
    agent.restart_logging_to(&logs.join("segue.log"));
    fill(&state);
    let mut client = world.client();
    learn(&world, &mut client);
    let problem =
        |agent: &Agent<'_>| agent.status()["rollouts_error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(problem(&agent), "");
    agent.edit(&config(&[payment(&server), canary("20%")]));
    eventually("the agent to say what is full", SOON, || match problem(&agent) {
        text if text.contains("rollouts.json") && text.contains("is the disk full?") => Ok(()),
        text => Err(text),
    });
    goes_on(&mut client);
    assert_eq!(client.attempts("198.18.0.12:80", 10).iter().filter(|attempt| attempt.is_ok()).count(), 10);
    // Once there is room, what is to be kept is kept, and the log goes on.
    shell(&world, &format!("rm {0}/waste {1}/waste", state.display(), logs.display()));
    agent.edit(&config(&[payment(&server), canary("30%")]));
    eventually_equal("what is wrong", SOON, &String::new(), || problem(&agent));
    assert!(shell(&world, &format!("cat {}/rollouts.json", state.display())).contains("shop/canary"));
    assert!(shell(&world, &format!("cat {}/segue.log", logs.display())).contains("configuration applied"));
    agent.terminate();
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_reader_of_events_that_pauses_loses_them_and_no_count() {
    const CONNECTIONS: u32 = 6_000;
    let world = World::new();
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: random").to_address(DEAD);
    let agent = world.agent(&[service]);
    let mut client = world.client();
    // Single connections are told of while somebody follows, and for some seconds after the agent last said so.
    let mut follow = Command::new(beside_test("segue"));
    follow.args(["flows", "-f", "--socket"]).arg(agent.socket());
    let _follower = world.start_outside(follow);
    let following = || agent.status()["data_plane"]["following"] == true;
    let lost = || agent.metrics().sum("segue_events_lost_total", &[("source", "ring")]);
    let mut made = 0;
    let before = eventually("events to be lost", SOON * 4, || {
        eventually_equal("somebody to follow", SOON, &true, following);
        agent.process().signal(libc::SIGSTOP);
        // The ring holds some four thousand.
        assert!(client.attempts(PAYMENT, CONNECTIONS).iter().all(Result::is_err));
        agent.process().signal(libc::SIGCONT);
        made += CONNECTIONS;
        // Where the machine is too busy to fill the ring in these seconds, again.
        match lost() {
            0.0 => Err("none was"),
            lost => Ok(lost),
        }
    });
    let failures = || agent.metrics().sum("segue_tcp_connect_failures_total", &[("dst_service", "payment")]);
    eventually_equal("failures counted", SOON, &f64::from(made), failures);
    // Afterwards nothing is lost any more.
    client.attempts(PAYMENT, 100);
    eventually_equal("failures counted", SOON, &f64::from(made + 100), failures);
    assert_eq!(lost().to_bits(), before.to_bits());
}

/// What makes the agent see another wall clock: a library in front of libc's, with the offset in a file.
fn false_clock(world: &World, file: &Path) -> Vec<String> {
    let library = world.run_outside("faketime", &["-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]);
    let library = library.split([':', ' ', '\n']).find(|path| path.contains("faketime")).expect("a library");
    ["env", &format!("LD_PRELOAD={library}"), &format!("FAKETIME_TIMESTAMP_FILE={}", file.display())]
        .into_iter()
        .chain(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"])
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_wall_clock_that_jumps_a_day_forth_and_back_changes_only_what_is_shown() {
    let world = World::new();
    let server = world.tcp("n1", N1);
    let clock = world.directory().join("clock");
    let set = |offset: &str| {
        let next = clock.with_extension("next");
        fs::write(&next, format!("{offset}\n")).expect("a file of ours");
        fs::rename(&next, &clock).expect("a rename within one directory");
    };
    set("+0");
    let starter = false_clock(&world, &clock);
    let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
    let agent = world.agent_by(&starter, &[payment(&server)]);
    let mut client = world.client();
    learn(&world, &mut client);
    agent.breaker(&["open", "shop/payment", N1, "--for", "2s"]).expect_success();
    assert!(client.attempts(PAYMENT, 4).iter().any(Result::is_err), "n1 is ordered out");
    for (index, (offset, days)) in [("+1d", 1), ("-1d", -1), ("+0", 0)].into_iter().enumerate() {
        set(offset);
        let cart = Service::tcp("shop/cart").at(&format!("198.18.0.2{index}:80")).to(&server);
        agent.edit(&config(&[payment(&server), cart]));
        let reached = || client.attempts(&format!("198.18.0.2{index}:80"), 1).iter().all(Result::is_ok);
        eventually_equal("the new service", SOON, &true, reached);
        let applied: Timestamp =
            agent.status()["config"]["applied_at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
        let ahead = applied.duration_since(Timestamp::now());
        let expected = SignedDuration::from_hours(24 * days);
        assert!((ahead - expected).abs() < SignedDuration::from_hours(1), "{offset}: {ahead} ahead");
        // The order ended after its two seconds and not with the jump; the breaker did not end.
        eventually_equal("connections that fail", SOON, &0, || {
            client.attempts(PAYMENT, 4).iter().filter(|attempt| attempt.is_err()).count()
        });
        let state = service_state(&world, PAYMENT);
        assert_eq!((state.opened, state.half_opened), (1, 0), "{offset}");
        // A check and a few ticks under the new clock.
        let_pass(Duration::from_secs(2));
        assert_eq!(agent.status()["readiness"]["ready"], true);
        assert_eq!(agent.status()["canary"]["state"], "ok", "{offset}");
    }
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("segue_repairs_total", &[]).to_bits(), 0.0_f64.to_bits());
}
