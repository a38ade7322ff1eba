//! How much is observed: what a policy leaves unread, and what a budget does when observing costs more.

use std::fs;
use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::nginx::{Nginx, PAGES};
use segue_tests::program::Program;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, let_pass};
use segue_tests::world::World;

const CLIENT: &str = "http_client_request_duration_seconds_count";
const SERVER: &str = "http_server_request_duration_seconds_count";

/// Asks once for each line it is told, on one connection, and says what it got.
const ASKER: &str = "
import http.client, os, sys, time
connection = http.client.HTTPConnection('198.18.0.10', 80, timeout=60)
for turn in range(int(sys.argv[1])):
    while not os.path.exists(sys.argv[2] + str(turn)): time.sleep(0.02)
    for n in range(10):
        connection.request('GET', '/')
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    open(sys.argv[2] + 'done' + str(turn), 'w').close()
";

fn web() -> Service {
    Service::tcp("shop/web").at("198.18.0.10:80").to_address("127.0.0.1:8081")
}

/// nginx in the managed cgroup, on 127.0.0.1:8081.
fn nginx(world: &World) -> Program {
    Nginx::new(world).serve(&["127.0.0.1:8081"], PAGES).start()
}

/// A client that asks ten times in each of its turns, always on the same connection.
struct Asker<'w> {
    world: &'w World,
    program: Program,
    turn: u32,
}

impl<'w> Asker<'w> {
    fn start(world: &'w World, turns: u32) -> Self {
        let prefix = world.directory().join("turn").display().to_string();
        let program = world.start("python3", &["-c", ASKER, &turns.to_string(), &prefix]);
        Self { world, program, turn: 0 }
    }

    /// Has it ask ten times, and waits until it was answered.
    fn ask(&mut self) {
        let file = |name: &str| self.world.directory().join(format!("turn{name}{}", self.turn));
        fs::write(file(""), "").expect("a file");
        eventually("ten answers", SOON, || match file("done").exists() {
            true => Ok(()),
            false => Err(self.program.output()),
        });
        self.turn += 1;
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn count(agent: &Agent<'_>, metric: &str) -> u64 {
    agent.metrics().matching(metric, &[]).map(|sample| sample.value as u64).sum()
}

fn await_count(agent: &Agent<'_>, metric: &str, expected: u64) {
    eventually(&format!("{metric} to be {expected}"), SOON, || match count(agent, metric) {
        seen if seen == expected => Ok(()),
        seen => {
            // To be asked costs the agent something, which here matters.
            let_pass(Duration::from_millis(250));
            Err(seen)
        }
    });
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn requests_of_a_service_whose_policy_says_so_are_not_read_from_its_next_request_on() {
    let world = World::new();
    let agent = world.agent(&[web()]);
    let _nginx = nginx(&world);
    let mut asker = Asker::start(&world, 3);
    asker.ask();
    await_count(&agent, CLIENT, 10);

    let generation = |agent: &Agent<'_>| agent.status()["config"]["generation"].as_u64();
    let replace = |service: Service| {
        let before = generation(&agent);
        agent.replace(&config(&[service]));
        eventually("the edit to be in force", SOON, || {
            if generation(&agent) > before { Ok(()) } else { Err("not yet") }
        });
    };
    replace(web().policy("requests: off"));
    asker.ask();
    // The server's side is nobody's service: it is read all the same, and shows when all is counted.
    await_count(&agent, SERVER, 20);
    assert_eq!(count(&agent, CLIENT), 10, "the open connection is not read any more");
    world.run("curl", &["-sf", "http://198.18.0.10/"]).expect_success();
    await_count(&agent, SERVER, 21);
    assert_eq!(count(&agent, CLIENT), 10, "nor is a new one");

    replace(web());
    world.run("curl", &["-sf", "http://198.18.0.10/"]).expect_success();
    await_count(&agent, CLIENT, 11);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_load_over_the_budget_is_observed_less_and_again_in_full_when_it_is_over() {
    let world = World::new();
    let mut agent = world.agent(&[web()]);
    // An idle agent takes a fifth of this, also one that was not optimised.
    agent.restart_with(&["--overhead-budget", "1%", "--overhead-interval", "400ms"]);
    let _nginx = nginx(&world);
    let mut asker = Asker::start(&world, 3);
    asker.ask();
    await_count(&agent, CLIENT, 10);

    let load = world.start("wrk", &["-t2", "-c32", "-d120s", "http://198.18.0.10/"]);
    // Asking it would be a load of its own.
    eventually("less to be observed", Duration::from_secs(60), || {
        let log = agent.log();
        if log.contains("to=\"no_requests\"") { Ok(()) } else { Err(log) }
    });
    let is_read = |status: &serde_json::Value| {
        let programs = status["programs"].as_array().expect("programs");
        programs.iter().any(|program| program["hook"] == "ingress")
    };
    // It tries now and then whether it can be afforded again, so that a look may come too late.
    eventually("no program to look at packets, and everybody to be told", SOON, || {
        let (status, seen) = (agent.status(), agent.metrics());
        let full = seen.matching("segue_observation_detail", &[("detail", "full")]);
        let told = full.map(|sample| sample.value).sum::<f64>() == 0.0
            && status["budget"]["missing"].as_str().is_some_and(|missing| missing.contains("requests"));
        if told && !is_read(&status) { Ok(()) } else { Err(status) }
    });
    // What passes now is not seen, or not all of it, also on a connection that was followed before.
    asker.ask();

    load.signal(libc::SIGTERM);
    eventually("all of it to be observed", Duration::from_secs(60), || {
        let log = agent.log();
        let last = log.lines().rfind(|line| line.contains("of the processors"));
        if last.is_some_and(|line| line.contains("to=\"full\"")) { Ok(()) } else { Err(log) }
    });
    eventually("the programs to be back", SOON, || {
        let status = agent.status();
        if is_read(&status) { Ok(()) } else { Err(status) }
    });
    let before = count(&agent, CLIENT);
    asker.ask();
    await_count(&agent, CLIENT, before + 10);
}
